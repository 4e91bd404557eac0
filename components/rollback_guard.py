"""Resource hooks: nothing live is deleted, a silent rollback fails the update.

Hooks run in the program while the engine works, so they look at AWS itself; that is why
`pulumi destroy` needs `--run-program` (aws-facts.md section 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.provider_account import ProviderAccount
from components.scalable_target import SCALABLE_DIMENSION, SERVICE_NAMESPACE, scalable_id


class StillLiveError(Exception):
    """What Pulumi was about to delete is what the endpoint runs."""


@dataclass(frozen=True)
class Live:
    """What an endpoint runs now: its configuration, and that one's models and instance types."""

    configuration: str
    models: frozenset[str]
    instance_types: frozenset[str]
    failure_reason: str | None


def described(sagemaker: Any, endpoint_name: str) -> dict[str, Any] | None:
    """What SageMaker says of an endpoint, None if it does not exist.

    Args:
        sagemaker: a boto3 SageMaker client.
        endpoint_name: the endpoint.
    """
    try:
        return sagemaker.describe_endpoint(EndpointName=endpoint_name)
    except sagemaker.exceptions.ClientError as error:
        if "Could not find endpoint" in str(error):
            return None
        raise


def live(sagemaker: Any, endpoint_name: str) -> Live | None:
    """What the endpoint runs, None if it does not exist or is going.

    Args:
        sagemaker: a boto3 SageMaker client.
        endpoint_name: whose configuration to look up.
    """
    endpoint = described(sagemaker, endpoint_name)
    if endpoint is None or endpoint["EndpointStatus"] == "Deleting":
        return None
    variants = configured_variants(sagemaker, endpoint["EndpointConfigName"])
    return Live(
        configuration=endpoint["EndpointConfigName"],
        models=frozenset(v["ModelName"] for v in variants if "ModelName" in v),
        instance_types=_instance_types(variants),
        failure_reason=endpoint.get("FailureReason"),
    )


def configured_variants(sagemaker: Any, configuration: str) -> list[dict[str, Any]]:
    """The production variants of an endpoint configuration."""
    return sagemaker.describe_endpoint_config(EndpointConfigName=configuration)[
        "ProductionVariants"
    ]


def _instance_types(variants: list[dict[str, Any]]) -> frozenset[str]:
    return frozenset(variant["InstanceType"] for variant in variants if "InstanceType" in variant)


class RollbackGuard:
    """The hooks of one endpoint.

    SageMaker may roll an update back and the provider report success, then delete the configuration
    that is live (hashicorp/terraform-provider-aws #48997, #46663). A failing before_delete hook
    keeps it, fails the update, and is asked again by the next one.

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

    def __init__(
        self, name: str, endpoint_name: str, variant_name: str, account: ProviderAccount
    ) -> None:
        self._endpoint_name = endpoint_name
        self._variant_name = variant_name
        self._account = account
        self.keeps_live = pulumi.ResourceHookBinding(
            before_delete=[pulumi.ResourceHook(f"{name}-keep-live", self._keep_live)]
        )
        self.releases_target = pulumi.ResourceHookBinding(
            before_update=[pulumi.ResourceHook(f"{name}-release-target", self._release_target)]
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
        if _instance_types(configured_variants(sagemaker, asked)) == now.instance_types:
            return
        autoscaling = await self._account.client("application-autoscaling")
        try:
            # A type cannot change while a target is registered (DG endpoint-scaling); QueueScaling
            # registers it again after the update.
            autoscaling.deregister_scalable_target(
                ServiceNamespace=SERVICE_NAMESPACE,
                ResourceId=scalable_id(self._endpoint_name, self._variant_name),
                ScalableDimension=SCALABLE_DIMENSION,
            )
        except autoscaling.exceptions.ObjectNotFoundException:
            pulumi.log.info("no scalable target was registered")


def refuse_if_live(
    now: Live, endpoint_name: str, resource_type: str, outputs: Mapping[str, Any]
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
            f"update back{reason}, or its creation was interrupted. It is kept. Correct the cause "
            "and run `pulumi up` again; to destroy everything instead, first "
            f"`aws sagemaker delete-endpoint --endpoint-name {endpoint_name}`."
        )
