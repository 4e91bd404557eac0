"""The simulator and the whole embedded AWS, with its workers, do the same with the same requests.

`test_decisions` compares what they decide, plan by plan; here queue, instances and metrics are
real. One embedded AWS runs two endpoints side by side, each with its own plan. What it
accepted, when, and how long each request kept its instance, is then given to the simulator, with
the same alarm phases and setup time: both must ask for the same capacities within one minute of
each other.
"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from async_inference.aws_names import SERVICE_NAMESPACE, scalable_id
from async_inference.local_aws.server import LocalAws, Options
from async_inference.local_aws.services.alarms import phase_s
from async_inference.rehearsal.simulator import Assumptions, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import (
    DOCUMENTED,
    AdjustmentType,
    Comparison,
    Metric,
    MetricAlarm,
    ScalingPlan,
    ScalingRules,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from tests.support.embedded_aws import Account
from tests.support.scaling import put_plan
from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws

MINUTE_S = 60.0
REAL_MINUTE_S = 1.0
"""Slow enough for what a request costs on a busy machine to be a few simulated seconds."""
SPEED = MINUTE_S / REAL_MINUTE_S
SETUP_S = 420.0
"""Long enough on this clock for eight worker processes to start at once on two cores."""
TOLERANCE_S = MINUTE_S
"""One evaluation of an alarm, which comes each minute."""
SLEEPS = """
import time
def model_fn(folder): return None
def input_fn(data, content_type): return float(data)
def predict_fn(seconds, model): time.sleep(seconds)
def output_fn(prediction, accept): return b"done"
"""

STEPS = ScalingRules(
    policies=(
        StepScalingPolicy(
            name="wake",
            # By metric math: the whole backlog while there is no instance, so that the first
            # decision asks for one instance or for two.
            alarm=MetricAlarm(metric=Metric.BACKLOG_WITHOUT_CAPACITY, threshold=0.5),
            steps=(
                StepAdjustment(lower_bound=0, upper_bound=5, adjustment=1),
                StepAdjustment(lower_bound=5, adjustment=2),
            ),
            cooldown_s=300,
        ),
        StepScalingPolicy(
            name="pile",
            alarm=MetricAlarm(
                metric=Metric.BACKLOG_SIZE, threshold=10, statistic="Maximum", period_s=120
            ),
            steps=(
                StepAdjustment(lower_bound=0, upper_bound=10, adjustment=1),
                StepAdjustment(lower_bound=10, adjustment=2),
            ),
            cooldown_s=120,
        ),
        StepScalingPolicy(
            name="idle",
            alarm=MetricAlarm(
                metric=Metric.BACKLOG_SIZE,
                comparison=Comparison.LESS,
                threshold=1,
                evaluation_periods=5,
                datapoints_to_alarm=4,
            ),
            adjustment_type=AdjustmentType.EXACT_CAPACITY,
            steps=(StepAdjustment(upper_bound=0, adjustment=0),),
            cooldown_s=0,
        ),
    )
)
PLANS = {"documented": DOCUMENTED, "steps": STEPS}


def bounded(rules: ScalingRules) -> ScalingPlan:
    return ScalingPlan(min_capacity=0, max_capacity=4, policies=rules.policies)


@dataclass
class Observed:
    """What one endpoint was asked to do, and what it did."""

    arrivals_s: list[float]
    service_s: list[float]
    phases_s: list[float]
    first_minute_s: float
    capacities: list[tuple[float, int]]


def phases(account: Account, name: str, plan: ScalingPlan) -> list[float]:
    """When the embedded AWS evaluates the plan's alarms, in the simulator's order."""
    found = account.cloudwatch.describe_alarms()["MetricAlarms"]
    names = [alarm["AlarmName"] for alarm in found]
    ordered = []
    for policy in plan.policies:
        if isinstance(policy, TargetTrackingPolicy):
            ordered += [
                next(
                    n
                    for n in names
                    if n.startswith(f"TargetTracking-endpoint/{name}/") and end in n
                )
                for end in ("-AlarmHigh-", "-AlarmLow-")
            ]
        else:
            ordered.append(f"{name}-{policy.name}")
    return [float(phase_s(alarm)) for alarm in ordered]


def published(account: Account, name: str, metric: str, variant: bool = False) -> list[Any]:
    """The endpoint's datapoints of a metric, one a minute."""
    now = account.aws.clock.now()
    dimensions = [{"Name": "EndpointName", "Value": name}]
    return account.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=dimensions + [{"Name": "VariantName", "Value": "AllTraffic"}] * variant,
        Statistics=["Sum"],
        Period=60,
        StartTime=now - timedelta(days=1),
        EndTime=now,
    )["Datapoints"]


def overhead_s(account: Account, name: str, wanted: Traffic) -> float:
    """What a request kept its instance beyond the handler's own time, on average."""
    total_ms, waited_ms = (
        sum(point["Sum"] for point in published(account, name, metric, variant=True))
        for metric in ("TotalProcessingTime", "TimeInBacklog")
    )
    return ((total_ms - waited_ms) / 1000 - wanted.work_s) / wanted.requests


def observe(account: Account, name: str, plan: ScalingPlan, wanted: Traffic) -> Observed:
    """Send the requests when they are due, until all is answered and the endpoint is at zero."""
    clock = account.aws.clock
    put_plan(account, name, plan)
    asleep = threading.Event()
    began_s = (clock.now_s() // MINUTE_S + 2) * MINUTE_S
    last = None
    arrivals = []
    for arrival_s, service_s in zip(wanted.arrivals_s, wanted.service_s, strict=True):
        clock.wait(asleep, began_s + float(arrival_s) - clock.now_s())
        last = account.runtime.invoke_endpoint_async(
            EndpointName=name, Body=json.dumps(float(service_s) / SPEED)
        )
        arrivals.append(clock.now_s())
    assert last is not None
    account.read(last["OutputLocation"], 240)
    eventually(lambda: account.instances(name) == 0, f"{name} back at zero", 240)
    activities = account.autoscaling.describe_scaling_activities(
        ServiceNamespace=SERVICE_NAMESPACE,
        ResourceId=scalable_id(name, "AllTraffic"),
        MaxResults=50,
    )["ScalingActivities"]
    ordered = sorted(activities, key=lambda a: a["StartTime"])
    scaled = [
        (a["StartTime"].timestamp(), int(a["Description"].rstrip(".").rpartition(" ")[2]))
        for a in ordered
        # A change that met another one in progress changed nothing.
        if a["StartTime"].timestamp() > arrivals[0] and a["StatusCode"] != "Failed"
    ]
    return Observed(
        arrivals_s=arrivals,
        service_s=list(wanted.service_s + overhead_s(account, name, wanted)),
        phases_s=phases(account, name, plan),
        first_minute_s=min(
            point["Timestamp"] for point in published(account, name, "ApproximateBacklogSize")
        ).timestamp(),
        capacities=scaled,
    )


def predicted(plan: ScalingPlan, seen: Observed) -> list[tuple[float, int]]:
    """When the simulator asks for how many instances."""
    origin_s = seen.first_minute_s
    run = simulate(
        plan,
        Traffic(np.array(seen.arrivals_s) - origin_s, np.array(seen.service_s)),
        Assumptions(setup_s=SETUP_S),
        seed=0,
        start_s=origin_s,
        phases_s=seen.phases_s,
    )
    changes = [(float(at_s) + origin_s, int(desired)) for at_s, desired, _ in run.capacity]
    return [
        change
        for before, change in zip([(0.0, 0), *changes], changes, strict=False)
        if change[1] != before[1]
    ]


def requests() -> Traffic:
    """One alone, and a burst while its instance still runs or not, by policy.

    Each takes a minute, so that all of an instance's requests end at the same second of theirs:
    what is sampled does not hang on tenths of a second.
    """
    arrivals_s = np.array([20.0, *(960 + 2.0 * number for number in range(24))])
    return Traffic(arrivals_s, np.full(len(arrivals_s), MINUTE_S))


@pytest.fixture(scope="module")
def observed(tmp_path_factory) -> dict[str, Observed]:
    aws = LocalAws(
        Options(folder=tmp_path_factory.mktemp("aws"), minute_s=REAL_MINUTE_S, setup_s=SETUP_S)
    )
    aws.start()
    try:
        account = Account(aws)
        for name in PLANS:
            account.deploy(name, SLEEPS)
        for name in PLANS:
            account.in_service(name)
        with ThreadPoolExecutor(len(PLANS)) as pool:
            running = {
                name: pool.submit(observe, account, name, bounded(rules), requests())
                for name, rules in PLANS.items()
            }
            return {name: seen.result() for name, seen in running.items()}
    finally:
        aws.stop()


@pytest.mark.parametrize("name", PLANS)
def test_simulator_and_embedded_aws_ask_for_the_same_capacities(observed, name):
    seen = observed[name]

    expected = predicted(bounded(PLANS[name]), seen)

    assert [count for _, count in seen.capacities] == [count for _, count in expected]
    apart_s = [
        round(abs(at_s - expected_s), 3)
        for (at_s, _), (expected_s, _) in zip(seen.capacities, expected, strict=True)
    ]
    assert max(apart_s) <= TOLERANCE_S, apart_s
