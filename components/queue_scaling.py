"""Renders a `ScalingPlan` into what Application Auto Scaling and CloudWatch run."""

from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

from async_inference.scaling.plan import (
    ScalingPlan,
    ScalingPolicy,
    ScheduledAction,
    StepScalingPolicy,
    TargetTrackingPolicy,
    slug,
)

METRIC_NAMESPACE = "AWS/SageMaker"
SERVICE_NAMESPACE = "sagemaker"
SCALABLE_DIMENSION = "sagemaker:variant:DesiredInstanceCount"


@dataclass(frozen=True, kw_only=True)
class QueueScalingArgs:
    """What a `QueueScaling` scales, and how.

    Args:
        endpoint_name: the endpoint's name, as an output of the endpoint, so that the target is
            registered after it and deregistered before it.
        variant_name: the production variant whose instances are counted.
        registered_for: the configuration that the endpoint runs. A change registers the target
            anew: SageMaker refuses to update the instance type while a target is registered (DG
            endpoint-scaling), so the endpoint's update deregisters it, and with it its policies and
            schedules.
        plan: bounds, policies and schedules.
        target_hooks: what happens around the target.
        tags: tags for target and alarms.
    """

    endpoint_name: pulumi.Input[str]
    variant_name: str
    registered_for: pulumi.Input[str]
    plan: ScalingPlan
    target_hooks: pulumi.ResourceHookBinding | None = None
    tags: dict[str, str] = field(default_factory=dict)


class QueueScaling(pulumi.ComponentResource):
    """0 -> N -> 0 with the endpoint's queue.

    - the scalable target with the plan's bounds
    - a policy for each of the plan's, target tracking or steps
    - an alarm for each step policy; target tracking has AWS's own
    - a scheduled action for each of the plan's schedules
    """

    resource_id: pulumi.Output[str]
    """What Application Auto Scaling calls the variant, known once all of it is in place."""

    def __init__(
        self, name: str, args: QueueScalingArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:QueueScaling", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
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
                anew, pulumi.ResourceOptions(hooks=args.target_hooks)
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
        deployed = aws.appautoscaling.Policy(
            f"{name}-{slug(policy.name)}-policy",
            name=policy.name,
            policy_type=policy.type,
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            target_tracking_scaling_policy_configuration=(
                _target_tracking(policy, args.endpoint_name)
                if isinstance(policy, TargetTrackingPolicy)
                else None
            ),
            step_scaling_policy_configuration=(
                _step_scaling(policy) if isinstance(policy, StepScalingPolicy) else None
            ),
            opts=anew,
        )
        if not isinstance(policy, StepScalingPolicy):
            return deployed
        alarm = policy.alarm
        aws.cloudwatch.MetricAlarm(
            f"{name}-{slug(policy.name)}-alarm",
            alarm_description=f"Runs the scaling policy {policy.name}.",
            namespace=METRIC_NAMESPACE,
            metric_name=alarm.metric,
            # Any other dimension and the alarm never fires (aws-facts.md section 4).
            dimensions={"EndpointName": args.endpoint_name},
            statistic=alarm.statistic,
            comparison_operator=alarm.comparison,
            threshold=alarm.threshold,
            period=alarm.period_s,
            evaluation_periods=alarm.evaluation_periods,
            datapoints_to_alarm=alarm.datapoints_to_alarm,
            treat_missing_data=alarm.treat_missing_data,
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
        return aws.appautoscaling.ScheduledAction(
            f"{name}-{slug(action.name)}-schedule",
            name=action.name,
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            schedule=action.schedule,
            timezone=action.timezone,
            scalable_target_action={
                "min_capacity": action.min_capacity,
                "max_capacity": action.max_capacity,
            },
            opts=anew,
        )


def _after(resource: pulumi.Resource, options: pulumi.ResourceOptions) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(depends_on=[resource]))


def _target_tracking(
    policy: TargetTrackingPolicy, endpoint_name: pulumi.Input[str]
) -> aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgsDict:
    return {
        "target_value": policy.target,
        "customized_metric_specification": {
            "namespace": METRIC_NAMESPACE,
            "metric_name": policy.metric,
            "dimensions": [{"name": "EndpointName", "value": endpoint_name}],
            "statistic": policy.statistic,
        },
        "scale_out_cooldown": policy.scale_out_cooldown_s,
        "scale_in_cooldown": policy.scale_in_cooldown_s,
        "disable_scale_in": policy.disable_scale_in,
    }


def _step_scaling(
    policy: StepScalingPolicy,
) -> aws.appautoscaling.PolicyStepScalingPolicyConfigurationArgsDict:
    return {
        "adjustment_type": policy.adjustment_type,
        "metric_aggregation_type": policy.metric_aggregation_type,
        "cooldown": policy.cooldown_s,
        "min_adjustment_magnitude": policy.min_adjustment_magnitude,
        "step_adjustments": [
            {
                "metric_interval_lower_bound": _bound(step.lower_bound),
                "metric_interval_upper_bound": _bound(step.upper_bound),
                "scaling_adjustment": step.adjustment,
            }
            for step in policy.steps
        ],
    }


def _bound(value: float | None) -> str | None:
    # The provider takes bounds as text, since an absent one differs from 0.
    return None if value is None else f"{value:.15g}"


def scalable_id(endpoint_name: str, variant_name: str) -> str:
    """What Application Auto Scaling calls an endpoint's variant."""
    return f"endpoint/{endpoint_name}/variant/{variant_name}"


def summary(plan: ScalingPlan) -> str:
    """The plan in one line, as a stack's output shows it."""
    parts = [f"{plan.min_capacity}..{plan.max_capacity} instances"]
    for policy in plan.policies:
        if isinstance(policy, TargetTrackingPolicy):
            parts.append(f"tracks {policy.metric} at {policy.target:g}")
            continue
        alarm = policy.alarm
        steps = ", ".join(f"{step.adjustment:+d}" for step in policy.steps)
        parts.append(
            f"{policy.adjustment_type} {steps} on {alarm.metric} {alarm.comparison} "
            f"{alarm.threshold:g} ({alarm.datapoints_to_alarm} of {alarm.evaluation_periods} x "
            f"{alarm.period_s} s)"
        )
    parts += [
        f"{action.schedule} {action.timezone}: {action.min_capacity}..{action.max_capacity}"
        for action in plan.schedules
    ]
    return "; ".join(parts)
