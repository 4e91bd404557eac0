"""What the program registers is the plan that the rehearsal runs: read back, it is the same."""

from typing import Any

import pytest

from async_inference.scaling import documents
from async_inference.scaling.plan import PRESETS, ScalingPlan
from async_inference.stack import settings
from components.queue_scaling import QueueScaling, QueueScalingArgs
from tests.components.conftest import ACCOUNT_ID
from tests.components.test_program import ROOT, config_of, run

EVERYTHING = ScalingPlan.model_validate(
    {
        "minCapacity": 1,
        "maxCapacity": 9,
        "policies": [
            {
                "type": "StepScaling",
                "name": "percent",
                "adjustmentType": "PercentChangeInCapacity",
                "minAdjustmentMagnitude": 2,
                "metricAggregationType": "Maximum",
                "cooldownS": 0,
                "alarm": {
                    "metric": "ApproximateAgeOfOldestRequest",
                    "statistic": "Maximum",
                    "comparison": "GreaterThanThreshold",
                    "threshold": 0.1,
                    "periodS": 120,
                    "evaluationPeriods": 7,
                    "datapointsToAlarm": 3,
                    "treatMissingData": "notBreaching",
                },
                "steps": [
                    {"lowerBound": 0, "upperBound": 0.3, "adjustment": 10},
                    {"lowerBound": 0.3, "adjustment": 50},
                ],
            },
            {
                "type": "StepScaling",
                "name": "exact",
                "adjustmentType": "ExactCapacity",
                "alarm": {
                    "metric": "ApproximateBacklogSize",
                    "comparison": "LessThanOrEqualToThreshold",
                    "threshold": -2.5,
                },
                "steps": [{"upperBound": 0, "adjustment": 1}],
            },
            {
                "type": "StepScaling",
                "name": "wakes by metric math",
                "alarm": {"metric": "BacklogWithoutCapacity", "threshold": 0.5},
                "steps": [
                    {"lowerBound": 0, "upperBound": 8, "adjustment": 1},
                    {"lowerBound": 8, "adjustment": 4},
                ],
            },
            {
                "type": "TargetTrackingScaling",
                "name": "tracks",
                "metric": "ApproximateBacklogSize",
                "target": 0.7,
                "scaleOutCooldownS": 0,
                "scaleInCooldownS": 17,
                "disableScaleIn": True,
            },
        ],
        "schedules": [
            {
                "name": "morning",
                "schedule": "cron(0 7 ? * MON-FRI *)",
                "timezone": "Europe/Zurich",
                "minCapacity": 2,
            },
            {"name": "night", "schedule": "cron(0 19 * * ? *)", "maxCapacity": 3},
        ],
    }
)


POLICY_ARN = f"arn:aws:appautoscaling:us-east-1:{ACCOUNT_ID}:policy"
"""As the mocks make it up."""


def registered_plan(record: Any) -> ScalingPlan:
    """The plan that Application Auto Scaling and CloudWatch would run."""
    of_type = {
        kind: [entry.inputs for entry in record.registrations if entry.type.endswith(f":{kind}")]
        for kind in ("Target", "Policy", "MetricAlarm", "ScheduledAction")
    }
    (target,) = of_type["Target"]
    alarms = [documents.from_provider(inputs) for inputs in of_type["MetricAlarm"]]
    return ScalingPlan(
        min_capacity=target["minCapacity"],
        max_capacity=target["maxCapacity"],
        policies=tuple(
            planned
            for inputs in of_type["Policy"]
            for planned in documents.plan_policies(
                documents.from_provider(inputs)
                | {"PolicyName": inputs["name"], "PolicyARN": f"{POLICY_ARN}/{inputs['name']}"},
                alarms,
            )
        ),
        schedules=tuple(
            documents.schedule(
                documents.from_provider(inputs) | {"ScheduledActionName": inputs["name"]}
            )
            for inputs in of_type["ScheduledAction"]
        ),
    )


def by_name(plan: ScalingPlan) -> dict[str, Any]:
    """A plan as values; the engine registers in any order, and AWS keeps none."""
    return {
        "bounds": (plan.min_capacity, plan.max_capacity),
        "policies": {policy.name: policy for policy in plan.policies},
        "schedules": {action.name: action for action in plan.schedules},
    }


@pytest.mark.parametrize("stack", ["dev", "prod", "local"])
def test_what_a_stack_registers_is_what_its_rehearsal_runs(register, monkeypatch, stack):
    monkeypatch.chdir(ROOT)

    record = register(run, config=config_of(stack), stack=stack)

    rehearsed = settings.from_stack_file(ROOT / f"Pulumi.{stack}.yaml").plan
    assert by_name(registered_plan(record)) == by_name(rehearsed)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(EVERYTHING, id="everything"),
        *(
            pytest.param(
                ScalingPlan(min_capacity=0, max_capacity=5, policies=rules.policies), id=preset
            )
            for preset, rules in PRESETS.items()
        ),
    ],
)
def test_a_registered_plan_read_back_is_the_plan(register, plan):
    record = register(
        lambda: QueueScaling(
            "queue",
            QueueScalingArgs(
                endpoint_name="echo",
                variant_name="AllTraffic",
                registered_for="sdxl-config-1",
                plan=plan,
            ),
        )
    )

    assert by_name(registered_plan(record)) == by_name(plan)
