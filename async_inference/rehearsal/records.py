"""The simulation's data: an array of named records for requests, instances, alarms and so on.

The compiled event loop reads and writes these arrays in place. `from_plan` makes those of a plan.
"""

import math
from typing import NamedTuple

import numpy as np

from async_inference.scaling.alarms import (
    COMPARISON_CODES,
    MISSING_DATA_CODES,
    STATISTIC_CODES,
    AlarmState,
    evaluated_every_s,
)
from async_inference.scaling.autoscaler import (
    ADJUSTMENT_CODES,
    TRACKING_PERIOD_S,
    Cooldown,
    Step,
    steps_of,
    tracking_alarms,
)
from async_inference.scaling.plan import (
    FACTORS,
    AlarmRule,
    Metric,
    ScalingPlan,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

METRICS = tuple(metric for metric in Metric if metric not in FACTORS)
PUBLISHED = len(METRICS) - 1
"""SageMaker publishes this many of `METRICS`, from the first; clients publish the last."""
NONE = -1
"""Stands for a metric that has no second factor."""


def _dtype(**fields: type) -> np.dtype:
    return np.dtype(list(fields.items()))


REQUEST = _dtype(arrival_s=float, service_s=float, announces=int, started_s=float, finished_s=float)
INSTANCE = _dtype(
    phase=int,  # one of the loop's phases of an instance
    busy=int,  # requests that it works on
    asked_s=float,
    ready_s=float,
    work_s=float,
    lost_s=float,
    last_end_s=float,
)
SLOT = _dtype(request=int, end_s=float)
ALARM = _dtype(
    policy=int,
    metric=int,
    times=int,  # the metric that the first one is multiplied by
    statistic=int,
    period_s=int,
    every_s=float,
    comparison=int,
    threshold=float,
    evaluation_periods=int,
    datapoints_to_alarm=int,
    missing=int,
    scales_in=int,
    due_s=float,
    state=int,
    ran_s=float,
)
POLICY = _dtype(
    tracks=int,
    target=float,
    adjustment_type=int,
    min_magnitude=int,
    first_step=int,
    end_step=int,
    **Cooldown.__annotations__,
)
STEP = _dtype(**Step.__annotations__)
SCHEDULED = _dtype(at_s=float, minimum=int, maximum=int)
SHORTAGE = _dtype(start_s=float, end_s=float)
LOGGED = _dtype(at_s=float, policy=int, verdict=int, before=int, after=int)
CAPACITY = _dtype(at_s=float, desired=int, in_service=int)
READING = _dtype(
    concurrency=int,
    ttl_s=float,
    metric_delay_s=float,
    announcement_delay_s=float,
    scale_in_takes_s=float,
    counts_inflight=int,
    backlog_at_zero=int,
    never_from_zero=int,
    drains=int,
    refuses=int,
    range_plus_third=int,
    setup_is_billed=int,
)
STATE = _dtype(
    now_s=float,
    end_s=float,
    # The capacity: bounds, what a decision wants, what is requested, what serves.
    minimum=int,
    maximum=int,
    wanted=int,
    desired=int,
    serving=int,
    instances=int,
    scale_in_ends_s=float,
    # The queue: arrivals so far, the first one not taken, those to start again, those in service.
    arrived=int,
    head=int,
    again=int,
    working=int,
    draining=int,
    # The next event, and the instance, slot or alarm that it concerns.
    instance=int,
    slot=int,
    alarm=int,
    next_alarm_s=float,
    next_look_s=float,
    looks=int,
    next_scheduled=int,
    # The run's totals.
    starts=int,
    peak=int,
    expired=int,
    interrupted=int,
    wake_ups=int,
    detected_s=float,
    logged=int,
    changes=int,
    work_s=float,
    setup_s=float,
    gaps_s=float,
    tail_s=float,
    over_shoot_s=float,
    lost_s=float,
)


class Rules(NamedTuple):
    """A plan's policies with their cooldowns, and its alarms with their states."""

    policies: np.ndarray
    steps: np.ndarray
    alarms: np.ndarray


def from_plan(plan: ScalingPlan, unsettled: Unsettled) -> Rules:
    """A plan's policies and alarms as records, in the order of the policies, before any has fired.

    Target tracking has a high alarm and then a low one, unless its scale-in is disabled.
    """
    alarms: list[tuple] = []
    policies: list[tuple] = []
    steps: list[Step] = []
    for index, policy in enumerate(plan.policies):
        first = len(steps)
        if isinstance(policy, TargetTrackingPolicy):
            high, low = tracking_alarms(policy, unsettled)
            on = (policy.metric, policy.statistic, TRACKING_PERIOD_S)
            alarms.append(_alarm(index, high, *on, scales_in=False))
            if low is not None:
                alarms.append(_alarm(index, low, *on, scales_in=True))
            kind = (1, policy.target, 0, 0)
        else:
            assert isinstance(policy, StepScalingPolicy)
            for alarm in policy.alarms:
                on = (alarm.metric, alarm.statistic, alarm.period_s)
                alarms.append(_alarm(index, alarm, *on, scales_in=False))
            steps.extend(steps_of(policy))
            adjustment = ADJUSTMENT_CODES[policy.adjustment_type]
            kind = (0, 0.0, adjustment, policy.min_adjustment_magnitude or 0)
        cooldown = vars(Cooldown.of(policy))
        policies.append((*kind, first, len(steps), *cooldown.values()))
    return Rules(
        policies=np.array(policies, POLICY),
        steps=np.array(steps, STEP),
        alarms=np.array(alarms, ALARM),
    )


def _alarm(
    policy: int,
    rule: AlarmRule,
    metric: Metric,
    statistic: str,
    period_s: int,
    *,
    scales_in: bool,
) -> tuple:
    first, times = FACTORS.get(metric, (metric, None))
    return (
        policy,
        METRICS.index(first),
        METRICS.index(times) if times else NONE,
        STATISTIC_CODES[statistic],
        period_s,
        evaluated_every_s(period_s),
        COMPARISON_CODES[rule.comparison],
        rule.threshold,
        rule.evaluation_periods,
        rule.datapoints_to_alarm,
        MISSING_DATA_CODES[rule.treat_missing_data],
        scales_in,
        math.inf,
        AlarmState.INSUFFICIENT_DATA,
        -math.inf,
    )
