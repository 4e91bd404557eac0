"""Starting the embedded AWS in the background: once, on its port, and told apart from others."""

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
from rich.console import Console

from async_inference.local_aws import daemon, make_up
from async_inference.validation import InvalidInputError


def test_a_taken_port_is_one_sentence_with_a_way_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(InvalidInputError) as raised:
            daemon.start(tmp_path / "aws", port=port, minute_s=60, setup_s=0)

    (problem,) = raised.value.problems
    assert problem.startswith(f"port {port} is in use by another program")
    assert f"--port {port + 1}" in problem
    assert not (tmp_path / "aws").exists(), "nothing half done"


def test_a_process_number_that_was_reused_after_a_reboot_is_not_the_embedded_aws(tmp_path):
    mine = psutil.Process(os.getpid())
    note = {
        "pid": mine.pid,
        "started_s": mine.create_time() - 1000,
        "url": "http://127.0.0.1:1",
        "minute_s": 1.0,
    }
    (tmp_path / "daemon.json").write_text(json.dumps(note))

    assert daemon.running(tmp_path) is None
    assert daemon.stop(tmp_path) is False
    assert mine.is_running()


def test_a_killed_process_that_nobody_reaped_does_not_run(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    process = psutil.Process(dead.pid)
    note = {
        "pid": dead.pid,
        "started_s": process.create_time(),
        "url": "http://127.0.0.1:1",
        "minute_s": 1.0,
    }
    (tmp_path / "daemon.json").write_text(json.dumps(note))
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)

    assert process.status() == psutil.STATUS_ZOMBIE
    assert daemon.running(tmp_path) is None
    dead.wait()


def test_a_half_written_note_is_as_good_as_none(tmp_path):
    (tmp_path / "daemon.json").write_text('{"pid": 1')

    assert daemon.running(tmp_path) is None


def test_make_down_takes_a_state_away_that_was_cut_short(tmp_path, monkeypatch):
    """Pulumi does not replace its file at once, so that a kill may leave half of it."""
    monkeypatch.chdir(tmp_path)
    state = make_up.PULUMI_STATE / ".pulumi" / "stacks" / "async-inference" / "local.json"
    state.parent.mkdir(parents=True)
    state.touch()
    monkeypatch.setattr(daemon, "running", lambda folder: daemon.Daemon(1, 0.0, "http://gone", 1.0))
    monkeypatch.setattr(daemon, "stop", lambda folder: True)

    make_up.down(Console())

    assert not make_up.PULUMI_STATE.exists()
