"""Whether a single request makes a plan scale out from zero, and after how long.

The answer comes from the rules of `alarms` and `autoscaler`, applied to the metrics of an endpoint
with one waiting request and no instance.
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
"""The second of each minute at which SageMaker samples the queue. AWS does not publish it; the
middle reproduces the published detection times (docs/aws-facts.md#wake-up: mean 150 s, range
151-269 s)."""

ALARM_PHASE_S = 60
"""The longest wait for an alarm's next evaluation (CW alarm evaluation: once a minute)."""


def wakes_from_zero(plan: ScalingPlan, unsettled: Unsettled) -> bool:
    """Whether one request makes a policy scale out from zero, or the minimum is above zero."""
    return plan.min_capacity > 0 or any(True for _ in _waits_s(plan, unsettled))


def detection_s(plan: ScalingPlan, unsettled: Unsettled) -> float | None:
    """Longest time in seconds from a request's arrival at an idle endpoint to the scale-out.

    The sum of: the time to the next sample, the rest of that minute, the alarm's other periods, the
    metrics' delay, and the time to the alarm's next evaluation. None if one request does not cause
    a scale-out.
    """
    waits_s = list(_waits_s(plan, unsettled))
    if not waits_s:
        return None
    return min(waits_s) + SAMPLED_AT_S + unsettled.metric_delay_s + ALARM_PHASE_S


def _waits_s(plan: ScalingPlan, unsettled: Unsettled) -> Iterator[float]:
    """Seconds until a policy's data is complete, for each that scales out for one request."""
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
    """Values of the metric while one request waits, and after how many seconds each is reached."""
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
            return  # Some clients do not publish it, so a wake-up must not depend on it alone.
        case Metric.AGE_OF_OLDEST_REQUEST:
            # It grows from 0; the policy's answer can change only where a step begins.
            steps = policy.steps if isinstance(policy, StepScalingPolicy) else ()
            bounds = [s.lower_bound for s in steps if s.lower_bound is not None]
            begins = {0.0, threshold, *(threshold + bound for bound in bounds)}
            for age_s in sorted({at for each in begins for at in (each, math.floor(each) + 1.0)}):
                if age_s >= 0:
                    yield age_s, age_s
