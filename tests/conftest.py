"""Property tests find the same examples everywhere, however slow the machine is just then."""

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from async_inference.local_aws.clients import isolated

pytest.register_assert_rewrite("tests.support")

# The person who runs the tests has an AWS environment, which no test may reach.
alone = isolated({})
os.environ.clear()
os.environ.update(alone)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore Ctrl-C, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


def pytest_collection_finish() -> None:
    """Collect seldom, and never what is imported: it took half the time of a program's test."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
