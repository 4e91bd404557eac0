"""A running asynchronous endpoint: its fleets of instances, and how an update replaces them.

Threads: one for each instance, which starts it and hands it requests; one for each request that an
instance works on; one for an update in progress. One lock protects all of an endpoint's state.
"""

import math
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from async_inference.aws_names import INSTANCE_METRICS, QUEUE_METRICS, EndpointStatus, Series, arn
from async_inference.local_aws.fleet.backlog import Backlog, Waiting
from async_inference.local_aws.fleet.deployment import Deployment
from async_inference.local_aws.fleet.environment import Environment
from async_inference.local_aws.fleet.instance import (
    Fleet,
    FleetPlan,
    Instance,
    StartError,
    start,
    wait_until_loaded,
)
from async_inference.local_aws.services.moto_services import ACCOUNT_ID
from async_inference.scaling.autoscaler import CHANGE_REFUSED, change_in_progress
from async_inference.scaling.plan import Metric
from async_inference.scaling.unsettled import Unsettled

START_ATTEMPTS = 3
"""Attempts to start an instance whose process is killed while it starts."""
LOOK_AGAIN_S = 0.05
"""Real seconds between two checks of an update's progress."""
PER_FLEET = ("ModelLatency", "Invocation4XXErrors", "Invocation5XXErrors")
"""Metrics that are published for each configuration too, for rollback alarms (DG guardrails)."""


@dataclass(frozen=True)
class Capacity:
    """An endpoint's capacity at one moment, as the rule on capacity changes reads it.

    Args:
        status: the endpoint's status.
        desired: instances asked for.
        in_service: instances in service; as many as asked for where only a lost one is replaced.
        scale_in_ends_s: when the newest scale-in is done.
        deploying: whether a configuration is being deployed, the first one included.
    """

    status: EndpointStatus
    desired: int
    in_service: int
    scale_in_ends_s: float
    deploying: bool


class InstanceReport(TypedDict):
    """An instance on the status page."""

    name: str
    configuration: str
    state: Literal["starting", "in service", "leaving"]
    asked_s: float
    busy: int
    concurrency: int


class Endpoint:
    """A running endpoint.

    Args:
        name: the endpoint's name.
        region: where its topics and objects are.
        plan: the configuration that it starts with.
        environment: the services that it uses.
        changed: called without a lock held after each change of status or capacity.
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
        self.status = EndpointStatus.CREATING if resumed is None else EndpointStatus.UPDATING
        self.failure_reason: str | None = None
        self._environment = environment
        self._changed = changed
        self._lock = threading.Condition()
        self.requests = Backlog(name, region, environment, self._lock)
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._in_progress_since_s: float | None = environment.clock.now_s()
        self._scale_in_ends_s = -math.inf
        self._live = Fleet(plan, plan.initial_instances if resumed is None else resumed)
        self._incoming: Fleet | None = None
        self._shifted = 0
        with self._lock:
            self._fill(self._live)
        self.settle()

    @property
    def configuration(self) -> str:
        """The configuration of the live fleet."""
        return self._live.plan.configuration

    @property
    def plan(self) -> FleetPlan:
        """The plan of the live fleet."""
        return self._live.plan

    @property
    def incoming(self) -> tuple[FleetPlan, int, int] | None:
        """During an update: the new fleet's plan, and its instances in service and desired."""
        with self._lock:
            fleet = self._incoming
            return (fleet.plan, len(fleet.serving), fleet.desired) if fleet else None

    @property
    def desired(self) -> int:
        """Desired instances."""
        return self._live.desired

    @property
    def in_service(self) -> int:
        """Instances in service."""
        with self._lock:
            return len(self._live.serving)

    @property
    def backlog(self) -> int:
        """Requests without an answer, waiting or in progress."""
        with self._lock:
            return self.requests.waiting + self.requests.working

    @property
    def in_progress_since_s(self) -> float | None:
        """When it became Creating or Updating; None if it is neither."""
        return self._in_progress_since_s

    @property
    def scale_in_ends_s(self) -> float:
        """When the newest scale-in is done; call `settle` then."""
        return self._scale_in_ends_s

    @property
    def capacity(self) -> Capacity:
        """The capacity now."""
        with self._lock:
            desired = self._live.desired
            settled = self.status == EndpointStatus.IN_SERVICE
            return Capacity(
                status=self.status,
                desired=desired,
                in_service=desired if settled else len(self._live.serving),
                scale_in_ends_s=self._scale_in_ends_s,
                deploying=self._incoming is not None or self.status == EndpointStatus.CREATING,
            )

    def set_desired(self, count: int) -> bool:
        """Set the desired number of instances; then call `settle`, which reports the change.

        Returns:
            Whether it was accepted: not while the endpoint is in progress, unless
            `Unsettled.capacity_change_in_progress` allows it.
        """
        now_s = self._environment.clock.now_s()
        unsettled = self._environment.unsettled
        with self._lock:
            overlaps = unsettled.capacity_change_in_progress == "allowed"
            if self._incoming is not None or not (
                self.status == EndpointStatus.IN_SERVICE
                or (overlaps and self.status == EndpointStatus.UPDATING)
            ):
                return False
            if count < self._live.desired:
                self._scale_in_ends_s = now_s + unsettled.scale_in_takes_s
            self._live.desired = count
            self._begin_update(now_s)
            self._shrink(self._live, count)
            self._fill(self._live)
        return True

    def update(self, plan: FleetPlan, instances: int, deployment: Deployment) -> None:
        """Replace the fleet step by step; if that fails, the old fleet serves again."""
        with self._lock:
            self._begin_update(self._environment.clock.now_s())
            self.failure_reason = None
            self._incoming = Fleet(plan, 0 if deployment.rolling else instances)
            self._shifted = 0
            self._start_thread(self._deploy, deployment, instances)
        self._changed()

    def delete(self) -> None:
        """Stop every instance and drop the queue."""
        with self._lock:
            self.status = EndpointStatus.DELETING
            self.requests.drop()
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

    def sample(self, first: bool) -> None:
        """Publish a sample of the queue (docs/aws-facts.md#metrics).

        Args:
            first: whether it is the minute's first sample; instances are counted once a minute.
        """
        now_s = self._environment.clock.now_s()
        self.requests.expire(self._live.plan)
        with self._lock:
            waiting, working = self.requests.waiting, self.requests.working
            serving = len(self._live.serving)
            oldest_age_s = self.requests.oldest_age_s
            sums = self.requests.counted()
        mine = {"EndpointName": self.name}
        unsettled = self._environment.unsettled
        for metric, value in queue_look(waiting, working, serving, oldest_age_s, unsettled).items():
            self._put(metric, mine, [value], now_s)
        variant = mine | {"VariantName": self._live.plan.variant}
        together: dict[str, list[float]] = {}
        for (name, configuration), values in sums.items():
            together.setdefault(name, []).extend(values)
            if name in PER_FLEET:
                fleet = variant | {"EndpointConfigName": configuration}
                self._put(name, fleet, values, now_s)
        for name, values in together.items():
            self._put(name, variant, values, now_s)
        if serving and first:
            series = Series.of(INSTANCE_METRICS, "CPUUtilization", variant)
            self._environment.metrics.put(series, now_s, [0.0] * serving)

    def instances(self) -> list[InstanceReport]:
        """The instances, for the status page."""
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
        self._environment.metrics.put(Series.of(QUEUE_METRICS, name, dimensions), now_s, values)

    # Fleets

    def _start_thread(self, work: Callable[..., None], *arguments: object) -> None:
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
        # First those that do not serve yet, then idle ones.
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
        """Choose which instances take requests: during an update a part of each fleet."""
        live, incoming = self._live.serving, self._incoming
        count = len(live)
        if incoming is not None:
            new = incoming.serving
            share = min(1.0, self._shifted / max(1, incoming.desired, len(new)))
            for index, instance in enumerate(new):
                instance.active = index < self._shifted
            # The new fleet's share of the traffic is taken off the old fleet (DG guardrails).
            count = math.ceil(count * (1 - share))
        for index, instance in enumerate(live):
            instance.active = index < count
        self._lock.notify_all()

    def _begin_update(self, now_s: float) -> None:
        if self.status == EndpointStatus.IN_SERVICE:
            self._in_progress_since_s = now_s
        self.status = EndpointStatus.UPDATING

    def settle(self) -> None:
        """Update the status once a change is done, and report the change."""
        now_s = self._environment.clock.now_s()
        with self._lock:
            self._activate()
            if self._ended:
                return
            if self.status == EndpointStatus.CREATING and self._live.failure is not None:
                self.status = EndpointStatus.FAILED
                self._in_progress_since_s = None
                self.failure_reason = self._live.failure
            elif (
                self._incoming is None
                and self.status in (EndpointStatus.CREATING, EndpointStatus.UPDATING)
                and not change_in_progress(
                    now_s, self._live.desired, len(self._live.serving), self._scale_in_ends_s
                )
            ):
                self.status = EndpointStatus.IN_SERVICE
                self._in_progress_since_s = None
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
                    # The old fleet finishes its requests.
                    self._dismiss(instance, drain=True)
        else:
            self._roll_back(deployment, incoming, before)
            with self._lock:
                self._incoming = None
                self.failure_reason = problem
                for instance in incoming.staying:
                    self._dismiss(instance, drain=True)
        self.settle()

    def _shift(
        self, deployment: Deployment, incoming: Fleet, instances: int, before: int
    ) -> str | None:
        """Go through the steps; returns why it failed, if it did."""
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
                    if error.killed and attempt < START_ATTEMPTS:
                        continue
                    with self._lock:
                        first = fleet is self._incoming or self.status == EndpointStatus.CREATING
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
            self.settle()

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
        # Loading the model is part of the setup time.
        serves_s = max(clock.now_s(), instance.asked_s + self._environment.setup_s)
        clock.wait(instance.wake, serves_s - clock.now_s())
        with self._lock:
            instance.in_service = True
        with clock.at(min(serves_s, clock.now_s())):
            self.settle()

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
                or bool(self.requests.waiting and instance.active and free)
            )

        with ThreadPoolExecutor(instance.fleet.plan.concurrency) as pool:
            while True:
                with self._lock:
                    self._lock.wait_for(takes_one)
                    if instance.leaving or not instance.alive:
                        break
                    waiting = self.requests.take()
                    instance.busy += 1
                pool.submit(self._work_on, instance, waiting)
        for connection in instance.connections:
            connection.close()
        instance.connections.clear()
        with self._lock:
            instance.in_service = instance.active = False

    def _work_on(self, instance: Instance, waiting: Waiting) -> None:
        try:
            self.requests.work(instance, waiting)
        finally:
            with self._lock:
                instance.busy -= 1
                if instance.leaving and not instance.busy:
                    instance.kill()
                self._lock.notify_all()


def queue_look(
    waiting: int, working: int, serving: int, oldest_age_s: float | None, unsettled: Unsettled
) -> dict[str, float]:
    """One sample of a queue, by metric (docs/aws-facts.md#metrics).

    Args:
        waiting: requests that no instance works on.
        working: requests in progress.
        serving: instances in service.
        oldest_age_s: age of the oldest of these requests; None without any.
        unsettled: the reading of undocumented AWS behaviour.
    """
    counted = float(waiting + (working if unsettled.backlog_counts_inflight else 0))
    look = {
        Metric.BACKLOG_SIZE: counted,
        Metric.HAS_BACKLOG_WITHOUT_CAPACITY: float(waiting + working > 0 and serving == 0),
    }
    if serving or unsettled.backlog_per_instance_at_zero == "backlog":
        look[Metric.BACKLOG_SIZE_PER_INSTANCE] = counted / max(1, serving)
    if oldest_age_s is not None:
        look[Metric.AGE_OF_OLDEST_REQUEST] = oldest_age_s
    return {metric.value: value for metric, value in look.items()}


def change_refused(region: str, endpoint: str) -> str:
    """SageMaker's message when an endpoint in progress is to be changed."""
    named = arn("sagemaker", f"endpoint/{endpoint.lower()}", region=region, account_id=ACCOUNT_ID)
    return f'{CHANGE_REFUSED} "{named}".'
