"""Makes the AWS calls that the protocol requests, with boto3; it decides nothing.

botocore's own retries are off: they would hold a call beyond the caller's deadline.
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
    """boto3 clients, each made when it is first needed; safe to use from many threads.

    Args:
        session: where credentials and region come from.
        url: of an AWS that is not the real one; None is the session's.
        look_s: how long a look may take in total.
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
        """Do it and return its answer; raises what botocore raises."""
        if isinstance(effect, Fetch):
            return self._fetch(effect)
        operation = getattr(self._client(effect.service, effect.patient), effect.operation)
        return operation(**effect.parameters)

    def prepare(self, *services: str) -> None:
        """Make the clients of these services now."""
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
    """What both clients are made from.

    Args:
        endpoint: the endpoint's name.
        session: where credentials and region come from; None is boto3's usual search.
        url: of an AWS that is not the real one, such as the local stack's.
        pace: of looking for results.
        input_path: `s3://` prefix for payloads over 128,000 bytes; None is `input` beside the
            endpoint's output path.
        max_output_bytes: the largest output taken into memory.
        connections: calls to AWS that may go on at the same time.
        announce_every_s: seconds from one announcement of requests to the next, 10 for policies
            that listen (preset `announced`): then a cold start begins when requests are handed in,
            not when their queue is noticed. None does not announce.
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
            # Connections of its own, made now: that takes longer than a request may be held up.
            apart = Aws(session, url, pace.longest_s, 1)
            with contextlib.suppress(Exception):  # What is wrong is told when it is used.
                apart.prepare("sagemaker", "cloudwatch")
            self._announcer = Announcer(self.protocol.announce, apart, announce_every_s)

    def announce(self, requests: int) -> None:
        """Tell the endpoint's policies how many requests come; returns at once, and never fails.

        `infer` and `submit` do it for each request. Nothing is told without `announce_every_s`.
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
    """A name that no other queue has."""
    return f"async-inference-{uuid.uuid4().hex}"


def _saved(stream: Any, into: Path, content_type: str) -> Result:
    """Write beside `into`, then rename: the file is there whole or not at all."""
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
    """A file name's extension for a result, from its first bytes, else from its media type."""
    for magic, known in _MAGIC:
        if head.startswith(magic):
            return known
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/octet-stream", "binary/octet-stream"):
        return ".out"
    return mimetypes.guess_extension(media_type) or ".out"
