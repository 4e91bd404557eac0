"""The handler in the true serving path: TorchServe with SageMaker's container toolkit, over HTTP.

What it can not prove: that AWS's image does the same with its own versions of both.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from async_inference.local_aws.fleet.instance import extract
from async_inference.stack.images import Image, model_server_environment
from components.model_source import package
from components.packages import packed
from tests.support import ROOT
from tests.support.image_python import needed, python_with
from tests.support.ports import free_ports
from tests.support.requests import malformed_json
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

HANDLER = ROOT / "inference_code"
TORCHSERVE = Image(
    serving="torchserve", python=f"3.{sys.version_info.minor}", machine=platform.machine()
)
IMAGE = ("torch", "torchserve", "sagemaker-pytorch-inference", "numpy", "scipy", "setuptools")
"""What AWS's images bring, as far as serving needs it."""
# The toolkit writes its configuration to /etc, where a test has no business.
START = """
import sys
from sagemaker_pytorch_serving_container import serving, torchserve
torchserve.TS_CONFIG_FILE = sys.argv[1]
serving.main()
"""
SHORT_OF_MEMORY_ONCE = """

_load = model_fn


def model_fn(model_dir):
    import torch

    model = _load(model_dir)
    vae = model.base.to(torch.float16).vae
    vae.register_to_config(force_upcast=True)
    decode, calls = vae.decode, []

    def short_once(*args, **options):
        calls.append(1)
        if len(calls) == 25:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return decode(*args, **options)

    vae.decode = short_once
    return model
"""
"""Appended to the handler: half precision as on a GPU, and one out-of-memory in the VAE."""
ECHO = """
import json, time
def model_fn(model_dir): return None
def input_fn(body, content_type): return json.loads(body)
def predict_fn(asked, model):
    time.sleep(asked.get("sleep_s", 0))
    return b"x" * asked.get("answer_bytes", 2)
def output_fn(answer, accept): return answer, "application/octet-stream"
"""


@pytest.fixture
def image_python(tmp_path) -> Path:
    """A Python with what AWS's image brings, and without pip: torch, TorchServe, the toolkit."""
    python = python_with(tmp_path / "image", needed(*IMAGE))
    command = python.with_name("torchserve")
    command.write_text(f"#!{python}\nfrom ts.model_server import start\nstart()\n")
    command.chmod(0o755)
    return python


@contextlib.contextmanager
def torchserve(
    folder: Path, code: Path, python: Path = Path(sys.executable), /, **variables: str
) -> Generator[httpx.Client]:
    """TorchServe with an unpacked model folder, until it has loaded; loopback only."""
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    for part in ("base/model", "temp", "logs"):
        (folder / part).mkdir(parents=True)
    with tarfile.open(code) as tar:
        extract(tar, folder / "base/model")
    environment = {
        "HOME": os.environ["HOME"],
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SAGEMAKER_BASE_DIR": str(folder / "base"),
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
        "TS_INFERENCE_ADDRESS": f"http://127.0.0.1:{inference}",
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{management}",
        "TS_METRICS_ADDRESS": f"http://127.0.0.1:{metrics}",
        "TS_GRPC_INFERENCE_PORT": str(grpc),
        "TS_GRPC_MANAGEMENT_PORT": str(grpc_management),
        "TEMP": str(folder / "temp"),
        "TMPDIR": str(folder / "temp"),
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        **variables,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-c", START, str(folder / "ts.properties")],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{inference}", timeout=300)
    try:
        # /ping is 200 before the model has loaded (docs/aws-facts.md#torchserve).
        eventually(lambda: answers(client, process), f"TorchServe, see {folder / 'log'}", 300)
        yield client
    finally:
        client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(client: httpx.Client, process: subprocess.Popen) -> bool:
    assert process.poll() is None, "TorchServe ended"
    try:
        return client.post("/invocations", content=b"{}").status_code < 500
    except httpx.TransportError:
        return False


def ask(client: httpx.Client, body: bytes | dict, accept: str = "image/png", **headers: str):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(
        "/invocations",
        content=content,
        headers={"Content-Type": "application/json", "Accept": accept, **headers},
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the container's packages are Linux's")
def test_without_the_handlers_packages_torchserve_answers_as_the_transformer_does_with_packed_ones(
    image_python, in_process, tmp_path
):
    """The same bytes and refusals, and nothing is installed. The packages' folder is on PYTHONPATH,
    behind the code, as the component sets it."""
    archive = packed(HANDLER, TORCHSERVE, tmp_path / "build")
    assert archive is not None
    with tarfile.open(archive) as tar:
        extract(tar, tmp_path / "packages")
    code = package(HANDLER, TORCHSERVE, build_folder=tmp_path / "build")
    here = {"MODEL_WEIGHTS": "tiny", "PYTHONPATH": str(tmp_path / "packages")}
    asked = {"prompt": "a seven", "seed": 7, "steps": 3}
    refusals = [
        (b"{", 400, "the body is not valid JSON"),
        (b'{"prompt": "\xff"}', 400, "the body is not UTF-8"),
        (b'{"prompt": "x", "width": 65}', 400, "width = 65: input should be a multiple of 8"),
        (b'{"prompt": "x", "num_images": 2}', 406, "2 images come as application/zip"),
    ]
    bodies = malformed_json()
    transformer = in_process()

    missing = subprocess.run(
        [image_python, "-c", "import diffusers"], capture_output=True, text=True, check=False
    )
    with torchserve(tmp_path / "torchserve", code, image_python, **here) as client:
        served = ask(client, asked)
        refused = [ask(client, body) for body, _, _ in refusals]
        again = ask(client, asked)
        statuses = [ask(client, body).status_code for body in bodies]

    assert "No module named 'diffusers'" in missing.stderr
    assert "installing packages" not in (tmp_path / "torchserve" / "log").read_text()
    assert (served.status_code, served.headers["content-type"]) == (200, "image/png")
    assert served.content == transformer.ask(asked).body
    assert again.content == served.content, "the worker goes on"
    for answer, (_, status, sentence) in zip(refused, refusals, strict=True):
        assert answer.status_code == status
        assert sentence in answer.json()["error"]
        assert "Traceback" not in answer.text
    assert statuses == [transformer.ask(body).status for body in bodies]


def test_one_out_of_memory_among_fifty_requests_costs_one_answer(tmp_path):
    shutil.copytree(HANDLER, tmp_path / "handler", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "handler" / "inference.py").open("a") as code:
        code.write(SHORT_OF_MEMORY_ONCE)
    code = package(tmp_path / "handler", TORCHSERVE, build_folder=tmp_path / "build")
    asked = {"prompt": "a seven", "seed": 7, "steps": 1}

    with torchserve(tmp_path / "torchserve", code, MODEL_WEIGHTS="tiny") as client:
        answers = [ask(client, asked) for _ in range(50)]
    statuses = [answer.status_code for answer in answers]

    assert (statuses.count(200), statuses.count(507)) == (49, 1)
    assert statuses[24] == 507
    assert len({answer.content for answer in answers}) == 2, "the others are the same image"


def test_one_timeout_and_one_size_limit_rule_the_model_server(tmp_path):
    """TS_DEFAULT_RESPONSE_TIMEOUT, TS_MAX_REQUEST_SIZE and TS_MAX_RESPONSE_SIZE (DG
    async-inference-create-endpoint): without them a response over 6.5 MB gives 500."""
    handler = tmp_path / "echo"
    handler.mkdir()
    (handler / "inference.py").write_text(ECHO)
    limits = model_server_environment(
        TORCHSERVE,
        timeout_s=4,
        max_payload_bytes=20_000_000,
        startup_timeout_s=120,
        concurrency=1,
    )
    code = package(handler, TORCHSERVE, build_folder=tmp_path / "build")

    with torchserve(tmp_path / "torchserve", code, **limits) as client:
        large_answer = ask(client, {"answer_bytes": 15_000_000})
        too_large_answer = ask(client, {"answer_bytes": 25_000_000})
        large_request = ask(client, {"padding": "x" * 15_000_000})
        too_large_request = ask(client, {"padding": "x" * 25_000_000})
        slow = ask(client, {"sleep_s": 60})
        eventually(lambda: ask(client, {}).status_code == 200, "the worker's restart", 60)

    assert (large_answer.status_code, len(large_answer.content)) == (200, 15_000_000)
    assert too_large_answer.status_code >= 500
    assert large_request.status_code == 200
    assert too_large_request.status_code == 413
    assert slow.status_code >= 500, "ended after four seconds, not after sixty"
    assert slow.elapsed.total_seconds() < 60
