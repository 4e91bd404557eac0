"""The real Pulumi CLI deploying this program onto an embedded AWS."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.embedded_aws import processes
from tests.support.engine import Program, aws, cli, copied, program, providers, virtualenv

__all__ = ["aws", "cli", "processes", "program", "providers", "virtualenv"]  # fixtures


@pytest.fixture
def another(program, virtualenv) -> Callable[[str], Program]:
    """Another stack of the same program."""
    return lambda stack: Program(program.folder, program.aws, virtualenv, stack)


@pytest.fixture
def checkout(cli, tmp_path) -> Path:
    """A copy of this tree in a plain folder."""
    return copied(tmp_path / "checkout")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
