"""What `verify` says of a stack, by plain records: no AWS, no Pulumi."""

from dataclasses import replace
from typing import Any

import pytest

from async_inference.client import Client, DeadlineError, Request, Result
from async_inference.operations import account
from async_inference.operations.checks import Check
from async_inference.operations.iam import may
from async_inference.operations.smoke import BODY, smoke
from async_inference.operations.verify import Asked, Live, checks
from async_inference.stack import settings
from async_inference.validation import InvalidInputError
from tests.support import ROOT

SETTINGS = settings.from_stack_file(ROOT / "Pulumi.dev.yaml")
NAME = SETTINGS.endpoint_name
POLICY_ARN = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:policyName/{}"
TOPIC = "arn:aws:sns:us-east-1:123456789012:error"
WAKE = "HasBacklogWithoutCapacity-ScalingPolicy"
WAKE_ALARM: Any = {
    "AlarmName": "wake",
    "Namespace": "AWS/SageMaker",
    "MetricName": "HasBacklogWithoutCapacity",
    "Dimensions": [{"Name": "EndpointName", "Value": NAME}],
    "Statistic": "Average",
    "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    "Threshold": 0.5,
    "Period": 60,
    "EvaluationPeriods": 1,
    "DatapointsToAlarm": 1,
    "TreatMissingData": "missing",
    "AlarmActions": [POLICY_ARN.format(WAKE)],
    "ActionsEnabled": True,
}
STEPS: Any = {
    "PolicyName": WAKE,
    "PolicyARN": POLICY_ARN.format(WAKE),
    "PolicyType": "StepScaling",
    "StepScalingPolicyConfiguration": {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Average",
        "Cooldown": 30,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    },
}
TRACKING: Any = {
    "PolicyName": "Invocations-ScalingPolicy",
    "PolicyARN": POLICY_ARN.format("Invocations-ScalingPolicy"),
    "PolicyType": "TargetTrackingScaling",
    "TargetTrackingScalingPolicyConfiguration": {
        "TargetValue": 3.0,
        "ScaleOutCooldown": 30,
        "ScaleInCooldown": 30,
        "CustomizedMetricSpecification": {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": NAME}],
            "Statistic": "Average",
        },
    },
}
ASKED = Asked(
    settings=SETTINGS,
    configuration="config-2",
    variant="AllTraffic",
    alarms={"wake": {"alarmActions": [POLICY_ARN.format(WAKE)]}},
)
TARGET: Any = {
    "ResourceId": f"endpoint/{NAME}/variant/AllTraffic",
    "MinCapacity": 0,
    "MaxCapacity": 5,
    "SuspendedState": {"ScheduledScalingSuspended": False},
}
RUNNING: Any = {
    "EndpointStatus": "InService",
    "EndpointConfigName": "config-2",
    "ProductionVariants": [{"VariantName": "AllTraffic", "CurrentInstanceCount": 0}],
}
CONFIGURATION: Any = {
    "ProductionVariants": [{"VariantName": "AllTraffic", "InstanceType": "ml.g4dn.2xlarge"}],
    "AsyncInferenceConfig": {
        "OutputConfig": {
            "S3OutputPath": "s3://bucket/out",
            "S3FailurePath": "s3://bucket/fail",
            "NotificationConfig": {"ErrorTopic": TOPIC},
        },
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1},
    },
}
LIVE = Live(
    endpoint=RUNNING,
    configuration=CONFIGURATION,
    targets=[TARGET],
    policies=[STEPS, TRACKING],
    alarms={"wake": WAKE_ALARM},
    topics={TOPIC: {}},
    role_policies=[
        {"Statement": [{"Effect": "Allow", "Action": "sns:Publish", "Resource": [TOPIC]}]}
    ],
    buckets={"bucket": True},
)


def failed(live: Live, asked: Asked = ASKED) -> dict[str, Check]:
    return {check.what: check for check in checks(asked, live) if not check.passed}


def test_what_is_as_asked_passes():
    assert failed(LIVE) == {}


def test_an_endpoint_that_is_gone_is_named_with_the_target_it_left():
    gone = failed(replace(LIVE, endpoint=None, configuration=None))

    assert gone[f"endpoint {NAME}"].found == "no such endpoint"
    orphan = gone[f"scalable target endpoint/{NAME}/variant/AllTraffic"]
    assert orphan.found == "orphaned, with 0..5 instances"
    assert "deregister-scalable-target" in (orphan.remedy or "")


def test_a_target_of_a_variant_that_the_endpoint_no_longer_has_is_orphaned():
    old = TARGET | {"ResourceId": f"endpoint/{NAME}/variant/Blue"}

    orphan = failed(replace(LIVE, targets=[*LIVE.targets, old]))

    assert list(orphan) == [f"scalable target endpoint/{NAME}/variant/Blue"]


def test_a_target_that_was_deregistered_silently_is_named():
    """As a deleted endpoint does (docs/aws-facts.md#updates-and-scaling)."""
    missing = failed(replace(LIVE, targets=[], policies=[]))

    (target,) = [check for what, check in missing.items() if what.startswith("scalable target")]
    assert "deregisters silently" in target.found
    assert missing[f"policy {WAKE}"].found == "none"


def test_a_rollback_is_told_with_the_reason_that_sagemaker_gives():
    rolled = RUNNING | {
        "EndpointConfigName": "config-1",
        "FailureReason": "no ping",
    }

    (check,) = failed(replace(LIVE, endpoint=rolled)).values()

    assert (check.asked, check.found) == ("name config-2", "name config-1")
    assert "rolled the last update back (no ping)" in (check.remedy or "")


def test_the_bounds_that_a_schedule_set_are_no_drift():
    """They hold until another action sets others (docs/aws-facts.md#scheduled-actions)."""
    nightly = {"name": "day", "schedule": "cron(0 7 * * ? *)", "minCapacity": 2}
    rules = SETTINGS.scaling_plan.model_dump(by_alias=True) | {"schedules": [nightly]}
    scheduled = replace(
        ASKED,
        settings=settings.load(
            {
                "aws:region": "us-east-1",
                "async-inference:scalingPreset": "custom",
                "async-inference:scalingPlan": rules,
                "async-inference:handler": str(ROOT / "inference_code"),
            },
            stack="dev",
        ),
    )
    action = {
        "ScheduledActionName": "day",
        "Schedule": "cron(0 7 * * ? *)",
        "Timezone": "UTC",
        "ScalableTargetAction": {"MinCapacity": 2},
    }
    by_day = [TARGET | {"MinCapacity": 2}]

    assert failed(replace(LIVE, targets=by_day, schedules=[action]), scheduled) == {}
    drifted = failed(replace(LIVE, targets=[TARGET | {"MinCapacity": 3}], schedules=[]), scheduled)
    assert [check.found for check in drifted.values()] == ["minCapacity 3", "none"]


@pytest.mark.parametrize(
    ("fact", "value", "found"),
    [
        ("Threshold", 5.0, "threshold 5"),
        ("AlarmActions", [], "actions "),
        ("AlarmActions", [POLICY_ARN.format("gone")], f"actions {POLICY_ARN.format('gone')}"),
        ("ActionsEnabled", False, "enabled False"),
        ("MetricName", "InvocationsPerInstance", "metric InvocationsPerInstance"),
        ("TreatMissingData", "notBreaching", "treatMissingData notBreaching"),
    ],
)
def test_an_alarm_that_differs_in_one_thing_is_named_with_that_thing(fact, value, found):
    differing = failed(replace(LIVE, alarms={"wake": WAKE_ALARM | {fact: value}}))

    assert differing["alarm wake"].found == found


def test_an_alarm_on_a_band_of_expected_values_is_compared_too():
    """A program that uses the components may have such an alarm in the same stack."""
    band = {
        "comparisonOperator": "GreaterThanUpperThreshold",
        "evaluationPeriods": 2,
        "thresholdMetricId": "band",
        "alarmActions": [TOPIC],
    }
    mine = replace(ASKED, alarms={**ASKED.alarms, "band": band})
    live = {
        "AlarmName": "band",
        "ComparisonOperator": "GreaterThanUpperThreshold",
        "EvaluationPeriods": 2,
        "ThresholdMetricId": "band",
        "AlarmActions": [TOPIC],
    }

    assert failed(replace(LIVE, alarms={**LIVE.alarms, "band": live}), mine) == {}
    looser = live | {"EvaluationPeriods": 5}
    (check,) = failed(replace(LIVE, alarms={**LIVE.alarms, "band": looser}), mine).values()
    assert check.found == "EvaluationPeriods 5"


@pytest.mark.parametrize(
    "broken",
    [
        {"AlarmActions": []},
        {"ActionsEnabled": False},
        {"Threshold": 5.0},
        {"Dimensions": []},
        {"MetricName": "InvocationsPerInstance"},
    ],
)
def test_an_alarm_that_cannot_fire_strands_the_endpoint_at_zero(broken):
    found = failed(replace(LIVE, alarms={"wake": WAKE_ALARM | broken}))

    assert found["wake-up from zero"].found.startswith("stranded at 0")


@pytest.mark.parametrize(
    ("configuration", "found"),
    [
        (
            {"PredefinedMetricSpecification": {"PredefinedMetricType": "Mine"}},
            "predefined metric Mine is not supported",
        ),
        ({"CustomizedMetricSpecification": {"Metrics": []}}, "metric none"),
        ({"TargetValue": 0.0}, "target = 0.0: input should be greater than 0"),
    ],
)
def test_a_policy_that_no_stack_file_can_say_is_told_with_what_it_is(configuration, found):
    tracking = TRACKING["TargetTrackingScalingPolicyConfiguration"]
    if "TargetValue" not in configuration:
        tracking = {
            key: value for key, value in tracking.items() if key != "CustomizedMetricSpecification"
        }
    changed = {"TargetTrackingScalingPolicyConfiguration": tracking | configuration}

    (check,) = failed(replace(LIVE, policies=[STEPS, TRACKING | changed])).values()

    assert found in check.found


def test_a_lost_failure_path_is_named():
    """Failures reach S3 only if S3FailurePath is set (docs/aws-facts.md#answers)."""
    configuration = dict(LIVE.configuration or {})
    output = {"S3OutputPath": "s3://bucket/out"}
    configuration["AsyncInferenceConfig"] = {
        "OutputConfig": output,
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1},
    }

    (check,) = failed(replace(LIVE, configuration=configuration)).values()

    assert check.found == "none: failures are lost"


def test_a_stack_file_that_was_not_deployed_differs_in_its_numbers():
    changed = {"instanceType": "ml.g5.2xlarge", "maxCapacity": 7}
    newer = settings.Settings.model_validate(SETTINGS.model_dump(by_alias=True) | changed)

    found = failed(LIVE, replace(ASKED, settings=newer))

    assert [check.asked for check in found.values()] == [
        "instanceType ml.g5.2xlarge",
        "maxCapacity 7",
    ]


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        ([("Allow", "sns:*", "*")], True),
        ([("Allow", ["SNS:publish"], TOPIC)], True),
        ([("Allow", "sns:Publish", f"{TOPIC}-other")], False),
        ([("Allow", "*", "*"), ("Deny", "sns:Pub*", "*")], False),
        ([], False),
    ],
)
def test_a_role_may_what_a_statement_allows_and_none_denies(statements, allowed):
    documents = [
        {"Statement": [{"Effect": effect, "Action": action, "Resource": resource}]}
        for effect, action, resource in statements
    ]

    assert may(documents, "sns:Publish", TOPIC) is allowed


def test_a_conditional_statement_counts_neither_way():
    conditional = {"Action": "*", "Resource": "*", "Condition": {"Bool": {"x": "y"}}}

    assert not may([{"Statement": conditional | {"Effect": "Allow"}}], "sns:Publish", TOPIC)
    plain = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    assert may([{"Statement": [plain, conditional | {"Effect": "Deny"}]}], "sns:Publish", TOPIC)


def state(*resources: Any) -> account.StackState:
    return {"deployment": {"resources": list(resources)}}


def configuration(name: str, **more: object) -> dict[str, object]:
    return {
        "type": "aws:sagemaker/endpointConfiguration:EndpointConfiguration",
        "parent": "urn:component",
        "inputs": {"productionVariants": [{"variantName": "AllTraffic"}]},
        "outputs": {"name": name},
        **more,
    }


ENDPOINT = {
    "type": "aws:sagemaker/endpoint:Endpoint",
    "parent": "urn:component",
    "inputs": {},
    "outputs": {"name": NAME, "endpointConfigName": "config-1"},
}


def test_after_a_rollback_the_newest_configuration_is_what_was_asked_for():
    """What the guard kept waits to be deleted; a refresh makes the endpoint name it again."""
    kept, new = configuration("config-1", delete=True), configuration("config-2")

    assert account.asked(SETTINGS, state(kept, new, ENDPOINT)).configuration == "config-2"


def test_a_stack_without_an_endpoint_was_not_deployed():
    with pytest.raises(InvalidInputError, match=r"no endpoint async-sdxl-dev.*pulumi up"):
        account.asked(SETTINGS, state())


class Silent(Client):
    """The client of an endpoint that never answers."""

    def infer(self, request: Request, **more: object) -> Result:
        raise DeadlineError(f"no answer within {more['deadline_s']} s")


def ask(live: Live, said: list[str]) -> Check:
    return smoke(Silent(NAME), ASKED, live, body=BODY, within_s=60, say=said.append)


def test_a_request_that_nobody_answers_is_told_as_what_kept_it():
    said: list[str] = []

    check = ask(LIVE, said)

    assert check.found == "no answer within 60 s"
    assert said == [
        "waiting for the smoke request's answer, up to 60 s: no instance runs, so this is a cold "
        "start"
    ]


def test_no_request_is_sent_to_an_endpoint_that_nothing_wakes():
    said: list[str] = []

    check = ask(replace(LIVE, alarms={}), said)

    assert check.found == "not sent: it would wait in vain"
    assert said == []


def test_an_endpoint_that_scales_is_as_asked_and_one_that_gets_a_new_configuration_is_not():
    def endpoint(**more: object) -> Check:
        live = replace(
            LIVE, endpoint={**(LIVE.endpoint or {}), "EndpointStatus": "Updating", **more}
        )
        return next(each for each in checks(ASKED, live) if each.what == f"endpoint {NAME}")

    assert endpoint().passed
    assert endpoint().found == "Updating: it scales"
    assert not endpoint(PendingDeploymentSummary={"EndpointConfigName": "config-3"}).passed


WEIGHTS = "s3://models/sdxl"
PUBLISHED = {
    "source": "org/sdxl",
    "revision": "0123456789abcdef",
    "bytes": 7_100_000_000,
    "sha256": {"unet/diffusion_pytorch_model.fp16.safetensors": "00", "model_index.json": "11"},
}


@pytest.mark.parametrize(
    ("uri", "published", "verdict", "found"),
    [
        (f"{WEIGHTS}/", PUBLISHED, "ok", "org/sdxl@0123456789ab, 2 files, 7.1 GB"),
        (f"{WEIGHTS}/", PUBLISHED | {"revision": None}, "ok", "org/sdxl, 2 files, 7.1 GB"),
        (f"{WEIGHTS}/", None, "not checked", "published by something else"),
        ("s3://models/old/", PUBLISHED, "differs", "s3://models/old/"),
        (None, None, "differs", "none on S3"),
    ],
)
def test_which_weights_run_is_shown(uri, published, verdict, found):
    asked = replace(ASKED, settings=SETTINGS.model_copy(update={"weights": WEIGHTS}))
    live = replace(LIVE, weights_uri=uri, weights=published)

    (check,) = [check for check in checks(asked, live) if check.what == "weights"]

    assert (check.verdict, check.found) == (verdict, found)
