"""Scheduled actions are due when their syntax says (docs/aws-facts.md#scheduled-actions)."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_inference.scaling.schedules import check, times


def due(schedule: str, timezone: str, start: str, days: float = 7) -> list[str]:
    begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    end = begin + timedelta(days=days)
    return [
        datetime.fromtimestamp(moment, UTC).strftime("%a %d %H:%M")
        for moment in times(schedule, timezone, begin.timestamp(), end.timestamp())
    ]


def test_a_cron_on_weekdays_is_due_on_weekdays():
    assert due("cron(0 8 ? * MON-FRI *)", "UTC", "2026-11-20") == [
        "Fri 20 08:00",
        "Mon 23 08:00",
        "Tue 24 08:00",
        "Wed 25 08:00",
        "Thu 26 08:00",
    ]


def test_days_of_the_week_count_from_sunday_as_1():
    assert due("cron(0 0 ? * 1 *)", "UTC", "2026-11-20") == ["Sun 22 00:00"]


def test_a_cron_follows_its_time_zone_over_a_change_of_the_clock():
    """Europe/Berlin goes from UTC+2 to UTC+1 on 25 October 2026."""
    assert due("cron(0 8 * * ? *)", "Europe/Berlin", "2026-10-24", 3) == [
        "Sat 24 06:00",
        "Sun 25 07:00",
        "Mon 26 07:00",
    ]


def test_a_local_time_that_summer_time_skips_is_not_due():
    assert due("cron(30 2 * * ? *)", "Europe/Berlin", "2026-03-28", 3) == [
        "Sat 28 01:30",
        "Mon 30 00:30",
    ]


def test_steps_lists_and_the_last_day_of_a_month():
    assert due("cron(0/30 6,18 28 * ? *)", "UTC", "2026-11-27", 3) == [
        "Sat 28 06:00",
        "Sat 28 06:30",
        "Sat 28 18:00",
        "Sat 28 18:30",
    ]
    assert due("cron(0 0 L * ? *)", "UTC", "2026-11-20", 20) == ["Mon 30 00:00"]


def test_at_is_due_once_in_its_zone():
    assert due("at(2026-11-21T09:00:00)", "Asia/Tokyo", "2026-11-20") == ["Sat 21 00:00"]
    assert due("at(2020-01-01T00:00:00)", "UTC", "2026-11-20") == []


@given(n=st.integers(1, 500), start=st.integers(0, 10**9), span=st.integers(0, 10**6))
def test_a_rate_is_due_every_so_often_and_never_twice(n, start, span):
    found = list(times(f"rate({n} minutes)", "UTC", start, start + span))

    assert all(start < moment <= start + span for moment in found)
    assert all(moment % (60 * n) == 0 for moment in found)
    assert len(found) == (start + span) // (60 * n) - start // (60 * n)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ("cron(0 8 * * MON *)", "exactly one of day-of-month and day-of-week must be"),
        ("cron(0 25 ? * MON *)", "'25' is not valid for hours"),
        ("cron(0 8 ? * FUNDAY *)", "'FUNDAY' is not valid for day of week"),
        ("cron(5-1 8 ? * MON *)", "'5-1' is not valid for minutes"),
        ("rate(5 weeks)", "must be at"),
        ("rate(0 minutes)", "positive"),
        ("at(tomorrow)", "must look like at"),
    ],
)
def test_a_wrong_expression_says_what_is_wrong(schedule, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(schedule, "UTC")
