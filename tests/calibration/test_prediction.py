"""With what calibrate found, the rehearsal says what an embedded AWS does with unseen traffic."""

from dataclasses import replace

import numpy as np
import pytest

from async_inference.calibration import comparison, file
from async_inference.calibration.estimators import estimate
from async_inference.calibration.records import Minutes
from async_inference.rehearsal.simulator import Assumptions, simulate
from async_inference.rehearsal.traffic import Traffic
from tests.support.calibration_world import began_s, live
from tests.support.drawn_worlds import world

pytestmark = pytest.mark.local_aws

SEEDS = 10
WORLDS = (0, 2, 4, 6, 10, 20)
"""Under the documented plan, each by other readings and with another setup time."""


def unseen(seed: int) -> Traffic:
    """A day of bursts at random times, of another size than those that calibrated."""
    random = np.random.default_rng((7, seed))
    arrivals: list[float] = []
    at_s = 0.0
    for _ in range(40):
        size = int(random.geometric(1 / 10))
        arrivals.extend(at_s + random.uniform(0, 180, size))
        at_s += random.exponential(2400) + 120
    return Traffic(np.sort(arrivals), random.gamma(4.0, 25 / 4, len(arrivals)))


def predicted_s(plan, traffic: Traffic, assumptions: Assumptions) -> float:
    runs = [simulate(plan, traffic, assumptions, seed) for seed in range(SEEDS)]
    return float(np.mean([run.wait_s.mean for run in runs]))


@pytest.mark.parametrize("number", WORLDS)
def test_the_mean_wait_of_unseen_traffic_is_within_8_percent(number):
    known = world(number)
    records = live(known).records
    calibration = file.merge(None, records, estimate(records)).calibration
    traffic = unseen(number)
    measured_s = float(np.nanmean(live(replace(known, traffic=traffic)).waits_s))
    # Alarms have their phases on the clock, so the trace needs its second of the minute.
    on_the_clock = Traffic(
        traffic.arrivals_s + began_s(known.first_setup_s) % 60, traffic.service_s
    )

    without_s = predicted_s(known.plan, on_the_clock, Assumptions())
    with_s = predicted_s(
        known.plan, on_the_clock, file.apply_calibration(Assumptions(), calibration)
    )

    print(
        f"measured {measured_s:.0f} s; without calibration {without_s / measured_s - 1:+.0%}, "
        f"with it {with_s / measured_s - 1:+.1%}"
    )
    assert abs(with_s / measured_s - 1) <= 0.08
    assert abs(with_s / measured_s - 1) < abs(without_s / measured_s - 1)


def test_the_picture_has_both_predictions_beside_what_was_measured(tmp_path):
    known = world(10)
    records = live(known).records
    calibration = file.merge(None, records, estimate(records)).calibration
    calibrated = file.apply_calibration(Assumptions(), calibration)

    compared = comparison.compare(
        records, known.plan, (("assumed", Assumptions()), ("calibrated", calibrated))
    )
    assert compared is not None
    comparison.picture(compared, tmp_path / "seen.png")

    assumed, after = compared.predictions
    off = [abs(each.mean_wait_s / compared.measured_wait_s - 1) for each in (assumed, after)]
    assert off[1] < off[0]
    assert "waited" in compared.sentence()
    assert (tmp_path / "seen.png").stat().st_size > 10_000


def test_what_never_ended_a_request_has_no_comparison():
    records = replace(live(world(10)).records, minutes=Minutes())

    assert comparison.compare(records, world(10).plan, (("assumed", Assumptions()),)) is None
