"""The embedded AWS: one process, one loopback port, an endpoint URL like any AWS emulator.

SageMaker, its runtime and Application Auto Scaling are ours; moto serves the rest. A thread follows
simulated time: it samples queues, ends scale-ins, evaluates alarms at their phases, and applies
schedules when they are due.
"""

import json
import re
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote
from wsgiref.types import StartResponse, WSGIEnvironment
from xml.sax.saxutils import escape  # writes XML, reads none

from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel
from pydantic import ValidationError

from async_inference.local_aws import page
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.faults import Faults
from async_inference.local_aws.fleet.endpoint import Endpoint
from async_inference.local_aws.fleet.environment import Environment
from async_inference.local_aws.fleet.processes import ProcessTemplate
from async_inference.local_aws.http_server import HttpServer, Response
from async_inference.local_aws.journal import Journal
from async_inference.local_aws.provider.template import ProviderTemplate
from async_inference.local_aws.services import cloudwatch
from async_inference.local_aws.services.alarms import Alarms
from async_inference.local_aws.services.autoscaling import ApplicationAutoScaling
from async_inference.local_aws.services.constraints import check_request
from async_inference.local_aws.services.errors import AwsError
from async_inference.local_aws.services.logs import EndpointLogs
from async_inference.local_aws.services.metrics import MINUTE_S
from async_inference.local_aws.services.moto_services import ACCOUNT_ID, MotoServices
from async_inference.local_aws.services.sagemaker import SageMaker
from async_inference.local_aws.status import RegionStatus, StatusReport
from async_inference.scaling.unsettled import Unsettled
from async_inference.validation import problems_of

CLOCK_SAVED_EVERY_S = 1.0
"""Real seconds between two records of the simulated time."""

_INVOCATION = re.compile(r"/endpoints/([^/]+)/(async-invocations|invocations(?:-response-stream)?)")
_THIS_MACHINE = re.compile(
    r"(https?://)?(([a-z0-9-]+\.)*localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE
)
_SCOPE = re.compile(r"Credential=[^/]+/\d+/([a-z0-9-]+)/([a-z0-9.-]+)/aws4_request")


@dataclass(frozen=True)
class Options:
    """How an embedded AWS behaves.

    Args:
        folder: its state, logs and instances; a restart with the same folder resumes.
        port: loopback port, 0 for a free one.
        minute_s: real seconds for each simulated minute.
        setup_s: simulated seconds from asking for an instance to its first request, at least.
        unsettled: the reading of undocumented AWS behaviour.
        faults: what goes wrong on purpose.
    """

    folder: Path
    port: int = 0
    minute_s: float = 60.0
    setup_s: float = 0.0
    unsettled: Unsettled = field(default_factory=Unsettled)
    faults: Faults = field(default_factory=Faults)


class Region:
    """One region's services of our own."""

    def __init__(
        self,
        name: str,
        options: Options,
        clock: Clock,
        journal: Journal,
        services: MotoServices,
        processes: ProcessTemplate,
    ) -> None:
        self.metrics = cloudwatch.of_region(ACCOUNT_ID, name).metrics
        self.alarms = Alarms(name, clock, services, options.unsettled, self._scale)
        environment = Environment(
            clock=clock,
            journal=journal,
            services=services,
            metrics=self.metrics,
            processes=processes,
            folder=options.folder,
            setup_s=options.setup_s,
            unsettled=options.unsettled,
            in_alarm=self.alarms.in_alarm,
        )
        self.autoscaling = ApplicationAutoScaling(
            name,
            clock,
            journal,
            options.unsettled,
            self.alarms.put,
            self.alarms.delete,
        )
        self.alarms.adopt()
        self.sagemaker = SageMaker(name, environment, self.autoscaling, self.alarms.missing)
        self.autoscaling.attach(self.sagemaker.running)
        self.autoscaling.restore_alarms()
        self.alarms.adopt()
        self.status = RegionStatus(
            clock, self.metrics, self.sagemaker, self.alarms, self.autoscaling
        )

    def _scale(self, policy_arn: str, alarm: str, metric: float, threshold: float) -> str:
        return self.autoscaling.alarm_fired(policy_arn, alarm, metric, threshold)


class LocalAws:
    """An embedded AWS; `start` serves it until `stop`.

    Args:
        options: how it behaves.
        processes: starts its instances; made and ended here if None.
        providers: starts Pulumi's providers; its own if None.
    """

    def __init__(
        self,
        options: Options,
        processes: ProcessTemplate | None = None,
        providers: ProviderTemplate | None = None,
    ) -> None:
        options.folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(options.folder / "state.sqlite3")
        saved = self._journal.documents("clock").get("now", {})
        self.clock = Clock(options.minute_s, saved.get("now_s"))
        self._options = options
        self._services = MotoServices(self._journal, options.faults)
        self._processes = processes or ProcessTemplate()
        self._providers = providers or ProviderTemplate()
        self._own: list[ProcessTemplate | ProviderTemplate] = []
        if processes is None:
            self._own.append(self._processes)
        if providers is None:
            self._own.append(self._providers)
        self._logs = EndpointLogs(options.folder / "logs", self.clock)
        self._models: dict[str, ServiceModel] = {}
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._walker = threading.Thread(target=self._walk, daemon=True)
        for name in self._journal.documents("region"):
            self._region(name)
        self._server = HttpServer(options.port, self._application)
        self._server.prepare()
        self.url = f"http://127.0.0.1:{self._server.bind_addr[1]}"

    def start(self) -> None:
        """Serve in the background."""
        threading.Thread(target=self._server.serve, daemon=True).start()
        self._walker.start()

    def stop(self) -> None:
        """Stop serving and end every instance; accepted requests stay in the journal."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._walker.join()
        self._server.stop()
        for region in self._regions.values():
            region.sagemaker.close()
        for template in self._own:
            template.close()
        self._save_clock()
        self._journal.close()

    def running(self, region: str) -> dict[str, Endpoint]:
        """The region's running endpoints, by name."""
        return self._region(region).sagemaker.running()

    def status(self, minutes: int = 0) -> StatusReport:
        """What runs now in each region, with some minutes of history."""
        regions = {name: region.status.now(minutes) for name, region in list(self._regions.items())}
        return {"now_s": self.clock.now_s(), "minute_s": self.clock.minute_s, "regions": regions}

    # Simulated time

    def _walk(self) -> None:
        last_s = self.clock.now_s()
        saved_s = 0.0
        while not self._stopping.is_set():
            now_s = self.clock.now_s()
            looks_s = [_next_s(at_s, last_s) for at_s in self._options.unsettled.sample_times_s]
            alarm_times = [r.alarms.next_evaluation_s(last_s) for r in self._regions.values()]
            scale_ins_s = [
                endpoint.scale_in_ends_s
                for region in self._regions.values()
                for endpoint in region.sagemaker.running().values()
                if endpoint.scale_in_ends_s > last_s
            ]
            due_s = min(
                [*looks_s, *scale_ins_s, *(at_s for at_s in alarm_times if at_s is not None)]
            )
            if due_s > now_s:
                # At most so long, since a new alarm or region may be due earlier.
                self.clock.wait(self._stopping, min(due_s - now_s, MINUTE_S / 4))
                continue
            with self.clock.at(due_s):
                for region in list(self._regions.values()):
                    for endpoint in region.sagemaker.running().values():
                        if endpoint.scale_in_ends_s == due_s:
                            endpoint.settle()
                        if due_s in looks_s:
                            endpoint.sample(first=due_s == looks_s[0])
                    if due_s == looks_s[0]:
                        region.status.sample()
                    region.alarms.evaluate_due(last_s, due_s)
                    region.autoscaling.run_schedules(last_s, due_s)
            last_s = due_s
            if now_s - saved_s > CLOCK_SAVED_EVERY_S * self.clock.speed:
                self._save_clock()
                saved_s = now_s

    def _save_clock(self) -> None:
        self._journal.save("clock", "now", {"now_s": self.clock.now_s()})

    # HTTP

    def _application(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        request_id = str(uuid.uuid4())
        try:
            status, headers, parts = self._dispatch(environ, _body(environ))
        except AwsError as error:
            status, headers, parts = _refusal(error, environ)
        except ValidationError as error:
            refused = AwsError("ValidationException", "; ".join(problems_of(error)))
            status, headers, parts = _refusal(refused, environ)
        except Exception:
            traceback.print_exc()
            broken = AwsError("InternalFailure", "The embedded AWS failed; see its log.", 500)
            status, headers, parts = _refusal(broken, environ)
        date = format_datetime(self.clock.now(), usegmt=True)
        headers = [header for header in headers if header[0].lower() != "date"]
        start_response(status, [*headers, ("Date", date), ("x-amzn-RequestId", request_id)])
        return parts

    def _dispatch(self, environ: WSGIEnvironment, body: bytes) -> Response:
        path = environ.get("PATH_INFO", "/")
        _refuse_other_sites(environ)
        if path == "/_local/status":
            minutes = parse_qs(environ.get("QUERY_STRING", "")).get("minutes", ["0"])[0]
            return _json(self.status(int(minutes) if minutes.isdecimal() else 0))
        if path == "/_local/provider":
            return _json(self._providers.port())
        if path == page.PATH.rstrip("/"):
            return "308 Permanent Redirect", [("Location", page.PATH), ("Content-Length", "0")], []
        if path in page.FILES:
            return page.answer(path)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        service, _, operation = target.rpartition(".")
        invocation = _INVOCATION.fullmatch(path)
        if service == "SageMaker":
            region = self._region(_region_of(environ))
            return self._answer("sagemaker", region.sagemaker, operation, body)
        if service == "AnyScaleFrontendService":
            region = self._region(_region_of(environ))
            return self._answer("application-autoscaling", region.autoscaling, operation, body)
        if invocation and environ["REQUEST_METHOD"] == "POST":
            return self._invoke(environ, unquote(invocation[1]), invocation[2], body)
        if service.startswith("Logs_"):
            with self._services.lock:
                self._logs.collect()
        answer = self._services.handle(environ, body)
        for region in list(self._regions.values()):
            region.alarms.adopt()
        return answer

    def _answer(
        self, service: str, api: SageMaker | ApplicationAutoScaling, operation: str, body: bytes
    ) -> Response:
        model = self._service(service)
        known = operation in model.operation_names
        method = getattr(api, xform_name(operation), None) if known else None
        if method is None:
            raise AwsError(
                "UnknownOperationException", f"The embedded AWS does not serve {operation}."
            )
        request = _parsed(body)
        shape = model.operation_model(operation).input_shape
        if shape is not None:
            check_request(shape, request)
        return _json(method(request), "application/x-amz-json-1.1")

    def _invoke(self, environ: WSGIEnvironment, endpoint: str, kind: str, body: bytes) -> Response:
        region = self._region(_region_of(environ))
        asynchronous = kind == "async-invocations"
        operation = self._service("sagemaker-runtime").operation_model(
            "InvokeEndpointAsync" if asynchronous else "InvokeEndpoint"
        )
        request: Any = _from_headers(operation, environ) | {"EndpointName": endpoint}
        if not asynchronous:
            request["Body"] = body
        assert operation.input_shape is not None
        try:
            check_request(operation.input_shape, request)
        except AwsError as error:
            # The runtime's name for it (BC).
            raise AwsError("ValidationError", error.message) from error
        if not asynchronous:
            return _json(region.sagemaker.invoke_endpoint(request))
        answer = region.sagemaker.invoke_endpoint_async(request, body or None)
        headers = [
            (f"X-Amzn-SageMaker-{name}", answer[name])
            for name in ("OutputLocation", "FailureLocation")
            if name in answer
        ]
        content = json.dumps({"InferenceId": answer["InferenceId"]}).encode()
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        return "202 Accepted", headers, [content]

    def _service(self, name: str) -> ServiceModel:
        if name not in self._models:
            document = Loader().load_service_model(name, "service-2")
            self._models[name] = ServiceModel(document, name)
        return self._models[name]

    def _region(self, name: str) -> Region:
        with self._lock:
            if name not in self._regions:
                cloudwatch.of_region(ACCOUNT_ID, name)  # or there is none
                self._journal.save("region", name, {})
                self._regions[name] = Region(
                    name,
                    self._options,
                    self.clock,
                    self._journal,
                    self._services,
                    self._processes,
                )
            return self._regions[name]


def _next_s(second: float, after_s: float) -> float:
    """When a given second of a minute comes next, strictly after a time."""
    return ((after_s - second) // MINUTE_S + 1) * MINUTE_S + second


def _refuse_other_sites(environ: WSGIEnvironment) -> None:
    """Refuse a browser's request to another site whose name was rebound to loopback."""
    for name in ("HTTP_HOST", "HTTP_ORIGIN"):
        site = environ.get(name)
        if site is not None and not _THIS_MACHINE.fullmatch(site):
            raise AwsError(
                "AccessDeniedException", f"The embedded AWS serves this machine, not {site}.", 403
            )


def _body(environ: WSGIEnvironment) -> bytes:
    try:
        return environ["wsgi.input"].read()
    except (ValueError, OSError) as error:
        raise AwsError("IncompleteBody", f"The body cannot be read: {error}") from error


def _parsed(body: bytes) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    try:
        request = json.loads(body or b"{}", parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise AwsError("SerializationException", f"The body is not valid JSON: {error}") from error
    if not isinstance(request, dict):
        raise AwsError("SerializationException", "The body must be a JSON object")
    return request


def _from_headers(operation: OperationModel, environ: WSGIEnvironment) -> dict[str, object]:
    """The members of a request that headers carry, of the types in the service's model."""
    request: dict[str, object] = {}
    assert operation.input_shape is not None
    for name, shape in operation.input_shape.members.items():
        if shape.serialization.get("location") != "header":
            continue
        header = shape.serialization["name"].upper().replace("-", "_")
        key = header if header == "CONTENT_TYPE" else f"HTTP_{header}"
        value = environ.get(key)
        if value is None:
            continue
        try:
            # WSGI decodes headers as Latin-1 (PEP 3333); AWS's clients write UTF-8.
            value = value.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            raise AwsError("SerializationException", f"{name} must be UTF-8") from error
        if shape.type_name in ("integer", "long"):
            if not re.fullmatch(r"-?\d+", value):
                raise AwsError("SerializationException", f"{name} must be a whole number")
            request[name] = int(value)
        else:
            request[name] = value
    return request


def _region_of(environ: WSGIEnvironment) -> str:
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if scope is None:
        raise AwsError(
            "MissingAuthenticationTokenException",
            "The request is not signed; any credentials will do.",
            403,
        )
    return scope[1]


def _json(answer: object, content_type: str = "application/json") -> Response:
    content = b"" if answer is None else json.dumps(answer).encode()
    headers = [("Content-Type", content_type), ("Content-Length", str(len(content)))]
    return "200 OK", headers, [content]


def _refusal(error: AwsError, environ: WSGIEnvironment) -> Response:
    if "x-www-form-urlencoded" in environ.get("CONTENT_TYPE", ""):
        content_type = "text/xml"
        content = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{error.code}</Code>"
            f"<Message>{escape(error.message)}</Message></Error></ErrorResponse>"
        ).encode()
    else:
        content_type = "application/x-amz-json-1.1"
        content = json.dumps({"__type": error.code, "message": error.message}).encode()
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(content))),
        ("x-amzn-ErrorType", error.code),
    ]
    return f"{error.status} Refused", headers, [content]


def main() -> None:
    """Serve with the options given as JSON on the command line, until SIGTERM or SIGINT."""
    given = json.loads(sys.argv[1])
    folder, faults = Path(given.pop("folder")), Faults(**given.pop("faults"))
    aws = LocalAws(Options(folder=folder, faults=faults, **given))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    aws.start()
    print(aws.url, flush=True)
    ended.wait()
    aws.stop()


if __name__ == "__main__":
    main()
