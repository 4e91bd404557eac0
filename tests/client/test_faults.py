"""The client under faults: killed, and at an AWS whose workers and whose process are killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from async_inference.client import Client, DeadlineError, Pace, Request
from async_inference.client.ledger import FILE
from async_inference.local_aws import daemon
from async_inference.local_aws.faults import Faults
from tests.support import ROOT
from tests.support.client import session
from tests.support.embedded_aws import Account
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

PROMPTS = 1000
CLIENT_KILLED_AT = (150, 400, 700)
"""Results after which the client is killed."""
INSTANCES = 3
WRITES_REFUSED = 0.02
DONE = b'"event": "collected"'
HANDLER = """
import json
from sagemaker_inference.errors import BaseInferenceToolkitError

def model_fn(model_dir):
    return "model"

def input_fn(data, content_type):
    prompt = json.loads(data)["prompt"]
    if "poison" in prompt:
        raise BaseInferenceToolkitError(400, f"{prompt} cannot be drawn", "poisoned")
    return prompt

def predict_fn(prompt, model):
    with open("DRAWN", "a") as drawn:
        drawn.write(prompt + chr(10))
    return f"a drawing of {prompt}"

def output_fn(drawing, accept):
    return drawing
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """A folder in which the command finds an embedded AWS, with the endpoint `draw` on it."""
    folder = tmp_path_factory.mktemp("work")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = start(folder, port)
    account = Account(SimpleNamespace(url=running.url))  # ty: ignore[invalid-argument-type]
    account.deploy("draw", HANDLER.replace("DRAWN", str(folder / "drawn.txt")))
    account.in_service("draw")
    scale(account, INSTANCES)
    yield SimpleNamespace(folder=folder, port=port, url=running.url, account=account)
    daemon.stop(folder / ".local" / "aws")


def start(folder: Path, port: int) -> daemon.Daemon:
    """An AWS that refuses some writes of S3 objects, by endpoints and clients alike."""
    faults = Faults(s3_write_failure_rate=WRITES_REFUSED)
    # A minute of five seconds: a scale-in keeps the endpoint Updating for a simulated minute.
    return daemon.start(folder / ".local" / "aws", port=port, minute_s=5, setup_s=0, faults=faults)


def scale(account: Account, instances: int) -> None:
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="draw",
        DesiredWeightsAndCapacities=[
            {"VariantName": "AllTraffic", "DesiredInstanceCount": instances}
        ],
    )
    eventually(lambda: account.status("draw") == "InService", "draw in service")


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "async_inference", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def events(ledger: Path, event: str) -> Counter[str]:
    """How often each id has had an event; a line that is still being written does not count."""
    if not ledger.exists():
        return Counter()
    lines = [json.loads(line) for line in ledger.read_bytes().split(b"\n")[:-1]]
    return Counter(line["id"] for line in lines if line.get("event") == event)


def restart(aws: SimpleNamespace) -> None:
    running = daemon.running(aws.folder / ".local" / "aws")
    assert running is not None
    process = psutil.Process(running.pid)
    process.kill()
    process.wait(10)
    start(aws.folder, aws.port)


def kill_a_worker(aws: SimpleNamespace, dice: random.Random) -> None:
    running = daemon.running(aws.folder / ".local" / "aws")
    assert running is not None
    # Instances are forks of one template, which is a child of the server.
    templates = psutil.Process(running.pid).children()
    workers = [worker for template in templates for worker in template.children()]
    if workers:
        dice.choice(workers).kill()


def test_a_batch_that_is_killed_three_times_gets_each_result_once(aws, capsys):
    """While it runs, workers are killed at each of the client's kills, AWS itself once, and S3
    refuses some of what the endpoint writes."""
    prompts = [f"number {number}" for number in range(PROMPTS)]
    (aws.folder / "prompts.txt").write_text("\n".join(prompts))
    ledger = aws.folder / "out" / FILE
    dice = random.Random(11)
    started_s = time.monotonic()
    first = ("batch", "prompts.txt", "--output", "out", "--endpoint", "draw")
    for kill, results in enumerate(CLIENT_KILLED_AT):
        client = command(aws.folder, *(first if kill == 0 else ("resume", "out")))
        eventually(
            lambda enough=results: ledger.exists() and ledger.read_bytes().count(DONE) >= enough,
            f"{results} results",
            120,
        )
        client.send_signal(signal.SIGKILL)
        client.communicate()
        kill_a_worker(aws, dice)
        if kill == 1:
            restart(aws)

    # An output that S3 refused three times in a row is a failure, as on AWS: asked for once more.
    client = command(aws.folder, *first, "--retry-failed")
    told, complaints = client.communicate(timeout=180)

    assert client.returncode == 0, complaints
    assert f"{PROMPTS} of {PROMPTS} results" in told
    collected = events(ledger, "collected")
    assert len(collected) == PROMPTS
    assert set(collected.values()) == {1}, "none is fetched twice"
    files = sorted(path for path in ledger.parent.iterdir() if path.name[:4].isdigit())
    assert [path.read_text() for path in files] == [f"a drawing of {each}" for each in prompts]
    again = events(ledger, "failed")
    sent_again = sum(times > 1 for times in events(ledger, "sending").values())
    assert sent_again <= 4 * len(CLIENT_KILLED_AT), "only what was in doubt is sent again"
    drawn = Counter((aws.folder / "drawn.txt").read_text().splitlines())
    twice = sum(drawn.values()) - PROMPTS
    # Beside those, an instance that dies loses what it works on, and a refused write its answer.
    assert twice <= sent_again + INSTANCES * (len(CLIENT_KILLED_AT) + 1) + len(again)
    with capsys.disabled():
        print(
            f"\n{PROMPTS} prompts, client killed {len(CLIENT_KILLED_AT)} times, AWS once: "
            f"{len(files)} results, none twice, {sent_again} sent again, {twice} inferred twice, "
            f"{time.monotonic() - started_s:.0f} s"
        )


def test_a_poisoned_prompt_is_told_as_text_with_an_exit_code(aws):
    (aws.folder / "mixed.csv").write_text("prompt,steps\na seven,2\npoison ivy,2\nan eight,2\n")

    client = command(
        aws.folder, "batch", "mixed.csv", "--output", "mixed", "--endpoint", "draw", "--json"
    )
    told, complaints = client.communicate(timeout=60)

    assert client.returncode == 1
    assert "failed: 2: poison ivy: RejectedError: poison ivy cannot be drawn\n" in complaints
    assert [each["status"] for each in json.loads(told)] == ["done", "failed", "done"]


def test_an_interrupted_batch_says_how_to_go_on(aws):
    scale(aws.account, 0)
    (aws.folder / "two.txt").write_text("a seven\nan eight\n")
    ledger = aws.folder / "two" / FILE
    client = command(aws.folder, "batch", "two.txt", "--output", "two", "--endpoint", "draw")
    eventually(lambda: len(events(ledger, "accepted")) == 2, "both in the queue", 60)

    client.send_signal(signal.SIGINT)
    _, complaints = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "To resume: async-inference resume two" in complaints

    scale(aws.account, INSTANCES)
    client = command(aws.folder, "resume", "two")
    told, complaints = client.communicate(timeout=60)
    assert client.returncode == 0, complaints
    assert "2 of 2 results" in told
    assert set(events(ledger, "sending").values()) == {1}


@pytest.mark.parametrize("fault", ["asleep", "silent"])
def test_a_deadline_is_kept_within_one_polling_interval(aws, fault):
    """Of an endpoint without instances, and of an AWS that takes calls and answers none."""
    pace = Pace(longest_s=4.0)
    running = daemon.running(aws.folder / ".local" / "aws")
    assert running is not None
    scale(aws.account, 0)
    with Client("draw", session=session(), url=aws.url, pace=pace) as client:
        accepted = client.submit(Request.json({"prompt": "a seven"}))
        if fault == "silent":
            os.kill(running.pid, signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            with pytest.raises(DeadlineError):
                client.wait(accepted, deadline_s=3.0)
            took_s = time.monotonic() - started_s
        finally:
            os.kill(running.pid, signal.SIGCONT)
        assert 3.0 <= took_s <= 3.0 + pace.longest_s

        scale(aws.account, 1)
        assert client.wait(accepted, deadline_s=60).body == b"a drawing of a seven"
