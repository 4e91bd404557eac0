"""Every rule of the policy pack: a resource that keeps it, one that does not, one not known yet."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pulumi_policy import (
    PolicyResource,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import (
    UNKNOWN_STRING_VALUE,
    UnknownValueError,
    unknown_checking_proxy,
)

from policies import rules
from tests.support import ROOT
from tests.support.program import config_of, run

UNKNOWN = UNKNOWN_STRING_VALUE
OPTIONS: Any = None  # no rule looks at a resource's options
BY_NAME = {rule.name: rule for rule in rules.RULES}


def resource(
    kind: str,
    name: str = "one",
    depends_on: Mapping[str, list[PolicyResource]] | None = None,
    /,
    **props: object,
) -> PolicyResource:
    return PolicyResource(
        resource_type=kind,
        props=unknown_checking_proxy(props),
        urn=f"urn:{kind}::{name}",
        name=name,
        opts=OPTIONS,
        provider=None,
        parent=None,
        dependencies=[],
        property_dependencies=dict(depends_on or {}),
    )


def violations(
    rule: str, *resources: PolicyResource, config: Mapping[str, object] | None = None
) -> list[str]:
    """What a rule reports; of a rule over one resource, for each of them."""
    found: list[str] = []

    def report(message: str, urn: str | None = None) -> None:
        found.append(message)

    policy = BY_NAME[rule]
    if isinstance(policy, StackValidationPolicy):
        policy.validate(StackValidationArgs(list(resources), config), report)
        return found
    assert isinstance(policy, ResourceValidationPolicy)
    for each in resources:
        policy.validate(
            ResourceValidationArgs(
                each.resource_type, each.props, each.urn, each.name, OPTIONS, None, config
            ),
            report,
        )
    return found


# Waking from zero

RESOURCE_ID = "endpoint/one/variant/AllTraffic"
ADDS = {"stepAdjustments": [{"metricIntervalLowerBound": "0", "scalingAdjustment": 1}]}


def queue(
    *,
    minimum: int = 0,
    steps: object = ADDS,
    metric: str = "HasBacklogWithoutCapacity",
    dimensions: object = {"EndpointName": "one"},
    actions: Any = ("arn:policy",),
    arn: str = "arn:policy",
    resource_id: str = RESOURCE_ID,
) -> list[PolicyResource]:
    """A target, a step policy and its alarm, each depending on the one before."""
    target = resource(
        rules.TARGET,
        "target",
        serviceNamespace="sagemaker",
        resourceId=resource_id,
        minCapacity=minimum,
    )
    policy = resource(
        rules.SCALING_POLICY,
        "policy",
        {"resourceId": [target]},
        arn=arn,
        resourceId=resource_id,
        stepScalingPolicyConfiguration=steps,
    )
    alarm = resource(
        rules.ALARM,
        "alarm",
        {"alarmActions": [policy]},
        namespace="AWS/SageMaker",
        metricName=metric,
        dimensions=dimensions,
        alarmActions=list(actions),
    )
    return [target, policy, alarm]


def test_a_queue_that_wakes_its_endpoint_passes():
    assert violations("wakes-from-zero", *queue()) == []


@pytest.mark.parametrize(
    ("second", "broken"),
    [("HasBacklogWithoutCapacity", False), ("InvocationsPerInstance", True)],
)
def test_metric_math_wakes_an_endpoint_if_it_holds_the_metric_that_does(second, broken):
    target, policy, _ = queue()
    series = {"namespace": "AWS/SageMaker", "dimensions": {"EndpointName": "one"}}
    alarm = resource(
        rules.ALARM,
        "alarm",
        {"alarmActions": [policy]},
        metricQueries=[
            {"id": "product", "expression": "first * second", "returnData": True},
            {"id": "first", "metric": series | {"metricName": "ApproximateBacklogSize"}},
            {"id": "second", "metric": series | {"metricName": second}},
        ],
        alarmActions=["arn:policy"],
    )

    for rule in ("wakes-from-zero", "alarms-run-policies-on-published-metrics"):
        assert bool(violations(rule, target, policy, alarm)) == broken


def test_an_endpoint_that_never_sleeps_needs_no_waking():
    target, *_ = queue(minimum=1)

    assert violations("wakes-from-zero", target) == []


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(queue()[:1], id="no policy"),
        pytest.param(queue()[:2], id="no alarm"),
        pytest.param(queue(metric="ApproximateBacklogSize"), id="another metric"),
        pytest.param(queue(actions=("arn:other",)), id="another action"),
        pytest.param(
            queue(steps={"stepAdjustments": [{"scalingAdjustment": -1}]}), id="a step down"
        ),
    ],
)
def test_an_endpoint_that_nothing_wakes_is_refused(broken):
    (said,) = violations("wakes-from-zero", *broken)

    assert "requests would wait until they expire" in said


def test_an_alarm_with_another_dimension_is_refused():
    """Published by EndpointName alone; wrong dimensions never fire (docs/aws-facts.md#metrics)."""
    both = {"EndpointName": "one", "VariantName": "AllTraffic"}

    (said,) = violations("wakes-from-zero", *queue(dimensions=both))

    assert "['EndpointName', 'VariantName']" in said


def test_at_preview_dependencies_tell_what_wakes_what():
    """ARNs and names are not known before the first deployment."""
    unknown = queue(
        arn=UNKNOWN, actions=(UNKNOWN,), resource_id=UNKNOWN, dimensions={"EndpointName": UNKNOWN}
    )

    assert violations("wakes-from-zero", *unknown) == []
    assert violations("wakes-from-zero", *unknown[:2]) != []


# Metrics


def tracking(**configuration: object) -> PolicyResource:
    return resource(
        rules.SCALING_POLICY,
        serviceNamespace="sagemaker",
        targetTrackingScalingPolicyConfiguration=configuration,
    )


def custom(metric: str) -> PolicyResource:
    return tracking(
        customizedMetricSpecification={"namespace": "AWS/SageMaker", "metricName": metric}
    )


def test_tracking_a_metric_of_the_queue_passes():
    assert violations("scales-on-published-metrics", custom("ApproximateBacklogSize")) == []


@pytest.mark.parametrize(
    "policy",
    [
        custom("InvocationsPerInstance"),
        tracking(
            predefinedMetricSpecification={
                "predefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            }
        ),
    ],
)
def test_tracking_a_metric_that_is_never_published_is_refused(policy):
    (said,) = violations("scales-on-published-metrics", policy)

    assert "InvocationsPerInstance, which asynchronous endpoints never publish" in said


def test_a_metric_that_is_not_known_yet_is_asked_for_again():
    with pytest.raises(UnknownValueError):
        violations("scales-on-published-metrics", custom(UNKNOWN))


ALARMS = "alarms-run-policies-on-published-metrics"


def test_an_alarm_that_scales_by_a_metric_of_the_queue_passes():
    assert violations(ALARMS, *queue()) == []


def test_an_alarm_that_scales_by_a_metric_that_is_never_published_is_refused():
    (said,) = violations(ALARMS, *queue(metric="InvocationsPerInstance"))

    assert "invokes a scaling policy on InvocationsPerInstance" in said


def test_an_alarm_that_looks_more_often_than_sagemaker_publishes_is_refused():
    target, policy, alarm = queue()
    hasty = resource(
        rules.ALARM, "hasty", {"alarmActions": [policy]}, **{**alarm.props, "period": 10}
    )
    announced = resource(
        rules.ALARM,
        "announced",
        {"alarmActions": [policy]},
        **{
            **alarm.props,
            "namespace": "AsyncInference",
            "metricName": "RequestsWithoutCapacity",
            "period": 10,
        },
    )

    (said,) = violations(ALARMS, target, policy, alarm, hasty, announced)

    assert said.startswith(
        "hasty has a period below 60 s, but HasBacklogWithoutCapacity is published once"
    )


def test_an_alarm_on_invocations_that_only_tells_people_passes():
    elsewhere = queue(metric="InvocationsProcessed", actions=("arn:topic",))

    assert violations(ALARMS, *elsewhere) == []


def test_an_alarm_whose_action_is_not_known_yet_is_judged_by_its_dependency():
    unknown = queue(arn=UNKNOWN, actions=(UNKNOWN,), metric="InvocationsPerInstance")

    assert len(violations(ALARMS, *unknown)) == 1


# Configurations and capacity


def configuration(instance_type: str = "ml.g5.xlarge", **asynchronous: object) -> PolicyResource:
    return resource(
        rules.CONFIGURATION,
        productionVariants=[{"instanceType": instance_type, "initialInstanceCount": 1}],
        asyncInferenceConfig={"outputConfig": asynchronous},
    )


@pytest.mark.parametrize(
    ("props", "said"),
    [
        ({"s3FailurePath": "s3://bucket/fail"}, 0),
        ({"s3FailurePath": ""}, 1),
        ({}, 1),
        ({"s3FailurePath": UNKNOWN}, 0),
    ],
)
def test_a_configuration_has_a_failure_path_or_will_have_one(props, said):
    assert len(violations("tells-failures", configuration(**props))) == said


def test_a_real_time_configuration_needs_no_failure_path():
    real_time = resource(rules.CONFIGURATION, productionVariants=[])

    assert violations("tells-failures", real_time) == []


@pytest.mark.parametrize(
    ("instance_type", "said"), [("ml.g5.xlarge", 0), ("ml.p5.48xlarge", 1), ("ml.g5n.xlarge", 1)]
)
def test_instances_are_of_an_allowed_family(instance_type, said):
    assert len(violations("uses-allowed-families", configuration(instance_type))) == said


def test_a_stack_may_allow_other_families():
    large = configuration("ml.p5.48xlarge")

    assert violations("uses-allowed-families", large, config={"families": ["p5"]}) == []


def test_an_instance_type_that_is_not_known_yet_is_asked_for_again():
    with pytest.raises(UnknownValueError):
        violations("uses-allowed-families", configuration(UNKNOWN))


@pytest.mark.parametrize(
    ("capacity", "said"),
    [
        (resource(rules.TARGET, maxCapacity=10), 0),
        (resource(rules.TARGET, maxCapacity=11), 1),
        (resource(rules.SCHEDULE, scalableTargetAction={"maxCapacity": "11"}), 1),
        (resource(rules.SCHEDULE, scalableTargetAction={"minCapacity": "1"}), 0),
        (resource(rules.CONFIGURATION, productionVariants=[{"initialInstanceCount": 11}]), 1),
    ],
)
def test_nothing_goes_beyond_the_ceiling(capacity, said):
    assert len(violations("stays-below-the-ceiling", capacity)) == said


def test_a_stack_may_have_another_ceiling():
    small = {"maxCapacity": 2}

    (said,) = violations(
        "stays-below-the-ceiling", resource(rules.TARGET, maxCapacity=3), config=small
    )

    assert said == "one: maxCapacity 3 exceeds the ceiling of 2 instances."


def test_a_capacity_that_is_not_known_yet_is_asked_for_again():
    with pytest.raises(UnknownValueError):
        violations("stays-below-the-ceiling", resource(rules.TARGET, maxCapacity=UNKNOWN))


# Buckets, topics, permissions, tags

BLOCKED = dict.fromkeys(
    ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"), True
)


def stored(name: object = "bucket", **blocked: object) -> list[PolicyResource]:
    bucket = resource(rules.BUCKET, "bucket", bucket=name)
    return [
        bucket,
        resource(rules.ENCRYPTION, "encryption", {"bucket": [bucket]}, bucket=name),
        resource(rules.PUBLIC_ACCESS, "block", {"bucket": [bucket]}, bucket=name, **blocked),
    ]


def test_an_encrypted_and_blocked_bucket_passes_also_before_it_has_a_name():
    assert violations("buckets-are-closed", *stored(**BLOCKED)) == []
    assert violations("buckets-are-closed", *stored(UNKNOWN, **BLOCKED)) == []


def test_a_bucket_that_is_open_or_in_the_clear_is_refused():
    bucket, encryption, block = stored(**BLOCKED | {"ignorePublicAcls": False})

    assert violations("buckets-are-closed", bucket, encryption, block) == [
        "bucket does not block public access: set ignorePublicAcls."
    ]
    (said,) = violations("buckets-are-closed", bucket, *stored("other", **BLOCKED)[1:])[:1]
    assert said == "bucket has no encryption configuration."


@pytest.mark.parametrize(
    ("props", "said"),
    [
        ({"kmsMasterKeyId": "alias/aws/sns"}, 0),
        ({}, 1),
        ({"kmsMasterKeyId": UNKNOWN}, 0),
    ],
)
def test_a_topic_is_encrypted_or_will_be(props, said):
    assert len(violations("topics-are-encrypted", resource(rules.TOPIC, **props))) == said


def allowing(**statement: object) -> PolicyResource:
    document = {"Statement": [{"Effect": "Allow", "Resource": "*", **statement}]}
    return resource("aws:iam/rolePolicy:RolePolicy", policy=json.dumps(document))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ({"Action": "s3:GetObject"}, 0),
        ({"Action": ["kms:Decrypt", "kms:GenerateDataKey*"]}, 0),
        ({"Action": "*"}, 1),
        ({"Action": ["s3:GetObject", "s3:*"]}, 1),
        ({"NotAction": "iam:*"}, 1),
        ({"Action": "s3:*", "Effect": "Deny"}, 0),
    ],
)
def test_an_identity_policy_names_the_actions_that_it_allows(statement, said):
    assert len(violations("grants-no-wildcard-actions", allowing(**statement))) == said


def test_a_permission_that_is_not_known_yet_is_asked_for_again():
    with pytest.raises(UnknownValueError):
        violations(
            "grants-no-wildcard-actions", resource("aws:iam/rolePolicy:RolePolicy", policy=UNKNOWN)
        )


def test_what_costs_money_says_whose_it_is():
    tagged = resource(rules.TOPIC, tags={"project": "p", "stack": "s"})
    bare = resource(rules.TOPIC, "bare", tags={"project": "p"})
    elsewhere = resource("aws:sns/topicSubscription:TopicSubscription")

    assert violations("carries-tags", tagged, bare, elsewhere) == [
        "bare lacks the tags stack; set them in the stack's tags."
    ]
    assert violations("carries-tags", bare, config={"required": ["project"]}) == []


def test_tags_whose_values_are_not_known_yet_are_there():
    later = resource(rules.TOPIC, tags={"project": "p", "stack": UNKNOWN})

    assert violations("carries-tags", later) == []


# The stacks


def registered(record: Any) -> list[PolicyResource]:
    """What a program registered under mocks, as the engine hands it to a policy pack."""
    found = {
        entry.name + entry.type: resource(
            entry.type, entry.name, **json.loads(json.dumps(entry.inputs, default=str))
        )
        for entry in record.registrations
    }
    for entry in record.registrations:
        known = found[entry.name + entry.type].property_dependencies
        for key, names in entry.input_dependencies.items():
            known[key] = [each for each in found.values() if each.name in names]
    return list(found.values())


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_every_resource_of_the_stacks_keeps_every_rule(register, monkeypatch, stack):
    monkeypatch.chdir(ROOT)

    resources = registered(register(run, config=config_of(stack), stack=stack))

    assert {each.resource_type for each in resources} >= {rules.TARGET, rules.ALARM, rules.TOPIC}
    assert {rule: violations(rule, *resources) for rule in BY_NAME} == {
        rule: [] for rule in BY_NAME
    }


def test_a_stack_without_its_alarm_would_be_refused(register, monkeypatch):
    """So that the test above could fail."""
    monkeypatch.chdir(ROOT)
    resources = registered(register(run, config=config_of("dev"), stack="dev"))

    without = [each for each in resources if each.resource_type != rules.ALARM]

    assert violations("wakes-from-zero", *without) != []
