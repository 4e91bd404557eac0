"""A plan's policies, alarms and schedules as AWS's documents, and back.

Documents have the members of PutScalingPolicy, PutMetricAlarm and PutScheduledAction; those that
DescribeScalingPolicies, DescribeAlarms and DescribeScheduledActions give have them too. What a
document may leave out and AWS fills in, is filled in here (API references of AAS and CW).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from async_inference.aws_names import QUEUE_METRICS, Series, pascal, scaled_variant, snake
from async_inference.scaling.autoscaler import TRACKING_PERIOD_S
from async_inference.scaling.plan import (
    AlarmRule,
    DeployedPolicy,
    Metric,
    MetricAlarm,
    MissingData,
    ScalingPolicy,
    ScheduledAction,
    Statistic,
    StepAdjustment,
    StepScaling,
    StepScalingPolicy,
    TargetTracking,
    TargetTrackingPolicy,
)

Document = Mapping[str, Any]

_BOUNDS = ("MetricIntervalLowerBound", "MetricIntervalUpperBound")

DEFAULT_COOLDOWN_S = 300
"""Where a policy names none (docs/aws-facts.md#cooldowns)."""
_PREDEFINED = {"SageMakerVariantInvocationsPerInstance": ("InvocationsPerInstance", "Sum")}
"""AAS's predefined metrics of a variant in CloudWatch's words; no asynchronous endpoint publishes
any (docs/aws-facts.md#metrics)."""


@dataclass(frozen=True)
class Watched:
    """What an alarm or a target-tracking policy looks at.

    Args:
        series: the metric.
        statistic: what a period's samples come to; a percentile too, such as `p99`.
        period_s: seconds of a period.
    """

    series: Series
    statistic: str
    period_s: int


def watched(by: MetricAlarm | TargetTrackingPolicy, endpoint_name: Any) -> Watched:
    """What a plan's alarm or target-tracking policy looks at.

    Args:
        by: the alarm or policy.
        endpoint_name: the endpoint's, or in a Pulumi program the output that will be it.
    """
    period_s = by.period_s if isinstance(by, MetricAlarm) else TRACKING_PERIOD_S
    # With any other dimension an alarm never fires (docs/aws-facts.md#metrics).
    series = Series.of(by.metric.namespace, by.metric, {"EndpointName": endpoint_name})
    return Watched(series, by.statistic, period_s)


def policy_document(policy: ScalingPolicy, endpoint_name: Any) -> dict[str, Any]:
    """A policy of a plan as PutScalingPolicy takes it, without the target that it belongs to."""
    named = {"PolicyName": policy.name, "PolicyType": policy.type}
    if isinstance(policy, TargetTrackingPolicy):
        tracked = watched(policy, endpoint_name)
        return named | {
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": policy.target,
                "CustomizedMetricSpecification": {
                    **_series_document(tracked.series),
                    "Statistic": tracked.statistic,
                },
                "ScaleOutCooldown": policy.scale_out_cooldown_s,
                "ScaleInCooldown": policy.scale_in_cooldown_s,
                "DisableScaleIn": policy.disable_scale_in,
            }
        }
    steps = [
        _given(
            MetricIntervalLowerBound=step.lower_bound,
            MetricIntervalUpperBound=step.upper_bound,
            ScalingAdjustment=step.adjustment,
        )
        for step in policy.steps
    ]
    return named | {
        "StepScalingPolicyConfiguration": _given(
            AdjustmentType=policy.adjustment_type.value,
            StepAdjustments=steps,
            MinAdjustmentMagnitude=policy.min_adjustment_magnitude,
            Cooldown=policy.cooldown_s,
            MetricAggregationType=policy.metric_aggregation_type,
        )
    }


def policy(document: Document) -> tuple[DeployedPolicy, Watched | None]:
    """A policy, and what it tracks: None for steps, which alarms run, and for an expression.

    Raises:
        ValueError: it breaks one of AWS's rules, or is of another type.
    """
    name, kind = document["PolicyName"], document["PolicyType"]
    configuration = document.get(f"{kind}PolicyConfiguration") or {}
    match kind:
        case "StepScaling":
            steps = tuple(
                StepAdjustment(
                    lower_bound=step.get("MetricIntervalLowerBound"),
                    upper_bound=step.get("MetricIntervalUpperBound"),
                    adjustment=step["ScalingAdjustment"],
                )
                for step in configuration.get("StepAdjustments", ())
            )
            stepped = StepScaling(
                name=name,
                adjustment_type=configuration["AdjustmentType"],
                steps=steps,
                min_adjustment_magnitude=configuration.get("MinAdjustmentMagnitude"),
                metric_aggregation_type=configuration.get("MetricAggregationType", "Average"),
                cooldown_s=configuration.get("Cooldown", DEFAULT_COOLDOWN_S),
            )
            return stepped, None
        case "TargetTrackingScaling":
            tracking = TargetTracking(
                name=name,
                target=configuration["TargetValue"],
                scale_out_cooldown_s=configuration.get("ScaleOutCooldown", DEFAULT_COOLDOWN_S),
                scale_in_cooldown_s=configuration.get("ScaleInCooldown", DEFAULT_COOLDOWN_S),
                disable_scale_in=configuration.get("DisableScaleIn", False),
            )
            return tracking, _tracked(configuration, document.get("ResourceId", ""))
        case _:
            raise ValueError(f"policy {name}: {kind} is not for SageMaker")


def _tracked(configuration: Document, resource_id: str) -> Watched | None:
    predefined = configuration.get("PredefinedMetricSpecification")
    if predefined is not None:
        kind = predefined["PredefinedMetricType"]
        if kind not in _PREDEFINED:
            raise ValueError(f"the predefined metric {kind} is not known here")
        name, statistic = _PREDEFINED[kind]
        endpoint_name, variant_name = scaled_variant(resource_id)
        of = {"EndpointName": endpoint_name, "VariantName": variant_name}
        return Watched(Series.of(QUEUE_METRICS, name, of), statistic, TRACKING_PERIOD_S)
    custom = configuration.get("CustomizedMetricSpecification", {})
    if "MetricName" not in custom:
        return None
    return Watched(_series(custom), custom.get("Statistic", "Average"), TRACKING_PERIOD_S)


def alarm_document(rule: AlarmRule, on: Watched) -> dict[str, Any]:
    """An alarm as PutMetricAlarm takes it, without its name and actions."""
    return {
        **_series_document(on.series),
        "Statistic": on.statistic,
        "Period": on.period_s,
        "ComparisonOperator": rule.comparison.value,
        "Threshold": rule.threshold,
        "EvaluationPeriods": rule.evaluation_periods,
        "DatapointsToAlarm": rule.datapoints_to_alarm,
        "TreatMissingData": rule.treat_missing_data.value,
    }


def alarm(document: Document) -> tuple[AlarmRule, Watched | None]:
    """When an alarm goes off, and what it looks at: None where an expression combines metrics.

    Raises:
        ValueError: it breaks one of AWS's rules, or has no threshold of its own.
    """
    periods = document.get("EvaluationPeriods")
    rule = AlarmRule.model_validate(
        {
            "comparison": document.get("ComparisonOperator"),
            "threshold": document.get("Threshold"),
            "evaluation_periods": periods,
            "datapoints_to_alarm": document.get("DatapointsToAlarm") or periods,
            "treat_missing_data": document.get("TreatMissingData") or MissingData.MISSING,
        }
    )
    if not document.get("MetricName"):
        return rule, None
    statistic = document.get("Statistic") or document["ExtendedStatistic"]
    return rule, Watched(_series(document), statistic, int(document["Period"]))


def planned(document: Document, alarms: Iterable[Document]) -> Iterator[ScalingPolicy]:
    """A deployed policy in a plan's words, with the alarms that run its steps; none if none does.

    What a plan cannot say is left out: metrics that no queue has, percentiles, expressions, alarms
    whose actions are switched off.

    Args:
        document: as DescribeScalingPolicies gives it.
        alarms: as DescribeAlarms gives them.
    """
    found, tracked = policy(document)
    if isinstance(found, TargetTracking):
        if tracked is not None and _sayable(tracked) and not _announced(tracked):
            words = {"metric": tracked.series.name, "statistic": tracked.statistic}
            yield TargetTrackingPolicy.model_validate(dict(found) | words)
        return
    running = []
    for each in alarms:
        runs = document["PolicyARN"] in each.get("AlarmActions", ())
        if not runs or not each.get("ActionsEnabled", True):
            continue
        rule, on = alarm(each)
        if on is None or not _sayable(on):
            continue
        words = {"metric": on.series.name, "statistic": on.statistic, "period_s": on.period_s}
        running.append(MetricAlarm.model_validate(dict(rule) | words))
    if running:
        # AWS keeps no order: those on the queue before those on what clients announce.
        first, *more = sorted(running, key=lambda by: by.metric == Metric.REQUESTS_WITHOUT_CAPACITY)
        yield StepScalingPolicy(alarm=first, more_alarms=tuple(more), **dict(found))


def _sayable(on: Watched) -> bool:
    """Whether a plan can say it: a plain statistic of a queue, or of what its clients announce."""
    named = [name for name, _ in on.series.dimensions]
    return (
        on.series.name in set(Metric)
        and on.series.namespace == Metric(on.series.name).namespace
        and named == ["EndpointName"]
        and on.statistic in (("Sum",) if _announced(on) else get_args(Statistic))
    )


def _announced(on: Watched) -> bool:
    return on.series.name == Metric.REQUESTS_WITHOUT_CAPACITY


def schedule_document(action: ScheduledAction) -> dict[str, Any]:
    """A scheduled action as PutScheduledAction takes it, without the target that it belongs to."""
    return {
        "ScheduledActionName": action.name,
        "Schedule": action.schedule,
        "Timezone": action.timezone,
        "ScalableTargetAction": _given(
            MinCapacity=action.min_capacity, MaxCapacity=action.max_capacity
        ),
    }


def schedule(document: Document) -> ScheduledAction:
    """A scheduled action.

    Raises:
        ValueError: it breaks one of AWS's rules.
    """
    bounds = document.get("ScalableTargetAction", {})
    return ScheduledAction(
        name=document["ScheduledActionName"],
        schedule=document["Schedule"],
        timezone=document.get("Timezone", "UTC"),
        min_capacity=bounds.get("MinCapacity"),
        max_capacity=bounds.get("MaxCapacity"),
    )


def provider_inputs(document: Document) -> dict[str, Any]:
    """A document's members as Pulumi's aws package takes them in Python."""
    inputs = _provider_value("", document)
    if "Dimensions" in document:  # an alarm's own are a mapping there
        inputs["dimensions"] = {each["Name"]: each["Value"] for each in document["Dimensions"]}
    return inputs


def from_provider(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of the aws package, as Pulumi's state has them, as members of AWS's documents."""
    members = {key: value for key, value in inputs.items() if key != "dimensions"}
    document = _aws_value("", pascal(members))
    if "dimensions" in inputs:
        named = (inputs["dimensions"] or {}).items()
        document["Dimensions"] = [{"Name": name, "Value": value} for name, value in named]
    return document


def _provider_value(member: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {snake(key): _provider_value(key, held) for key, held in value.items()}
    if isinstance(value, list):
        return [_provider_value("", each) for each in value]
    # The provider takes bounds as text, since an absent one differs from 0.
    return f"{value:.15g}" if member in _BOUNDS else value


def _aws_value(member: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _aws_value(key, held) for key, held in value.items()}
    if isinstance(value, list):
        return [_aws_value("", each) for each in value]
    return float(value) if member in _BOUNDS else value


def _series_document(series: Series) -> dict[str, Any]:
    return {
        "Namespace": series.namespace,
        "MetricName": series.name,
        "Dimensions": [{"Name": name, "Value": value} for name, value in series.dimensions],
    }


def _series(document: Document) -> Series:
    dimensions = {each["Name"]: each["Value"] for each in document.get("Dimensions", ())}
    return Series.of(document["Namespace"], document["MetricName"], dimensions)


def _given(**members: Any) -> dict[str, Any]:
    """The members that have a value: AWS takes no null."""
    return {name: value for name, value in members.items() if value is not None}
