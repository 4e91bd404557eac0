"""Rules for every stack, over the resources that Pulumi is about to register.

It imports nothing of this project, so the pack can guard any program with asynchronous endpoints.
At preview some values are unknown. pulumi_policy then reports a rule over one resource as unknown,
and the update checks it again. Rules over a whole stack use the dependencies between resources
instead.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pulumi_policy import (
    Policy,
    PolicyConfigSchema,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

CONFIGURATION = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
TARGET = "aws:appautoscaling/target:Target"
SCALING_POLICY = "aws:appautoscaling/policy:Policy"
SCHEDULE = "aws:appautoscaling/scheduledAction:ScheduledAction"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
BUCKET = "aws:s3/bucket:Bucket"
ENCRYPTION = (
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
)
PUBLIC_ACCESS = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
TOPIC = "aws:sns/topic:Topic"
IDENTITY_POLICIES = frozenset(
    {
        "aws:iam/policy:Policy",
        "aws:iam/rolePolicy:RolePolicy",
        "aws:iam/userPolicy:UserPolicy",
        "aws:iam/groupPolicy:GroupPolicy",
    }
)
TAGGED = frozenset(
    {
        "aws:sagemaker/model:Model",
        CONFIGURATION,
        "aws:sagemaker/endpoint:Endpoint",
        TARGET,
        ALARM,
        BUCKET,
        TOPIC,
        "aws:iam/role:Role",
        "aws:kms/key:Key",
    }
)
PUBLISHED = frozenset(
    {
        "ApproximateBacklogSize",
        "ApproximateBacklogSizePerInstance",
        "ApproximateAgeOfOldestRequest",
        "HasBacklogWithoutCapacity",
    }
)
"""SageMaker's metrics of an asynchronous endpoint's queue, under the single dimension EndpointName
(SageMaker developer guide, async-inference-monitor). InvocationsPerInstance and the predefined
metric are for real-time endpoints; a policy on them never scales."""
MINUTE_S = 60
WAKE = "HasBacklogWithoutCapacity"
SAGEMAKER = "AWS/SageMaker"
DEFAULT_MOST_INSTANCES = 10
DEFAULT_FAMILIES = ["g4dn", "g5", "g6", "g6e"]
DEFAULT_TAGS = ["project", "stack"]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str | Mapping) else list(value)


# Waking from zero


def _known(props: Mapping[str, object], key: str) -> Any:
    """A property; None if it is unknown or absent."""
    try:
        return props.get(key)
    except UnknownValueError:
        return None


def _same(one: PolicyResource, other: PolicyResource, key: str) -> bool:
    """Whether a property of both refers to the same resource, by value or else by dependency."""
    mine, its = _known(one.props, key), _known(other.props, key)
    if mine is not None and its is not None:
        return mine == its
    return other in one.property_dependencies.get(key, [])


def _runs(alarm: PolicyResource, policy: PolicyResource) -> bool:
    """Whether an alarm's action is the policy, by its ARN or else by dependency."""
    try:
        actions, arn = _listed(alarm.props.get("alarmActions")), policy.props.get("arn")
        if actions and arn is not None:
            return arn in actions
    except UnknownValueError:
        pass
    return policy in alarm.property_dependencies.get("alarmActions", [])


def _adds(policy: PolicyResource) -> bool:
    steps = _known(policy.props, "stepScalingPolicyConfiguration") or {}
    return any(step["scalingAdjustment"] > 0 for step in _listed(steps.get("stepAdjustments")))


def wakes_from_zero(args: StackValidationArgs, report: ReportViolation) -> None:
    """A variant that may have 0 instances needs a step policy that adds one, invoked by an alarm on
    HasBacklogWithoutCapacity with the single dimension EndpointName."""
    of_type = _by_type(args.resources)
    for target in of_type(TARGET):
        if _known(target.props, "serviceNamespace") not in (None, "sagemaker"):
            continue
        if _known(target.props, "minCapacity") != 0:
            continue
        adding = [p for p in of_type(SCALING_POLICY) if _same(p, target, "resourceId") and _adds(p)]
        waking = [
            alarm
            for alarm in of_type(ALARM)
            if any(series.get("metricName") == WAKE for series in _watched(alarm))
            and any(_runs(alarm, policy) for policy in adding)
        ]
        if not waking:
            report(
                f"{target.name} allows 0 instances, but no alarm on {WAKE} invokes a step policy "
                "that adds one: requests would wait until they expire. Add both, or set "
                "minCapacity to 1.",
                target.urn,
            )
        for alarm in waking:
            # The keys are known even if the endpoint's name is not.
            for series in _watched(alarm):
                dimensions = set(series.get("dimensions") or {})
                if series.get("metricName") != WAKE or dimensions == {"EndpointName"}:
                    continue
                report(
                    f"{alarm.name} watches {WAKE} with the dimensions {sorted(dimensions)}, but it "
                    "is published with EndpointName alone: the alarm would never fire.",
                    alarm.urn,
                )


_OF_METRIC = ("namespace", "metricName", "dimensions", "period")


def _watched(alarm: PolicyResource) -> list[Mapping[str, Any]]:
    """The metrics that an alarm watches: a single one, or those of its expression."""
    own = {key: _known(alarm.props, key) for key in _OF_METRIC}
    queries = _listed(_known(alarm.props, "metricQueries"))
    return [own, *(query["metric"] for query in queries if query.get("metric"))]


def _by_type(resources: Iterable[PolicyResource]) -> Any:
    resources = list(resources)
    return lambda kind: [each for each in resources if each.resource_type == kind]


# Scaling


def scales_on_published_metrics(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Target tracking of an endpoint uses a metric that asynchronous endpoints publish."""
    tracking = args.props.get("targetTrackingScalingPolicyConfiguration")
    if args.resource_type != SCALING_POLICY or tracking is None:
        return
    if args.props.get("serviceNamespace") != "sagemaker":
        return
    predefined = tracking.get("predefinedMetricSpecification")
    if predefined is not None:
        report(
            f"{args.name} tracks the predefined {predefined.get('predefinedMetricType')}, which "
            f"asynchronous endpoints never publish; track one of {', '.join(sorted(PUBLISHED))}.",
            args.urn,
        )
        return
    metric = tracking["customizedMetricSpecification"]
    if metric["namespace"] == SAGEMAKER and metric["metricName"] not in PUBLISHED:
        report(
            f"{args.name} tracks {metric['metricName']}, which asynchronous endpoints never "
            f"publish by endpoint; track one of {', '.join(sorted(PUBLISHED))}.",
            args.urn,
        )


def alarms_run_policies_on_published_metrics(
    args: StackValidationArgs, report: ReportViolation
) -> None:
    """Alarms that invoke a scaling policy watch metrics that asynchronous endpoints publish."""
    of_type = _by_type(args.resources)
    for alarm in of_type(ALARM):
        if not any(_runs(alarm, policy) for policy in of_type(SCALING_POLICY)):
            continue
        for series in _watched(alarm):
            metric = series.get("metricName")
            if series.get("namespace") != SAGEMAKER:
                continue
            if metric not in PUBLISHED:
                report(
                    f"{alarm.name} invokes a scaling policy on {metric}, which asynchronous "
                    "endpoints never publish by endpoint; use one of "
                    f"{', '.join(sorted(PUBLISHED))}.",
                    alarm.urn,
                )
            elif (series.get("period") or MINUTE_S) < MINUTE_S:
                report(
                    f"{alarm.name} has a period below 60 s, but {metric} is published once a "
                    "minute: most periods would have no data. Set the period to 60 or more.",
                    alarm.urn,
                )


def stays_below_the_ceiling(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Neither initial instances, bounds nor schedules exceed the configured ceiling."""
    ceiling = args.get_config().get("maxCapacity", DEFAULT_MOST_INSTANCES)
    for where, count in _capacities(args):
        if count is not None and count > ceiling:
            report(
                f"{args.name}: {where} {count:g} exceeds the ceiling of {ceiling:g} instances.",
                args.urn,
            )


def _capacities(args: ResourceValidationArgs) -> Iterator[tuple[str, Any]]:
    if args.resource_type == TARGET:
        yield "maxCapacity", args.props.get("maxCapacity")
    elif args.resource_type == SCHEDULE:
        action = args.props.get("scalableTargetAction") or {}
        # The provider takes the bounds of schedules as numbers or text.
        yield "maxCapacity", _number(action.get("maxCapacity"))
    elif args.resource_type == CONFIGURATION:
        for variant in args.props.get("productionVariants", []):
            yield "initialInstanceCount", variant.get("initialInstanceCount")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def uses_allowed_families(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Instances are of the families that this stack may use."""
    if args.resource_type != CONFIGURATION:
        return
    allowed = args.get_config().get("families", DEFAULT_FAMILIES)
    for variant in args.props["productionVariants"]:
        kind = variant["instanceType"]
        if kind.split(".")[1] not in allowed:
            report(f"{args.name}: {kind} must be of a family in {', '.join(allowed)}.", args.urn)


# What must not be lost or public


def tells_failures(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Failures reach S3 only if a failure path is set (SageMaker developer guide)."""
    if args.resource_type != CONFIGURATION:
        return
    asynchronous = args.props.get("asyncInferenceConfig")
    if asynchronous is None:
        return
    try:
        path = asynchronous["outputConfig"].get("s3FailurePath")
    except UnknownValueError:
        return  # an unknown value will be a path
    if not path:
        report(f"{args.name} has no s3FailurePath: failed requests would leave no trace.", args.urn)


def buckets_are_closed(args: StackValidationArgs, report: ReportViolation) -> None:
    """Every bucket is encrypted and has all four settings of the public access block."""
    of_type = _by_type(args.resources)
    for bucket in of_type(BUCKET):
        if not any(_same(each, bucket, "bucket") for each in of_type(ENCRYPTION)):
            report(f"{bucket.name} has no encryption configuration.", bucket.urn)
        blocks = [each for each in of_type(PUBLIC_ACCESS) if _same(each, bucket, "bucket")]
        parts = (
            "blockPublicAcls",
            "blockPublicPolicy",
            "ignorePublicAcls",
            "restrictPublicBuckets",
        )
        open_parts = [p for p in parts if not any(_known(each.props, p) for each in blocks)]
        if open_parts:
            said = ", ".join(open_parts)
            report(f"{bucket.name} does not block public access: set {said}.", bucket.urn)


def topics_are_encrypted(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Topics are encrypted, because notifications contain inference ids and S3 locations."""
    if args.resource_type != TOPIC:
        return
    try:
        key = args.props.get("kmsMasterKeyId")
    except UnknownValueError:
        return  # a key that is being created
    if not key:
        report(
            f"{args.name} is not encrypted: set kmsMasterKeyId, at least to alias/aws/sns.",
            args.urn,
        )


def grants_no_wildcard_actions(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """No identity policy allows `*` or `service:*`. A KMS key policy may, because without kms:* for
    the account nobody could administer the key."""
    if args.resource_type not in IDENTITY_POLICIES:
        return
    document = args.props["policy"]
    policy = json.loads(document) if isinstance(document, str) else document
    for statement in _listed(policy.get("Statement")):
        if statement.get("Effect") != "Allow":
            continue
        if "NotAction" in statement:
            report(
                f"{args.name} allows all actions but some (NotAction); name those it needs.",
                args.urn,
            )
        for action in _listed(statement.get("Action")):
            if action == "*" or action.endswith(":*"):
                report(f"{args.name} allows {action}; name the actions that it needs.", args.urn)


def carries_tags(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """What costs money or holds data has tags that name its owner."""
    if args.resource_type not in TAGGED:
        return
    required = args.get_config().get("required", DEFAULT_TAGS)
    keys = set(args.props.get("tags") or ())  # their values may not be known yet
    missing = [key for key in required if key not in keys]
    if missing:
        report(
            f"{args.name} lacks the tags {', '.join(missing)}; set them in the stack's tags.",
            args.urn,
        )


def _resource_rule(rule: Any, **config: dict[str, object]) -> Policy:
    name, description = _told(rule)
    schema = PolicyConfigSchema(properties=config) if config else None
    return ResourceValidationPolicy(name, description, validate=rule, config_schema=schema)


def _stack_rule(rule: Any) -> Policy:
    return StackValidationPolicy(*_told(rule), validate=rule)


def _told(rule: Any) -> tuple[str, str]:
    """A rule's name and description as Pulumi shows them."""
    return rule.__name__.replace("_", "-"), " ".join(rule.__doc__.split())


def _words(default: list[str]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "default": default}


RULES: list[Policy] = [
    _stack_rule(wakes_from_zero),
    _resource_rule(scales_on_published_metrics),
    _stack_rule(alarms_run_policies_on_published_metrics),
    _resource_rule(
        stays_below_the_ceiling,
        maxCapacity={"type": "integer", "minimum": 1, "default": DEFAULT_MOST_INSTANCES},
    ),
    _resource_rule(uses_allowed_families, families=_words(DEFAULT_FAMILIES)),
    _resource_rule(tells_failures),
    _stack_rule(buckets_are_closed),
    _resource_rule(topics_are_encrypted),
    _resource_rule(grants_no_wildcard_actions),
    _resource_rule(carries_tags, required=_words(DEFAULT_TAGS)),
]
