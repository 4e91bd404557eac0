"""Preset `tuned` needs fewer instance hours than `documented` at no longer waits, everywhere; and
preset `announced`, which is `tuned` with what clients announce, waits less for the same hours."""

from dataclasses import dataclass

import numpy as np
import pytest

from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import GENERATORS, generate
from async_inference.scaling.plan import PRESETS
from async_inference.scaling.unsettled import Unsettled

pytestmark = pytest.mark.rehearsal
UNSEEN_SEEDS = (40, 41, 42)
"""Of the traffic; the search that chose the preset saw seeds 0 to 3."""
PHASE_SEEDS = range(4)
"""Of the alarms' phases, the same for both plans. One alone is noise: on sparse traffic the
difference in mean wait changes its sign from seed to seed."""


@dataclass(frozen=True)
class Mean:
    """The runs of one plan over one trace, averaged over the alarms' phases."""

    instance_hours: float
    mean_wait_s: float
    p95_wait_s: float
    interrupted: float
    expired: float


def runs(preset: str, assumptions: Assumptions) -> list[Mean]:
    plan = PRESETS[preset].within(0, 5)
    return [
        averaged(
            [simulate(plan, generate(name, seed), assumptions, phase) for phase in PHASE_SEEDS]
        )
        for name in GENERATORS
        for seed in UNSEEN_SEEDS
    ]


def averaged(runs: list[Run]) -> Mean:
    return Mean(
        *(
            float(np.mean(values))
            for values in zip(
                *(
                    (
                        run.instance_hours,
                        run.wait_s.mean,
                        run.wait_s.p95,
                        run.interrupted,
                        run.expired,
                    )
                    for run in runs
                ),
                strict=True,
            )
        )
    )


def geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.log(ratios).mean()))


def test_over_all_generators_tuned_beats_the_documented_policy_on_traffic_it_never_saw():
    """Hours at most half, waits no longer, no single trace much worse: the limits asked for."""
    assumptions = Assumptions(setup_s=300)
    documented, tuned = runs("documented", assumptions), runs("tuned", assumptions)
    pairs = list(zip(documented, tuned, strict=True))
    hours = [after.instance_hours / before.instance_hours for before, after in pairs]
    means = [after.mean_wait_s / before.mean_wait_s for before, after in pairs]
    p95s = [after.p95_wait_s / before.p95_wait_s for before, after in pairs]

    assert geometric_mean(hours) <= 0.50
    assert geometric_mean(means) <= 0.95
    assert geometric_mean(p95s) <= 1.0
    assert max(hours) <= 0.85
    assert max(means) <= 1.10
    assert sum(run.interrupted for run in tuned) <= 0.5 * sum(run.interrupted for run in documented)
    assert sum(run.expired for run in tuned) == 0


def test_announced_beats_the_documented_policy_and_waits_less_than_tuned():
    """The limits asked for; seeds 0 to 3 chose its steps."""
    assumptions = Assumptions(setup_s=300)
    documented, tuned, announced = (
        runs(preset, assumptions) for preset in ("documented", "tuned", "announced")
    )

    def ratio(figure: str, others: list[Mean]) -> float:
        pairs = zip(announced, others, strict=True)
        return geometric_mean([getattr(a, figure) / getattr(b, figure) for a, b in pairs])

    assert ratio("mean_wait_s", documented) <= 0.75
    assert ratio("p95_wait_s", documented) <= 0.90
    assert ratio("instance_hours", documented) <= 0.50
    assert ratio("mean_wait_s", tuned) <= 0.95
    assert ratio("p95_wait_s", tuned) <= 0.95
    assert ratio("instance_hours", tuned) <= 1.02
    assert sum(run.expired for run in announced) == 0


@pytest.mark.parametrize(
    "reading",
    [
        Unsettled(capacity_change_in_progress="allowed"),
        Unsettled(scale_in_takes_s=180),
        Unsettled(samples_per_minute=6),
        Unsettled(evaluation_range="n_plus_2"),
        Unsettled(backlog_counts_inflight=False),
        Unsettled(backlog_per_instance_at_zero="no_data"),
        Unsettled(inflight_on_scale_in="drain"),
        Unsettled(metric_delay_s=90),
        Unsettled(scale_in_ratio=0.97),
        Unsettled(target_tracking_from_zero="async_page"),
        Unsettled(announcement_delay_s=30),
        Unsettled(setup_is_billed=False),
    ],
)
@pytest.mark.parametrize("preset", ["tuned", "announced"])
def test_it_saves_four_tenths_of_the_hours_however_aws_is_read(preset, reading):
    assumptions = Assumptions(setup_s=300, unsettled=reading)

    ratios = [
        after.instance_hours / before.instance_hours
        for before, after in zip(
            runs("documented", assumptions), runs(preset, assumptions), strict=True
        )
    ]

    assert geometric_mean(ratios) <= 0.6
