"""Starts the instances' processes as forks of one template, and reports their end."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import BinaryIO

from async_inference.local_aws import clients

MESSAGE_LENGTH = struct.Struct("!I")
"""Goes before each message to the template, which is the instance's variables as JSON."""
MESSAGE_FDS = 3
"""Sent with it: a pipe that closes when this process ends, one to announce on, and the log."""
LOAD_FAILED = b"load failed\n"
"""The announcement of an instance whose handler does not load."""
ATTEMPTS = 3
"""Attempts to start an instance, since the template may be killed during one."""


class InstanceProcess:
    """The running process of an instance.

    Args:
        pid: its number, and its process group's.
        port: where it serves `/ping` and `/invocations`.
    """

    def __init__(self, pid: int, port: int, lifeline: int, announcement: BinaryIO) -> None:
        self.pid = pid
        self.port = port
        self._lifeline = lifeline
        self._announcement = announcement
        self._ended = threading.Event()
        self.load_failed = False
        """Whether it ended because its handler did not load, not because it was killed."""

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return not self._ended.is_set()

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended`, in another thread, once the process has ended."""

        def wait() -> None:
            with self._announcement:
                self.load_failed = LOAD_FAILED in self._announcement.read()
            self._ended.set()
            os.close(self._lifeline)
            ended()

        threading.Thread(target=wait, daemon=True).start()

    def kill(self) -> None:
        """End it and its children immediately."""
        if self.alive:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def wait(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        self._ended.wait(timeout_s)


class ProcessTemplate:
    """The process of which all instances are forks; it starts with the first instance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The template's process number, None while it does not run."""
        with self._lock:
            return self._process.pid if self._process else None

    def fork(self, variables: Mapping[str, str], log: BinaryIO) -> InstanceProcess:
        """Start an instance's process.

        Args:
            variables: all of its environment variables.
            log: where its output goes.

        Raises:
            OSError: it did not start.
        """
        for _ in range(ATTEMPTS):
            process = self._fork(variables, log)
            if process is not None:
                return process
        raise OSError(f"the instance's process ended before it began, {ATTEMPTS} times")

    def close(self) -> None:
        """End the template; its forks run until this process ends or kills them."""
        with self._lock:
            self._end()

    def _fork(self, variables: Mapping[str, str], log: BinaryIO) -> InstanceProcess | None:
        life_read, life_write = os.pipe()
        told_read, told_write = os.pipe()
        message = json.dumps(dict(variables)).encode()
        try:
            with self._lock:
                template = self._running()
                socket.send_fds(
                    template,
                    [MESSAGE_LENGTH.pack(len(message))],
                    [life_read, told_write, log.fileno()],
                )
                template.sendall(message)
        except OSError:
            with self._lock:
                self._end()
        finally:
            os.close(life_read)
            os.close(told_write)
        announcement = os.fdopen(told_read, "rb")
        pid, _, port = announcement.readline().partition(b" ")
        if not port:
            announcement.close()
            os.close(life_write)
            return None
        return InstanceProcess(int(pid), int(port), life_write, announcement)

    def _running(self) -> socket.socket:
        if self._process is None or self._process.poll() is not None:
            self._end()
            mine, its = socket.socketpair()
            with its:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-u",
                        "-m",
                        "async_inference.local_aws.fleet.worker",
                        str(its.fileno()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[its.fileno()],
                    env={
                        "OMP_NUM_THREADS": "1",
                        "PYTHONDONTWRITEBYTECODE": "1",
                        **clients.isolated({}),
                    },
                    start_new_session=True,
                )
            self._socket = mine
        assert self._socket is not None
        return self._socket

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
