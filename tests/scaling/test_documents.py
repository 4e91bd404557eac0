"""Plans as AWS's documents: nothing is lost on the way there and back, by drawn plans."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_inference.scaling import documents
from async_inference.scaling.plan import (
    FACTORS,
    AdjustmentType,
    AlarmRule,
    Comparison,
    Metric,
    MetricAlarm,
    MissingData,
    ScheduledAction,
    StepAdjustment,
    StepScaling,
    StepScalingPolicy,
    TargetTracking,
    TargetTrackingPolicy,
)

ARN = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:policyName/drawn"
NUMBERS = st.floats(-1000, 1000).map(lambda number: round(number, 6))
ANNOUNCED = Metric.REQUESTS_WITHOUT_CAPACITY
QUEUE = [metric for metric in Metric if metric != ANNOUNCED]
STATISTICS = st.sampled_from(["Average", "Maximum", "Minimum", "Sum", "SampleCount"])


@st.composite
def alarms(draw, metrics=QUEUE, statistics=STATISTICS, periods_s=(60, 120, 300)) -> MetricAlarm:
    periods = draw(st.integers(1, 20))
    return MetricAlarm(
        metric=draw(st.sampled_from(metrics)),
        statistic=draw(statistics),
        comparison=draw(st.sampled_from(Comparison)),
        threshold=draw(NUMBERS),
        period_s=draw(st.sampled_from(periods_s)),
        evaluation_periods=periods,
        datapoints_to_alarm=draw(st.integers(1, periods)),
        treat_missing_data=draw(st.sampled_from(MissingData)),
    )


@st.composite
def step_policies(draw) -> StepScalingPolicy:
    inner = draw(st.lists(NUMBERS, min_size=1, max_size=4, unique=True).map(sorted))
    # Open above; below as well where a breach can go there.
    bounds = [*[None] * (inner[0] < 0 or draw(st.booleans())), *inner, None]
    steps = tuple(
        StepAdjustment(lower_bound=low, upper_bound=high, adjustment=draw(st.integers(0, 50)))
        for low, high in pairwise(bounds)
    )
    return StepScalingPolicy(
        name="drawn",
        alarm=draw(alarms()),
        more_alarms=draw(
            st.just(())
            | st.tuples(alarms([ANNOUNCED], statistics=st.just("Sum"), periods_s=(10, 30, 60)))
        ),
        adjustment_type=draw(st.sampled_from(AdjustmentType)),
        steps=steps,
        min_adjustment_magnitude=draw(st.none() | st.integers(1, 9)),
        metric_aggregation_type=draw(st.sampled_from(["Average", "Minimum", "Maximum"])),
        cooldown_s=draw(st.integers(0, 3600)),
    )


TRACKING_POLICIES = st.builds(
    TargetTrackingPolicy,
    name=st.just("drawn"),
    metric=st.sampled_from([metric for metric in QUEUE if metric not in FACTORS]),
    statistic=STATISTICS,
    target=st.floats(0.001, 1000),
    scale_out_cooldown_s=st.integers(0, 3600),
    scale_in_cooldown_s=st.integers(0, 3600),
    disable_scale_in=st.booleans(),
)


def deployed(policy: StepScalingPolicy | TargetTrackingPolicy) -> tuple[dict, list[dict]]:
    """What AWS would describe of a policy and its alarms."""
    document = documents.policy_document(policy, "echo") | {"PolicyARN": ARN}
    if isinstance(policy, TargetTrackingPolicy):
        return document, []
    return document, [
        documents.alarm_document(alarm, documents.metric_stat(alarm, "echo"))
        | {"AlarmActions": [ARN]}
        for alarm in policy.alarms
    ]


@given(policy=step_policies() | TRACKING_POLICIES)
def test_a_deployed_policy_read_back_is_the_policy(policy):
    assert list(documents.plan_policies(*deployed(policy))) == [policy]


@given(policy=step_policies() | TRACKING_POLICIES)
def test_what_the_provider_takes_read_back_is_the_document(policy):
    """Pulumi's state has camelCase, the aws package's bounds are text."""
    written = [documents.policy_document(policy, "echo")]
    if isinstance(policy, StepScalingPolicy):
        on = documents.metric_stat(policy.alarm, "echo")
        written.append(documents.alarm_document(policy.alarm, on))

    for document in written:
        state = camel(documents.provider_inputs(document))

        assert documents.from_provider(state) == document


def camel(value):
    """snake_case keys as Pulumi's state has them; an alarm's dimensions keep their names."""
    if isinstance(value, dict):
        return {
            re.sub("_(.)", lambda found: found[1].upper(), k): camel(v) for k, v in value.items()
        }
    return [camel(each) for each in value] if isinstance(value, list) else value


@given(
    action=st.builds(
        ScheduledAction,
        name=st.just("night"),
        schedule=st.sampled_from(
            ["cron(0 19 * * ? *)", "rate(2 hours)", "at(2027-01-01T00:00:00)"]
        ),
        timezone=st.sampled_from(["UTC", "Europe/Zurich"]),
        min_capacity=st.integers(0, 3),
        max_capacity=st.none() | st.integers(3, 9),
    )
)
def test_a_scheduled_action_read_back_is_the_action(action):
    assert documents.schedule(documents.schedule_document(action)) == action


def test_what_a_document_leaves_out_is_what_aws_fills_in():
    steps, _ = documents.policy(
        {
            "PolicyName": "p",
            "PolicyType": "StepScaling",
            "StepScalingPolicyConfiguration": {
                "AdjustmentType": "ChangeInCapacity",
                "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
            },
        }
    )
    rule, _ = documents.alarm(
        {"ComparisonOperator": "GreaterThanThreshold", "Threshold": 1, "EvaluationPeriods": 3}
    )

    one_more = StepAdjustment(lower_bound=0, adjustment=1)
    assert steps == StepScaling(name="p", steps=(one_more,), cooldown_s=300)
    assert rule == AlarmRule(
        comparison=Comparison.GREATER, threshold=1, evaluation_periods=3, datapoints_to_alarm=3
    )


def test_a_predefined_metric_is_the_variants_own():
    """It is never published for asynchronous endpoints (docs/aws-facts.md#metrics)."""
    tracking, tracked = documents.policy(
        {
            "PolicyName": "p",
            "PolicyType": "TargetTrackingScaling",
            "ResourceId": "endpoint/echo/variant/AllTraffic",
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": 70,
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
                },
            },
        }
    )

    assert tracking == TargetTracking(name="p", target=70)
    assert tracked is not None
    assert tracked.series.name == "InvocationsPerInstance"
    assert dict(tracked.series.dimensions) == {"EndpointName": "echo", "VariantName": "AllTraffic"}


@pytest.mark.parametrize(
    "change",
    [
        {"ActionsEnabled": False},
        {"AlarmActions": []},
        {"MetricName": "InvocationsPerInstance"},
        {"Namespace": "Mine"},
        {"Dimensions": []},
        {"Statistic": None, "ExtendedStatistic": "p99"},
        {"MetricName": None},
    ],
)
def test_an_alarm_that_no_plan_can_say_runs_no_policy_of_one(change):
    policy = StepScalingPolicy(
        name="p",
        alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=1),
        steps=(StepAdjustment(lower_bound=0, adjustment=1),),
    )
    document, (alarm,) = deployed(policy)

    assert list(documents.plan_policies(document, [alarm])) == [policy]
    assert list(documents.plan_policies(document, [alarm | change])) == []


@pytest.mark.parametrize("kind", ["PredictiveScaling", "SimpleScaling"])
def test_a_policy_of_another_type_is_refused(kind):
    with pytest.raises(ValueError, match=kind):
        documents.policy({"PolicyName": "p", "PolicyType": kind})
