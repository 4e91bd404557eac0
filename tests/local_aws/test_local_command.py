"""`async-inference local status` and `logs`, as typed."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from async_inference.cli import local
from async_inference.local_aws import make_up
from async_inference.validation import InvalidInputError
from tests.support.embedded_aws import Account
from tests.support.waiting import eventually

COMMAND = [sys.executable, "-m", "async_inference", "local"]


def typed(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status"], "the embedded AWS is not running; start it with make up"),
        (["logs"], "no endpoint has written a log yet; deploy one with make up"),
        (["logs", "nothing"], "endpoint nothing has no logs; endpoints with logs: none"),
        (["status", "--watch", "--json"], "--watch --json: choose one of them; --json prints once"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence_with_a_way_out(
    tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(local.app, arguments)

    assert isinstance(done.exception, InvalidInputError)
    assert list(done.exception.problems) == [sentence]
    assert done.output == ""


@pytest.fixture
def folder(start, tmp_path) -> Path:
    """A project's folder in which an embedded AWS runs, with an endpoint that answered once."""
    aws_folder = tmp_path / ".local" / "aws"
    account: Account = start(folder=aws_folder)
    account.deploy(code=CHATTY)
    account.in_service()
    account.read(account.submit(b"hello")["OutputLocation"])
    me = psutil.Process()
    note = {"pid": me.pid, "started_s": me.create_time(), "url": account.aws.url, "minute_s": 60}
    (aws_folder / "daemon.json").write_text(json.dumps(note))
    return tmp_path


CHATTY = """
def model_fn(folder):
    print("the model is loaded")
def input_fn(data, content_type): return data
def predict_fn(data, model):
    print(f"asked for {data!r}")
    return data
def output_fn(prediction, accept): return prediction
"""


@pytest.mark.local_aws
def test_status_is_text_for_people_and_json_for_scripts(folder):
    shown = typed(folder, "status")
    told = typed(folder, "status", "--json")

    assert (shown.returncode, told.returncode) == (0, 0)
    assert "Idle: 1 instance in service, nothing queued." in shown.stdout
    endpoint = json.loads(told.stdout)["regions"]["us-east-1"]["endpoints"]["echo"]
    assert endpoint["in_service"] == 1
    assert "/_local/" in shown.stdout, "where the charts are"


@pytest.mark.local_aws
def test_logs_are_what_the_instances_wrote_line_by_line(folder):
    done = typed(folder, "logs", "echo")

    assert done.returncode == 0
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert any("the model is loaded" in text for _, text in lines)
    assert any("asked for" in text and "hello" in text for _, text in lines)
    assert all(stream.startswith("AllTraffic/i-") for stream, _ in lines)


def test_a_log_that_grows_is_read_on_by_whole_lines(tmp_path):
    log = tmp_path / "us-east-1" / "echo" / "AllTraffic" / "i-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntw")
    read: dict[Path, int] = {}

    first = list(local._new_lines(tmp_path, "echo", read))
    log.write_text("one\ntwo\nthree\n")
    log.with_name("i-1.data-log").write_text("four\n")
    second = list(local._new_lines(tmp_path, "*", read))

    assert first == [("AllTraffic/i-1", "one")]
    assert sorted(second) == [
        ("AllTraffic/i-1", "three"),
        ("AllTraffic/i-1", "two"),
        ("AllTraffic/i-1/data-log", "four"),
    ]


@pytest.mark.local_aws
@pytest.mark.parametrize(
    ("arguments", "sign"),
    [(["status", "--watch"], b"Idle: 1 instance"), (["logs", "--follow"], b"asked for")],
)
def test_ctrl_c_ends_watching_without_a_complaint(folder, arguments, sign):
    mine, its = pty.openpty()
    process = subprocess.Popen([*COMMAND, *arguments], cwd=folder, stdout=its, stderr=its)
    os.close(its)
    printed = b""
    while sign not in printed:
        printed += os.read(mine, 65536)

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=30) == 0
    rest = eventually(lambda: _rest(mine), "the end of its output")
    os.close(mine)
    assert b"Traceback" not in rest
    assert b"Aborted" not in rest


def _rest(terminal: int) -> bytes:
    rest = b"\n"
    try:
        while more := os.read(terminal, 65536):
            rest += more
    except OSError:
        pass  # the other end is closed
    return rest


def test_the_newest_minutes_fit_into_a_terminal_of_80_columns():
    busy = [float(minute) for minute in range(local.CHARTED_MINUTES)]
    columns = ("in_service", "backlog", "oldest_age_s", "done", "failed")
    endpoint: Any = {
        "status": "InService",
        "configuration": "echo-1",
        "desired": 10,
        "in_service": 10,
        "backlog": 10,
        "busy": 10,
        "oldest_age_s": 59.0,
        "failure_reason": None,
        "summary": "At work: 10 instances on 10 requests.",
        "instances": [],
        "history": dict.fromkeys(columns, busy),
    }
    printed = io.StringIO()

    Console(width=80, file=printed).print(*local._endpoint_shown("echo", endpoint))

    assert printed.getvalue().count(local.BARS[-1]) >= len(columns)
    assert "…" not in printed.getvalue()


def test_names_from_aws_are_not_taken_for_markup():
    hostile = "[link=file:///]name[/link][bold"
    alarm = {
        "name": hostile,
        "condition": hostile,
        "state": "ALARM",
        "since_s": 0.0,
        "reason": hostile,
    }
    found: Any = {
        "now_s": 0.0,
        "minute_s": 60,
        "regions": {
            "us-east-1": {
                "endpoints": {},
                "alarms": [alarm],
                "activities": [],
                "not_scaled": [
                    {"StartTime": 0.0, "Description": hostile, "Cause": hostile, "EndTime": 0.0}
                ],
            }
        },
    }
    printed = io.StringIO()

    Console(width=200, file=printed).print(local._shown(found, "http://127.0.0.1:1"))

    assert printed.getvalue().count(hostile) == 5


@pytest.mark.parametrize(
    ("count", "cause", "line"),
    [
        (
            1,
            "monitor alarm wake in state ALARM triggered policy WakeUp",
            "scale-out to 1: WakeUp",
        ),
        (
            0,
            "monitor alarm TargetTracking-x-AlarmLow-1 in state ALARM triggered policy Tracking",
            "scale-in to 0: Tracking",
        ),
        (0, "maximum capacity was set to 0", "scale-in to 0: maximum capacity was set to 0"),
    ],
)
def test_make_up_shows_a_scaling_activity_on_one_line(count, cause, line):
    activity: Any = {"Description": f"Setting desired instance count to {count}.", "Cause": cause}

    assert make_up.event(activity, in_service=1 - count) == line


def test_the_plugin_is_installed_where_pulumi_looks_for_the_programs_version(tmp_path):
    for _ in range(2):
        make_up.installed_plugin(tmp_path)

    folder = tmp_path / "pulumi-home" / "plugins" / f"resource-aws-v{version('pulumi-aws')}"
    assert os.access(folder / "pulumi-resource-aws", os.X_OK)
