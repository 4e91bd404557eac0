"""One asynchronous endpoint at work: its queue, its fleets of instances, its answers.

Threads: one for each instance's life, and one for each request that an instance may work on at the
same time. All of an endpoint's state is behind one lock.
"""

import base64
import contextlib
import http.client
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from async_inference.local_aws.clock import Clock
from async_inference.local_aws.journal import Call, Journal
from async_inference.local_aws.metrics import MetricStore, Series
from async_inference.local_aws.moto_services import (
    MotoServices,
    ObjectMissingError,
    publish,
    put_object,
)
from async_inference.scaling.unsettled import Unsettled

NAMESPACE = "AWS/SageMaker"
INSTANCE_NAMESPACE = "/aws/sagemaker/Endpoints"
LARGEST_NOTIFIED_RESPONSE_BYTES = 128 * 1024
"""Larger responses are not put into the notification (BC IncludeInferenceResponseIn)."""
MAX_ATTEMPTS = 3
"""Times a request is given to an instance whose process dies under it."""


@dataclass(frozen=True)
class Environment:
    """What every endpoint of one embedded AWS works with."""

    clock: Clock
    journal: Journal
    services: MotoServices
    metrics: MetricStore
    folder: Path
    setup_s: float
    unsettled: Unsettled


@dataclass(frozen=True)
class FleetPlan:
    """What the instances of one endpoint configuration run."""

    configuration: str
    variant: str
    instance_type: str
    initial_instances: int
    concurrency: int
    environment: dict[str, str]
    model_data_url: str | None
    additional_sources: tuple[dict[str, Any], ...]
    output_path: str
    failure_path: str | None
    success_topic: str | None
    error_topic: str | None
    response_in: frozenset[str]


@dataclass
class Waiting:
    """A request in the queue; what else it says is in the journal."""

    number: int
    accepted_s: float
    expires_s: float
    attempts: int = 0


@dataclass
class Instance:
    """One machine of a fleet."""

    fleet: "Fleet"
    name: str
    asked_s: float
    in_service: bool = False
    leaving: bool = False
    process: subprocess.Popen | None = None
    port: int = 0
    busy: int = 0
    wake: threading.Event = field(default_factory=threading.Event)


@dataclass
class Fleet:
    """The instances that run one configuration."""

    plan: FleetPlan
    desired: int
    instances: list[Instance] = field(default_factory=list)
    failure: str | None = None

    @property
    def in_service(self) -> int:
        return sum(instance.in_service and not instance.leaving for instance in self.instances)


class Endpoint:
    """An endpoint that runs.

    Args:
        name: the endpoint's name.
        region: where its topics and objects are.
        plan: the configuration that it starts with.
        environment: what it works with.
        changed: called, without any lock held, whenever status or capacity changed.
        resumed: instances that it had before a restart; None for a new endpoint.
    """

    def __init__(
        self,
        name: str,
        region: str,
        plan: FleetPlan,
        environment: Environment,
        changed: Callable[[], None],
        resumed: int | None = None,
    ) -> None:
        self.name = name
        self.region = region
        self.status = "Creating" if resumed is None else "Updating"
        self.failure_reason: str | None = None
        self._environment = environment
        self._changed = changed
        self._lock = threading.Condition()
        self._queue: deque[Waiting] = deque()
        self._working: dict[int, Waiting] = {}
        self._sums: dict[str, list[float]] = {}
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._live = Fleet(plan, plan.initial_instances if resumed is None else resumed)
        self._incoming: Fleet | None = None
        self._interruptions = 0
        for number, request in environment.journal.waiting(name):
            self._queue.append(Waiting(number, request["accepted_s"], request["expires_s"]))
        self._fill(self._live)
        self._settle()

    @property
    def configuration(self) -> str:
        """The configuration that serves."""
        return self._live.plan.configuration

    @property
    def plan(self) -> FleetPlan:
        """The plan that serves."""
        return self._live.plan

    @property
    def desired(self) -> int:
        """How many instances are asked for."""
        return self._live.desired

    @property
    def in_service(self) -> int:
        """How many instances serve."""
        with self._lock:
            return self._live.in_service

    @property
    def backlog(self) -> int:
        """Requests without an answer: those that wait and those being worked on."""
        with self._lock:
            return len(self._queue) + len(self._working)

    @property
    def oldest_age_s(self) -> float | None:
        """Simulated seconds since the oldest request without an answer came; None without any."""
        with self._lock:
            accepted = [waiting.accepted_s for waiting in self._working.values()]
            accepted += [self._queue[0].accepted_s] if self._queue else []
        return self._environment.clock.now_s() - min(accepted) if accepted else None

    @property
    def interruptions(self) -> int:
        """Requests that lost their instance and were queued again."""
        return self._interruptions

    def submit(self, request: dict[str, Any], body: bytes | None) -> None:
        """Accept a request; once this returns it will be answered, whatever crashes."""
        now_s = self._environment.clock.now_s()
        accepted = request | {"accepted_s": now_s, "expires_s": now_s + request["ttl_s"]}
        with self._lock:
            number = self._environment.journal.accept(self.name, accepted, body)
            self._queue.append(Waiting(number, now_s, accepted["expires_s"]))
            self._lock.notify()

    def set_desired(self, count: int) -> None:
        """Ask for another number of instances, as Application Auto Scaling does."""
        with self._lock:
            self._live.desired = count
            if self.status == "InService":
                self.status = "Updating"
            surplus = [i for i in self._live.instances if not i.leaving][count:]
            # Those that do not serve yet go first, then the idle ones.
            candidates = sorted(
                (i for i in self._live.instances if not i.leaving),
                key=lambda i: (i.in_service, i.busy),
            )
            for instance in candidates[: len(surplus)]:
                self._dismiss(instance)
            self._fill(self._live)
        self._settle()

    def update(self, plan: FleetPlan, instances: int) -> None:
        """Replace the fleet: the new one starts beside the old one and takes over if it loads."""
        with self._lock:
            self.status = "Updating"
            self.failure_reason = None
            self._incoming = Fleet(plan, instances)
            self._fill(self._incoming)
        self._settle()

    def delete(self) -> None:
        """Stop every instance and drop the queue."""
        with self._lock:
            self.status = "Deleting"
            self._queue.clear()
            self._environment.journal.forget(self.name)
        self.close()

    def close(self) -> None:
        """Stop every instance; requests without an answer stay in the journal."""
        with self._lock:
            self._ended = True
            for fleet in (self._live, self._incoming):
                for instance in fleet.instances if fleet else ():
                    self._dismiss(instance, drain=False)
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def sample(self) -> None:
        """Publish this minute's datapoints (aws-facts.md section 4)."""
        now_s = self._environment.clock.now_s()
        with self._lock:
            self._expire(now_s)
            waiting, working = len(self._queue), len(self._working)
            serving = self._live.in_service
            oldest_age_s = self.oldest_age_s
            sums, self._sums = self._sums, {}
        counted = waiting + (working if self._environment.unsettled.backlog_counts_inflight else 0)
        mine = {"EndpointName": self.name}
        self._put("ApproximateBacklogSize", mine, [counted], now_s)
        if serving or self._environment.unsettled.backlog_per_instance_at_zero == "backlog":
            self._put("ApproximateBacklogSizePerInstance", mine, [counted / max(1, serving)], now_s)
        if oldest_age_s is not None:
            self._put("ApproximateAgeOfOldestRequest", mine, [oldest_age_s], now_s)
        starved = float(waiting + working > 0 and serving == 0)
        self._put("HasBacklogWithoutCapacity", mine, [starved], now_s)
        variant = mine | {"VariantName": self._live.plan.variant}
        for name, values in sums.items():
            self._put(name, variant, values, now_s)
        if serving:
            series = Series.of(INSTANCE_NAMESPACE, "CPUUtilization", variant)
            self._environment.metrics.put(series, now_s, [0.0] * serving)

    def instances(self) -> list[dict[str, Any]]:
        """The instances as a status page shows them."""
        with self._lock:
            return [
                {
                    "name": instance.name,
                    "configuration": fleet.plan.configuration,
                    "state": "leaving"
                    if instance.leaving
                    else ("in service" if instance.in_service else "starting"),
                    "asked_s": instance.asked_s,
                    "busy": instance.busy,
                    "concurrency": fleet.plan.concurrency,
                }
                for fleet in (self._live, self._incoming)
                if fleet
                for instance in fleet.instances
            ]

    def _put(
        self, name: str, dimensions: dict[str, str], values: Iterable[float], now_s: float
    ) -> None:
        self._environment.metrics.put(Series.of(NAMESPACE, name, dimensions), now_s, values)

    def _count(self, metric: str, value: float) -> None:
        self._sums.setdefault(metric, []).append(value)

    # Fleets

    def _fill(self, fleet: Fleet) -> None:
        while sum(not i.leaving for i in fleet.instances) < fleet.desired and not self._ended:
            instance = Instance(
                fleet, f"i-{uuid.uuid4().hex[:17]}", self._environment.clock.now_s()
            )
            fleet.instances.append(instance)
            thread = threading.Thread(target=self._live_instance, args=(instance,), daemon=True)
            self._threads = [other for other in self._threads if other.is_alive()] + [thread]
            thread.start()

    def _dismiss(self, instance: Instance, drain: bool | None = None) -> None:
        if drain is None:
            drain = self._environment.unsettled.inflight_on_scale_in == "drain"
        instance.leaving = True
        instance.wake.set()
        if not drain or not instance.busy:
            _end(instance)
        self._lock.notify_all()

    def _settle(self) -> None:
        """Move the endpoint on where its fleets have become what was asked for."""
        with self._lock:
            incoming = self._incoming
            if self._ended:
                return
            if incoming is not None and incoming.failure is not None:
                self._incoming = None
                self.failure_reason = incoming.failure
                self.status = "InService"
                for instance in incoming.instances:
                    self._dismiss(instance, drain=False)
            elif incoming is not None and incoming.in_service >= incoming.desired:
                for instance in self._live.instances:
                    # Blue/green: the old fleet finishes what it works on.
                    self._dismiss(instance, drain=True)
                self._live, self._incoming = incoming, None
                self.status = "InService"
            elif incoming is None and self.status == "Creating" and self._live.failure is not None:
                self.status = "Failed"
                self.failure_reason = self._live.failure
            elif (
                incoming is None
                and self.status in ("Creating", "Updating")
                and self._live.in_service == self._live.desired
            ):
                self.status = "InService"
            self._lock.notify_all()
        self._changed()

    # Instances

    def _live_instance(self, instance: Instance) -> None:
        fleet = instance.fleet
        folder = self._environment.folder / "instances" / instance.name
        try:
            attempt = 0
            while not instance.leaving:
                problem = self._start_process(instance, folder)
                if problem is None:
                    self._serve(instance)
                elif not instance.leaving:
                    attempt += 1
                    with self._lock:
                        first = fleet is self._incoming or self.status == "Creating"
                        if first:
                            fleet.failure = problem
                    if first:
                        self._settle()
                        return
                    self._environment.clock.wait(instance.wake, min(60.0 * attempt, 600.0))
        finally:
            with self._lock:
                instance.in_service = False
                if instance in fleet.instances:
                    fleet.instances.remove(instance)
            _reap(instance)
            shutil.rmtree(folder, ignore_errors=True)
            self._settle()

    def _start_process(self, instance: Instance, folder: Path) -> str | None:
        """Start the instance's process and wait until it has loaded; what failed, if it did."""
        plan = instance.fleet.plan
        _reap(instance)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._lay_out(plan, folder)
        except (ObjectMissingError, tarfile.TarError, OSError) as error:
            return f"The model data could not be downloaded: {error}"
        logs = self._environment.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{self.name}.log"
        reading, writing = os.pipe()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "async_inference.local_aws.worker", str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[writing],
                env=_container_environment(plan, folder),
                start_new_session=True,
            )
        os.close(writing)
        with self._lock:
            instance.process = process
            if instance.leaving:
                _end(instance)
        with os.fdopen(reading) as announcement:
            port = announcement.read()
        if port:
            instance.port = int(port)
            while process.poll() is None and not instance.leaving:
                if _ping(instance.port):
                    # The model loads within the setup time, not after it.
                    in_service_s = instance.asked_s + self._environment.setup_s
                    clock = self._environment.clock
                    clock.wait(instance.wake, in_service_s - clock.now_s())
                    with self._lock:
                        instance.in_service = True
                    self._settle()
                    return None
                instance.wake.wait(0.05)
        process.wait()
        return (
            "The primary container for production variant "
            f"{plan.variant} did not pass the ping health check. See {log.name}: {_last_line(log)}"
        )

    def _lay_out(self, plan: FleetPlan, folder: Path) -> None:
        model = folder / "model"
        model.mkdir(parents=True)
        if plan.model_data_url:
            self._download(plan.model_data_url, "Gzip", model)
        for source in plan.additional_sources:
            data = source["S3DataSource"]
            into = folder / "additional-model-data-sources" / source["ChannelName"]
            into.mkdir(parents=True)
            self._download(data["S3Uri"], data["CompressionType"], into)

    def _download(self, uri: str, compression: str, into: Path) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        services = self._environment.services
        if compression == "Gzip":
            body, _ = services.get_object(bucket, key)
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                tar.extractall(into, filter="data")
            return
        for found in services.list_objects(bucket, key):
            target = into / found.removeprefix(key).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(services.get_object(bucket, found)[0])

    def _serve(self, instance: Instance) -> None:
        """Work until the instance leaves or its process ends."""
        slots = [
            threading.Thread(target=self._slot, args=(instance,), daemon=True)
            for _ in range(instance.fleet.plan.concurrency)
        ]
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.join()
        with self._lock:
            instance.in_service = False

    def _slot(self, instance: Instance) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", instance.port)
        with contextlib.closing(connection):
            while True:
                with self._lock:
                    while not self._queue and not instance.leaving and _alive(instance):
                        # Bounded, so that the death of an idle process is noticed.
                        self._lock.wait(1.0)
                    if instance.leaving or not _alive(instance):
                        return
                    if instance.fleet is not self._live:
                        self._lock.wait(0.05)
                        continue
                    waiting = self._queue.popleft()
                    self._working[waiting.number] = waiting
                    instance.busy += 1
                try:
                    self._work(instance, connection, waiting)
                finally:
                    with self._lock:
                        instance.busy -= 1
                        if instance.leaving and not instance.busy:
                            _end(instance)

    # Requests

    def _work(
        self, instance: Instance, connection: http.client.HTTPConnection, waiting: Waiting
    ) -> None:
        clock = self._environment.clock
        started_s = clock.now_s()
        plan = instance.fleet.plan
        request, body = self._environment.journal.request(waiting.number)
        if started_s >= waiting.expires_s:
            self._finish_expired(waiting, request)
            return
        content_type = request["content_type"]
        if body is None:
            bucket, _, key = request["input_location"].removeprefix("s3://").partition("/")
            try:
                body, stored_type = self._environment.services.get_object(bucket, key)
            except ObjectMissingError as error:
                self._fail(
                    waiting, plan, request, f"ClientError: Failed to download: {error}", started_s
                )
                with self._lock:
                    self._count("RequestDownloadFailures", 1)
                return
            content_type = content_type or stored_type
        headers = {"Content-Type": content_type or "application/octet-stream"}
        if request["accept"]:
            headers["Accept"] = request["accept"]
        if request["custom_attributes"]:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = request["custom_attributes"]
        try:
            connection.timeout = max(0.001, clock.real_s(request["timeout_s"]))
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            connection.request("POST", "/invocations", body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            connection.close()
            # As TorchServe does, the worker is killed and the model loaded again.
            if instance.process is not None:
                instance.process.kill()
            self._fail(
                waiting,
                plan,
                request,
                f"ModelError: The model did not answer within {request['timeout_s']} s",
                started_s,
            )
            return
        except (OSError, http.client.HTTPException):
            connection.close()
            self._interrupted(waiting, plan, request, started_s)
            return
        if response.status == 200:
            self._succeed(
                waiting, plan, request, answer, response.getheader("Content-Type") or "", started_s
            )
            return
        whose = "client" if response.status < 500 else "server"
        text = answer.decode("utf-8", "replace")
        self._fail(
            waiting,
            plan,
            request,
            f"Received {whose} error ({response.status}) from primary with message "
            f'"{text}". See the endpoint\'s log.',
            started_s,
        )

    def _interrupted(
        self, waiting: Waiting, plan: FleetPlan, request: dict[str, Any], started_s: float
    ) -> None:
        waiting.attempts += 1
        if waiting.attempts >= MAX_ATTEMPTS:
            self._fail(
                waiting,
                plan,
                request,
                f"ModelError: the model's process ended {MAX_ATTEMPTS} times under this request",
                started_s,
            )
            return
        with self._lock:
            self._working.pop(waiting.number, None)
            if not self._ended:
                self._interruptions += 1
                self._queue.appendleft(waiting)
                self._lock.notify()

    def _succeed(
        self,
        waiting: Waiting,
        plan: FleetPlan,
        request: dict[str, Any],
        answer: bytes,
        content_type: str,
        started_s: float,
    ) -> None:
        location = request["output_location"]
        response = {"contentType": content_type, "outputLocation": location}
        if (
            "SUCCESS_NOTIFICATION_TOPIC" in plan.response_in
            and len(answer) <= LARGEST_NOTIFIED_RESPONSE_BYTES
        ):
            response["responseBody"] = _notified_body(answer)
        self._answer(
            waiting,
            request,
            (location, answer, content_type),
            plan.success_topic,
            {"invocationStatus": "Completed", "responseParameters": response},
            started_s,
        )
        with self._lock:
            self._count("InvocationsProcessed", 1)

    def _fail(
        self,
        waiting: Waiting,
        plan: FleetPlan,
        request: dict[str, Any],
        reason: str,
        started_s: float,
    ) -> None:
        location = request["failure_location"]
        outcome: dict[str, Any] = {"invocationStatus": "Failed", "failureReason": reason}
        if location:
            outcome["responseParameters"] = {"failureLocation": location}
        self._answer(
            waiting,
            request,
            (location, reason.encode(), "text/plain") if location else None,
            plan.error_topic,
            outcome,
            started_s,
        )
        with self._lock:
            self._count("InvocationFailures", 1)

    def _finish_expired(self, waiting: Waiting, request: dict[str, Any]) -> None:
        self._fail(
            waiting,
            self._live.plan,
            request,
            f"ClientError: The request expired after {request['ttl_s']} s in the queue",
            self._environment.clock.now_s(),
        )
        with self._lock:
            self._count("ExpiredRequests", 1)

    def _expire(self, now_s: float) -> None:
        """Answer those whose time is over; called with the lock held."""
        expired = [waiting for waiting in self._queue if now_s >= waiting.expires_s]
        for waiting in expired:
            self._queue.remove(waiting)
            self._working[waiting.number] = waiting
            request, _ = self._environment.journal.request(waiting.number)
            self._finish_expired(waiting, request)

    def _answer(
        self,
        waiting: Waiting,
        request: dict[str, Any],
        written: tuple[str, bytes, str] | None,
        topic: str | None,
        outcome: dict[str, Any],
        started_s: float,
    ) -> None:
        now_s = self._environment.clock.now_s()
        calls: list[Call] = []
        if written is not None:
            uri, body, content_type = written
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            if self._environment.services.bucket_exists(bucket):
                calls.append(put_object(bucket, key, body, content_type, self.region))
            else:
                with self._lock:
                    self._count("ResponseUploadFailures", 1)
        if topic:
            calls.append(
                publish(topic, self._message(waiting, request, outcome, now_s), self.region)
            )
        self._environment.services.answer(waiting.number, calls)
        with self._lock:
            self._working.pop(waiting.number, None)
            self._count("TimeInBacklog", (started_s - waiting.accepted_s) * 1000)
            self._count("TotalProcessingTime", (now_s - waiting.accepted_s) * 1000)

    def _message(
        self, waiting: Waiting, request: dict[str, Any], outcome: dict[str, Any], now_s: float
    ) -> str:
        asked = {"endpointName": self.name, "inputLocation": request["input_location"]}
        for key, name in (("content_type", "contentType"), ("accept", "accept")):
            if request[key]:
                asked[name] = request[key]
        return json.dumps(
            {
                "awsRegion": self.region,
                "eventTime": _iso(now_s),
                "receivedTime": _iso(waiting.accepted_s),
                "requestParameters": asked,
                "inferenceId": request["inference_id"],
                "eventVersion": "1.0",
                "eventSource": "aws:sagemaker",
                "eventName": "InferenceResult",
                **outcome,
            }
        )


def _alive(instance: Instance) -> bool:
    return instance.process is not None and instance.process.poll() is None


def _end(instance: Instance) -> None:
    process = instance.process
    if process is not None and process.poll() is None:
        process.kill()


def _reap(instance: Instance) -> None:
    process, instance.process = instance.process, None
    if process is not None:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _ping(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _container_environment(plan: FleetPlan, folder: Path) -> dict[str, str]:
    """A container's variables: those that the model declares, and what Python itself needs."""
    mount = "/opt/ml"
    declared = {
        # Where a container has /opt/ml, this process has a folder of its own.
        key: value.replace(mount, str(folder)) if value.startswith(mount) else value
        for key, value in plan.environment.items()
    }
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return {
        "OMP_NUM_THREADS": "1",
        **inherited,
        **declared,
        "SAGEMAKER_BASE_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _notified_body(answer: bytes) -> dict[str, str]:
    try:
        return {"content": answer.decode("utf-8"), "encoding": "UTF-8"}
    except UnicodeDecodeError:
        return {"content": base64.b64encode(answer).decode(), "encoding": "BASE64"}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it is empty"


def _iso(at_s: float) -> str:
    whole = math.floor(at_s * 1000) / 1000
    return (
        datetime.fromtimestamp(whole, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
