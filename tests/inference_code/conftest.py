"""The handler as the container has it: its folder on the path, its modules by their bare names."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "inference_code"
MODULES = ("inference", "request", "answer", "errors", "pipeline", "tiny")


@pytest.fixture(autouse=True)
def in_the_container(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)
