"""The design afternoon tells what matters for a plan, at the cost that it names before."""

from typing import Any

import pytest

from async_inference.calibration.estimators import estimate
from async_inference.calibration.experiment import design
from async_inference.rehearsal.simulator import Assumptions
from async_inference.scaling.plan import AWS, DOCUMENTED, TUNED
from async_inference.scaling.unsettled import Unsettled
from tests.support.calibration_world import World, live

pytestmark = pytest.mark.local_aws

PLANS = {"documented": DOCUMENTED, "aws": AWS, "tuned": TUNED}
OTHERWISE: dict[str, Any] = {
    "backlog_per_instance_at_zero": "no_data",
    "capacity_change_in_progress": "allowed",
    "samples_per_minute": 6,
    "metric_delay_s": 90.0,
}


@pytest.mark.parametrize("unsettled", [Unsettled(), Unsettled(**OTHERWISE)], ids=["usual", "other"])
@pytest.mark.parametrize("name", PLANS)
def test_the_afternoon_tells_what_it_promised(name, unsettled):
    plan = PLANS[name].within(0, 5)
    chosen = design(plan, Assumptions(), 25.0)

    found = estimate(
        live(World(plan=plan, traffic=chosen.traffic, unsettled=unsettled, setup_s=300.0)).records
    )

    assert found["setup_s"].value == pytest.approx(300, rel=0.1)
    for reading, _ in chosen.matters:
        if reading == "metric_delay_s":
            low, high = found[reading].low, found[reading].high
            assert low is not None
            assert high is not None
            assert low - 1 <= unsettled.metric_delay_s <= high + 1
        else:
            assert found[reading].value == getattr(unsettled, reading), reading


def test_it_says_what_it_costs_and_how_long_it_takes_before_anything_is_sent():
    chosen = design(DOCUMENTED.within(0, 5), Assumptions(), 25.0)

    first, second = chosen.sentences("sdxl")

    assert "51 requests in 6 visits to sdxl within 3.7" in first
    assert "a cost of about $" in first
    assert "capacity_change_in_progress" in second
    assert chosen.duration_s < 6 * 3600, "an afternoon"
