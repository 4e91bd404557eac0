"""Endpoints of the embedded AWS that live for hours in a fraction of a second.

Application Auto Scaling, alarms and metrics are the embedded AWS's own objects; only the instances
are played here, on a clock that steps from one event to the next. What they leave behind is read
as calibration reads it from the API.
"""

import heapq
import math
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from async_inference.aws_names import INSTANCE_METRICS, QUEUE_METRICS, EndpointStatus, Series
from async_inference.calibration import records
from async_inference.calibration.records import Minutes, Records
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.faults import Faults
from async_inference.local_aws.fleet.endpoint import Capacity
from async_inference.local_aws.journal import Journal
from async_inference.local_aws.services import cloudwatch
from async_inference.local_aws.services.alarms import Alarms
from async_inference.local_aws.services.autoscaling import ApplicationAutoScaling
from async_inference.local_aws.services.moto_services import ACCOUNT_ID, MotoServices
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling import documents
from async_inference.scaling.autoscaler import change_in_progress
from async_inference.scaling.plan import Metric, ScalingPlan, StepScalingPolicy
from async_inference.scaling.unsettled import Unsettled

ENDPOINT = "sdxl"
REGION = "us-east-1"
START_S = 1_790_000_040.0
RESOURCE = f"endpoint/{ENDPOINT}/variant/AllTraffic"
TARGET: Any = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": RESOURCE,
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
MINUTE_S = 60


@dataclass(frozen=True, kw_only=True)
class World:
    """One way in which AWS may be, and what happens in it.

    Args:
        first_setup_s: of the endpoint's creation, whose image is not cached.
        tail_s: how long it is watched after the last arrival.
        by_hand: (second, instances) that somebody sets past Auto Scaling.
    """

    plan: ScalingPlan
    traffic: Traffic
    unsettled: Unsettled = field(default_factory=Unsettled)
    setup_s: float = 340.0
    setup_sigma: float = 0.1
    first_setup_s: float = 600.0
    seed: int = 0
    tail_s: float = 3600.0
    by_hand: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class Lived:
    """What a world left: its records, and each request's wait for the start of its service."""

    records: Records
    waits_s: np.ndarray


class Stepped(Clock):
    """A clock that is where it was put."""

    def __init__(self) -> None:
        super().__init__(60.0, START_S)
        self.stands_at_s = START_S

    def now_s(self) -> float:
        held_s = getattr(self._moment, "at_s", None)
        return self.stands_at_s if held_s is None else held_s


@dataclass(eq=False)
class Request:
    number: int
    came_s: float
    service_s: float
    started_s: float = math.nan


@dataclass(eq=False)
class Instance:
    serving: bool = False
    leaving: bool = False
    request: Request | None = None


class Endpoint:
    """An endpoint that plays its instances, with the rules on changes of the embedded AWS."""

    def __init__(self, world: World, clock: Stepped, store: Any) -> None:
        self.name = ENDPOINT
        self.plan = SimpleNamespace(variant="AllTraffic")
        self.status = EndpointStatus.CREATING
        self.desired = 1
        self.scale_in_ends_s = -math.inf
        self.told = threading.Event()
        self.told.set()
        self.changed: Callable[[], None] = lambda: None
        self.waits_s = np.full(world.traffic.requests, math.nan)
        self._world = world
        self._clock = clock
        self._store = store
        self._random = np.random.default_rng((world.seed, 1))
        self._instances: list[Instance] = []
        self._queue: deque[Request] = deque()
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._number = 0
        self._sums: dict[str, list[float]] = {}
        self.unanswered = world.traffic.requests
        self._fill(world.first_setup_s)

    # What Application Auto Scaling asks and tells

    @property
    def in_service(self) -> int:
        return sum(each.serving and not each.leaving for each in self._instances)

    @property
    def capacity(self) -> Capacity:
        settled = self.status == EndpointStatus.IN_SERVICE
        return Capacity(
            status=self.status,
            desired=self.desired,
            in_service=self.desired if settled else self.in_service,
            scale_in_ends_s=self.scale_in_ends_s,
            deploying=self.status == EndpointStatus.CREATING,
        )

    def set_desired(self, count: int) -> bool:
        overlaps = self._world.unsettled.capacity_change_in_progress == "allowed"
        if not (
            self.status == EndpointStatus.IN_SERVICE
            or (overlaps and self.status == EndpointStatus.UPDATING)
        ):
            return False
        if count < self.desired:
            self.scale_in_ends_s = self._clock.now_s() + self._world.unsettled.scale_in_takes_s
        self.desired = count
        self.status = EndpointStatus.UPDATING
        staying = [each for each in self._instances if not each.leaving]
        for each in sorted(staying, key=lambda i: (i.serving, i.request is not None))[
            : max(0, len(staying) - count)
        ]:
            self._dismiss(each)
        self._fill()
        self.told.clear()
        return True

    def settle(self) -> None:
        if self.status in (
            EndpointStatus.CREATING,
            EndpointStatus.UPDATING,
        ) and not change_in_progress(
            self._clock.now_s(), self.desired, self.in_service, self.scale_in_ends_s
        ):
            self.status = EndpointStatus.IN_SERVICE
        self.changed()
        self.told.set()

    # What happens

    @property
    def next_s(self) -> float:
        return self._events[0][0] if self._events else math.inf

    def happen(self) -> None:
        _, _, what, arguments = heapq.heappop(self._events)
        what(*arguments)
        self._hand_out()

    def arrive(self, request: Request) -> None:
        self._queue.append(request)

    def at(self, moment_s: float, what: Callable[..., None], *arguments: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment_s, self._number, what, arguments))

    def _fill(self, setup_s: float | None = None) -> None:
        while sum(not each.leaving for each in self._instances) < self.desired:
            instance = Instance()
            self._instances.append(instance)
            spread = math.exp(self._world.setup_sigma * float(self._random.standard_normal()))
            took_s = self._world.setup_s * spread if setup_s is None else setup_s
            self.at(self._clock.now_s() + took_s, self._serve, instance)

    def _serve(self, instance: Instance) -> None:
        if not instance.leaving:
            instance.serving = True
            self.settle()

    def _dismiss(self, instance: Instance) -> None:
        instance.leaving = True
        if instance.request is None:
            self._instances.remove(instance)
        elif self._world.unsettled.inflight_on_scale_in == "requeue":
            self._queue.appendleft(instance.request)
            instance.request = None
            self._instances.remove(instance)

    def _hand_out(self) -> None:
        for instance in self._instances:
            if instance.serving and not instance.leaving and not instance.request and self._queue:
                request = instance.request = self._queue.popleft()
                request.started_s = self._clock.now_s()
                self.at(request.started_s + request.service_s, self._end, instance, request)

    def _end(self, instance: Instance, request: Request) -> None:
        if instance.request is not request:
            return  # it lost its instance
        instance.request = None
        if instance.leaving:
            self._instances.remove(instance)
        self.waits_s[request.number] = request.started_s - request.came_s
        self.unanswered -= 1
        now_s = self._clock.now_s()
        self._sums.setdefault("TimeInBacklog", []).append(
            (request.started_s - request.came_s) * 1000
        )
        self._sums.setdefault("TotalProcessingTime", []).append((now_s - request.came_s) * 1000)

    def sample(self, first: bool) -> None:
        """Publish a look, as the embedded AWS's endpoint does."""
        unsettled, now_s = self._world.unsettled, self._clock.now_s()
        waiting, serving = len(self._queue), self.in_service
        working = sum(each.request is not None for each in self._instances)
        counted = waiting + (working if unsettled.backlog_counts_inflight else 0)
        mine = {"EndpointName": ENDPOINT}

        def put(name: str, values: Sequence[float], namespace=QUEUE_METRICS, **more: str) -> None:
            self._store.put(Series.of(namespace, name, mine | more), now_s, values)

        put("ApproximateBacklogSize", [counted])
        if serving or unsettled.backlog_per_instance_at_zero == "backlog":
            put("ApproximateBacklogSizePerInstance", [counted / max(1, serving)])
        put("HasBacklogWithoutCapacity", [float(waiting + working > 0 and serving == 0)])
        sums, self._sums = self._sums, {}
        for name, values in sums.items():
            put(name, values, VariantName="AllTraffic")
        if serving and first:
            put("CPUUtilization", [0.0] * serving, INSTANCE_METRICS, VariantName="AllTraffic")


def live(world: World) -> Lived:
    """Let a world live, and read what it left."""
    names = random.Random(world.seed)
    with patch("uuid.uuid4", lambda: uuid.UUID(int=names.getrandbits(128), version=4)):
        return _live(world)


def _live(world: World) -> Lived:
    clock, journal = Stepped(), Journal(None)
    services = MotoServices(journal, Faults())
    backend = cloudwatch.of_region(ACCOUNT_ID, REGION)
    backend.reset()
    unsettled = world.unsettled

    def scale(policy_arn: str, alarm: str, metric: float, threshold: float) -> str:
        return autoscaling.alarm_fired(policy_arn, alarm, metric, threshold)

    alarms = Alarms(REGION, clock, services, unsettled, scale)
    autoscaling = ApplicationAutoScaling(
        REGION, clock, journal, unsettled, alarms.put, alarms.delete
    )
    endpoint = Endpoint(world, clock, backend.metrics)
    endpoint.changed = lambda: autoscaling.capacity_changed(endpoint)  # ty: ignore
    autoscaling.attach(lambda: {ENDPOINT: endpoint})  # ty: ignore
    _deploy(world.plan, autoscaling, alarms)
    first_s = began_s(world.first_setup_s)
    for number, (arrival_s, service_s) in enumerate(
        zip(world.traffic.arrivals_s, world.traffic.service_s, strict=True)
    ):
        request = Request(number, first_s + arrival_s, float(service_s))
        endpoint.at(request.came_s, endpoint.arrive, request)
    for at_s, count in world.by_hand:
        endpoint.at(first_s + at_s, lambda count=count: _by_hand(endpoint, count))
    end_s = first_s + world.traffic.span_s + world.tail_s
    last_s = START_S
    while True:
        looks_s = [_next_s(at_s, last_s) for at_s in unsettled.sample_times_s]
        scale_in_s = endpoint.scale_in_ends_s if endpoint.scale_in_ends_s > last_s else math.inf
        alarm_s = alarms.next_evaluation_s(last_s) or math.inf
        due_s = min([*looks_s, scale_in_s, alarm_s])
        if endpoint.next_s < due_s:
            clock.stands_at_s = endpoint.next_s
            endpoint.happen()
            continue
        if due_s > end_s:
            break
        clock.stands_at_s = due_s
        if scale_in_s == due_s:
            endpoint.settle()
        if due_s in looks_s:
            endpoint.sample(first=due_s == looks_s[0])
        alarms.evaluate_due(last_s, due_s)
        autoscaling.run_schedules(last_s, due_s)
        assert endpoint.told.wait(10), "Application Auto Scaling tells of each change"
        endpoint._hand_out()
        last_s = due_s
    clock.stands_at_s = end_s
    left = _read(clock, autoscaling, backend)
    journal.close()
    return Lived(left, endpoint.waits_s)


def _by_hand(endpoint: Endpoint, count: int) -> None:
    if endpoint.set_desired(count):
        endpoint.settle()


def _deploy(plan: ScalingPlan, autoscaling: ApplicationAutoScaling, alarms: Alarms) -> None:
    bounds = {"MinCapacity": plan.min_capacity, "MaxCapacity": plan.max_capacity}
    autoscaling.register_scalable_target({**TARGET, **bounds})
    for policy in plan.policies:
        document = documents.policy_document(policy, ENDPOINT)
        answer = autoscaling.put_scaling_policy(TARGET | document)
        if isinstance(policy, StepScalingPolicy):
            on = documents.metric_stat(policy.alarm, ENDPOINT)
            alarm = documents.alarm_document(policy.alarm, on)
            alarms.put(f"{policy.name}-{uuid.uuid4()}", alarm, answer["PolicyARN"])
    for action in plan.schedules:
        schedule = documents.schedule_document(action)
        autoscaling.put_scheduled_action({**TARGET, **schedule})


def began_s(first_setup_s: float) -> float:
    """When a world's traffic begins: half an hour after the endpoint's first instance serves."""
    return START_S + first_setup_s + 30 * MINUTE_S


def _read(clock: Clock, autoscaling: ApplicationAutoScaling, backend: Any) -> Records:
    activities: Any = autoscaling.activities()
    declared = (
        records.alarm(
            {
                "AlarmName": alarm.name,
                "MetricName": alarm.metric_name,
                "Threshold": alarm.threshold,
                "Period": alarm.period,
                "EvaluationPeriods": alarm.evaluation_periods,
                "AlarmActions": alarm.alarm_actions,
            }
        )
        for alarm in backend.alarms.values()
    )
    history = (
        records.state_change(item)
        for item in backend.alarm_history
        if item["HistoryItemType"] == "StateUpdate"
    )
    return Records(
        endpoint=ENDPOINT,
        since_s=START_S - 60,
        read_s=clock.now_s(),
        created_s=START_S,
        configuration="sdxl-config-1",
        configuration_created_s=START_S - 1,
        concurrency=1,
        activities=tuple(map(records.activity, activities)),
        alarms=tuple(each for each in declared if each),
        changes=tuple(each for each in history if each),
        minutes=_minutes(backend.metrics),
    )


def _minutes(store: Any) -> Minutes:
    mine = {"EndpointName": ENDPOINT}
    variant = mine | {"VariantName": "AllTraffic"}

    def read(name: str, of: Callable[[Any], float], dimensions=mine, namespace=QUEUE_METRICS):
        series = Series.of(namespace, name, dimensions)
        return {p.minute * MINUTE_S: of(p) for p in store.between(series, 0, math.inf)}

    return Minutes(
        queue={metric: read(metric, lambda p: p.total / p.count) for metric in Metric},
        samples=read("ApproximateBacklogSize", lambda p: p.count),
        instances=read("CPUUtilization", lambda p: p.count, variant, INSTANCE_METRICS),
        ended=read("TotalProcessingTime", lambda p: p.count, variant),
        in_backlog_ms=read("TimeInBacklog", lambda p: p.total, variant),
        total_ms=read("TotalProcessingTime", lambda p: p.total, variant),
    )


def _next_s(second: float, after_s: float) -> float:
    return ((after_s - second) // MINUTE_S + 1) * MINUTE_S + second
