"""Renders a `ScalingPlan` into what Application Auto Scaling and CloudWatch run."""

from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

from async_inference.aws_names import SCALABLE_DIMENSION, SERVICE_NAMESPACE, scalable_id
from async_inference.scaling import documents
from async_inference.scaling.plan import (
    ScalingPlan,
    ScalingPolicy,
    ScheduledAction,
    StepScalingPolicy,
    TargetTrackingPolicy,
    slug,
)
from components.provider_account import ProviderAccount
from components.resumption import clears_target


@dataclass(frozen=True, kw_only=True)
class QueueScalingArgs:
    """What a `QueueScaling` scales, and how.

    Args:
        endpoint_name: the endpoint's name, as an output of the endpoint, so that the target is
            registered after the endpoint and deregistered before it.
        variant_name: the production variant whose instances are counted.
        registered_for: the configuration that the endpoint runs. A change registers the target
            again: SageMaker refuses to update the instance type while a target is registered (DG
            endpoint-scaling), so the endpoint's update deregisters it, and with it its policies and
            schedules.
        plan: bounds, policies and schedules.
        target_hooks: hooks of the scalable target.
        tags: tags for target and alarms.
        account: where the provider acts; None asks the provider of this component, whose
            configuration is the stack's.
    """

    endpoint_name: pulumi.Input[str]
    variant_name: str
    registered_for: pulumi.Input[str]
    plan: ScalingPlan
    target_hooks: pulumi.ResourceHookBinding | None = None
    tags: dict[str, str] = field(default_factory=dict)
    account: ProviderAccount | None = None


class QueueScaling(pulumi.ComponentResource):
    """0 -> N -> 0 with the endpoint's queue.

    - the scalable target with the plan's bounds
    - each policy of the plan, target tracking or steps
    - the alarms of each step policy; AWS creates those of target tracking
    - each schedule of the plan, as a scheduled action
    """

    resource_id: pulumi.Output[str]
    """Application Auto Scaling's id of the variant, known once everything is registered."""

    def __init__(
        self, name: str, args: QueueScalingArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:QueueScaling", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = args.account or ProviderAccount(None, None, pulumi.InvokeOutputOptions(self))
        # Deregistering a target deletes its policies and scheduled actions (AAS
        # DeregisterScalableTarget), so all of them follow it. Registering is an upsert by resource
        # id: created first, the new target would be what the deletion of the old one deregisters.
        anew = pulumi.ResourceOptions.merge(
            child,
            pulumi.ResourceOptions(
                replacement_trigger=args.registered_for, delete_before_replace=True
            ),
        )
        target = aws.appautoscaling.Target(
            f"{name}-target",
            service_namespace=SERVICE_NAMESPACE,
            scalable_dimension=SCALABLE_DIMENSION,
            resource_id=pulumi.Output.from_input(args.endpoint_name).apply(
                lambda endpoint_name: scalable_id(endpoint_name, args.variant_name)
            ),
            min_capacity=args.plan.min_capacity,
            max_capacity=args.plan.max_capacity,
            tags=args.tags,
            opts=pulumi.ResourceOptions.merge(
                pulumi.ResourceOptions.merge(
                    anew, pulumi.ResourceOptions(hooks=clears_target(name, account))
                ),
                pulumi.ResourceOptions(hooks=args.target_hooks),
            ),
        )
        # One after the other: Application Auto Scaling refuses changes of one target at the same
        # time (ConcurrentUpdateException), and the provider does not try again (TF #17915).
        put: list[pulumi.Resource] = [target]
        for policy in args.plan.policies:
            put.append(self._policy(name, policy, target, args, child, _after(put[-1], anew)))
        for action in args.plan.schedules:
            put.append(self._schedule(name, action, target, _after(put[-1], anew)))
        self.resource_id = pulumi.Output.all(target.resource_id, *(each.urn for each in put)).apply(
            lambda known: str(known[0])
        )
        self.register_outputs({"resource_id": self.resource_id})

    def _policy(
        self,
        name: str,
        policy: ScalingPolicy,
        target: aws.appautoscaling.Target,
        args: QueueScalingArgs,
        child: pulumi.ResourceOptions,
        anew: pulumi.ResourceOptions,
    ) -> aws.appautoscaling.Policy:
        inputs = documents.provider_inputs(documents.policy_document(policy, args.endpoint_name))
        deployed = aws.appautoscaling.Policy(
            f"{name}-{slug(policy.name)}-policy",
            name=inputs.pop("policy_name"),
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            **inputs,
            opts=anew,
        )
        if not isinstance(policy, StepScalingPolicy):
            return deployed
        for number, alarm in enumerate(policy.alarms, start=1):
            on = documents.metric_stat(alarm, args.endpoint_name)
            again = f"-{number}" if number > 1 else ""
            aws.cloudwatch.MetricAlarm(
                f"{name}-{slug(policy.name)}-alarm{again}",
                alarm_description=f"Runs the scaling policy {policy.name}.",
                **documents.provider_inputs(documents.alarm_document(alarm, on)),
                alarm_actions=[deployed.arn],
                tags=args.tags,
                opts=child,
            )
        return deployed

    def _schedule(
        self,
        name: str,
        action: ScheduledAction,
        target: aws.appautoscaling.Target,
        anew: pulumi.ResourceOptions,
    ) -> aws.appautoscaling.ScheduledAction:
        inputs = documents.provider_inputs(documents.schedule_document(action))
        return aws.appautoscaling.ScheduledAction(
            f"{name}-{slug(action.name)}-schedule",
            name=inputs.pop("scheduled_action_name"),
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            **inputs,
            opts=anew,
        )


def _after(resource: pulumi.Resource, options: pulumi.ResourceOptions) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(depends_on=[resource]))


def summary(plan: ScalingPlan) -> str:
    """The plan in one line, as a stack's output shows it."""
    parts = [f"{plan.min_capacity}..{plan.max_capacity} instances"]
    for policy in plan.policies:
        if isinstance(policy, TargetTrackingPolicy):
            parts.append(f"tracks {policy.metric} at {policy.target:g}")
            continue
        steps = ", ".join(f"{step.adjustment:+d}" for step in policy.steps)
        alarms = " or ".join(
            f"{alarm.metric} {alarm.comparison} {alarm.threshold:g} "
            f"({alarm.datapoints_to_alarm} of {alarm.evaluation_periods} x {alarm.period_s} s)"
            for alarm in policy.alarms
        )
        parts.append(f"{policy.adjustment_type} {steps} on {alarms}")
    parts += [
        f"{action.schedule} {action.timezone}: {action.min_capacity}..{action.max_capacity}"
        for action in plan.schedules
    ]
    return "; ".join(parts)
