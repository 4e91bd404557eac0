"""An instance's process, which serves the handler as SageMaker's containers do.

`GET /ping` answers 200 once the handler has loaded. `POST /invocations` runs it through SageMaker's
`Transformer`, which calls its functions as on AWS. The process ends with its parent.

Importing SageMaker's toolkit takes more than a second and 50 MB. One process, the template, does
that once; each instance is a fork of it, which starts in milliseconds and shares that memory.

A handler that fails to load ends the process; TorchServe would try to load it for ever.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy
from sagemaker_inference import environment
from sagemaker_inference.transformer import Transformer

from async_inference.local_aws.fleet.processes import LOAD_FAILED, MESSAGE_FDS, MESSAGE_LENGTH


class _Context(threading.local):
    """The context, which the Transformer keeps from its first call on; it differs for each thread.

    Model servers also reuse one object, and put each request's headers into it.
    """

    def __init__(self) -> None:
        # The PyTorch container's copy of the toolkit logs it when a handler fails.
        self.model_name = "model"
        self.system_properties = {"model_dir": environment.model_dir, "gpu_id": None}
        self.request_processor = [self]
        self.headers: dict[str, str] = {}
        self.status = 200
        self.content_type = "application/octet-stream"

    def start(self, headers: dict[str, str]) -> None:
        self.headers, self.status = headers, 200

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def set_response_content_type(self, _index: int, value: str) -> None:
        self.content_type = value

    def set_response_status(self, code: int = 200, **_: object) -> None:
        self.status = code
        self.content_type = "text/plain"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Send an answer immediately; do not wait until the one before is acknowledged.
    disable_nagle_algorithm = True
    wbufsize = -1
    transformer: Transformer
    context: _Context
    loaded: threading.Event

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/ping" and self.loaded.is_set() else 503, b"", None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/invocations":
            self._answer(404, b"not found", "text/plain")
            return
        self.context.start(dict(self.headers.items()))
        (answer,) = self.transformer.transform([{"body": body}], self.context)
        if isinstance(answer, str):
            answer = answer.encode()
        self._answer(self.context.status, bytes(answer), self.context.content_type)

    def _answer(self, status: int, body: bytes, content_type: str | None) -> None:
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        return


def main() -> None:
    """The template: fork an instance for each message on the socket that argument 1 names."""
    # The parent watches the instances; this process does not wait for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Keeps the imported modules in memory that all instances share.
    gc.freeze()
    messages = socket.socket(fileno=int(sys.argv[1]))
    while True:
        head, fds, _, _ = socket.recv_fds(
            messages, MESSAGE_LENGTH.size, MESSAGE_FDS, socket.MSG_WAITALL
        )
        if not head:
            return
        (length,) = MESSAGE_LENGTH.unpack(head)
        message = messages.recv(length, socket.MSG_WAITALL)
        if os.fork() == 0:
            messages.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _instance(json.loads(message), *fds)
        for fd in fds:
            os.close(fd)


def _instance(variables: dict[str, str], lifeline: int, announcement: int, log: int) -> None:
    """Become an instance; never returns."""
    try:
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update(variables)
        importlib.reload(environment)
        # A fork reseeds Python's generator, but not numpy's.
        numpy.random.seed()
        threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
        _serve(announcement)
    except BaseException:
        traceback.print_exc()
        # Tells the parent that nothing killed this process.
        os.write(announcement, LOAD_FAILED)
    finally:
        os._exit(1)


def _end_with_parent(lifeline: int) -> None:
    while os.read(lifeline, 1024):
        pass
    os._exit(0)


def _serve(announcement: int) -> None:
    # As in the container, the handler's folder comes first.
    sys.path.insert(0, environment.code_dir)
    _Handler.transformer = Transformer()
    _Handler.context = _Context()
    _Handler.loaded = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Stays open: when it closes, the parent knows that this process has ended.
    os.write(announcement, f"{os.getpid()} {server.server_port}\n".encode())
    _Handler.transformer.validate_and_initialize(
        model_dir=environment.model_dir, context=_Handler.context
    )
    _Handler.loaded.set()
    threading.Event().wait()


if __name__ == "__main__":
    main()
