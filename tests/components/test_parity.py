"""What the program registers is the plan that the rehearsal runs: read back, it is the same."""

from typing import Any

import pytest

from async_inference.scaling import documents
from async_inference.scaling.plan import PRESETS, ScalingPlan
from async_inference.stack import settings
from components.queue_scaling import QueueScaling, QueueScalingArgs
from tests.support import ROOT
from tests.support.plans import EVERYTHING
from tests.support.program import config_of, run
from tests.support.registrations import ACCOUNT_ID

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


def by_name(plan: ScalingPlan) -> dict[str, object]:
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
