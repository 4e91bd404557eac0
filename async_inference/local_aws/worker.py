"""One instance's process: the serving container's contract around the handler.

`GET /ping` answers 200 once the handler has loaded, `POST /invocations` runs it through SageMaker's
own `Transformer`, so that the function contract is SageMaker's. The process ends with its parent.

Unlike TorchServe, a handler that fails to load ends the process instead of being loaded for ever.
"""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sagemaker_inference import environment
from sagemaker_inference.transformer import Transformer


class _Request:
    """The context of one invocation, as the Transformer expects a model server's."""

    def __init__(self, model_dir: str, headers: dict[str, str]) -> None:
        self.system_properties = {"model_dir": model_dir, "gpu_id": None}
        self.request_processor = [self]
        self._headers = headers
        self.status = 200
        self.content_type = "application/octet-stream"

    def get_request_properties(self) -> dict[str, str]:
        return self._headers

    def set_response_content_type(self, _index: int, value: str) -> None:
        self.content_type = value

    def set_response_status(self, code: int = 200, **_: Any) -> None:
        self.status = code
        self.content_type = "text/plain"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer leaves at once instead of waiting for the acknowledgement of the one before.
    disable_nagle_algorithm = True
    wbufsize = -1
    transformer: Transformer
    loaded: threading.Event

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/ping" and self.loaded.is_set() else 503, b"", None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/invocations":
            self._answer(404, b"not found", "text/plain")
            return
        headers = {key: value for key, value in self.headers.items() if value is not None}
        request = _Request(environment.model_dir, headers)
        (answer,) = self.transformer.transform([{"body": body}], request)
        if isinstance(answer, str):
            answer = answer.encode()
        self._answer(request.status, bytes(answer), request.content_type)

    def _answer(self, status: int, body: bytes, content_type: str | None) -> None:
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        return


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 1024):
        pass
    os._exit(0)


def main() -> None:
    """Serve on a free loopback port; its number goes to the file descriptor in argument 1."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As in the container: the handler's own folder comes first.
    sys.path.insert(0, environment.code_dir)
    _Handler.transformer = Transformer()
    _Handler.loaded = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with os.fdopen(int(sys.argv[1]), "w") as announcement:
        announcement.write(str(server.server_port))
    _Handler.transformer.validate_and_initialize(
        model_dir=environment.model_dir, context=_Request(environment.model_dir, {})
    )
    _Handler.loaded.set()
    threading.Event().wait()


if __name__ == "__main__":
    main()
