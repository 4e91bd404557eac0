"""`tune` chooses on one half of the traffic, judges on the other, and writes a stack file."""

import json
from typing import Any

import numpy as np
import pytest

from async_inference.rehearsal import search
from async_inference.rehearsal.comparison import FIGURES
from async_inference.rehearsal.traffic import Traffic, generate
from async_inference.scaling.plan import TUNED, ScalingPlan
from async_inference.stack import settings
from async_inference.validation import InvalidInputError

pytestmark = pytest.mark.rehearsal


def found(traffic: str = "bursts", plans: int = 64, **more) -> search.SearchResult:
    asked: dict[str, Any] = {
        "objective": "hours",
        "max_p95_wait_s": None,
        "changed": ["setup_s=300"],
        "seed": 3,
        "seeds": 2,
    }
    return search.tune(
        stack="dev", traffic=traffic, plans=plans, advance=lambda tried: None, **(asked | more)
    )


def test_the_halves_share_no_request_and_each_starts_at_its_own_zero():
    whole = generate("bursts", 1)

    first, second, middle_s = search.split_in_half(whole)

    assert first.requests + second.requests == whole.requests
    assert first.span_s < middle_s
    assert np.allclose(
        np.concatenate([first.arrivals_s, second.arrivals_s + middle_s]), whole.arrivals_s
    )


def test_traffic_that_cannot_be_halved_is_refused():
    with pytest.raises(InvalidInputError, match="one half of its time holds no request"):
        search.split_in_half(Traffic(np.array([5.0]), np.array([10.0])))


def test_the_search_starts_from_the_preset_tuned():
    assert search.rules(search.PlanParameters()) == TUNED


def test_the_chosen_plan_needs_fewer_hours_than_the_documented_one_on_traffic_it_never_saw():
    result = found()

    assert result.tried == 64
    hours = FIGURES["instance_hours"]
    assert result.chosen.unseen.mean(hours) < 0.7 * result.documented.unseen.mean(hours)
    assert result.chosen.training.mean(FIGURES["p95_wait_s"]) <= result.max_p95_wait_s
    assert result.bound_instance_hours is not None
    assert result.bound_instance_hours < result.chosen.unseen.mean(hours)


def test_no_plan_of_the_front_is_beaten_by_another_on_the_training_half():
    front = found().front

    waits = [judged.training.mean(FIGURES["p95_wait_s"]) for judged in front]
    hours = [judged.training.mean(FIGURES["instance_hours"]) for judged in front]
    assert waits == sorted(waits)
    assert hours == sorted(hours, reverse=True)


def test_the_objective_wait_keeps_the_documented_hours():
    result = found(objective="wait")

    chosen, documented = result.chosen.training, result.documented.training
    hours, wait_s = FIGURES["instance_hours"], FIGURES["mean_wait_s"]
    assert chosen.mean(hours) <= documented.mean(hours)
    assert chosen.mean(wait_s) < documented.mean(wait_s)


def test_the_same_seed_finds_the_same_plan():
    assert found(plans=24).chosen.plan == found(plans=24).chosen.plan


def test_what_is_written_is_a_stack_file_with_the_chosen_plan():
    result = found(plans=16)

    text = search.as_stack_file("dev", result)

    assert (
        settings.from_stack_text(text, stack="dev-tuned", origin="here").plan == result.chosen.plan
    )


def test_the_command_gives_scripts_the_runs_and_the_plan_alone(tmp_path, command):
    written = tmp_path / "Pulumi.mine.yaml"

    done = command(
        *("tune", "--traffic", "launch", "--plans", "16", "--json", "--output", str(written))
    )

    found = json.loads(done.stdout)
    assert [run["policy"] for run in found["runs"]][:2] == ["documented", "chosen"]
    assert found["runs"][1].keys() >= {"wait_s", "instance_hours", "cost_usd", "starts"}
    assert ScalingPlan.model_validate(found["chosen"]) == settings.from_stack_file(written).plan


def test_the_command_prints_the_front_and_writes_stack_file_and_picture(tmp_path, command):
    written = tmp_path / "Pulumi.mine.yaml"

    done = command(
        *("tune", "--traffic", "launch", "--plans", "16"),
        *("--output", str(written), "--report", str(tmp_path)),
    )

    assert done.returncode == 0, done.stderr
    assert "chosen" in done.stdout
    assert settings.from_stack_file(written).scaling_preset == "custom"
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--traffic", "hectic"), "is neither a file nor one of"),
        (("--traffic", "bursts", "--objective", "fame"), "must be hours or wait"),
        (("--traffic", "bursts", "--output", "/nowhere/x.yaml"), "there is no folder /nowhere"),
        (("--traffic", "bursts", "--set", "setup_s=soon"), "must be a number, not negative"),
    ],
)
def test_a_wrong_option_is_a_sentence_and_exit_code_2(arguments, sentence, command):
    done = command("tune", *arguments)

    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
