"""A change of the instance type that fails: the endpoint continues scaling, or is made to again.

The target is deregistered before such an update (DG endpoint-scaling), and with it its policies and
schedules.
"""

from typing import Any

import pytest

from async_inference.local_aws.services.errors import AwsError
from tests.support.engine import HANDLER, Program, changes

pytestmark = pytest.mark.engine

BROKEN = "raise SystemExit\n"
LONG_FROM_NOW = "cron(0 22 1 1 ? 2099)"
"""No clock of a test gets there: an hour passes in a minute here, and every day has its 22:00."""
OURS = {"ServiceNamespace": "sagemaker"}
QUOTA = AwsError(
    "ResourceLimitExceeded",
    "The account-level service limit 'ml.g5.2xlarge for endpoint usage' is 0 Instances.",
)


def assert_scales(program: Program, most: int = 5) -> None:
    """The target, its policies, and an alarm that runs the one that wakes from zero."""
    scaling = program.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(**OURS)["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, most)
    policies = scaling.describe_scaling_policies(**OURS)["ScalingPolicies"]
    assert {policy["PolicyType"] for policy in policies} == {"StepScaling", "TargetTrackingScaling"}
    alarms = program.client("cloudwatch").describe_alarms()["MetricAlarms"]
    running = {arn for alarm in alarms for arn in alarm["AlarmActions"]}
    assert running == {policy["PolicyARN"] for policy in policies}
    assert len(scaling.describe_scheduled_actions(**OURS)["ScheduledActions"]) == 1


def variant(program: Program) -> dict[str, Any]:
    sagemaker = program.client("sagemaker")
    live = program.endpoint()["EndpointConfigName"]
    found = sagemaker.describe_endpoint_config(EndpointConfigName=live)
    return found["ProductionVariants"][0]


@pytest.fixture
def scaled(program) -> Program:
    program.configure(
        scalingPreset="custom",
        scalingPlan={
            "policies": [
                {"type": "TargetTrackingScaling", "name": "track", "target": 3},
                {
                    "type": "StepScaling",
                    "name": "wake",
                    "alarm": {"metric": "HasBacklogWithoutCapacity", "threshold": 0.5},
                    "steps": [{"lowerBound": 0, "adjustment": 1}],
                },
            ],
            "schedules": [{"name": "night", "schedule": LONG_FROM_NOW, "maxCapacity": 2}],
        },
    )
    program.up()
    assert_scales(program)
    return program


def test_a_new_type_whose_handler_does_not_start_is_rolled_back_and_scales_on(scaled):
    scaled.configure(instanceType="ml.g5.2xlarge")
    scaled.write_handler(BROKEN)
    assert "SageMaker rolled the last update back" in scaled.up(succeeds=False)
    assert variant(scaled)["InstanceType"] == "ml.g4dn.2xlarge"
    assert_scales(scaled)

    scaled.write_handler(HANDLER)
    scaled.up()

    assert variant(scaled)["InstanceType"] == "ml.g5.2xlarge"
    assert_scales(scaled)
    assert changes(scaled.preview("--refresh")) == {}


def test_a_rolled_back_type_that_is_put_back_scales_on(scaled):
    scaled.configure(instanceType="ml.g5.2xlarge")
    scaled.write_handler(BROKEN)
    scaled.up(succeeds=False)

    scaled.configure(instanceType="ml.g4dn.2xlarge")
    scaled.write_handler(HANDLER)
    scaled.up()

    assert variant(scaled)["InstanceType"] == "ml.g4dn.2xlarge"
    assert_scales(scaled)
    assert changes(scaled.preview("--refresh")) == {}


def test_a_type_without_quota_scales_on_and_so_it_does_once_the_type_is_put_back(scaled):
    scaled.configure(instanceType="ml.g5.2xlarge")
    scaled.aws.refused["UpdateEndpoint"] = QUOTA
    assert "ml.g5.2xlarge for endpoint usage" in scaled.up(succeeds=False)
    assert variant(scaled)["InstanceType"] == "ml.g4dn.2xlarge"
    assert_scales(scaled)

    scaled.aws.refused.clear()
    scaled.configure(instanceType="ml.g4dn.2xlarge")
    scaled.up()

    assert_scales(scaled)
    assert changes(scaled.preview("--refresh")) == {}


def test_a_type_whose_quota_comes_later_scales_on_after_every_up(scaled):
    """The provider keeps the failed update as state: the next `up` sends none, the next but one
    does. It heals too what could not be registered again at once."""
    scaled.configure(instanceType="ml.g5.2xlarge")
    scaled.aws.refused["UpdateEndpoint"] = QUOTA
    scaled.aws.refused["RegisterScalableTarget"] = AwsError("InternalServiceException", "Later.")
    assert "could not be registered again" in scaled.up(succeeds=False)
    scaled.aws.refused.clear()
    scaled.aws.operations.clear()

    assert "still runs the configuration" in scaled.up(succeeds=False)
    assert "UpdateEndpoint" not in scaled.aws.operations
    assert_scales(scaled)

    scaled.up()
    assert variant(scaled)["InstanceType"] == "ml.g5.2xlarge"
    assert_scales(scaled)
    assert changes(scaled.preview("--refresh")) == {}


def test_an_update_by_night_keeps_the_bounds_of_the_night(scaled):
    """Every update of the endpoint registers the target again."""
    scaled.client("application-autoscaling").register_scalable_target(
        **OURS,
        ResourceId="endpoint/async-sdxl-local/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MaxCapacity=2,
    )
    scaled.write_handler(HANDLER.replace("VERSION = 1", "VERSION = 2"))

    scaled.up()

    assert_scales(scaled, most=2)
    assert changes(scaled.preview()) == {}
