"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import Any

import pytest


def eventually(condition: Callable[[], object], what: str, within_s: float = 30.0) -> Any:
    """What `condition` returns once it is true; fails, naming `what`, if that takes too long."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"{what}: not within {within_s:g} s")
