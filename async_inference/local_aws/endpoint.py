"""One asynchronous endpoint at work: its queue, its fleets of instances, its answers.

Threads: for each instance one that starts it and hands it requests, and one for each request that
it works on; one for a running update. All of an endpoint's state is behind one lock.
"""

import contextlib
import http.client
import math
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from async_inference.local_aws import answers
from async_inference.local_aws.answers import Outcome
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.deployment import Deployment
from async_inference.local_aws.instance import (
    Fleet,
    FleetPlan,
    Instance,
    StartError,
    start,
    wait_until_loaded,
)
from async_inference.local_aws.journal import Call, Journal
from async_inference.local_aws.metrics import MetricStore, Series
from async_inference.local_aws.moto_services import (
    MotoServices,
    ObjectMissingError,
    WriteFailedError,
    publish,
    put_object,
    split_uri,
)
from async_inference.local_aws.processes import ProcessTemplate
from async_inference.scaling.unsettled import Unsettled

NAMESPACE = "AWS/SageMaker"
INSTANCE_NAMESPACE = "/aws/sagemaker/Endpoints"
MAX_ATTEMPTS = 3
"""Times a request is given to an instance whose process dies under it, and an instance started."""
UPLOAD_ATTEMPTS = 3
"""Times an output is written to S3 before the request counts as failed."""
FAILURE_UPLOAD_ATTEMPTS = 50
"""Times a failure is written: nothing else tells the caller where there is no topic."""
UPLOAD_BACKOFF_S = 1.0
LOOK_AGAIN_S = 0.05
"""Real seconds between two looks at what an update waits for."""
PER_FLEET = ("ModelLatency", "Invocation4XXErrors", "Invocation5XXErrors")
"""Metrics that are published for each configuration too, for rollback alarms (DG guardrails)."""


@dataclass(frozen=True)
class Environment:
    """What every endpoint of one region of an embedded AWS works with.

    Args:
        folder: for logs and instances.
        setup_s: simulated seconds from asking for an instance until it serves, at least.
        in_alarm: which of some alarms are in ALARM.
    """

    clock: Clock
    journal: Journal
    services: MotoServices
    metrics: MetricStore
    processes: ProcessTemplate
    folder: Path
    setup_s: float
    unsettled: Unsettled
    in_alarm: Callable[[Sequence[str]], list[str]]


@dataclass(slots=True)
class Waiting:
    """A request in the queue; what else it says is in the journal."""

    number: int
    accepted_s: float
    expires_s: float
    attempts: int = 0


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
        self._sums: dict[tuple[str, str], list[float]] = {}
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._live = Fleet(plan, plan.initial_instances if resumed is None else resumed)
        self._incoming: Fleet | None = None
        self._shifted = 0
        self._interruptions = 0
        for number, accepted_s, expires_s in environment.journal.waiting(name):
            self._queue.append(Waiting(number, accepted_s, expires_s))
        with self._lock:
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
    def incoming(self) -> tuple[FleetPlan, int, int] | None:
        """During an update: the plan to come, how many instances it has and shall have."""
        with self._lock:
            fleet = self._incoming
            return (fleet.plan, len(fleet.serving), fleet.desired) if fleet else None

    @property
    def desired(self) -> int:
        """How many instances are asked for."""
        return self._live.desired

    @property
    def in_service(self) -> int:
        """How many instances serve."""
        with self._lock:
            return len(self._live.serving)

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
            self._lock.notify_all()

    def set_desired(self, count: int) -> None:
        """Ask for another number of instances, as Application Auto Scaling does."""
        with self._lock:
            self._live.desired = count
            if self.status == "InService":
                self.status = "Updating"
            self._shrink(self._live, count)
            self._fill(self._live)
        self._settle()

    def update(self, plan: FleetPlan, instances: int, deployment: Deployment) -> None:
        """Replace the fleet by another, as the deployment says; it comes back if that fails."""
        with self._lock:
            self.status = "Updating"
            self.failure_reason = None
            self._incoming = Fleet(plan, 0 if deployment.rolling else instances)
            self._shifted = 0
            self._start_thread(self._deploy, deployment, instances)
        self._changed()

    def delete(self) -> None:
        """Stop every instance and drop the queue."""
        with self._lock:
            self.status = "Deleting"
            self._queue.clear()
        self.close()
        self._environment.journal.forget(self.name)

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
        self._expire(now_s)
        with self._lock:
            waiting, working = len(self._queue), len(self._working)
            serving = len(self._live.serving)
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
        together: dict[str, list[float]] = {}
        for (name, configuration), values in sums.items():
            together.setdefault(name, []).extend(values)
            if name in PER_FLEET:
                fleet = variant | {"EndpointConfigName": configuration}
                self._put(name, fleet, values, now_s)
        for name, values in together.items():
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

    def _count(self, configuration: str, **values: float) -> None:
        with self._lock:
            for metric, value in values.items():
                self._sums.setdefault((metric, configuration), []).append(value)

    # Fleets

    def _start_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def _fill(self, fleet: Fleet) -> None:
        while len(fleet.staying) < fleet.desired and not self._ended:
            name = f"i-{uuid.uuid4().hex[:17]}"
            instance = Instance(
                fleet,
                name,
                self._environment.clock.now_s(),
                self._logs / fleet.plan.variant / f"{name}.log",
            )
            fleet.instances.append(instance)
            self._start_thread(self._live_instance, instance)

    @property
    def _logs(self) -> Path:
        return self._environment.folder / "logs" / self.region / self.name

    def _shrink(self, fleet: Fleet, count: int, drain: bool | None = None) -> None:
        # Those that do not serve yet go first, then the idle ones.
        candidates = sorted(fleet.staying, key=lambda i: (i.in_service, i.busy))
        for instance in candidates[: max(0, len(candidates) - count)]:
            self._dismiss(instance, drain)

    def _dismiss(self, instance: Instance, drain: bool | None = None) -> None:
        if drain is None:
            drain = self._environment.unsettled.inflight_on_scale_in == "drain"
        instance.leaving = True
        instance.wake.set()
        if not drain or not instance.busy:
            instance.kill()
        self._activate()

    def _activate(self) -> None:
        """Let the instances take requests that shall: during an update a part of each fleet."""
        live, incoming = self._live.serving, self._incoming
        count = len(live)
        if incoming is not None:
            new = incoming.serving
            share = min(1.0, self._shifted / max(1, incoming.desired, len(new)))
            for index, instance in enumerate(new):
                instance.active = index < self._shifted
            # The same part of the old fleet rests as of the new one works (DG guardrails).
            count = math.ceil(count * (1 - share))
        for index, instance in enumerate(live):
            instance.active = index < count
        self._lock.notify_all()

    def _settle(self) -> None:
        """Move the status on where the fleet has become what was asked for."""
        with self._lock:
            self._activate()
            if self._ended:
                return
            if self.status == "Creating" and self._live.failure is not None:
                self.status = "Failed"
                self.failure_reason = self._live.failure
            elif (
                self._incoming is None
                and self.status in ("Creating", "Updating")
                and len(self._live.serving) == self._live.desired
            ):
                self.status = "InService"
        self._changed()

    # Updates

    def _deploy(self, deployment: Deployment, instances: int) -> None:
        incoming = self._incoming
        assert incoming is not None
        before = self._live.desired
        problem = self._shift(deployment, incoming, instances, before)
        with self._lock:
            if self._ended:
                return
        if problem is None:
            with self._lock:
                old, self._live, self._incoming = self._live, incoming, None
                for instance in old.staying:
                    # The old fleet finishes what it works on.
                    self._dismiss(instance, drain=True)
        else:
            self._roll_back(deployment, incoming, before)
            with self._lock:
                self._incoming = None
                self.failure_reason = problem
                for instance in incoming.staying:
                    self._dismiss(instance, drain=True)
        self._settle()

    def _shift(
        self, deployment: Deployment, incoming: Fleet, instances: int, before: int
    ) -> str | None:
        """Go through the steps; what went wrong, if anything did."""
        deadline_s = math.inf
        if deployment.timeout_s is not None:
            deadline_s = self._environment.clock.now_s() + deployment.timeout_s
        for step in deployment.steps:
            with self._lock:
                incoming.desired = step.active if deployment.rolling else instances
                self._fill(incoming)
            wanted = incoming.desired
            problem = self._wait(
                lambda wanted=wanted: len(incoming.serving) >= wanted, incoming, (), deadline_s
            )
            if problem:
                return problem
            with self._lock:
                self._shifted = step.active
                if deployment.rolling:
                    kept = math.ceil(before * (1 - step.active / max(1, instances)))
                    self._live.desired = kept
                    self._shrink(self._live, kept, drain=True)
                self._activate()
            self._changed()
            end_s = self._environment.clock.now_s() + step.bake_s
            problem = self._wait(
                lambda end_s=end_s: self._environment.clock.now_s() >= end_s,
                incoming,
                deployment.alarms,
                deadline_s,
            )
            if problem:
                return problem
        end_s = self._environment.clock.now_s() + deployment.termination_wait_s
        return self._wait(
            lambda: self._environment.clock.now_s() >= end_s, incoming, (), deadline_s
        )

    def _wait(
        self,
        done: Callable[[], bool],
        incoming: Fleet | None = None,
        alarms: Sequence[str] = (),
        deadline_s: float = math.inf,
    ) -> str | None:
        """Wait for a stage of an update to be done; what speaks against going on, if anything."""
        while True:
            ringing = self._environment.in_alarm(alarms) if alarms else []
            with self._lock:
                if self._ended:
                    return None
                if incoming is not None and incoming.failure is not None:
                    return incoming.failure
                if ringing:
                    return (
                        "One or more configured alarm(s) have been activated during the "
                        f"deployment: {', '.join(ringing)}. The endpoint was rolled back."
                    )
                if done():
                    return None
                if self._environment.clock.now_s() > deadline_s:
                    return "The deployment exceeded its MaximumExecutionTimeoutInSeconds."
                self._lock.wait(LOOK_AGAIN_S)

    def _roll_back(self, deployment: Deployment, incoming: Fleet, before: int) -> None:
        """Give all requests back to the old fleet, which a rolling update first builds again."""
        with self._lock:
            if not deployment.rolling:
                self._shifted = 0
                self._activate()
        while deployment.rolling and self._live.desired < before:
            with self._lock:
                self._live.desired = min(before, self._live.desired + deployment.rollback_batch)
                self._fill(self._live)
                wanted = self._live.desired
            self._wait(lambda wanted=wanted: len(self._live.serving) >= wanted)
            with self._lock:
                if self._ended:
                    return
                kept = max(0, len(incoming.staying) - deployment.rollback_batch)
                incoming.desired = self._shifted = kept
                self._shrink(incoming, kept, drain=True)

    # Instances

    def _live_instance(self, instance: Instance) -> None:
        fleet = instance.fleet
        folder = self._environment.folder / "instances" / instance.name
        attempt = 0
        try:
            while not instance.leaving:
                try:
                    self._start(instance, folder)
                except StartError as error:
                    if instance.leaving:
                        return
                    instance.note(str(error))
                    attempt += 1
                    if error.killed and attempt < MAX_ATTEMPTS:
                        continue
                    with self._lock:
                        first = fleet is self._incoming or self.status == "Creating"
                        if first:
                            fleet.failure = str(error)
                    if first:
                        return
                    self._environment.clock.wait(instance.wake, min(60.0 * attempt, 600.0))
                    continue
                self._serve(instance)
        finally:
            instance.kill()
            with self._lock:
                instance.in_service = instance.active = False
                fleet.instances.remove(instance)
            shutil.rmtree(folder, ignore_errors=True)
            self._settle()

    def _start(self, instance: Instance, folder: Path) -> None:
        """Start the instance's process and wait until it serves."""
        clock = self._environment.clock
        process = start(instance, folder, self._environment.services, self._environment.processes)
        process.watch(self._notify)
        with self._lock:
            instance.process = process
            if instance.leaving:
                process.kill()
        wait_until_loaded(instance, process)
        # The model loads within the setup time, not after it.
        clock.wait(instance.wake, instance.asked_s + self._environment.setup_s - clock.now_s())
        with self._lock:
            instance.in_service = True
        self._settle()

    def _notify(self) -> None:
        with self._lock:
            self._lock.notify_all()

    def _serve(self, instance: Instance) -> None:
        """Hand the instance requests until it leaves or its process ends."""

        def takes_one() -> bool:
            free = instance.busy < instance.fleet.plan.concurrency
            return (
                instance.leaving
                or not instance.alive
                or bool(self._queue and instance.active and free)
            )

        with ThreadPoolExecutor(instance.fleet.plan.concurrency) as pool:
            while True:
                with self._lock:
                    self._lock.wait_for(takes_one)
                    if instance.leaving or not instance.alive:
                        break
                    waiting = self._queue.popleft()
                    self._working[waiting.number] = waiting
                    instance.busy += 1
                pool.submit(self._work_on, instance, waiting)
        for connection in instance.connections:
            connection.close()
        instance.connections.clear()
        with self._lock:
            instance.in_service = instance.active = False

    def _work_on(self, instance: Instance, waiting: Waiting) -> None:
        try:
            self._work(instance, waiting)
        finally:
            with self._lock:
                instance.busy -= 1
                if instance.leaving and not instance.busy:
                    instance.kill()
                self._lock.notify_all()

    # Requests

    def _work(self, instance: Instance, waiting: Waiting) -> None:
        clock, plan = self._environment.clock, instance.fleet.plan
        started_s = clock.now_s()
        request, body = self._environment.journal.request(waiting.number)
        if started_s >= waiting.expires_s:
            self._finish(waiting, plan, request, _expired(request), started_s)
            return
        content_type = request["content_type"]
        if body is None:
            try:
                bucket, key = split_uri(request["input_location"])
                body, stored_type = self._environment.services.get_object(bucket, key)
            except ObjectMissingError as error:
                failure = f"ClientError: Failed to download the input: {error}"
                outcome = Outcome(failure=failure, metric="RequestDownloadFailures")
                self._finish(waiting, plan, request, outcome, started_s)
                return
            downloaded_s = clock.now_s()
            self._count(plan.configuration, RequestDownloadLatency=(downloaded_s - started_s) * 1e6)
            content_type = content_type or stored_type
        headers = {"Content-Type": content_type or "application/octet-stream"}
        if request["accept"]:
            headers["Accept"] = request["accept"]
        if request["custom_attributes"]:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = request["custom_attributes"]
        asked_s = clock.now_s()
        try:
            status, answer, answer_type = self._ask(instance, headers, body, request["timeout_s"])
        except TimeoutError:
            # As TorchServe does, the worker is killed and the model loaded again.
            instance.kill()
            failure = f"ModelError: The model did not answer within {request['timeout_s']} s"
            self._finish(waiting, plan, request, Outcome(failure=failure), started_s)
            return
        except (OSError, http.client.HTTPException):
            self._interrupted(instance, waiting, request, started_s)
            return
        self._count(
            plan.configuration,
            ModelLatency=(clock.now_s() - asked_s) * 1e6,
            Invocation4XXErrors=float(400 <= status < 500),
            Invocation5XXErrors=float(status >= 500),
        )
        outcome = answers.of_response(status, answer, answer_type)
        if outcome.failure:
            instance.note(f"{clock.now():%FT%TZ} [{request['inference_id']}] {outcome.failure}")
        self._finish(waiting, plan, request, outcome, started_s)

    def _ask(
        self, instance: Instance, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> tuple[int, bytes, str]:
        """POST /invocations; raises OSError or HTTPException if no answer came."""
        process = instance.process
        assert process is not None
        try:
            connection = instance.connections.pop()
        except IndexError:
            connection = http.client.HTTPConnection("127.0.0.1", process.port)
        try:
            connection.timeout = max(0.001, self._environment.clock.real_s(timeout_s))
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            connection.request("POST", "/invocations", body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except BaseException:
            connection.close()
            raise
        instance.connections.append(connection)
        return response.status, answer, response.getheader("Content-Type") or ""

    def _interrupted(
        self, instance: Instance, waiting: Waiting, request: dict[str, Any], started_s: float
    ) -> None:
        waiting.attempts += 1
        with contextlib.suppress(OSError):
            instance.note(
                f"[{request['inference_id']}] the model's process ended under the request"
            )
        if waiting.attempts >= MAX_ATTEMPTS:
            failure = (
                f"ModelError: the model's process ended {MAX_ATTEMPTS} times under this request"
            )
            self._finish(waiting, instance.fleet.plan, request, Outcome(failure=failure), started_s)
            return
        with self._lock:
            self._working.pop(waiting.number, None)
            if not self._ended:
                self._interruptions += 1
                self._queue.appendleft(waiting)
                self._lock.notify_all()

    def _expire(self, now_s: float) -> None:
        """Answer those whose time in the queue is over."""
        with self._lock:
            expired = [waiting for waiting in self._queue if now_s >= waiting.expires_s]
            if expired:
                self._queue = deque(w for w in self._queue if now_s < w.expires_s)
                self._working |= {waiting.number: waiting for waiting in expired}
        for waiting in expired:
            request, _ = self._environment.journal.request(waiting.number)
            self._finish(waiting, self._live.plan, request, _expired(request), now_s)

    def _finish(
        self,
        waiting: Waiting,
        plan: FleetPlan,
        request: dict[str, Any],
        outcome: Outcome,
        started_s: float,
    ) -> None:
        """Write a request's one answer: its object, its message, its end in the journal."""
        clock, services = self._environment.clock, self._environment.services
        calls: list[Call] = []
        upload_s = clock.now_s()
        if outcome.failure is None and request["output_location"]:
            try:
                calls = [self._upload(request["output_location"], outcome, UPLOAD_ATTEMPTS)]
            except (WriteFailedError, ObjectMissingError) as error:
                failure = f"ClientError: Failed to upload the response: {error}"
                outcome = Outcome(failure=failure, metric="ResponseUploadFailures")
        if outcome.failure is not None and request["failure_location"]:
            location = request["failure_location"]
            with contextlib.suppress(WriteFailedError, ObjectMissingError):
                calls = [self._upload(location, outcome, FAILURE_UPLOAD_ATTEMPTS)]
        now_s = clock.now_s()
        if calls:
            self._count(plan.configuration, ResponseUploadLatency=(now_s - upload_s) * 1e6)
        topic = plan.success_topic if outcome.failure is None else plan.error_topic
        if topic and not services.topic_exists(topic):
            self._count(plan.configuration, NotificationFailures=1)
        elif topic:
            said = answers.message(
                self.name, self.region, request, plan, outcome, waiting.accepted_s, now_s
            )
            calls.append(publish(topic, said))
        services.answer(waiting.number, calls)
        values = {
            "TimeInBacklog": (started_s - waiting.accepted_s) * 1000,
            "TotalProcessingTime": (clock.now_s() - waiting.accepted_s) * 1000,
        }
        if outcome.failure is None:
            values["InvocationsProcessed"] = 1
        else:
            values["InvocationFailures"] = 1
        if outcome.metric:
            values[outcome.metric] = 1
        self._count(plan.configuration, **values)
        with self._lock:
            self._working.pop(waiting.number, None)

    def _upload(self, location: str, outcome: Outcome, attempts: int) -> Call:
        """The write of an object, once S3 takes it.

        Raises:
            WriteFailedError: it did not.
            ObjectMissingError: there is no such bucket.
        """
        bucket, key = split_uri(location)
        for attempt in range(attempts):
            try:
                self._environment.services.check_write(bucket)
                break
            except WriteFailedError:
                if attempt + 1 == attempts:
                    raise
                self._environment.clock.wait(threading.Event(), UPLOAD_BACKOFF_S)
        return put_object(bucket, key, outcome.object_body, outcome.object_type)


def _expired(request: dict[str, Any]) -> Outcome:
    failure = f"ClientError: The request expired after {request['ttl_s']} s in the queue"
    return Outcome(failure=failure, metric="ExpiredRequests")
