"""Scaling policies, put on an endpoint of the embedded AWS with plain boto3."""

from async_inference.aws_names import SCALABLE_DIMENSION, SERVICE_NAMESPACE, scalable_id
from async_inference.scaling import documents
from async_inference.scaling.plan import ScalingPlan, StepScalingPolicy
from tests.support.embedded_aws import Account
from tests.support.waiting import eventually

TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/echo/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
FAST_MINUTE_S = 0.2


def track(account: Account) -> None:
    account.autoscaling.put_scaling_policy(
        **TARGET,
        PolicyName="Invocations-ScalingPolicy",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 3.0,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": "echo"}],
                "Statistic": "Average",
            },
            "ScaleInCooldown": 30,
            "ScaleOutCooldown": 30,
        },
    )


def wake(account: Account) -> None:
    arn = account.autoscaling.put_scaling_policy(
        **TARGET,
        PolicyName="wake-up",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity",
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
            "Cooldown": 30,
        },
    )["PolicyARN"]
    account.cloudwatch.put_metric_alarm(
        AlarmName="starved",
        Namespace="AWS/SageMaker",
        MetricName="HasBacklogWithoutCapacity",
        Dimensions=[{"Name": "EndpointName", "Value": "echo"}],
        Statistic="Average",
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        Threshold=0.5,
        Period=60,
        EvaluationPeriods=1,
        DatapointsToAlarm=1,
        TreatMissingData="missing",
        AlarmActions=[arn],
    )


def activities(account: Account, **more: object) -> list[dict]:
    return account.autoscaling.describe_scaling_activities(
        ServiceNamespace="sagemaker", ResourceId=TARGET["ResourceId"], **more
    )["ScalingActivities"]


def put_plan(account: Account, name: str, plan: ScalingPlan) -> None:
    """Register target, policies and alarms, as QueueScaling does."""
    target: dict[str, object] = {
        "ServiceNamespace": SERVICE_NAMESPACE,
        "ResourceId": scalable_id(name, "AllTraffic"),
        "ScalableDimension": SCALABLE_DIMENSION,
    }
    account.autoscaling.register_scalable_target(**target, MinCapacity=0, MaxCapacity=0)
    eventually(lambda: account.instances(name) == 0, f"{name} at zero")
    account.autoscaling.register_scalable_target(
        **target, MinCapacity=plan.min_capacity, MaxCapacity=plan.max_capacity
    )
    for policy in plan.policies:
        document = documents.policy_document(policy, name)
        arn = account.autoscaling.put_scaling_policy(**target, **document)["PolicyARN"]
        if isinstance(policy, StepScalingPolicy):
            for number, alarm in enumerate(policy.alarms):
                on = documents.metric_stat(alarm, name)
                account.cloudwatch.put_metric_alarm(
                    AlarmName=f"{name}-{policy.name}" + (f"-{number}" if number else ""),
                    AlarmActions=[arn],
                    **documents.alarm_document(alarm, on),
                )
