"""When scheduled actions run: `at`, `rate` and `cron` expressions in an IANA time zone.

Application Auto Scaling's syntax (AAS user guide, scheduled scaling): cron has six fields, minutes
hours day-of-month month day-of-week year. One of the two day fields is `?`, days of the week count
from 1 = SUN, and the resolution is one minute.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_RATE = re.compile(r"rate\((\d+) (minute|minutes|hour|hours|day|days)\)")
_UNIT_S = {"minute": 60, "hour": 3600, "day": 86_400}
_FIELDS = (
    ("minutes", 0, 59, ()),
    ("hours", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 1, 7, _DAYS),
    ("year", 1970, 2199, ()),
)


class _Expression(Protocol):
    """A schedule in its time zone."""

    def times(self, after_s: float, until_s: float) -> Iterator[float]: ...


@dataclass(frozen=True)
class _At:
    moment_s: float

    def times(self, after_s: float, until_s: float) -> Iterator[float]:
        if after_s < self.moment_s <= until_s:
            yield self.moment_s


@dataclass(frozen=True)
class _Rate:
    every_s: int

    def times(self, after_s: float, until_s: float) -> Iterator[float]:
        first, last = int(after_s // self.every_s) + 1, int(until_s // self.every_s)
        return (float(n * self.every_s) for n in range(first, last + 1))


@dataclass(frozen=True)
class _Cron:
    zone: ZoneInfo
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int] | None
    months: frozenset[int]
    weekdays: frozenset[int] | None
    years: frozenset[int]
    last_day: bool

    def times(self, after_s: float, until_s: float) -> Iterator[float]:
        after = datetime.fromtimestamp(after_s, self.zone)
        day = after.replace(hour=0, minute=0, second=0, microsecond=0)
        while day.timestamp() <= until_s:
            if self._includes(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        local = day.replace(hour=hour, minute=minute)
                        moment = local.timestamp()
                        back = datetime.fromtimestamp(moment, UTC).astimezone(self.zone)
                        exists = (back.hour, back.minute) == (hour, minute)
                        if exists and after_s < moment <= until_s:
                            yield moment
            day = (day + timedelta(days=1)).replace(hour=0, minute=0)

    def _includes(self, day: datetime) -> bool:
        if day.year not in self.years or day.month not in self.months:
            return False
        if self.last_day:
            return (day + timedelta(days=1)).month != day.month
        if self.days is not None:
            return day.day in self.days
        assert self.weekdays is not None
        return day.isoweekday() % 7 + 1 in self.weekdays


def check(schedule: str, timezone: str) -> None:
    """Refuse an expression that Application Auto Scaling would reject.

    Raises:
        ValueError: what is wrong, and what an expression looks like.
    """
    _parsed(schedule, timezone)


def times(schedule: str, timezone: str, after_s: float, until_s: float) -> Iterator[float]:
    """When the schedule is due in (after_s, until_s], in seconds since the epoch, in order.

    A `rate` counts from the epoch. Local times that the change to summer time skips are left out.

    Raises:
        ValueError: the expression or the time zone is wrong.
    """
    return _parsed(schedule, timezone).times(after_s, until_s)


@cache  # the embedded AWS asks for each of its schedules at every tick
def _parsed(schedule: str, timezone: str) -> _Expression:
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(
            f"{timezone!r} is not an IANA time zone; use one like Europe/Berlin or UTC"
        ) from error
    if schedule.startswith("at(") and schedule.endswith(")"):
        try:
            moment = datetime.strptime(schedule[3:-1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=zone)
        except ValueError as error:
            raise ValueError(f"{schedule!r} must look like at(2026-12-24T18:00:00)") from error
        return _At(moment.timestamp())
    rate = _RATE.fullmatch(schedule)
    if rate is not None:
        every_s = int(rate[1]) * _UNIT_S[rate[2].removesuffix("s")]
        if every_s == 0:
            raise ValueError(f"{schedule!r} must have a positive number")
        return _Rate(every_s)
    if schedule.startswith("cron(") and schedule.endswith(")"):
        return _cron(schedule[5:-1], zone)
    raise ValueError(
        f"{schedule!r} must be at(yyyy-mm-ddThh:mm:ss), rate(n minutes|hours|days) or "
        "cron(minutes hours day-of-month month day-of-week year)"
    )


def _cron(expression: str, zone: ZoneInfo) -> _Cron:
    parts = expression.split()
    if len(parts) != len(_FIELDS):
        raise ValueError(f"cron({expression}) must have 6 fields, it has {len(parts)}")
    if (parts[2] == "?") == (parts[4] == "?"):
        raise ValueError(
            f"cron({expression}): exactly one of day-of-month and day-of-week must be ?"
        )
    last_day = parts[2] == "L"
    values = [
        None
        if part == "?" or (last_day and index == 2)
        else _values(part, *_FIELDS[index], expression)
        for index, part in enumerate(parts)
    ]
    minutes, hours, days, months, weekdays, years = values
    if minutes is None or hours is None or months is None or years is None:
        raise ValueError(f"cron({expression}): ? is allowed only for a day field; use * elsewhere")
    return _Cron(zone, minutes, hours, days, months, weekdays, years, last_day)


def _values(
    part: str, name: str, low: int, high: int, words: list[str] | tuple[()], expression: str
) -> frozenset[int]:
    found: set[int] = set()
    for item in part.split(","):
        span, _, step = item.partition("/")
        first, dash, last = span.partition("-")
        try:
            if span == "*":
                start, end = low, high
            else:
                start = _number(first, words, low)
                end = _number(last, words, low) if dash else (high if step else start)
            every = int(step) if step else 1
        except ValueError:
            start, end, every = 0, -1, 0
        if not (low <= start <= end <= high and every >= 1):
            raise ValueError(
                f"cron({expression}): {item!r} is not valid for {name}; use numbers from {low} to "
                f"{high}, lists (1,2), ranges (1-5), steps (*/15) or *"
            )
        found.update(range(start, end + 1, every))
    return frozenset(found)


def _number(text: str, words: list[str] | tuple[()], low: int) -> int:
    upper = text.upper()
    return words.index(upper) + low if upper in words else int(text)
