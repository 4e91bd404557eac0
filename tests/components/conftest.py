"""Pulumi under mocks, and a component to build."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.async_endpoint import AsyncEndpoint, AsyncEndpointArgs
from tests.support.accounts import accounts
from tests.support.registrations import Record, register

__all__ = ["accounts", "register"]  # fixtures


@pytest.fixture(scope="module")
def once() -> Callable[[Callable[[], Record]], Record]:
    """What the first test of a module built, for all of them: a record is a value."""
    built: list[Record] = []

    def build(first: Callable[[], Record]) -> Record:
        if not built:
            built.append(first())
        return built[0]

    return build


@pytest.fixture
def handler(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "handler"
    folder.mkdir()
    (folder / "inference.py").write_text("def model_fn(folder): ...\n")
    return folder


@pytest.fixture
def endpoint(handler):
    def build(name: str = "demo", **changes) -> AsyncEndpoint:
        args: dict[str, Any] = {
            "endpoint_name": f"async-{name}",
            "region": "us-east-1",
            "instance_type": "ml.g4dn.2xlarge",
            "handler": handler,
            "weights": "tiny",
            "image_tag": "2.6.0-gpu",
        }
        return AsyncEndpoint(name, AsyncEndpointArgs(**{**args, **changes}))

    return build
