"""Plans are compared over several seeds, and what is noise is called noise."""

import json
import math

import pytest

from async_inference.rehearsal import comparison
from async_inference.rehearsal.comparison import FIGURES, Estimate, PlanRuns, differences
from async_inference.rehearsal.rehearse import rehearse
from async_inference.rehearsal.simulator import Assumptions
from async_inference.rehearsal.traffic import load_for_seeds
from async_inference.scaling.plan import PRESETS
from async_inference.scaling.unsettled import READINGS, Unsettled, other_readings

pytestmark = pytest.mark.rehearsal
SEEDS = tuple(range(8))


def compared(*presets: str, traffic: str = "sparse", seeds=SEEDS) -> tuple[PlanRuns, ...]:
    plans = [(name, PRESETS[name].within(0, 5)) for name in presets]
    return comparison.run_plans(plans, load_for_seeds(traffic, seeds), Assumptions(), seeds)


def test_an_estimate_is_the_mean_and_the_range_over_seeds_that_have_a_value():
    assert Estimate.of([3.0, 1.0, math.nan]) == Estimate(2.0, 1.0, 3.0)
    assert math.isnan(Estimate.of([math.nan]).mean)


def test_a_plan_differs_from_itself_in_nothing_which_is_noise():
    first, again = compared("tuned", "tuned")

    for each in differences((first, again)):
        assert each.estimate == Estimate(0, 0, 0)
        assert each.noise


def test_on_single_requests_the_presets_differ_in_hours_and_not_in_waits():
    """The waits differ by the luck of the alarms' phases, seed by seed both ways."""
    found = {each.figure: each for each in differences(compared("tuned", "documented"))}

    assert found["instance_hours"].estimate.high < 0
    assert not found["instance_hours"].noise
    assert found["mean_wait_s"].noise


def test_five_seeds_are_too_few_to_tell():
    found = differences(compared("tuned", "documented", seeds=SEEDS[:5]))

    assert all(each.noise for each in found)


def test_every_plan_meets_the_same_arrivals_for_a_seed_and_others_for_the_next():
    traffics = load_for_seeds("sparse", SEEDS)

    assert len({traffic.requests for traffic in traffics}) > 1
    for runs in compared("tuned", "documented"):
        assert [len(run.started_s) for run in runs.runs] == [t.requests for t in traffics]


def test_a_files_traffic_is_the_same_for_every_seed(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("arrival_s,service_s\n0,25\n")

    assert len({id(traffic) for traffic in load_for_seeds(str(file), SEEDS)}) == 1


def test_every_other_reading_is_tried_one_at_a_time():
    for assumed in (Unsettled(), Unsettled(samples_per_minute=6, metric_delay_s=75.0)):
        changes = [comparison.changed(reading, assumed) for reading in other_readings(assumed)]

        assert {change.partition("=")[0] for change in changes} == set(READINGS)
        assert len(set(changes)) == len(changes)
        assert not any("," in change for change in changes)


def test_the_readings_bracket_what_is_assumed_and_the_one_that_matters_most_is_named():
    runs = compared("tuned")
    found = comparison.sensitivities(runs, load_for_seeds("sparse", SEEDS), Assumptions(), SEEDS)

    assert {each.figure for each in found} == set(FIGURES)
    for each in found:
        assert each.low <= each.assumed <= each.high
    hours = next(each for each in found if each.figure == "instance_hours")
    assert hours.moved_by == "setup_is_billed=false"


def test_the_command_says_what_is_noise_and_json_has_it_in_numbers(command):
    arguments = ("rehearse", "--traffic", "sparse", "--readings")

    told = " ".join(command(*arguments).stdout.split())
    answer = json.loads(command(*arguments, "--json").stdout)

    assert "noise" in told
    assert "Under every other reading of AWS, one at a time" in told
    assert answer["assumptions"]["seeds"] == list(SEEDS)
    waits = next(each for each in answer["differences"] if each["figure"] == "mean_wait_s")
    assert waits["noise"]
    assert waits["low"] <= 0 <= waits["high"]
    assert {each["figure"] for each in answer["readings"]} == set(FIGURES)


def test_one_seed_says_that_it_is_one(command):
    told = " ".join(command("rehearse", "--traffic", "sparse", "--seeds", "1").stdout.split())

    assert "One seed only: small differences are noise" in told


def assumed_setup_s(*changed: str, stack: str = "dev") -> float:
    return rehearse(
        stack=stack,
        traffic="sparse",
        policy=None,
        against=[],
        changed=changed,
        seed=0,
        seeds=1,
    ).assumptions.setup_s


def test_a_setup_is_the_sum_of_its_parts():
    """AWS's medians: 190 s where the image is cached, 340 s where it is not."""
    assert assumed_setup_s() == pytest.approx(190)
    assert assumed_setup_s("image_cached=false") == pytest.approx(340)
    assert assumed_setup_s("download_gib=13.2") == pytest.approx(190 + 66)
    assert assumed_setup_s("setup_s=300") == 300


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (("setup_s=300", "load_s=20"), "--set load_s: is a part of setup_s, which is set too"),
        (("load_s=-1",), "--set load_s=-1: must be a number, not negative"),
        (
            ("download_gib_per_s=0",),
            "--set download_gib_per_s = 0.0: input should be greater than 0",
        ),
        (("boot_s=3",), "--set boot_s=3: must be name=value with a name of provision_s"),
    ],
)
def test_a_wrong_part_is_named(changed, sentence, command):
    options = [word for change in changed for word in ("--set", change)]

    done = command("rehearse", *options)

    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
