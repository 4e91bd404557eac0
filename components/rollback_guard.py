"""Resource hooks that protect live resources and fail the update after a silent rollback.

The hooks ask AWS what is live. They run in the program, so `pulumi destroy` needs `--run-program`
(docs/aws-facts.md#silent-rollback).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import pulumi
from botocore import xform_name

from async_inference.aws_names import (
    SCALABLE_DIMENSION,
    SERVICE_NAMESPACE,
    EndpointStatus,
    scalable_id,
)
from components.provider_account import ProviderAccount

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from types_boto3_application_autoscaling import ApplicationAutoScalingClient
    from types_boto3_application_autoscaling.type_defs import (
        ScalableTargetTypeDef,
        ScalingPolicyTypeDef,
        ScheduledActionTypeDef,
    )
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.type_defs import MetricAlarmTypeDef
    from types_boto3_sagemaker import SageMakerClient
    from types_boto3_sagemaker.type_defs import (
        DescribeEndpointOutputTypeDef,
        ProductionVariantOutputTypeDef,
    )


class StillLiveError(Exception):
    """Pulumi was about to delete what the endpoint runs."""


@dataclass(frozen=True)
class Live:
    """What an endpoint runs now: its configuration, with its models and instance types."""

    configuration: str
    models: frozenset[str]
    instance_types: frozenset[str]
    failure_reason: str | None


def described(
    sagemaker: "SageMakerClient", endpoint_name: str
) -> "DescribeEndpointOutputTypeDef | None":
    """SageMaker's description of an endpoint, None if it does not exist.

    Args:
        sagemaker: a boto3 client.
        endpoint_name: the endpoint.
    """
    try:
        return sagemaker.describe_endpoint(EndpointName=endpoint_name)
    except sagemaker.exceptions.ClientError as error:
        if "Could not find endpoint" in str(error):
            return None
        raise


def live(sagemaker: "SageMakerClient", endpoint_name: str) -> Live | None:
    """What the endpoint runs, None if it does not exist or is being deleted.

    Args:
        sagemaker: a boto3 client.
        endpoint_name: whose configuration to look up.
    """
    endpoint = described(sagemaker, endpoint_name)
    if endpoint is None or endpoint["EndpointStatus"] == EndpointStatus.DELETING:
        return None
    variants = configured_variants(sagemaker, endpoint["EndpointConfigName"])
    return Live(
        configuration=endpoint["EndpointConfigName"],
        models=frozenset(v["ModelName"] for v in variants if "ModelName" in v),
        instance_types=_instance_types(variants),
        failure_reason=endpoint.get("FailureReason"),
    )


def configured_variants(
    sagemaker: "SageMakerClient", configuration: str
) -> "list[ProductionVariantOutputTypeDef]":
    """The production variants of an endpoint configuration."""
    return sagemaker.describe_endpoint_config(EndpointConfigName=configuration)[
        "ProductionVariants"
    ]


def _instance_types(variants: "Sequence[ProductionVariantOutputTypeDef]") -> frozenset[str]:
    return frozenset(variant["InstanceType"] for variant in variants if "InstanceType" in variant)


@dataclass(frozen=True)
class Scaled:
    """Everything that scales a variant, as AWS describes it. Deregistering its target deletes it.

    Args:
        target: the scalable target.
        tags: its tags.
        policies: its scaling policies.
        schedules: its scheduled actions.
        alarms: the alarms that run each step policy, by the policy's ARN. They are not deleted, but
            a policy that is put again may get another ARN.
    """

    target: "ScalableTargetTypeDef"
    tags: Mapping[str, str]
    policies: "Sequence[ScalingPolicyTypeDef]"
    schedules: "Sequence[ScheduledActionTypeDef]"
    alarms: "Mapping[str, Sequence[MetricAlarmTypeDef]]"


def scaled(
    autoscaling: "ApplicationAutoScalingClient", cloudwatch: "CloudWatchClient", resource_id: str
) -> Scaled | None:
    """What scales a variant now, None if it is not a scalable target.

    Args:
        autoscaling, cloudwatch: clients of boto3.
        resource_id: Application Auto Scaling's id of the variant.
    """
    targets = autoscaling.describe_scalable_targets(
        ServiceNamespace=SERVICE_NAMESPACE,
        ScalableDimension=SCALABLE_DIMENSION,
        ResourceIds=[resource_id],
    )
    if not targets["ScalableTargets"]:
        return None
    (target,) = targets["ScalableTargets"]
    arn = target.get("ScalableTargetARN")
    policy_pages = autoscaling.get_paginator("describe_scaling_policies").paginate(
        ServiceNamespace=SERVICE_NAMESPACE,
        ScalableDimension=SCALABLE_DIMENSION,
        ResourceId=resource_id,
    )
    schedule_pages = autoscaling.get_paginator("describe_scheduled_actions").paginate(
        ServiceNamespace=SERVICE_NAMESPACE,
        ScalableDimension=SCALABLE_DIMENSION,
        ResourceId=resource_id,
    )
    policies = [policy for page in policy_pages for policy in page["ScalingPolicies"]]
    return Scaled(
        target=target,
        tags=autoscaling.list_tags_for_resource(ResourceARN=arn)["Tags"] if arn else {},
        policies=policies,
        schedules=[action for page in schedule_pages for action in page["ScheduledActions"]],
        alarms={
            arn: cloudwatch.describe_alarms(ActionPrefix=arn)["MetricAlarms"]
            for policy in policies
            if policy["PolicyType"] == "StepScaling"
            for arn in [policy["PolicyARN"]]
        },
    )


def scale_again(
    autoscaling: "ApplicationAutoScalingClient", cloudwatch: "CloudWatchClient", released: Scaled
) -> None:
    """Register a target again, with its policies and schedules, and let its alarms run them.

    Args:
        autoscaling, cloudwatch: clients of boto3.
        released: what was there before the target was deregistered.
    """
    # AWS returns its service-linked role, which it uses without being told.
    target = {key: value for key, value in released.target.items() if key != "RoleARN"}
    target |= {"Tags": dict(released.tags)} if released.tags else {}
    _repeat(autoscaling, "RegisterScalableTarget", target)
    for policy in released.policies:
        arn = _repeat(autoscaling, "PutScalingPolicy", policy)["PolicyARN"]
        for alarm in released.alarms.get(policy["PolicyARN"], ()):
            actions = [arn if a == policy["PolicyARN"] else a for a in alarm["AlarmActions"]]
            _repeat(cloudwatch, "PutMetricAlarm", {**alarm, "AlarmActions": actions})
    for schedule in released.schedules:
        _repeat(autoscaling, "PutScheduledAction", schedule)


def _repeat(
    client: "BaseClient", operation: str, described: Mapping[str, object]
) -> dict[str, Any]:
    """Call an operation with a description's values for its parameters; returns the answer."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    assert shape is not None
    request = {key: value for key, value in described.items() if key in shape.members}
    return getattr(client, xform_name(operation))(**request)


class RollbackGuard:
    """The hooks of one endpoint.

    SageMaker may roll an update back and the provider report success, then delete the configuration
    that is live (hashicorp/terraform-provider-aws #48997, #46663). A failing before_delete hook
    keeps it, fails the update, and is asked again by the next one.

    SageMaker does not change the instance type while a target is registered (DG endpoint-scaling).
    So the target is deregistered before, and after the update Pulumi registers it again. If the
    update fails, it never comes to that, so what was deregistered is registered again immediately.

    Args:
        name: prefix of the hooks' names, unique in a program.
        endpoint_name: the endpoint to look at.
        variant_name: the variant that is a scalable target.
        account: where the provider acts.
    """

    keeps_live: pulumi.ResourceHookBinding
    """For the model and the configuration."""
    releases_target: pulumi.ResourceHookBinding
    """For the endpoint."""
    keeps_bounds: pulumi.ResourceHookBinding
    """For the scalable target."""

    def __init__(
        self, name: str, endpoint_name: str, variant_name: str, account: ProviderAccount
    ) -> None:
        self._endpoint_name = endpoint_name
        self._scaled_id = scalable_id(endpoint_name, variant_name)
        self._account = account
        self._released_for: str | None = None
        self._before: Scaled | None = None
        self.keeps_live = pulumi.ResourceHookBinding(
            before_delete=[pulumi.ResourceHook(f"{name}-keep-live", self._keep_live)]
        )
        self.releases_target = pulumi.ResourceHookBinding(
            before_update=[pulumi.ResourceHook(f"{name}-release-target", self._release_target)],
            on_error=[pulumi.ErrorHook(f"{name}-scale-again", self._scale_again)],
        )
        self.keeps_bounds = pulumi.ResourceHookBinding(
            after_create=[pulumi.ResourceHook(f"{name}-keep-bounds", self._keep_bounds)]
        )

    def registered_for(self, running: str) -> str:
        """The configuration for which the target is registered; a change registers it again.

        Args:
            running: the configuration that the endpoint runs, as the provider read it.

        Returns:
            The configuration; made unique where the target was deregistered for another one, which
            the endpoint does not run: SageMaker rolled it back, or the provider sent no update.
        """
        if self._released_for in (None, running):
            return running
        return f"{running}, {uuid.uuid4()}"

    async def confirm_scaled(self, policies: int) -> None:
        """Fail the deployment if it deregistered the target and did not register it again.

        Args:
            policies: how many policies the target should have.

        Raises:
            pulumi.RunError: the endpoint does not scale.
        """
        if self._released_for is None:
            return
        now = scaled(*await self._scaling_clients(), self._scaled_id)
        found = 0 if now is None else len(now.policies)
        if now is None or found < policies:
            raise pulumi.RunError(
                f"endpoint {self._endpoint_name} does not scale: its scalable target was "
                "deregistered for the change of the instance type, and "
                + ("is not back" if now is None else f"has {found} of its {policies} policies")
                + ". Run `pulumi up --refresh`."
            )

    async def _scaling_clients(self) -> "tuple[ApplicationAutoScalingClient, CloudWatchClient]":
        return (
            await self._account.client("application-autoscaling"),
            await self._account.client("cloudwatch"),
        )

    async def _keep_live(self, args: pulumi.ResourceHookArgs) -> None:
        now = live(await self._account.client("sagemaker"), self._endpoint_name)
        outputs = args.old_outputs or {}
        if now is not None:
            refuse_if_live(now, self._endpoint_name, args.type, outputs)

    async def _release_target(self, args: pulumi.ResourceHookArgs) -> None:
        sagemaker = await self._account.client("sagemaker")
        now = live(sagemaker, self._endpoint_name)
        asked = (args.new_inputs or {}).get("endpointConfigName")
        if now is None or asked is None:
            return
        autoscaling, cloudwatch = await self._scaling_clients()
        self._before = scaled(autoscaling, cloudwatch, self._scaled_id)
        if _instance_types(configured_variants(sagemaker, asked)) == now.instance_types:
            return
        self._released_for = asked
        if self._before is None:
            pulumi.log.info("no scalable target was registered")
            return
        autoscaling.deregister_scalable_target(
            ServiceNamespace=SERVICE_NAMESPACE,
            ResourceId=self._scaled_id,
            ScalableDimension=SCALABLE_DIMENSION,
        )

    async def _scale_again(self, args: pulumi.ErrorHookArgs) -> bool:
        """After a failed update: register the target again. The update is left to the next `up`."""
        if self._released_for is None or self._before is None or args.failed_operation != "update":
            return False
        autoscaling, cloudwatch = await self._scaling_clients()
        try:
            scale_again(autoscaling, cloudwatch, self._before)
        except autoscaling.exceptions.ClientError as error:
            pulumi.log.error(
                f"the update failed, and what scales {self._endpoint_name} could not be registered "
                f"again ({error}): it keeps its instances. The next `pulumi up` that succeeds "
                "registers it."
            )
        return False

    async def _keep_bounds(self, args: pulumi.ResourceHookArgs) -> None:
        """After the target is registered again: keep bounds that a schedule has set."""
        asked = args.new_inputs or {}
        kept = scheduled_bounds(self._before, asked) if self._before else {}
        if kept:
            autoscaling, _ = await self._scaling_clients()
            autoscaling.register_scalable_target(
                ServiceNamespace=SERVICE_NAMESPACE,
                ResourceId=self._scaled_id,
                ScalableDimension=SCALABLE_DIMENSION,
                **kept,
            )


class Bounds(TypedDict, total=False):
    """The parameters of RegisterScalableTarget that bound the capacity."""

    MinCapacity: int
    MaxCapacity: int


def scheduled_bounds(before: Scaled, asked: Mapping[str, Any]) -> Bounds:
    """The bounds of a target that one of its schedules has changed.

    Args:
        before: what scaled the variant before the update.
        asked: the target's inputs, properties of any type by their camelCase names.

    Returns:
        Parameters of RegisterScalableTarget; empty where no schedule has changed them.
    """
    actions = [schedule.get("ScalableTargetAction", {}) for schedule in before.schedules]
    kept: Bounds = {}
    for bound in ("MinCapacity", "MaxCapacity"):
        if before.target[bound] in [action.get(bound) for action in actions]:
            kept[bound] = before.target[bound]
    low = kept.get("MinCapacity", asked["minCapacity"])
    high = kept.get("MaxCapacity", asked["maxCapacity"])
    # The plan's bounds may have changed, so that the earlier ones no longer fit.
    same = (low, high) == (asked["minCapacity"], asked["maxCapacity"])
    return {} if same or low > high else kept


def refuse_if_live(
    now: Live, endpoint_name: str, resource_type: str, outputs: Mapping[str, object]
) -> None:
    """Refuse the deletion of a resource that the endpoint runs.

    Args:
        now: what the endpoint runs.
        endpoint_name: for the message.
        resource_type: the resource's Pulumi type.
        outputs: the resource's outputs as the engine recorded them, camelCase.

    Raises:
        StillLiveError: the endpoint still runs it.
    """
    configuration = "endpointConfiguration" in resource_type
    what, running = (
        ("configuration", {now.configuration}) if configuration else ("model", now.models)
    )
    found = outputs.get("name")
    if found in running:
        reason = f" ({now.failure_reason})" if now.failure_reason else ""
        raise StillLiveError(
            f"endpoint {endpoint_name} still runs the {what} {found}: SageMaker rolled the last "
            f"update back{reason}, or an update or creation failed or was interrupted. It is kept. "
            "Correct the cause and run `pulumi up` again; to destroy everything instead, first "
            f"`aws sagemaker delete-endpoint --endpoint-name {endpoint_name}`."
        )
