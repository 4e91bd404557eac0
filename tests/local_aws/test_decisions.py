"""The embedded AWS and the simulator decide alike, by drawn plans and in no time.

The simulator says how the queue fares and when instances come; the embedded AWS's own alarms and
Application Auto Scaling see that at the same moments, on a clock that is held at each of them, and
have to ask for the same capacities at the same seconds. `test_fidelity` runs the whole of it, with
real workers and real time.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest.mock import patch
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_inference.aws_names import (
    QUEUE_METRICS,
    SCALABLE_DIMENSION,
    SERVICE_NAMESPACE,
    EndpointStatus,
    Series,
    scalable_id,
)
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.faults import Faults
from async_inference.local_aws.fleet.endpoint import Capacity, queue_look
from async_inference.local_aws.journal import Journal
from async_inference.local_aws.services import cloudwatch
from async_inference.local_aws.services.alarms import Alarms, phase_s
from async_inference.local_aws.services.autoscaling import ApplicationAutoScaling
from async_inference.local_aws.services.moto_services import ACCOUNT_ID, MotoServices
from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling import documents
from async_inference.scaling.alarms import evaluated_every_s
from async_inference.scaling.autoscaler import change_in_progress
from async_inference.scaling.plan import (
    ANNOUNCED,
    FACTORS,
    PRESETS,
    AdjustmentType,
    Comparison,
    Metric,
    MetricAlarm,
    MissingData,
    ScalingPlan,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

pytestmark = pytest.mark.local_aws

REGION, ENDPOINT, VARIANT = "us-east-1", "echo", "AllTraffic"
MINUTE_S = 60.0
AFTERWARDS_S = 2 * 3600.0
"""Looked at after the last arrival, where a plan never comes to rest."""
ORIGIN_S = 1_800_000_000.0
"""A full minute of some day, at which traffic and clock start."""
TARGET = {
    "ServiceNamespace": SERVICE_NAMESPACE,
    "ResourceId": scalable_id(ENDPOINT, VARIANT),
    "ScalableDimension": SCALABLE_DIMENSION,
}


QUEUE = [
    metric
    for metric in Metric
    if metric not in FACTORS and metric != Metric.REQUESTS_WITHOUT_CAPACITY
]
"""What SageMaker publishes. Products of two need CloudWatch's API to be put: `test_fidelity`."""


@dataclass
class Variant:
    """What SageMaker answers of an endpoint whose instances come when the simulator says."""

    clock: Clock
    unsettled: Unsettled
    desired: int
    name: str = ENDPOINT
    in_service: int = 0
    scale_in_ends_s: float = -np.inf
    asked: list[tuple[float, int]] = field(default_factory=list)

    @property
    def plan(self) -> "Variant":
        return self

    @property
    def variant(self) -> str:
        return VARIANT

    @property
    def status(self) -> EndpointStatus:
        now_s = self.clock.now_s()
        changes = change_in_progress(now_s, self.desired, self.in_service, self.scale_in_ends_s)
        return EndpointStatus.UPDATING if changes else EndpointStatus.IN_SERVICE

    @property
    def capacity(self) -> Capacity:
        return Capacity(self.status, self.desired, self.in_service, self.scale_in_ends_s, False)

    def set_desired(self, count: int) -> bool:
        refuses = self.unsettled.capacity_change_in_progress == "refused"
        if refuses and self.status != EndpointStatus.IN_SERVICE:
            return False
        if count < self.desired:
            self.scale_in_ends_s = self.clock.now_s() + self.unsettled.scale_in_takes_s
            self.in_service = min(self.in_service, count)
        self.desired = count
        self.asked.append((round(self.clock.now_s() - ORIGIN_S, 3), count))
        return True

    def settle(self) -> None:
        """Nobody else waits for news of it."""


class Held:
    """The embedded AWS's alarms and scaling, without a server, on a clock that stands still."""

    def __init__(self, plan: ScalingPlan, unsettled: Unsettled) -> None:
        self._unsettled = unsettled
        self._clock = Clock(origin_s=ORIGIN_S)
        self._journal = Journal(None)
        services = MotoServices(self._journal, Faults())
        self.variant: Any = Variant(self._clock, unsettled, plan.min_capacity)
        self.alarms = Alarms(REGION, self._clock, services, unsettled, self._scale)
        self._scaling: Any = ApplicationAutoScaling(
            REGION, self._clock, self._journal, unsettled, self.alarms.put, self.alarms.delete
        )
        self._scaling.attach(lambda: {ENDPOINT: self.variant})
        self._metrics = cloudwatch.of_region(ACCOUNT_ID, REGION).metrics
        # At one moment the order would decide, and AWS leaves that open too.
        self._free = set(range(60)) - set(unsettled.sample_times_s)
        with self._clock.at(ORIGIN_S):
            self.phases_s = [float(at_s) for at_s in self._put(plan)]

    def close(self) -> None:
        self._journal.close()

    def _scale(self, arn: str, alarm: str, metric: float, threshold: float) -> str:
        return self._scaling.alarm_fired(arn, alarm, metric, threshold)

    def _put(self, plan: ScalingPlan) -> Iterator[int]:
        """When the plan's alarms are evaluated, in the simulator's order."""
        bounds = {"MinCapacity": plan.min_capacity, "MaxCapacity": plan.max_capacity}
        self._scaling.register_scalable_target(TARGET | bounds)
        for policy in plan.policies:
            document = documents.policy_document(policy, ENDPOINT)
            made = self._scaling.put_scaling_policy(TARGET | document)
            if isinstance(policy, StepScalingPolicy):
                for each in policy.alarms:
                    on = documents.metric_stat(each, ENDPOINT)
                    every_s = evaluated_every_s(each.period_s)
                    names = (f"{policy.name} {number}" for number in count())
                    name = next(name for name in names if self._takes([name], every_s))
                    self.alarms.put(name, documents.alarm_document(each, on), made["PolicyARN"])
                    yield phase_s(name, every_s)
                continue
            while not self._takes([alarm["AlarmName"] for alarm in made["Alarms"]]):
                made = self._scaling.put_scaling_policy(TARGET | document)
            yield from (phase_s(alarm["AlarmName"]) for alarm in made["Alarms"])

    def _takes(self, names: list[str], every_s: int = 60) -> bool:
        """Take the alarms' moments, if nobody has them."""
        first = {phase_s(name, every_s) for name in names}
        moments = {at_s for each in first for at_s in range(each, 60, every_s)}
        free = len(first) == len(names) and moments <= self._free
        self._free -= moments if free else set()
        return free

    def replay(self, run: Run, traffic: Traffic, end_s: float) -> list[tuple[float, int]]:
        """What it asks for, when, as the run's queue and instances fare."""
        last_s = 0.0
        serving = {float(at_s): int(count) for at_s, _, count in run.capacity}
        looks_s = self._unsettled.sample_times_s
        minutes = range(int(end_s // MINUTE_S) + 1)
        looks = {minute * MINUTE_S + look_s for minute in minutes for look_s in looks_s}
        announced = self._announced(run, traffic)
        moments = sorted({*serving, *looks, *announced})
        while last_s < end_s:
            alarm_s = (self.alarms.next_evaluation_s(ORIGIN_S + last_s) or np.inf) - ORIGIN_S
            settled_s = self.variant.scale_in_ends_s - ORIGIN_S
            due = [alarm_s, *moments[bisect_right(moments, last_s) :][:1]]
            at_s = min([*due, *([settled_s] if settled_s > last_s else [end_s])])
            with self._clock.at(ORIGIN_S + at_s):
                if at_s in serving and serving[at_s] > self.variant.in_service:
                    self.variant.in_service = serving[at_s]
                    self._scaling.capacity_changed(self.variant)
                if at_s == settled_s:
                    self._scaling.capacity_changed(self.variant)
                if at_s in looks:
                    self._look(run, traffic, at_s)
                if at_s in announced:
                    self._announce(announced[at_s])
                self.alarms.evaluate_due(ORIGIN_S + last_s, ORIGIN_S + at_s)
            last_s = at_s
        return self.variant.asked

    def _announced(self, run: Run, traffic: Traffic) -> dict[float, int]:
        """How many requests clients announce, when: those that come while nothing serves."""
        announces = np.broadcast_to(traffic.announces, traffic.requests)
        changes_before = np.searchsorted(run.capacity["at_s"], traffic.arrivals_s, side="left")
        asleep = np.array([0, *run.capacity["in_service"]])[changes_before] == 0
        told: dict[float, int] = {}
        for at_s, requests in zip(traffic.arrivals_s[asleep], announces[asleep], strict=True):
            if requests:
                told[float(at_s)] = told.get(float(at_s), 0) + int(requests)
        return told

    def _announce(self, requests: int) -> None:
        datum = {
            "MetricName": "RequestsWithoutCapacity",
            "Dimensions": [{"Name": "EndpointName", "Value": ENDPOINT}],
            "Value": requests,
            "StorageResolution": 1,
        }
        cloudwatch.of_region(ACCOUNT_ID, REGION).put_metric_data("AsyncInference", [datum])

    def _look(self, run: Run, traffic: Traffic, at_s: float) -> None:
        there = (traffic.arrivals_s <= at_s) & ~(run.finished_s <= at_s)
        oldest_age_s = at_s - float(traffic.arrivals_s[there].min()) if there.any() else None
        look = queue_look(
            int(there.sum()), 0, self.variant.in_service, oldest_age_s, self._unsettled
        )
        for metric, value in look.items():
            series = Series.of(QUEUE_METRICS, metric, {"EndpointName": ENDPOINT})
            self._metrics.put(series, ORIGIN_S + at_s, [value])


def decided(plan: ScalingPlan, traffic: Traffic, assumptions: Assumptions) -> tuple[list, list]:
    """The capacities that the embedded AWS and the simulator ask for, each with its second."""
    drawn = random.Random(0)
    # Target tracking names its alarms by them, and each name has its own phase.
    with patch("uuid.uuid4", lambda: UUID(int=drawn.getrandbits(128))):
        held = Held(plan, assumptions.unsettled)
        try:
            run = simulate(plan, traffic, assumptions, seed=0, phases_s=held.phases_s)
            end_s = last_s(run, traffic)
            expected = [each for each in changes(run, plan.min_capacity) if each[0] <= end_s]
            return held.replay(run, traffic, end_s), expected
        finally:
            held.close()


def last_s(run: Run, traffic: Traffic) -> float:
    """Until when both are compared: the run ends once all is answered and nothing runs."""
    latest_s = max([*run.finished_s, *run.capacity["at_s"], 0.0])
    within_s = traffic.span_s + AFTERWARDS_S
    return within_s if np.isnan(run.finished_s).any() else float(min(latest_s, within_s))


def changes(run: Run, initial: int) -> list[tuple[float, int]]:
    """When the simulator asks for how many instances."""
    asked = []
    for at_s, desired, _ in run.capacity:
        if int(desired) != (asked[-1][1] if asked else initial):
            asked.append((round(float(at_s), 3), int(desired)))
    return asked


def bursts(seed: int) -> Traffic:
    """A few dozen requests in bursts over three hours, at odd moments."""
    drawn = np.random.default_rng(seed)
    starts_s = drawn.uniform(20.0, 3 * 3600.0, size=drawn.integers(1, 6))
    arrivals_s = np.concatenate(
        [
            start_s + np.cumsum(drawn.exponential(15.0, drawn.integers(1, 30)))
            for start_s in starts_s
        ]
    )
    return Traffic(np.sort(arrivals_s), drawn.uniform(5.0, 200.0, len(arrivals_s)))


@st.composite
def step_policies(draw, name: str) -> StepScalingPolicy:
    periods = draw(st.integers(1, 6))
    comparison = draw(st.sampled_from(Comparison))
    up = comparison in (Comparison.GREATER, Comparison.GREATER_OR_EQUAL)
    size = draw(st.sampled_from([1, 2, 25, 50, 100]))
    kind = draw(st.sampled_from(AdjustmentType))
    adjustment = min(size, 3) if kind != AdjustmentType.PERCENT_CHANGE_IN_CAPACITY else size
    if kind != AdjustmentType.EXACT_CAPACITY and not up:
        adjustment = -adjustment
    bound = draw(st.sampled_from([1.0, 5.0]))
    near, far = (0, bound) if up else (-bound, 0)
    steps = [(near, far, adjustment), (far, None, adjustment) if up else (None, near, adjustment)]
    return StepScalingPolicy(
        name=name,
        alarm=MetricAlarm(
            metric=draw(st.sampled_from(QUEUE)),
            statistic=draw(st.sampled_from(["Average", "Maximum", "Minimum", "Sum"])),
            comparison=comparison,
            threshold=draw(st.sampled_from([0.5, 1.0, 2.0, 5.0, 120.0])),
            period_s=draw(st.sampled_from([60, 120, 300])),
            evaluation_periods=periods,
            datapoints_to_alarm=draw(st.integers(1, periods)),
            treat_missing_data=draw(st.sampled_from(MissingData)),
        ),
        adjustment_type=kind,
        steps=tuple(
            StepAdjustment(lower_bound=low, upper_bound=high, adjustment=each)
            for low, high, each in steps
        ),
        min_adjustment_magnitude=draw(st.none() | st.integers(1, 2)),
        cooldown_s=draw(st.sampled_from([0, 30, 300, 900])),
    )


@st.composite
def plans(draw) -> ScalingPlan:
    steps = [draw(step_policies(f"step {number}")) for number in range(draw(st.integers(1, 3)))]
    tracking = draw(
        st.none()
        | st.builds(
            TargetTrackingPolicy,
            name=st.just("tracks"),
            metric=st.sampled_from(QUEUE),
            target=st.sampled_from([0.7, 1.0, 3.0, 5.0]),
            scale_out_cooldown_s=st.sampled_from([0, 30, 300]),
            scale_in_cooldown_s=st.sampled_from([0, 30, 300]),
            disable_scale_in=st.booleans(),
        )
    )
    low = draw(st.integers(0, 1))
    return ScalingPlan(
        min_capacity=low,
        max_capacity=draw(st.integers(max(1, low), 5)),
        policies=(*steps, *([tracking] if tracking else [])),
    )


# With several looks a minute, the simulator knows their mean alone, the embedded AWS their extremes
# too: alike for the Average of the presets, which is tested below.
READINGS = st.builds(
    Unsettled,
    backlog_per_instance_at_zero=st.sampled_from(["backlog", "no_data"]),
    scale_in_ratio=st.sampled_from([0.9, 0.97]),
    target_tracking_from_zero=st.sampled_from(["async_page", "never"]),
    capacity_change_in_progress=st.just("refused"),
    scale_in_takes_s=st.sampled_from([0.0, 60.0, 150.0]),
    evaluation_range=st.sampled_from(["n_plus_third", "n_plus_2"]),
    metric_delay_s=st.sampled_from([0.0, 60.0, 90.0]),
)


@pytest.mark.parametrize("looks", [1, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_decided_alike(preset, looks):
    plan = PRESETS[preset].within(0, 5)
    assumptions = Assumptions(setup_s=312.5, unsettled=Unsettled(samples_per_minute=looks))

    found, expected = decided(plan, bursts(seed=3), assumptions)

    assert found == expected
    assert expected, "something was decided"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("period_s", [10, 20, 30])
def test_what_clients_announce_is_decided_alike(period_s, seed):
    """Bursts that are announced request by request, or as batches with the first one."""
    wakes, *others = ANNOUNCED.policies
    assert isinstance(wakes, StepScalingPolicy)
    announced = wakes.more_alarms[0].model_copy(update={"period_s": period_s})
    wakes = wakes.model_copy(update={"more_alarms": (announced,)})
    plan = ScalingPlan(min_capacity=0, max_capacity=5, policies=(wakes, *others))
    traffic = bursts(seed)
    if seed % 2:
        announces = np.where(np.arange(traffic.requests) % 12, 0, 12)
        traffic = Traffic(traffic.arrivals_s, traffic.service_s, announces)
    assumptions = Assumptions(
        setup_s=312.5, unsettled=Unsettled(announcement_delay_s=(5.0, 30.0)[seed % 3 == 0])
    )

    found, expected = decided(plan, traffic, assumptions)

    assert found == expected
    assert any(at_s - traffic.arrivals_s[0] < 70 for at_s, _ in found), "the first was heard"


@settings(max_examples=100, deadline=None)
@given(plan=plans(), seed=st.integers(0, 10_000), unsettled=READINGS)
def test_any_plan_is_decided_alike_under_any_reading(plan, seed, unsettled):
    assumptions = Assumptions(setup_s=312.5, unsettled=unsettled)

    found, expected = decided(plan, bursts(seed), assumptions)

    assert found == expected
