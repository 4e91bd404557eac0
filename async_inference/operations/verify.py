"""Compares what runs with what was asked, as pure rules over plain records.

Asked is what the stack file's settings say, with the names that only Pulumi's state knows; found is
what AWS answers, as boto3 gives it. `account` reads both; here nothing is read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from async_inference.operations.checks import Check
from async_inference.operations.iam import may, refused
from async_inference.scaling.plan import (
    MetricAlarm,
    ScalingPlan,
    ScalingPolicy,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled
from async_inference.settings import Settings

NAMESPACE = "AWS/SageMaker"
DEFAULT_COOLDOWN_S = 300
"""Where a policy names none (AAS)."""

Facts = Mapping[str, object]
"""What one resource is, fact by fact, in the words of the stack file."""


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
    alarms: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Live:
    """What AWS says, documents as boto3 gives them.

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
        weights_uri: where the model's weights are mounted from; None where they are not on S3.
        weights: what `weights publish` wrote there; None where it wrote nothing or AWS refused.
    """

    endpoint: Mapping[str, Any] | None = None
    configuration: Mapping[str, Any] | None = None
    targets: Sequence[Mapping[str, Any]] = ()
    policies: Sequence[Mapping[str, Any]] = ()
    schedules: Sequence[Mapping[str, Any]] = ()
    alarms: Mapping[str, Mapping[str, Any]]
    topics: Mapping[str, Mapping[str, Any] | None]
    role_policies: Sequence[Mapping[str, Any]] = ()
    buckets: Mapping[str, bool]
    weights_uri: str | None = None
    weights: Mapping[str, Any] | None = None

    @property
    def instances(self) -> int:
        """Instances in service, all variants together."""
        variants = (self.endpoint or {}).get("ProductionVariants", ())
        return sum(variant.get("CurrentInstanceCount", 0) for variant in variants)


def checks(asked: Asked, live: Live) -> list[Check]:
    """Every comparison, in the order in which a person would look."""
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
    """Whether a request would start an instance if there were none: by what runs, not by what was
    asked."""
    # A schedule's floor holds until another's, so a floor of now says nothing of tonight.
    plan = ScalingPlan(
        min_capacity=0, max_capacity=1, policies=tuple(_working_policies(asked, live))
    )
    return plan.wakes_from_zero(Unsettled())


def stranded(asked: Asked, live: Live) -> bool:
    """Whether a request would wait in vain: no instance runs and nothing would start one."""
    return live.instances == 0 and not wakes_from_zero(asked, live)


def _put_back(asked: Asked) -> str:
    return f"put it back: pulumi up --refresh --stack {asked.settings.stack}"


def _compared(what: str, asked: Facts, found: Facts | None, remedy: str) -> Check:
    if found is None:
        return Check(what, _text(asked), "none", remedy)
    differing = [key for key in asked if asked[key] != found.get(key)]
    if not differing:
        return Check(what, _text(asked), "as asked")
    return Check(
        what,
        _text({key: asked[key] for key in differing}),
        _text({key: found.get(key) for key in differing}),
        remedy,
    )


def _text(facts: Facts) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in facts.items())


def _value(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# The endpoint and what it runs


def _endpoint(asked: Asked, endpoint: Mapping[str, Any]) -> Iterator[Check]:
    name = asked.settings.endpoint_name
    logs = f"its logs are in /aws/sagemaker/Endpoints/{name}"
    status, reason = endpoint["EndpointStatus"], endpoint.get("FailureReason")
    busy = status in ("Creating", "Updating", "RollingBack", "SystemUpdating")
    found = f"{status}: {reason}" if reason else status
    what = f"endpoint {name}"
    # Only an update to a new configuration has a pending deployment (BC DescribeEndpoint); without
    # one an endpoint is Updating because it scales.
    scales = status == "Updating" and "PendingDeploymentSummary" not in endpoint
    if status == "InService" or scales:
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
    yield _compared("endpoint configuration", {"name": asked.configuration}, {"name": runs}, remedy)


def _variant(asked: Asked, live: Live) -> Iterator[Check]:
    variants = {
        v["VariantName"]: v for v in (live.configuration or {}).get("ProductionVariants", ())
    }
    found = variants.get(asked.variant)
    asynchronous = (live.configuration or {}).get("AsyncInferenceConfig", {})
    settings = asked.settings
    yield _compared(
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
    return f"endpoint/{asked.settings.endpoint_name}/variant/{asked.variant}"


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
    # A scheduled action sets the bounds for good, until another does (AAS).
    low = {plan.min_capacity, *(action.min_capacity for action in plan.schedules)}
    high = {plan.max_capacity, *(action.max_capacity for action in plan.schedules)}
    bounds = {
        "minCapacity": _one_of(found["MinCapacity"], low, plan.min_capacity),
        "maxCapacity": _one_of(found["MaxCapacity"], high, plan.max_capacity),
    }
    suspended = [kind for kind, is_so in found.get("SuspendedState", {}).items() if is_so]
    return _compared(
        what, wanted, bounds | {"suspended": ", ".join(suspended) or None}, _put_back(asked)
    )


def _one_of(found: int, allowed: set[int | None], asked: int) -> int:
    return asked if found in allowed else found


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
            "remove it: aws application-autoscaling deregister-scalable-target --service-namespace "
            "sagemaker --scalable-dimension sagemaker:variant:DesiredInstanceCount --resource-id "
            + resource_id,
        )


def _policies(asked: Asked, live: Live) -> Iterator[Check]:
    found = {policy["PolicyName"]: policy for policy in live.policies}
    for policy in asked.settings.plan.policies:
        document = found.pop(policy.name, None)
        what = f"policy {policy.name}"
        yield _compared(
            what,
            asked_policy(policy, asked.settings.endpoint_name),
            document and found_policy(document),
            _put_back(asked),
        )
        for alarm in (document or {}).get("Alarms", ()):
            name = alarm["AlarmName"]
            if name not in live.alarms:
                # Nothing puts back what belongs to Auto Scaling but Auto Scaling itself.
                again = "delete the policy, then " + _put_back(asked)
                yield Check(f"alarm {name}", f"runs {what}", "none: it was deleted", again)
    for name, document in found.items():
        yield Check(
            f"policy {name}",
            "none",
            _text(found_policy(document)),
            "add it to scalingPlan, or remove it: aws application-autoscaling "
            f"delete-scaling-policy --policy-name '{name}' --service-namespace sagemaker "
            "--scalable-dimension sagemaker:variant:DesiredInstanceCount --resource-id "
            + _resource_id(asked),
        )


def asked_policy(policy: ScalingPolicy, endpoint_name: str) -> Facts:
    """A plan's policy, fact by fact."""
    if isinstance(policy, TargetTrackingPolicy):
        return {
            "type": policy.type,
            "namespace": NAMESPACE,
            "metric": policy.metric.value,
            "dimensions": f"EndpointName={endpoint_name}",
            "statistic": policy.statistic,
            "target": policy.target,
            "scaleOutCooldownS": policy.scale_out_cooldown_s,
            "scaleInCooldownS": policy.scale_in_cooldown_s,
            "disableScaleIn": policy.disable_scale_in,
        }
    return {
        "type": policy.type,
        "adjustmentType": policy.adjustment_type.value,
        "metricAggregationType": policy.metric_aggregation_type,
        "cooldownS": policy.cooldown_s,
        "minAdjustmentMagnitude": policy.min_adjustment_magnitude,
        "steps": _steps((s.lower_bound, s.upper_bound, s.adjustment) for s in policy.steps),
    }


def found_policy(document: Mapping[str, Any]) -> Facts:
    """A policy as DescribeScalingPolicies gives it, fact by fact."""
    tracking = document.get("TargetTrackingScalingPolicyConfiguration")
    if tracking is not None:
        # A predefined metric has no specification of its own.
        metric = tracking.get("CustomizedMetricSpecification", {})
        predefined = tracking.get("PredefinedMetricSpecification", {})
        return {
            "type": document["PolicyType"],
            "namespace": metric.get("Namespace"),
            "metric": metric.get("MetricName") or predefined.get("PredefinedMetricType"),
            "dimensions": _dimensions(metric.get("Dimensions", ())),
            "statistic": metric.get("Statistic"),
            "target": tracking["TargetValue"],
            "scaleOutCooldownS": tracking.get("ScaleOutCooldown", DEFAULT_COOLDOWN_S),
            "scaleInCooldownS": tracking.get("ScaleInCooldown", DEFAULT_COOLDOWN_S),
            "disableScaleIn": tracking.get("DisableScaleIn", False),
        }
    steps = document.get("StepScalingPolicyConfiguration", {})
    return {
        "type": document["PolicyType"],
        "adjustmentType": steps.get("AdjustmentType"),
        "metricAggregationType": steps.get("MetricAggregationType", "Average"),
        "cooldownS": steps.get("Cooldown", DEFAULT_COOLDOWN_S),
        "minAdjustmentMagnitude": steps.get("MinAdjustmentMagnitude"),
        "steps": _steps(
            (
                step.get("MetricIntervalLowerBound"),
                step.get("MetricIntervalUpperBound"),
                step["ScalingAdjustment"],
            )
            for step in steps.get("StepAdjustments", ())
        ),
    }


def _steps(steps: Any) -> str:
    spans = sorted(
        (-math.inf if low is None else low, math.inf if high is None else high, adjustment)
        for low, high, adjustment in steps
    )
    return "; ".join(f"{low:g} to {high:g}: {adjustment:+d}" for low, high, adjustment in spans)


def _dimensions(dimensions: Any) -> str:
    return ", ".join(sorted(f"{d['Name']}={d['Value']}" for d in dimensions))


def _schedules(asked: Asked, live: Live) -> Iterator[Check]:
    found = {action["ScheduledActionName"]: action for action in live.schedules}
    for action in asked.settings.plan.schedules:
        document = found.pop(action.name, None)
        bounds = (document or {}).get("ScalableTargetAction", {})
        yield _compared(
            f"schedule {action.name}",
            {
                "schedule": action.schedule,
                "timezone": action.timezone,
                "minCapacity": action.min_capacity,
                "maxCapacity": action.max_capacity,
            },
            document
            and {
                "schedule": document["Schedule"],
                "timezone": document.get("Timezone", "UTC"),
                "minCapacity": bounds.get("MinCapacity"),
                "maxCapacity": bounds.get("MaxCapacity"),
            },
            _put_back(asked),
        )
    for name in found:
        remedy = "add it to scalingPlan, or remove it"
        yield Check(f"schedule {name}", "none", str(found[name]["Schedule"]), remedy)


# Alarms


def _alarms(asked: Asked, live: Live) -> Iterator[Check]:
    arns = {policy["PolicyName"]: policy["PolicyARN"] for policy in live.policies}
    told = set()
    for policy in asked.settings.plan.policies:
        if not isinstance(policy, StepScalingPolicy):
            continue
        name = _alarm_of(policy.name, asked)
        if name is None:
            yield Check(
                f"alarm of policy {policy.name}",
                "one that runs it",
                "none in Pulumi's state",
                f"deploy the stack file: pulumi up --stack {asked.settings.stack}",
            )
            continue
        told.add(name)
        wanted = _asked_alarm(policy.alarm, asked.settings.endpoint_name)
        # Without its policy an alarm has nothing to run; the policy's own row says so.
        wanted |= {"actions": arns[policy.name]} if policy.name in arns else {}
        yield _alarm(name, wanted, asked, live)
    for name, inputs in asked.alarms.items():
        if name not in told:
            yield _alarm(name, _deployed_alarm(inputs), asked, live)


def _alarm_of(policy: str, asked: Asked) -> str | None:
    for name, inputs in asked.alarms.items():
        for action in inputs.get("alarmActions") or ():
            if action.endswith(f":policyName/{policy}"):
                return name
    return None


def _alarm(name: str, wanted: Facts, asked: Asked, live: Live) -> Check:
    document = live.alarms.get(name)
    return _compared(f"alarm {name}", wanted, document and found_alarm(document), _put_back(asked))


def _asked_alarm(alarm: MetricAlarm, endpoint_name: str) -> dict[str, object]:
    return {
        "namespace": NAMESPACE,
        "metric": alarm.metric.value,
        # Any other dimension and the alarm never fires (aws-facts.md section 4).
        "dimensions": f"EndpointName={endpoint_name}",
        "statistic": alarm.statistic,
        "comparison": alarm.comparison.value,
        "threshold": alarm.threshold,
        "periodS": alarm.period_s,
        "evaluationPeriods": alarm.evaluation_periods,
        "datapointsToAlarm": alarm.datapoints_to_alarm,
        "treatMissingData": alarm.treat_missing_data.value,
        "enabled": True,
    }


def _deployed_alarm(inputs: Mapping[str, Any]) -> Facts:
    """An alarm as Pulumi registered it; one over several metrics has no metric of its own."""
    dimensions = (inputs.get("dimensions") or {}).items()
    facts = {
        "namespace": inputs.get("namespace"),
        "metric": inputs.get("metricName"),
        "dimensions": _dimensions({"Name": k, "Value": v} for k, v in dimensions),
        "statistic": inputs.get("statistic"),
        "comparison": inputs.get("comparisonOperator"),
        "threshold": inputs.get("threshold"),
        "periodS": inputs.get("period"),
        "evaluationPeriods": inputs.get("evaluationPeriods"),
        "datapointsToAlarm": inputs.get("datapointsToAlarm"),
        "treatMissingData": inputs.get("treatMissingData"),
        "actions": ", ".join(sorted(inputs.get("alarmActions") or ())),
        "enabled": inputs.get("actionsEnabled", True),
    }
    return {key: value for key, value in facts.items() if value not in (None, "")}


def found_alarm(document: Mapping[str, Any]) -> Facts:
    """An alarm as DescribeAlarms gives it, fact by fact."""
    return {
        "namespace": document.get("Namespace"),
        "metric": document.get("MetricName"),
        "dimensions": _dimensions(document.get("Dimensions", ())),
        "statistic": document.get("Statistic"),
        "comparison": document.get("ComparisonOperator"),
        "threshold": document.get("Threshold"),
        "periodS": document.get("Period"),
        "evaluationPeriods": document.get("EvaluationPeriods"),
        "datapointsToAlarm": document.get("DatapointsToAlarm") or document.get("EvaluationPeriods"),
        "treatMissingData": document.get("TreatMissingData", "missing"),
        "actions": ", ".join(sorted(document.get("AlarmActions", ()))),
        "enabled": document.get("ActionsEnabled", True),
    }


def _wakes(asked: Asked, live: Live) -> Iterator[Check]:
    target = next((t for t in live.targets if t["ResourceId"] == _resource_id(asked)), None)
    if target is None and live.instances:
        return  # nothing scales it in either; the target's row says so
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
    """The live policies that some alarm on this endpoint's metrics really runs."""
    for document in live.policies:
        facts: dict[str, Any] = dict(found_policy(document))
        if "StepScalingPolicyConfiguration" not in document:
            continue  # from zero, target tracking is not to be relied upon (aws-facts.md section 6)
        steps = document["StepScalingPolicyConfiguration"]["StepAdjustments"]
        for alarm in live.alarms.values():
            running = dict(found_alarm(alarm))
            theirs = f"EndpointName={asked.settings.endpoint_name}"
            if document["PolicyARN"] not in alarm.get("AlarmActions", ()) or (
                running["namespace"],
                running["dimensions"],
                running["enabled"],
            ) != (NAMESPACE, theirs, True):
                continue
            try:
                yield StepScalingPolicy(
                    name=f"{document['PolicyName']} by {alarm['AlarmName']}"[:256],
                    alarm=MetricAlarm.model_validate(
                        {key: running[key] for key in _ALARM_KEYS if running[key] is not None}
                    ),
                    adjustment_type=facts["adjustmentType"],
                    cooldown_s=facts["cooldownS"],
                    steps=tuple(map(StepAdjustment.deployed, steps)),
                )
            except ValidationError:
                continue  # an alarm on a metric that asynchronous endpoints never publish


_ALARM_KEYS = (
    "metric",
    "statistic",
    "comparison",
    "threshold",
    "periodS",
    "evaluationPeriods",
    "datapointsToAlarm",
    "treatMissingData",
)


# Where answers go


def _output(live: Live) -> Mapping[str, Any]:
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


def topic_arns(output: Mapping[str, Any]) -> dict[str, str]:
    """The topics of an asynchronous OutputConfig, `success` and `error`."""
    notifies = output.get("NotificationConfig", {})
    named = {"success": notifies.get("SuccessTopic"), "error": notifies.get("ErrorTopic")}
    return {kind: arn for kind, arn in named.items() if arn}


def bucket_names(output: Mapping[str, Any]) -> dict[str, str]:
    """The buckets of an asynchronous OutputConfig, by what goes there."""
    paths = {"outputs": output.get("S3OutputPath"), "failures": output.get("S3FailurePath")}
    return {
        what: path.removeprefix("s3://").partition("/")[0] for what, path in paths.items() if path
    }


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
