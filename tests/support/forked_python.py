"""A Python whose every start is a fork of a process that has imported a program's packages.

Importing them takes a program longer than all the rest. In place of a virtual environment's Python
is a script: it hands its arguments, variables, folder and streams to that process, and ends with
the exit code of the fork. Whichever ends first ends both.
"""

import atexit
import json
import os
import runpy
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

MESSAGE_LENGTH = struct.Struct("!I")
"""Goes before the message, with the three streams."""
SCRIPT = """#!{python} -IS
import json, os, socket, struct, sys
asked = {{"arguments": sys.argv[1:], "variables": dict(os.environ), "folder": os.getcwd()}}
message = json.dumps(asked).encode()
with socket.socket(socket.AF_UNIX) as template:
    template.connect({address!r})
    socket.send_fds(template, [struct.pack("!I", len(message))], [0, 1, 2])
    template.sendall(message)
    code = template.recv(1)
sys.exit(code[0] if code else 1)
"""


class ForkedPython:
    """The process that is forked, and the script in place of a virtual environment's Python.

    Args:
        python: the virtual environment's Python; it is moved, and the script takes its place.
        modules: what to import before the first fork.
        folder: where to find those that belong to no package.
    """

    def __init__(self, python: Path, modules: Sequence[str], folder: Path) -> None:
        real = python.rename(python.with_name("python-of-template"))
        address = str(python.with_name("template"))
        self._template = subprocess.Popen(
            [real, __file__, address, str(folder), *modules],
            stdin=subprocess.PIPE,  # its end tells the template that this process ended
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._template.stdout is not None
        assert self._template.stdout.readline() == b"listening\n"
        python.write_text(SCRIPT.format(python=real, address=address))
        python.chmod(0o755)

    def close(self) -> None:
        """End the template; its forks end with their scripts."""
        self._template.kill()
        self._template.communicate()


def main(address: str, folder: str, *modules: str) -> None:
    """Fork for each connection, until standard input ends."""
    sys.path[0] = folder
    from async_inference.local_aws.provider.template import forked

    for module in modules:
        import_module(module)
    del sys.path[0]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("listening", flush=True)
        connection = forked(listener)
    if connection is not None:
        become(connection)


def become(connection: socket.socket) -> None:
    """Run what a script asks for, in its folder, with its variables and streams."""
    length, streams, _, _ = socket.recv_fds(connection, MESSAGE_LENGTH.size, 3)
    message = b""
    while len(message) < MESSAGE_LENGTH.unpack(length)[0]:
        message += connection.recv(65536)
    asked = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["variables"])
    os.chdir(asked["folder"])
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    code = 1

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code]))
        os._exit(code)

    atexit.register(end)  # registered first, so it runs after all else that waits for the end
    code = exit_code(asked["arguments"])


def end_with(connection: socket.socket) -> None:
    connection.recv(1)
    os._exit(1)


def exit_code(arguments: list[str]) -> int:
    """Run a script or, after -m, a module, as Python does."""
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return int(ended.code or 0) if isinstance(ended.code, int | None) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])
