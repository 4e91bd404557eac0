"""`weights publish` with a Hugging Face id, against a stand-in of the hub's HTTP API."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.serving  # huggingface_hub comes with what the handler imports

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionXLPipeline"}',
    "unet/diffusion_pytorch_model.fp16.safetensors": bytes(3_000_000),
    "unet/diffusion_pytorch_model.safetensors": b"twice as large",
    "unet/model.onnx": b"another format",
}


class Hub(BaseHTTPRequestHandler):
    """Revision, file tree and files of one repository, as the hub answers them."""

    fetched: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in (f"/api/models/org/sdxl/revision/{name}" for name in ("main", "v1", COMMIT)):
            siblings = [{"rfilename": name} for name in FILES]
            self._answer(json.dumps({"id": "org/sdxl", "sha": COMMIT, "siblings": siblings}))
        elif path == f"/api/models/org/sdxl/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in FILES.items()
            ]
            self._answer(json.dumps(tree))
        elif path.startswith(f"/org/sdxl/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/sdxl/resolve/{COMMIT}/")
            if self.command == "GET":
                self.fetched.append(name)
            self._answer(FILES[name], ETag=f'"{name.replace("/", "-")}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, body: str | bytes, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(200)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def hub():
    Hub.fetched = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def s3_url():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def run(hub: str, s3_url: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "async_inference", "weights", "publish", *arguments],
        env={
            **os.environ,
            "HF_ENDPOINT": hub,
            "HF_HOME": str(cache),
            "AWS_ENDPOINT_URL": s3_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_hub_id_reaches_s3_and_a_second_run_fetches_nothing(hub, s3_url, tmp_path):
    s3 = boto3.client(
        "s3",
        endpoint_url=s3_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    s3.create_bucket(Bucket="models")

    first = run(hub, s3_url, tmp_path, "org/sdxl@v1", "s3://models/sdxl")
    fetched = list(Hub.fetched)
    second = run(hub, s3_url, tmp_path, "org/sdxl", "s3://models/sdxl")
    absent = run(hub, s3_url, tmp_path, "org/absent", "s3://models/sdxl")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="models")["Contents"]]

    assert first.returncode == 0, first.stderr
    assert keys == [
        "sdxl/model_index.json",
        "sdxl/published.json",
        "sdxl/unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    manifest = json.loads(s3.get_object(Bucket="models", Key=keys[1])["Body"].read())
    assert (manifest["source"], manifest["revision"]) == ("org/sdxl", COMMIT)
    assert "2 files sent (3.0 MB), 0 were there" in first.stderr
    assert "0 files sent (0.0 MB), 2 were there" in second.stderr
    assert Hub.fetched == fetched, "the second run has it all in its cache"
    assert absent.returncode == 2
    assert "error: org/absent: " in absent.stderr
    assert "Traceback" not in absent.stderr
