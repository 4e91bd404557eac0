"""The result of an asynchronous request: an S3 object and a message, in AWS's formats."""

import base64
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NotRequired, TypedDict

from async_inference.local_aws.fleet.instance import FleetPlan

LARGEST_NOTIFIED_RESPONSE_BYTES = 128 * 1024
"""The largest response that a notification includes (BC IncludeInferenceResponseIn)."""


class Invocation(TypedDict):
    """An accepted request, as the journal keeps it."""

    inference_id: str
    input_location: str | None
    content_type: str | None
    accept: str | None
    custom_attributes: str | None
    ttl_s: int
    timeout_s: int
    output_location: str | None
    failure_location: str | None
    accepted_s: NotRequired[float]
    expires_s: NotRequired[float]


@dataclass(frozen=True)
class Outcome:
    """How a request ended.

    Args:
        body: the model's answer; empty without one.
        content_type: the answer's.
        failure: why it failed; None if it completed.
        metric: the metric that counts this failure besides InvocationFailures
            (docs/aws-facts.md#metrics).
    """

    body: bytes = b""
    content_type: str = ""
    failure: str | None = None
    metric: str | None = None

    @property
    def object_body(self) -> bytes:
        """The content of the output or failure object."""
        return self.body if self.failure is None else self.failure.encode()

    @property
    def object_type(self) -> str:
        """The content type of the output or failure object."""
        return self.content_type if self.failure is None else "text/plain"


def of_response(status: int, body: bytes, content_type: str) -> Outcome:
    """The outcome of a model's HTTP response; any status but 200 is a failure."""
    if status == 200:
        return Outcome(body, content_type)
    whose = "client" if status < 500 else "server"
    text = body.decode("utf-8", "replace")
    return Outcome(
        body,
        content_type,
        f'ModelError: Received {whose} error ({status}) from primary with message "{text}". '
        "See the endpoint's log.",
    )


def message(
    endpoint: str,
    region: str,
    request: Invocation,
    plan: FleetPlan,
    outcome: Outcome,
    received_s: float,
    now_s: float,
) -> str:
    """The notification of a request's end (DG async-inference-check-predictions).

    UNSETTLED: no page shows where IncludeInferenceResponseIn puts the response; here it is
    `responseBody` with `content` and `encoding`, in Base64.
    """
    asked = {
        "accept": request["accept"],
        "contentType": request["content_type"],
        "endpointName": endpoint,
        "inputLocation": request["input_location"],
    }
    said: dict[str, object] = {
        "awsRegion": region,
        "eventTime": _iso(now_s),
        "receivedTime": _iso(received_s),
        "invocationStatus": "Completed" if outcome.failure is None else "Failed",
        "requestParameters": {key: value for key, value in asked.items() if value},
    }
    if outcome.failure is None:
        given = {"contentType": outcome.content_type, "outputLocation": request["output_location"]}
        said["responseParameters"] = {key: value for key, value in given.items() if value}
        kind = "SUCCESS_NOTIFICATION_TOPIC"
    else:
        said["failureReason"] = outcome.failure
        if request["failure_location"]:
            said["responseParameters"] = {"failureLocation": request["failure_location"]}
        kind = "ERROR_NOTIFICATION_TOPIC"
    small = 0 < len(outcome.body) <= LARGEST_NOTIFIED_RESPONSE_BYTES
    if kind in plan.response_in and small:
        content = base64.b64encode(outcome.body).decode()
        said["responseBody"] = {"content": content, "encoding": "BASE64"}
    said |= {
        "inferenceId": request["inference_id"],
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }
    return json.dumps(said)


def _iso(at_s: float) -> str:
    whole = math.floor(at_s * 1000) / 1000
    return (
        datetime.fromtimestamp(whole, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
