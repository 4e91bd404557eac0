"""The Pulumi provider of stack local: package `aws` on the embedded AWS.

The engine treats it like the published provider; how it is started, template.py tells.
"""

import argparse
import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pulumi
from botocore.client import BaseClient
from botocore.model import OperationModel
from google.protobuf.message import Message
from pulumi.provider.experimental import provider as protocol
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime import rpc
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from async_inference.local_aws.clients import ACCOUNT_ID, session
from async_inference.local_aws.provider.resources import KINDS
from async_inference.local_aws.provider.resources.kind import Autoname, Kind, Properties
from async_inference.local_aws.services.constraints import check_request

VERSION = "7.51.1"
"""The pulumi-aws that the program is written against."""

DEEP_LEARNING_REGISTRY = "763104351884"
"""The account of AWS's deep-learning images in the regions below (AWS deep-learning containers,
available images); the published provider knows the other regions too."""
# fmt: off
DEEP_LEARNING_REGIONS = frozenset({
    "us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "sa-east-1",
    "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3",
    "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1",
    "ap-southeast-1", "ap-southeast-2",
})
# fmt: on
UNKNOWN = PropertyValue(rpc.UNKNOWN)
"""The SDK's marker for a value that is unknown until AWS computes it."""


def plain(value: PropertyValue) -> Any:
    """A property as plain Python."""
    inner = value.value
    if isinstance(inner, Mapping):
        return {key: plain(item) for key, item in inner.items()}
    if isinstance(inner, list | tuple):
        return [plain(item) for item in inner]
    return inner


def wrapped(value: Any) -> PropertyValue:
    """Plain Python as a property."""
    if isinstance(value, dict):
        return PropertyValue({key: wrapped(item) for key, item in value.items()})
    if isinstance(value, list):
        return PropertyValue([wrapped(item) for item in value])
    if isinstance(value, int) and not isinstance(value, bool):
        return PropertyValue(float(value))
    return PropertyValue(value)


def plain_map(values: Mapping[str, PropertyValue]) -> Properties:
    return {key: plain(value) for key, value in values.items()}


def wrapped_map(values: Properties) -> dict[str, PropertyValue]:
    return {key: wrapped(value) for key, value in values.items()}


def same(old: object, new: object) -> bool:
    """Whether two values mean the same to AWS: absent or empty, and JSON in any layout."""
    if old in (None, {}, []) and new in (None, {}, []):
        return True
    if isinstance(old, str) and isinstance(new, str) and old[:1] == "{" == new[:1]:
        try:
            return json.loads(old) == json.loads(new)
        except ValueError:
            return old == new
    if isinstance(old, dict) and isinstance(new, dict):
        return all(same(old.get(key), new.get(key)) for key in old.keys() | new.keys())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    return old == new


class LocalAwsProvider(protocol.Provider):
    """Creates, reads, updates and deletes the kinds of `resources/`."""

    def __init__(self) -> None:
        self._region = "us-east-1"
        self._clients: dict[str, BaseClient] = {}

    def _client(self, service: str) -> Any:
        """The client of a kind's service, of the type that the kind asks for."""
        if service not in self._clients:
            made = session(self._region).client(  # ty: ignore[no-matching-overload] of any kind
                service, endpoint_url=os.environ["AWS_ENDPOINT_URL"]
            )
            # moto accepts what AWS would refuse; the services' own models do not.
            made.meta.events.register("provide-client-params", _check)
            self._clients[service] = made
        return self._clients[service]

    def _kind(self, nested: str) -> Kind:
        token = _token(nested)
        if token not in KINDS:
            raise RuntimeError(
                f"the local stack has no {token}; it knows what this project registers, "
                "see async_inference/local_aws/provider/resources/"
            )
        return KINDS[token]

    async def check_config(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        return protocol.CheckResponse(inputs=request.new_inputs)

    async def diff_config(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        return protocol.DiffResponse(changes=False)

    async def configure(self, request: protocol.ConfigureRequest) -> protocol.ConfigureResponse:
        # The engine, not the number of cores, decides how many calls to AWS run at a time.
        threads = ThreadPoolExecutor(max_workers=64)
        asyncio.get_running_loop().set_default_executor(threads)
        region = plain(request.args["region"]) if "region" in request.args else None
        self._region = region or os.environ.get("AWS_REGION", self._region)
        return protocol.ConfigureResponse(accept_outputs=False, supports_preview=True)

    async def check(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        kind = self._kind(request.type)
        # The SDK refuses to read the asset in a diff, which has no path. The program names archives
        # after their content, so a change of content changes the path.
        inputs = {
            key: PropertyValue(str(value.value.path))
            if isinstance(value.value, pulumi.FileAsset)
            else value
            for key, value in request.new_inputs.items()
        }
        naming = kind.autoname
        if naming is not None and naming.property not in inputs:
            known = request.old_inputs.get(naming.property)
            inputs[naming.property] = known or PropertyValue(_autonamed(request, naming))
        return protocol.CheckResponse(inputs=inputs)

    async def diff(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        kind = self._kind(request.type)
        old, new = plain_map(request.old_state), plain_map(request.new_inputs)
        keys = (old.keys() | new.keys()) - kind.computed - {"id"} - set(request.ignore_changes)
        changed = sorted(key for key in keys if not same(old.get(key), new.get(key)))
        replaces = [
            key
            for key in changed
            if (
                key != "tags"
                if kind.replaces is None
                else any(_differs(old, new, path) for path in kind.replaces if _starts(path, key))
            )
        ]
        return protocol.DiffResponse(
            changes=bool(changed),
            replaces=replaces,
            diffs=changed,
            detailed_diff={
                key: protocol.PropertyDiff(_difference(old, new, key, key in replaces), True)
                for key in changed
            },
        )

    async def create(self, request: protocol.CreateRequest) -> protocol.CreateResponse:
        kind = self._kind(request.type)
        if request.preview:
            known = dict(request.properties) | dict.fromkeys(kind.computed, UNKNOWN)
            return protocol.CreateResponse(properties=known)
        inputs = plain_map(request.properties)
        identity = await asyncio.to_thread(kind.create, self._client(kind.service), inputs)
        return protocol.CreateResponse(
            resource_id=identity,
            properties=await self._state(kind, identity, request.properties),
        )

    async def read(self, request: protocol.ReadRequest) -> protocol.ReadResponse:
        kind = self._kind(request.type)
        known = plain_map(request.properties)
        aws = self._client(kind.service)
        found = await asyncio.to_thread(kind.read, aws, request.resource_id, known)
        if found is None:
            return protocol.ReadResponse(resource_id="")
        drifted = _drifted(known, found)
        inputs = {key: value for key, value in drifted.items() if key not in kind.computed}
        return protocol.ReadResponse(
            resource_id=request.resource_id,
            properties=dict(request.properties) | wrapped_map(drifted),
            inputs=dict(request.inputs) | wrapped_map(inputs),
        )

    async def update(self, request: protocol.UpdateRequest) -> protocol.UpdateResponse:
        kind = self._kind(request.type)
        old = plain_map(request.olds)
        if request.preview:
            kept = {key: request.olds[key] for key in kind.computed & old.keys()}
            return protocol.UpdateResponse(properties=dict(request.news) | kept)
        aws, new = self._client(kind.service), plain_map(request.news)
        await asyncio.to_thread(kind.update, aws, request.resource_id, old, new)
        return protocol.UpdateResponse(
            properties=await self._state(kind, request.resource_id, request.news)
        )

    async def delete(self, request: protocol.DeleteRequest) -> None:
        kind = self._kind(request.type)
        aws, known = self._client(kind.service), plain_map(request.properties)
        await asyncio.to_thread(kind.delete, aws, request.resource_id, known)

    async def invoke(self, request: protocol.InvokeRequest) -> protocol.InvokeResponse:
        arguments = plain_map(request.args)
        answer: Properties
        match request.tok:
            case "aws:index/getCallerIdentity:getCallerIdentity":
                answer = {"accountId": ACCOUNT_ID, "id": ACCOUNT_ID}
            case "aws:index/getPartition:getPartition":
                answer = {"partition": "aws", "dnsSuffix": "amazonaws.com", "id": "aws"}
            case "aws:index/getRegion:getRegion":
                answer = {"region": self._region, "name": self._region, "id": self._region}
            case "aws:sagemaker/getPrebuiltEcrImage:getPrebuiltEcrImage":
                answer = self._prebuilt_image(arguments)
            case token:
                raise RuntimeError(f"the local stack does not look up {token}")
        return protocol.InvokeResponse(return_value=wrapped_map(answer))

    def _prebuilt_image(self, arguments: Properties) -> Properties:
        region = arguments.get("region") or self._region
        repository, tag = arguments["repositoryName"], arguments.get("imageTag") or "1"
        if region not in DEEP_LEARNING_REGIONS:
            raise RuntimeError(
                f"the local stack does not know where AWS keeps {repository} in {region}; "
                f"set imageUri, or use one of {', '.join(sorted(DEEP_LEARNING_REGIONS))}"
            )
        registry = f"{DEEP_LEARNING_REGISTRY}.dkr.ecr.{region}.amazonaws.com/{repository}"
        return {
            "id": DEEP_LEARNING_REGISTRY,
            "registryId": DEEP_LEARNING_REGISTRY,
            "registryPath": f"{registry}:{tag}",
            "repositoryName": repository,
            "imageTag": tag,
        }

    async def _state(
        self, kind: Kind, identity: str, inputs: Mapping[str, PropertyValue]
    ) -> dict[str, PropertyValue]:
        """The state that the published provider records: the inputs, and over them AWS's answers,
        such as the configuration to which SageMaker rolled an endpoint back."""
        aws, known = self._client(kind.service), plain_map(inputs)
        found = await asyncio.to_thread(kind.read, aws, identity, known) or {}
        state = dict.fromkeys(kind.computed) | _drifted(known, found)
        if "tagsAll" in kind.computed:
            state["tagsAll"] = known.get("tags") or {}
        return dict(inputs) | wrapped_map(state)


class _Servicer(ProviderServicer):
    """Records a failed update as the published provider does: as a partial one.

    Its bridge keeps what an update that failed would have made, new inputs and all, as the state of
    a resource that is not initialized (pulumi-terraform-bridge, Update; Terraform's SDK keeps the
    planned state). So the engine sees no difference next time, and sends an update without one.
    """

    async def Update(  # noqa: N802 the gRPC method's name
        self, request: provider_pb2.UpdateRequest, context: grpc.aio.ServicerContext
    ) -> provider_pb2.UpdateResponse:
        update = protocol.UpdateRequest(
            request.urn,
            request.id,
            PropertyValue.unmarshal_map(request.olds),
            PropertyValue.unmarshal_map(request.news),
            timeout=request.timeout,
            ignore_changes=list(request.ignoreChanges),
            preview=request.preview,
        )
        try:
            done = await self._provider.update(update)
        except Exception as error:
            await context.abort_with_status(_Failed(error, self._partial(update, error)))
            raise
        return provider_pb2.UpdateResponse(properties=PropertyValue.marshal_map(done.properties))

    def _partial(self, update: protocol.UpdateRequest, error: Exception) -> Message:
        computed = KINDS[_token(update.type)].computed
        kept = {key: value for key, value in update.olds.items() if key in computed}
        return provider_pb2.ErrorResourceInitFailed(
            id=update.resource_id,
            properties=PropertyValue.marshal_map(kept | dict(update.news)),
            reasons=[str(error)],
        )


class _Failed(grpc.Status):
    """A failure with a detail that the engine understands."""

    def __init__(self, error: Exception, detail: Message) -> None:
        self.code, self.details = grpc.StatusCode.UNKNOWN, str(error)
        whole = status_pb2.Status(code=self.code.value[0], message=self.details)
        whole.details.add().Pack(detail)
        self.trailing_metadata = (("grpc-status-details-bin", whole.SerializeToString()),)


def _token(nested: str) -> str:
    """A resource's type, without those of its parents, which a URN puts before it."""
    return nested.rpartition("$")[2]


def _drifted(known: Properties, found: Properties) -> Properties:
    """The properties that differ from the known ones."""
    return {key: value for key, value in found.items() if not same(known.get(key), value)}


def _check(params: dict[str, object], model: OperationModel, **_: object) -> None:
    if model.input_shape is not None:
        check_request(model.input_shape, params)


def _starts(path: str, key: str) -> bool:
    return path.partition(".")[0] == key


def _differs(old: Properties, new: Properties, path: str) -> bool:
    key, _, member = path.partition(".")
    before, after = old.get(key), new.get(key)
    if not member:
        return not same(before, after)
    values = [each.get(member) if isinstance(each, dict) else each for each in (before, after)]
    return not same(*values)


def _autonamed(request: protocol.CheckRequest, naming: Autoname) -> str:
    digest = hashlib.sha256(request.urn.encode() + request.random_seed).hexdigest()[:7]
    stem = request.name[: naming.most - 8]
    return f"{stem.lower() if naming.lower_case else stem}-{digest}"


def _difference(
    old: Properties, new: Properties, key: str, replaces: bool
) -> protocol.PropertyDiffKind:
    if old.get(key) is None:
        what = "ADD"
    elif new.get(key) is None:
        what = "DELETE"
    else:
        what = "UPDATE"
    return protocol.PropertyDiffKind[f"{what}_REPLACE" if replaces else what]


async def _serve(arguments: Sequence[str], announce: Callable[[int], None]) -> None:
    # The engine passes flags of its log too.
    parser = argparse.ArgumentParser(description="Pulumi provider plugin (gRPC server)")
    parser.add_argument("engine", help="the engine's address")
    engine = parser.parse_known_args(arguments)[0].engine
    # A request may wait for another longer than gRPC's default of 30 s.
    server = grpc.aio.server(options=[("grpc.server_max_unrequested_time_in_server", 1800)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(
        _Servicer(list(arguments), VERSION, LocalAwsProvider(), engine), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce(port)
    await server.wait_for_termination()


def serve(arguments: Sequence[str], announce: Callable[[int], None]) -> None:
    """Serve the provider until the process ends.

    Args:
        arguments: what the engine starts a plugin with.
        announce: is told the port at which the engine finds it.
    """
    asyncio.run(_serve(arguments, announce))
