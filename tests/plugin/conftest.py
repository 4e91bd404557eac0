"""The plugin as the engine runs it: its own process, spoken to over gRPC."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty  # ty: ignore[missing-module-member]
from pulumi.runtime import mocks
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

from tests.support import ROOT
from tests.support.registrations import Answers, Record, RecordingMonitor, register

__all__ = ["register"]  # a fixture
PROJECT, STACK = "images", "test"
FEATURES = {
    "secrets",
    "resourceReferences",
    "outputValues",
    "resourceHooks",
    "errorHooks",
    "deletedWith",
}
"""What the program needs of an engine."""


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    """The engine's side of a construction, which records what is registered."""

    def __init__(self, record: Record) -> None:
        recording = RecordingMonitor(record)
        for name in (
            "Invoke",
            "RegisterResource",
            "RegisterResourceOutputs",
        ):
            method: Callable[[object], object] = getattr(recording, name)
            setattr(self, name, lambda request, context, method=method: method(request))

    def SupportsFeature(self, request: Any, context: object) -> Any:  # noqa: N802 the gRPC name
        return resource_pb2.SupportsFeatureResponse(hasSupport=request.id in FEATURES)

    def RegisterResourceHook(self, request: object, context: object) -> Empty:  # noqa: N802
        return Empty()

    def RegisterErrorHook(self, request: object, context: object) -> Empty:  # noqa: N802
        return Empty()


class Engine(engine_pb2_grpc.EngineServicer):
    """The engine's side of logging."""

    def Log(self, request: object, context: object) -> Empty:  # noqa: N802
        return Empty()

    def GetRootResource(self, request: object, context: object) -> Any:  # noqa: N802
        return engine_pb2.GetRootResourceResponse()


@pytest.fixture(scope="module")
def everything() -> Record:
    """What the plugin registered, of all tests."""
    return Record()


@pytest.fixture
def record(everything) -> Record:
    """What the plugin registers."""
    everything.registrations.clear()
    return everything


@pytest.fixture(scope="module")
def engine(everything) -> Iterator[str]:
    """Where the engine and its resource monitor listen."""
    # Whatever used asyncio before in this process may have left it without a loop.
    asyncio.set_event_loop(asyncio.new_event_loop())
    mocks.set_mocks(Answers(), project=PROJECT, stack=STACK, preview=False)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(Monitor(everything), server)
    engine_pb2_grpc.add_EngineServicer_to_server(Engine(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def plugin(engine, tmp_path_factory) -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    """The running plugin."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ROOT / "plugin"), engine],
        cwd=tmp_path_factory.mktemp("plugin"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield provider_pb2_grpc.ResourceProviderStub(channel)
        process.terminate()


@pytest.fixture
def construct(plugin, engine) -> Callable[..., dict[str, object]]:
    """Ask the plugin for a component; returns its outputs."""

    def run(kind: str, name: str, inputs: dict[str, object]) -> dict[str, Any]:
        request = provider_pb2.ConstructRequest(
            project=PROJECT,
            stack=STACK,
            monitorEndpoint=engine,
            type=f"async-inference:index:{kind}",
            name=name,
            parallel=8,
        )
        request.inputs.update(inputs)
        answer = plugin.Construct(request, timeout=120)
        return mocks.rpc.deserialize_properties(answer.state)

    return run
