"""The embedded CloudWatch answers with what the endpoint published and with what alarms did."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from async_inference.rehearsal.history import fetch, reconstruct
from async_inference.validation import InvalidInputError
from tests.support.scaling import FAST_MINUTE_S, TARGET, wake
from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws


@pytest.fixture
def account(start):
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    return account


def window(account) -> dict[str, datetime]:
    now = datetime.fromtimestamp(account.aws.clock.now_s(), UTC)
    return {"StartTime": now - timedelta(hours=6), "EndTime": now + timedelta(minutes=1)}


def statistics(account, metric: str, stat: str, dimensions: dict[str, str]) -> list[float]:
    answer = account.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        Statistics=[stat],
        Period=60,
        **window(account),
    )
    return [point[stat] for point in answer["Datapoints"]]


VARIANT = {"EndpointName": "echo", "VariantName": "AllTraffic"}


def test_the_sums_of_what_was_processed_are_the_requests_that_were_answered(account):
    for number in range(3):
        account.read(account.submit(b"hello %d" % number)["OutputLocation"])

    assert eventually(
        lambda: sum(statistics(account, "InvocationsProcessed", "Sum", VARIANT)) == 3,
        "three processed requests",
    )
    assert sum(statistics(account, "TotalProcessingTime", "SampleCount", VARIANT)) == 3


def test_a_metric_with_wrong_dimensions_has_no_data(account):
    """Wrong dimensions never fire (docs/aws-facts.md#metrics)."""
    account.read(account.submit(b"hello")["OutputLocation"])
    eventually(
        lambda: statistics(account, "InvocationsProcessed", "Sum", VARIANT), "a processed request"
    )

    assert statistics(account, "InvocationsProcessed", "Sum", {"EndpointName": "echo"}) == []


def test_get_metric_data_reads_several_metrics_at_once(account):
    mine = [{"Name": "EndpointName", "Value": "echo"}]
    queries = [
        {
            "Id": f"m{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/SageMaker",
                    "MetricName": metric,
                    "Dimensions": mine,
                },
                "Period": 60,
                "Stat": "Average",
            },
        }
        for number, metric in enumerate(("ApproximateBacklogSize", "HasBacklogWithoutCapacity"))
    ]

    def found() -> list[dict]:
        answer = account.cloudwatch.get_metric_data(MetricDataQueries=queries, **window(account))
        return [result for result in answer["MetricDataResults"] if len(result["Values"]) >= 3]

    backlog, starved = eventually(lambda: len(found()) == 2 and found(), "three minutes of both")
    assert (backlog["Id"], starved["Id"]) == ("m0", "m1")
    assert set(backlog["Values"]) == {0.0}
    assert backlog["Timestamps"] == sorted(backlog["Timestamps"], reverse=True)


def test_list_metrics_names_what_the_endpoint_published(account):
    eventually(
        lambda: account.cloudwatch.list_metrics(Namespace="AWS/SageMaker")["Metrics"], "metrics"
    )

    found = account.cloudwatch.list_metrics(
        Namespace="AWS/SageMaker", MetricName="ApproximateBacklogSize"
    )["Metrics"]

    assert [metric["Dimensions"] for metric in found] == [
        [{"Name": "EndpointName", "Value": "echo"}]
    ]


def test_alarm_history_says_what_changed_and_what_was_done(account):
    def changes() -> list[str]:
        history = account.cloudwatch.describe_alarm_history(
            AlarmName="starved", HistoryItemType="StateUpdate", ScanBy="TimestampAscending"
        )
        return [item["HistorySummary"] for item in history["AlarmHistoryItems"]]

    wake(account)
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=0)
    eventually(lambda: account.instances() == 0, "no instances")
    eventually(changes, "a first evaluation")
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    account.submit(b"wake up")

    eventually(lambda: "Alarm updated from OK to ALARM" in changes(), "an alarm")
    assert changes()[0] == "Alarm updated from INSUFFICIENT_DATA to OK"
    page = account.cloudwatch.describe_alarm_history(AlarmName="starved", MaxRecords=1)
    assert len(page["AlarmHistoryItems"]) == 1
    assert page["NextToken"]


def test_alarm_history_has_both_states_and_their_data_as_cloudwatch_writes_them(account):
    """AWS CLI, examples of describe-alarm-history."""
    wake(account)

    (change, *_) = eventually(
        lambda: account.cloudwatch.describe_alarm_history(
            AlarmName="starved", HistoryItemType="StateUpdate", ScanBy="TimestampAscending"
        )["AlarmHistoryItems"],
        "a change of state",
    )

    data = json.loads(change["HistoryData"])
    assert data["version"] == "1.0"
    assert data["oldState"] == {
        "stateValue": "INSUFFICIENT_DATA",
        "stateReason": "Unchecked: Initial alarm creation",
    }
    assert data["newState"]["stateValue"] == "OK"
    assert data["newState"]["stateReason"].startswith("Threshold Crossed")
    seen = data["newState"]["stateReasonData"]
    assert (seen["statistic"], seen["period"], seen["threshold"]) == ("Average", 60, 0.5)
    assert seen["recentDatapoints"] == [0.0]
    started, queried = (datetime.fromisoformat(seen[key]) for key in ("startDate", "queryDate"))
    assert started < queried
    # Each evaluated period, the newest first, as public records of CloudWatch have it.
    (point,) = seen["evaluatedDatapoints"]
    assert (datetime.fromisoformat(point["timestamp"]), point["value"]) == (started, 0.0)
    (alarm,) = account.cloudwatch.describe_alarms(AlarmNames=["starved"])["MetricAlarms"]
    assert json.loads(alarm["StateReasonData"])["version"] == "1.0"


def test_alarm_history_keeps_to_the_dates_that_are_asked_for(account):
    wake(account)
    (change,) = eventually(
        lambda: account.cloudwatch.describe_alarm_history(
            AlarmName="starved", HistoryItemType="StateUpdate"
        )["AlarmHistoryItems"],
        "a change of state",
    )
    at, second = change["Timestamp"], timedelta(seconds=1)

    def found(start: datetime, end: datetime) -> int:
        history = account.cloudwatch.describe_alarm_history(
            AlarmName="starved", HistoryItemType="StateUpdate", StartDate=start, EndDate=end
        )
        return len(history["AlarmHistoryItems"])

    assert found(at - second, at + second) == 1
    assert found(at + second, at + 2 * second) == 0
    assert found(at - 2 * second, at - second) == 0


SLOW = """
import time
def model_fn(folder): return None
def input_fn(data, content_type): return data
def predict_fn(data, model):
    time.sleep(0.2)
    return data
def output_fn(prediction, accept): return prediction
"""


def test_the_traffic_of_an_endpoint_is_read_back_from_its_metrics(start):
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy(code=SLOW)
    account.in_service()
    first_s = account.aws.clock.now_s()
    accepted = [account.submit(b"one of five") for _ in range(5)]
    for answer in accepted:
        account.read(answer["OutputLocation"])
    eventually(
        lambda: sum(statistics(account, "TotalProcessingTime", "SampleCount", VARIANT)) == 5,
        "five ended requests",
    )

    minutes = fetch(account.cloudwatch, "echo", "AllTraffic", timedelta(hours=6))
    found = reconstruct(minutes)

    assert found.requests == 5
    began_s = min(*minutes.backlog, *minutes.ended)
    assert began_s + found.arrivals_s[0] > first_s - 60
    assert (found.service_s >= 0.2 / FAST_MINUTE_S * 60).all()


def test_an_endpoint_without_requests_is_named(account):
    with pytest.raises(InvalidInputError, match="endpoint echo, variant AllTraffic: CloudWatch"):
        fetch(account.cloudwatch, "echo", "AllTraffic", timedelta(hours=6))


def test_an_alarm_that_wants_more_datapoints_than_it_looks_at_is_refused(start):
    """It could never be evaluated, and simulated time would end with the attempt."""
    account = start(minute_s=0.1)
    asked = {
        "AlarmName": "impossible",
        "Namespace": "AWS/SageMaker",
        "MetricName": "ApproximateBacklogSize",
        "Statistic": "Average",
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 1,
        "Period": 60,
        "EvaluationPeriods": 2,
    }

    with pytest.raises(account.cloudwatch.exceptions.ClientError, match="DatapointsToAlarm 3"):
        account.cloudwatch.put_metric_alarm(**asked, DatapointsToAlarm=3)
    assert account.cloudwatch.describe_alarms()["MetricAlarms"] == []
    account.cloudwatch.put_metric_alarm(**asked, DatapointsToAlarm=2)
