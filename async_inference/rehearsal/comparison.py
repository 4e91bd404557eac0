"""Plans compared over several seeds: means, ranges, and which differences are more than noise.

With a given seed, every plan gets the same arrivals and setup times, and alarms of the same role
are evaluated at the same second of a minute (common random numbers). So differences come from the
plans.
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
"""Default number of seeds in a comparison."""
MIN_CONCLUSIVE_SEEDS = 6
"""Fewer seeds prove nothing. Of two equal plans, one is ahead on all five seeds once in 16 times,
on all six once in 32, and on all eight once in 128 (sign test)."""

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
"""The figures by which plans are compared."""


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds and the range over seeds; NaN where no request was served."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The estimate from one value per seed; NaN values do not count."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan, math.nan)
        return cls(float(np.mean(known)), float(min(known)), float(max(known)))


@dataclass(frozen=True)
class PlanRuns:
    """One plan's runs, one for each seed."""

    name: str
    plan: ScalingPlan
    runs: tuple[Run, ...]

    def estimate(self, figure: Figure) -> Estimate:
        """A figure's mean and range over the seeds."""
        return Estimate.of([figure(run) for run in self.runs])

    def mean(self, figure: Figure) -> float:
        """A figure's mean over the seeds."""
        return self.estimate(figure).mean


@dataclass(frozen=True)
class Difference:
    """By how much one plan exceeds another.

    Args:
        policy, against: the plans' names.
        figure: a key of `FIGURES`.
        estimate: mean and range of the differences, one per seed.
        noise: whether the seeds disagree on the sign, or are fewer than `MIN_CONCLUSIVE_SEEDS`.
    """

    policy: str
    against: str
    figure: str
    estimate: Estimate
    noise: bool


@dataclass(frozen=True)
class Sensitivity:
    """How much a plan's figure changes under other readings of AWS, one reading at a time.

    Args:
        policy: the plan's name.
        figure: a key of `FIGURES`.
        assumed: the mean over seeds under the assumed reading.
        low, high: the lowest and the highest mean under any reading, the assumed one included.
        moved_by: the reading that changes the mean most, such as `samples_per_minute=6`; None if no
            reading changes it.
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
        traffics: the traffic of each seed.
        assumptions: the assumptions of all runs.
        seeds: seeds of alarm phases and setup times.
        start_s: when the traffic starts, in seconds since the epoch; schedules need it.
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
    """The first plan minus each of the others, in every figure."""
    first = plans[0]
    for other in plans[1:]:
        for name, figure in FIGURES.items():
            by_seed = [
                figure(run) - figure(others)
                for run, others in zip(first.runs, other.runs, strict=True)
            ]
            estimate = Estimate.of(by_seed)
            too_few = len(by_seed) < MIN_CONCLUSIVE_SEEDS
            noise = too_few or not (estimate.low > 0 or estimate.high < 0)
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
    """The parameters in which a reading differs from the assumed one, as `name=value`."""
    before = asdict(assumed)
    return ", ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in asdict(reading).items()
        if value != before[name]
    )
