"""The services that moto serves, in this process, with state that survives a restart.

S3, IAM, SNS, SQS, CloudWatch's storage, KMS, Logs and STS. Every changing call is recorded in the
journal and replayed at start. The call's number seeds moto's randomness, so that a replay makes the
same identifiers; and each is replayed at its own moment, so that the same messages are visible.
"""

import io
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from wsgiref.types import WSGIEnvironment

from botocore.model import OperationNotFoundError
from flask import Flask
from moto.moto_api._internal import mock_random
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import FakeKey, S3Backend, s3_backends
from moto.settings import get_s3_default_key_buffer_size
from moto.sns.models import sns_backends
from werkzeug.test import EnvironBuilder, run_wsgi_app

from async_inference.aws_names import region_of, split_s3_uri
from async_inference.local_aws.clients import ACCOUNT_ID
from async_inference.local_aws.faults import Faults
from async_inference.local_aws.http_server import Response
from async_inference.local_aws.journal import Call, Journal
from async_inference.local_aws.services import moto_patches
from async_inference.local_aws.services.errors import AwsError

_READS = re.compile(r"^(Get|List|Describe|Head|Lookup|Filter|Test|BatchGet)")
_KEPT_HEADERS = re.compile(r"^(authorization|content-|x-amz-|host$|smithy-)", re.IGNORECASE)
PART_BYTES = 1 << 20
LONGEST_WAIT_S = 20
"""Of ReceiveMessage (BC sqs)."""
VISIBLE_AGAIN_S = 0.5
"""Real seconds after which a waiting ReceiveMessage tries again without a new message."""
PUT_OBJECT, PUBLISH = "PutObject", "Publish"
"""The calls that this process makes itself, directly to moto without HTTP."""


def _backend_app(service: Any) -> Flask:
    """One of moto's services, which raises exceptions instead of answering a page in HTML."""
    application = create_backend_app(service)
    application.config["PROPAGATE_EXCEPTIONS"] = True
    return application


_S3_HOST = re.compile(
    r"((?P<bucket>[a-z0-9][a-z0-9.-]+)\.)?s3([.-](dualstack\.)?[a-z0-9-]+)?\.amazonaws\.com(\.cn)?"
)
"""S3's hosts, with the bucket in front or in the path (S3 user guide, virtual hosting)."""


class ObjectMissingError(Exception):
    """No such bucket or object."""


class WriteFailedError(Exception):
    """S3 refused an object this time."""


class MotoServices:
    """moto's services behind one lock and one journal.

    Args:
        journal: where changing calls are kept; what it holds is replayed now.
        faults: what goes wrong on purpose.
    """

    def __init__(self, journal: Journal, faults: Faults) -> None:
        self._journal = journal
        self._faults = faults
        self._dice = random.Random(faults.seed)  # noqa: S311 no secret
        self._application = DomainDispatcherApplication(_backend_app)
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        moto_patches.install()
        moto_api_backend.reset()
        for number, at_s, call in journal.calls():
            self._apply(number, call, at_s or time.time())

    def handle(self, environ: WSGIEnvironment, body: bytes) -> Response:
        """Serve one HTTP request from outside.

        Returns:
            Status line, headers and body parts.

        Raises:
            AwsError: no service of moto has the operation.
        """
        call = _call(environ, body)
        if call.object_path is not None and self._write_fails():
            return _SLOW_DOWN
        operation = operation_name(environ, body)
        if operation is None and "x-www-form-urlencoded" in environ.get("CONTENT_TYPE", ""):
            raise AwsError("MissingAction", "The request has no Action.")
        until_s = 0.0
        if operation == "ReceiveMessage":
            call, wait_s = _without_waiting(call)
            until_s = time.monotonic() + wait_s
        with self.lock:
            while True:
                response, changed = self._serve(call, operation)
                if changed:
                    self._changed.notify_all()
                left_s = until_s - time.monotonic()
                if changed or not response[0].startswith("2") or left_s <= 0:
                    return response
                # Messages become visible by time, too.
                self._changed.wait(min(left_s, VISIBLE_AGAIN_S))

    def _serve(self, call: Call, operation: str | None) -> tuple[Response, bool]:
        """Send a call once; the second value is whether it changed anything."""
        mock_random.seed(self._journal.next_call())
        at_s = time.time()
        try:
            with moto_patches.at(at_s):
                status, headers, parts = self._send(call)
        except (NotImplementedError, OperationNotFoundError) as error:
            raise AwsError(
                "UnknownOperationException",
                f"The embedded AWS does not serve {operation or call.path}: {error}",
            ) from error
        changed = status.startswith("2") and _changes(call, operation, parts)
        if changed:
            self._journal.record(call, at_s)
        return (status, headers, parts), changed

    def get_object(self, bucket: str, key: str) -> tuple[bytes, str]:
        """An object's bytes and content type.

        Raises:
            ObjectMissingError: it does not exist.
        """
        with self.lock:
            found = self._object(bucket, key)
            return found.value, found.metadata.get("content-type", "binary/octet-stream")

    def download(self, bucket: str, key: str, target: Path) -> None:
        """Write an object to a file; a large one without holding it in memory, or the lock.

        Raises:
            ObjectMissingError: it does not exist.
        """
        with self.lock:
            found = self._object(bucket, key)
            if found.contentsize <= get_s3_default_key_buffer_size():
                target.write_bytes(found.value)
                return
            # moto keeps it in an unnamed file, which exists as long as this descriptor is open.
            found._value_buffer.flush()
            source = os.dup(found._value_buffer.fileno())
        try:
            with target.open("wb") as file:
                # By offset, since moto's reads move the position that both descriptors share.
                while part := os.pread(source, PART_BYTES, file.tell()):
                    file.write(part)
        finally:
            os.close(source)

    @staticmethod
    def _object(bucket: str, key: str) -> FakeKey:
        found = _s3_with(bucket).get_object(bucket, key)
        if found is None:
            raise ObjectMissingError(f"s3://{bucket}/{key}: the object does not exist")
        return found

    def list_objects(self, bucket: str, prefix: str) -> list[str]:
        """The keys under a prefix.

        Raises:
            ObjectMissingError: no such bucket.
        """
        with self.lock:
            keys = _s3_with(bucket).buckets[bucket].keys
            return sorted(key for key in keys if key.startswith(prefix))

    def check_write(self, bucket: str) -> None:
        """Fail as S3 would fail this process's attempt to write an object.

        Raises:
            ObjectMissingError: no such bucket.
            WriteFailedError: it fails this time.
        """
        with self.lock:
            _s3_with(bucket)
        if self._write_fails():
            raise WriteFailedError("SlowDown: Please reduce your request rate.")

    def topic_exists(self, arn: str) -> bool:
        """Whether an SNS topic exists."""
        with self.lock:
            return arn in sns_backends[ACCOUNT_ID][region_of(arn)].topics

    def answer(self, request_number: int, calls: Iterable[Call]) -> None:
        """Write a request's answer: record its calls in one transaction, then make them."""
        written = list(calls)
        with self.lock:
            at_s = time.time()
            numbers = self._journal.answer(request_number, written, at_s)
            for number, call in zip(numbers, written, strict=True):
                self._apply(number, call, at_s)
            self._changed.notify_all()

    def perform(self, call: Call) -> None:
        """Record and make a changing call of this process."""
        with self.lock:
            at_s = time.time()
            self._apply(self._journal.record(call, at_s), call, at_s)
            self._changed.notify_all()

    def _write_fails(self) -> bool:
        rate = self._faults.s3_write_failure_rate
        return rate > 0 and self._dice.random() < rate

    def _apply(self, number: int, call: Call, at_s: float) -> None:
        mock_random.seed(number)
        with moto_patches.at(at_s):
            self._make(call)

    def _make(self, call: Call) -> None:
        if call.method == PUT_OBJECT:
            bucket, _, key = call.path.partition("/")
            s3: S3Backend = s3_backends[ACCOUNT_ID]["aws"]
            if bucket in s3.buckets:
                written = s3.put_object(bucket, key, call.body, storage="STANDARD")
                written.set_metadata(call.headers)
                written.set_acl(s3.buckets[bucket].acl)
        elif call.method == PUBLISH:
            sns = sns_backends[ACCOUNT_ID][region_of(call.path)]
            if call.path in sns.topics:
                sns.publish(call.body.decode(), arn=call.path)
        else:
            self._send(call)

    def _send(self, call: Call) -> Response:
        builder = EnvironBuilder(
            method=call.method,
            path=call.path,
            query_string=call.query,
            headers=list(call.headers.items()),
            input_stream=io.BytesIO(call.body),
            base_url="http://127.0.0.1",
        )
        environ = builder.get_environ()
        environ["CONTENT_LENGTH"] = str(len(call.body))
        builder.close()
        parts, status, headers = run_wsgi_app(self._application, environ)
        return status, list(headers), [b"".join(parts)]


_SLOW_DOWN = (
    "503 Slow Down",
    [("Content-Type", "application/xml")],
    [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"],
)
"""S3's error for too many requests, which every SDK retries."""


def put_object(bucket: str, key: str, body: bytes, content_type: str) -> Call:
    """The call that writes one S3 object."""
    return Call(
        method=PUT_OBJECT,
        path=f"{bucket}/{key}",
        query="",
        headers={"Content-Type": content_type or "binary/octet-stream"},
        body=body,
        object_path=f"/{bucket}/{key}",
    )


def publish(topic_arn: str, message: str) -> Call:
    """The call that publishes one SNS message."""
    return Call(method=PUBLISH, path=topic_arn, query="", headers={}, body=message.encode())


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI, or of an object's `https://` URL at S3.

    Raises:
        ObjectMissingError: a URL of another place.
    """
    if not uri.startswith("https://"):
        return split_s3_uri(uri)
    url = urlsplit(uri)
    host = _S3_HOST.fullmatch(url.netloc)
    if host is None:
        raise ObjectMissingError(f"{uri} is not the URL of an S3 object")
    path = unquote(url.path.removeprefix("/"))
    if host["bucket"]:
        return host["bucket"], path
    bucket, _, key = path.partition("/")
    return bucket, key


def _s3_with(bucket: str) -> S3Backend:
    backend: S3Backend = s3_backends[ACCOUNT_ID]["aws"]
    if bucket not in backend.buckets:
        raise ObjectMissingError(f"s3://{bucket}: the bucket does not exist")
    return backend


def operation_name(environ: WSGIEnvironment, body: bytes) -> str | None:
    """The operation that a request of the JSON, query or RPC protocols names; None for REST."""
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return target.rpartition(".")[2]
    rpc = re.fullmatch(r"/service/[^/]+/operation/(\w+)", environ.get("PATH_INFO", ""))
    if rpc:
        return rpc[1]
    if "x-www-form-urlencoded" in environ.get("CONTENT_TYPE", ""):
        return parse_qs(body.decode("utf-8", "replace")).get("Action", [None])[0]
    return None


def _without_waiting(call: Call) -> tuple[Call, float]:
    """A ReceiveMessage that returns immediately, and the seconds that it would wait for a message.

    moto waits inside the call, and nothing could send a message in the meantime.
    """
    try:
        asked = json.loads(call.body)
        wait_s = float(asked["WaitTimeSeconds"])
    except (ValueError, KeyError, TypeError):
        return call, 0.0  # Short, or wrong: moto says so.
    if not 0 < wait_s <= LONGEST_WAIT_S:
        return call, 0.0
    return replace(call, body=json.dumps(asked | {"WaitTimeSeconds": 0}).encode()), wait_s


def _changes(call: Call, operation: str | None, parts: list[bytes]) -> bool:
    if operation == "ReceiveMessage":
        # Received messages get handles, which a later DeleteMessage names.
        return any(b"ReceiptHandle" in part for part in parts)
    if operation is not None:
        return not _READS.match(operation)
    return call.method in {"PUT", "POST", "DELETE", "PATCH"}


def _call(environ: WSGIEnvironment, body: bytes) -> Call:
    headers = {
        key[5:].replace("_", "-").title(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    if environ.get("CONTENT_TYPE"):
        headers["Content-Type"] = environ["CONTENT_TYPE"]
    path, query = environ.get("PATH_INFO", "/"), environ.get("QUERY_STRING", "")
    # The server decodes paths as latin-1, as WSGI asks.
    path = path.encode("latin-1").decode("utf-8", "replace")
    plain_put = environ["REQUEST_METHOD"] == "PUT" and path.count("/") >= 2
    one_object = plain_put and query in ("", "x-id=PutObject")
    return Call(
        method=environ["REQUEST_METHOD"],
        path=quote(path, safe="/~"),
        query=query,
        headers={key: value for key, value in headers.items() if _KEPT_HEADERS.match(key)},
        body=body,
        object_path=path if one_object else None,
    )
