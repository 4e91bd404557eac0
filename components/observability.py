"""Alarms, a dashboard and a budget: starvation, failures, idle cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

from async_inference.aws_names import INSTANCE_METRICS, QUEUE_METRICS
from async_inference.scaling.plan import Comparison, ScalingPlan
from async_inference.stack.arguments import ENDPOINT_TAG
from async_inference.stack.groups import Observability, Subscription
from components.notifications import subscribe

MINUTE_S = 60
TREND_S = 300
"""Period of alarms on a trend, long enough that one request does not make one."""
RUNBOOK = "docs/operations.md"
NEAR_TTL = 0.8
"""Share of a request's time to live after which an alarm fires."""
FAILURES_WINDOW_S = 900


@dataclass(frozen=True, kw_only=True)
class EndpointWatchArgs:
    """What an `EndpointWatch` watches.

    Args:
        settings: what is watched, and the thresholds.
        account_id: whose alarms and budgets may publish to the topic.
        region: of the endpoint.
        endpoint_name: the endpoint.
        variant_name: its variant.
        plan: for the floor and the ceiling of its capacity.
        request_ttl_s: seconds until an unserved request expires.
        subscriptions: those to the topic `operations` are created.
        subscribed_after: what exists before they do. A new alarm notifies when it turns from
            INSUFFICIENT_DATA to OK. That takes minutes, the endpoint takes longer, so the first
            deployment sends nobody a message for each alarm.
        kms_key_arn: encrypts the topic.
        tags: tags for topic, alarms and budget.
    """

    settings: Observability
    account_id: pulumi.Input[str]
    region: str
    endpoint_name: str
    variant_name: str
    plan: ScalingPlan
    request_ttl_s: int
    subscriptions: Sequence[Subscription] = ()
    subscribed_after: Sequence[pulumi.Resource] = ()
    kms_key_arn: pulumi.Input[str] | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """One metric of the endpoint, as alarms and widgets name it.

    Args:
        name: its name.
        stat: the statistic over a period.
        variant: published for each variant, not for the endpoint (docs/aws-facts.md#metrics).
        namespace: of the queue's metrics, or of the instances'.
    """

    name: str
    stat: str
    variant: bool = False
    namespace: str = QUEUE_METRICS

    def dimensions(self, args: EndpointWatchArgs) -> dict[str, str]:
        of_variant = {"VariantName": args.variant_name} if self.variant else {}
        return {"EndpointName": args.endpoint_name, **of_variant}


BACKLOG = Metric("ApproximateBacklogSize", "Maximum")
STARVED = Metric("HasBacklogWithoutCapacity", "Minimum")
AGE = Metric("ApproximateAgeOfOldestRequest", "Maximum")
EXPIRED = Metric("ExpiredRequests", "Sum", variant=True)
FAILED = Metric("InvocationFailures", "Sum", variant=True)
PROCESSED = Metric("InvocationsProcessed", "Sum", variant=True)
UNREAD_INPUTS = Metric("RequestDownloadFailures", "Sum", variant=True)
UNWRITTEN_OUTPUTS = Metric("ResponseUploadFailures", "Sum", variant=True)
UNSENT_NOTIFICATIONS = Metric("NotificationFailures", "Sum", variant=True)
WAITING = Metric("TimeInBacklog", "Average", variant=True)
PROCESSING = Metric("TotalProcessingTime", "Average", variant=True)
INSTANCE_MINUTES = Metric("CPUUtilization", "SampleCount", True, INSTANCE_METRICS)
"""Each instance publishes one sample a minute, so the number of samples is that of
instance-minutes. No metric counts instances, and this one is absent at zero
(docs/aws-facts.md#metrics)."""


@dataclass(frozen=True)
class Alarm:
    """One operational alarm; it treats missing data as not breaching, since most of these metrics
    are absent while the endpoint is idle.

    Args:
        name: the last part of its Pulumi name.
        section: the heading in the runbook.
        what: what has happened when it fires.
        threshold: breached at this value and above, unless `comparison` says otherwise.
        metric: what it watches; None where `expression` combines `metrics`.
        metrics: the identifiers of the expression, each with its metric.
        period_s: seconds of one datapoint.
        periods: datapoints that are evaluated.
        breaching: how many of them must breach.
    """

    name: str
    section: str
    what: str
    threshold: float
    metric: Metric | None = None
    expression: str = ""
    metrics: tuple[tuple[str, Metric], ...] = ()
    period_s: int = MINUTE_S
    periods: int = 1
    breaching: int = 1
    comparison: Comparison = Comparison.GREATER_OR_EQUAL


def alarms(args: EndpointWatchArgs) -> list[Alarm]:
    """The alarms of an endpoint; each has a section of the runbook."""
    settings, plan = args.settings, args.plan
    floor = max([plan.min_capacity, *(action.min_capacity or 0 for action in plan.schedules)])
    ceiling = max([plan.max_capacity, *(action.max_capacity or 0 for action in plan.schedules)])
    trend_min = TREND_S // MINUTE_S
    idle_periods = settings.idle_after_h * 3600 // TREND_S
    return [
        Alarm(
            "starved",
            "A backlog without an instance",
            f"Requests have waited {settings.starved_after_min} minutes and no instance exists: "
            "quota, a shortage of the instance type, or a scaling policy that does not run.",
            1,
            STARVED,
            periods=settings.starved_after_min,
            breaching=settings.starved_after_min,
        ),
        Alarm(
            "old-request",
            "A request about to expire",
            f"The oldest request has waited {NEAR_TTL:.0%} of its time to live.",
            NEAR_TTL * args.request_ttl_s,
            AGE,
        ),
        Alarm(
            "expired",
            "Expired requests",
            "Requests reached their time to live before any instance took them.",
            1,
            EXPIRED,
        ),
        Alarm(
            "failed",
            "Failed requests",
            f"{settings.failures} requests failed within {FAILURES_WINDOW_S // 60} minutes.",
            settings.failures,
            FAILED,
            period_s=FAILURES_WINDOW_S,
        ),
        Alarm(
            "inputs",
            "Inputs that cannot be read",
            "SageMaker could not download an input from S3.",
            1,
            UNREAD_INPUTS,
        ),
        Alarm(
            "outputs",
            "Outputs that cannot be written",
            "SageMaker could not upload an output or failure to S3.",
            1,
            UNWRITTEN_OUTPUTS,
        ),
        Alarm(
            "notifications",
            "Notifications that cannot be sent",
            "SageMaker could not publish how a request ended.",
            1,
            UNSENT_NOTIFICATIONS,
        ),
        Alarm(
            "idle",
            "Instances without work",
            f"More than {floor} instances ran {settings.idle_after_h} hours with an empty queue: "
            "they cost money and nothing scales them in.",
            floor,
            expression=f"IF(backlog < 1, samples / {trend_min}, 0)",
            metrics=(("backlog", BACKLOG), ("samples", INSTANCE_MINUTES)),
            period_s=TREND_S,
            periods=idle_periods,
            breaching=idle_periods,
            comparison=Comparison.GREATER,
        ),
        Alarm(
            "ceiling",
            "At the maximum and falling behind",
            f"All {ceiling} instances run and the backlog grows.",
            1,
            # Half an instance of tolerance: a sample may be late.
            expression=(
                f"IF(samples / {trend_min} > {ceiling - 0.5:g} AND DIFF(backlog) > 0, 1, 0)"
            ),
            metrics=(("backlog", BACKLOG), ("samples", INSTANCE_MINUTES)),
            period_s=TREND_S,
            periods=6,
            breaching=4,
        ),
    ]


def dashboard(args: EndpointWatchArgs) -> dict[str, object]:
    """The dashboard's body: what runs, what waits, how long, what fails, what it costs."""
    instances = _expression("instances", f"samples * {MINUTE_S} / PERIOD(samples)", "instances")
    samples = _series(args, INSTANCE_MINUTES, {"id": "samples", "visible": False})
    ceiling = {"label": "maximum", "value": args.plan.max_capacity}
    ttl = {"label": "time to live", "value": args.request_ttl_s}
    graphs = [
        _graph(args, "Instances in service", [instances, samples], [ceiling]),
        _graph(args, "Backlog, requests", [_series(args, BACKLOG)]),
        _graph(args, "Age of the oldest request, seconds", [_series(args, AGE)], [ttl]),
        _graph(
            args,
            # On separate axes, since SageMaker may publish them in different units, which the
            # axes show.
            "Waiting (left) against processing (right), means",
            [_series(args, WAITING), _series(args, PROCESSING, {"yAxis": "right"})],
        ),
        _graph(
            args,
            "Requests that ended, a minute",
            [_series(args, metric) for metric in (PROCESSED, FAILED, EXPIRED)],
        ),
        _graph(
            args,
            "Reading, writing, notifying: failures",
            [
                _series(args, metric)
                for metric in (UNREAD_INPUTS, UNWRITTEN_OUTPUTS, UNSENT_NOTIFICATIONS)
            ],
        ),
    ]
    price = args.settings.usd_per_instance_hour
    if price is not None:
        spent = _expression(
            "spent", f"RUNNING_SUM(FILL(samples, 0)) / {3600 // MINUTE_S} * {price:g}", "USD"
        )
        graphs.append(
            _graph(
                args,
                f"Estimated cost since the graph's start, USD at {price:g} an instance hour",
                [spent, samples],
            )
        )
    return {
        "widgets": [
            {"type": "metric", "x": 12 * (i % 2), "y": 6 * (i // 2), "width": 12, "height": 6}
            | {"properties": graph}
            for i, graph in enumerate(graphs)
        ]
    }


def _series(
    args: EndpointWatchArgs, metric: Metric, options: dict[str, object] | None = None
) -> list[object]:
    pairs = [part for pair in metric.dimensions(args).items() for part in pair]
    return [metric.namespace, metric.name, *pairs, {"stat": metric.stat, **(options or {})}]


def _expression(identifier: str, expression: str, label: str) -> list[object]:
    return [{"id": identifier, "expression": expression, "label": label}]


def _graph(
    args: EndpointWatchArgs,
    title: str,
    metrics: list[list[object]],
    lines: Sequence[Mapping[str, object]] = (),
) -> dict[str, object]:
    graph: dict[str, object] = {
        "title": title,
        "view": "timeSeries",
        "region": args.region,
        "period": MINUTE_S,
        "metrics": metrics,
        "yAxis": {"left": {"min": 0}, "right": {"min": 0}},
    }
    return graph | ({"annotations": {"horizontal": list(lines)}} if lines else {})


class EndpointWatch(pulumi.ComponentResource):
    """Alarms, dashboard and budget of an endpoint.

    - a topic for operations, with its subscriptions, to which this account's alarms publish
    - an alarm for each that `alarms` lists
    - a dashboard
    - a budget for all resources with the endpoint's tag, with `monthly_budget_usd`
    """

    topic_arn: pulumi.Output[str]

    def __init__(
        self, name: str, args: EndpointWatchArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:EndpointWatch", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.topic_arn, allowed = self._topic(name, args, child)
        for alarm in alarms(args):
            self._alarm(name, args, alarm, child)
        aws.cloudwatch.Dashboard(
            f"{name}-dashboard",
            dashboard_name=args.endpoint_name,
            dashboard_body=json.dumps(dashboard(args)),
            opts=child,
        )
        if args.settings.monthly_budget_usd is not None:
            # Budgets checks whether it may publish before it takes a subscriber.
            publishes = pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(depends_on=[allowed])
            )
            self._budget(name, args, args.settings.monthly_budget_usd, publishes)
        self.register_outputs({"topic_arn": self.topic_arn})

    def _topic(
        self, name: str, args: EndpointWatchArgs, child: pulumi.ResourceOptions
    ) -> tuple[pulumi.Output[str], pulumi.Resource]:
        """The topic's ARN, and the policy that lets alarms and budgets publish to it."""
        topic = aws.sns.Topic(
            f"{name}-operations-topic",
            # With AWS's key for SNS, neither alarms nor budgets could publish (CW, alarms and SNS),
            # so without a customer's key the topic is not encrypted.
            kms_master_key_id=args.kms_key_arn,
            tags=args.tags,
            opts=child,
        )
        allowed = aws.sns.TopicPolicy(
            f"{name}-operations-topic-policy",
            arn=topic.arn,
            policy=pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "LetAlarmsAndBudgetsNotify",
                            "Effect": "Allow",
                            "Principal": {
                                "Service": ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]
                            },
                            "Action": "sns:Publish",
                            "Resource": topic.arn,
                            "Condition": {"StringEquals": {"aws:SourceAccount": args.account_id}},
                        }
                    ],
                }
            ),
            opts=child,
        )
        late = pulumi.ResourceOptions(depends_on=list(args.subscribed_after))
        for subscription in args.subscriptions:
            if subscription.topic == "operations":
                subscribe(name, topic.arn, subscription, pulumi.ResourceOptions.merge(child, late))
        return topic.arn, allowed

    def _alarm(
        self, name: str, args: EndpointWatchArgs, alarm: Alarm, child: pulumi.ResourceOptions
    ) -> None:
        simple = alarm.metric
        aws.cloudwatch.MetricAlarm(
            f"{name}-{alarm.name}-alarm",
            alarm_description=f"{alarm.what} What to do: {RUNBOOK}, {alarm.section}.",
            namespace=simple.namespace if simple else None,
            metric_name=simple.name if simple else None,
            dimensions=simple.dimensions(args) if simple else None,
            statistic=simple.stat if simple else None,
            period=alarm.period_s if simple else None,
            metric_queries=None if simple else _queries(args, alarm),
            comparison_operator=alarm.comparison.value,
            threshold=alarm.threshold,
            evaluation_periods=alarm.periods,
            datapoints_to_alarm=alarm.breaching,
            treat_missing_data="notBreaching",
            alarm_actions=[self.topic_arn],
            ok_actions=[self.topic_arn],
            tags=args.tags,
            opts=child,
        )

    def _budget(
        self, name: str, args: EndpointWatchArgs, limit_usd: float, child: pulumi.ResourceOptions
    ) -> None:
        def notify(kind: str, percent: float) -> aws.budgets.BudgetNotificationArgsDict:
            return {
                "comparison_operator": "GREATER_THAN",
                "notification_type": kind,
                "threshold": percent,
                "threshold_type": "PERCENTAGE",
                "subscriber_sns_topic_arns": [self.topic_arn],
            }

        aws.budgets.Budget(
            f"{name}-budget",
            budget_type="COST",
            time_unit="MONTHLY",
            limit_amount=_dollars(limit_usd),
            limit_unit="USD",
            cost_filters=[
                {
                    "name": "TagKeyValue",
                    "values": [f"user:{ENDPOINT_TAG}${args.endpoint_name}"],
                }
            ],
            notifications=[notify("ACTUAL", 80), notify("FORECASTED", 100)],
            tags=args.tags,
            opts=child,
        )


def _dollars(amount_usd: float) -> str:
    """Dollars and cents as AWS Budgets takes them: 500, 12345.68; never 1e+06."""
    return f"{amount_usd:.2f}".rstrip("0").rstrip(".")


def _queries(
    args: EndpointWatchArgs, alarm: Alarm
) -> list[aws.cloudwatch.MetricAlarmMetricQueryArgsDict]:
    result: aws.cloudwatch.MetricAlarmMetricQueryArgsDict = {
        "id": "result",
        "expression": alarm.expression,
        "label": alarm.name,
        "return_data": True,
    }
    return [
        result,
        *(
            aws.cloudwatch.MetricAlarmMetricQueryArgsDict(
                id=identifier,
                metric={
                    "namespace": metric.namespace,
                    "metric_name": metric.name,
                    "dimensions": metric.dimensions(args),
                    "stat": metric.stat,
                    "period": alarm.period_s,
                },
            )
            for identifier, metric in alarm.metrics
        ),
    ]
