"""A process that has imported the provider, and forks it for each engine.

Importing the provider takes longer than most previews use it. So the engine starts a small script
(`bin/pulumi-resource-aws`), which connects to this process. The fork serves the engine, and ends
with that connection.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import BinaryIO, NoReturn

from async_inference.local_aws import clients


class ProviderTemplate:
    """The process that providers are forks of; started when the first engine asks for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pid(self) -> int | None:
        """The template's process, None while there is none."""
        with self._lock:
            return self._process.pid if self._process else None

    def port(self) -> int:
        """The loopback port at which it takes connections.

        Raises:
            OSError: the process did not start.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = process = subprocess.Popen(
                    [sys.executable, "-m", __name__],
                    stdin=subprocess.PIPE,  # its end tells the template that this process ended
                    stdout=subprocess.PIPE,
                    env=clients.isolated({}),
                    start_new_session=True,
                )
                assert process.stdout is not None
                announced = process.stdout.readline()
                if not announced:
                    self._end()
                    raise OSError("the provider's process ended before it began")
                self._port = int(announced)
            return self._port

    def close(self) -> None:
        """End the template; its forks end with their engines."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> None:
    """Fork a provider for each connection, until standard input ends."""
    from async_inference.local_aws.provider.plugin import serve

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection = forked(listener)
    if connection is not None:
        _become(connection, serve)


def forked(listener: socket.socket) -> socket.socket | None:
    """Fork for each connection, until standard input ends.

    Returns:
        The connection, in its fork, which has its own session; None in this process, at the end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the forks
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return connection
        connection.close()


def _become(
    connection: socket.socket, serve: Callable[[Sequence[str], Callable[[int], None]], None]
) -> NoReturn:
    """Serve the engine that sends its arguments, variables and folder in the first line."""
    try:
        asked = connection.makefile("rb")
        started = json.loads(asked.readline())
        os.environ.clear()
        os.environ.update(started["variables"])
        os.chdir(started["folder"])
        for stream in (1, 2):
            os.dup2(connection.fileno(), stream)
        threading.Thread(target=_end_with, args=(asked,), daemon=True).start()
        serve(started["arguments"], lambda port: print(port, flush=True))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _end_with(connection: BinaryIO) -> None:
    connection.read()
    os._exit(0)


if __name__ == "__main__":
    main()
