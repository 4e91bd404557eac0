"""Alarm evaluation follows CloudWatch's own truth tables (docs/aws-facts.md#alarms)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_inference.scaling.alarms import (
    AlarmState,
    evaluate,
    evaluated_every_s,
    evaluation_range,
    runs_action,
)
from async_inference.scaling.plan import Comparison, Metric, MetricAlarm, MissingData

STATES = {
    "OK": AlarmState.OK,
    "ALARM": AlarmState.ALARM,
    "I": AlarmState.INSUFFICIENT_DATA,
}
COLUMNS = [
    MissingData.MISSING,
    MissingData.IGNORE,
    MissingData.BREACHING,
    MissingData.NOT_BREACHING,
]


def alarm(n: int = 3, m: int = 3, missing: MissingData = MissingData.MISSING) -> MetricAlarm:
    return MetricAlarm(
        metric=Metric.BACKLOG_SIZE,
        threshold=1,
        evaluation_periods=n,
        datapoints_to_alarm=m,
        treat_missing_data=missing,
    )


def points(pattern: str) -> list[float | None]:
    return [{"0": 0.0, "X": 1.0, "-": None}[point] for point in pattern]


TRUTH_TABLES = [
    (3, "0-X-X", "OK OK OK OK"),
    (3, "0----", "OK OK OK OK"),
    (3, "-----", "I R ALARM OK"),
    (3, "0XX-X", "ALARM ALARM ALARM ALARM"),
    (3, "--X--", "ALARM R ALARM OK"),
    (2, "0-X-X", "ALARM ALARM ALARM ALARM"),
    (2, "00X0X", "ALARM ALARM ALARM ALARM"),
    (2, "0-X--", "OK OK ALARM OK"),
    (2, "----0", "OK OK ALARM OK"),
    (2, "---X-", "ALARM R ALARM OK"),
]


@pytest.mark.parametrize("before", AlarmState)
@pytest.mark.parametrize(("m", "pattern", "expected"), TRUTH_TABLES)
def test_the_truth_tables_of_cloudwatch_hold(m, pattern, expected, before):
    for missing, name in zip(COLUMNS, expected.split(), strict=True):
        after = evaluate(alarm(m=m, missing=missing), points(pattern), before)

        assert after == (before if name == "R" else STATES[name]), f"{missing} from {before.name}"


@pytest.mark.parametrize("pattern", ["----X", "---X-"])
def test_a_breach_younger_than_m_periods_does_not_alarm_by_itself(pattern):
    assert evaluate(alarm(), points(pattern), AlarmState.OK) == AlarmState.OK


def test_a_new_alarm_without_data_stays_insufficient():
    assert (
        evaluate(alarm(), points("-----"), AlarmState.INSUFFICIENT_DATA)
        == AlarmState.INSUFFICIENT_DATA
    )


def test_the_evaluation_range_of_three_periods_is_five():
    assert evaluation_range(3, True) == evaluation_range(3, False) == 5


@pytest.mark.parametrize(
    ("n", "plus_third", "plus_2"), [(1, 3, 3), (2, 4, 4), (15, 20, 17), (120, 160, 122)]
)
def test_other_evaluation_ranges_follow_the_reading(n, plus_third, plus_2):
    """evaluation_range, not settled (docs/aws-facts.md#alarms)."""
    assert (evaluation_range(n, True), evaluation_range(n, False)) == (plus_third, plus_2)


@pytest.mark.parametrize(
    ("comparison", "breaching"),
    [
        (Comparison.GREATER_OR_EQUAL, [False, True, True]),
        (Comparison.GREATER, [False, False, True]),
        (Comparison.LESS, [True, False, False]),
        (Comparison.LESS_OR_EQUAL, [True, True, False]),
    ],
)
def test_each_comparison_treats_the_threshold_itself_as_its_name_says(comparison, breaching):
    one_of_one = alarm(n=1, m=1).model_copy(update={"comparison": comparison})

    for value, alarms in zip([0.5, 1.0, 1.5], breaching, strict=True):
        state = evaluate(one_of_one, [None, None, value], AlarmState.OK)
        assert (state == AlarmState.ALARM) == alarms


@given(
    n=st.integers(1, 15),
    values=st.lists(st.sampled_from([0.0, 1.0]), min_size=40, max_size=40),
    missing=st.sampled_from(COLUMNS),
    data=st.data(),
)
def test_with_n_real_points_the_newest_n_decide_whatever_missing_means(n, values, missing, data):
    m = data.draw(st.integers(1, n))
    newest = values[: evaluation_range(n, True)]

    after = evaluate(alarm(n, m, missing), newest, AlarmState.OK)

    assert (after == AlarmState.ALARM) == (sum(newest[-n:]) >= m)


@pytest.mark.parametrize(
    ("period_s", "every_s"), [(10, 10), (20, 20), (30, 30), (60, 60), (300, 60)]
)
def test_an_alarm_is_evaluated_every_minute_or_as_often_as_a_shorter_period(period_s, every_s):
    assert evaluated_every_s(period_s) == every_s


def test_a_scaling_action_runs_when_the_alarm_goes_off_and_then_once_a_minute():
    assert runs_action(True, 100.0, 95.0)
    assert not runs_action(False, 110.0, 100.0)
    assert not runs_action(False, 150.0, 100.0)
    assert runs_action(False, 160.0, 100.0)
