"""How an update shifts traffic to the new fleet, and which alarm rolls it back.

SageMaker's deployment guardrails (DG deployment-guardrails).
"""

import pulumi
import pulumi_aws as aws

from async_inference.aws_names import QUEUE_METRICS
from async_inference.stack.groups import Updates

EXECUTION_TIMEOUT_S = 3600
"""SageMaker abandons an update when the provider does, which waits 60 minutes
(docs/aws-facts.md#replacement), so that no update continues after a failed `pulumi up`."""
ROLLBACK_ERROR_RATE = 0.1
"""Share of the new fleet's requests in one minute that may fail with a 5xx."""


def deployment_config(
    updates: Updates, rollback_alarm: str | None
) -> aws.sagemaker.EndpointDeploymentConfigArgsDict | None:
    """The endpoint's deployment config; None leaves SageMaker's default, all at once.

    Args:
        updates: how an update shifts traffic.
        rollback_alarm: the alarm's name. A plain string that never changes: the provider replaces
            the endpoint when `auto_rollback_configuration` changes (ForceNew).
    """
    if updates == Updates():
        return None
    step: aws.sagemaker.EndpointDeploymentConfigRollingUpdatePolicyMaximumBatchSizeArgsDict = {
        "type": "CAPACITY_PERCENT",
        "value": updates.step_percent,
    }
    config: aws.sagemaker.EndpointDeploymentConfigArgsDict = {}
    if rollback_alarm is not None:
        config["auto_rollback_configuration"] = {"alarms": [{"alarm_name": rollback_alarm}]}
    if updates.strategy == "rolling":
        config["rolling_update_policy"] = {
            "maximum_batch_size": step,
            "wait_interval_in_seconds": updates.wait_s,
            "maximum_execution_timeout_in_seconds": EXECUTION_TIMEOUT_S,
        }
        return config
    routing: aws.sagemaker.EndpointDeploymentConfigBlueGreenUpdatePolicyTrafficRoutingConfigurationArgsDict = {  # noqa: E501 the provider's name
        "type": updates.strategy.upper(),
        "wait_interval_in_seconds": updates.wait_s,
    }
    if updates.strategy == "canary":
        routing["canary_size"] = {"type": step["type"], "value": step["value"]}
    if updates.strategy == "linear":
        routing["linear_step_size"] = {"type": step["type"], "value": step["value"]}
    config["blue_green_update_policy"] = {
        "traffic_routing_configuration": routing,
        "termination_wait_in_seconds": updates.termination_wait_s,
        "maximum_execution_timeout_in_seconds": EXECUTION_TIMEOUT_S,
    }
    return config


def rollback_alarm_name(endpoint_name: str, updates: Updates) -> str | None:
    """The name of the alarm that rolls an update back, None where nothing does."""
    return f"{endpoint_name}-rollback" if updates.rollback else None


def rollback_alarm(
    name: str,
    alarm_name: str,
    *,
    endpoint_name: str,
    variant_name: str,
    configuration_name: pulumi.Input[str],
    tags: dict[str, str],
    opts: pulumi.ResourceOptions,
) -> aws.cloudwatch.MetricAlarm:
    """The alarm on the new fleet.

    One of its dimensions is the new configuration, so it watches the new fleet only. It is changed
    in place before the endpoint is updated. A fleet without requests does not breach it (DG
    deployment-guardrails-configuration).
    """
    return aws.cloudwatch.MetricAlarm(
        f"{name}-rollback-alarm",
        name=alarm_name,
        alarm_description=(
            f"The new fleet of {endpoint_name} answers with errors; SageMaker rolls the update "
            "back. What to do: docs/operations.md, A rolled back update."
        ),
        namespace=QUEUE_METRICS,
        metric_name="Invocation5XXErrors",
        dimensions={
            "EndpointName": endpoint_name,
            "VariantName": variant_name,
            "EndpointConfigName": configuration_name,
        },
        statistic="Average",
        comparison_operator="GreaterThanThreshold",
        threshold=ROLLBACK_ERROR_RATE,
        period=60,
        evaluation_periods=1,
        datapoints_to_alarm=1,
        treat_missing_data="notBreaching",
        tags=tags,
        opts=opts,
    )
