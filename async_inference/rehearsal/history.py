"""Traffic of a live endpoint, reconstructed from its CloudWatch metrics.

CloudWatch keeps no single requests, only a datapoint a minute: how many requests ended, how long
they took, how many were left. From these follow each minute's arrivals and its mean service time.
Within a minute, arrivals are spread evenly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from async_inference.aws_names import QUEUE_METRICS
from async_inference.rehearsal.traffic import Traffic
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient

MINUTE_S = 60
LARGEST_ANSWER = timedelta(minutes=1440)
"""GetMetricStatistics returns at most 1,440 datapoints a call (CW)."""
LEAST_SERVICE_S = 0.001
MS_IN = {"Microseconds": 0.001, "Milliseconds": 1.0, "Seconds": 1000.0}
"""Milliseconds per unit of a datapoint. SageMaker's page gives milliseconds for these metrics and
microseconds for similar ones, so the datapoint's Unit decides."""


@dataclass(frozen=True)
class Minutes:
    """Metrics by minute; keys are the minutes' starts in seconds since the epoch.

    Args:
        backlog: average of ApproximateBacklogSize.
        ended: requests that ended in the minute, the sample count of TotalProcessingTime.
        in_backlog_ms: sum of TimeInBacklog.
        total_ms: sum of TotalProcessingTime, which includes the time in the backlog (DG).
    """

    backlog: Mapping[int, float]
    ended: Mapping[int, float]
    in_backlog_ms: Mapping[int, float]
    total_ms: Mapping[int, float]


def fetch(cloudwatch: "CloudWatchClient", endpoint: str, variant: str, span: timedelta) -> Minutes:
    """Read a live endpoint's metrics (docs/aws-facts.md#metrics for their dimensions).

    Args:
        cloudwatch: a boto3 client.
        endpoint: the endpoint's name.
        variant: its production variant's name.
        span: how far back to read; CloudWatch keeps one-minute datapoints for 15 days (CW).

    Raises:
        InvalidInputError: there are no metrics of the variant.
    """
    mine = {"EndpointName": endpoint}
    of_variant = mine | {"VariantName": variant}
    listed = cloudwatch.list_metrics(
        Namespace=QUEUE_METRICS,
        MetricName="TotalProcessingTime",
        Dimensions=[{"Name": name, "Value": value} for name, value in of_variant.items()],
    )
    if not listed["Metrics"]:
        raise InvalidInputError(
            [
                f"endpoint {endpoint}, variant {variant}: CloudWatch has no requests of it in this "
                "account and region in the last two weeks; check the name, account and region"
            ]
        )
    # CloudWatch's clock, because that of an embedded AWS may run faster than this machine's.
    end = parsedate_to_datetime(listed["ResponseMetadata"]["HTTPHeaders"]["date"])
    start = end - span

    def read(
        metric: str,
        dimensions: Mapping[str, str],
        stat: Literal["Average", "SampleCount", "Sum"],
        *,
        durations: bool = False,
    ) -> dict[int, float]:
        found: dict[int, float] = {}
        at = start
        while at < end:
            until = min(at + LARGEST_ANSWER, end)
            answer = cloudwatch.get_metric_statistics(
                Namespace=QUEUE_METRICS,
                MetricName=metric,
                Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
                StartTime=at,
                EndTime=until,
                Period=MINUTE_S,
                Statistics=[stat],
            )
            found |= {
                int(point["Timestamp"].timestamp()): point[stat]
                * (MS_IN.get(point.get("Unit", ""), 1.0) if durations else 1.0)
                for point in answer["Datapoints"]
            }
            at = until
        return found

    return Minutes(
        backlog=read("ApproximateBacklogSize", mine, "Average"),
        ended=read("TotalProcessingTime", of_variant, "SampleCount"),
        in_backlog_ms=read("TimeInBacklog", of_variant, "Sum", durations=True),
        total_ms=read("TotalProcessingTime", of_variant, "Sum", durations=True),
    )


def reconstruct(minutes: Minutes) -> Traffic:
    """The traffic of these minutes; its time starts with the first of them.

    Arrivals up to the end of a minute are the requests that have ended by then plus the backlog;
    the sum is not allowed to fall. Requests end in order of arrival. Those that have not ended get
    the mean service time of the others.

    Raises:
        InvalidInputError: no request ended, or requests waited longer than they took in total.
    """
    ended_requests = round(sum(minutes.ended.values()))
    if not ended_requests:
        raise InvalidInputError(["no request ended in this time; choose a longer one with --days"])
    published = [*minutes.ended, *minutes.backlog]
    starts = np.arange(min(published), max(published) + MINUTE_S, MINUTE_S)

    def series(values: Mapping[int, float]) -> np.ndarray:
        return np.array([values.get(int(start), 0.0) for start in starts])

    ended = series(minutes.ended)
    arrived = np.maximum.accumulate(np.rint(np.cumsum(ended) + series(minutes.backlog)))
    counts = np.diff(arrived, prepend=0.0).astype(int)
    in_minute = np.repeat(np.arange(len(starts)), counts)
    order = np.arange(len(in_minute)) - np.repeat(np.cumsum(counts) - counts, counts)
    arrivals_s = (in_minute + (order + 0.5) / counts[in_minute]) * MINUTE_S

    worked_ms = series(minutes.total_ms) - series(minutes.in_backlog_ms)
    wrong = np.flatnonzero(worked_ms < -ended * LEAST_SERVICE_S * 1000)
    if len(wrong):
        raise InvalidInputError(
            [
                f"TotalProcessingTime is less than TimeInBacklog in {len(wrong)} of "
                f"{np.count_nonzero(ended)} minutes, by {-worked_ms[wrong].min():.0f} ms at most: "
                "their units differ, and CloudWatch does not state them, so service times cannot "
                "be computed; rehearse with your own CSV (arrival_s, service_s) instead"
            ]
        )
    mean_s = worked_ms.sum() / ended_requests / 1000
    service_s = np.full(len(arrivals_s), mean_s)
    each_s = np.divide(worked_ms, ended * 1000, out=np.zeros(len(starts)), where=ended > 0)
    known = np.repeat(each_s, np.rint(ended).astype(int))[: len(service_s)]
    service_s[: len(known)] = known
    return Traffic(arrivals_s, np.maximum(service_s, LEAST_SERVICE_S))
