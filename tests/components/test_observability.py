"""Alarms, dashboard and budget as they are registered; that CloudWatch runs them, AWS proves.

What an expression computes is checked here on numbers, as CloudWatch would see them.
"""

import json
import re
from typing import Any

import pytest

from async_inference.scaling import plan as plans
from async_inference.scaling.plan import ScalingRules, ScheduledAction
from async_inference.stack.groups import Observability, Subscription
from tests.support import ROOT
from tests.support.registrations import Record

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
TOPIC = "arn:aws:sns:us-east-1:123456789012:demo-operations-topic-1a2b3c4"
OF_ENDPOINT = {"EndpointName": "async-demo"}
OF_VARIANT = {"EndpointName": "async-demo", "VariantName": "AllTraffic"}
SIMPLE = {
    "starved": ("HasBacklogWithoutCapacity", OF_ENDPOINT, "Minimum", 1, 60, 30),
    "old-request": ("ApproximateAgeOfOldestRequest", OF_ENDPOINT, "Maximum", 17_280, 60, 1),
    "expired": ("ExpiredRequests", OF_VARIANT, "Sum", 1, 60, 1),
    "failed": ("InvocationFailures", OF_VARIANT, "Sum", 5, 900, 1),
    "inputs": ("RequestDownloadFailures", OF_VARIANT, "Sum", 1, 60, 1),
    "outputs": ("ResponseUploadFailures", OF_VARIANT, "Sum", 1, 60, 1),
    "notifications": ("NotificationFailures", OF_VARIANT, "Sum", 1, 60, 1),
}
"""Metric, dimensions (docs/aws-facts.md#metrics), statistic, threshold, period in s, periods."""


@pytest.fixture
def watched(once, register, endpoint) -> Record:
    """An endpoint with the defaults."""
    return once(lambda: register(endpoint))


def alarm_of(record: Any, name: str) -> dict[str, Any]:
    return record[ALARM, f"demo-{name}-alarm"].inputs


def operational(record: Any) -> list[dict[str, Any]]:
    """The inputs of the alarms for people, not those that scale."""
    return [
        entry.inputs
        for entry in record.registrations
        if entry.type == ALARM and entry.inputs.get("alarmActions") == [TOPIC]
    ]


@pytest.mark.parametrize("name", SIMPLE)
def test_an_alarm_looks_at_its_metric_with_the_dimensions_that_sagemaker_publishes(watched, name):
    """Any other dimension and it never fires (docs/aws-facts.md#metrics)."""
    inputs = alarm_of(watched, name)

    metric, dimensions, statistic, threshold, period_s, periods = SIMPLE[name]
    assert (inputs["namespace"], inputs["metricName"]) == ("AWS/SageMaker", metric)
    assert inputs["dimensions"] == dimensions
    assert inputs["statistic"] == statistic
    assert inputs["threshold"] == threshold
    assert inputs["comparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert inputs["period"] == period_s
    assert (inputs["evaluationPeriods"], inputs["datapointsToAlarm"]) == (periods, periods)


def test_an_idle_endpoint_that_publishes_nothing_alarms_nobody(watched):
    """Most metrics are absent while idle (docs/aws-facts.md#metrics)."""
    found = operational(watched)

    assert len(found) == 9
    assert {inputs["treatMissingData"] for inputs in found} == {"notBreaching"}


def test_every_alarm_tells_operations_that_it_fired_and_that_it_is_over(watched):
    for inputs in operational(watched):
        assert inputs["alarmActions"] == inputs["okActions"] == [TOPIC]


def test_every_alarm_names_a_section_of_the_runbook_that_exists(watched):
    headings = re.findall(r"^### (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)

    named = []
    for inputs in operational(watched):
        said = re.search(r"What to do: docs/operations\.md, (.+)\.$", inputs["alarmDescription"])
        assert said, inputs["alarmDescription"]
        named.append(said[1])
    assert set(named) <= set(headings)
    assert len(set(named)) == len(named)


def queries(inputs: dict[str, Any]) -> dict[str, Any]:
    return {query["id"]: query for query in inputs["metricQueries"]}


def test_instances_are_counted_by_the_samples_of_their_cpu(watched):
    """SampleCount at 60 s is the number of instances (docs/aws-facts.md#metrics)."""
    for name in ("idle", "ceiling"):
        samples = queries(alarm_of(watched, name))["samples"]["metric"]
        assert samples["namespace"] == "/aws/sagemaker/Endpoints"
        assert (samples["metricName"], samples["stat"]) == ("CPUUtilization", "SampleCount")
        assert samples["dimensions"] == OF_VARIANT


def value(expression: str, **series: float) -> float:
    """A metric-math expression of these alarms at one moment; IF, DIFF, AND as CloudWatch's."""
    diff = {f"DIFF({name})": f"{name}_change" for name in series}
    for written, name in diff.items():
        expression = expression.replace(written, name)
    parts = re.fullmatch(r"IF\((.+), (.+), (.+)\)", expression)
    assert parts, expression
    condition, then, otherwise = parts.groups()
    chosen = then if eval(condition.replace("AND", "and"), {}, series) else otherwise  # noqa: S307
    return eval(chosen, {}, series)  # noqa: S307


@pytest.mark.parametrize(
    ("backlog", "instances", "leaks"), [(0, 1, True), (0, 3, True), (2, 1, False), (0, 0, False)]
)
def test_instances_with_an_empty_queue_are_a_leak(watched, backlog, instances, leaks):
    inputs = alarm_of(watched, "idle")

    found = value(queries(inputs)["result"]["expression"], backlog=backlog, samples=5 * instances)
    assert (found > inputs["threshold"]) == leaks
    assert inputs["comparisonOperator"] == "GreaterThanThreshold"
    assert inputs["evaluationPeriods"] * 300 == 3 * 3600, "three hours on end"


def test_instances_that_a_floor_or_a_warm_window_keeps_are_no_leak(register, endpoint):
    warm = ScalingRules(
        policies=plans.DOCUMENTED.policies,
        schedules=(ScheduledAction(name="warm", schedule="cron(0 8 * * ? *)", min_capacity=2),),
    )

    record = register(lambda: endpoint(min_capacity=1, scaling_preset="custom", scaling_plan=warm))

    assert alarm_of(record, "idle")["threshold"] == 2


@pytest.mark.parametrize(
    ("instances", "change", "behind"),
    [(5, 3, True), (5, 0, False), (5, -1, False), (4, 3, False)],
)
def test_at_the_maximum_with_a_growing_backlog_is_falling_behind(
    watched, instances, change, behind
):
    inputs = alarm_of(watched, "ceiling")

    expression = queries(inputs)["result"]["expression"]
    found = value(expression, backlog=9, backlog_change=change, samples=5 * instances)
    assert (found >= inputs["threshold"]) == behind


def test_thresholds_follow_the_settings(register, endpoint):
    settings = Observability(starved_after_min=10, idle_after_h=24, failures=50)

    record = register(lambda: endpoint(observability=settings, request_ttl_s=1000))

    assert alarm_of(record, "starved")["evaluationPeriods"] == 10
    assert alarm_of(record, "failed")["threshold"] == 50
    assert alarm_of(record, "old-request")["threshold"] == 800
    longest = alarm_of(record, "idle")["evaluationPeriods"] * 300
    assert longest == 86_400, "the longest that CloudWatch evaluates"


def test_alarms_and_budgets_of_this_account_only_may_publish(watched):
    policy = watched["aws:sns/topicPolicy:TopicPolicy", "demo-operations-topic-policy"]
    (statement,) = json.loads(policy.inputs["policy"])["Statement"]
    assert statement["Principal"] == {
        "Service": ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]
    }
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_alarms_notify_the_subscriptions_to_operations(register, endpoint):
    given = Subscription(topic="operations", protocol="email", address="team@example.com")

    record = register(lambda: endpoint(subscriptions=[given]))

    (waits,) = [
        entry.depends_on
        for entry in record.registrations
        if entry.type.endswith("TopicSubscription")
    ]
    assert "demo-endpoint" in waits, "by then no new alarm says that it is OK"
    (subscription,) = [
        entry.inputs for entry in record.registrations if entry.type.endswith("TopicSubscription")
    ]
    assert (subscription["topic"], subscription["endpoint"]) == (TOPIC, "team@example.com")


def graphs(record: Any) -> dict[str, Any]:
    board = record["aws:cloudwatch/dashboard:Dashboard", "demo-dashboard"].inputs
    return {
        widget["properties"]["title"]: widget["properties"]
        for widget in json.loads(board["dashboardBody"])["widgets"]
    }


def test_the_dashboard_shows_costs_only_where_a_price_is_configured(register, endpoint, watched):
    without = graphs(watched)
    priced = Observability(usd_per_instance_hour=1.515)
    with_price = graphs(register(lambda: endpoint(observability=priced)))

    (cost,) = with_price.keys() - without.keys()
    assert "Estimated cost" in cost
    assert "1.515" in cost
    assert "1.515" in with_price[cost]["metrics"][0][0]["expression"]


def test_the_dashboard_asks_for_metrics_that_sagemaker_publishes_and_for_no_other(watched):
    asked = {
        (series[0], series[1]): dict(zip(series[2:-1:2], series[3:-1:2], strict=True))
        for graph in graphs(watched).values()
        for series in graph["metrics"]
        if isinstance(series[0], str)
    }

    per_endpoint = {"ApproximateBacklogSize", "ApproximateAgeOfOldestRequest"}
    for (_, metric), dimensions in asked.items():
        assert dimensions == (OF_ENDPOINT if metric in per_endpoint else OF_VARIANT), metric


def test_a_budget_counts_what_bears_the_endpoints_tag(register, endpoint):
    settings = Observability(monthly_budget_usd=500)

    record = register(lambda: endpoint(observability=settings))

    budget = record["aws:budgets/budget:Budget", "demo-budget"].inputs
    assert (budget["limitAmount"], budget["limitUnit"]) == ("500", "USD")
    depends = record["aws:budgets/budget:Budget", "demo-budget"].depends_on
    assert "demo-operations-topic-policy" in depends
    assert budget["costFilters"] == [
        {"name": "TagKeyValue", "values": ["user:endpoint$async-demo"]}
    ]
    assert {each["notificationType"] for each in budget["notifications"]} == {
        "ACTUAL",
        "FORECASTED",
    }
    tagged = [entry for entry in record.registrations if "tags" in entry.inputs]
    assert all(entry.inputs["tags"]["endpoint"] == "async-demo" for entry in tagged)


@pytest.mark.parametrize(
    ("limit_usd", "amount"),
    [
        (500, "500"),
        (12_345.67, "12345.67"),
        (1_234_567, "1234567"),
        (1e9, "1000000000"),
        (99.9, "99.9"),
    ],
)
def test_a_budgets_limit_is_written_out_to_the_cent(register, endpoint, limit_usd, amount):
    record = register(lambda: endpoint(observability=Observability(monthly_budget_usd=limit_usd)))

    assert record["aws:budgets/budget:Budget", "demo-budget"].inputs["limitAmount"] == amount


def test_nothing_is_watched_where_that_is_turned_off_but_the_log_ends(register, endpoint):
    record = register(lambda: endpoint(observability=Observability(enabled=False)))

    assert operational(record) == []
    assert not any(kind.endswith((":Dashboard", ":Budget")) for kind, _ in record.keys)
    logs = record["aws:cloudwatch/logGroup:LogGroup", "demo-logs"]
    assert logs.inputs["name"] == "/aws/sagemaker/Endpoints/async-demo"
    assert logs.inputs["retentionInDays"] == 90
