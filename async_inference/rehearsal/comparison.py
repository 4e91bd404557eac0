"""Plans compared over several seeds: means, ranges, and which differences are more than noise.

For a seed, every plan meets the same arrivals and the same setup times, and alarms of the same role
are evaluated at the same moments of a minute (common random numbers): plans differ by what they do.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np

from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import ScalingPlan
from async_inference.scaling.unsettled import Unsettled, other_readings

SEEDS = 8
"""Seeds that a comparison takes unless asked otherwise."""
TELLING_SEEDS = 6
"""Fewer seeds tell nothing: of two equal plans, one is ahead on all of five seeds once in 16 times,
on all of six once in 32, on all of eight once in 128 (sign test)."""

Figure = Callable[[Run], float]
FIGURES: dict[str, Figure] = {
    "mean_wait_s": lambda run: run.wait_s.mean,
    "p95_wait_s": lambda run: run.wait_s.p95,
    "instance_hours": lambda run: run.instance_hours,
    "cost_usd": lambda run: run.cost_usd,
    "starts": lambda run: run.starts,
    "interrupted": lambda run: run.interrupted,
    "expired": lambda run: run.expired,
}
"""What plans are compared by."""


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds and the range over seeds; NaN where no request was served."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The estimate from one value a seed; seeds without a value do not count."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, math.nan)
        return cls(float(np.mean(known)), float(min(known)), float(max(known)))


@dataclass(frozen=True)
class PlanRuns:
    """One plan's runs, a run for each seed."""

    name: str
    plan: ScalingPlan
    runs: tuple[Run, ...]

    def estimate(self, figure: Figure) -> Estimate:
        """A figure over the seeds."""
        return Estimate.of([figure(run) for run in self.runs])

    def mean(self, figure: Figure) -> float:
        """A figure's mean over the seeds."""
        return self.estimate(figure).mean


@dataclass(frozen=True)
class Difference:
    """By how much one plan exceeds another, seed by seed.

    Args:
        policy, against: the plans' names.
        figure: a key of `FIGURES`.
        estimate: of the differences, one a seed.
        noise: whether seeds disagree on the sign, or are too few to tell (`TELLING_SEEDS`).
    """

    policy: str
    against: str
    figure: str
    estimate: Estimate
    noise: bool


@dataclass(frozen=True)
class Sensitivity:
    """How far another reading of AWS moves a figure of a plan, one reading at a time.

    Args:
        policy: the plan's name.
        figure: a key of `FIGURES`.
        assumed: the mean over seeds under the reading that is assumed.
        low, high: the lowest and the highest mean of all readings, the assumed one included.
        moved_by: the reading that moves the mean most, such as `samples_per_minute=6`; None if none
            does.
    """

    policy: str
    figure: str
    assumed: float
    low: float
    high: float
    moved_by: str | None


def run_plans(
    plans: Sequence[tuple[str, ScalingPlan]],
    traffics: Sequence[Traffic],
    assumptions: Assumptions,
    seeds: Sequence[int],
    start_s: float = 0.0,
) -> tuple[PlanRuns, ...]:
    """Run every plan on every seed, on all cores.

    Args:
        plans: names and plans.
        traffics: what arrives, for each seed.
        assumptions: what the runs rest on.
        seeds: of the alarms' phases and setup times.
        start_s: seconds since the epoch at which the traffic starts, for schedules.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = [
            [
                pool.submit(simulate, plan, traffic, assumptions, seed, start_s)
                for traffic, seed in zip(traffics, seeds, strict=True)
            ]
            for _, plan in plans
        ]
        return tuple(
            PlanRuns(name, plan, tuple(each.result() for each in of_plan))
            for (name, plan), of_plan in zip(plans, pending, strict=True)
        )


def differences(plans: Sequence[PlanRuns]) -> Iterator[Difference]:
    """The first plan less each other one, in every figure."""
    first = plans[0]
    for other in plans[1:]:
        for name, figure in FIGURES.items():
            by_seed = [
                figure(run) - figure(others)
                for run, others in zip(first.runs, other.runs, strict=True)
            ]
            estimate = Estimate.of(by_seed)
            noise = len(by_seed) < TELLING_SEEDS or not (estimate.low > 0 or estimate.high < 0)
            yield Difference(first.name, other.name, name, estimate, noise)


def sensitivities(
    plans: Sequence[PlanRuns],
    traffics: Sequence[Traffic],
    assumptions: Assumptions,
    seeds: Sequence[int],
) -> tuple[Sensitivity, ...]:
    """Run the plans again under each other reading of undocumented AWS behaviour, one at a time."""
    by_reading = {
        changed(reading, assumptions.unsettled): run_plans(
            [(each.name, each.plan) for each in plans],
            traffics,
            replace(assumptions, unsettled=reading),
            seeds,
        )
        for reading in other_readings(assumptions.unsettled)
    }
    return tuple(
        _sensitivity(each, name, {reading: runs[number] for reading, runs in by_reading.items()})
        for number, each in enumerate(plans)
        for name in FIGURES
    )


def _sensitivity(assumed: PlanRuns, name: str, by_reading: dict[str, PlanRuns]) -> Sensitivity:
    figure = FIGURES[name]
    mean = assumed.mean(figure)
    means = {reading: runs.mean(figure) for reading, runs in by_reading.items()}
    known = [value for value in (mean, *means.values()) if not math.isnan(value)]
    moved = {
        reading: abs(value - mean) for reading, value in means.items() if abs(value - mean) > 0
    }
    return Sensitivity(
        policy=assumed.name,
        figure=name,
        assumed=mean,
        low=min(known, default=math.nan),
        high=max(known, default=math.nan),
        moved_by=max(moved, key=lambda reading: moved[reading], default=None),
    )


def changed(reading: Unsettled, assumed: Unsettled) -> str:
    """How a reading differs from the one that is assumed: `name=value`."""
    before = asdict(assumed)
    return ", ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in asdict(reading).items()
        if value != before[name]
    )
