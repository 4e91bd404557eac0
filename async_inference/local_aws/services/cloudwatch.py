"""How CloudWatch is read: moto's backend, with datapoints and alarm history of this process.

moto handles the protocols. SageMaker's metrics are in a `MetricStore`, which alarms and the API
read. What users publish is in moto, for the API, and also in that store, for alarms, since only the
store keeps high resolution.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict

from moto.cloudwatch.exceptions import InvalidParameterValue
from moto.cloudwatch.metric_data_expression_parser import parse_expression
from moto.cloudwatch.models import (
    Alarm,
    CloudWatchBackend,
    MetricAggregatedDatum,
    MetricDatumBase,
    Statistics,
    cloudwatch_backends,
)

from async_inference.aws_names import INSTANCE_METRICS, QUEUE_METRICS, Series
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.services.errors import AwsError
from async_inference.local_aws.services.metrics import (
    HIGH_RESOLUTION_S,
    MINUTE_S,
    Datapoint,
    MetricStore,
)

PUBLISHED_NAMESPACES = (QUEUE_METRICS, INSTANCE_METRICS)
KEPT_HISTORY = 20_000
"""Two weeks of a busy endpoint; an action repeats every minute while its alarm lasts."""
HISTORY_PAGE = 100
"""Default and largest MaxRecords of DescribeAlarmHistory (BC)."""


class HistoryItem(TypedDict):
    """An item of DescribeAlarmHistory."""

    AlarmName: str
    AlarmType: str
    Timestamp: datetime
    HistoryItemType: str
    HistorySummary: str
    HistoryData: NotRequired[str]


class CloudWatch(CloudWatchBackend):
    """One region's CloudWatch."""

    # moto finds a service's URLs next to the module of its backend.
    __module__ = CloudWatchBackend.__module__

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.metrics = MetricStore()
        self.clock = Clock()
        self.alarm_history: deque[HistoryItem] = deque(maxlen=KEPT_HISTORY)

    def put_metric_data(self, namespace: str, metric_data: list[dict[str, Any]]) -> None:
        """Keep what a client publishes; without a timestamp it gets this AWS's time."""
        now = self.clock.now().replace(tzinfo=None)  # as moto's own times
        data: list[dict[str, Any]] = [
            {**datum, "Timestamp": datum.get("Timestamp") or now} for datum in metric_data
        ]
        super().put_metric_data(namespace, data)
        for datum in data:
            series = Series.of(namespace, datum["MetricName"], _pairs(datum.get("Dimensions", [])))
            fine = datum.get("StorageResolution") == 1
            step_s = HIGH_RESOLUTION_S if fine else MINUTE_S
            at_s = int(_epoch_s(datum["Timestamp"]) // step_s) * step_s
            for point in _points(at_s, datum):
                self.metrics.add(series, point)

    def put_metric_alarm(  # ty: ignore[incompatible-method-override] one of two dozen matters
        self, *, evaluation_periods: int, **asked: Any
    ) -> Alarm:
        """Refuse an alarm that could never be evaluated, which moto accepts."""
        enough = asked.get("datapoints_to_alarm") or evaluation_periods
        if enough > evaluation_periods:
            raise InvalidParameterValue(
                f"DatapointsToAlarm {enough} must not exceed EvaluationPeriods {evaluation_periods}"
            )
        return super().put_metric_alarm(evaluation_periods=evaluation_periods, **asked)

    def get_metric_statistics(
        self,
        namespace: str,
        metric_name: str,
        start_time: datetime,
        end_time: datetime,
        period: int,
        stats: list[str],
        dimensions: list[dict[str, str]],
        unit: str | None = None,
    ) -> list[Statistics]:
        """The statistics of one metric, with a datapoint for each period that has any."""
        if namespace not in PUBLISHED_NAMESPACES:
            return super().get_metric_statistics(
                namespace, metric_name, start_time, end_time, period, stats, dimensions, unit
            )
        series = Series.of(namespace, metric_name, _pairs(dimensions))
        return self._statistics(series, start_time, end_time, period, stats)

    def get_metric_data(
        self,
        queries: list[dict[str, Any]],
        start_time: datetime,
        end_time: datetime,
        scan_by: str = "TimestampAscending",
    ) -> list[dict[str, Any]]:
        """Several metrics in one call; an expression may only name another query, as in moto."""
        found = []
        for query in (query for query in queries if "MetricStat" in query):
            wanted = query["MetricStat"]
            metric, stat = wanted["Metric"], wanted["Stat"]
            if metric["Namespace"] not in PUBLISHED_NAMESPACES:
                found += super().get_metric_data([query], start_time, end_time, scan_by)
                continue
            series = Series.of(
                metric["Namespace"], metric["MetricName"], _pairs(metric.get("Dimensions", []))
            )
            periods = self._statistics(series, start_time, end_time, int(wanted["Period"]), [stat])
            if scan_by == "TimestampDescending":
                periods.reverse()
            found.append(
                {
                    "id": query["Id"],
                    "label": query.get("Label") or f"{series.name} {stat}",
                    "values": [period.get_statistics_for_type(stat) for period in periods],
                    "timestamps": [period.timestamp for period in periods],
                    "status_code": "Complete",
                }
            )
        for query in (query for query in queries if "Expression" in query):
            values, timestamps = parse_expression(query["Expression"], found)
            found.append(
                {
                    "id": query["Id"],
                    "label": query.get("Label") or query["Id"],
                    "values": values,
                    "timestamps": timestamps,
                    "status_code": "Complete",
                }
            )
        hidden = {query["Id"] for query in queries if not query.get("ReturnData", True)}
        return [result for result in found if result["id"] not in hidden]

    def get_filtered_metrics(
        self, metric_name: str, namespace: str, dimensions: list[dict[str, str]]
    ) -> list[MetricDatumBase]:
        """The metrics that ListMetrics lists."""
        wanted = [(wanted["Name"], wanted.get("Value")) for wanted in dimensions]
        published: list[Any] = [
            MetricDatumBase(series.namespace, series.name, _named(series), None)
            for series in self.metrics.known()
            if series.namespace in PUBLISHED_NAMESPACES
            and namespace in (None, "", series.namespace)
            and metric_name in (None, "", series.name)
            and all(
                any(name == key and value in (None, held) for key, held in series.dimensions)
                for name, value in wanted
            )
        ]
        return [*super().get_filtered_metrics(metric_name, namespace, dimensions), *published]

    def _statistics(
        self, series: Series, start: datetime, end: datetime, period_s: int, stats: list[str]
    ) -> list[Statistics]:
        step_s = max(MINUTE_S, period_s)
        first_s = _epoch_s(start) // step_s * step_s
        periods: dict[float, Statistics] = {}
        for point in self.metrics.between(series, first_s, _epoch_s(end)):
            at_s = point.at_s // step_s * step_s
            if at_s not in periods:
                at = datetime.fromtimestamp(at_s, UTC)
                periods[at_s] = Statistics(stats, at, "None")
            periods[at_s].metric_data.append(_datum(series, point))
        return list(periods.values())


def of_region(account: str, region: str) -> CloudWatch:
    """A region's backend, made when it is first asked for.

    Raises:
        AwsError: no such region.
    """
    try:
        found = cloudwatch_backends[account][region]
    except KeyError as error:
        raise AwsError("InvalidClientTokenId", f"There is no region {region}", 403) from error
    assert isinstance(found, CloudWatch)
    return found


def _epoch_s(at: datetime) -> float:
    """moto's times are in UTC, mostly without a zone."""
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()


def _pairs(dimensions: list[dict[str, str]]) -> Mapping[str, str]:
    return {dimension["Name"]: dimension["Value"] for dimension in dimensions}


def _named(series: Series) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in series.dimensions]


def _points(at_s: int, datum: Mapping[str, Any]) -> Iterator[Datapoint]:
    """The datapoints of a MetricDatum: of a value, of values with counts, or of statistics."""
    stats = datum.get("StatisticValues")
    if stats:
        count, total = int(float(stats["SampleCount"])), float(stats["Sum"])
        yield Datapoint(at_s, total, count, float(stats["Minimum"]), float(stats["Maximum"]))
        return
    values = datum.get("Values") or [datum.get("Value", 0.0)]
    counts = datum.get("Counts") or [1] * len(values)
    for value, count in zip(map(float, values), map(float, counts), strict=True):
        if count:
            yield Datapoint(at_s, value * count, int(count), value, value)


def _datum(series: Series, point: Datapoint) -> Any:
    return MetricAggregatedDatum(
        series.namespace,
        series.name,
        min_stat=point.least,
        max_stat=point.most,
        sample_count=float(point.count),
        sum_stat=point.total,
        dimensions=_named(series),
        timestamp=datetime.fromtimestamp(point.at_s, UTC),
    )
