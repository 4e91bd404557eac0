"""Whether a plan leaves zero for a single request, and after how long.

Asked of the rules by which policies act (`alarms`, `autoscaler`), with what the metrics come to
while one request waits and no instance exists.
"""

import math
from collections.abc import Iterator

from async_inference.scaling.alarms import (
    COMPARISON_CODES,
    STATISTIC_CODES,
    breaches,
    period_statistic,
)
from async_inference.scaling.autoscaler import (
    TRACKING_PERIOD_S,
    Autoscaler,
    Request,
    tracking_alarms,
)
from async_inference.scaling.plan import (
    AlarmRule,
    Metric,
    MetricAlarm,
    ScalingPlan,
    ScalingPolicy,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

SAMPLED_AT_S = 30
"""When in a minute SageMaker's point of that minute is taken: not published; the middle reproduces
the published detection times (docs/aws-facts.md#wake-up: mean 150 s, range 151-269 s)."""

ALARM_PHASE_S = 60
"""An alarm is evaluated every minute, at its own phase (CW alarm evaluation)."""


def wakes_from_zero(plan: ScalingPlan, unsettled: Unsettled) -> bool:
    """Whether a single queued request makes some policy leave zero, or nothing goes there."""
    return plan.min_capacity > 0 or any(True for _ in _waits_s(plan, unsettled))


def detection_s(plan: ScalingPlan, unsettled: Unsettled) -> float | None:
    """Longest time from a request's arrival at an idle endpoint to the asking for an instance.

    Until the sample of the minute, the rest of that minute, the alarm's other periods, the delay of
    metrics, and the alarm's phase. None if a single request wakes nothing.
    """
    waits_s = list(_waits_s(plan, unsettled))
    if not waits_s:
        return None
    return min(waits_s) + SAMPLED_AT_S + unsettled.metric_delay_s + ALARM_PHASE_S


def _waits_s(plan: ScalingPlan, unsettled: Unsettled) -> Iterator[float]:
    """For each policy that one request at zero instances makes add: how long its data takes."""
    ways: list[tuple[ScalingPolicy, AlarmRule, MetricAlarm | TargetTrackingPolicy, int]] = []
    for policy in plan.policies:
        if isinstance(policy, StepScalingPolicy):
            ways += [(policy, alarm, alarm, alarm.period_s) for alarm in policy.alarms]
        else:
            high, _ = tracking_alarms(policy, unsettled)
            ways.append((policy, high, policy, TRACKING_PERIOD_S))
    for policy, rule, on, period_s in ways:
        lasts_s = rule.datapoints_to_alarm * period_s
        for value, aged_s in _values(policy, on.metric, rule.threshold, unsettled):
            minutes = max(1, period_s // 60)
            point = period_statistic(
                STATISTIC_CODES[on.statistic], value * minutes, minutes, value, value
            )
            if not breaches(point, COMPARISON_CODES[rule.comparison], rule.threshold):
                continue
            scaler = Autoscaler(0, plan.max_capacity, 0, unsettled)
            scaler.decide([Request(policy, point, rule.threshold)], 0.0)
            if scaler.desired > 0:
                yield lasts_s + aged_s
                break


def _values(
    policy: ScalingPolicy, metric: Metric, threshold: float, unsettled: Unsettled
) -> Iterator[tuple[float, float]]:
    """What the metric comes to while one request waits, and after how many seconds."""
    match metric:
        case (
            Metric.HAS_BACKLOG_WITHOUT_CAPACITY
            | Metric.BACKLOG_SIZE
            | Metric.BACKLOG_WITHOUT_CAPACITY
        ):
            yield 1.0, 0.0
        case Metric.BACKLOG_SIZE_PER_INSTANCE:
            if unsettled.backlog_per_instance_at_zero == "backlog":
                yield 1.0, 0.0
        case Metric.REQUESTS_WITHOUT_CAPACITY:
            return  # A client may not publish it, so that nothing may rest on it alone.
        case Metric.AGE_OF_OLDEST_REQUEST:
            # It grows from 0; what a policy does can change where a step begins, or just above.
            steps = policy.steps if isinstance(policy, StepScalingPolicy) else ()
            bounds = [s.lower_bound for s in steps if s.lower_bound is not None]
            begins = {0.0, threshold, *(threshold + bound for bound in bounds)}
            for age_s in sorted({at for each in begins for at in (each, math.floor(each) + 1.0)}):
                if age_s >= 0:
                    yield age_s, age_s
