"""The components as other languages see them: arguments of the types that a schema can say.

Arguments have the names and rules of the stack config. They are checked before anything is
registered, with one message for all errors. So they must be known at preview (the schema calls them
plain), except those that only AWS checks: image, paths, and the name of an endpoint that is scaled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pulumi
from components.stack import endpoint_args
from pydantic.alias_generators import to_camel

from async_inference.stack import settings
from async_inference.stack.settings import PROJECT, Settings
from components import async_endpoint, queue_scaling


class StepAdjustment(TypedDict):
    """One step of a step policy, relative to its alarm's threshold."""

    lower_bound: NotRequired[float]
    upper_bound: NotRequired[float]
    adjustment: int
    """Instances to add, negative to remove, or what the adjustment type makes of it"""


class MetricAlarm(TypedDict):
    """A CloudWatch alarm on a metric of the endpoint's queue."""

    metric: str
    """ApproximateBacklogSize, ...PerInstance, ApproximateAgeOfOldestRequest,
    HasBacklogWithoutCapacity, or RequestsWithoutCapacity, which clients publish"""
    threshold: float
    statistic: NotRequired[str]
    comparison: NotRequired[str]
    period_s: NotRequired[int]
    evaluation_periods: NotRequired[int]
    datapoints_to_alarm: NotRequired[int]
    treat_missing_data: NotRequired[str]


class ScalingPolicy(TypedDict):
    """A step policy with its alarm, or a target-tracking policy."""

    name: str
    type: str
    """StepScaling or TargetTrackingScaling"""
    alarm: NotRequired[MetricAlarm]
    """Runs a step policy"""
    more_alarms: NotRequired[list[MetricAlarm]]
    """Run it too, under the same cooldown"""
    steps: NotRequired[list[StepAdjustment]]
    adjustment_type: NotRequired[str]
    min_adjustment_magnitude: NotRequired[int]
    metric_aggregation_type: NotRequired[str]
    cooldown_s: NotRequired[int]
    metric: NotRequired[str]
    """Is tracked by a target-tracking policy"""
    statistic: NotRequired[str]
    target: NotRequired[float]
    scale_out_cooldown_s: NotRequired[int]
    scale_in_cooldown_s: NotRequired[int]
    disable_scale_in: NotRequired[bool]


class ScheduledAction(TypedDict):
    """New capacity bounds at a time."""

    name: str
    schedule: str
    """at(...), rate(...) or cron(...)"""
    timezone: NotRequired[str]
    min_capacity: NotRequired[int]
    max_capacity: NotRequired[int]


class ScalingRules(TypedDict):
    """The policies and schedules of the preset custom."""

    policies: NotRequired[list[ScalingPolicy]]
    schedules: NotRequired[list[ScheduledAction]]


class Security(TypedDict):
    """Keys and network of the endpoint."""

    encryption: NotRequired[str]
    """aws for AWS's own keys, customer for a KMS key of the endpoint's own, or a KMS key's ARN"""
    other_key_arns: NotRequired[list[str]]
    """KMS keys of weights and of output buckets that are elsewhere; the endpoint may use them"""
    network_isolation: NotRequired[bool]
    """The container reaches no network; weights must be on S3"""
    subnet_ids: NotRequired[list[str]]
    """Private subnets in which the model runs"""
    security_group_ids: NotRequired[list[str]]


class Retention(TypedDict):
    """After how many days what the endpoint keeps is deleted."""

    input_days: NotRequired[int]
    output_days: NotRequired[int]
    failure_days: NotRequired[int]
    old_version_days: NotRequired[int]
    log_days: NotRequired[int]


class Observability(TypedDict):
    """Alarms, dashboard and budget."""

    enabled: NotRequired[bool]
    starved_after_min: NotRequired[int]
    idle_after_h: NotRequired[int]
    failures: NotRequired[int]
    usd_per_instance_hour: NotRequired[float]
    monthly_budget_usd: NotRequired[float]


class Setup(TypedDict):
    """What passes from asking for an instance to its first request, in parts."""

    provision_s: NotRequired[float]
    image_pull_s: NotRequired[float]
    image_cached: NotRequired[bool]
    download_gib: NotRequired[float]
    download_gib_per_s: NotRequired[float]
    load_s: NotRequired[float]


class Updates(TypedDict):
    """How an update shifts traffic to the new fleet, and what rolls it back."""

    strategy: NotRequired[str]
    step_percent: NotRequired[int]
    wait_s: NotRequired[int]
    termination_wait_s: NotRequired[int]
    rollback: NotRequired[bool]


class Subscription(TypedDict):
    """Who is told how requests end, and what alarms find."""

    topic: str
    """success, error or operations"""
    protocol: str
    """email, sqs or https"""
    address: str


class AsyncEndpointArgs(TypedDict):
    """An asynchronous endpoint; each argument is the stack config's key of the same name."""

    endpoint_name: str
    """The endpoint's stable name; it updates in place"""
    region: str
    handler: str
    """Folder with inference.py and what it imports, packaged by content"""
    instance_type: NotRequired[str]
    min_capacity: NotRequired[int]
    max_capacity: NotRequired[int]
    scaling_preset: NotRequired[str]
    """documented, aws, tuned, announced, or custom for those in scalingPlan"""
    scaling_plan: NotRequired[ScalingRules]
    setup: NotRequired[Setup]
    setup_s: NotRequired[int]
    image_uri: NotRequired[pulumi.Input[str]]
    """ECR image; without one AWS's with imageTag"""
    image_tag: NotRequired[str]
    inference_ami_version: NotRequired[str]
    weights: NotRequired[str]
    """An S3 prefix or .tar.gz, a Hugging Face id, or tiny"""
    environment: NotRequired[dict[str, str]]
    max_concurrent_invocations_per_instance: NotRequired[int]
    invocation_timeout_s: NotRequired[int]
    request_ttl_s: NotRequired[int]
    max_payload_bytes: NotRequired[int]
    model_download_timeout_s: NotRequired[int]
    startup_health_check_timeout_s: NotRequired[int]
    output_path: NotRequired[pulumi.Input[str]]
    failure_path: NotRequired[pulumi.Input[str]]
    subscriptions: NotRequired[list[Subscription]]
    security: NotRequired[Security]
    retention: NotRequired[Retention]
    observability: NotRequired[Observability]
    updates: NotRequired[Updates]
    force_destroy_bucket: NotRequired[bool]
    tags: NotRequired[dict[str, str]]
    provider_config: NotRequired[dict[str, Any]]
    """Of an explicit provider, by the keys of aws: config, for the hooks; without it the stack's"""


class QueueScalingArgs(TypedDict):
    """The scaling of an asynchronous endpoint that was made elsewhere."""

    endpoint_name: pulumi.Input[str]
    variant_name: str
    instance_type: str
    min_capacity: NotRequired[int]
    max_capacity: NotRequired[int]
    scaling_preset: NotRequired[str]
    scaling_plan: NotRequired[ScalingRules]
    tags: NotRequired[dict[str, str]]


def checked(given: Mapping[str, Any], region: str) -> Settings:
    """What was given, by the rules of the stack config.

    Raises:
        InvalidInputError: with every problem, each naming its key, value, rule and remedy.
    """
    keys = {f"{PROJECT}:{to_camel(key)}": value for key, value in given.items()}
    return settings.load({"aws:region": region, **keys}, stack="plugin")


class AsyncEndpoint(async_endpoint.AsyncEndpoint):
    """A SageMaker asynchronous endpoint that costs nothing while idle.

    With its model, role, bucket, topics, scaling and alarms.
    """

    def __init__(
        self, name: str, args: AsyncEndpointArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        given = dict(args)
        endpoint_name, region = str(given.pop("endpoint_name")), str(given.pop("region"))
        late = {
            key: given.pop(key)
            for key in ("image_uri", "output_path", "failure_path", "provider_config")
            if key in given
        }
        wanted = endpoint_args(checked(given, region), endpoint_name=endpoint_name, **late)
        super().__init__(name, wanted, opts)


class QueueScaling(queue_scaling.QueueScaling):
    """0 -> N -> 0 with the queue of an asynchronous endpoint: target, policies, alarms."""

    def __init__(
        self, name: str, args: QueueScalingArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        given = dict(args)
        endpoint_name, variant = given.pop("endpoint_name"), str(given.pop("variant_name"))
        # Nothing of a model is asked for here, and scaling does not depend on the region.
        own = checked(given | {"handler": str(_ANY_HANDLER)}, "us-east-1")
        super().__init__(
            name,
            queue_scaling.QueueScalingArgs(
                endpoint_name=endpoint_name,  # ty: ignore[invalid-argument-type] an Input of text
                variant_name=variant,
                registered_for=own.instance_type,
                plan=own.plan,
                tags=own.tags,
            ),
            opts,
        )


_ANY_HANDLER = Path(__file__).resolve().parents[1] / "inference_code"
COMPONENTS: list[type[pulumi.ComponentResource]] = [AsyncEndpoint, QueueScaling]
