"""The handler as the container has it: its folder on the path, its modules by their bare names."""

import base64
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import ROOT

FOLDER = ROOT / "inference_code"
MODULES = ("inference", "request", "answer", "errors", "device", "weights", "prompts", "pipeline")

ASKED = {"prompt": "a seven", "steps": 2, "seed": 7}


def encoded(image) -> str:
    """A picture as a field of a request."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(body: bytes):
    """The picture that an answer is."""
    from PIL import Image

    return Image.open(io.BytesIO(body))


def forget_handler() -> None:
    """Let the next import of a handler's modules find another folder's."""
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def in_the_container(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    forget_handler()
    yield
    forget_handler()


class InProcess:
    """A handler behind SageMaker's own Transformer, in this process: no server, no Java."""

    def __init__(self, model_dir: Path) -> None:
        from sagemaker_inference.transformer import Transformer

        self.system_properties = {"model_dir": str(model_dir)}
        self.request_processor = [self]
        self.transformer = Transformer()
        self.transformer.validate_and_initialize(str(model_dir), self)

    def ask(self, fields: dict | bytes, accept: str = "image/png") -> SimpleNamespace:
        """The answer to a JSON request: status, media_type, body."""
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        self.headers = {"Content-Type": "application/json", "Accept": accept}
        self.answer = SimpleNamespace(status=200, media_type=None)
        (self.answer.body,) = self.transformer.transform([{"body": body}], self)
        return self.answer

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def set_response_status(self, code: int, phrase: str) -> None:
        self.answer.status = code

    def set_response_content_type(self, _index: int, value: str) -> None:
        self.answer.media_type = value


@pytest.fixture
def in_process(monkeypatch, tmp_path, in_the_container):
    """Loads the handler with some variables set; the tiny model unless they say otherwise."""

    def load(**variables: str) -> InProcess:
        for name, value in {"MODEL_WEIGHTS": "tiny", **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
        forget_handler()
        return InProcess(tmp_path)

    return load
