"""QueueScaling registers a plan number for number; whether AWS accepts it, only a deploy proves."""

import pytest

from async_inference.scaling import plan as plans
from async_inference.scaling.plan import (
    AdjustmentType,
    Metric,
    MetricAlarm,
    ScalingPlan,
    ScalingRules,
    ScheduledAction,
    StepAdjustment,
    StepScalingPolicy,
)
from components.queue_scaling import QueueScaling, QueueScalingArgs, slug, summary

TARGET = "aws:appautoscaling/target:Target"
POLICY = "aws:appautoscaling/policy:Policy"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
SCHEDULE = "aws:appautoscaling/scheduledAction:ScheduledAction"
COMPONENT = "async-inference:index:QueueScaling"


def bounded(rules: ScalingRules, minimum: int = 0, maximum: int = 5) -> ScalingPlan:
    return ScalingPlan(
        min_capacity=minimum,
        max_capacity=maximum,
        policies=rules.policies,
        schedules=rules.schedules,
    )


def scaling(name: str = "demo", plan: ScalingPlan | None = None, endpoint: str = "sdxl"):
    return QueueScaling(
        name,
        QueueScalingArgs(
            endpoint_name=endpoint,
            variant_name="AllTraffic",
            registered_for="sdxl-config-1",
            plan=plan or bounded(plans.DOCUMENTED),
            tags={"team": "images"},
        ),
    )


def test_the_documented_plan_is_a_target_two_policies_and_one_alarm(register):
    record = register(scaling)

    assert record.keys == {
        (COMPONENT, "demo"),
        (TARGET, "demo-target"),
        (POLICY, "demo-invocations-policy"),
        (POLICY, "demo-hasbacklogwithoutcapacity-policy"),
        (ALARM, "demo-hasbacklogwithoutcapacity-alarm"),
    }


def test_the_tuned_plan_is_rendered_like_any_other_with_its_memory_of_two_hours(register):
    record = register(lambda: scaling(plan=bounded(plans.TUNED)))

    names = ("wakeup", "flood", "thinning", "sleep")
    assert record.keys == {
        (COMPONENT, "demo"),
        (TARGET, "demo-target"),
        *((POLICY, f"demo-{name}-policy") for name in names),
        *((ALARM, f"demo-{name}-alarm") for name in names),
    }
    sleep = record[ALARM, "demo-sleep-alarm"].inputs
    assert (sleep["datapointsToAlarm"], sleep["evaluationPeriods"]) == (84, 120)
    steps = record[POLICY, "demo-sleep-policy"].inputs["stepScalingPolicyConfiguration"]
    assert steps["adjustmentType"] == "PercentChangeInCapacity"
    assert steps["stepAdjustments"] == [{"metricIntervalUpperBound": "0", "scalingAdjustment": -50}]


def test_a_policy_that_uses_announcements_is_run_by_two_alarms_of_one_cooldown(register):
    record = register(lambda: scaling(plan=bounded(plans.ANNOUNCED)))

    starved = record[ALARM, "demo-wakeup-alarm"].inputs
    announced = record[ALARM, "demo-wakeup-alarm-2"].inputs
    assert starved["alarmActions"] == announced["alarmActions"]
    assert (starved["namespace"], starved["metricName"]) == (
        "AWS/SageMaker",
        "HasBacklogWithoutCapacity",
    )
    assert (announced["namespace"], announced["metricName"]) == (
        "AsyncInference",
        "RequestsWithoutCapacity",
    )
    assert announced["dimensions"] == {"EndpointName": "sdxl"}
    assert (announced["statistic"], announced["period"]) == ("Sum", 10)
    assert announced["treatMissingData"] == "notBreaching"


def test_the_target_counts_the_variants_instances_within_the_plans_bounds(register):
    target = register(lambda: scaling(plan=bounded(plans.DOCUMENTED, 0, 7)))[TARGET, "demo-target"]

    assert target.inputs == {
        "serviceNamespace": "sagemaker",
        "scalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "resourceId": "endpoint/sdxl/variant/AllTraffic",
        "minCapacity": 0,
        "maxCapacity": 7,
        "tags": {"team": "images"},
    }


def test_target_tracking_follows_the_backlog_per_instance_with_the_one_dimension(register):
    policy = register(scaling)[POLICY, "demo-invocations-policy"]

    assert policy.inputs == {
        "name": "Invocations-ScalingPolicy",
        "policyType": "TargetTrackingScaling",
        "serviceNamespace": "sagemaker",
        "scalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "resourceId": "endpoint/sdxl/variant/AllTraffic",
        "targetTrackingScalingPolicyConfiguration": {
            "targetValue": 3.0,
            "customizedMetricSpecification": {
                "namespace": "AWS/SageMaker",
                "metricName": "ApproximateBacklogSizePerInstance",
                "dimensions": [{"name": "EndpointName", "value": "sdxl"}],
                "statistic": "Average",
            },
            "scaleOutCooldown": 30,
            "scaleInCooldown": 30,
            "disableScaleIn": False,
        },
    }


def test_the_wake_up_adds_one_instance(register):
    policy = register(scaling)[POLICY, "demo-hasbacklogwithoutcapacity-policy"]

    assert policy.inputs["policyType"] == "StepScaling"
    assert policy.inputs["stepScalingPolicyConfiguration"] == {
        "adjustmentType": "ChangeInCapacity",
        "metricAggregationType": "Average",
        "cooldown": 30,
        "stepAdjustments": [{"metricIntervalLowerBound": "0", "scalingAdjustment": 1}],
    }


def test_the_alarm_on_a_backlog_without_capacity_runs_the_wake_up(register):
    record = register(scaling)
    alarm = record[ALARM, "demo-hasbacklogwithoutcapacity-alarm"]

    assert alarm.inputs == {
        "alarmDescription": ("Runs the scaling policy HasBacklogWithoutCapacity-ScalingPolicy."),
        "namespace": "AWS/SageMaker",
        "metricName": "HasBacklogWithoutCapacity",
        "dimensions": {"EndpointName": "sdxl"},
        "statistic": "Average",
        "comparisonOperator": "GreaterThanOrEqualToThreshold",
        "threshold": 0.5,
        "period": 60,
        "evaluationPeriods": 1,
        "datapointsToAlarm": 1,
        "treatMissingData": "missing",
        "alarmActions": [
            "arn:aws:appautoscaling:us-east-1:123456789012:"
            "policy/HasBacklogWithoutCapacity-ScalingPolicy"
        ],
        "tags": {"team": "images"},
    }
    assert "demo-hasbacklogwithoutcapacity-policy" in alarm.input_dependencies["alarmActions"]


def test_the_alarm_is_auto_named_since_an_existing_name_would_be_updated_silently(register):
    assert "name" not in register(scaling)[ALARM, "demo-hasbacklogwithoutcapacity-alarm"].inputs


def test_policies_wait_for_the_target(register):
    policy = register(scaling)[POLICY, "demo-invocations-policy"]

    assert policy.input_dependencies["resourceId"] == {"demo-target"}


def test_policies_and_schedules_are_put_one_after_the_other(register):
    """Changes of one target at the same time are refused (TF #17915)."""
    nights = ScheduledAction(name="nights", schedule="rate(1 day)", max_capacity=2)
    days = ScheduledAction(name="days", schedule="rate(1 day)", max_capacity=5)
    rules = ScalingRules(policies=plans.DOCUMENTED.policies, schedules=(nights, days))
    record = register(lambda: scaling(plan=bounded(rules)))

    waits = {entry.name: entry.depends_on for entry in record.registrations}
    assert "demo-target" in waits["demo-invocations-policy"]
    assert "demo-invocations-policy" in waits["demo-hasbacklogwithoutcapacity-policy"]
    assert "demo-hasbacklogwithoutcapacity-policy" in waits["demo-nights-schedule"]
    assert "demo-nights-schedule" in waits["demo-days-schedule"]


def test_another_configuration_registers_target_policies_and_schedules_anew(register):
    """Deregistering the target (DG endpoint-scaling) deletes the others with it (AAS)."""
    nights = ScheduledAction(name="nights", schedule="rate(1 day)", max_capacity=2)
    rules = ScalingRules(policies=plans.DOCUMENTED.policies, schedules=(nights,))
    record = register(lambda: scaling(plan=bounded(rules)))

    anew = [entry for entry in record.registrations if entry.type in (TARGET, POLICY, SCHEDULE)]
    assert len(anew) == 4
    assert {entry.replacement_trigger for entry in anew} == {"sdxl-config-1"}
    assert all(entry.delete_before_replace for entry in anew), (
        "registering is an upsert: created first, the new target would be deleted as the old one"
    )


def test_every_child_belongs_to_the_component(register):
    record = register(scaling)

    assert {entry.parent for entry in record.registrations if entry.type != COMPONENT} == {"demo"}


def test_two_scalings_in_one_stack_do_not_collide(register):
    record = register(lambda: (scaling("one", endpoint="a"), scaling("two", endpoint="b")))

    names = [(entry.type, entry.name) for entry in record.registrations]
    assert len(names) == len(set(names)) == 10


def test_steps_keep_their_open_ends_and_fractional_bounds(register):
    rules = ScalingRules(
        policies=(
            StepScalingPolicy(
                name="backlog",
                adjustment_type=AdjustmentType.PERCENT_CHANGE_IN_CAPACITY,
                min_adjustment_magnitude=2,
                alarm=MetricAlarm(
                    metric=Metric.BACKLOG_SIZE,
                    threshold=12,
                    evaluation_periods=3,
                    datapoints_to_alarm=2,
                ),
                steps=(
                    StepAdjustment(lower_bound=0, upper_bound=2.5, adjustment=10),
                    StepAdjustment(lower_bound=2.5, adjustment=30),
                ),
            ),
        )
    )

    record = register(lambda: scaling(plan=bounded(rules, minimum=1)))

    configuration = record[POLICY, "demo-backlog-policy"].inputs["stepScalingPolicyConfiguration"]
    assert configuration["minAdjustmentMagnitude"] == 2
    assert configuration["stepAdjustments"] == [
        {
            "metricIntervalLowerBound": "0",
            "metricIntervalUpperBound": "2.5",
            "scalingAdjustment": 10,
        },
        {"metricIntervalLowerBound": "2.5", "scalingAdjustment": 30},
    ]
    alarm = record[ALARM, "demo-backlog-alarm"].inputs
    assert (alarm["datapointsToAlarm"], alarm["evaluationPeriods"]) == (2, 3)


def test_a_schedule_sets_both_bounds_in_its_time_zone(register):
    rules = ScalingRules(
        policies=plans.DOCUMENTED.policies,
        schedules=(
            ScheduledAction(
                name="warm-mornings",
                schedule="cron(0 8 ? * MON-FRI *)",
                timezone="Europe/Berlin",
                min_capacity=1,
                max_capacity=5,
            ),
        ),
    )

    action = register(lambda: scaling(plan=bounded(rules)))[SCHEDULE, "demo-warm-mornings-schedule"]

    assert action.inputs == {
        "name": "warm-mornings",
        "serviceNamespace": "sagemaker",
        "scalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "resourceId": "endpoint/sdxl/variant/AllTraffic",
        "schedule": "cron(0 8 ? * MON-FRI *)",
        "timezone": "Europe/Berlin",
        "scalableTargetAction": {"minCapacity": 1, "maxCapacity": 5},
    }


@pytest.mark.parametrize(
    ("policy_name", "expected"),
    [
        ("Invocations-ScalingPolicy", "invocations"),
        ("Thin out (idle)", "thin-out-idle"),
        ("-ScalingPolicy", "scalingpolicy"),
    ],
)
def test_a_policys_name_becomes_part_of_a_pulumi_name(policy_name, expected):
    assert slug(policy_name) == expected


def test_the_summary_names_bounds_policies_and_the_wake_up():
    assert summary(bounded(plans.DOCUMENTED)) == (
        "0..5 instances; tracks ApproximateBacklogSizePerInstance at 3; ChangeInCapacity +1 on "
        "HasBacklogWithoutCapacity GreaterThanOrEqualToThreshold 0.5 (1 of 1 x 60 s)"
    )
