"""`verify` on a stack that the real CLI deployed: each thing broken behind Pulumi is named."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.waiting import eventually

# One deployment for all of them, so one worker.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("deployed")]

NAME = "async-sdxl-local"
TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": f"endpoint/{NAME}/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
PUT_ALARM = (
    "AlarmName", "AlarmDescription", "Namespace", "MetricName", "Dimensions", "Statistic", "Period",
    "ComparisonOperator", "Threshold", "EvaluationPeriods", "DatapointsToAlarm", "TreatMissingData",
    "AlarmActions", "ActionsEnabled",
)  # fmt: skip


def differences(answer: dict[str, Any]) -> dict[str, str]:
    """What differs, by what it is: what was found there."""
    assert answer["passed"] == (answer["exit_code"] == 0)
    failed = [check for check in answer["checks"] if not check["passed"]]
    assert all(check["remedy"] for check in failed), "each difference says what to do"
    return {check["what"]: check["found"] for check in failed}


def wake_alarm(deployed) -> dict[str, Any]:
    """The alarm that wakes the endpoint, as PutMetricAlarm takes it."""
    alarms = deployed.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (alarm,) = [a for a in alarms if a["MetricName"] == "HasBacklogWithoutCapacity"]
    return {key: alarm[key] for key in PUT_ALARM if key in alarm}


def put_to_sleep(deployed) -> None:
    sagemaker = deployed.client("sagemaker")

    def asleep() -> bool:
        endpoint = deployed.endpoint()
        if endpoint["EndpointStatus"] != "InService":
            return False  # its own scaling may be changing it just now
        if endpoint["ProductionVariants"][0]["CurrentInstanceCount"] == 0:
            return True
        sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=NAME,
            DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}],
        )
        return False

    eventually(asleep, "no instances")


@pytest.fixture
def put_back(request) -> Callable[..., None]:
    """Undo a change after the test."""
    return lambda undo, **arguments: request.addfinalizer(lambda: undo(**arguments))


def test_a_healthy_stack_passes_and_answers_from_zero(deployed, verified):
    put_to_sleep(deployed)

    answer = verified()

    assert differences(answer) == {}
    assert answer["checks"][-1]["what"] == "smoke request"
    assert "bytes after" in answer["checks"][-1]["found"]
    assert "no instance runs, so this is a cold start" in answer["said"]


def test_an_alarm_on_another_dimension_never_fires_and_is_named(deployed, verified, put_back):
    """Metrics of the queue have the one dimension EndpointName (docs/aws-facts.md#metrics)."""
    alarm = wake_alarm(deployed)
    cloudwatch = deployed.client("cloudwatch")
    put_back(cloudwatch.put_metric_alarm, **alarm)
    more = [*alarm["Dimensions"], {"Name": "VariantName", "Value": "AllTraffic"}]
    cloudwatch.put_metric_alarm(**alarm | {"Dimensions": more})

    found = differences(verified("--no-smoke"))

    assert "VariantName=AllTraffic" in found[f"alarm {alarm['AlarmName']}"]
    assert "no working alarm and policy leave zero" in found["wake-up from zero"]


def test_an_endpoint_stranded_at_zero_is_named_and_gets_no_request(deployed, verified, put_back):
    alarm = wake_alarm(deployed)
    cloudwatch = deployed.client("cloudwatch")
    put_back(cloudwatch.put_metric_alarm, **alarm)
    cloudwatch.delete_alarms(AlarmNames=[alarm["AlarmName"]])
    put_to_sleep(deployed)

    found = differences(verified())

    assert found[f"alarm {alarm['AlarmName']}"] == "none"
    assert found["wake-up from zero"].startswith("stranded at 0")
    assert found["smoke request"] == "not sent: it would wait in vain"


def test_a_deleted_alarm_of_target_tracking_is_named(deployed, verified, put_back):
    """Its alarms are AWS's own; nothing in Pulumi's state tells that one is gone."""
    cloudwatch = deployed.client("cloudwatch")
    alarms = cloudwatch.describe_alarms(AlarmNamePrefix="TargetTracking-")["MetricAlarms"]
    low = next(alarm for alarm in alarms if "AlarmLow" in alarm["AlarmName"])
    put_back(cloudwatch.put_metric_alarm, **{key: low[key] for key in PUT_ALARM if key in low})
    cloudwatch.delete_alarms(AlarmNames=[low["AlarmName"]])

    assert differences(verified("--no-smoke")) == {
        f"alarm {low['AlarmName']}": "none: it was deleted"
    }


def test_drifted_bounds_and_a_suspended_target_are_named(deployed, verified, put_back):
    scaling = deployed.client("application-autoscaling")
    awake = {"DynamicScalingOutSuspended": False}
    put_back(
        scaling.register_scalable_target,
        **TARGET, MinCapacity=0, MaxCapacity=5, SuspendedState=awake,
    )  # fmt: skip
    scaling.register_scalable_target(
        **TARGET, MinCapacity=0, MaxCapacity=9, SuspendedState={"DynamicScalingOutSuspended": True}
    )

    assert differences(verified("--no-smoke")) == {
        f"scalable target {TARGET['ResourceId']}": (
            "maxCapacity 9, suspended DynamicScalingOutSuspended"
        )
    }


def test_a_changed_number_of_a_policy_and_a_policy_too_many_are_named(deployed, verified, put_back):
    scaling = deployed.client("application-autoscaling")
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    (tracking,) = [p for p in policies if p["PolicyType"] == "TargetTrackingScaling"]
    kind = "TargetTrackingScalingPolicyConfiguration"
    named = TARGET | {"PolicyName": tracking["PolicyName"], "PolicyType": tracking["PolicyType"]}
    put_back(scaling.put_scaling_policy, **named, **{kind: tracking[kind]})
    put_back(scaling.delete_scaling_policy, **TARGET, PolicyName="by hand")
    scaling.put_scaling_policy(**named, **{kind: tracking[kind] | {"TargetValue": 30.0}})
    scaling.put_scaling_policy(
        **TARGET,
        PolicyName="by hand",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ExactCapacity",
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
        },
    )

    found = differences(verified("--no-smoke"))

    assert found[f"policy {tracking['PolicyName']}"] == "target 30"
    assert "adjustmentType ExactCapacity" in found["policy by hand"]


def test_a_topic_that_the_role_may_not_publish_to_is_named(deployed, verified, put_back):
    iam = deployed.client("iam")
    (role,) = [r["RoleName"] for r in iam.list_roles()["Roles"]]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    put = {"RoleName": role, "PolicyName": name}
    put_back(iam.put_role_policy, **put, PolicyDocument=json.dumps(document))
    mute = [s for s in document["Statement"] if s["Action"] != "sns:Publish"]
    iam.put_role_policy(**put, PolicyDocument=json.dumps(document | {"Statement": mute}))

    found = differences(verified("--no-smoke"))

    assert len(found) == 2
    for what, said in found.items():
        assert what.split()[0] in ("success", "error")
        assert said.startswith("the role may not sns:Publish to it")


def test_a_deleted_topic_is_named(deployed, verified, put_back):
    sns = deployed.client("sns")
    arn = next(t["TopicArn"] for t in sns.list_topics()["Topics"] if "error" in t["TopicArn"])
    name = arn.rpartition(":")[2]
    put_back(sns.create_topic, Name=name)
    sns.delete_topic(TopicArn=arn)

    assert differences(verified("--no-smoke")) == {f"error topic {name}": "no such topic"}


def test_a_silent_rollback_is_named_with_its_reason(deployed, verified):
    """The provider reports it as success (TF #48997). Last here: it leaves a failed update."""
    live = deployed.endpoint()["EndpointConfigName"]
    handler = deployed.folder / "inference_code" / "inference.py"
    broken = handler.read_text().replace("def model_fn(model_dir): return None", "raise SystemExit")
    deployed.write_handler(broken)
    deployed.up(succeeds=False)

    answer = verified("--no-smoke")

    found = differences(answer)
    assert found["endpoint configuration"] == f"name {live}"
    (row,) = [c for c in answer["checks"] if c["what"] == "endpoint configuration"]
    assert "SageMaker rolled the last update back" in row["remedy"]
    assert deployed.endpoint()["FailureReason"] in row["remedy"]
