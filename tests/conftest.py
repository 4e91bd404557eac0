"""Property tests find the same examples everywhere, however slow the machine is just then."""

import gc
import os
import re
import signal
from pathlib import Path

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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only files that may have a test of the tier: the imports took 8 s in each process.

    A test's tier is written in its file, as `pytest.mark.<tier>`.
    """
    if not collection_path.name.startswith("test_"):
        return None
    asked = config.getoption("markexpr")
    tiers = [line.partition(":")[0] for line in config.getini("markers")]
    text = collection_path.read_text(encoding="utf-8")
    if asked in tiers:
        return f"pytest.mark.{asked}" not in text or None
    of_all_its_tests = re.search(r"^pytestmark = \[?\s*pytest\.mark\.(\w+)", text, re.MULTILINE)
    if asked.startswith("not (") and of_all_its_tests:
        return of_all_its_tests[1] in asked or None
    return None
