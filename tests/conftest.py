"""Property tests find the same examples everywhere, however slow the machine is just then."""

import gc

from hypothesis import HealthCheck, settings

settings.register_profile(
    "project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


def pytest_collection_finish() -> None:
    """Collect seldom, and never what is imported: it took half the time of a program's test."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
