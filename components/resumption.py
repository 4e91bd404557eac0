"""Resource hooks that let `pulumi up` or `destroy` resume an interrupted one.

A CLI that is killed, or whose creation fails, leaves an endpoint under its stable name that the
state does not hold: the provider records an endpoint only once it is in service. The next creation
would fail with "Cannot create already existing endpoint", and SageMaker neither updates nor deletes
an endpoint that is in progress ("Cannot update in-progress endpoint"). The log group,
the key's alias and the scalable target have fixed names too, under which AWS creates no second one.

Everything else is put over what is there, as AWS does with policies of roles and topics,
subscriptions, the settings and objects of a bucket, scaling policies, scheduled actions, the
rollback alarm and the dashboard; or it is named at random and left over: buckets, topics, roles,
models, configurations, keys, budgets and the other alarms.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from async_inference.aws_names import (
    IN_PROGRESS,
    SCALABLE_DIMENSION,
    SERVICE_NAMESPACE,
    EndpointStatus,
    scalable_id,
)
from components.provider_account import ProviderAccount
from components.rollback_guard import configured_variants, described

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient
    from types_boto3_sagemaker.type_defs import DescribeEndpointOutputTypeDef

SETTLED_WITHIN_S = 3600.0
"""The provider waits at most 60 minutes for an endpoint to be in service."""
ASKED_AT_LEAST_EVERY_S = 10.0


class NameTakenError(Exception):
    """Something of this name exists that may not be removed."""


@dataclass(frozen=True)
class ExistingEndpoint:
    """An endpoint that has the name of the one to be created.

    Args:
        role: what its model runs as, None where that is unknown.
        scaled: whether it is a scalable target.
        tags: its tags, for people.
    """

    role: str | None
    scaled: bool
    tags: Mapping[str, str]


def refuse_unless_stranded(
    found: ExistingEndpoint, endpoint_name: str, own_role: str, urn: str
) -> None:
    """Refuse to remove an endpoint unless an interrupted creation of this stack left it.

    Its role shows whose it is: Pulumi names roles at random, so each stack has another. Tags do
    not: the same stack of a copy of this project has the same ones. The scalable target, which is
    registered last, shows whether its deployment was completed.

    Args:
        found: the endpoint that is there.
        endpoint_name: its name.
        own_role: what this stack's model runs as.
        urn: the endpoint's URN in this stack.

    Raises:
        NameTakenError: it is another's, or its deployment was completed.
    """
    tags = ", ".join(f"{key}={value}" for key, value in sorted(found.tags.items())) or "none"
    deletion = f"`aws sagemaker delete-endpoint --endpoint-name {endpoint_name}`"
    if found.role != own_role:
        raise NameTakenError(
            f"an endpoint {endpoint_name} exists that this stack did not make: it runs as "
            f"{found.role or 'a role that cannot be looked up'}, tags: {tags}. It is kept. Deploy "
            f"under another name (the endpoint is named after the stack), or, if nobody needs it: "
            f"{deletion}."
        )
    if found.scaled:
        raise NameTakenError(
            f"this stack once deployed the endpoint {endpoint_name}, tags: {tags}; Pulumi's state "
            "does not hold it, but it scales and may have requests. It is kept. Take it back with "
            f"`{import_command(urn, endpoint_name)}`, or, if nobody needs it: {deletion}."
        )


def import_command(urn: str, endpoint_name: str) -> str:
    """The command that imports an endpoint into Pulumi's state, under its component.

    Args:
        urn: the endpoint's URN in the stack.
        endpoint_name: its name, which is its id.
    """
    head, kind, name = urn.rsplit("::", 2)
    parents, _, own_type = kind.rpartition("$")
    parent = name.removesuffix("-endpoint")
    return (
        f"pulumi import {own_type} {name} {endpoint_name} "
        f"--parent '{parent}={head}::{parents}::{parent}' --protect=false"
    )


def clears_log_group(name: str, account: ProviderAccount) -> pulumi.ResourceHookBinding:
    """Before a log group is created: an empty one of its name is deleted.

    Args:
        name: prefix of the hook's name, unique in a program.
        account: where the provider acts.
    """

    async def clear(args: pulumi.ResourceHookArgs) -> None:
        logs, group = await account.client("logs"), (args.new_inputs or {})["name"]
        try:
            streams = logs.describe_log_streams(logGroupName=group, limit=1)["logStreams"]
        except logs.exceptions.ResourceNotFoundException:
            return
        if streams:
            raise NameTakenError(
                f"the log group {group} exists and holds what another or an earlier endpoint of "
                "that name wrote. It is kept. If nobody needs it: "
                f"`aws logs delete-log-group --log-group-name {group}`, then `pulumi up`."
            )
        logs.delete_log_group(logGroupName=group)

    return pulumi.ResourceHookBinding(
        before_create=[pulumi.ResourceHook(f"{name}-clear-log-group", clear)]
    )


def clears_alias(name: str, account: ProviderAccount) -> pulumi.ResourceHookBinding:
    """Before an alias is created: one of its name and for the same key is deleted.

    Args:
        name: prefix of the hook's name, unique in a program.
        account: where the provider acts.
    """

    async def clear(args: pulumi.ResourceHookArgs) -> None:
        kms, asked = await account.client("kms"), args.new_inputs or {}
        for page in kms.get_paginator("list_aliases").paginate():
            for alias in page["Aliases"]:
                same = alias["AliasName"] == asked["name"]
                if same and alias.get("TargetKeyId") == asked["targetKeyId"]:
                    kms.delete_alias(AliasName=alias["AliasName"])

    return pulumi.ResourceHookBinding(
        before_create=[pulumi.ResourceHook(f"{name}-clear-alias", clear)]
    )


def clears_target(name: str, account: ProviderAccount) -> pulumi.ResourceHookBinding:
    """Before a scalable target is registered: a bare one of its id is deregistered.

    AWS does not register a target with tags if it exists ("The scalable target that you tried to
    tag already exists"). A target left by an interrupted creation has no policies yet, since they
    are put after it.

    Args:
        name: prefix of the hook's name, unique in a program.
        account: where the provider acts.
    """

    async def clear(args: pulumi.ResourceHookArgs) -> None:
        scaling, asked = await account.client("application-autoscaling"), args.new_inputs or {}
        variant = {
            "ServiceNamespace": asked["serviceNamespace"],
            "ScalableDimension": asked["scalableDimension"],
        }
        found = scaling.describe_scalable_targets(**variant, ResourceIds=[asked["resourceId"]])
        if not found["ScalableTargets"]:
            return
        variant["ResourceId"] = asked["resourceId"]
        if (
            scaling.describe_scaling_policies(**variant)["ScalingPolicies"]
            or scaling.describe_scheduled_actions(**variant)["ScheduledActions"]
        ):
            raise NameTakenError(
                f"{asked['resourceId']} is a scalable target already, with policies or scheduled "
                "actions that this stack did not make. It is kept. If nobody needs them: `aws "
                "application-autoscaling deregister-scalable-target --service-namespace "
                f"{variant['ServiceNamespace']} --scalable-dimension "
                f"{variant['ScalableDimension']} --resource-id {variant['ResourceId']}`, then "
                "`pulumi up`."
            )
        scaling.deregister_scalable_target(**variant)

    return pulumi.ResourceHookBinding(
        before_create=[pulumi.ResourceHook(f"{name}-clear-target", clear)]
    )


class Resumption:
    """The hooks of one endpoint.

    - before it is created: one that an interrupted or failed creation left is removed
    - before it is updated or deleted: what is in progress is waited for
    - before its configuration is deleted: one that is still being created from it, or whose
      creation failed, is removed; the state cannot hold it, so a destroy would leave it

    Args:
        name: prefix of the hooks' names, unique in a program.
        endpoint_name: the endpoint.
        variant_name: the variant that is a scalable target.
        account: where the provider acts.
    """

    endpoint: pulumi.ResourceHookBinding
    configuration: pulumi.ResourceHookBinding

    def __init__(
        self, name: str, endpoint_name: str, variant_name: str, account: ProviderAccount
    ) -> None:
        self._endpoint_name = endpoint_name
        self._variant_name = variant_name
        self._account = account
        settle = pulumi.ResourceHook(f"{name}-settle", self._settle)
        self.endpoint = pulumi.ResourceHookBinding(
            before_create=[pulumi.ResourceHook(f"{name}-clear-name", self._clear_name)],
            before_update=[settle],
            before_delete=[settle],
        )
        self.configuration = pulumi.ResourceHookBinding(
            before_delete=[pulumi.ResourceHook(f"{name}-clear-creation", self._clear_creation)]
        )

    async def _settle(self, args: pulumi.ResourceHookArgs) -> None:
        await self._settled(await self._account.client("sagemaker"))

    async def _clear_name(self, args: pulumi.ResourceHookArgs) -> None:
        sagemaker = await self._account.client("sagemaker")
        endpoint = described(sagemaker, self._endpoint_name)
        if endpoint is None:
            return
        if endpoint["EndpointStatus"] == EndpointStatus.DELETING:
            await self._settled(sagemaker)
            return
        own_role = _role(sagemaker, (args.new_inputs or {})["endpointConfigName"])
        found = await self._existing(sagemaker, endpoint)
        refuse_unless_stranded(found, self._endpoint_name, own_role, args.urn)
        await self._remove(sagemaker)

    async def _clear_creation(self, args: pulumi.ResourceHookArgs) -> None:
        sagemaker = await self._account.client("sagemaker")
        endpoint = described(sagemaker, self._endpoint_name)
        if (
            endpoint is not None
            and endpoint["EndpointStatus"] in (EndpointStatus.CREATING, EndpointStatus.FAILED)
            and endpoint["EndpointConfigName"] == (args.old_outputs or {}).get("name")
        ):
            await self._remove(sagemaker)

    async def _remove(self, sagemaker: "SageMakerClient") -> None:
        pulumi.log.info(
            f"{self._endpoint_name} was left by a creation that was interrupted or failed; it is "
            "removed as soon as SageMaker allows it"
        )
        if await self._settled(sagemaker):
            sagemaker.delete_endpoint(EndpointName=self._endpoint_name)
            await self._settled(sagemaker)

    async def _existing(
        self, sagemaker: "SageMakerClient", endpoint: "DescribeEndpointOutputTypeDef"
    ) -> ExistingEndpoint:
        try:
            role = _role(sagemaker, endpoint["EndpointConfigName"])
        except sagemaker.exceptions.ClientError:
            # Its configuration or model is gone, or not this stack's to look at.
            role = None
        scaling = await self._account.client("application-autoscaling")
        targets = scaling.describe_scalable_targets(
            ServiceNamespace=SERVICE_NAMESPACE,
            ResourceIds=[scalable_id(self._endpoint_name, self._variant_name)],
            ScalableDimension=SCALABLE_DIMENSION,
        )["ScalableTargets"]
        tags = sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
        return ExistingEndpoint(
            role=role,
            scaled=bool(targets),
            tags={tag["Key"]: tag["Value"] for tag in tags},
        )

    async def _settled(self, sagemaker: "SageMakerClient") -> bool:
        """Wait until the endpoint is not in progress; returns whether it exists then."""
        end_s, pause_s, status = time.monotonic() + SETTLED_WITHIN_S, 0.25, ""
        while time.monotonic() < end_s:
            endpoint = described(sagemaker, self._endpoint_name)
            if endpoint is None:
                return False
            if endpoint["EndpointStatus"] not in IN_PROGRESS:
                return True
            if endpoint["EndpointStatus"] != status:
                status = endpoint["EndpointStatus"]
                pulumi.log.info(f"waiting while {self._endpoint_name} is {status}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, ASKED_AT_LEAST_EVERY_S)
        raise TimeoutError(
            f"endpoint {self._endpoint_name} was still {status} after {SETTLED_WITHIN_S:.0f} s; "
            "run the same command again once it is not"
        )


def _role(sagemaker: "SageMakerClient", configuration: str) -> str:
    """What the model of an endpoint configuration runs as."""
    (variant, *_) = configured_variants(sagemaker, configuration)
    return sagemaker.describe_model(ModelName=variant["ModelName"])["ExecutionRoleArn"]
