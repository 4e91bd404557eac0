"""A handler's four functions as Ray Serve applications; this file runs in AWS's Ray Serve image.

Packed beside `code/`, with RAY_CONFIG as `config.yaml`. The image's entrypoint runs both
applications on port 8000; its adapter sends /invocations there, and answers /ping by Ray Serve's
/-/healthz, which says yes as soon as any route exists. So the model is an application without a
route, and the one with the route is built when the model has loaded.

Variables: RAYSERVE_BACKEND_TIMEOUT, the adapter's seconds for one request; HANDLER_CONCURRENCY, the
requests that the instance works on at the same time; SAGEMAKER_PROGRAM, the handler's module.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus
from starlette.requests import Request
from starlette.responses import Response

MODEL_FOLDER = Path(__file__).resolve().parent
JSON = "application/json"
TEXT_TYPES = {JSON, "text/csv"}
"""What SageMaker's toolkit hands to input_fn as text."""
LOOK_EVERY_S = 0.2
LOAD_ATTEMPTS = 3
END_AFTER_S = 1.0
"""Between the answer to a request that took too long and the end of its process."""


def _concurrency() -> int:
    return int(os.environ.get("HANDLER_CONCURRENCY", "1"))


def _timeout_s() -> float:
    return float(os.environ.get("RAYSERVE_BACKEND_TIMEOUT", "300"))


def model(_arguments: dict[str, Any]) -> serve.Application:
    """The model: one replica for each GPU, each seeing its own; one where there is none."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    replicas = max(1, gpus)
    return Model.options(
        num_replicas=replicas,
        max_ongoing_requests=-(-_concurrency() // replicas),
        ray_actor_options={"num_gpus": min(1, gpus), "num_cpus": 0},
        max_constructor_retry_count=LOAD_ATTEMPTS,
    ).bind()


def endpoint(_arguments: dict[str, Any]) -> serve.Application:
    """What answers requests, once the model has loaded.

    Raises:
        RuntimeError: the model does not load.
    """
    while True:
        status = serve.status().applications.get("model")
        if status is not None and status.status == ApplicationStatus.RUNNING:
            return Endpoint.bind()
        if status is not None and status.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(f"the model does not load: {status.message}")
        time.sleep(LOOK_EVERY_S)


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Endpoint:
    """Hands requests to the model, and turns what goes wrong there into a sentence."""

    def __init__(self) -> None:
        self._model = serve.get_app_handle("model")

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        try:
            status, answer, media_type = await self._model.remote(body, dict(request.headers))
        except Exception as error:
            # The process of the model ended, or Ray itself failed; it starts another one.
            print(f"no answer from the model: {error!r}", file=sys.stderr, flush=True)
            return _refusal(500, "the model's process ended while it worked; its log says why")
        return Response(answer, status, media_type=media_type)


class Context:
    """What the four functions see of the server, as under SageMaker's toolkit."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.model_name = "model"
        self.system_properties = {"model_dir": str(MODEL_FOLDER), "gpu_id": None}
        self.request_processor = [self]
        self.status = 200
        self._headers = headers

    def get_request_properties(self) -> dict[str, str]:
        return self._headers

    def set_response_status(self, code: int = 200, phrase: str = "") -> None:
        self.status = code

    def set_response_content_type(self, _index: int, _value: str) -> None:
        """What output_fn returns decides."""


@serve.deployment
class Model:
    """The handler, loaded once; its functions run in threads, so that Ray can look after it."""

    def __init__(self) -> None:
        sys.path.insert(0, str(MODEL_FOLDER / "code"))
        program = os.environ.get("SAGEMAKER_PROGRAM", "inference.py").removesuffix(".py")
        self._handler = importlib.import_module(program)
        loaded = Context({})
        self._model = _called(self._handler.model_fn, loaded, str(MODEL_FOLDER))
        self._threads = ThreadPoolExecutor(_concurrency())
        self._timeout_s = _timeout_s()

    async def __call__(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        work = self._threads.submit(self._answer, body, headers)
        # A caller may leave earlier. The work would continue, and the next request wait for it.
        watch = threading.Timer(self._timeout_s + END_AFTER_S, _end_unless, [work])
        watch.daemon = True
        watch.start()
        work.add_done_callback(lambda _: watch.cancel())
        waiting = asyncio.wrap_future(work)
        done, _ = await asyncio.wait({waiting}, timeout=self._timeout_s)
        if not done:
            refused = f"the request took longer than {self._timeout_s:g} s"
            return 504, json.dumps({"error": refused}).encode(), JSON
        return waiting.result()

    def _answer(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        context = Context(headers)
        content_type = headers.get("content-type") or JSON
        accept = headers.get("accept")
        if not accept or accept == "*/*":
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or JSON
        functions = self._handler
        try:
            try:
                given = body.decode() if content_type in TEXT_TYPES else body
            except UnicodeDecodeError:
                return 400, json.dumps({"error": "the body is not UTF-8"}).encode(), JSON
            asked = _called(functions.input_fn, context, given, content_type)
            prediction = _called(functions.predict_fn, context, asked, self._model)
            answer = _called(functions.output_fn, context, prediction, accept)
        except Exception as error:
            traceback.print_exc()
            sentence = f"the handler failed: {type(error).__name__}: {error}"
            # SageMaker's toolkit has errors with their own status.
            status = getattr(error, "status_code", 500)
            return status, json.dumps({"error": sentence}).encode(), JSON
        content, media_type = answer if isinstance(answer, tuple) else (answer, accept)
        content = content.encode() if isinstance(content, str) else bytes(content)
        return context.status, content, media_type


def _called(function: Any, context: Context, *arguments: Any) -> Any:
    """Call one of the four functions, with the context if it takes one argument more."""
    takes = len(inspect.signature(function).parameters)
    return function(*arguments, context) if takes > len(arguments) else function(*arguments)


def _refusal(status: int, sentence: str) -> Response:
    return Response(json.dumps({"error": sentence}), status, media_type=JSON)


def _end_unless(work: Future) -> None:
    """End the process of a request that takes too long, so that Ray starts another one."""
    if not work.done():
        print("a request takes too long: ending the model's process", file=sys.stderr, flush=True)
        os._exit(1)
