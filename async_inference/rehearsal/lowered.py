"""A scaling plan as arrays, the form in which the compiled simulation reads it."""

from typing import NamedTuple

import numpy as np

from async_inference.scaling.alarms import COMPARISON_CODES, MISSING_DATA_CODES, STATISTIC_CODES
from async_inference.scaling.autoscaler import (
    ADJUSTMENT_CODES,
    TRACKING_PERIOD_S,
    step_arrays,
    tracking_alarms,
)
from async_inference.scaling.plan import (
    Metric,
    MetricAlarm,
    ScalingPlan,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

METRICS = tuple(Metric)
# Columns of the arrays.
A_METRIC, A_COMPARISON, A_N, A_M, A_MISSING, A_MINUTES, A_POLICY = range(7)
A_SCALES_IN, A_STATISTIC = 7, 8
P_TRACKS, P_ADJUSTMENT, P_FIRST_STEP, P_END_STEP, P_MAGNITUDE = range(5)
V_TARGET, V_OUT_COOLDOWN_S, V_IN_COOLDOWN_S = range(3)


class Lowered(NamedTuple):
    """A plan as arrays, the form in which the compiled simulation reads it."""

    bounds: np.ndarray
    alarm_numbers: np.ndarray
    alarm_thresholds: np.ndarray
    policy_numbers: np.ndarray
    policy_values: np.ndarray
    steps: np.ndarray


def lower(plan: ScalingPlan, unsettled: Unsettled) -> Lowered:
    """Turn a plan into arrays."""
    alarms: list[tuple[MetricAlarm, int, bool]] = []
    policies, values, steps = [], [], []
    for index, policy in enumerate(plan.policies):
        if isinstance(policy, TargetTrackingPolicy):
            for rule, scales_in in zip(
                tracking_alarms(policy, unsettled), (False, True), strict=True
            ):
                if rule is not None:
                    alarm = MetricAlarm(
                        metric=policy.metric,
                        statistic=policy.statistic,
                        period_s=TRACKING_PERIOD_S,
                        **dict(rule),
                    )
                    alarms.append((alarm, index, scales_in))
            policies.append((1, 0, 0, 0, 0))
            values.append((policy.target, policy.scale_out_cooldown_s, policy.scale_in_cooldown_s))
            continue
        assert isinstance(policy, StepScalingPolicy)
        alarms.append((policy.alarm, index, False))
        first = len(steps)
        steps.extend(zip(*step_arrays(policy), strict=True))
        adjustment = ADJUSTMENT_CODES[policy.adjustment_type]
        magnitude = policy.min_adjustment_magnitude or 0
        policies.append((0, adjustment, first, len(steps), magnitude))
        values.append((0.0, policy.cooldown_s, policy.cooldown_s))
    return Lowered(
        bounds=np.array([plan.min_capacity, plan.max_capacity], dtype=np.int64),
        alarm_numbers=np.array(
            [
                (
                    METRICS.index(alarm.metric),
                    COMPARISON_CODES[alarm.comparison],
                    alarm.evaluation_periods,
                    alarm.datapoints_to_alarm,
                    MISSING_DATA_CODES[alarm.treat_missing_data],
                    # SageMaker publishes once a minute: a shorter period brings nothing.
                    max(1, alarm.period_s // 60),
                    policy,
                    scales_in,
                    STATISTIC_CODES[alarm.statistic],
                )
                for alarm, policy, scales_in in alarms
            ],
            dtype=np.int64,
        ).reshape(-1, 9),
        alarm_thresholds=np.array([alarm.threshold for alarm, _, _ in alarms], dtype=np.float64),
        policy_numbers=np.array(policies, dtype=np.int64).reshape(-1, 5),
        policy_values=np.array(values, dtype=np.float64).reshape(-1, 3),
        steps=np.array(steps, dtype=np.float64).reshape(-1, 3),
    )
