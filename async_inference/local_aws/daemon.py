"""Starts, finds and stops the embedded AWS in the background."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from async_inference.local_aws import clients
from async_inference.local_aws.faults import Faults
from async_inference.validation import InvalidInputError

LOCAL = Path(".local")
AWS_FOLDER = LOCAL / "aws"
"""The state of this checkout's embedded AWS."""
PORT = 4590
START_WITHIN_S = 90.0


@dataclass(frozen=True)
class Daemon:
    """A running embedded AWS.

    Args:
        pid: its process.
        started_s: when that process began, which tells it from another with the same number.
        url: where it listens.
        minute_s: real seconds for each simulated minute.
    """

    pid: int
    started_s: float
    url: str
    minute_s: float


def running(folder: Path) -> Daemon | None:
    """The embedded AWS whose state is in this folder, None if it does not run."""
    try:
        daemon = Daemon(**json.loads((folder / "daemon.json").read_text()))
        process = psutil.Process(daemon.pid)
        alive = (
            process.create_time() == daemon.started_s
            # A killed one stays a zombie if its parent never reaps it.
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (OSError, ValueError, TypeError, psutil.NoSuchProcess):
        return None
    return daemon if alive else None


def start(
    folder: Path, *, port: int, minute_s: float, setup_s: float, faults: Faults | None = None
) -> Daemon:
    """Start it, or return the one that runs.

    Args:
        folder, port, minute_s, setup_s, faults: see `server.Options`.

    Raises:
        InvalidInputError: the port is taken, or it does not start.
    """
    found = running(folder)
    if found is not None:
        return found
    _refuse_taken(port)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    options = {
        "folder": str(folder.resolve()),
        "port": port,
        "minute_s": minute_s,
        "setup_s": setup_s,
        "faults": asdict(faults or Faults()),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "async_inference.local_aws.server", json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clients.isolated({}),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    end_s = time.monotonic() + START_WITHIN_S
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > end_s:
            process.kill()
            lines = log.read_text(errors="replace").splitlines()
            raise InvalidInputError(
                [f"the embedded AWS did not start: {lines[-1] if lines else 'silent'}; see {log}"]
            )
        time.sleep(0.05)
    daemon = Daemon(process.pid, psutil.Process(process.pid).create_time(), url, minute_s)
    (folder / "daemon.json").write_text(json.dumps(vars(daemon)))
    return daemon


def stop(folder: Path) -> bool:
    """End it and its instances; returns False if it did not run."""
    daemon = running(folder)
    (folder / "daemon.json").unlink(missing_ok=True)
    if daemon is None:
        return False
    process = psutil.Process(daemon.pid)
    os.kill(daemon.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except psutil.TimeoutExpired:
        process.kill()
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _refuse_taken(port: int) -> None:
    if _listens(port):
        raise InvalidInputError(
            [
                f"port {port} is in use by another program; end that, or choose another port: "
                f"async-inference local up --port {port + 1}"
            ]
        )
