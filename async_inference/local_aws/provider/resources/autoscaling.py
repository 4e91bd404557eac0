"""Application Auto Scaling's targets, policies and scheduled actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_inference.aws_names import SERVICE_NAMESPACE, pascal
from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Parameters,
    Properties,
    given,
    retag,
    unless_gone,
)
from async_inference.scaling.documents import from_provider

if TYPE_CHECKING:
    from types_boto3_application_autoscaling import ApplicationAutoScalingClient
    from types_boto3_application_autoscaling.type_defs import ScalableTargetActionTypeDef

_SCALED = frozenset({"resourceId", "scalableDimension", "serviceNamespace"})


def _scaled(p: Properties) -> Parameters:
    return {key[0].upper() + key[1:]: p[key] for key in _SCALED}


class Target(Kind["ApplicationAutoScalingClient"]):
    type = "aws:appautoscaling/target:Target"
    service = "application-autoscaling"
    replaces = _SCALED

    def create(self, aws: ApplicationAutoScalingClient, p: Properties) -> str:
        aws.register_scalable_target(
            **_scaled(p),
            MinCapacity=int(p["minCapacity"]),
            MaxCapacity=int(p["maxCapacity"]),
            **given(p, Tags="tags"),
        )
        return p["resourceId"]

    def read(
        self, aws: ApplicationAutoScalingClient, identity: str, p: Properties
    ) -> Properties | None:
        found = aws.describe_scalable_targets(
            ServiceNamespace=p.get("serviceNamespace", SERVICE_NAMESPACE), ResourceIds=[identity]
        )["ScalableTargets"]
        if not found:
            return None
        arn = found[0]["ScalableTargetARN"]
        return {
            "arn": arn,
            "minCapacity": found[0]["MinCapacity"],
            "maxCapacity": found[0]["MaxCapacity"],
            "tags": aws.list_tags_for_resource(ResourceARN=arn)["Tags"],
        }

    def update(
        self, aws: ApplicationAutoScalingClient, identity: str, old: Properties, new: Properties
    ) -> None:
        self.create(aws, {**new, "tags": None})
        retag(
            old,
            new,
            lambda keys: aws.untag_resource(ResourceARN=old["arn"], TagKeys=keys),
            lambda tags: aws.tag_resource(ResourceARN=old["arn"], Tags=tags),
        )

    def delete(self, aws: ApplicationAutoScalingClient, identity: str, p: Properties) -> None:
        unless_gone(aws.deregister_scalable_target, **_scaled(p))


class Policy(Kind["ApplicationAutoScalingClient"]):
    type = "aws:appautoscaling/policy:Policy"
    service = "application-autoscaling"
    replaces = _SCALED | {"name"}
    computed = frozenset({"arn", "alarmArns"})
    autoname = Autoname("name", 255)

    def create(self, aws: ApplicationAutoScalingClient, p: Properties) -> str:
        configurations = {
            key: value for key, value in p.items() if key.endswith("PolicyConfiguration") and value
        }
        aws.put_scaling_policy(
            **_scaled(p),
            PolicyName=p["name"],
            PolicyType=p.get("policyType", "StepScaling"),
            **from_provider(configurations),
        )
        return p["name"]

    def read(
        self, aws: ApplicationAutoScalingClient, identity: str, p: Properties
    ) -> Properties | None:
        found = aws.describe_scaling_policies(
            ServiceNamespace=p["serviceNamespace"],
            ResourceId=p["resourceId"],
            PolicyNames=[identity],
        )["ScalingPolicies"]
        if not found:
            return None
        return {
            "name": identity,
            "arn": found[0]["PolicyARN"],
            "alarmArns": [alarm["AlarmARN"] for alarm in found[0].get("Alarms", [])],
        }

    def delete(self, aws: ApplicationAutoScalingClient, identity: str, p: Properties) -> None:
        unless_gone(aws.delete_scaling_policy, **_scaled(p), PolicyName=identity)


class ScheduledAction(Kind["ApplicationAutoScalingClient"]):
    type = "aws:appautoscaling/scheduledAction:ScheduledAction"
    service = "application-autoscaling"
    replaces = _SCALED | {"name"}
    computed = frozenset({"arn"})
    autoname = Autoname("name", 256)

    def create(self, aws: ApplicationAutoScalingClient, p: Properties) -> str:
        bounds = pascal(p["scalableTargetAction"])
        action: ScalableTargetActionTypeDef = {}
        for bound in ("MinCapacity", "MaxCapacity"):
            if bound in bounds:
                action[bound] = int(bounds[bound])
        aws.put_scheduled_action(
            **_scaled(p),
            ScheduledActionName=p["name"],
            Schedule=p["schedule"],
            Timezone=p.get("timezone", "UTC"),
            ScalableTargetAction=action,
        )
        return p["name"]

    def read(
        self, aws: ApplicationAutoScalingClient, identity: str, p: Properties
    ) -> Properties | None:
        found = aws.describe_scheduled_actions(
            ServiceNamespace=p["serviceNamespace"],
            ResourceId=p["resourceId"],
            ScheduledActionNames=[identity],
        )["ScheduledActions"]
        return {"name": identity, "arn": found[0]["ScheduledActionARN"]} if found else None

    def delete(self, aws: ApplicationAutoScalingClient, identity: str, p: Properties) -> None:
        unless_gone(aws.delete_scheduled_action, **_scaled(p), ScheduledActionName=identity)
