"""What `local status` and the page are told: a sentence, states with their times, a history."""

import http.client
import json
from typing import Any

import httpx
import pytest

from async_inference.local_aws.status import summary
from tests.support.scaling import FAST_MINUTE_S, TARGET, activities, track, wake
from tests.support.waiting import eventually


def endpoint(**changes: object) -> Any:
    idle = {
        "status": "InService",
        "failure_reason": None,
        "configuration": "echo-1",
        "desired": 0,
        "in_service": 0,
        "in_progress_since_s": None,
        "backlog": 0,
        "busy": 0,
        "instances": [],
    }
    return idle | changes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Asleep: no instances, nothing queued."),
        (
            {"backlog": 1},
            "Starved: 1 request waits, and no instance is asked for yet.",
        ),
        (
            {"backlog": 3, "desired": 1},
            "Waking up: 3 requests wait for 1 instance to start.",
        ),
        (
            {"backlog": 3, "busy": 1, "desired": 2, "in_service": 1},
            "At work: 1 instance on 1 request; 2 more wait. Scaling out to 2.",
        ),
        (
            {"backlog": 2, "busy": 2, "desired": 2, "in_service": 2},
            "At work: 2 instances on 2 requests.",
        ),
        (
            {"desired": 0, "in_service": 2},
            "Idle: 2 instances in service, nothing queued. Scaling in to 0.",
        ),
        ({"desired": 1}, "Starting 1 instance, though nothing is queued."),
        ({"status": "Creating", "desired": 1}, "Being created: 1 instance starting."),
        (
            {
                "status": "Updating",
                "desired": 2,
                "in_service": 1,
                "backlog": 3,
                "busy": 1,
                "in_progress_since_s": 3600.0,
            },
            "At work: 1 instance on 1 request; 2 more wait. Scaling out to 2. In progress since "
            "01:00 UTC; until it is done nothing else can be changed.",
        ),
        (
            {"status": "Failed", "failure_reason": "no such handler"},
            "Failed: it could not be created.",
        ),
        (
            {
                "status": "Updating",
                "desired": 1,
                "in_service": 1,
                "instances": [{"configuration": "echo-1"}, {"configuration": "echo-2"}],
            },
            "Idle: 1 instance in service, nothing queued. An update to echo-2 is under way.",
        ),
    ],
)
def test_one_sentence_says_what_happens(changes, sentence):
    assert summary(endpoint(**changes)) == sentence


def told(account, minutes: int = 0) -> dict[str, Any]:
    answer = httpx.get(f"{account.aws.url}/_local/status", params={"minutes": minutes})
    return answer.json()["regions"]["us-east-1"]


@pytest.fixture
def account(start):
    account = start(minute_s=FAST_MINUTE_S)
    account.deploy()
    account.in_service()
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=5)
    return account


@pytest.mark.local_aws
def test_the_history_of_a_wake_up_has_its_backlog_its_capacity_and_its_answer(account):
    track(account)
    wake(account)
    eventually(lambda: account.instances() == 0, "no instances")
    account.read(account.submit(b"wake up")["OutputLocation"])

    history = eventually(
        lambda: (
            (found := told(account, 60)["endpoints"]["echo"]["history"])
            and sum(filter(None, found["done"])) == 1
            and found
        ),
        "the answer in the history",
    )

    assert max(filter(None, history["backlog"])) == 1
    assert max(filter(None, history["oldest_age_s"])) > 0
    assert {0, 1} <= set(history["asked_for"]), "woken from zero"
    assert {0, 1} <= set(history["in_service"])
    assert sum(filter(None, history["failed"])) == 0
    lengths = {len(column) for column in history.values() if isinstance(column, list)}
    assert lengths == {60}, "one time axis"


@pytest.mark.local_aws
def test_an_alarm_says_its_state_since_when_why_and_what_it_was_before(account):
    wake(account)
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=0)
    eventually(lambda: account.instances() == 0, "no instances")

    def in_state(state: str) -> dict[str, object] | None:
        (alarm,) = told(account, 60)["alarms"]
        return alarm if alarm["state"] == state else None

    eventually(lambda: in_state("OK"), "a first evaluation")
    submitted_s = account.aws.clock.now_s()
    account.submit(b"nobody is there")

    alarm = eventually(lambda: in_state("ALARM"), "an alarm")

    assert alarm["since_s"] > submitted_s, "by the simulated clock"
    assert alarm["condition"] == "HasBacklogWithoutCapacity >= 0.5 in 1 of 1 x 60 s"
    assert alarm["reason"].startswith("Threshold Crossed")
    assert alarm["endpoint"] == "echo"
    states = [band["state"] for band in alarm["bands"]]
    assert states[-2:] == ["OK", "ALARM"]
    for band, later in zip(alarm["bands"], alarm["bands"][1:], strict=False):
        assert band["to_s"] == later["from_s"], "no gaps between bands"
    described = account.cloudwatch.describe_alarms(AlarmNames=["starved"])["MetricAlarms"][0]
    assert described["StateUpdatedTimestamp"].timestamp() == pytest.approx(alarm["since_s"], abs=1)


@pytest.mark.local_aws
def test_a_refusal_that_repeats_every_minute_is_told_once(account):
    wake(account)
    account.autoscaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=0)
    eventually(lambda: account.instances() == 0, "no instances")
    account.submit(b"nobody is there")

    def refused() -> list[dict[str, object]]:
        return [
            refusal
            for refusal in told(account)["not_scaled"]
            if refusal["EndTime"] - refusal["StartTime"] >= 120
        ]

    (refusal,) = eventually(refused, "a refusal over two minutes")
    assert refusal["Cause"] == "monitor alarm starved in state ALARM triggered policy wake-up"
    assert len(told(account)["activities"]) == len(activities(account))


@pytest.mark.local_aws
def test_a_long_window_is_thinned_out_without_losing_a_peak(account):
    for number in range(3):
        account.submit(b"%d" % number)
    answered = eventually(
        lambda: (
            (found := told(account, 60)["endpoints"]["echo"]["history"])
            and sum(filter(None, found["done"])) == 3
            and found
        ),
        "three answers",
    )

    week = told(account, 7 * 24 * 60)["endpoints"]["echo"]["history"]

    assert len(week["done"]) == 360
    assert week["step_s"] == 28 * 60
    assert sum(filter(None, week["done"])) == 3
    assert max(filter(None, week["backlog"]), default=0) >= max(
        filter(None, answered["backlog"]), default=0
    )


@pytest.mark.local_aws
def test_only_pages_and_programs_of_this_machine_are_answered(start):
    """A name that another site rebinds to loopback (DNS rebinding) is not this server's."""
    url = start().aws.url

    def answered(headers: dict[str, str]) -> bool:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", "/_local/status", headers=headers)
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        refused = body.get("__type") == "AccessDeniedException"
        assert (response.status, refused, "regions" in body) in (
            (200, False, True),
            (403, True, False),
        )
        return response.status == 200

    for headers in (
        {},
        {"Host": "localhost:4590"},
        {"Host": "[::1]:4590", "Origin": "http://localhost:3000"},
        {"Host": "bucket.s3.localhost:4590"},
    ):
        assert answered(headers), headers
    for headers in (
        {"Host": "rebound.example:4590"},
        {"Host": "127.0.0.1.example"},
        {"Host": "localhost.example"},
        {"Host": "[::1"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ):
        assert not answered(headers), headers


@pytest.mark.local_aws
def test_the_page_may_load_nothing_from_elsewhere_and_run_no_inline_script(start):
    url = start().aws.url

    page = httpx.get(f"{url}/_local/")

    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "://" not in page.text
    assert httpx.get(f"{url}/_local").headers["Location"] == "/_local/"
