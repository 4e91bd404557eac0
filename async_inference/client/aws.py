"""Makes the AWS calls that the protocol requests, with boto3. All decisions are the protocol's.

botocore's retries are off, because they could exceed the caller's deadline.
"""

import contextlib
import hashlib
import mimetypes
import os
import random
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from async_inference.client.announcer import Announcer
from async_inference.client.errors import OutputTooLargeError
from async_inference.client.protocol import (
    Call,
    Fetch,
    Pace,
    Protocol,
    Request,
    Result,
    derived_id,
    split,
)

DEFAULT_PACE = Pace()
PATIENCE_S = 30.0
"""Seconds until a read times out: longer than a long-polling SQS receive."""
SUBSCRIBED_WITHIN_S = 60.0
CHUNK_BYTES = 1 << 20
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"PK\x03\x04", ".zip"),
)


class Aws:
    """boto3 clients, each created on first use; safe for use from many threads.

    Args:
        session: gives credentials and region.
        url: endpoint URL of an emulated AWS; None uses the real one.
        look_s: how long a poll of S3 may take.
        connections: how many calls may run at the same time.
    """

    def __init__(
        self, session: boto3.Session | None, url: str | None, look_s: float, connections: int
    ) -> None:
        self._session = session or boto3.Session()
        self._url = url
        self._look_s = look_s
        self._connections = connections
        self._clients: dict[tuple[str, bool], Any] = {}
        self._lock = threading.Lock()

    def perform(self, effect: Call | Fetch) -> Any:
        """Make the call and return the response; raises what botocore raises."""
        if isinstance(effect, Fetch):
            return self._fetch(effect)
        operation = getattr(self._client(effect.service, effect.patient), effect.operation)
        return operation(**effect.parameters)

    def prepare(self, *services: str) -> None:
        """Create the clients of these services now."""
        for service in services:
            self._client(service, False)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _client(self, service: str, patient: bool) -> Any:
        with self._lock:
            if (service, patient) not in self._clients:
                half_s = PATIENCE_S if patient else self._look_s / 2
                self._clients[service, patient] = self._session.client(  # ty: ignore[no-matching-overload]
                    service,  # of any name that an effect has
                    endpoint_url=self._url,
                    config=Config(
                        connect_timeout=half_s,
                        read_timeout=half_s,
                        max_pool_connections=self._connections,
                        retries={"total_max_attempts": 1, "mode": "standard"},
                    ),
                )
            return self._clients[service, patient]

    def _fetch(self, fetch: Fetch) -> Result:
        bucket, key = split(fetch.location)
        answer = self._client("s3", False).get_object(Bucket=bucket, Key=key)
        content_type = answer.get("ContentType", "application/octet-stream")
        size_bytes, stream = answer["ContentLength"], answer["Body"]
        with stream:
            if fetch.into is not None:
                return _saved(stream, fetch.into, content_type)
            if fetch.max_bytes is not None and size_bytes > fetch.max_bytes:
                raise OutputTooLargeError(
                    f"the output has {size_bytes} bytes, more than max_output_bytes = "
                    f"{fetch.max_bytes}; raise that, or wait with into=: {fetch.location}"
                )
            body = stream.read()
        return Result(content_type, len(body), hashlib.sha256(body).hexdigest(), body=body)


class Connected:
    """Arguments and connections that both clients share.

    Args:
        endpoint: the endpoint's name.
        session: gives credentials and region; None uses boto3's default.
        url: endpoint URL of an emulated AWS, such as the local stack's.
        pace: how often to poll for results.
        input_path: `s3://` prefix for payloads over 128,000 bytes; None is `input` next to the
            endpoint's output path.
        max_output_bytes: the largest output that is read into memory.
        connections: how many AWS calls may run at the same time.
        announce_every_s: seconds from one announcement of requests to the next; use 10 with preset
            `announced`. A cold start then begins when requests are submitted, not when an alarm
            notices the queue. None does not announce.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        session: boto3.Session | None = None,
        url: str | None = None,
        pace: Pace = DEFAULT_PACE,
        input_path: str | None = None,
        max_output_bytes: int = 256 * 1024 * 1024,
        connections: int = 16,
        announce_every_s: float | None = None,
    ) -> None:
        self.protocol = Protocol(
            endpoint, time.monotonic, random.random, pace, input_path, max_output_bytes
        )
        self._aws = Aws(session, url, pace.longest_s, connections)
        self._connections = connections
        self._announcer = None
        if announce_every_s is not None:
            # Separate connections, made now so that no request has to wait for them.
            apart = Aws(session, url, pace.longest_s, 1)
            with contextlib.suppress(Exception):  # An error is reported on first use.
                apart.prepare("sagemaker", "cloudwatch")
            self._announcer = Announcer(self.protocol.announce, apart, announce_every_s)

    def announce(self, requests: int) -> None:
        """Announce how many requests will come, in the background; never raises.

        `infer` and `submit` announce each request. Does nothing without `announce_every_s`.
        """
        if self._announcer is not None:
            self._announcer.announce(requests)

    def _close(self) -> None:
        if self._announcer is not None:
            self._announcer.close()
        self._aws.close()

    def _id(self, key: str | None, request: Request) -> str:
        return uuid.uuid4().hex if key is None else derived_id(key, request)


def queue_name() -> str:
    """A unique queue name."""
    return f"async-inference-{uuid.uuid4().hex}"


def _saved(stream: Any, into: Path, content_type: str) -> Result:
    """Write a partial file, then rename it, so that the result is there whole or not at all."""
    partial = into.with_name(into.name + ".partial")
    digest, size_bytes, head = hashlib.sha256(), 0, b""
    with partial.open("wb") as file:
        for chunk in stream.iter_chunks(CHUNK_BYTES):
            head = head or chunk[:16]
            digest.update(chunk)
            size_bytes += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    path = into.with_name(into.name + extension(content_type, head))
    partial.replace(path)
    return Result(content_type, size_bytes, digest.hexdigest(), path=path)


def extension(content_type: str, head: bytes) -> str:
    """The file name extension of a result, from its first bytes or else from its media type."""
    for magic, known in _MAGIC:
        if head.startswith(magic):
            return known
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/octet-stream", "binary/octet-stream"):
        return ".out"
    return mimetypes.guess_extension(media_type) or ".out"
