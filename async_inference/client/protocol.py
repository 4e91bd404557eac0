"""The protocol of asynchronous inference without I/O: what to ask AWS, and what the response means.

Each rule is a generator. It yields what to do (`Call`, `Fetch`, `Sleep`), receives the response or
the exception, and returns its result. `sync` and `aio` only perform what a rule yields.

Sources: botocore 1.44.5's service models (BC), SageMaker developer guide (DG).
"""

import hashlib
import json
import os.path
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from async_inference.client import errors
from async_inference.client.errors import (
    AccessError,
    DeadlineError,
    EndpointGoneError,
    InferenceError,
    NoFailurePathError,
    RejectedError,
    StorageError,
    ThrottledError,
)

MAX_INLINE_BYTES = 128_000
"""Largest Body of InvokeEndpointAsync (BC)."""
ENDPOINT_CHECKED_EVERY_S = 60.0
"""Seconds between two checks that the endpoint still exists."""
ANNOUNCEMENTS_NAMESPACE = "AsyncInference"
ANNOUNCED_METRIC = "RequestsWithoutCapacity"
"""The metric that the alarms of preset `announced` watch (docs/scaling.md)."""
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}")
"""The id is part of Filename, which limits its length (BC); InferenceId alone may have 64."""


# What a rule yields


@dataclass(frozen=True)
class Call:
    """A boto3 operation; the rule receives its response.

    `patient` allows a longer time, where giving up early does harm: an upload, or a submission that
    would be sent twice.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any]
    patient: bool = False


@dataclass(frozen=True)
class Fetch:
    """Read an S3 object into memory or into the file `into`; the rule receives a `Result`."""

    location: str
    into: Path | None
    max_bytes: int | None


@dataclass(frozen=True)
class Sleep:
    """A pause in seconds."""

    seconds: float


Effect = Call | Fetch | Sleep
T = TypeVar("T")
Rule = Generator[Effect, Any, T]


# Arguments and results


@dataclass(frozen=True, kw_only=True)
class Request:
    """One inference.

    Args:
        body: the payload; one over 128,000 bytes is uploaded to S3 first.
        location: instead of `body`, the `s3://` URI of a payload that is on S3 already.
        content_type: media type of the payload.
        accept: media type of the result.
        custom_attributes: at most 1,024 visible ASCII characters for the container.
        ttl_s: seconds in the queue after which the request expires, 60 to 21,600; None is six
            hours.
        timeout_s: seconds that the model may take, 1 to 3,600; None is 15 minutes.

    Raises:
        ValueError: each value outside AWS's limits (BC).
    """

    body: bytes | None = None
    location: str | None = None
    content_type: str = "application/json"
    accept: str | None = None
    custom_attributes: str | None = None
    ttl_s: int | None = None
    timeout_s: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if (self.body is None) == (self.location is None):
            problems.append("exactly one of body and location must be given")
        if self.location is not None and not re.fullmatch(r"s3://[^/]+/.+", self.location):
            problems.append(f"location = {self.location!r}: must be s3://bucket/key")
        if self.ttl_s is not None and not 60 <= self.ttl_s <= 21_600:
            problems.append(f"ttl_s = {self.ttl_s}: must be 60 to 21600")
        if self.timeout_s is not None and not 1 <= self.timeout_s <= 3600:
            problems.append(f"timeout_s = {self.timeout_s}: must be 1 to 3600")
        attributes = self.custom_attributes
        if attributes is not None and not re.fullmatch(r"[ -~]{1,1024}", attributes):
            problems.append("custom_attributes must be 1 to 1024 visible ASCII characters")
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def json(cls, value: object, **more: Any) -> "Request":
        """A request whose payload is JSON; `more` are its other fields."""
        return cls(body=json.dumps(value).encode(), content_type="application/json", **more)


@dataclass(frozen=True)
class Accepted:
    """A request that SageMaker accepted, and the two S3 objects in one of which it ends.

    `failure_location` is None if the endpoint has no S3FailurePath. Then only notifications report
    failures (DG).
    """

    inference_id: str
    output_location: str
    failure_location: str | None


@dataclass(frozen=True)
class Result:
    """An output: `body` in memory, or the file `path`."""

    content_type: str
    size_bytes: int
    sha256: str
    body: bytes | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Ended:
    """A request that has ended.

    Args:
        accepted: the request.
        failed: whether it has ended without an output.
        reason: the failure's text, if a notification gave it.
        took_s: seconds from acceptance to the end by SageMaker's clock, if a notification gave
            them.
    """

    accepted: Accepted
    failed: bool
    reason: str | None = None
    took_s: float | None = None


@dataclass(frozen=True)
class Subscription:
    """A queue that only this caller reads, with a message for each request that ends."""

    queue_url: str
    subscription_arns: tuple[str, ...]


@dataclass(frozen=True)
class EndpointState:
    """An endpoint's present state.

    Args:
        status: EndpointStatus, such as InService.
        instances: instances in service; at 0 the next request waits for a cold start.
        output_path: `s3://` prefix of outputs.
        topics: ARNs of the success and error topics, without duplicates.
    """

    status: str
    instances: int
    output_path: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class Pace:
    """Pauses between two polls: `first_s`, then longer by `factor`, up to `longest_s`.

    A wait exceeds its deadline by `longest_s` at most: pauses end at the deadline, and a poll
    without a response times out after `longest_s`.
    """

    first_s: float = 0.2
    factor: float = 1.5
    longest_s: float = 5.0

    def after(self, pause_s: float) -> float:
        return min(pause_s * self.factor, self.longest_s)


def derived_id(key: str, request: Request, prefix: str = "") -> str:
    """The InferenceId of a key and a request: a prefix and 24 hexadecimal digits of their hash.

    The same id means the same output location, because Filename contains it.
    """
    digest = hashlib.sha256()
    for part in (
        key.encode(),
        request.body or (request.location or "").encode(),
        request.content_type.encode(),
        (request.accept or "").encode(),
    ):
        digest.update(len(part).to_bytes(8) + part)
    return prefix + digest.hexdigest()[:24]


# The protocol


@dataclass(frozen=True)
class Protocol:
    """The rules for one endpoint.

    Args:
        endpoint: the endpoint's name.
        now_s: a monotonic clock, by which deadlines are given.
        pace: pauses between polls and between retries.
        jitter: returns 0 to 1, to spread the retries of many callers.
        input_path: `s3://` prefix for payloads that do not fit inline; None is `input` next to the
            endpoint's output path.
        max_output_bytes: the largest output that is read into memory.
    """

    endpoint: str
    now_s: Callable[[], float]
    jitter: Callable[[], float]
    pace: Pace = Pace()
    input_path: str | None = None
    max_output_bytes: int = 256 * 1024 * 1024

    def submit(self, request: Request, inference_id: str, until_s: float) -> Rule[Accepted]:
        """Submit a request; retries transient errors until the deadline.

        InvokeEndpointAsync is not idempotent: if its response is lost, the request may or may not
        be in the queue. A retry has the same InferenceId and Filename, so in the worst case the
        model works twice and writes the same object twice.
        """
        if not _ID.fullmatch(inference_id):
            raise ValueError(
                f"inference_id = {inference_id!r}: must be 1 to 32 letters, digits, - and _, "
                "because it is part of the output's name"
            )
        parameters: dict[str, object] = {
            "EndpointName": self.endpoint,
            "InferenceId": inference_id,
            "Filename": inference_id,
            "ContentType": request.content_type,
        }
        optional = {
            "Accept": request.accept,
            "CustomAttributes": request.custom_attributes,
            "RequestTTLSeconds": request.ttl_s,
            "InvocationTimeoutSeconds": request.timeout_s,
        }
        parameters |= {key: value for key, value in optional.items() if value is not None}
        try:
            if request.body is None:
                parameters["InputLocation"] = request.location
            elif len(request.body) <= MAX_INLINE_BYTES:
                parameters["Body"] = request.body
            else:
                parameters["InputLocation"] = yield from self._upload(
                    request.body, request.content_type, inference_id, until_s
                )
            answer = yield from self._call(
                Call("sagemaker-runtime", "invoke_endpoint_async", parameters, patient=True),
                f"submitting to {self.endpoint}",
                "sagemaker:InvokeEndpointAsync",
                until_s,
            )
        except InferenceError as error:
            error.inference_id = inference_id
            raise
        return Accepted(
            answer["InferenceId"], answer["OutputLocation"], answer.get("FailureLocation")
        )

    def announce(self, requests: int) -> Rule[bool]:
        """Publish how many requests will come, unless an instance serves; without retries.

        While an instance serves, policies scale by the queue, because one request needs no second
        instance. Needs sagemaker:DescribeEndpoint, and cloudwatch:PutMetricData for the namespace.

        Returns:
            Whether the number was published.
        """
        state = yield from self.state(self.now_s())
        if state.instances:
            return False
        metric = {
            "MetricName": ANNOUNCED_METRIC,
            "Dimensions": [{"Name": "EndpointName", "Value": self.endpoint}],
            "Value": requests,
            "Unit": "Count",
            "StorageResolution": 1,  # seconds; alarms with periods below a minute need it (CW)
        }
        parameters = {"Namespace": ANNOUNCEMENTS_NAMESPACE, "MetricData": [metric]}
        yield from self._call(
            Call("cloudwatch", "put_metric_data", parameters),
            "announcing requests",
            f"cloudwatch:PutMetricData for the namespace {ANNOUNCEMENTS_NAMESPACE}",
            self.now_s(),
        )
        return True

    def wait(self, accepted: Accepted, until_s: float, into: Path | None = None) -> Rule[Result]:
        """Poll for output or failure until one exists or the deadline has passed.

        Raises:
            RejectedError, FailedError, ExpiredError: the request failed.
            DeadlineError: there is no result yet; the request continues.
            EndpointGoneError: the endpoint was deleted in the meantime.
        """
        try:
            return (yield from self._wait(accepted, until_s, into))
        except InferenceError as error:
            error.inference_id = accepted.inference_id
            raise

    def _wait(self, accepted: Accepted, until_s: float, into: Path | None) -> Rule[Result]:
        pause_s, checked_s = self.pace.first_s, self.now_s()
        trouble: Exception | None = None
        gone: EndpointGoneError | None = None
        while True:
            for failed in (False, True) if accepted.failure_location else (False,):
                try:
                    return (yield from self._collect(accepted, failed, into))
                except InferenceError:
                    raise
                except errors.TROUBLE as error:
                    if not errors.is_missing(error):
                        trouble = error
                        if self.now_s() >= until_s:
                            break
            if gone is not None:
                raise gone
            left_s = until_s - self.now_s()
            if left_s <= 0:
                raise self.too_late(accepted, trouble)
            if self.now_s() - checked_s >= ENDPOINT_CHECKED_EVERY_S:
                checked_s = self.now_s()
                gone = yield from self.gone()
            if gone is None:
                yield Sleep(min(pause_s, left_s))
                pause_s = self.pace.after(pause_s)

    def collect(self, ended: Ended, into: Path | None, until_s: float) -> Rule[Result]:
        """Fetch the output of a request that has ended, or raise its failure."""
        pause_s = self.pace.first_s
        try:
            if ended.failed and ended.accepted.failure_location is None:
                raise errors.failure_error(ended.reason or "the model failed; its log says why")
            while True:
                try:
                    return (yield from self._collect(ended.accepted, ended.failed, into))
                except InferenceError:
                    raise
                except errors.TROUBLE as error:
                    if errors.is_missing(error):
                        # Only a notification reported the failure, or somebody removed the object.
                        reason = ended.reason or "its output was removed before it was fetched"
                        raise errors.failure_error(reason) from error
                    if self.now_s() >= until_s:
                        raise self.too_late(ended.accepted, error) from error
                    yield Sleep(min(pause_s, max(0.0, until_s - self.now_s())))
                    pause_s = self.pace.after(pause_s)
        except InferenceError as error:
            error.inference_id = ended.accepted.inference_id
            raise

    def found(self, accepted: Accepted) -> Rule[Ended | None]:
        """Poll once whether a request has ended; its location may be an inferred one."""
        ended = yield from self.look([accepted])
        return ended[0] if ended else None

    def look(self, pending: Iterable[Accepted]) -> Rule[list[Ended]]:
        """Poll once which requests have ended, by listing the common prefix of their locations.

        The ids of a batch share a prefix, so the listing contains no other outputs of the endpoint.
        """
        ended: dict[str, Ended] = {}
        waiting = list(pending)
        for failed in (False, True):
            keys: dict[str, dict[str, Accepted]] = {}
            for accepted in waiting:
                location = accepted.failure_location if failed else accepted.output_location
                if location is not None and accepted.inference_id not in ended:
                    bucket, key = split(location)
                    keys.setdefault(bucket, {})[key] = accepted
            for bucket, wanted in keys.items():
                present = yield from self._listed(bucket, wanted)
                if present is None:
                    return list(ended.values())
                for key in present:
                    accepted = wanted[key]
                    ended[accepted.inference_id] = Ended(accepted, failed)
        return list(ended.values())

    def _listed(self, bucket: str, wanted: Mapping[str, Accepted]) -> Rule[list[str] | None]:
        """Which of these keys exist; None if S3 fails transiently."""
        present: list[str] = []
        last = max(wanted)
        prefix = os.path.commonprefix([*wanted])  # noqa: RUF071 a prefix of characters, as S3 takes
        parameters: dict[str, object] = {"Bucket": bucket, "Prefix": prefix}
        while True:
            try:
                page = yield Call("s3", "list_objects_v2", parameters)
            except errors.TROUBLE as error:
                if errors.is_transient(error):
                    return None
                raise errors.typed_error(
                    error, f"listing s3://{bucket}", "s3:ListBucket", StorageError
                ) from error
            keys = [entry["Key"] for entry in page.get("Contents", ())]
            present += [key for key in keys if key in wanted]
            # S3 lists keys in order.
            if not page.get("IsTruncated") or (keys and keys[-1] >= last):
                return present
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    def state(self, until_s: float) -> Rule[EndpointState]:
        """The endpoint's present state; needs sagemaker:DescribeEndpoint."""
        found = yield from self._call(
            Call("sagemaker", "describe_endpoint", {"EndpointName": self.endpoint}),
            f"describing {self.endpoint}",
            "sagemaker:DescribeEndpoint",
            until_s,
        )
        output = found.get("AsyncInferenceConfig", {}).get("OutputConfig", {})
        topics = output.get("NotificationConfig", {})
        told = [topics[key] for key in ("SuccessTopic", "ErrorTopic") if topics.get(key)]
        return EndpointState(
            status=found["EndpointStatus"],
            instances=sum(
                variant.get("CurrentInstanceCount", 0)
                for variant in found.get("ProductionVariants", ())
            ),
            output_path=output.get("S3OutputPath", ""),
            topics=tuple(dict.fromkeys(told)),
        )

    def subscribe(self, queue_name: str, until_s: float) -> Rule[Subscription]:
        """Create a queue that receives a message when a request ends; `unsubscribe` deletes it.

        Needs sagemaker:DescribeEndpoint, sqs:CreateQueue, sqs:GetQueueAttributes,
        sqs:SetQueueAttributes and sns:Subscribe.

        Raises:
            RejectedError: the endpoint has no topics.
        """
        state = yield from self.state(until_s)
        if not state.topics:
            raise RejectedError(
                f"{self.endpoint} has no topics; set SuccessTopic and ErrorTopic, or poll S3"
            )

        def ask(service: str, operation: str, **parameters: object) -> Rule[Any]:
            return self._call(
                Call(service, operation, parameters),
                f"subscribing to {self.endpoint}",
                "sqs:CreateQueue, sqs:GetQueueAttributes, sqs:SetQueueAttributes and sns:Subscribe",
                until_s,
            )

        queue = yield from ask("sqs", "create_queue", QueueName=queue_name)
        url = queue["QueueUrl"]
        found = yield from ask(
            "sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"]
        )
        arn = found["Attributes"]["QueueArn"]
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": arn,
                    "Condition": {"ArnEquals": {"aws:SourceArn": list(state.topics)}},
                }
            ],
        }
        yield from ask(
            "sqs", "set_queue_attributes", QueueUrl=url, Attributes={"Policy": json.dumps(policy)}
        )
        subscribed = []
        for topic in state.topics:
            answer = yield from ask(
                "sns", "subscribe", TopicArn=topic, Protocol="sqs", Endpoint=arn
            )
            subscribed.append(answer["SubscriptionArn"])
        return Subscription(url, tuple(subscribed))

    def unsubscribe(self, subscription: Subscription, until_s: float) -> Rule[None]:
        """Delete the queue and its subscriptions."""
        removals = [
            Call("sns", "unsubscribe", {"SubscriptionArn": arn})
            for arn in subscription.subscription_arns
        ]
        removals.append(Call("sqs", "delete_queue", {"QueueUrl": subscription.queue_url}))
        for call in removals:
            yield from self._call(
                call, "unsubscribing", "sns:Unsubscribe and sqs:DeleteQueue", until_s
            )

    # Shared by the rules

    def _collect(self, accepted: Accepted, failed: bool, into: Path | None) -> Rule[Result]:
        """Try once to fetch; raises botocore's error if a later attempt may succeed."""
        location = accepted.failure_location if failed else accepted.output_location
        assert location is not None
        fetch = (
            Fetch(location, None, None)
            if failed
            else Fetch(location, into, None if into else self.max_output_bytes)
        )
        try:
            result = yield fetch
        except errors.TROUBLE as error:
            if errors.is_missing(error) or errors.is_transient(error):
                raise
            refused = errors.typed_error(
                error,
                f"reading {location}",
                "s3:GetObject, and s3:ListBucket on its bucket",
                StorageError,
            )
            if isinstance(refused, AccessError):
                # S3 returns 403 instead of 404 to callers without permission to list the bucket.
                refused.add_note(
                    "without s3:ListBucket, S3 also gives this error for a missing object"
                )
            raise refused from error
        if failed:
            raise errors.failure_error((result.body or b"").decode("utf-8", "replace"))
        return result

    def _upload(
        self, body: bytes, content_type: str, inference_id: str, until_s: float
    ) -> Rule[str]:
        path = self.input_path
        if path is None:
            state = yield from self.state(until_s)
            path = state.output_path.rstrip("/").rpartition("/")[0] + "/input"
        bucket, prefix = split(path.rstrip("/") + "/")
        key = f"{prefix}{inference_id}"
        yield from self._call(
            Call(
                "s3",
                "put_object",
                {"Bucket": bucket, "Key": key, "Body": body, "ContentType": content_type},
                patient=True,
            ),
            f"uploading {len(body)} bytes to s3://{bucket}/{key}",
            "s3:PutObject",
            until_s,
        )
        return f"s3://{bucket}/{key}"

    def _call(self, call: Call, doing: str, permission: str, until_s: float) -> Rule[Any]:
        """Make a call; retries transient errors until the deadline."""
        pause_s = self.pace.first_s
        while True:
            try:
                return (yield call)
            except errors.TROUBLE as error:
                if not errors.is_transient(error):
                    raise errors.typed_error(error, doing, permission) from error
                left_s = until_s - self.now_s()
                if left_s <= 0:
                    kind = ThrottledError if errors.is_throttle(error) else DeadlineError
                    raise kind(
                        f"{doing}: the deadline has passed; the last error was: {error}"
                    ) from error
            yield Sleep(min(pause_s * (0.5 + self.jitter() / 2), left_s))
            pause_s = self.pace.after(pause_s)

    def gone(self) -> Rule[EndpointGoneError | None]:
        """The error for an endpoint that is not in service; None if it is or may be."""
        try:
            state = yield from self.state(self.now_s())
        except EndpointGoneError as error:
            return error
        except InferenceError:
            return None  # Not permitted to ask, or AWS is not reachable: the deadline still holds.
        if state.status in ("Deleting", "Failed", "OutOfService"):
            return EndpointGoneError(f"endpoint {self.endpoint} is {state.status}")
        return None

    def too_late(self, accepted: Accepted, trouble: Exception | None) -> DeadlineError:
        """The error for a request without a result at the deadline."""
        where = f"no output at {accepted.output_location} by the deadline"
        if trouble is not None:
            kind = ThrottledError if errors.is_throttle(trouble) else DeadlineError
            return kind(f"{where}; the last error was: {trouble}")
        if accepted.failure_location is None:
            return NoFailurePathError(
                f"{where}, and {self.endpoint} has no S3FailurePath, so the request may have "
                "failed or may still be waiting; set one, or subscribe to its topics"
            )
        return DeadlineError(f"{where}; the request continues, so you can wait again")


def split(location: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI."""
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return bucket, key
