"""A calibration experiment: an afternoon of requests that reveals much for few GPU-hours.

It alternates single requests and bursts, each sent when the endpoint is back at zero. A single
request shows the start, the idle time and the scale-in in isolation. A burst shows what happens to
a second capacity change while the first is in progress.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import (
    Metric,
    ScalingPlan,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import READINGS

VISITS = 6
BURST = 16
"""Enough for a second capacity change under every preset: five for each of three instances."""
SPREAD_S = 60.0
SEEDS = 10
REST_S = 600.0
"""Time at zero before the next visit, so that ten minutes of metrics show it."""
LONG_REST_S = 1800.0
"""One longer rest, so that alarms with many periods run out of datapoints."""
MATTERS = 0.02
"""A reading matters if it changes the mean wait by more than this fraction."""
UNMEASURED = ("setup_is_billed", "announcement_delay_s")
"""Readings that the experiment cannot measure: the first does not change waits, the second needs a
client that announces requests."""


@dataclass(frozen=True)
class Experiment:
    """The requests to send, what they cost, and what they can show.

    Args:
        matters: readings that change this plan's mean wait, and by which fraction at most, the
            largest first.
        duration_s: seconds until the endpoint is idle again.
    """

    traffic: Traffic
    runs: tuple[Run, ...]
    matters: tuple[tuple[str, float], ...]
    duration_s: float

    @property
    def cost_usd(self) -> float:
        """The median cost of the simulated runs."""
        return float(np.median([run.cost_usd for run in self.runs]))

    def sentences(self, endpoint: str) -> Iterator[str]:
        """What it would do, cost and show, for a person to agree to."""
        middle = sorted(self.runs, key=lambda run: run.cost_usd)[len(self.runs) // 2]
        yield (
            f"This sends {self.traffic.requests} requests in {VISITS} visits to {endpoint} within "
            f"{self.duration_s / 3600:.1f} hours, with {self.traffic.work_s / 60:.0f} minutes of "
            f"work. The rehearsal predicts {middle.starts} instance starts, "
            f"{middle.instance_hours:.1f} instance hours, and a cost of about "
            f"${self.cost_usd:.2f}. Send nothing else to the endpoint in this time."
        )
        if self.matters:
            told = ", ".join(f"{name} ({moves:.0%})" for name, moves in self.matters)
            yield f"It can measure these, with their effect on the mean wait: {told}; and setup_s."
        else:
            yield "No reading changes this plan's mean wait; it can measure the setup time."


def design(plan: ScalingPlan, assumptions: Assumptions, service_s: float) -> Experiment:
    """The experiment for a plan, with enough time between visits for the endpoint to become idle.

    Args:
        plan: the deployed plan.
        assumptions: the present assumptions.
        service_s: service time of each request in seconds.
    """
    arrivals: list[float] = []
    at_s = 0.0
    for visit in range(VISITS):
        own_s = np.linspace(0, SPREAD_S, BURST) if visit % 2 else np.zeros(1)
        arrivals.extend(at_s + own_s)
        longest_s = max(
            _idle_again_s(plan, Traffic(own_s, np.full(len(own_s), service_s)), each)
            for each in _pessimistic(assumptions)
        )
        rest_s = LONG_REST_S if visit == 0 and _has_gaps(plan) else REST_S
        at_s += longest_s + rest_s
    traffic = Traffic(np.array(arrivals), np.full(len(arrivals), service_s))
    runs = tuple(simulate(plan, traffic, assumptions, seed) for seed in range(SEEDS))
    matters = sorted(_moves(plan, traffic, assumptions), key=lambda each: -each[1])
    return Experiment(traffic, runs, tuple(matters), at_s)


def _pessimistic(assumptions: Assumptions) -> tuple[Assumptions, ...]:
    """The assumptions with slower starts too, because a visit to a busy endpoint shows no start."""
    return assumptions, replace(assumptions, setup_s=1.5 * assumptions.setup_s)


def _idle_again_s(plan: ScalingPlan, traffic: Traffic, assumptions: Assumptions) -> float:
    """When a visit is over for all seeds: its last change of capacity."""
    ends_s = [
        float(run.capacity["at_s"][-1]) if len(run.capacity) else traffic.span_s
        for run in (simulate(plan, traffic, assumptions, seed) for seed in range(SEEDS))
    ]
    return max(ends_s)


def _has_gaps(plan: ScalingPlan) -> bool:
    """Whether an alarm has many periods and a metric that may have no data at zero."""
    return any(
        isinstance(policy, TargetTrackingPolicy)
        or (
            policy.alarm.metric == Metric.BACKLOG_SIZE_PER_INSTANCE
            and policy.alarm.evaluation_periods > 8
        )
        for policy in plan.policies
        if isinstance(policy, TargetTrackingPolicy | StepScalingPolicy)
    )


def _moves(
    plan: ScalingPlan, traffic: Traffic, assumptions: Assumptions
) -> Iterator[tuple[str, float]]:
    """The fraction by which each reading may change the mean wait."""
    for name, values in READINGS.items():
        if name in UNMEASURED:
            continue
        waits_s = []
        for value in values:
            reading = replace(assumptions.unsettled, **{name: value})
            other = replace(assumptions, unsettled=reading)
            runs = [simulate(plan, traffic, other, seed) for seed in range(SEEDS)]
            waits_s.append(float(np.mean([run.wait_s.mean for run in runs])))
        known = [each for each in waits_s if math.isfinite(each)]
        if len(known) > 1 and max(known) / min(known) - 1 > MATTERS:
            yield name, max(known) / min(known) - 1
