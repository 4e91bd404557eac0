"""What AWS refuses or throttles is told with what it would have told; the rest is still read."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from async_inference.calibration.reading import read
from async_inference.validation import InvalidInputError

NOW = datetime(2026, 11, 28, 17, 0, tzinfo=UTC)
CREATED = NOW - timedelta(days=30)
ALARM = {
    "AlarmName": "wake",
    "MetricName": "HasBacklogWithoutCapacity",
    "Dimensions": [{"Name": "EndpointName", "Value": "sdxl"}],
    "Threshold": 0.5,
    "Period": 60,
    "EvaluationPeriods": 1,
    "AlarmActions": [],
}
OTHER = ALARM | {"AlarmName": "other", "Dimensions": [{"Name": "EndpointName", "Value": "else"}]}


def an_activity(days_ago: float) -> dict[str, object]:
    start = NOW - timedelta(days=days_ago)
    return {
        "Description": "Setting desired instance count to 1.",
        "Cause": "monitor alarm wake in state ALARM triggered policy wake-up",
        "StartTime": start,
        "EndTime": start + timedelta(minutes=5),
        "StatusCode": "Successful",
    }


PAGES: dict[str, list[dict[str, object]]] = {
    "describe_scaling_activities": [
        {"ScalingActivities": [an_activity(1)]},
        {"ScalingActivities": [an_activity(2), an_activity(20)]},
    ],
    "describe_alarms": [{"MetricAlarms": [ALARM, OTHER]}],
    "describe_alarm_history": [{"AlarmHistoryItems": []}],
    "get_metric_data": [
        {"MetricDataResults": [{"Id": "q0", "Timestamps": [CREATED], "Values": [1.0]}]},
        {"MetricDataResults": [{"Id": "q0", "Timestamps": [NOW], "Values": [2.0]}]},
    ],
    "describe_log_streams": [{"logStreams": []}],
}


class Aws:
    """A client of every service, that answers these pages or refuses."""

    def __init__(
        self, refused: Mapping[str, str], variants: Sequence[str] = ("AllTraffic",)
    ) -> None:
        self._refused = refused
        self._variants = variants
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, service: str, /) -> Any:
        return self

    def describe_endpoint(self, **asked: object) -> dict[str, object]:
        self._refuse("describe_endpoint")
        return {
            "EndpointConfigName": "sdxl-config",
            "CreationTime": CREATED,
            "ResponseMetadata": {"HTTPHeaders": {"date": format_datetime(NOW, usegmt=True)}},
        }

    def describe_endpoint_config(self, **asked: object) -> dict[str, object]:
        limits = {"MaxConcurrentInvocationsPerInstance": 2}
        return {
            "CreationTime": CREATED,
            "ProductionVariants": [{"VariantName": name} for name in self._variants],
            "AsyncInferenceConfig": {"ClientConfig": limits},
        }

    def get_paginator(self, operation: str) -> Any:
        aws = self

        class Paginator:
            def paginate(self, **asked: object) -> Iterator[dict[str, object]]:
                aws._refuse(operation)
                aws.asked.append((operation, asked))
                yield from PAGES[operation]

        return Paginator()

    def _refuse(self, operation: str) -> None:
        if operation in self._refused:
            code = self._refused[operation]
            raise ClientError({"Error": {"Code": code, "Message": f"{code} it is"}}, operation)


def reading(**refused: str) -> Any:
    return read(Aws(refused), "sdxl", timedelta(days=14))


def test_all_pages_are_read_back_to_the_span_and_of_this_endpoint_alone():
    records = reading()

    assert len(records.activities) == 2, "the third is older than the span"
    assert [alarm.name for alarm in records.alarms] == ["wake"]
    assert records.minutes.samples[int(NOW.timestamp())] == 2.0
    assert (records.concurrency, records.unread) == (2, ())
    assert records.read_s == NOW.timestamp(), "AWS's clock, not this machine's"


def test_metrics_are_asked_for_a_day_at_a_time():
    aws = Aws({})

    read(aws, "sdxl", timedelta(days=14))

    spans = [asked for operation, asked in aws.asked if operation == "get_metric_data"]
    assert len(spans) == 14
    assert all(each["EndTime"] - each["StartTime"] <= timedelta(days=1) for each in spans)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("describe_scaling_activities", "application-autoscaling:DescribeScalingActivities"),
        ("describe_alarms", "cloudwatch:DescribeAlarms"),
        ("describe_alarm_history", "cloudwatch:DescribeAlarmHistory"),
        ("get_metric_data", "cloudwatch:GetMetricData"),
        ("describe_log_streams", "logs:DescribeLogStreams"),
    ],
)
def test_a_missing_permission_is_told_and_the_rest_is_read(operation, kind):
    records = reading(**{operation: "AccessDeniedException"})

    (sentence,) = records.unread
    assert sentence.startswith(f"{kind}: is not permitted (the stack's output operator_policy")
    assert "; needed for " in sentence
    assert operation == "describe_scaling_activities" or records.activities


def test_throttling_beyond_all_repetitions_is_told():
    (sentence,) = reading(get_metric_data="ThrottlingException").unread

    assert "throttled it after all retries; try again" in sentence


def test_an_endpoint_that_may_not_be_described_is_bad_input():
    with pytest.raises(InvalidInputError, match="endpoint sdxl: is not permitted"):
        reading(describe_endpoint="AccessDeniedException")


def test_two_variants_share_one_queue_so_that_nothing_can_be_told_of_one():
    with pytest.raises(InvalidInputError, match="has the variants a, b"):
        read(Aws({}, ("a", "b")), "sdxl", timedelta(days=14))
