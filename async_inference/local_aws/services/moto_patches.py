"""Patches moto where it differs from AWS, or takes long, and offers no extension point.

Only `install` patches, not the import: other code in the process may use moto too.
"""

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC

import moto.sqs.models
from moto.cloudwatch.exceptions import InvalidParameterValue
from moto.cloudwatch.models import cloudwatch_backends
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.request import Request
from moto.core.responses import TYPE_RESPONSE, ActionResult
from moto.core.utils import get_service_model
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3.models import FakeBucket
from moto.sqs.models import Message, SQSBackend

from async_inference.local_aws.services.cloudwatch import HISTORY_PAGE, CloudWatch
from async_inference.local_aws.services.constraints import check_request
from async_inference.local_aws.services.errors import AwsError

_moment = threading.local()
"""The moment of the call that this thread makes."""


@contextmanager
def at(now_s: float) -> Generator[None]:
    """Make SQS take a moment for the present: when a call was made that is now replayed.

    Which messages a ReceiveMessage gets depends on when earlier ones become visible again.

    Args:
        now_s: seconds since the epoch.
    """
    _moment.now_s = now_s
    try:
        yield
    finally:
        del _moment.now_s


def install() -> None:
    """Patch moto; calling it again changes nothing."""
    cloudwatch_backends.backend = CloudWatch
    CloudWatchResponse.parse_parameters = _parse_and_check  # ty: ignore[invalid-assignment]
    # moto finds the operation's method on its class.
    CloudWatchResponse.describe_alarm_history = _describe_alarm_history  # ty: ignore[missing-attribute]
    FakeBucket.get_permission = _permission  # ty: ignore[invalid-assignment]
    SQSBackend.is_message_valid_based_on_retention_period = _is_retained
    moto.sqs.models.unix_time = _unix_time  # ty: ignore[invalid-assignment]
    moto.sqs.models.unix_time_millis = _unix_time_millis  # ty: ignore[invalid-assignment]


def _permission(bucket: FakeBucket, action: str, resource: str) -> PermissionResult:
    """Apply a bucket's policy without its statements on TLS.

    moto ignores conditions, so a statement that refuses plain HTTP would refuse everything.
    """
    if bucket.policy is None:
        return PermissionResult.NEUTRAL
    policy = json.loads(bucket.policy)
    policy["Statement"] = [
        statement
        for statement in policy["Statement"]
        if statement.get("Condition") != {"Bool": {"aws:SecureTransport": "false"}}
    ]
    return IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource)


def _is_retained(self: SQSBackend, queue_name: str, message: Message) -> bool:
    """Whether a message is younger than its queue's retention period.

    moto looks four times at each message of the queue for each that it returns.
    """
    queue = self.get_queue(queue_name)
    retention_s = queue.message_retention_period  # ty: ignore[missing-attribute] set by name
    assert message.sent_timestamp is not None
    return retention_s * 1000 + message.sent_timestamp > _unix_time_millis()


def _unix_time() -> float:
    return getattr(_moment, "now_s", None) or time.time()


def _unix_time_millis() -> float:
    """moto asks for the time twice for each message of a queue, at each message that comes."""
    return _unix_time() * 1000.0


def _describe_alarm_history(self: CloudWatchResponse) -> ActionResult:
    """DescribeAlarmHistory, which moto does not have."""
    asked = self._get_params()
    backend = self.cloudwatch_backend
    assert isinstance(backend, CloudWatch)
    # moto's dates have no zone.
    since, until = (
        None if asked.get(key) is None else asked[key].replace(tzinfo=asked[key].tzinfo or UTC)
        for key in ("StartDate", "EndDate")
    )
    items = [
        item
        for item in backend.alarm_history
        if asked.get("AlarmName") in (None, item["AlarmName"])
        and asked.get("HistoryItemType") in (None, item["HistoryItemType"])
        and (since is None or item["Timestamp"] >= since)
        and (until is None or item["Timestamp"] <= until)
    ]
    if asked.get("ScanBy", "TimestampDescending") == "TimestampDescending":
        items.reverse()
    token = asked.get("NextToken") or "0"
    start = int(token) if token.isdigit() else 0
    end = start + int(asked.get("MaxRecords") or HISTORY_PAGE)
    more = {"NextToken": str(end)} if end < len(items) else {}
    return ActionResult({"AlarmHistoryItems": items[start:end], **more})


_moto_parses = CloudWatchResponse.parse_parameters


def _parse_and_check(self: CloudWatchResponse, request: Request) -> None:
    """Refuse what CloudWatch refuses; moto accepts most of it, and crashes on the rest."""
    model = get_service_model("cloudwatch").operation_model(self._get_action())
    try:
        _moto_parses(self, request)
        # moto's parsers convert types, so a JSON request is checked as it was sent.
        is_json = "x-amz-json" in (request.content_type or "")
        if model.input_shape is not None:
            check_request(model.input_shape, json.loads(request.data) if is_json else self.params)
        return
    except AwsError as error:
        refusal = error.message
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # moto's parsers expect well-formed input.
        refusal = f"The request cannot be parsed: {error}"

    def refuse() -> TYPE_RESPONSE:
        status, headers, body = self.serialized(ActionResult(InvalidParameterValue(refusal)))
        return status, {**headers, "status": str(status)}, body

    self.call_action = refuse  # of this request only
