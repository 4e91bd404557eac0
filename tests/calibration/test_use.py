"""Rehearsals of a stack take its calibration as soon as it is there, and say so."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from async_inference.cli import app
from tests.support import ROOT

pytestmark = pytest.mark.rehearsal

CALIBRATION = """
endpoint: async-sdxl-dev
readings: {setup_s: 205.5, setup_sigma: 0.12, samples_per_minute: 6}
phases_s:
  HasBacklogWithoutCapacity-ScalingPolicy: [12.5]
looks:
- since: 2026-11-14T17:00:00Z
  until: 2026-11-28T17:00:00Z
  configuration: sdxl-config-1
  starts: [[1795000000.0, 200.0, 0.0], [1795010000.0, 205.5, 0.0], [1795020000.0, 211.0, 0.0]]
"""
SAID = "calibrated from 3 starts of async-sdxl-dev, read 2026-11-28"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with stack dev and its calibration."""
    (tmp_path / "Pulumi.dev.yaml").write_text((ROOT / "Pulumi.dev.yaml").read_text())
    (tmp_path / "calibration.dev.yaml").write_text(CALIBRATION)
    (tmp_path / "inference_code").mkdir()
    (tmp_path / "inference_code" / "inference.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_rehearse_takes_it_and_says_from_how_many_starts(project):
    shown = " ".join(run("rehearse", "--traffic", "sparse").split())
    found = json.loads(run("rehearse", "--traffic", "sparse", "--json"))["assumptions"]

    assert f"It is {SAID}: it takes 206 s from requesting an instance" in shown
    assert found["calibrated"] == SAID
    assert (found["setup_s"], found["setup_sigma"]) == (205.5, 0.12)
    assert found["unsettled"]["samples_per_minute"] == 6
    assert found["unsettled"]["metric_delay_s"] == 60, "what was not found stays assumed"


def test_what_is_set_comes_before_what_was_measured(project):
    asked = ("rehearse", "--traffic", "sparse", "--json", "--set", "samples_per_minute=2")
    found = json.loads(run(*asked))["assumptions"]

    assert found["unsettled"]["samples_per_minute"] == 2
    assert found["setup_s"] == 205.5


def test_the_stacks_own_alarms_are_evaluated_when_they_were_seen_to_be(project):
    measured = json.loads(run("rehearse", "--traffic", "sparse", "--json"))["runs"][0]
    text = CALIBRATION.replace("[12.5]", "[42.5]")
    (project / "calibration.dev.yaml").write_text(text)
    later = json.loads(run("rehearse", "--traffic", "sparse", "--json"))["runs"][0]

    assert measured["wait_s"]["mean"] != later["wait_s"]["mean"]


def test_tune_takes_it_too(project):
    shown = run("tune", "--traffic", "sparse", "--plans", "4")

    assert SAID in " ".join(shown.split())


def test_another_stack_is_not_touched_by_it(project):
    (project / "Pulumi.other.yaml").write_text((project / "Pulumi.dev.yaml").read_text())

    found = json.loads(run("rehearse", "--stack", "other", "--traffic", "sparse", "--json"))

    assert found["assumptions"]["calibrated"] == ""
    assert found["assumptions"]["setup_s"] == 190
