"""Tools in a separate virtual environment, and stacks as CloudFormation for them to read."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.program import GUARDED, config_of, run
from tests.support.registrations import Record, register

__all__ = ["register"]


@pytest.fixture(scope="session")
def tools() -> Path:
    """Where the tools are, installed where they are missing."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "install.py"), "audit"], check=True)
    return ROOT / ".local" / "audit" / "bin"


@pytest.fixture
def registered(register: Callable[..., Record], monkeypatch: Any) -> Callable[[str], Record]:
    """What a stack registers."""
    monkeypatch.chdir(ROOT)

    def build(stack: str) -> Record:
        if stack != "guarded":
            return register(run, config=config_of(stack), stack=stack)
        changed = {
            f"async-inference:{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in GUARDED.items()
        }
        return register(run, config=config_of("prod") | changed, stack=stack)

    return build
