"""AWS's Ray Serve image without its container: the steps of its entrypoint, and its adapter.

The adapter is written again from its documentation (docs/ray/deployment/sagemaker.md of
github.com/aws/deep-learning-containers): port 8080 answers /invocations with what Ray Serve says on
its own port, passing content type, Accept and X-Amzn-SageMaker-* headers on, within
RAYSERVE_BACKEND_TIMEOUT, and /ping with 200 while Ray Serve's /-/healthz does.

What it can not prove: that AWS's image does the same.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx

from async_inference.local_aws.fleet.instance import extract
from tests.support.ports import free_ports
from tests.support.waiting import eventually

ADAPTER = """
import os, sys
import httpx, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

backend, port = sys.argv[1], int(sys.argv[2])
timeout_s = int(os.environ.get("RAYSERVE_BACKEND_TIMEOUT", "300"))
client = httpx.AsyncClient(base_url=backend, timeout=timeout_s)

async def invocations(request):
    headers = {name: value for name, value in request.headers.items()
               if name.startswith("x-amzn-sagemaker-")}
    for name in ("content-type", "accept"):
        headers[name] = request.headers.get(name, "application/json")
    try:
        answer = await client.post("/", content=await request.body(), headers=headers)
    except httpx.TimeoutException:
        return Response('{"error": "Request timeout"}', 504, media_type="application/json")
    except httpx.ConnectError:
        return Response('{"error": "Service unavailable"}', 503, media_type="application/json")
    media_type = answer.headers.get("content-type", headers["accept"])
    return Response(answer.content, answer.status_code, media_type=media_type)

async def ping(request):
    try:
        answer = await client.get("/-/healthz", timeout=5)
    except httpx.HTTPError:
        return Response(status_code=503)
    return Response(status_code=200 if answer.status_code == 200 else 503)

routes = [Route("/invocations", invocations, methods=["POST"]), Route("/ping", ping)]
uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning")
"""


@dataclass(frozen=True)
class Container:
    """A running one."""

    client: httpx.Client
    log: Path

    @property
    def healthy(self) -> bool:
        """What SageMaker would think of it."""
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/ping").status_code == 200
        return False


@contextlib.contextmanager
def ray_image(
    folder: Path,
    code: Path,
    *,
    gpus: int = 0,
    python_path: str = "",
    python: Path = Path(sys.executable),
    **variables: str,
) -> Generator[Container]:
    """The image with an unpacked model archive; loopback only, and gone at the end."""
    gcs, serve, port = free_ports(3)
    model = folder / "model"
    model.mkdir(parents=True)
    with tarfile.open(code) as tar:
        extract(tar, model)
    # Its sockets lie there, whose names are short.
    scratch = Path(tempfile.mkdtemp(prefix="ray"))
    environment = {
        "HOME": os.environ["HOME"],
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{model}:{model / 'code'}:{python_path}",
        "RAY_TMPDIR": str(scratch),
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Other tests use the machine's memory, too.
        "RAY_memory_monitor_refresh_ms": "0",
        "SAGEMAKER_PROGRAM": "inference.py",
        **variables,
    }
    running: list[subprocess.Popen] = []
    log = folder / "log"

    def start(*command: str | Path) -> subprocess.Popen:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running.append(process)
        return process

    bin_ = python.parent
    # In the foreground, unlike in the image, so that it ends with this test.
    start(
        *(
            bin_ / "ray",
            "start",
            "--head",
            "--block",
            f"--port={gcs}",
            "--node-ip-address=127.0.0.1",
        ),
        # Replicas ask for no CPU, and for each one Ray starts a process ahead.
        *("--include-dashboard=False", f"--num-gpus={gpus}", "--num-cpus=1"),
        "--object-store-memory=400000000",
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
    try:
        options = "--http-host=127.0.0.1", f"--http-port={serve}"
        eventually(
            lambda: start(bin_ / "serve", "start", *options).wait() == 0, f"Ray, see {log}", 120
        )
        start(bin_ / "serve", "run", model / "config.yaml")
        start(python, "-c", ADAPTER, f"http://127.0.0.1:{serve}", str(port))
        yield Container(client, log)
    finally:
        client.close()
        for process in reversed(running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
