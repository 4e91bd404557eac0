"""Compares a stack's config with what runs, as pure rules.

Asked is the stack file's config, with the names that only Pulumi's state has. Found is what AWS
answers, as boto3 returns it. `account` reads both.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from async_inference.aws_names import (
    IN_PROGRESS,
    SCALABLE_DIMENSION,
    SERVICE_NAMESPACE,
    EndpointStatus,
    log_group,
    scalable_id,
    split_s3_uri,
)
from async_inference.operations.checks import Check
from async_inference.operations.iam import may, refused
from async_inference.operations.weights import Manifest
from async_inference.scaling import documents, waking
from async_inference.scaling.plan import (
    MetricAlarm,
    ScalingPlan,
    ScalingPolicy,
    StepAdjustment,
    StepScaling,
    StepScalingPolicy,
)
from async_inference.scaling.unsettled import Unsettled
from async_inference.stack.settings import Settings
from async_inference.validation import problems_of

if TYPE_CHECKING:
    from types_boto3_application_autoscaling.type_defs import (
        ScalableTargetTypeDef,
        ScalingPolicyTypeDef,
        ScheduledActionTypeDef,
    )
    from types_boto3_cloudwatch.type_defs import MetricAlarmTypeDef
    from types_boto3_sagemaker.type_defs import (
        AsyncInferenceOutputConfigOutputTypeDef,
        DescribeEndpointConfigOutputTypeDef,
        DescribeEndpointOutputTypeDef,
    )

Facts = Mapping[str, object]
"""The facts of one resource, named as in the stack file."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a stack should be.

    Args:
        settings: the stack file's.
        configuration: the endpoint configuration's name, from Pulumi's state.
        variant: the production variant's name, from Pulumi's state.
        alarms: the inputs of every alarm that Pulumi deployed, by the alarm's name.
    """

    settings: Settings
    configuration: str
    variant: str
    alarms: Mapping[str, documents.Document]


@dataclass(frozen=True, kw_only=True)
class Live:
    """What AWS says, as boto3 returns it.

    Args:
        endpoint: DescribeEndpoint; None where there is none.
        configuration: DescribeEndpointConfig of what the endpoint runs.
        targets: DescribeScalableTargets, those of this endpoint, whatever their variant.
        policies: DescribeScalingPolicies of the variant's target.
        schedules: DescribeScheduledActions of the variant's target.
        alarms: DescribeAlarms, those that Pulumi deployed or that run one of the policies, by name.
        topics: the topics that the configuration names: their policy, None where there is no topic.
        role_policies: the policy documents of the endpoint's role.
        buckets: the buckets that the configuration names, and whether they can be reached.
        weights_uri: where the model's weights are mounted from; None if they are not on S3.
        weights: what `weights publish` wrote there; None if it wrote nothing or AWS refused.
    """

    endpoint: "DescribeEndpointOutputTypeDef | None" = None
    configuration: "DescribeEndpointConfigOutputTypeDef | None" = None
    targets: "Sequence[ScalableTargetTypeDef]" = ()
    policies: "Sequence[ScalingPolicyTypeDef]" = ()
    schedules: "Sequence[ScheduledActionTypeDef]" = ()
    alarms: "Mapping[str, MetricAlarmTypeDef]"
    topics: Mapping[str, Mapping[str, object] | None]
    role_policies: Sequence[Mapping[str, object]] = ()
    buckets: Mapping[str, bool]
    weights_uri: str | None = None
    weights: Manifest | None = None

    @property
    def instances(self) -> int:
        """Instances in service, all variants together."""
        variants = (self.endpoint or {}).get("ProductionVariants", ())
        return sum(variant.get("CurrentInstanceCount", 0) for variant in variants)


def checks(asked: Asked, live: Live) -> list[Check]:
    """Every comparison, in the order in which a person would make it."""
    if live.endpoint is None:
        name = asked.settings.endpoint_name
        absent = Check(f"endpoint {name}", "InService", "no such endpoint", _put_back(asked))
        return [absent, *_orphans(asked, live)]
    return [
        *_endpoint(asked, live.endpoint),
        *_variant(asked, live),
        *_weights(asked, live),
        _target(asked, live),
        *_orphans(asked, live),
        *_policies(asked, live),
        *_alarms(asked, live),
        *_schedules(asked, live),
        *_wakes(asked, live),
        *_topics(asked, live),
        *_buckets(asked, live),
    ]


def wakes_from_zero(asked: Asked, live: Live) -> bool:
    """Whether a request to no instances would start one, according to what is deployed."""
    # A scheduled minimum holds only until the next one, so today's says nothing about tonight.
    plan = ScalingPlan(
        min_capacity=0, max_capacity=1, policies=tuple(_working_policies(asked, live))
    )
    return waking.wakes_from_zero(plan, Unsettled())


def stranded(asked: Asked, live: Live) -> bool:
    """Whether a request would never be served: no instance runs, and nothing would start one."""
    return live.instances == 0 and not wakes_from_zero(asked, live)


def _put_back(asked: Asked) -> str:
    return f"put it back: pulumi up --refresh --stack {asked.settings.stack}"


def _compare(what: str, asked: Facts | str, found: Facts | str | None, remedy: str) -> Check:
    if found is None or isinstance(asked, str) or isinstance(found, str):
        return Check(what, _text(asked), "none" if found is None else _text(found), remedy)
    differing = [key for key in asked if asked[key] != found.get(key)]
    if not differing:
        return Check(what, _text(asked), "as asked")
    return Check(
        what,
        _text({key: asked[key] for key in differing}),
        _text({key: found.get(key) for key in differing}),
        remedy,
    )


def _text(facts: Facts | str) -> str:
    if isinstance(facts, str):
        return facts
    return ", ".join(f"{key} {_value(value)}" for key, value in facts.items())


def _value(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# The endpoint and what it runs


def _endpoint(asked: Asked, endpoint: "DescribeEndpointOutputTypeDef") -> Iterator[Check]:
    name = asked.settings.endpoint_name
    logs = f"its logs are in {log_group(name)}"
    status, reason = endpoint["EndpointStatus"], endpoint.get("FailureReason")
    busy = status in IN_PROGRESS - {EndpointStatus.DELETING}
    found = f"{status}: {reason}" if reason else status
    what = f"endpoint {name}"
    # Only an update to a new configuration has a pending deployment (BC DescribeEndpoint); without
    # one an endpoint is Updating because it scales.
    scales = status == EndpointStatus.UPDATING and "PendingDeploymentSummary" not in endpoint
    if status == EndpointStatus.IN_SERVICE or scales:
        yield Check(what, "InService", "Updating: it scales" if scales else found)
    else:
        remedy = "wait until it is through, then verify again" if busy else f"find out why; {logs}"
        yield Check(what, "InService", found, remedy)
    runs = endpoint["EndpointConfigName"]
    why = f" ({reason})" if reason else ""
    remedy = (
        f"SageMaker rolled the last update back{why}, or somebody changed the endpoint: {logs}; "
        f"correct the cause, then pulumi up --refresh --stack {asked.settings.stack}"
    )
    yield _compare("endpoint configuration", {"name": asked.configuration}, {"name": runs}, remedy)


def _variant(asked: Asked, live: Live) -> Iterator[Check]:
    variants = {
        v["VariantName"]: v for v in (live.configuration or {}).get("ProductionVariants", ())
    }
    found = variants.get(asked.variant)
    asynchronous = (live.configuration or {}).get("AsyncInferenceConfig", {})
    settings = asked.settings
    yield _compare(
        f"variant {asked.variant}",
        {
            "instanceType": settings.instance_type,
            "maxConcurrentInvocationsPerInstance": settings.max_concurrent_invocations_per_instance,
        },
        found
        and {
            "instanceType": found.get("InstanceType"),
            "maxConcurrentInvocationsPerInstance": asynchronous.get("ClientConfig", {}).get(
                "MaxConcurrentInvocationsPerInstance"
            ),
        },
        f"deploy the stack file: pulumi up --stack {settings.stack}",
    )


# Scaling


def _weights(asked: Asked, live: Live) -> Iterator[Check]:
    wanted = asked.settings.weights
    if not wanted.startswith("s3://") or live.configuration is None:
        return
    what, found = "weights", live.weights_uri or "none on S3"
    if found.rstrip("/") != wanted.rstrip("/"):
        yield Check(what, wanted, found, _put_back(asked))
    elif live.weights is None:
        yield Check(what, wanted, "published by something else", checked=False)
    else:
        told = live.weights
        revision = f"@{told['revision'][:12]}" if told["revision"] else ""
        files = f"{len(told['sha256'])} files, {told['bytes'] / 1e9:.1f} GB"
        yield Check(what, wanted, f"{told['source']}{revision}, {files}")


def _resource_id(asked: Asked) -> str:
    return scalable_id(asked.settings.endpoint_name, asked.variant)


def _target(asked: Asked, live: Live) -> Check:
    plan = asked.settings.plan
    what = f"scalable target {_resource_id(asked)}"
    found = next((t for t in live.targets if t["ResourceId"] == _resource_id(asked)), None)
    wanted = {"minCapacity": plan.min_capacity, "maxCapacity": plan.max_capacity, "suspended": None}
    if found is None:
        return Check(
            what,
            _text(wanted),
            "none: nothing scales the endpoint; deleting or replacing it deregisters silently",
            _put_back(asked),
        )
    # A scheduled action sets bounds that stay until another action sets them (AAS).
    low = {plan.min_capacity, *(action.min_capacity for action in plan.schedules)}
    high = {plan.max_capacity, *(action.max_capacity for action in plan.schedules)}
    bounds = {
        "minCapacity": _one_of(found["MinCapacity"], low, plan.min_capacity),
        "maxCapacity": _one_of(found["MaxCapacity"], high, plan.max_capacity),
    }
    suspended = [kind for kind, is_so in found.get("SuspendedState", {}).items() if is_so]
    return _compare(
        what, wanted, bounds | {"suspended": ", ".join(suspended) or None}, _put_back(asked)
    )


def _one_of(found: int, allowed: set[int | None], asked: int) -> int:
    return asked if found in allowed else found


def _of_target(resource_id: str) -> str:
    """The options that name a scalable target to AWS's command line."""
    return (
        f"--service-namespace {SERVICE_NAMESPACE} --scalable-dimension {SCALABLE_DIMENSION} "
        f"--resource-id {resource_id}"
    )


def _orphans(asked: Asked, live: Live) -> Iterator[Check]:
    variants = {v["VariantName"] for v in (live.endpoint or {}).get("ProductionVariants", ())}
    for target in live.targets:
        resource_id = target["ResourceId"]
        if resource_id.rpartition("/")[2] in variants:
            continue
        yield Check(
            f"scalable target {resource_id}",
            "none, since the endpoint has no such variant",
            f"orphaned, with {target['MinCapacity']}..{target['MaxCapacity']} instances",
            "remove it: aws application-autoscaling deregister-scalable-target "
            + _of_target(resource_id),
        )


def _policies(asked: Asked, live: Live) -> Iterator[Check]:
    found = {policy["PolicyName"]: policy for policy in live.policies}
    for policy in asked.settings.plan.policies:
        document = found.pop(policy.name, None)
        what = f"policy {policy.name}"
        yield _compare(
            what,
            _policy_facts(documents.policy_document(policy, asked.settings.endpoint_name)),
            document and _policy_facts(document),
            _put_back(asked),
        )
        for alarm in (document or {}).get("Alarms", ()):
            name = alarm["AlarmName"]
            if name not in live.alarms:
                # Only Auto Scaling can create its alarms again.
                again = "delete the policy, then " + _put_back(asked)
                yield Check(f"alarm {name}", f"runs {what}", "none: it was deleted", again)
    for name, document in found.items():
        yield Check(
            f"policy {name}",
            "none",
            _text(_policy_facts(document)),
            "add it to scalingPlan, or remove it: aws application-autoscaling "
            f"delete-scaling-policy --policy-name '{name}' {_of_target(_resource_id(asked))}",
        )


def _policy_facts(document: documents.Document) -> Facts | str:
    """The facts of a policy, or why they cannot be told."""
    try:
        policy, tracked = documents.policy(document)
    except ValueError as error:
        return _reason(error)
    facts = policy.model_dump(by_alias=True, mode="json", exclude={"name", "steps"})
    if isinstance(policy, StepScaling):
        return facts | {"steps": _steps(policy.steps)}
    return facts | _metric_facts(tracked)


def _metric_facts(on: documents.MetricStat | None) -> dict[str, object]:
    if on is None:
        return {"metric": None}
    return {
        "namespace": on.series.namespace,
        "metric": on.series.name,
        "dimensions": ", ".join(f"{name}={value}" for name, value in on.series.dimensions),
        **({} if on.times is None else {"times": on.times.name}),
        "statistic": on.statistic,
        "periodS": on.period_s,
    }


def _steps(steps: Iterable[StepAdjustment]) -> str:
    spans = sorted(
        (
            -math.inf if step.lower_bound is None else step.lower_bound,
            math.inf if step.upper_bound is None else step.upper_bound,
            step.adjustment,
        )
        for step in steps
    )
    return "; ".join(f"{low:g} to {high:g}: {adjustment:+d}" for low, high, adjustment in spans)


def _reason(error: ValueError) -> str:
    """Why a document cannot be read, in one line."""
    return "; ".join(problems_of(error)) if isinstance(error, ValidationError) else str(error)


def _schedules(asked: Asked, live: Live) -> Iterator[Check]:
    found = {action["ScheduledActionName"]: action for action in live.schedules}
    for action in asked.settings.plan.schedules:
        document = found.pop(action.name, None)
        yield _compare(
            f"schedule {action.name}",
            _schedule_facts(documents.schedule_document(action)),
            document and _schedule_facts(document),
            _put_back(asked),
        )
    for name in found:
        remedy = "add it to scalingPlan, or remove it"
        yield Check(f"schedule {name}", "none", str(found[name]["Schedule"]), remedy)


def _schedule_facts(document: documents.Document) -> Facts | str:
    """The facts of a scheduled action, or why they cannot be told."""
    try:
        action = documents.schedule(document)
    except ValueError as error:
        return _reason(error)
    return action.model_dump(by_alias=True, exclude={"name"})


# Alarms


def _alarms(asked: Asked, live: Live) -> Iterator[Check]:
    arns = {policy["PolicyName"]: policy["PolicyARN"] for policy in live.policies}
    told: set[str] = set()
    for policy in asked.settings.plan.policies:
        if not isinstance(policy, StepScalingPolicy):
            continue
        for alarm in policy.alarms:
            name = _alarm_of(policy.name, alarm, asked, told)
            if name is None:
                yield Check(
                    f"alarm of policy {policy.name}",
                    "one that runs it",
                    "none in Pulumi's state",
                    f"deploy the stack file: pulumi up --stack {asked.settings.stack}",
                )
                continue
            told.add(name)
            on = documents.metric_stat(alarm, asked.settings.endpoint_name)
            wanted = documents.alarm_document(alarm, on)
            # Without its policy an alarm has nothing to run, which the policy's row says.
            runs = [arns[policy.name]] if policy.name in arns else None
            yield _alarm(name, wanted | {"AlarmActions": runs}, asked, live)
    for name, inputs in asked.alarms.items():
        if name not in told:
            yield _alarm(name, documents.from_provider(inputs), asked, live)


def _alarm_of(policy: str, alarm: MetricAlarm, asked: Asked, told: Set[str]) -> str | None:
    """The name of the deployed alarm for one of a policy's, by its metric if there are several."""
    left = {
        name: inputs.get("metricName")
        for name, inputs in asked.alarms.items()
        for action in inputs.get("alarmActions") or ()
        if action.endswith(f":policyName/{policy}") and name not in told
    }
    return min(left, key=lambda name: left[name] != alarm.metric, default=None)


def _alarm(name: str, wanted: documents.Document, asked: Asked, live: Live) -> Check:
    document = live.alarms.get(name)
    said = _alarm_facts(wanted)
    found = document and _alarm_facts({"AlarmActions": (), **document})
    return _compare(f"alarm {name}", said, found, _put_back(asked))


_OF_ANY_ALARM = (
    "ComparisonOperator",
    "EvaluationPeriods",
    "DatapointsToAlarm",
    "ThresholdMetricId",
    "TreatMissingData",
)


def _alarm_facts(document: documents.Document) -> Facts:
    """The facts of an alarm; its actions only if the document has them."""
    try:
        rule, on = documents.alarm(document)
    except ValueError:  # a band of expected values instead of a threshold, for one
        facts = {name: document[name] for name in _OF_ANY_ALARM if name in document}
    else:
        facts = _metric_facts(on) | rule.model_dump(by_alias=True, mode="json")
    if document.get("AlarmActions") is not None:
        facts["actions"] = ", ".join(sorted(document["AlarmActions"]))
    return facts | {"enabled": document.get("ActionsEnabled", True)}


def _wakes(asked: Asked, live: Live) -> Iterator[Check]:
    target = next((t for t in live.targets if t["ResourceId"] == _resource_id(asked)), None)
    if target is None and live.instances:
        return  # nothing scales it in either, as the target's row says
    what, wanted = "wake-up from zero", "a request to an idle endpoint starts an instance"
    floor = target["MinCapacity"] if target else 0
    if wakes_from_zero(asked, live):
        yield Check(what, wanted, "as asked")
    elif floor > 0:
        yield Check(what, "not needed", f"not needed: never fewer than {floor}")
    else:
        zero = "at 0" if not live.instances else f"at 0 as soon as its {live.instances} are gone"
        yield Check(
            what,
            wanted,
            f"stranded {zero}: no working alarm and policy leave zero, so requests wait until "
            "they expire",
            f"correct what differs above: pulumi up --refresh --stack {asked.settings.stack}",
        )


def _working_policies(asked: Asked, live: Live) -> Iterator[ScalingPolicy]:
    """The deployed policies that an alarm on this endpoint's metrics really runs."""
    alarms = [alarm for alarm in live.alarms.values() if _watches(alarm, asked)]
    for document in live.policies:
        if document["PolicyType"] != "StepScaling":
            # Target tracking may not leave zero (docs/aws-facts.md#target-tracking).
            continue
        for alarm in alarms:
            try:
                found = list(documents.plan_policies(document, [alarm]))
            except ValueError:
                continue  # what breaks AWS's rules is not a policy that works
            for policy in found:
                name = f"{policy.name} by {alarm['AlarmName']}"[:256]
                yield policy.model_copy(update={"name": name})


def _watches(alarm: documents.Document, asked: Asked) -> bool:
    try:
        _, on = documents.alarm(alarm)
    except ValueError:
        return False
    mine = (("EndpointName", asked.settings.endpoint_name),)
    return on is not None and on.series.dimensions == mine


# Where answers go


def _output(live: Live) -> "AsyncInferenceOutputConfigOutputTypeDef":
    return (live.configuration or {}).get("AsyncInferenceConfig", {}).get("OutputConfig", {})


def _topics(asked: Asked, live: Live) -> Iterator[Check]:
    for kind, arn in topic_arns(_output(live)).items():
        what = f"{kind} topic {arn.rpartition(':')[2]}"
        wanted = "exists, and the endpoint's role may publish"
        if live.topics.get(arn) is None:
            yield Check(what, wanted, "no such topic", _put_back(asked))
        elif not may(live.role_policies, "sns:Publish", arn):
            found = "the role may not sns:Publish to it: nobody is told how requests end"
            yield Check(what, wanted, found, _put_back(asked))
        elif refused(live.topics[arn] or {}, "sns:Publish", arn):
            found = "the topic's own policy refuses sns:Publish"
            yield Check(what, wanted, found, _put_back(asked))
        else:
            yield Check(what, wanted, "as asked")


def topic_arns(output: "AsyncInferenceOutputConfigOutputTypeDef") -> dict[str, str]:
    """The topics of an asynchronous OutputConfig, `success` and `error`."""
    notifies = output.get("NotificationConfig", {})
    named = {"success": notifies.get("SuccessTopic"), "error": notifies.get("ErrorTopic")}
    return {kind: arn for kind, arn in named.items() if arn}


def bucket_names(output: "AsyncInferenceOutputConfigOutputTypeDef") -> dict[str, str]:
    """The buckets of an asynchronous OutputConfig, by what goes there."""
    paths = {"outputs": output.get("S3OutputPath"), "failures": output.get("S3FailurePath")}
    return {what: split_s3_uri(path)[0] for what, path in paths.items() if path}


def _buckets(asked: Asked, live: Live) -> Iterator[Check]:
    buckets = bucket_names(_output(live))
    for what, bucket in buckets.items():
        remedy = None if live.buckets.get(bucket) else _put_back(asked)
        found = "as asked" if remedy is None else "cannot be reached"
        yield Check(f"bucket of {what}", bucket, found, remedy)
    if "failures" not in buckets:
        # Failures reach S3 only if S3FailurePath is set (DG).
        yield Check(
            "bucket of failures", "a failure path", "none: failures are lost", _put_back(asked)
        )
