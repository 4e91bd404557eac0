"""Reads what AWS recorded about an endpoint: activities, alarms, alarm history, datapoints, logs.

It changes nothing in AWS. Each kind of record is read separately: if AWS refuses or throttles one,
the report says so, and the findings that do not need it are still made. AWS keeps one-minute
datapoints for 15 days, activities for six weeks and alarm history for 30 days (CW and AAS API
references).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError

from async_inference.aws_clients import Clients
from async_inference.aws_names import (
    INSTANCE_METRICS,
    QUEUE_METRICS,
    SCALABLE_DIMENSION,
    SERVICE_NAMESPACE,
    log_group,
    scalable_id,
)
from async_inference.calibration import records
from async_inference.calibration.records import MINUTE_S, Minutes, Records
from async_inference.scaling.plan import Metric
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from types_boto3_application_autoscaling import ApplicationAutoScalingClient
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.type_defs import DimensionTypeDef, MetricDataQueryTypeDef
    from types_boto3_logs import CloudWatchLogsClient

SPAN = timedelta(days=1)
"""Span of one GetMetricData call: 11 metrics of 1,440 minutes are far below its limit of 100,800
datapoints (BC)."""
MOST_STREAMS = 500
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
THROTTLED = ("Throttling", "ThrottlingException", "TooManyRequestsException", "LimitExceeded")

_METRICS: tuple[tuple[str, str, str, bool], ...] = (
    ("samples", Metric.BACKLOG_SIZE, "SampleCount", False),
    ("instances", "CPUUtilization", "SampleCount", True),
    ("ended", "TotalProcessingTime", "SampleCount", True),
    ("in_backlog_ms", "TimeInBacklog", "Sum", True),
    ("total_ms", "TotalProcessingTime", "Sum", True),
)
"""Field of `Minutes`, metric, statistic, and whether it has the dimension VariantName."""

T = TypeVar("T")


def read(client: Clients, endpoint: str, span: timedelta) -> Records:
    """Read all records of an endpoint.

    Args:
        client: makes a boto3 client for a service; `adaptive` retries keep within API limits.
        endpoint: the endpoint's name.
        span: how far back to read.

    Raises:
        InvalidInputError: there is no such endpoint, or describing it is not permitted.
        BotoCoreError: AWS cannot be reached.
    """
    sagemaker = client("sagemaker")
    try:
        described = sagemaker.describe_endpoint(EndpointName=endpoint)
        name = described["EndpointConfigName"]
        configuration = sagemaker.describe_endpoint_config(EndpointConfigName=name)
    except ClientError as error:
        raise InvalidInputError([f"endpoint {endpoint}: {_said(error)}"]) from error
    if "AsyncInferenceConfig" not in configuration:
        raise InvalidInputError(
            [f"endpoint {endpoint}: has no AsyncInferenceConfig; name an asynchronous endpoint"]
        )
    variants = [each["VariantName"] for each in configuration["ProductionVariants"]]
    if len(variants) > 1:
        raise InvalidInputError(
            [
                f"endpoint {endpoint}: has the variants {', '.join(variants)}, which share their "
                "queue metrics; only an endpoint with one variant can be calibrated"
            ]
        )
    variant = variants[0]
    # AWS's clock: this machine's may be wrong, and that of an embedded AWS may run faster.
    now = parsedate_to_datetime(described["ResponseMetadata"]["HTTPHeaders"]["date"])
    since = now - span
    unread: list[str] = []

    def told(what: str, tells: str, look: Callable[[], T], nothing: T) -> T:
        try:
            return look()
        except ClientError as error:
            unread.append(f"{what}: {_said(error)}; needed for {tells}")
            return nothing

    alarms = told(
        "cloudwatch:DescribeAlarms",
        "target tracking's thresholds and which metric an alarm watches",
        lambda: tuple(_alarms(client("cloudwatch"), endpoint)),
        (),
    )
    limits = configuration["AsyncInferenceConfig"].get("ClientConfig", {})
    return Records(
        endpoint=endpoint,
        since_s=since.timestamp(),
        read_s=now.timestamp(),
        created_s=records.seconds(described["CreationTime"]),
        configuration=name,
        configuration_created_s=records.seconds(configuration["CreationTime"]),
        concurrency=limits.get("MaxConcurrentInvocationsPerInstance", 1),
        activities=told(
            "application-autoscaling:DescribeScalingActivities",
            "setup times, scale-in times and what happens to a change during another one",
            lambda: tuple(_activities(client("application-autoscaling"), endpoint, variant, since)),
            (),
        ),
        alarms=alarms,
        changes=told(
            "cloudwatch:DescribeAlarmHistory",
            "the delay of metrics and how far alarms look back",
            lambda: tuple(_changes(client("cloudwatch"), (a.name for a in alarms), since, now)),
            (),
        ),
        minutes=told(
            "cloudwatch:GetMetricData",
            "samples per minute, how the backlog is counted, and service times",
            lambda: _minutes(client("cloudwatch"), endpoint, variant, since, now),
            Minutes(),
        ),
        containers=told(
            "logs:DescribeLogStreams",
            "when containers started",
            lambda: tuple(_containers(client("logs"), endpoint, variant, since)),
            (),
        ),
        unread=tuple(unread),
        skew_s=_skew_s(now),
    )


def _skew_s(now: datetime) -> float:
    return time.time() - now.timestamp()


def _said(error: ClientError) -> str:
    """AWS's error as a clause, with the remedy."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code in DENIED:
        return "is not permitted (the stack's output operator_policy permits it)"
    if any(word in code for word in THROTTLED):
        return "AWS throttled it after all retries; try again in a few minutes"
    return (message or code).rstrip(".")


def _activities(
    client: "ApplicationAutoScalingClient", endpoint: str, variant: str, since: datetime
) -> Iterator[records.Activity]:
    pages = client.get_paginator("describe_scaling_activities").paginate(
        ServiceNamespace=SERVICE_NAMESPACE,
        ResourceId=scalable_id(endpoint, variant),
        ScalableDimension=SCALABLE_DIMENSION,
        IncludeNotScaledActivities=True,
    )
    for page in pages:
        for document in page["ScalingActivities"]:
            activity = records.activity(document)
            if activity.started_s < since.timestamp():
                return  # the newest come first
            yield activity


def _alarms(client: "CloudWatchClient", endpoint: str) -> Iterator[records.Alarm]:
    """The alarms on this endpoint's metrics; CloudWatch lists them by name only."""
    mine: DimensionTypeDef = {"Name": "EndpointName", "Value": endpoint}
    for page in client.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"]):
        for document in page["MetricAlarms"]:
            alarm = records.alarm(document)
            if alarm is not None and mine in document.get("Dimensions", ()):
                yield alarm


def _changes(
    client: "CloudWatchClient", alarms: Iterable[str], since: datetime, now: datetime
) -> Iterator[records.StateChange]:
    pages = client.get_paginator("describe_alarm_history")
    for name in alarms:
        for page in pages.paginate(
            AlarmName=name, HistoryItemType="StateUpdate", StartDate=since, EndDate=now
        ):
            for document in page["AlarmHistoryItems"]:
                change = records.state_change(document)
                if change is not None:
                    yield change


def _minutes(
    client: "CloudWatchClient", endpoint: str, variant: str, since: datetime, now: datetime
) -> Minutes:
    asked = [*_METRICS, *((metric, metric, "Average", False) for metric in Metric)]
    of_endpoint: list[DimensionTypeDef] = [{"Name": "EndpointName", "Value": endpoint}]
    of_variant: list[DimensionTypeDef] = [*of_endpoint, {"Name": "VariantName", "Value": variant}]
    queries: list[MetricDataQueryTypeDef] = [
        {
            "Id": f"q{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": INSTANCE_METRICS if name == "CPUUtilization" else QUEUE_METRICS,
                    "MetricName": name,
                    "Dimensions": of_variant if has_variant else of_endpoint,
                },
                "Period": MINUTE_S,
                "Stat": statistic,
            },
        }
        for number, (_, name, statistic, has_variant) in enumerate(asked)
    ]
    found: dict[str, dict[int, float]] = {field: {} for field, *_ in asked}
    field_of = {f"q{number}": field for number, (field, *_) in enumerate(asked)}
    pages = client.get_paginator("get_metric_data")
    at = since.replace(second=0, microsecond=0)
    while at < now:
        until = min(at + SPAN, now)
        for page in pages.paginate(
            MetricDataQueries=queries, StartTime=at, EndTime=until, ScanBy="TimestampAscending"
        ):
            for result in page["MetricDataResults"]:
                points = zip(result["Timestamps"], result["Values"], strict=True)
                found[field_of[result["Id"]]].update(
                    (int(records.seconds(moment)), value) for moment, value in points
                )
        at = until
    queue: Mapping[str, dict[int, float]] = {metric: found.pop(metric) for metric in Metric}
    return Minutes(queue=queue, **found)


def _containers(
    client: "CloudWatchLogsClient", endpoint: str, variant: str, since: datetime
) -> Iterator[float]:
    """When each container wrote its first line."""
    pages = client.get_paginator("describe_log_streams").paginate(
        logGroupName=log_group(endpoint),
        logStreamNamePrefix=f"{variant}/",
        PaginationConfig={"MaxItems": MOST_STREAMS},
    )
    for page in pages:
        for stream in page["logStreams"]:
            first_s = stream.get("firstEventTimestamp", 0) / 1000
            if first_s >= since.timestamp() and "data-log" not in stream["logStreamName"]:
                yield first_s
