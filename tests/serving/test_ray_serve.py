"""The handler under Ray Serve, as AWS's Ray Serve image runs it, over HTTP."""

import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from async_inference.local_aws.fleet.instance import extract
from async_inference.stack.images import Image
from components import packages
from components.model_source import package
from tests.support import ROOT
from tests.support.image_python import needed, python_with
from tests.support.ray_image import ray_image
from tests.support.requests import malformed_json
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

HANDLER = ROOT / "inference_code"
RAY = Image(serving="ray", python=f"3.{sys.version_info.minor}")
ASKED = {"prompt": "a seven", "seed": 7, "steps": 3}
PROBE = """
import json, os, threading, time
at_once, most, lock = 0, 0, threading.Lock()
def model_fn(model_dir):
    if os.environ.get("BROKEN"):
        raise ValueError("there are no weights in " + model_dir)
    return os.environ.get("CUDA_VISIBLE_DEVICES")
def input_fn(body, content_type): return json.loads(body)
def predict_fn(asked, device):
    global at_once, most
    with lock:
        at_once += 1
        most = max(most, at_once)
    try:
        if asked.get("crash"):
            os._exit(3)
        time.sleep(asked.get("sleep_s", 0))
        if "answer_bytes" in asked:
            return b"x" * asked["answer_bytes"]
        return json.dumps({"device": device, "process": os.getpid(), "most": most}).encode()
    finally:
        with lock:
            at_once -= 1
def output_fn(answer, accept): return answer, "application/octet-stream"
"""


def probe(folder: Path) -> Path:
    (folder / "probe").mkdir()
    (folder / "probe" / "inference.py").write_text(PROBE)
    return package(folder / "probe", RAY, build_folder=folder / "build")


def ask(client: httpx.Client, body: bytes | dict, accept: str = "image/png") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": accept}
    return client.post("/invocations", content=content, headers=headers)


@pytest.fixture
def image_python(tmp_path) -> Path:
    """A Python with what the image's list names, as far as it is here, and nothing else."""
    listed = (packages.IMAGES / "ray.txt").read_text().splitlines()
    names = (line.split("==")[0] for line in listed if line[:1] != "#")
    # Versions here may be others than the image's, and need what those do not.
    python = python_with(tmp_path / "image-python", needed(*names))
    for command in ("ray", "serve"):
        module = "ray.scripts.scripts" if command == "ray" else "ray.serve.scripts"
        name = "main" if command == "ray" else "cli"
        script = python.with_name(command)
        script.write_text(
            f"#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"
        )
        script.chmod(0o755)
    return python


@pytest.mark.skipif(sys.platform != "linux", reason="the container's packages are Linux's")
def test_with_the_images_packages_and_the_packed_ones_ray_serve_answers_as_the_transformer_does(
    image_python, in_process, tmp_path
):
    """The same bytes and refusals; TorchServe's are the same, too (test_torchserve.py).

    Under this machine's Python; the image has 3.13, for which the same lock is packed.
    """
    archive = packages.packed(HANDLER, RAY, tmp_path / "build")
    assert archive is not None
    with tarfile.open(archive) as tar:
        extract(tar, tmp_path / "packages")
        names = {name.split("/")[0] for name in tar.getnames()}
    code = package(HANDLER, RAY, build_folder=tmp_path / "build")
    here: dict[str, Any] = {"MODEL_WEIGHTS": "tiny", "python": image_python}
    here["python_path"] = str(tmp_path / "packages")
    requests = malformed_json()
    assert len(requests) >= 200
    transformer = in_process()

    missing = subprocess.run(
        [image_python, "-c", "import diffusers"], capture_output=True, text=True, check=False
    )
    with ray_image(tmp_path / "image", code, **here) as container:
        eventually(lambda: container.healthy, f"the model, see {container.log}", 300)
        served = ask(container.client, ASKED)
        several = ask(container.client, ASKED | {"num_images": 2}, "application/json")
        refused = [ask(container.client, body) for body in requests]
        again = ask(container.client, ASKED)

    assert {name for name in names if ".dist-info" not in name} == {
        *("accelerate", "diffusers", "peft", "psutil")
    }
    assert "No module named 'diffusers'" in missing.stderr
    assert (served.status_code, served.headers["content-type"]) == (200, "image/png")
    assert served.content == again.content == transformer.ask(ASKED).body
    assert len(several.json()["images"]) == 2
    expected = [transformer.ask(body) for body in requests]
    assert [each.status_code for each in refused] == [each.status for each in expected]
    sentences = [json.loads(each.body)["error"] for each in expected]
    assert [each.json()["error"] for each in refused] == sentences
    assert not [each for each in refused if "Traceback" in each.text]


def test_every_device_has_a_replica_and_the_concurrency_is_shared(tmp_path):
    limits: dict[str, Any] = {"HANDLER_CONCURRENCY": "4", "RAYSERVE_BACKEND_TIMEOUT": "60"}

    with ray_image(tmp_path / "image", probe(tmp_path), gpus=2, **limits) as container:
        eventually(lambda: container.healthy, f"the model, see {container.log}", 300)
        large = ask(container.client, {"answer_bytes": 100_000_000})
        with ThreadPoolExecutor(8) as threads:
            asked = [{"sleep_s": 0.5}] * 8
            answers = list(threads.map(lambda each: ask(container.client, each), asked))

    assert (large.status_code, len(large.content)) == (200, 100_000_000)
    seen = [answer.json() for answer in answers]
    assert {each["device"] for each in seen} == {"0", "1"}
    assert len({each["process"] for each in seen}) == 2
    assert max(each["most"] for each in seen) == 2, "four at a time, two for each"


def test_one_request_at_a_time_one_timeout_and_a_new_process_for_one_that_dies(tmp_path):
    limits: dict[str, Any] = {"HANDLER_CONCURRENCY": "1", "RAYSERVE_BACKEND_TIMEOUT": "15"}

    with ray_image(tmp_path / "image", probe(tmp_path), **limits) as container:
        eventually(lambda: container.healthy, f"the model, see {container.log}", 300)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: ask(container.client, {}), range(8)))
        first = answers[0].json()["process"]
        crashed = ask(container.client, {"crash": True})
        eventually(lambda: ask(container.client, {}).status_code == 200, "the new process", 60)
        second = ask(container.client, {}).json()["process"]
        slow = ask(container.client, {"sleep_s": 600})
        eventually(lambda: ask(container.client, {}).status_code == 200, "another process", 60)
        third = ask(container.client, {}).json()["process"]

    assert [answer.status_code for answer in answers] == [200] * 8
    assert max(answer.json()["most"] for answer in answers) == 1
    assert crashed.status_code == 500
    assert "process ended" in crashed.json()["error"]
    assert slow.status_code == 504
    assert len({first, second, third}) == 3


def test_a_model_that_does_not_load_is_never_healthy_and_the_log_says_why(tmp_path):
    with ray_image(tmp_path / "image", probe(tmp_path), BROKEN="1") as container:
        eventually(
            lambda: "the model does not load" in container.log.read_text(errors="replace"),
            f"the end of its attempts, see {container.log}",
            300,
        )
        answered = container.client.get("/ping")
        log = container.log.read_text(errors="replace")

    assert answered.status_code == 503
    assert "there are no weights in" in log
