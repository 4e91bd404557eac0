"""One deployed stack for a module's tests: the real CLI on an embedded AWS."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from async_inference.cli import app
from async_inference.local_aws.server import Options
from tests.support.embedded_aws import processes, start
from tests.support.engine import Program, RecordingAws, cli, providers, virtualenv

__all__ = ["cli", "processes", "providers", "start", "virtualenv"]  # fixtures


@pytest.fixture(scope="module")
def deployed(cli, processes, providers, virtualenv, tmp_path_factory) -> Iterator[Program]:
    """The program, deployed; a test that changes what runs puts it back."""
    folder = tmp_path_factory.mktemp("deployed")
    aws = RecordingAws(Options(folder=folder / "aws", minute_s=1.0), processes, providers)
    aws.start()
    program = Program(folder, aws, virtualenv)
    program.up()
    yield program
    aws.stop()


@pytest.fixture
def verified(deployed, monkeypatch) -> Callable[..., dict[str, object]]:
    """Run `async-inference verify --json` on the deployed stack: what it prints, and exit code."""
    monkeypatch.chdir(deployed.folder)
    for name, value in deployed.environment.items():
        monkeypatch.setenv(name, value)

    def run(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["verify", "--stack", "local", "--json", *options])
        assert done.exit_code in (0, 1), done.output
        return json.loads(done.stdout) | {"exit_code": done.exit_code, "said": done.stderr}

    return run
