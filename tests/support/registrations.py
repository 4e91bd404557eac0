"""Pulumi under mocks: what a program registers, as plain records to assert on afterwards."""

import asyncio
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from pulumi.runtime.config import set_all_config

from async_inference.stack.images import Image
from components import model_source
from components.packages import requirements
from components.provider_account import ProviderAccount

ACCOUNT_ID = "123456789012"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference"


class Reached(ProviderAccount):
    """An account in which one object is every service."""

    def __init__(self, aws: object) -> None:
        self.aws = aws

    async def client(self, service: str) -> Any:
        return self.aws


@dataclass(frozen=True)
class Registration:
    """One RegisterResource request, as the engine would get it."""

    type: str
    name: str
    inputs: dict[str, Any]
    parent: str
    depends_on: frozenset[str]
    input_dependencies: dict[str, frozenset[str]]
    delete_before_replace: bool
    retain_on_delete: bool
    replacement_trigger: str
    before_create: tuple[str, ...]
    before_delete: tuple[str, ...]
    before_update: tuple[str, ...]


@dataclass
class Record:
    """All that a build registered, by (type, name)."""

    registrations: list[Registration] = field(default_factory=list)
    outputs: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str]) -> Registration:
        (found,) = [entry for entry in self.registrations if (entry.type, entry.name) == key]
        return found

    @property
    def keys(self) -> set[tuple[str, str]]:
        return {(entry.type, entry.name) for entry in self.registrations}


def _name(urn: str) -> str:
    return urn.rsplit("::", 1)[-1]


def _key(urn: str) -> tuple[str, str]:
    types, name = urn.split("::")[-2:]
    return types.rsplit("$", 1)[-1], name


class Answers(mocks.Mocks):
    """Outputs that AWS would give, as far as the program reads them."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        state = dict(args.inputs)
        physical = state.get("name", f"{args.name}-1a2b3c4")
        state.setdefault("name", physical)
        service, _, kind = args.typ.removeprefix("aws:").partition("/")
        here = f"us-east-1:{ACCOUNT_ID}"
        match kind.split(":")[0]:
            case "bucket":
                state["bucket"] = physical
                state["arn"] = f"arn:aws:s3:::{physical}"
            case "topic":
                state["arn"] = f"arn:aws:sns:{here}:{physical}"
            case "role":
                state["arn"] = f"arn:aws:iam::{ACCOUNT_ID}:role/{physical}"
            case other if "arn" not in args.inputs:
                state["arn"] = f"arn:aws:{service}:{here}:{other}/{physical}"
        return physical, state

    def call(self, args: mocks.MockCallArgs) -> Any:
        return {
            "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": ACCOUNT_ID},
            "aws:index/getPartition:getPartition": {"partition": "aws"},
            "aws:index/getRegion:getRegion": {"region": "us-east-1"},
            "aws:sagemaker/getPrebuiltEcrImage:getPrebuiltEcrImage": {
                "registryPath": f"{IMAGE}:{args.args.get('imageTag', '1')}"
            },
        }[args.token]


class RecordingMonitor(mocks.MockMonitor):
    """Keeps the options too, which `MockResourceArgs` leaves out."""

    def __init__(self, record: Record) -> None:
        super().__init__(Answers())
        self._record = record

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 the gRPC method's name
        response = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            self._record.registrations.append(
                Registration(
                    type=request.type,
                    name=request.name,
                    inputs=mocks.rpc.deserialize_properties(request.object),
                    parent=_name(request.parent),
                    depends_on=frozenset(_name(urn) for urn in request.dependencies),
                    input_dependencies={
                        key: frozenset(_name(urn) for urn in value.urns)
                        for key, value in request.propertyDependencies.items()
                    },
                    delete_before_replace=request.deleteBeforeReplace,
                    retain_on_delete=request.retainOnDelete,
                    replacement_trigger=request.replacement_trigger.string_value,
                    before_create=tuple(request.hooks.before_create),
                    before_delete=tuple(request.hooks.before_delete),
                    before_update=tuple(request.hooks.before_update),
                )
            )
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        self._record.outputs[_key(request.urn)] = mocks.rpc.deserialize_properties(request.outputs)
        return super().RegisterResourceOutputs(request)


def _packed(handler: Path, image: Image, build_folder: Path) -> Path | None:
    """What the packages' archive is called, without a download."""
    return build_folder / f"{image.python}.tar.gz" if requirements(handler, image) else None


@pytest.fixture
def register(monkeypatch) -> Iterator[Callable[[Callable[[], Any]], Record]]:
    """Run a function that registers resources; returns once every registration has drained.

    Pending tasks leak between tests that share an event loop, so each test has its own.
    """
    monkeypatch.setattr(model_source, "packed", _packed)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def run(
        build: Callable[[], object],
        *,
        config: dict[str, str] | None = None,
        stack: str = "test",
    ) -> Record:
        record = Record()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            mocks.set_mocks(
                Answers(),
                project="async-inference",
                stack=stack,
                preview=False,
                monitor=RecordingMonitor(record),
            )
        set_all_config(config or {})
        pulumi.runtime.test(lambda: build() and None)()
        return record

    yield run
    set_all_config({})
    loop.close()
