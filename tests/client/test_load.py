"""Traffic replayed against the embedded endpoint, beside its rehearsal."""

import asyncio
import json
import math

import numpy as np
import pytest

from async_inference.client import AsyncClient, Pace
from async_inference.local_aws.server import LocalAws, Options
from async_inference.operations import load
from async_inference.operations.load import Payload, Replay
from async_inference.rehearsal.simulator import Assumptions
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import DOCUMENTED, ScalingPlan
from tests.support.client import session
from tests.support.embedded_aws import Account

SLEEPS = """
import json
import time
def model_fn(folder): return None
def input_fn(data, content_type): return json.loads(data)["sleep_s"]
def predict_fn(seconds, model): time.sleep(seconds)
def output_fn(prediction, accept): return b"done"
"""
REAL_MINUTE_S = 1.0
SPEED = 60 / REAL_MINUTE_S
ALWAYS_ONE = ScalingPlan(min_capacity=1, max_capacity=1, policies=DOCUMENTED.policies)


def burst(requests: int, service_s: float) -> Traffic:
    return Traffic(np.zeros(requests), np.full(requests, service_s))


def test_a_prompt_asks_for_steps_in_proportion_to_the_service():
    payload = Payload("steps", step_s=0.5)

    asked = json.loads(payload.request(7, 10.0, speed=60).body or b"")

    assert asked == {"prompt": "load 7", "steps": 20, "seed": 7}
    assert payload.served_s(10.2) == 10.0, "what is predicted is what can be asked for"
    assert payload.served_s(1e6) == load.MAX_STEPS * 0.5


def test_a_handler_that_sleeps_is_told_seconds_of_its_own_clock():
    asked = json.loads(Payload("sleep", step_s=1).request(7, 30.0, speed=60).body or b"")

    assert asked == {"sleep_s": 0.5}


def test_traffic_is_cut_brought_closer_together_and_starts_at_once():
    traffic = Traffic(np.array([100.0, 160.0, 900.0]), np.array([10.0, 20.0, 30.0]))

    sent = load.shaped(traffic, Payload("sleep", 1.0), speed=10, limit=2)

    assert sent.arrivals_s.tolist() == [0.0, 6.0]
    assert sent.service_s.tolist() == [10.0, 20.0]


@pytest.mark.rehearsal
def test_measured_and_predicted_stand_side_by_side():
    """Five requests at once on one instance wait 0 to 4 services."""
    traffic = burst(5, 60.0)
    took_s = 60.0 * np.arange(1, 6)
    took_s[4] = math.nan
    replay = Replay(np.zeros(5), took_s, failed=1, unanswered=0, exact=True, late_s=5.0)
    assumptions = Assumptions(setup_s=0.0)

    found = load.as_json(
        load.compared(traffic, replay, load.predicted(ALWAYS_ONE, traffic, assumptions))
    )

    assert found["wait_s"]["measured"]["mean"] == 90.0
    assert found["wait_s"]["predicted"]["mean"] == pytest.approx(120.0, abs=1)
    assert found["total_s"]["predicted"]["p50"] == pytest.approx(180.0, abs=1)
    assert (found["requests"], found["failed"]) == (5, 1)


@pytest.mark.local_aws
@pytest.mark.parametrize("topics", [True, False])
def test_times_at_a_fast_clock_are_told_in_the_endpoints_seconds(tmp_path, topics):
    """Four minutes of service take four real seconds; both ways of measuring say minutes."""
    aws = LocalAws(Options(folder=tmp_path, minute_s=REAL_MINUTE_S))
    aws.start()
    try:
        account = Account(aws)
        output = None
        if topics:
            topic = account.sns.create_topic(Name="ends")["TopicArn"]
            output = {"NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic}}
        account.deploy("sleeper", SLEEPS, output=output)
        account.in_service("sleeper")
        traffic = burst(4, 60.0)

        async def replay() -> Replay:
            async with AsyncClient(
                "sleeper", session=session(), url=aws.url, pace=Pace(first_s=0.05, longest_s=2.0)
            ) as client:
                return await load.replay(client, traffic, Payload("sleep", 1.0), speed=SPEED)

        found = asyncio.run(replay())
    finally:
        aws.stop()

    assert (found.failed, found.unanswered, found.exact) == (0, 0, topics)
    in_order_s = np.sort(found.took_s)
    assert (in_order_s >= 60.0 * np.arange(1, 5) - SPEED * 0.1).all()
    assert in_order_s[-1] < 3 * 240.0, "sixty times too long would be hours"
