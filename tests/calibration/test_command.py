"""`async-inference calibrate --run`, over HTTP: it asks, sends, reads; rehearsals then use it."""

import json
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from async_inference.calibration import comparison, file, reading
from async_inference.cli import app
from async_inference.cli import calibration as command
from async_inference.cli.target import Target
from async_inference.local_aws import clients
from async_inference.stack.settings import from_stack_text
from async_inference.validation import InvalidInputError
from tests.support import ROOT
from tests.support.embedded_aws import Account
from tests.support.scaling import put_plan

pytestmark = pytest.mark.local_aws

MINUTE_REAL_S = 0.3
SETUP_S = 700.0
"""Long enough on this clock for five processes to start at once on a busy machine."""
NAME = "async-sdxl-dev"
SLEEPS = """
import json, time
def model_fn(folder): return None
def input_fn(data, content_type): return json.loads(data)["sleep_s"]
def predict_fn(seconds, model): time.sleep(seconds)
def output_fn(prediction, accept): return b"done"
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with stack dev, in which the command runs."""
    (tmp_path / "Pulumi.dev.yaml").write_text((ROOT / "Pulumi.dev.yaml").read_text())
    (tmp_path / "inference_code").mkdir()
    (tmp_path / "inference_code" / "inference.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def account(start, tmp_path, project, monkeypatch) -> Account:
    """An embedded AWS that is not as assumed, with the endpoint of stack dev."""
    account = start(
        MINUTE_REAL_S,
        SETUP_S,
        tmp_path / "aws",
        backlog_per_instance_at_zero="no_data",
        samples_per_minute=2,
        scale_in_takes_s=180.0,
    )
    stack = from_stack_text(
        (project / "Pulumi.dev.yaml").read_text(), stack="dev", origin="Pulumi.dev.yaml"
    )
    account.deploy(NAME, SLEEPS)
    account.in_service(NAME)
    put_plan(account, NAME, stack.plan)
    target = Target(NAME, "local", clients.session(), account.aws.url, MINUTE_REAL_S, stack)
    monkeypatch.setattr("async_inference.cli.calibration.target_of", lambda *_: target)
    return account


def test_an_afternoon_at_an_endpoint_is_judged_and_rehearsed_with(account, project):
    asked = ["calibrate", "--stack", "dev", "--json"]
    run = ["--run", "--payload", "sleep", "--picture", "seen.png"]

    done = CliRunner().invoke(app, [*asked, *run], input="y\n")

    assert done.exit_code == 0, done.output
    assert "a cost of about $" in done.stderr
    said = json.loads(done.stdout.partition("\n")[2])  # the answer is echoed before it
    found = {each["name"]: each for each in said["findings"]}
    value = {name: each["value"] for name, each in found.items()}
    assert value["setup_s"] == pytest.approx(SETUP_S, rel=0.1)
    assert found["setup_s"]["observations"] >= 6
    assert value["scale_in_takes_s"] == pytest.approx(180, abs=20)
    assert value["samples_per_minute"] == 2
    assert value["backlog_per_instance_at_zero"] == "no_data"
    assert value["evaluation_range"] == "n_plus_third"
    assert value["scale_in_ratio"] == 0.9
    assert value["setup_is_billed"] is None
    assert value["metric_delay_s"] is not None, found["metric_delay_s"]["because"]
    assert found["metric_delay_s"]["low"] <= 61
    assert found["metric_delay_s"]["high"] >= 59
    assert (project / "seen.png").stat().st_size > 10_000
    assert "requests waited" in said["comparison"]

    kept = yaml.safe_load((project / "calibration.dev.yaml").read_text())
    assert kept["readings"]["samples_per_minute"] == 2
    rehearsed = CliRunner().invoke(app, ["rehearse", "--stack", "dev", "--traffic", "sparse"])
    assert f"starts of {NAME}" in " ".join(rehearsed.stdout.split())

    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 0, again.output
    calibration = file.read(project / "calibration.dev.yaml")
    assert calibration is not None
    assert len(calibration.looks) == 1, "the same days count once"


def test_whoever_declines_has_sent_and_read_nothing(project, monkeypatch):
    stack = from_stack_text(
        (project / "Pulumi.dev.yaml").read_text(), stack="dev", origin="Pulumi.dev.yaml"
    )
    nowhere = Target(NAME, "local", clients.session(), "http://127.0.0.1:9", 60.0, stack)
    monkeypatch.setattr("async_inference.cli.calibration.target_of", lambda *_: nowhere)

    done = CliRunner().invoke(app, ["calibrate", "--stack", "dev", "--run"], input="n\n")

    assert done.exit_code == 1
    assert "51 requests in 6 visits" in done.stderr
    assert "Nothing was sent or read." in done.stderr
    assert not (project / "calibration.dev.yaml").exists()


def test_the_picture_without_calibration_rests_on_the_stacks_own_setup(project, monkeypatch):
    stack = from_stack_text(
        (project / "Pulumi.dev.yaml").read_text(), stack="dev", origin="Pulumi.dev.yaml"
    )
    target = Target(NAME, "local", clients.session(), None, 60.0, stack)
    compared = []
    monkeypatch.setattr(file, "apply_calibration", lambda stated, _: stated)
    monkeypatch.setattr(comparison, "compare", lambda _, __, runs: compared.extend(runs))

    command._picture(target, Mock(), Mock(), project / "seen.png", Console())

    assert {stated.setup_s for _, stated in compared} == {stack.usual_setup_s}


def test_an_endpoint_that_does_not_exist_is_bad_input(start):
    account = start()

    with pytest.raises(InvalidInputError, match="endpoint nobody: Could not find endpoint"):
        reading.read(account.client, "nobody", timedelta(days=1))
