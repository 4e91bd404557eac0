"""Deployment guardrails as steps: how an update replaces one fleet with another.

Pure functions: which part of the new fleet takes requests when, how long alarms are watched after
each step, and what SageMaker refuses (DG deployment-guardrails).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types_boto3_sagemaker.type_defs import (
        CapacitySizeTypeDef,
        DeploymentConfigUnionTypeDef,
    )

CANARY_PERCENT = (0, 50)
LINEAR_PERCENT = (10, 50)
ROLLING_PERCENT = (5, 50)
"""Allowed step sizes, in percent of the variant's instances (BC TrafficRoutingConfig, DG)."""


@dataclass(frozen=True)
class Step:
    """One shift of traffic.

    Args:
        active: instances of the new fleet that take requests from this step on.
        bake_s: how long the alarms are watched before the next step.
    """

    active: int
    bake_s: float


@dataclass(frozen=True)
class Deployment:
    """How an update proceeds.

    Args:
        steps: the shifts; the last one activates the whole new fleet.
        rolling: instances are replaced batch by batch, without a second whole fleet.
        rollback_batch: how many instances at a time a rolling update rolls back.
        termination_wait_s: how long the old fleet is kept after the last step.
        timeout_s: the update is rolled back when it takes longer; None for no limit.
        alarms: the update is rolled back if one of them is in ALARM while they are watched.
    """

    steps: tuple[Step, ...]
    rolling: bool = False
    rollback_batch: int = 0
    termination_wait_s: float = 0.0
    timeout_s: float | None = None
    alarms: tuple[str, ...] = ()


def all_at_once(instances: int) -> Deployment:
    """SageMaker's default: one shift, and no alarms are watched."""
    return Deployment(steps=(Step(instances, 0.0),))


def plan_deployment(config: "DeploymentConfigUnionTypeDef", instances: int) -> Deployment:
    """The steps of a DeploymentConfig.

    Args:
        config: a DeploymentConfig without `problems`.
        instances: size of the new fleet.
    """
    alarms = tuple(
        a["AlarmName"] for a in config.get("AutoRollbackConfiguration", {}).get("Alarms", ())
    )
    if "RollingUpdatePolicy" in config:
        policy = config["RollingUpdatePolicy"]
        batch = _count(policy["MaximumBatchSize"], instances)
        back = policy.get("RollbackMaximumBatchSize")
        return Deployment(
            steps=_steps(batch, instances, policy["WaitIntervalInSeconds"]),
            rolling=True,
            rollback_batch=_count(back, instances) if back else instances,
            timeout_s=policy.get("MaximumExecutionTimeoutInSeconds"),
            alarms=alarms,
        )
    policy = config.get("BlueGreenUpdatePolicy")
    if policy is None:
        return Deployment(steps=(Step(instances, 0.0),), alarms=alarms)
    routing = policy["TrafficRoutingConfiguration"]
    bake_s = routing["WaitIntervalInSeconds"]
    steps: tuple[Step, ...] = (Step(instances, bake_s),)
    if instances and routing["Type"] == "CANARY":
        steps = (Step(_count(routing["CanarySize"], instances), bake_s), *steps)
    elif instances and routing["Type"] == "LINEAR":
        steps = _steps(_count(routing["LinearStepSize"], instances), instances, bake_s)
    return Deployment(
        steps=steps,
        termination_wait_s=policy.get("TerminationWaitInSeconds", 0),
        timeout_s=policy.get("MaximumExecutionTimeoutInSeconds"),
        alarms=alarms,
    )


def problems(config: "DeploymentConfigUnionTypeDef", instances: int) -> list[str]:
    """Why SageMaker refuses a DeploymentConfig for a fleet of this size; empty if it does not."""
    blue_green, rolling = config.get("BlueGreenUpdatePolicy"), config.get("RollingUpdatePolicy")
    found = []
    if blue_green and rolling:
        found.append("Only one of BlueGreenUpdatePolicy and RollingUpdatePolicy can be specified.")
    if rolling:
        found += _size_problems(
            "MaximumBatchSize", rolling["MaximumBatchSize"], ROLLING_PERCENT, instances
        )
    if blue_green:
        routing = blue_green["TrafficRoutingConfiguration"]
        for kind, key, percent in (
            ("CANARY", "CanarySize", CANARY_PERCENT),
            ("LINEAR", "LinearStepSize", LINEAR_PERCENT),
        ):
            if routing["Type"] == kind and key not in routing:
                found.append(f"{key} is required for traffic routing of type {kind}.")
            elif routing["Type"] != kind and key in routing:
                found.append(f"{key} is only for traffic routing of type {kind}.")
            elif key in routing:
                found += _size_problems(key, routing[key], percent, instances)
    if not found:
        deployment = plan_deployment(config, instances)
        waits_s = sum(step.bake_s for step in deployment.steps) + deployment.termination_wait_s
        if deployment.timeout_s is not None and deployment.timeout_s <= waits_s:
            found.append(
                f"MaximumExecutionTimeoutInSeconds {deployment.timeout_s:g} must be larger than "
                f"the total waiting time of {waits_s:g} seconds."
            )
    return found


def _size_problems(
    key: str, size: "CapacitySizeTypeDef", percent: tuple[int, int], instances: int
) -> list[str]:
    if not instances:
        # There is nothing to shift, so every size fits.
        return []
    low, high = percent
    asked = size["Value"]
    if size["Type"] == "INSTANCE_COUNT":
        asked = 100 * size["Value"] / instances
    if low <= asked <= high and 100 * _count(size, instances) <= high * instances:
        return []
    return [
        f"{key} of {size['Value']} ({size['Type']}) must be "
        f"{f'{low}-' if low else 'at most '}{high}% of the variant's {instances} instance(s)."
    ]


def _count(size: "CapacitySizeTypeDef", instances: int) -> int:
    if size["Type"] == "INSTANCE_COUNT":
        return size["Value"]
    return max(1, math.floor(instances * size["Value"] / 100))


def _steps(size: int, instances: int, bake_s: float) -> tuple[Step, ...]:
    return tuple(
        Step(min(active, instances), bake_s) for active in range(size, instances + size, size or 1)
    ) or (Step(0, bake_s),)
