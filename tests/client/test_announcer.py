"""Announcements go out apart from the requests: once a burst, and whatever becomes of them."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_inference.cli.target import Target
from async_inference.client import protocol
from async_inference.client.announcer import Announcer
from async_inference.client.errors import AccessError, ThrottledError
from async_inference.client.protocol import Call
from async_inference.scaling import plan
from async_inference.stack import settings
from tests.support.client import session
from tests.support.client_world import World, refused

LONG_S = 3600.0


class Aws:
    """Tells what was announced; `answer` may block or raise."""

    def __init__(self, answer: Callable[[], object] = lambda: None) -> None:
        self.world = World()
        self.announced: list[int] = []
        self.told = threading.Semaphore(0)
        self.closed = False
        self._answer = answer

    def perform(self, effect: Call) -> Any:
        if effect.operation == "put_metric_data":
            self._answer()
            self.announced.append(effect.parameters["MetricData"][0]["Value"])
            self.told.release()
            return {}
        return self.world._perform(effect)

    def close(self) -> None:
        self.closed = True


def announcer(aws: Aws, every_s: float = LONG_S) -> Announcer:
    return Announcer(aws.world.protocol().announce, aws, every_s)


def test_names_are_those_that_the_alarm_looks_at():
    metric = plan.Metric.REQUESTS_WITHOUT_CAPACITY

    assert metric == protocol.ANNOUNCED_METRIC
    assert metric.namespace == protocol.ANNOUNCEMENTS_NAMESPACE


def test_an_announcement_is_a_metric_with_a_resolution_of_a_second():
    world = World(answers={"put_metric_data": lambda asked: {}})

    assert world.run(world.protocol().announce(200))

    (asked,) = world.calls("put_metric_data")
    assert asked == {
        "Namespace": "AsyncInference",
        "MetricData": [
            {
                "MetricName": "RequestsWithoutCapacity",
                "Dimensions": [{"Name": "EndpointName", "Value": "echo"}],
                "Value": 200,
                "Unit": "Count",
                "StorageResolution": 1,
            }
        ],
    }


def test_nothing_is_announced_while_an_instance_serves():
    world = World()
    serving = world._describe_endpoint({}) | {"ProductionVariants": [{"CurrentInstanceCount": 1}]}
    world.answers["describe_endpoint"] = lambda asked: serving

    assert not world.run(world.protocol().announce(1))
    assert world.calls("put_metric_data") == []


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (refused("AccessDenied", "not authorized", 403), AccessError),
        (refused("Throttling", "Rate exceeded"), ThrottledError),
    ],
)
def test_what_fails_is_not_tried_again(trouble, error):
    def fail(asked):
        raise trouble

    world = World(answers={"put_metric_data": fail})

    with pytest.raises(error):
        world.run(world.protocol().announce(1))
    assert world.slept_s == []


def test_a_burst_is_announced_together_for_the_first_announcement_decides():
    """A change in progress refuses what is announced later."""
    aws = Aws()
    tells = announcer(aws)

    for _ in range(1000):
        tells.announce(1)
    assert aws.announced == []
    tells.close()

    assert aws.announced == [1000]
    assert aws.closed


def test_a_later_burst_is_announced_when_the_time_between_two_is_over():
    aws = Aws()
    tells = announcer(aws, every_s=0.0)

    for requests in (3, 4):
        tells.announce(requests)
        assert aws.told.acquire(timeout=10)
    tells.close()

    assert aws.announced == [3, 4]


def test_who_announces_does_not_wait_for_cloudwatch_and_what_comes_meanwhile_goes_together():
    """The call blocks until the test lets it go, and announcing returns anyway."""
    blocked, goes_on = threading.Event(), threading.Event()

    def slow() -> None:
        blocked.set()
        goes_on.wait(10)

    aws = Aws(slow)
    tells = announcer(aws, every_s=0.0)
    tells.announce(1)
    assert blocked.wait(10)

    for _ in range(999):
        tells.announce(1)
    assert aws.announced == []

    goes_on.set()
    tells.close()
    assert aws.announced == [1, 999]


def test_what_goes_wrong_is_said_once_and_reaches_nobody(caplog):
    def deny() -> None:
        aws.told.release()
        raise refused("AccessDenied", "not authorized to perform: cloudwatch:PutMetricData", 403)

    aws = Aws(deny)
    tells = announcer(aws, every_s=0.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tells.announce(1)
            assert aws.told.acquire(timeout=10)
        tells.close()

    (record,) = caplog.records
    assert "cloudwatch:PutMetricData" in record.getMessage()
    assert "delays a cold start" in record.getMessage()


def test_a_process_without_threads_to_spare_goes_on(monkeypatch, caplog):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    announcer(Aws()).announce(1)

    assert "can't start new thread" in caplog.text


def test_nothing_to_announce_starts_nothing():
    aws = Aws()
    tells = announcer(aws)

    tells.announce(0)
    tells.close()

    assert aws.announced == []


@pytest.mark.parametrize(
    ("preset", "asked", "every_s"),
    [
        ("announced", None, 1.0),
        ("tuned", None, None),
        ("tuned", True, 1.0),
        ("announced", False, None),
    ],
)
def test_commands_announce_if_the_stacks_policies_listen_or_if_told(preset, asked, every_s):
    """In real seconds: ten of an AWS whose minute takes six of them are one."""
    text = f"config: {{aws:region: us-east-1, async-inference:scalingPreset: {preset}}}"
    own = settings.from_stack_text(text, stack="dev", origin="here")

    target = Target("echo", "local", session(), None, 6.0, own)

    assert target.announce_every_s(asked) == every_s


def test_commands_do_not_announce_to_an_endpoint_of_which_no_stack_is_named():
    assert Target("echo", "local", session(), None, 60.0, None).announce_every_s(None) is None
