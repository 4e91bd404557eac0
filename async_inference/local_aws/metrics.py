"""Datapoints by minute, as alarms and status pages read them."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MINUTE_S = 60
KEPT_MINUTES = 24 * 60
"""The longest window that an alarm may look at is a day."""


@dataclass(frozen=True)
class Series:
    """A metric's identity: namespace, name, and dimensions as sorted pairs."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, str]) -> "Series":
        """The series with these dimensions, in any order."""
        return cls(namespace, name, tuple(sorted(dimensions.items())))


@dataclass(frozen=True)
class Datapoint:
    """What a minute's samples came to."""

    minute: int
    total: float
    count: int
    least: float
    most: float


class MetricStore:
    """The newest day of every series.

    Args:
        delay_s: seconds from a minute's end until its datapoint is visible.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._series: dict[Series, deque[Datapoint]] = {}

    def put(self, series: Series, at_s: float, samples: Iterable[float]) -> None:
        """Record the samples of the minute that holds `at_s`; none is no datapoint."""
        values = list(samples)
        if not values:
            return
        point = Datapoint(int(at_s // MINUTE_S), sum(values), len(values), min(values), max(values))
        with self._lock:
            self._series.setdefault(series, deque(maxlen=KEPT_MINUTES)).append(point)

    def periods(
        self, series: Series, statistic: str, period_s: int, count: int, now_s: float
    ) -> list[float | None]:
        """The newest visible periods, oldest first, None where there is no datapoint.

        Periods shorter than a minute hold a minute's value where the minute starts: SageMaker
        publishes one point a minute.
        """
        end_minute = int((now_s - self._delay_s) // MINUTE_S)
        width = max(1, period_s // MINUTE_S)
        first = end_minute - width * count
        with self._lock:
            points = [
                point
                for point in self._series.get(series, ())
                if first <= point.minute < end_minute
            ]
        buckets: list[list[Datapoint]] = [[] for _ in range(count)]
        for point in points:
            buckets[(point.minute - first) // width].append(point)
        return [_statistic(bucket, statistic) if bucket else None for bucket in buckets]

    def history(self, series: Series, since_s: float) -> list[tuple[int, float]]:
        """(minute start in seconds, average) of every datapoint since a time, visible or not."""
        with self._lock:
            return [
                (point.minute * MINUTE_S, point.total / point.count)
                for point in self._series.get(series, ())
                if point.minute * MINUTE_S >= since_s
            ]


def _statistic(points: list[Datapoint], statistic: str) -> float:
    total, count = sum(point.total for point in points), sum(point.count for point in points)
    return {
        "Average": total / count,
        "Sum": total,
        "SampleCount": float(count),
        "Minimum": min(point.least for point in points),
        "Maximum": max(point.most for point in points),
    }[statistic]
