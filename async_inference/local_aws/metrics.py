"""Datapoints by minute, for alarms, the API and the status page."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from async_inference.aws_names import Series
from async_inference.scaling.alarms import STATISTIC_CODES, period_statistic

MINUTE_S = 60
KEPT_MINUTES = 15 * 24 * 60
"""CloudWatch keeps one-minute datapoints for 15 days (CW)."""


@dataclass(frozen=True)
class Datapoint:
    """What a minute's samples came to."""

    minute: int
    total: float
    count: int
    least: float
    most: float

    def joined(self, later: "Datapoint") -> "Datapoint":
        """This minute's datapoint with more samples."""
        return Datapoint(
            self.minute,
            self.total + later.total,
            self.count + later.count,
            min(self.least, later.least),
            max(self.most, later.most),
        )


class MetricStore:
    """The newest two weeks of every series."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[Series, deque[Datapoint]] = {}

    def put(self, series: Series, at_s: float, samples: Iterable[float]) -> None:
        """Add samples to the minute that holds `at_s`; without samples there is no datapoint."""
        values = list(samples)
        if not values:
            return
        point = Datapoint(int(at_s // MINUTE_S), sum(values), len(values), min(values), max(values))
        with self._lock:
            points = self._series.setdefault(series, deque(maxlen=KEPT_MINUTES))
            if points and points[-1].minute == point.minute:
                points.append(points.pop().joined(point))
            else:
                points.append(point)

    def known(self) -> list[Series]:
        """All series that have a datapoint."""
        with self._lock:
            return list(self._series)

    def between(self, series: Series, start_s: float, end_s: float) -> list[Datapoint]:
        """The datapoints of the minutes that start in [start_s, end_s), oldest first."""
        found: list[Datapoint] = []
        with self._lock:
            # The newest are asked for most, and are at the end.
            for point in reversed(self._series.get(series, ())):
                if point.minute * MINUTE_S < start_s:
                    break
                if point.minute * MINUTE_S < end_s:
                    found.append(point)
        found.reverse()
        return found

    def periods(
        self, series: Series, statistic: str, period_s: int, count: int, until_s: float
    ) -> list[float | None]:
        """The newest whole periods before a time, oldest first, None where there is no datapoint.

        Periods shorter than a minute hold a minute's value where the minute starts: SageMaker
        publishes one point a minute.
        """
        end_minute = int(until_s // MINUTE_S)
        width = max(1, period_s // MINUTE_S)
        first = end_minute - width * count
        buckets: list[list[Datapoint]] = [[] for _ in range(count)]
        for point in self.between(series, first * MINUTE_S, end_minute * MINUTE_S):
            buckets[(point.minute - first) // width].append(point)
        return [_statistic(bucket, statistic) if bucket else None for bucket in buckets]


def _statistic(points: list[Datapoint], statistic: str) -> float:
    return period_statistic(
        STATISTIC_CODES[statistic],
        sum(point.total for point in points),
        sum(point.count for point in points),
        min(point.least for point in points),
        max(point.most for point in points),
    )
