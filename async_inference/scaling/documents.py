"""Translates a plan's policies, alarms and schedules into AWS's documents, and back.

A document has the members of PutScalingPolicy, PutMetricAlarm or PutScheduledAction. What
DescribeScalingPolicies, DescribeAlarms and DescribeScheduledActions return has them too. Optional
members that are missing get AWS's defaults (API references of AAS and CW).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from async_inference.aws_names import QUEUE_METRICS, Series, pascal, scaled_variant, snake
from async_inference.scaling.autoscaler import TRACKING_PERIOD_S
from async_inference.scaling.plan import (
    FACTORS,
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
"""The cooldown of a policy that sets none (docs/aws-facts.md#cooldowns)."""
_PREDEFINED = {"SageMakerVariantInvocationsPerInstance": ("InvocationsPerInstance", "Sum")}
"""CloudWatch's metric and statistic for AAS's predefined metric of a variant. Asynchronous
endpoints do not publish it (docs/aws-facts.md#metrics)."""


@dataclass(frozen=True)
class MetricStat:
    """What an alarm or a target-tracking policy watches.

    Args:
        series: the metric.
        statistic: the statistic of each period, percentiles such as `p99` included.
        period_s: length of a period in seconds.
        times: another metric to multiply by, period by period (metric math).
    """

    series: Series
    statistic: str
    period_s: int
    times: Series | None = None


def metric_stat(by: MetricAlarm | TargetTrackingPolicy, endpoint_name: object) -> MetricStat:
    """What a plan's alarm or target-tracking policy watches.

    Args:
        by: the alarm or policy.
        endpoint_name: the endpoint's name; in a Pulumi program, an output.
    """
    period_s = by.period_s if isinstance(by, MetricAlarm) else TRACKING_PERIOD_S
    # With any other dimension an alarm never fires (docs/aws-facts.md#metrics).
    named = {"EndpointName": endpoint_name}
    factors = FACTORS.get(by.metric, (by.metric,))
    series = [Series.of(metric.namespace, metric, named) for metric in factors]
    return MetricStat(series[0], by.statistic, period_s, *series[1:])


def policy_document(policy: ScalingPolicy, endpoint_name: object) -> dict[str, Any]:
    """A plan's policy as PutScalingPolicy takes it, without its scalable target."""
    named = {"PolicyName": policy.name, "PolicyType": policy.type}
    if isinstance(policy, TargetTrackingPolicy):
        tracked = metric_stat(policy, endpoint_name)
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


def policy(document: Document) -> tuple[DeployedPolicy, MetricStat | None]:
    """A policy, and the metric that it tracks.

    The metric is None for a step policy, which alarms invoke, and for metric math.

    Raises:
        ValueError: the policy breaks one of AWS's rules, or is of another type.
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
            raise ValueError(f"policy {name}: SageMaker does not support {kind}")


def _tracked(configuration: Document, resource_id: str) -> MetricStat | None:
    predefined = configuration.get("PredefinedMetricSpecification")
    if predefined is not None:
        kind = predefined["PredefinedMetricType"]
        if kind not in _PREDEFINED:
            raise ValueError(f"predefined metric {kind} is not supported")
        name, statistic = _PREDEFINED[kind]
        endpoint_name, variant_name = scaled_variant(resource_id)
        of = {"EndpointName": endpoint_name, "VariantName": variant_name}
        return MetricStat(Series.of(QUEUE_METRICS, name, of), statistic, TRACKING_PERIOD_S)
    custom = configuration.get("CustomizedMetricSpecification", {})
    if "MetricName" not in custom:
        return None
    return MetricStat(_series(custom), custom.get("Statistic", "Average"), TRACKING_PERIOD_S)


def alarm_document(rule: AlarmRule, on: MetricStat) -> dict[str, Any]:
    """An alarm as PutMetricAlarm takes it, without its name and actions."""
    single = {
        **_series_document(on.series),
        "Statistic": on.statistic,
        "Period": on.period_s,
    }
    return {
        **(single if on.times is None else {"Metrics": _product(on, on.times)}),
        "ComparisonOperator": rule.comparison.value,
        "Threshold": rule.threshold,
        "EvaluationPeriods": rule.evaluation_periods,
        "DatapointsToAlarm": rule.datapoints_to_alarm,
        "TreatMissingData": rule.treat_missing_data.value,
    }


def alarm(document: Document) -> tuple[AlarmRule, MetricStat | None]:
    """An alarm's rule, and the metric that it watches.

    The metric is None for metric math other than a product of two metrics.

    Raises:
        ValueError: the alarm breaks one of AWS's rules, or has no static threshold.
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
        return rule, _multiplied(document.get("Metrics") or ())
    statistic = document.get("Statistic") or document["ExtendedStatistic"]
    return rule, MetricStat(_series(document), statistic, int(document["Period"]))


_PRODUCT = "first * second"


def _product(on: MetricStat, times: Series) -> list[dict[str, Any]]:
    """Metric math that multiplies two metrics, period by period (CW, PutMetricAlarm)."""
    return [
        {"Id": "product", "Expression": _PRODUCT, "Label": _PRODUCT, "ReturnData": True},
        *(
            {
                "Id": identifier,
                "MetricStat": {
                    "Metric": _series_document(series),
                    "Period": on.period_s,
                    "Stat": on.statistic,
                },
                "ReturnData": False,
            }
            for identifier, series in (("first", on.series), ("second", times))
        ),
    ]


def _multiplied(queries: Iterable[Document]) -> MetricStat | None:
    """The two metrics that `_product`'s queries multiply; None for other expressions."""
    by_id = {query["Id"]: query for query in queries}
    expression = by_id.pop("product", {}).get("Expression")
    if expression != _PRODUCT or by_id.keys() != {"first", "second"}:
        return None
    first, second = (by_id[identifier].get("MetricStat") for identifier in ("first", "second"))
    if not first or not second:
        return None
    kinds = {(stat["Stat"], int(stat["Period"])) for stat in (first, second)}
    if len(kinds) > 1:
        return None
    ((statistic, period_s),) = kinds
    return MetricStat(_series(first["Metric"]), statistic, period_s, _series(second["Metric"]))


def plan_policies(document: Document, alarms: Iterable[Document]) -> Iterator[ScalingPolicy]:
    """A deployed policy as part of a plan, with the alarms that invoke it.

    Yields nothing for a step policy without alarms. Leaves out what a plan cannot express: metrics
    other than the queue's, percentiles, other metric math, alarms whose actions are disabled.

    Args:
        document: an item of DescribeScalingPolicies.
        alarms: items of DescribeAlarms.
    """
    found, tracked = policy(document)
    if isinstance(found, TargetTracking):
        metric = None if tracked is None else _plan_metric(tracked)
        if tracked is not None and metric is not None and metric != _ANNOUNCED:
            words = {"metric": metric, "statistic": tracked.statistic}
            yield TargetTrackingPolicy.model_validate(dict(found) | words)
        return
    running = []
    for each in alarms:
        runs = document["PolicyARN"] in each.get("AlarmActions", ())
        if not runs or not each.get("ActionsEnabled", True):
            continue
        rule, on = alarm(each)
        metric = None if on is None else _plan_metric(on)
        if on is None or metric is None:
            continue
        words = {"metric": metric, "statistic": on.statistic, "period_s": on.period_s}
        running.append(MetricAlarm.model_validate(dict(rule) | words))
    if running:
        # AWS keeps no order: put alarms on the queue before those on announcements.
        first, *more = sorted(running, key=lambda by: by.metric == _ANNOUNCED)
        yield StepScalingPolicy(alarm=first, more_alarms=tuple(more), **dict(found))


_ANNOUNCED = Metric.REQUESTS_WITHOUT_CAPACITY


def _plan_metric(on: MetricStat) -> Metric | None:
    """The plan's metric, or None if a plan cannot express it.

    A plan can express a plain statistic of a queue metric or of a product in `FACTORS`, and the sum
    of the announcements.
    """
    series = (on.series,) if on.times is None else (on.series, on.times)
    endpoints = {each.dimensions for each in series}
    names = tuple(each.name for each in series)
    metric = next((m for m in Metric if FACTORS.get(m, (m.value,)) == names), None)
    if (
        metric is None
        or any(each.namespace != metric.namespace for each in series)
        or len(endpoints) != 1
        or [name for name, _ in on.series.dimensions] != ["EndpointName"]
        or on.statistic not in (("Sum",) if metric == _ANNOUNCED else get_args(Statistic))
    ):
        return None
    return metric


def schedule_document(action: ScheduledAction) -> dict[str, Any]:
    """A scheduled action as PutScheduledAction takes it, without its scalable target."""
    return {
        "ScheduledActionName": action.name,
        "Schedule": action.schedule,
        "Timezone": action.timezone,
        "ScalableTargetAction": _given(
            MinCapacity=action.min_capacity, MaxCapacity=action.max_capacity
        ),
    }


def schedule(document: Document) -> ScheduledAction:
    """A scheduled action from its document.

    Raises:
        ValueError: the action breaks one of AWS's rules.
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
    """A document as arguments of the Python package `pulumi_aws`."""
    members = {name: value for name, value in document.items() if name != "Metrics"}
    inputs = _provider_value("", members)
    if "Dimensions" in document:  # the package takes an alarm's dimensions as a mapping
        inputs["dimensions"] = _mapping(document["Dimensions"])
    if "Metrics" in document:
        inputs["metric_queries"] = [_query_inputs(query) for query in document["Metrics"]]
    return inputs


def _query_inputs(query: Document) -> dict[str, Any]:
    """A metric query: the package has no `MetricStat` level between a query and its metric."""
    inputs = {snake(name): value for name, value in query.items() if name != "MetricStat"}
    if "MetricStat" in query:
        stat = query["MetricStat"]
        inputs["metric"] = {
            "namespace": stat["Metric"]["Namespace"],
            "metric_name": stat["Metric"]["MetricName"],
            "dimensions": _mapping(stat["Metric"]["Dimensions"]),
            "period": stat["Period"],
            "stat": stat["Stat"],
        }
    return inputs


def from_provider(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A resource's inputs, as Pulumi's state holds them, as one of AWS's documents."""
    apart = ("dimensions", "metricQueries")
    document = _aws_value("", pascal({k: v for k, v in inputs.items() if k not in apart}))
    if "dimensions" in inputs:
        document["Dimensions"] = _pairs(inputs["dimensions"] or {})
    if inputs.get("metricQueries"):
        document["Metrics"] = [_query(each) for each in inputs["metricQueries"]]
    return document


def _query(inputs: Mapping[str, Any]) -> dict[str, Any]:
    query = pascal({key: value for key, value in inputs.items() if key != "metric"})
    # By default a query is an input of the expression (TF aws_cloudwatch_metric_alarm).
    query.setdefault("ReturnData", False)
    metric = inputs.get("metric")
    if metric is None:
        return query
    series = Series.of(metric["namespace"], metric["metricName"], metric.get("dimensions") or {})
    return query | {
        "MetricStat": {
            "Metric": _series_document(series),
            "Period": int(metric["period"]),
            "Stat": metric["stat"],
        }
    }


def _mapping(dimensions: Iterable[Document]) -> dict[str, Any]:
    return {each["Name"]: each["Value"] for each in dimensions}


def _pairs(dimensions: Mapping[str, object]) -> list[dict[str, Any]]:
    return [{"Name": name, "Value": value} for name, value in dimensions.items()]


def _provider_value(member: str, value: object) -> Any:
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
        "Dimensions": _pairs(dict(series.dimensions)),
    }


def _series(document: Document) -> Series:
    dimensions = _mapping(document.get("Dimensions", ()))
    return Series.of(document["Namespace"], document["MetricName"], dimensions)


def _given(**members: object) -> dict[str, Any]:
    """The members that have a value; AWS accepts no nulls."""
    return {name: value for name, value in members.items() if value is not None}
