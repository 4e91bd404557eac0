"""How CloudWatch evaluates an alarm on one metric (CW user guide, alarm evaluation).

Each rule is stated once, as a plain function on numbers. Most callers use it as it is; the
simulator compiles it.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import get_args

from async_inference.scaling.plan import AlarmRule, Comparison, MissingData, Statistic
from async_inference.scaling.rules import rule


class AlarmState(IntEnum):
    """An alarm's state; a new alarm starts in INSUFFICIENT_DATA."""

    OK = 0
    ALARM = 1
    INSUFFICIENT_DATA = 2


COMPARISON_CODES = {comparison: code for code, comparison in enumerate(Comparison)}
MISSING_DATA_CODES = {setting: code for code, setting in enumerate(MissingData)}
STATISTIC_CODES: dict[str, int] = {name: code for code, name in enumerate(get_args(Statistic))}

_OK, _ALARM, _INSUFFICIENT_DATA = (int(state) for state in AlarmState)
_GREATER_OR_EQUAL, _GREATER, _LESS, _ = (COMPARISON_CODES[comparison] for comparison in Comparison)
_MISSING, _IGNORE, _BREACHING, _ = (MISSING_DATA_CODES[setting] for setting in MissingData)
_AVERAGE, _MAXIMUM, _MINIMUM, _SUM = (
    STATISTIC_CODES[name] for name in ("Average", "Maximum", "Minimum", "Sum")
)


@rule
def evaluation_range(evaluation_periods, plus_third):
    """How many periods CloudWatch looks back for N evaluation periods.

    Documented for N = 3 only, where it is 5; `Unsettled.evaluation_range` otherwise.

    Args:
        evaluation_periods: N.
        plus_third: whether the reading is `n_plus_third`, not `n_plus_2`.
    """
    return evaluation_periods + (max(evaluation_periods // 3, 2) if plus_third else 2)


@rule
def period_statistic(statistic, total, samples, least, most):
    """The statistic of one period's samples; `statistic` is a STATISTIC_CODES code."""
    if statistic == _AVERAGE:
        return total / samples
    if statistic == _MAXIMUM:
        return most
    if statistic == _MINIMUM:
        return least
    if statistic == _SUM:
        return total
    return samples * 1.0


@rule
def breaches(value, comparison, threshold):
    """Whether a datapoint breaches the threshold; `comparison` is a COMPARISON_CODES code."""
    if comparison == _GREATER_OR_EQUAL:
        return value >= threshold
    if comparison == _GREATER:
        return value > threshold
    if comparison == _LESS:
        return value < threshold
    return value <= threshold


@rule
def next_state(points, n, m, comparison, threshold, missing, state):
    """The state after one evaluation.

    Args:
        points: the evaluation range, oldest first, NaN where there is no datapoint.
        n: evaluation periods.
        m: datapoints to alarm.
        comparison: a COMPARISON_CODES code.
        threshold: compared with each datapoint.
        missing: a MISSING_DATA_CODES code.
        state: the state before the evaluation.
    """
    real = 0
    breaching = 0
    oldest_breaching_age = 0
    for age in range(1, len(points) + 1):
        value = points[len(points) - age]
        if math.isnan(value):
            continue
        if real == n:
            break
        real += 1
        if breaches(value, comparison, threshold):
            breaching += 1
            oldest_breaching_age = age
    if real >= n:
        # Enough real datapoints: the treatment of missing ones does not matter.
        return _ALARM if breaching >= m else _OK
    if real == 0:
        if missing == _MISSING:
            return _INSUFFICIENT_DATA
        if missing == _IGNORE:
            return state
        return _ALARM if missing == _BREACHING else _OK
    filled = n - real if missing == _BREACHING else 0
    if breaching + filled >= m:
        return _ALARM
    # All datapoints breach, and the oldest of them is at least M periods old.
    if breaching == real and oldest_breaching_age >= m:
        if missing == _MISSING:
            return _ALARM
        if missing == _IGNORE:
            return state
    return _OK


ACTION_REPEATED_S = 60.0
"""While an alarm stays in ALARM, its Auto Scaling action runs once a minute (CW, alarm actions)."""


def evaluated_every_s(period_s: int) -> int:
    """Seconds between evaluations: 60, or the period of an alarm with one of 10, 20 or 30 s."""
    return min(period_s, 60)


@rule
def runs_action(changed, now_s, ran_s):
    """Whether the Auto Scaling action runs after an evaluation whose result is ALARM.

    Args:
        changed: whether the alarm has just entered ALARM.
        now_s: the time.
        ran_s: when the action last ran.
    """
    return changed or now_s - ran_s >= ACTION_REPEATED_S - 1.0


def evaluate(alarm: AlarmRule, points: Sequence[float | None], state: AlarmState) -> AlarmState:
    """The alarm's state after one evaluation.

    Args:
        alarm: the alarm's rule.
        points: the newest `evaluation_range(alarm.evaluation_periods)` periods, oldest first, None
            where there is no datapoint.
        state: the state before the evaluation.
    """
    values = [math.nan if point is None else point for point in points]
    return AlarmState(
        next_state(
            values,
            alarm.evaluation_periods,
            alarm.datapoints_to_alarm,
            COMPARISON_CODES[alarm.comparison],
            alarm.threshold,
            MISSING_DATA_CODES[alarm.treat_missing_data],
            int(state),
        )
    )
