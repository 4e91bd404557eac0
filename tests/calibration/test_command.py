"""`async-inference calibrate`, over HTTP: an embedded AWS tells how it is."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from async_inference.calibration import file, reading
from async_inference.cli import app
from async_inference.cli.target import Target
from async_inference.local_aws import clients
from async_inference.scaling.plan import DOCUMENTED
from async_inference.settings import from_stack_text
from tests.local_aws.conftest import Account, eventually
from tests.local_aws.test_fidelity import SLEEPS, put

pytestmark = pytest.mark.local_aws

MINUTE_REAL_S = 0.5
SETUP_S = 480.0
NAME = "async-sdxl-dev"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lived(tmp_path, processes, start) -> Account:
    """An endpoint that woke for a single request and for two bursts, and went back to sleep."""
    account = start(
        MINUTE_REAL_S,
        SETUP_S,
        tmp_path / "aws",
        capacity_change_in_progress="refused",
        backlog_per_instance_at_zero="no_data",
        samples_per_minute=2,
        scale_in_takes_s=180.0,
    )
    account.deploy(NAME, SLEEPS)
    account.in_service(NAME)
    put(account, NAME, DOCUMENTED.within(0, 4))
    clock = account.aws.clock
    for size in (1, 12, 12):
        answers = [
            account.runtime.invoke_endpoint_async(
                EndpointName=NAME, Body=json.dumps(60 * MINUTE_REAL_S / 60)
            )
            for _ in range(size)
        ]
        account.read(answers[-1]["OutputLocation"], 60)
        eventually(lambda: account.instances(NAME) == 0, "asleep again", 60)
        clock.wait(threading.Event(), 300)
    return account


def test_a_live_endpoint_is_read_judged_and_rehearsed_with(lived, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stack_file = tmp_path / "Pulumi.dev.yaml"
    stack_file.write_text((ROOT / "Pulumi.dev.yaml").read_text())
    (tmp_path / "inference_code").mkdir()
    (tmp_path / "inference_code" / "inference.py").touch()
    own = from_stack_text(stack_file.read_text(), stack="dev", origin="Pulumi.dev.yaml")
    target = Target(NAME, "local", clients.session(), lived.aws.url, MINUTE_REAL_S, own)
    monkeypatch.setattr("async_inference.cli.calibration.target_of", lambda *_: target)

    done = CliRunner().invoke(
        app, ["calibrate", "--stack", "dev", "--json", "--picture", "seen.png"]
    )

    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    value = {each["name"]: each["value"] for each in said["findings"]}
    assert value["setup_s"] == pytest.approx(SETUP_S, rel=0.1)
    assert value["scale_in_takes_s"] == pytest.approx(180, abs=10)
    assert value["samples_per_minute"] == 2
    assert value["backlog_per_instance_at_zero"] == "no_data"
    assert value["capacity_change_in_progress"] == "refused"
    assert value["scale_in_ratio"] == 0.9
    assert value["backlog_counts_inflight"] in (True, None)
    assert value["setup_is_billed"] is None
    delay = next(each for each in said["findings"] if each["name"] == "metric_delay_s")
    assert delay["value"] is not None, delay["because"]
    assert delay["low"] <= 60 <= delay["high"]
    assert (tmp_path / "seen.png").stat().st_size > 10_000
    assert "waited" in said["comparison"]

    kept = yaml.safe_load((tmp_path / "calibration.dev.yaml").read_text())
    assert kept["readings"]["samples_per_minute"] == 2
    rehearsed = CliRunner().invoke(app, ["rehearse", "--stack", "dev", "--traffic", "sparse"])
    assert f"starts of {NAME}" in " ".join(rehearsed.stdout.split())

    again = CliRunner().invoke(app, ["calibrate", "--stack", "dev", "--json"])
    assert again.exit_code == 0, again.output
    calibration = file.read(tmp_path / "calibration.dev.yaml")
    assert calibration is not None
    assert len(calibration.looks) == 1, "the same days count once"


def test_what_is_not_an_asynchronous_endpoint_of_this_account_is_said(start):
    account = start()

    with pytest.raises(Exception, match="endpoint nobody: Could not find endpoint"):
        reading.read(account.client, "nobody", timedelta(days=1))
