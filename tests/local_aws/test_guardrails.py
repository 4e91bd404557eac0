"""A DeploymentConfig as steps, and what SageMaker refuses (docs/aws-facts.md#guardrails)."""

from typing import Any

import pytest

from async_inference.local_aws.fleet.deployment import Step, plan_deployment, problems


def blue_green(kind: str, wait_s: int = 60, **more) -> Any:
    sizes = {key: more.pop(key) for key in ("CanarySize", "LinearStepSize") if key in more}
    routing = {"Type": kind, "WaitIntervalInSeconds": wait_s, **sizes}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, **more}}


def rolling(kind: str, value: int) -> Any:
    size = {"Type": kind, "Value": value}
    return {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": 60}}


def percent(value: int) -> dict:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def test_all_at_once_is_one_step_that_is_watched():
    deployment = plan_deployment(blue_green("ALL_AT_ONCE", TerminationWaitInSeconds=30), 4)

    assert deployment.steps == (Step(4, 60),)
    assert deployment.termination_wait_s == 30


def test_a_canary_is_a_part_of_the_new_fleet_then_all_of_it():
    deployment = plan_deployment(blue_green("CANARY", CanarySize=percent(25)), 4)

    assert deployment.steps == (Step(1, 60), Step(4, 60))


def test_linear_steps_end_with_the_whole_fleet():
    steps = plan_deployment(blue_green("LINEAR", LinearStepSize=percent(40)), 5).steps

    assert [step.active for step in steps] == [2, 4, 5]


def test_a_rolling_update_goes_back_all_at_once_unless_told_otherwise():
    """Without RollbackMaximumBatchSize the whole capacity of the old fleet comes back (BC)."""
    deployment = plan_deployment(rolling("INSTANCE_COUNT", 1), 3)

    assert [step.active for step in deployment.steps] == [1, 2, 3]
    assert deployment.rolling
    assert deployment.rollback_batch == 3


def test_a_fleet_of_no_instances_has_nothing_to_shift():
    for config in (blue_green("CANARY", CanarySize=percent(10)), rolling("INSTANCE_COUNT", 1)):
        assert problems(config, 0) == []
        assert plan_deployment(config, 0).steps == (Step(0, 60),)


@pytest.mark.parametrize(
    ("config", "instances", "sentence"),
    [
        (blue_green("CANARY", CanarySize=percent(51)), 4, "at most 50%"),
        (blue_green("CANARY", CanarySize=percent(50)), 1, "at most 50%"),
        (blue_green("LINEAR", LinearStepSize=percent(9)), 20, "10-50%"),
        (blue_green("LINEAR", LinearStepSize=percent(51)), 20, "10-50%"),
        (rolling("CAPACITY_PERCENT", 4), 50, "5-50%"),
        (rolling("INSTANCE_COUNT", 3), 5, "5-50%"),
        (blue_green("CANARY"), 4, "CanarySize is required"),
        (blue_green("ALL_AT_ONCE", CanarySize=percent(50)), 4, "only for traffic routing"),
        (blue_green("ALL_AT_ONCE") | rolling("INSTANCE_COUNT", 1), 4, "Only one of"),
        (
            blue_green("ALL_AT_ONCE", 500, MaximumExecutionTimeoutInSeconds=600)
            | {"ignored": None},
            4,
            None,
        ),
        (
            blue_green(
                "ALL_AT_ONCE",
                500,
                TerminationWaitInSeconds=100,
                MaximumExecutionTimeoutInSeconds=600,
            ),
            4,
            "larger than the total waiting time of 600",
        ),
    ],
)
def test_sizes_and_waits_outside_awss_limits_are_refused(config, instances, sentence):
    found = " ".join(problems(config, instances))

    assert (sentence in found) if sentence else not found
