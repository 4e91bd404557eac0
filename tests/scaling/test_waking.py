"""A plan wakes if a single request makes a policy add, by the rules that the policies act by."""

import pytest

from async_inference.scaling.autoscaler import Autoscaler, Request
from async_inference.scaling.plan import (
    AWS,
    DOCUMENTED,
    TUNED,
    AdjustmentType,
    Comparison,
    Metric,
    MetricAlarm,
    ScalingPlan,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled
from async_inference.scaling.waking import detection_s, wakes_from_zero

CHANGE, PERCENT, EXACT = AdjustmentType


def plan(*policies, maximum: int = 5) -> ScalingPlan:
    return ScalingPlan(min_capacity=0, max_capacity=maximum, policies=policies)


def step(
    *steps: StepAdjustment,
    metric: Metric = Metric.BACKLOG_SIZE,
    kind: AdjustmentType = CHANGE,
    **alarm: object,
) -> StepScalingPolicy:
    return StepScalingPolicy(
        name="step",
        alarm=MetricAlarm.model_validate({"metric": metric, "threshold": 1, **alarm}),
        adjustment_type=kind,
        steps=steps or (StepAdjustment(lower_bound=0, adjustment=1),),
    )


@pytest.mark.parametrize("rules", [DOCUMENTED, AWS, TUNED])
def test_the_presets_wake_for_a_single_request(rules):
    assert wakes_from_zero(plan(*rules.policies), Unsettled())


@pytest.mark.parametrize(
    ("policy", "wakes"),
    [
        (step(threshold=1), True),
        (step(threshold=2), False),
        (step(metric=Metric.AGE_OF_OLDEST_REQUEST, threshold=120), True),
        (step(StepAdjustment(lower_bound=0, adjustment=-1)), False),
        (step(StepAdjustment(lower_bound=0, adjustment=100), kind=PERCENT), False),
        (step(kind=EXACT), True),
        (step(comparison=Comparison.LESS), False),
        (step(threshold=5, statistic="Sum", period_s=300), True),
        (step(threshold=5, statistic="Maximum", period_s=300), False),
        (TargetTrackingPolicy(name="track", target=0.5), False),
    ],
)
def test_a_plan_wakes_only_if_one_request_makes_a_policy_add(policy, wakes):
    assert wakes_from_zero(plan(policy), Unsettled()) == wakes


def test_at_the_threshold_a_step_that_ends_there_adds():
    """Below the threshold the upper bound is inclusive (AAS StepAdjustment): the autoscaler adds,
    so the plan wakes."""
    policy = step(StepAdjustment(upper_bound=0, adjustment=1), comparison=Comparison.LESS_OR_EQUAL)
    scaler = Autoscaler(0, 5, 0, Unsettled())
    scaler.decide([Request(policy, 1.0, 1.0)], 0.0)

    assert scaler.desired == 1
    assert wakes_from_zero(plan(policy), Unsettled())


def test_a_plan_without_room_for_an_instance_does_not_wake():
    assert not wakes_from_zero(plan(step(), maximum=0), Unsettled())


def test_an_age_wakes_once_it_reaches_a_step_that_adds():
    late = (
        StepAdjustment(lower_bound=0, upper_bound=60, adjustment=0),
        StepAdjustment(lower_bound=60, adjustment=1),
    )
    policy = step(*late, metric=Metric.AGE_OF_OLDEST_REQUEST, threshold=120)

    # The age, the alarm's minute, and the 150 s until any metric is seen.
    assert detection_s(plan(policy), Unsettled()) == 120 + 60 + 60 + 150


def test_target_tracking_wakes_only_by_the_optimistic_reading_and_a_target_below_one():
    tracking = plan(TargetTrackingPolicy(name="track", target=0.5))
    page = Unsettled(target_tracking_from_zero="async_page")

    assert wakes_from_zero(tracking, page)
    assert not wakes_from_zero(plan(*DOCUMENTED.policies[:1]), page)


def test_the_longest_detection_is_that_of_the_published_runs():
    """Alarm 2 of 2: up to 269 s were published (docs/aws-facts.md#wake-up)."""
    assert detection_s(plan(*DOCUMENTED.policies), Unsettled()) == 210
    assert detection_s(plan(*AWS.policies), Unsettled()) == 270


def test_what_clients_announce_wakes_nothing_for_certain():
    """Another client may not announce: its request needs an alarm on the queue."""
    announced = MetricAlarm(
        metric=Metric.REQUESTS_WITHOUT_CAPACITY, statistic="Sum", threshold=0.5, period_s=10
    )
    starved = MetricAlarm(metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY, threshold=0.5)
    alone = StepScalingPolicy(
        name="step", alarm=announced, steps=(StepAdjustment(lower_bound=0, adjustment=1),)
    )
    both = alone.model_copy(update={"more_alarms": (starved,)})

    assert not wakes_from_zero(plan(alone), Unsettled())
    assert wakes_from_zero(plan(both), Unsettled())
    assert detection_s(plan(both), Unsettled()) == 210
