"""Datapoints by minute or by 10 seconds, for alarms, the API and the status page."""

import threading
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from async_inference.aws_names import Series
from async_inference.scaling.alarms import STATISTIC_CODES, evaluated_every_s, period_statistic

MINUTE_S = 60
HIGH_RESOLUTION_S = 10
"""Datapoints of high resolution are kept so finely: no alarm has a shorter period (CW)."""
KEPT_MINUTES = 15 * 24 * 60
"""CloudWatch keeps one-minute datapoints for 15 days (CW)."""


@dataclass(frozen=True)
class Datapoint:
    """The samples of a minute, or of 10 seconds, summed up; `at_s` is when these begin."""

    at_s: int
    total: float
    count: int
    least: float
    most: float

    @property
    def minute(self) -> int:
        """The minute in which it lies."""
        return self.at_s // MINUTE_S

    def joined(self, later: "Datapoint") -> "Datapoint":
        """This datapoint and a later one of the same time, as one."""
        return Datapoint(
            self.at_s,
            self.total + later.total,
            self.count + later.count,
            min(self.least, later.least),
            max(self.most, later.most),
        )


class MetricStore:
    """The newest two weeks of every series."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[Series, list[Datapoint]] = {}

    def put(self, series: Series, at_s: float, samples: Iterable[float]) -> None:
        """Add samples to the minute that holds `at_s`; without samples there is no datapoint."""
        values = list(samples)
        if not values:
            return
        at_s = int(at_s // MINUTE_S) * MINUTE_S
        self.add(series, Datapoint(at_s, sum(values), len(values), min(values), max(values)))

    def add(self, series: Series, point: Datapoint) -> None:
        """Add a datapoint, to the one of the same time if there is one."""
        with self._lock:
            points = self._series.setdefault(series, [])
            index = bisect_left(points, point.at_s, key=lambda each: each.at_s)
            if index < len(points) and points[index].at_s == point.at_s:
                points[index] = points[index].joined(point)
            else:
                points.insert(index, point)
            del points[:-KEPT_MINUTES]

    def known(self) -> list[Series]:
        """All series that have a datapoint."""
        with self._lock:
            return list(self._series)

    def between(self, series: Series, start_s: float, end_s: float) -> list[Datapoint]:
        """The datapoints that start in [start_s, end_s), oldest first."""
        found: list[Datapoint] = []
        with self._lock:
            # The newest, at the end, are read most.
            for point in reversed(self._series.get(series, ())):
                if point.at_s < start_s:
                    break
                if point.at_s < end_s:
                    found.append(point)
        found.reverse()
        return found

    def periods(
        self, series: Series, statistic: str, period_s: int, count: int, until_s: float
    ) -> list[float | None]:
        """The newest whole periods before a time, oldest first, None where there is no datapoint.

        SageMaker publishes once a minute, so of its metrics a shorter period has a datapoint only
        where a minute begins.
        """
        end_s = last_end_s(period_s, until_s)
        first_s = end_s - period_s * count
        buckets: list[list[Datapoint]] = [[] for _ in range(count)]
        for point in self.between(series, first_s, end_s):
            buckets[(point.at_s - first_s) // period_s].append(point)
        return [_statistic(bucket, statistic) if bucket else None for bucket in buckets]


def last_end_s(period_s: int, until_s: float) -> int:
    """When the newest whole period before a time ends; longer ones than a minute slide by one."""
    slides_s = evaluated_every_s(period_s)
    return int(until_s // slides_s) * slides_s


def _statistic(points: list[Datapoint], statistic: str) -> float:
    return period_statistic(
        STATISTIC_CODES[statistic],
        sum(point.total for point in points),
        sum(point.count for point in points),
        min(point.least for point in points),
        max(point.most for point in points),
    )
