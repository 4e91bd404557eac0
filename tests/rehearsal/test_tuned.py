"""Preset `tuned` needs fewer instance hours than `documented` at no longer waits, everywhere."""

import numpy as np
import pytest

from async_inference.rehearsal.simulator import Assumptions, simulate
from async_inference.rehearsal.traffic import GENERATORS, generated
from async_inference.scaling.plan import PRESETS, ScalingPlan
from async_inference.scaling.unsettled import Unsettled

pytestmark = pytest.mark.rehearsal
UNSEEN_SEEDS = (40, 41, 42)
"""The search that chose the preset saw seeds 0 to 2, its author 60 to 62 as well."""


def runs(preset: str, assumptions: Assumptions) -> list:
    plan = ScalingPlan(min_capacity=0, max_capacity=5, **dict(PRESETS[preset]))
    return [
        simulate(plan, generated(name, seed), assumptions, seed)
        for name in GENERATORS
        for seed in UNSEEN_SEEDS
    ]


def geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.log(ratios).mean()))


def test_over_all_generators_it_beats_the_documented_policy_on_traffic_it_never_saw():
    """Hours at most half, waits no longer, no single trace much worse: the limits asked for."""
    assumptions = Assumptions(setup_s=300)
    documented, tuned = runs("documented", assumptions), runs("tuned", assumptions)
    pairs = list(zip(documented, tuned, strict=True))
    hours = [after.instance_hours / before.instance_hours for before, after in pairs]
    means = [after.wait_s.mean / before.wait_s.mean for before, after in pairs]
    p95s = [after.wait_s.p95 / before.wait_s.p95 for before, after in pairs]

    assert geometric_mean(hours) <= 0.50
    assert geometric_mean(means) <= 0.95
    assert geometric_mean(p95s) <= 1.0
    assert max(hours) <= 1.05
    assert max(means) <= 1.15
    assert sum(run.interrupted for run in tuned) <= 0.5 * sum(run.interrupted for run in documented)
    assert sum(run.expired for run in tuned) == 0


@pytest.mark.parametrize(
    "reading",
    [
        Unsettled(backlog_counts_inflight=False),
        Unsettled(backlog_per_instance_at_zero="no_data"),
        Unsettled(inflight_on_scale_in="drain"),
        Unsettled(metric_delay_s=90),
        Unsettled(scale_in_ratio=0.97),
        Unsettled(target_tracking_from_zero="async_page"),
        Unsettled(setup_is_billed=False),
    ],
)
def test_it_saves_four_tenths_of_the_hours_however_aws_is_read(reading):
    assumptions = Assumptions(setup_s=300, unsettled=reading)

    ratios = [
        after.instance_hours / before.instance_hours
        for before, after in zip(
            runs("documented", assumptions), runs("tuned", assumptions), strict=True
        )
    ]

    assert geometric_mean(ratios) <= 0.6
