"""An endpoint's queue of unanswered requests, and how each request gets its answer."""

import contextlib
import http.client
import threading
from collections import deque
from dataclasses import dataclass

from async_inference.local_aws.fleet import answers
from async_inference.local_aws.fleet.answers import Invocation, Outcome
from async_inference.local_aws.fleet.environment import Environment
from async_inference.local_aws.fleet.instance import FleetPlan, Instance
from async_inference.local_aws.journal import Call
from async_inference.local_aws.services.moto_services import (
    ObjectMissingError,
    WriteFailedError,
    publish,
    put_object,
    split_uri,
)

MAX_ATTEMPTS = 3
"""Attempts at a request whose instance's process ends under it."""
UPLOAD_ATTEMPTS = 3
"""Attempts to write an output to S3 before the request fails."""
FAILURE_UPLOAD_ATTEMPTS = 50
"""Attempts to write a failure object: without a topic, nothing else reports the failure."""
UPLOAD_BACKOFF_S = 1.0


@dataclass(slots=True)
class Waiting:
    """A request in the queue; the rest of it is in the journal."""

    number: int
    accepted_s: float
    expires_s: float
    attempts: int = 0


class Backlog:
    """The requests without an answer, waiting or in progress.

    Args:
        endpoint: its name.
        region: where its topics and objects are.
        environment: the services that it uses.
        lock: the endpoint's; a new request notifies the threads that wait on it.
    """

    def __init__(
        self, endpoint: str, region: str, environment: Environment, lock: threading.Condition
    ) -> None:
        self.interruptions = 0
        """Requests that lost their instance and were queued again."""
        self._endpoint = endpoint
        self._region = region
        self._environment = environment
        self._lock = lock
        self._working: dict[int, Waiting] = {}
        self._sums: dict[tuple[str, str], list[float]] = {}
        self._queue = deque(Waiting(*kept) for kept in environment.journal.waiting(endpoint))

    @property
    def waiting(self) -> int:
        """How many are waiting."""
        return len(self._queue)

    @property
    def working(self) -> int:
        """How many are in progress."""
        return len(self._working)

    @property
    def oldest_age_s(self) -> float | None:
        """Simulated seconds since the oldest one was accepted; None without any."""
        with self._lock:
            accepted = [waiting.accepted_s for waiting in self._working.values()]
            accepted += [self._queue[0].accepted_s] if self._queue else []
        return max(0.0, self._environment.clock.now_s() - min(accepted)) if accepted else None

    def accept(self, request: Invocation, body: bytes | None) -> None:
        """Queue a request; once this returns, it will be answered even after a crash."""
        now_s = self._environment.clock.now_s()
        expires_s = now_s + request["ttl_s"]
        accepted: Invocation = {**request, "accepted_s": now_s, "expires_s": expires_s}
        with self._lock:
            number = self._environment.journal.accept(self._endpoint, accepted, body)
            self._queue.append(Waiting(number, now_s, expires_s))
            self._lock.notify_all()

    def take(self) -> Waiting:
        """Take the next one to work on; call it with the lock held."""
        waiting = self._queue.popleft()
        self._working[waiting.number] = waiting
        return waiting

    def drop(self) -> None:
        """Forget those that are waiting."""
        self._queue.clear()

    def expire(self, plan: FleetPlan) -> None:
        """Answer those whose time to live is over."""
        now_s = self._environment.clock.now_s()
        with self._lock:
            expired = [waiting for waiting in self._queue if now_s >= waiting.expires_s]
            if expired:
                self._queue = deque(w for w in self._queue if now_s < w.expires_s)
                self._working |= {waiting.number: waiting for waiting in expired}
        for waiting in expired:
            request, _ = self._environment.journal.request(waiting.number)
            self._finish(waiting, plan, request, _expired(request), now_s)

    def counted(self) -> dict[tuple[str, str], list[float]]:
        """The values by metric and configuration since the last call."""
        with self._lock:
            sums, self._sums = self._sums, {}
        return sums

    def work(self, instance: Instance, waiting: Waiting) -> None:
        """Have an instance answer a request that `take` returned."""
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
            status, answer, answer_type = instance.ask(
                headers, body, clock.real_s(request["timeout_s"])
            )
        except TimeoutError:
            # As in TorchServe, the worker is killed and loads the model again.
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

    def _interrupted(
        self, instance: Instance, waiting: Waiting, request: Invocation, started_s: float
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
            del self._working[waiting.number]
            self.interruptions += 1
            self._queue.appendleft(waiting)
            self._lock.notify_all()

    def _finish(
        self,
        waiting: Waiting,
        plan: FleetPlan,
        request: Invocation,
        outcome: Outcome,
        started_s: float,
    ) -> None:
        """Write a request's only answer: object, message, and its removal from the journal."""
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
                self._endpoint, self._region, request, plan, outcome, waiting.accepted_s, now_s
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
            del self._working[waiting.number]

    def _upload(self, location: str, outcome: Outcome, attempts: int) -> Call:
        """The call that writes an object, once S3 accepts it.

        Raises:
            WriteFailedError: S3 refused every attempt.
            ObjectMissingError: the bucket does not exist.
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

    def _count(self, configuration: str, **values: float) -> None:
        with self._lock:
            for metric, value in values.items():
                self._sums.setdefault((metric, configuration), []).append(value)


def _expired(request: Invocation) -> Outcome:
    failure = f"ClientError: The request expired after {request['ttl_s']} s in the queue"
    return Outcome(failure=failure, metric="ExpiredRequests")
