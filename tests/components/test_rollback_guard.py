"""The guard keeps what an endpoint runs; that the engine calls it, tests/engine shows."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from components.rollback_guard import (
    Live,
    RollbackGuard,
    Scaled,
    StillLiveError,
    refuse_if_live,
    scheduled_bounds,
)
from tests.support.registrations import Reached

CONFIGURATION = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
MODEL = "aws:sagemaker/model:Model"

LIVE = Live(
    configuration="config-old",
    models=frozenset({"model-old"}),
    instance_types=frozenset({"ml.g5.xlarge"}),
    failure_reason="the new fleet did not pass its health check",
)


@pytest.mark.parametrize(
    ("resource_type", "outputs", "named"),
    [
        (CONFIGURATION, {"name": "config-old"}, "the configuration config-old"),
        (MODEL, {"name": "model-old"}, "the model model-old"),
    ],
)
def test_what_a_rolled_back_endpoint_runs_is_kept_and_the_reason_said(
    resource_type, outputs, named
):
    """A silent rollback is reported as success (TF #48997), so the deletion is what fails."""
    with pytest.raises(StillLiveError, match=named) as raised:
        refuse_if_live(LIVE, "async-prod", resource_type, outputs)

    assert "did not pass its health check" in str(raised.value)
    assert "pulumi up" in str(raised.value), "it says what to do"


@pytest.mark.parametrize(
    ("resource_type", "outputs"),
    [
        (CONFIGURATION, {"name": "config-older"}),
        (MODEL, {"name": "model-older"}),
    ],
)
def test_what_the_endpoint_no_longer_runs_may_go(resource_type, outputs):
    refuse_if_live(LIVE, "async-prod", resource_type, outputs)


class Aws:
    """An endpoint that runs ml.g4dn, whose target is gone once it is deregistered."""

    class exceptions:  # noqa: N801 as boto3 names it
        ClientError = RuntimeError

    def __init__(self) -> None:
        self.registered = True

    def describe_endpoint(self, **_: str) -> dict[str, object]:
        return {"EndpointConfigName": "config-g4dn", "EndpointStatus": "InService"}

    def describe_endpoint_config(self, EndpointConfigName: str) -> dict[str, object]:  # noqa: N803
        instance_type = f"ml.{EndpointConfigName.removeprefix('config-')}.xlarge"
        return {"ProductionVariants": [{"InstanceType": instance_type}]}

    def describe_scalable_targets(self, **_: object) -> dict[str, object]:
        return {
            "ScalableTargets": [{"MinCapacity": 0, "MaxCapacity": 5}] if self.registered else []
        }

    def get_paginator(self, operation: str) -> Any:
        return SimpleNamespace(
            paginate=lambda **_: [{"ScalingPolicies": [], "ScheduledActions": []}]
        )

    def deregister_scalable_target(self, **_: str) -> None:
        self.registered = False


@pytest.fixture
def updated(register) -> Callable[[str], tuple[RollbackGuard, Aws]]:
    """A guard whose endpoint is about to be updated to a configuration."""
    aws = Aws()

    def update(asked: str) -> tuple[RollbackGuard, Aws]:
        guards: list[RollbackGuard] = []

        def build() -> None:
            guards.append(RollbackGuard("sdxl", "sdxl", "AllTraffic", Reached(aws)))

        register(build)
        (hook,) = guards[0].releases_target.before_update or []
        assert isinstance(hook, pulumi.ResourceHook)
        new = {"endpointConfigName": asked}
        work = hook.callback(pulumi.ResourceHookArgs("urn", "id", "n", "t", new_inputs=new))
        assert asyncio.iscoroutine(work)
        asyncio.run(work)
        return guards[0], aws

    return update


@pytest.mark.parametrize(
    ("live", "asked", "kept"),
    [
        ((2, 5), (0, 5), {"MinCapacity": 2}),
        ((2, 9), (0, 5), {"MinCapacity": 2, "MaxCapacity": 9}),
        ((0, 5), (0, 5), {}),
        ((1, 6), (0, 5), {}),
        ((2, 5), (0, 1), {}),
    ],
    ids=["a floor", "both", "none is due", "set by somebody", "beyond the new plan"],
)
def test_bounds_that_a_schedule_has_set_outlive_a_registration(live, asked, kept):
    by_day: Any = {"ScalableTargetAction": {"MinCapacity": 2, "MaxCapacity": 9}}
    target: Any = {"MinCapacity": live[0], "MaxCapacity": live[1]}
    before = Scaled(
        target=target,
        tags={},
        policies=[],
        schedules=[by_day],
        alarms={},
    )

    found = scheduled_bounds(before, {"minCapacity": asked[0], "maxCapacity": asked[1]})

    assert found == kept


def test_an_update_of_the_same_type_leaves_the_target_alone(updated):
    guard, aws = updated("config-g4dn")

    assert aws.registered
    assert guard.registered_for("config-g4dn") == "config-g4dn"
    asyncio.run(guard.confirm_scaled(2))


def test_a_target_is_registered_for_the_configuration_that_the_endpoint_came_to_run(updated):
    guard, aws = updated("config-g5")

    assert not aws.registered
    assert guard.registered_for("config-g5") == "config-g5"


def test_a_target_released_for_an_update_that_did_not_come_is_registered_for_something_new(updated):
    """The endpoint runs what it ran before, so its configuration alone would change nothing."""
    guard, _ = updated("config-g5")

    assert guard.registered_for("config-g4dn").startswith("config-g4dn, ")
    assert guard.registered_for("config-g4dn") != guard.registered_for("config-g4dn")


def test_an_up_that_ends_without_the_target_that_it_released_fails(updated, register):
    guard, aws = updated("config-g5")

    with pytest.raises(pulumi.RunError, match="sdxl does not scale: its scalable target was dereg"):
        asyncio.run(guard.confirm_scaled(0))
    with pytest.raises(pulumi.RunError, match="does not scale"):
        register(lambda: pulumi.Output.from_input("known").apply(lambda _: guard.confirm_scaled(0)))

    aws.registered = True
    with pytest.raises(pulumi.RunError, match="has 0 of its 2 policies"):
        asyncio.run(guard.confirm_scaled(2))
    asyncio.run(guard.confirm_scaled(0))
