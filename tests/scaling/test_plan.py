"""A plan refuses what AWS would refuse, knows whether it wakes, and warns of what nobody wants."""

import pytest
from pydantic import ValidationError

from async_inference.scaling.plan import (
    AWS,
    DOCUMENTED,
    AdjustmentType,
    Comparison,
    Metric,
    MetricAlarm,
    MissingData,
    ScalingPlan,
    ScalingRules,
    ScheduledAction,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)


def plan(*policies, minimum: int = 0, maximum: int = 5) -> ScalingPlan:
    return ScalingPlan(min_capacity=minimum, max_capacity=maximum, policies=policies)


def step(
    metric: Metric = Metric.BACKLOG_SIZE,
    comparison: Comparison = Comparison.GREATER_OR_EQUAL,
    threshold: float = 1,
    adjustment: int = 1,
    name: str = "step",
    kind: AdjustmentType = AdjustmentType.CHANGE_IN_CAPACITY,
) -> StepScalingPolicy:
    grows = comparison in (Comparison.GREATER, Comparison.GREATER_OR_EQUAL)
    bound = StepAdjustment(
        lower_bound=0 if grows else None, upper_bound=None if grows else 0, adjustment=adjustment
    )
    return StepScalingPolicy(
        name=name,
        alarm=MetricAlarm(metric=metric, comparison=comparison, threshold=threshold),
        adjustment_type=kind,
        steps=(bound,),
    )


def test_the_documented_preset_is_the_reference_system_number_for_number():
    """docs/aws-facts.md#reference-system."""
    tracking, wake = DOCUMENTED.policies

    assert isinstance(tracking, TargetTrackingPolicy)
    assert (tracking.name, tracking.target) == ("Invocations-ScalingPolicy", 3.0)
    assert (tracking.metric, tracking.statistic) == ("ApproximateBacklogSizePerInstance", "Average")
    assert (tracking.scale_out_cooldown_s, tracking.scale_in_cooldown_s) == (30, 30)
    assert isinstance(wake, StepScalingPolicy)
    assert wake.name == "HasBacklogWithoutCapacity-ScalingPolicy"
    assert (wake.adjustment_type, wake.cooldown_s) == ("ChangeInCapacity", 30)
    assert wake.steps == (StepAdjustment(lower_bound=0, adjustment=1),)
    assert wake.alarm == MetricAlarm(
        metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
        statistic="Average",
        comparison=Comparison.GREATER_OR_EQUAL,
        threshold=0.5,
        period_s=60,
        evaluation_periods=1,
        datapoints_to_alarm=1,
        treat_missing_data=MissingData.MISSING,
    )


def test_the_aws_presets_wake_up_is_2_of_2_at_1_with_300_s():
    _, wake = AWS.policies

    assert isinstance(wake, StepScalingPolicy)
    assert (wake.alarm.datapoints_to_alarm, wake.alarm.evaluation_periods) == (2, 2)
    assert (wake.alarm.threshold, wake.cooldown_s) == (1, 300)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ([(0, 10), (5, None)], "steps overlap between 5 and 10"),
        ([(0, 10), (12, None)], "no step covers 10 to 12"),
        ([(0, None), (5, None)], "steps overlap"),
        ([(10, 0)], "must be below upperBound"),
        ([(None, None)], "needs a lowerBound or an upperBound"),
        ([(0, 10)], "no step covers 10 and more; let the highest have no upperBound"),
        ([(-5, 0)], "no step covers less than -5; let the lowest have no lowerBound"),
    ],
)
def test_steps_neither_overlap_nor_leave_gaps_nor_end_where_a_breach_goes_on(bounds, sentence):
    with pytest.raises(ValidationError, match=sentence):
        StepScalingPolicy(
            name="steps",
            alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=1),
            steps=tuple(
                StepAdjustment(lower_bound=low, upper_bound=high, adjustment=1)
                for low, high in bounds
            ),
        )


@pytest.mark.parametrize(
    "bounds", [[(0, None)], [(None, 0)], [(0, 10), (10, None)], [(None, -5), (-5, 0)], [(2, None)]]
)
def test_steps_that_reach_as_far_as_a_breach_can_are_taken(bounds):
    StepScalingPolicy(
        name="steps",
        alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=1),
        steps=tuple(
            StepAdjustment(lower_bound=low, upper_bound=high, adjustment=1) for low, high in bounds
        ),
    )


def test_an_exact_capacity_below_zero_is_refused():
    with pytest.raises(ValidationError, match="adjustment -1 is not a capacity"):
        step(kind=AdjustmentType.EXACT_CAPACITY, adjustment=-1)
    step(kind=AdjustmentType.EXACT_CAPACITY, adjustment=0)


@pytest.mark.parametrize("period_s", [10, 20, 30])
def test_a_policys_alarm_has_a_point_in_each_of_its_periods(period_s):
    """SageMaker publishes one a minute; an alarm on a custom metric may look more often."""
    alarm = MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=1, period_s=period_s)

    with pytest.raises(ValidationError, match="use a multiple of 60"):
        StepScalingPolicy(
            name="fast", alarm=alarm, steps=(StepAdjustment(lower_bound=0, adjustment=1),)
        )


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"min_capacity": 6}, "schedule day: minCapacity 6 exceeds the plan's maxCapacity 5"),
        ({"max_capacity": 0}, "schedule day: maxCapacity 0 is below the plan's minCapacity 1"),
    ],
)
def test_a_schedules_bounds_fit_those_that_it_leaves_alone(bounds, sentence):
    day = ScheduledAction(name="day", schedule="rate(1 day)", **bounds)

    with pytest.raises(ValidationError, match=sentence):
        ScalingPlan(min_capacity=1, max_capacity=5, schedules=(day,))
    both = ScheduledAction(name="day", schedule="rate(1 day)", min_capacity=6, max_capacity=9)
    ScalingPlan(min_capacity=1, max_capacity=5, schedules=(both,))


def test_a_policy_has_at_most_20_steps():
    with pytest.raises(ValidationError, match="at most 20"):
        StepScalingPolicy(
            name="many",
            alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=1),
            steps=tuple(
                StepAdjustment(lower_bound=n, upper_bound=n + 1, adjustment=1) for n in range(21)
            ),
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"period_s": 45}, "10, 20, 30 or a multiple of 60"),
        ({"datapoints_to_alarm": 3}, "exceeds evaluationPeriods 1"),
        ({"evaluation_periods": 200, "period_s": 600}, "must not exceed one day"),
    ],
)
def test_an_alarms_window_is_one_that_cloudwatch_evaluates(change, sentence):
    with pytest.raises(ValidationError, match=sentence):
        MetricAlarm.model_validate({"metric": "ApproximateBacklogSize", "threshold": 1, **change})


def test_metrics_that_asynchronous_endpoints_never_publish_are_refused():
    """A policy on InvocationsPerInstance never fires (docs/aws-facts.md#metrics)."""
    with pytest.raises(ValidationError, match="ApproximateBacklogSize"):
        TargetTrackingPolicy.model_validate(
            {"name": "never", "metric": "InvocationsPerInstance", "target": 70}
        )


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["out", "out"], "is used twice"),
        (["Wake up", "wake-up"], "must differ by more than case and punctuation"),
        (["wake", "wake-ScalingPolicy"], "must differ by more than case and punctuation"),
        (["--"], "needs a letter or a digit"),
    ],
)
def test_policies_whose_resources_would_have_one_name_are_refused(names, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ScalingRules(policies=tuple(step(name=name) for name in names))


def test_an_exact_capacity_meant_for_scale_in_is_warned_about():
    idle = step(
        comparison=Comparison.LESS, threshold=1, kind=AdjustmentType.EXACT_CAPACITY, name="idle"
    )

    (warning,) = plan(*DOCUMENTED.policies, idle).warnings()

    assert warning.startswith("policy idle: ExactCapacity also raises the capacity")


def test_policies_that_fire_at_the_same_values_are_warned_about():
    out = step(threshold=5, name="out")
    into = step(comparison=Comparison.LESS_OR_EQUAL, threshold=8, adjustment=-1, name="in")

    (warning,) = plan(out, into).warnings()

    assert "policies out and in conflict" in warning
    assert "between 5 and 8" in warning


def test_the_presets_deserve_no_warning():
    for rules in (DOCUMENTED, AWS):
        assert list(plan(*rules.policies).warnings()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"schedule": "every day"}, "must be at"),
        ({"schedule": "cron(0 8 * * *)"}, "must have 6 fields"),
        ({"timezone": "Mars/Olympus"}, "not an IANA time zone"),
        ({"min_capacity": 3, "max_capacity": 1}, "exceeds maxCapacity"),
        ({"min_capacity": None}, "set minCapacity, maxCapacity or both"),
    ],
)
def test_a_schedule_that_aws_would_refuse_is_refused(fields, sentence):
    good = {"name": "warm", "schedule": "rate(1 hour)", "min_capacity": 1}

    with pytest.raises(ValidationError, match=sentence):
        ScheduledAction.model_validate({**good, **fields})


def announced(**alarm: object) -> MetricAlarm:
    given = {"metric": Metric.REQUESTS_WITHOUT_CAPACITY, "statistic": "Sum", "threshold": 0.5}
    return MetricAlarm.model_validate(given | alarm)


def test_an_alarm_on_what_clients_announce_may_look_every_10_seconds():
    policy = step().model_copy(update={"more_alarms": (announced(period_s=10),)})

    found = StepScalingPolicy.model_validate(policy.model_dump())

    assert [alarm.period_s for alarm in found.alarms] == [60, 10]
    assert plan(found).uses_announcements
    assert not plan(step()).uses_announcements


def test_what_clients_announce_adds_up():
    with pytest.raises(ValidationError, match="clients publish counts, which must be added up"):
        announced(statistic="Average")


def test_nothing_tracks_what_clients_announce():
    with pytest.raises(ValidationError, match="which capacity does not influence"):
        TargetTrackingPolicy(name="track", metric=Metric.REQUESTS_WITHOUT_CAPACITY, target=3)


def test_a_further_alarm_on_the_queue_needs_whole_minutes_too():
    alarm = MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=1, period_s=10)

    with pytest.raises(ValidationError, match="is too short"):
        StepScalingPolicy.model_validate(step().model_dump() | {"more_alarms": [alarm]})
