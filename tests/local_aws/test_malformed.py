"""Malformed calls get an error of AWS's shape, never a 500, and the server goes on.

Requests are made from botocore's service models: one that the model allows, with one thing broken.
"""

import http.client
import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import botocore.session
import pytest
from botocore.model import Shape, StructureShape

pytestmark = pytest.mark.local_aws

CALLS = 2_000
SERVICES = {
    "sagemaker": ("SageMaker", "sagemaker", r"(Model|EndpointConfig|Endpoint|Tags)s?$|Weights"),
    "application-autoscaling": ("AnyScaleFrontendService", "application-autoscaling", "."),
    "cloudwatch": ("GraniteServiceVersion20100801", "monitoring", "Alarms?$|AlarmState|History"),
}
"""The target's prefix, the name in the signature, and the operations meant."""
WRONG = (None, [], {}, "", "wrong", -1, 3.7, True, "x" * 5000, 2**70, [[]], {"a": 1}, "\u0000")


def signed(service: str, region: str = "us-east-1") -> dict[str, str]:
    scope = f"Credential=local/20260101/{region}/{service}/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 {scope}"}


class Server:
    """Raw HTTP to the embedded AWS."""

    def __init__(self, url: str) -> None:
        self.place = urlsplit(url)

    def call(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.place.netloc, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def send(self, raw: bytes) -> int:
        """The status that comes back for these bytes; 0 for a closed connection."""
        place = (self.place.hostname or "", self.place.port or 0)
        status = None
        with socket.create_connection(place, timeout=30) as plain:
            try:
                plain.sendall(raw)
                plain.shutdown(socket.SHUT_WR)
                status = re.match(rb"HTTP/1\.\d (\d+)", plain.makefile("rb").readline())
            except TimeoutError:
                raise
            except OSError:  # closed by the server before we were at our end
                pass
        return int(status[1]) if status else 0


def example(shape: Shape, dice: random.Random, depth: int = 0) -> Any:
    """A value that satisfies the shape's type and required members, if not its pattern."""
    if isinstance(shape, StructureShape):
        return {
            name: example(member, dice, depth + 1)
            for name, member in shape.members.items()
            if name in shape.required_members or (depth < 2 and dice.random() < 0.3)
        }
    kind, least = shape.type_name, shape.metadata.get("min", 1)
    if kind == "list":
        return [example(shape.member, dice, depth + 1)]  # ty: ignore[missing-attribute]
    if kind == "map":
        return {"key": "value"}
    if kind == "string":
        return (shape.metadata.get("enum") or ["a" * max(1, least)])[0]
    if kind in ("integer", "long", "float", "double"):
        return max(1, least)
    return {"boolean": True, "timestamp": 1}.get(kind, "blob")


def broken(
    shape: StructureShape, request: dict[str, object], dice: random.Random
) -> dict[str, object]:
    """The request with one member that cannot be right: it is gone, or of another type."""
    name = dice.choice(sorted(shape.members))
    kind = shape.members[name].type_name
    if name in shape.required_members and dice.random() < 0.3:
        return {key: value for key, value in request.items() if key != name}
    fitting: dict[str, Callable[[object], bool]] = {
        "string": lambda value: isinstance(value, str),
        "list": lambda value: isinstance(value, list),
        "structure": lambda value: isinstance(value, dict),
        "map": lambda value: isinstance(value, dict),
        "boolean": lambda value: isinstance(value, bool),
        "timestamp": lambda value: True,
        "blob": lambda value: isinstance(value, str),
    }
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)  # noqa: E731
    fits = fitting.get(kind, number)
    wrong = [value for value in WRONG if value is not None and not fits(value)]
    return request | {name: dice.choice(wrong) if wrong else None}


@pytest.fixture
def account(start):
    account = start()
    account.deploy()
    account.in_service()
    return account


def check(status: int, headers: dict[str, str], body: bytes, call: object) -> None:
    assert 400 <= status < 500, (status, body[:300], call)
    if body.startswith(b"<"):
        assert b"<Code>" in body, (body[:300], call)
    elif "cbor" not in headers.get("Content-Type", ""):
        said = json.loads(body)
        assert said["__type"], call
        assert said.get("message") or said.get("Message"), call


def test_a_call_that_the_service_model_forbids_is_refused(account):
    server, dice = Server(account.aws.url), random.Random(5)
    session = botocore.session.get_session()
    calls = [
        (service, operation)
        for service, (_, _, pattern) in SERVICES.items()
        for operation in session.get_service_model(service).operation_names
        if re.search(pattern, operation)
    ]
    made: Counter[str] = Counter()
    while made.total() < CALLS:
        service, operation = dice.choice(calls)
        prefix, name, _ = SERVICES[service]
        shape = session.get_service_model(service).operation_model(operation).input_shape
        if not isinstance(shape, StructureShape) or not shape.members:
            continue
        request = broken(shape, example(shape, dice), dice)
        if None in request.values():
            continue
        version = "1.0" if service == "cloudwatch" else "1.1"
        headers = signed(name) | {
            "X-Amz-Target": f"{prefix}.{operation}",
            "Content-Type": f"application/x-amz-json-{version}",
        }
        answer = server.call("POST", "/", headers, json.dumps(request).encode())
        check(*answer, (operation, request))
        made[service] += 1

    assert set(made) == set(SERVICES)
    assert account.status() == "InService", "the server goes on"


def test_broken_bodies_targets_and_headers_are_refused(account):
    server, dice = Server(account.aws.url), random.Random(6)
    whole = json.dumps({"EndpointName": "echo"}).encode()
    target = {"X-Amz-Target": "SageMaker.DescribeEndpoint"}
    json_type = {"Content-Type": "application/x-amz-json-1.1"}
    bodies = [whole[:cut] for cut in range(1, len(whole))] + [
        b"[]",
        b"null",
        b"NaN",
        b'{"EndpointName": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"EndpointName":' * 50_000,
        b'{"EndpointName": ' + b"9" * 5000 + b"}",
        bytes(dice.randrange(256) for _ in range(2000)),
    ]
    for body in bodies:
        check(*server.call("POST", "/", signed("sagemaker") | target | json_type, body), body[:40])
    for wrong in (
        "SageMaker.",
        "SageMaker.Nothing",
        "SageMaker.__init__",
        "SageMaker.close",
        "X.Y",
    ):
        headers = signed("sagemaker") | {"X-Amz-Target": wrong} | json_type
        check(*server.call("POST", "/", headers, whole), wrong)
    for headers in ({}, signed("sagemaker", "mars-1"), {"Authorization": "Basic eDp5"}):
        check(*server.call("POST", "/", headers | target | json_type, whole), headers)
    forms = ({"Action": "Nothing"}, {"Action": "PutMetricAlarm", "Threshold": "high"}, {})
    for form in forms:
        headers = signed("monitoring") | {"Content-Type": "application/x-www-form-urlencoded"}
        check(*server.call("POST", "/", headers, urlencode(form).encode()), form)
    assert account.status() == "InService"


def test_broken_invocations_are_refused(account):
    server = Server(account.aws.url)
    path = "/endpoints/echo/async-invocations"
    header = "X-Amzn-SageMaker-"
    wrong = [
        {f"{header}RequestTTLSeconds": value}
        for value in ("", "x", "59", "21601", "-1", "6e3", "9" * 400)
    ]
    wrong += [{f"{header}InvocationTimeoutSeconds": value} for value in ("0", "3601", "1.5")]
    wrong += [
        {f"{header}Inference-Id": "i" * 65},
        {f"{header}Inference-Id": " "},
        {f"{header}Filename": "a/b"},
        {f"{header}Filename": "f" * 33},
        {f"{header}S3OutputPathExtension": "s3://elsewhere"},
        {f"{header}S3OutputPathExtension": "e" * 513},
        {f"{header}Custom-Attributes": "c" * 1025},
        {f"{header}InputLocation": "ftp://b/k"},
    ]
    for headers in wrong:
        check(*server.call("POST", path, signed("sagemaker") | headers, b"x"), headers)
    for place in ("/endpoints/nobody/async-invocations", "/endpoints/-/async-invocations"):
        check(*server.call("POST", place, signed("sagemaker"), b"x"), place)
    check(*server.call("POST", path, signed("sagemaker"), b""), "neither body nor location")
    check(*server.call("POST", path, signed("sagemaker"), b"x" * 128_001), "too large")
    assert account.status() == "InService"


def test_broken_http_ends_in_a_refusal_or_a_closed_connection(account):
    server = Server(account.aws.url)
    (authorization,) = signed("sagemaker").values()
    start = (
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: SageMaker.ListModels\r\n"
        f"Authorization: {authorization}\r\n"
    ).encode()
    sent = [
        b"nonsense\r\n\r\n",
        start + b"Content-Length: many\r\n\r\n",
        start + b"Content-Length: -5\r\n\r\n",
        start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        start + b"Transfer-Encoding: chunked\r\n\r\nnot hex\r\nhello\r\n0\r\n\r\n",
        start + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
        start + b"Content-Length: 100\r\n\r\nshort",
        start + b"No colon here\r\n\r\n",
        start + b"X-Huge: " + b"h" * 1_000_000 + b"\r\n\r\n",
    ]
    for raw in sent:
        status = server.send(raw)
        assert status == 0 or 400 <= status < 500, (status, raw[:80])
    assert account.status() == "InService"
