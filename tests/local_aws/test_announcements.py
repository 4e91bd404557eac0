"""What clients announce reaches the policies in seconds, and no request suffers from it."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from async_inference.client import AsyncClient, Client, Request
from async_inference.client.batch import Batch
from async_inference.client.ledger import Item, Ledger
from async_inference.local_aws.server import LocalAws, Options
from async_inference.scaling.plan import ANNOUNCED, TUNED, ScalingRules
from tests.support.client import QUICK, session
from tests.support.client_world import refused
from tests.support.embedded_aws import Account
from tests.support.scaling import put_plan
from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws
REAL_MINUTE_S = 6.0
"""Ten times as fast: what a call takes, tenths of a real second at worst, is a few of its."""
EVERY_S = 10 * REAL_MINUTE_S / 60
PLANS: dict[str, ScalingRules] = {"heard": ANNOUNCED, "deaf": TUNED, "crowd": ANNOUNCED}


@pytest.fixture(scope="module")
def account(tmp_path_factory, processes):
    """An embedded AWS with endpoints at zero instances, a plan each."""
    folder = tmp_path_factory.mktemp("aws")
    aws = LocalAws(Options(folder=folder, minute_s=REAL_MINUTE_S, setup_s=20.0), processes)
    aws.start()
    try:
        account = Account(aws)
        for name in PLANS:
            account.deploy(name)
        for name, rules in PLANS.items():
            account.in_service(name)
            put_plan(account, name, rules.within(0, 5))
        for name in PLANS:
            account.in_service(name)  # the scale-in to zero is done, which refuses others
        yield account
    finally:
        aws.stop()


def client_of(account: Account, name: str, own: boto3.Session | None = None) -> Client:
    url = account.aws.url
    return Client(name, session=own or session(), url=url, pace=QUICK, announce_every_s=EVERY_S)


def text(content: str) -> Request:
    return Request(body=content.encode(), content_type="text/plain")


def first_change(account: Account, name: str) -> tuple[float, int] | None:
    """When the endpoint was first asked to leave zero, and for how many instances."""
    found = account.autoscaling.describe_scaling_activities(
        ServiceNamespace="sagemaker", ResourceId=f"endpoint/{name}/variant/AllTraffic"
    )["ScalingActivities"]
    asked = [
        (each["StartTime"].timestamp(), int(each["Description"].rstrip(".").rpartition(" ")[2]))
        for each in found
        if each["StatusCode"] != "Failed"
    ]
    return min((each for each in asked if each[1] > 0), default=None)


def asked_after_s(account: Account, name: str) -> float:
    """Simulated seconds from a lone request until an instance is asked for."""
    with client_of(account, name) as client:
        client.submit(text("hello"))
        accepted_s = account.aws.clock.now_s()
        at_s, instances = eventually(lambda: first_change(account, name), f"{name} woken", 60)
    assert instances == 1
    return at_s - accepted_s


def test_an_instance_is_asked_for_within_30_s_and_without_the_announcement_within_60_to_210(
    account,
):
    with ThreadPoolExecutor() as pool:
        heard, deaf = pool.map(lambda name: asked_after_s(account, name), ("heard", "deaf"))

    assert heard <= 30
    assert 60 <= deaf <= 210


def test_a_batch_of_200_from_zero_asks_for_the_right_number_in_the_first_change(account, tmp_path):
    """By the asyncio client; ten clients more announce a request each while the instances start."""
    prompts = [Item(f"prompt {number}", text(f"prompt {number}")) for number in range(200)]

    async def work(ledger: Ledger) -> None:
        async with AsyncClient(
            "crowd",
            session=session(),
            url=account.aws.url,
            pace=QUICK,
            announce_every_s=EVERY_S,
        ) as client:
            ids = ledger.ask(prompts)
            await Batch(client, ledger, ids, until_s=time.monotonic() + 120).run()

    def alone(number: int) -> bytes | None:
        with client_of(account, "crowd") as client:
            return client.infer(text(f"alone {number}"), deadline_s=120).body

    ledger = Ledger(tmp_path, "crowd", "local", now_s=time.time, new_batch=lambda: "0000000a")
    with ledger, ThreadPoolExecutor(11) as pool:
        batch = pool.submit(asyncio.run, work(ledger))
        # A lone client that came before the batch would have an instance started for itself.
        eventually(lambda: first_change(account, "crowd"), "the first change")
        others = pool.map(alone, range(10))
        batch.result()
        assert list(others) == [b"alone %d" % number for number in range(10)]

    first = first_change(account, "crowd")
    assert first is not None
    assert first[1] == 5
    assert all(entry.file for entry in ledger.entries.values())


@pytest.mark.parametrize(
    "error",
    [
        refused("AccessDenied", "not authorized to perform: cloudwatch:PutMetricData", 403),
        refused("Throttling", "Rate exceeded"),
    ],
    ids=["without the permission", "throttled"],
)
def test_a_request_is_answered_when_its_announcement_is_refused(account, error):
    def refuse(**_: object) -> None:
        raise error

    own = session()
    own.events.register("before-call.cloudwatch.PutMetricData", refuse)

    with client_of(account, "deaf", own) as client:
        assert client.infer(text("hello"), deadline_s=60).body == b"hello"


def test_a_request_does_not_wait_for_a_cloudwatch_that_does_not_answer(account):
    goes_on = threading.Event()
    own = session()

    def hold(**_: object) -> None:
        goes_on.wait(30)

    own.events.register("before-call.sagemaker.DescribeEndpoint", hold)

    with client_of(account, "deaf", own) as client:
        assert client.infer(text("hello"), deadline_s=20).body == b"hello"
        goes_on.set()


@pytest.mark.parametrize("period_s", [10, 20, 30])
def test_an_alarm_of_less_than_a_minute_goes_off_within_two_of_its_periods(account, period_s):
    name, series = f"finer-{period_s}", {"Name": "EndpointName", "Value": f"other-{period_s}"}
    account.cloudwatch.put_metric_alarm(
        AlarmName=name,
        Namespace="AsyncInference",
        MetricName="RequestsWithoutCapacity",
        Dimensions=[series],
        Statistic="Sum",
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        Threshold=7,
        Period=period_s,
        EvaluationPeriods=1,
        TreatMissingData="notBreaching",
    )

    def changed_s(state: str) -> float | None:
        (alarm,) = account.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        since_s = alarm["StateUpdatedTimestamp"].timestamp()
        return since_s if alarm["StateValue"] == state else None

    eventually(lambda: changed_s("OK"), "a first evaluation")
    published_s = account.aws.clock.now_s()
    account.cloudwatch.put_metric_data(
        Namespace="AsyncInference",
        MetricData=[
            {
                "MetricName": "RequestsWithoutCapacity",
                "Dimensions": [series],
                "Values": [2.0, 3.0],
                "Counts": [2, 1],
                "StorageResolution": 1,
            }
        ],
    )

    assert eventually(lambda: changed_s("ALARM"), "an alarm") - published_s <= 2 * period_s + 6
    assert eventually(lambda: changed_s("OK"), "no alarm") > published_s
    history = account.cloudwatch.describe_alarm_history(
        AlarmName=name, HistoryItemType="StateUpdate", ScanBy="TimestampAscending"
    )["AlarmHistoryItems"]
    reasons = [json.loads(item["HistoryData"])["newState"] for item in history]
    alarmed = next(each for each in reasons if each["stateValue"] == "ALARM")
    assert alarmed["stateReasonData"]["recentDatapoints"] == [7.0]
