"""A discrete-event simulation of one asynchronous endpoint under a scaling plan.

There is one first-in-first-out queue. Each instance has `concurrency` slots; it is requested,
starts, serves and leaves. Metrics are sampled every minute and visible after a delay; alarms are
evaluated every minute, each at its own phase. The rules of scaling are those of
`async_inference.scaling`, compiled. The same seed gives the same run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np

from async_inference.rehearsal import compiled, records
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling import schedules
from async_inference.scaling.alarms import evaluated_every_s
from async_inference.scaling.autoscaler import Verdict
from async_inference.scaling.plan import (
    Metric,
    ScalingPlan,
    ScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

MINUTE_S = 60.0
SETUP_STREAM = 3
"""A seed's random stream of setup times; each `_Role` has another one, of alarm phases."""
SETUPS = 4096
"""How many setup times are drawn; later starts reuse them."""
COOL_DOWN_MINUTES = 24 * 60
"""A run ends when all requests are answered and the capacity is at its minimum, at the latest a day
after the last arrival."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a rehearsal assumes, apart from plan and traffic.

    Args:
        setup_s: median seconds from requesting an instance to its first request.
        setup_sigma: spread of the lognormal setup time; 0 makes it constant.
        concurrency: requests that one instance works on at the same time.
        request_ttl_s: seconds until an unserved request expires.
        usd_per_instance_hour: price of an instance.
        shortages_s: (start, end) of each capacity shortage, in which no instance starts.
        unsettled: the reading of undocumented AWS behaviour.
        phases_s: measured alarm phases by policy name.
        calibrated: the live endpoint on which these were measured, as a clause; empty if none.
    """

    setup_s: float = 190.0
    setup_sigma: float = 0.0
    concurrency: int = 1
    request_ttl_s: float = 21_600.0
    usd_per_instance_hour: float = 0.94
    shortages_s: tuple[tuple[float, float], ...] = ()
    unsettled: Unsettled = field(default_factory=Unsettled)
    phases_s: tuple[tuple[str, tuple[float, ...]], ...] = ()
    calibrated: str = ""


@dataclass(frozen=True)
class Wait:
    """Seconds from arrival to start of service, over the completed requests."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class InstanceHours:
    """What instance hours were spent on.

    Args:
        work: requests served to their end.
        setup: time from requesting an instance until it is in service.
        gaps: time between requests, and empty slots of instances that were busy.
        tail: time after an instance's last request.
        over_shoot: instances that never served a request, setup included.
        interrupted: work that a scale-in interrupted.
    """

    work: float
    setup: float
    gaps: float
    tail: float
    over_shoot: float
    interrupted: float


@dataclass(frozen=True)
class Action:
    """A request to a policy to scale, and its outcome."""

    at_s: float
    policy: str
    verdict: Verdict
    before: int
    after: int


@dataclass(frozen=True)
class Run:
    """The result of simulating one plan over one traffic.

    `made_of` says what the instance hours were spent on. `detection_s` is the mean time from the
    arrival of the oldest waiting request to the scale-out from zero, NaN if there was none.
    `started_s` and `finished_s` are NaN for expired requests. `capacity` has a record (`at_s`,
    `desired`, `in_service`) for each change. `log` holds the records behind `actions`.
    """

    completed: int
    expired: int
    interrupted: int
    wait_s: Wait
    instance_hours: float
    cost_usd: float
    starts: int
    peak_instances: int
    made_of: InstanceHours
    detection_s: float
    started_s: np.ndarray
    finished_s: np.ndarray
    capacity: np.ndarray
    log: np.ndarray
    policies: tuple[str, ...]

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """Each request to a policy to scale, in order."""
        return tuple(
            Action(at_s, self.policies[policy], Verdict(verdict), before, after)
            for at_s, policy, verdict, before, after in self.log.tolist()
        )


def simulate(
    plan: ScalingPlan,
    traffic: Traffic,
    assumptions: Assumptions,
    seed: int,
    start_s: float = 0.0,
    phases_s: Sequence[float] | None = None,
) -> Run:
    """Simulate a plan over traffic.

    Args:
        plan: the scaling plan.
        traffic: the arrivals and their service times.
        assumptions: the run's assumptions.
        seed: seed of alarm phases and setup times.
        start_s: when the traffic starts, in seconds since the epoch; schedules need it.
        phases_s: the alarms' phases, in seconds after each full minute, in the order of
            `records.from_plan`; drawn from the seed if None.
    """
    unsettled = assumptions.unsettled
    rules = records.from_plan(plan, unsettled)
    rules.alarms["due_s"] = (
        alarm_phases_s(plan, seed, dict(assumptions.phases_s)) if phases_s is None else phases_s
    )
    end_s = traffic.span_s + COOL_DOWN_MINUTES * MINUTE_S
    scheduled = np.array(_scheduled(plan, start_s, end_s), records.SCHEDULED)
    minutes = int(end_s // MINUTE_S) + 2
    requests = np.empty(traffic.requests, records.REQUEST)
    requests["arrival_s"], requests["service_s"] = traffic.arrivals_s, traffic.service_s
    requests["announces"] = traffic.announces
    requests["started_s"] = requests["finished_s"] = math.nan
    most = max([1, plan.max_capacity, *scheduled["minimum"], *scheduled["maximum"]])
    instances = 2 * most + 2  # as many again may still be leaving
    states = np.zeros(1, records.STATE)
    state = states[0]
    state["minimum"] = state["wanted"] = plan.min_capacity
    state["maximum"] = plan.max_capacity
    state["end_s"] = end_s
    state["scale_in_ends_s"] = -math.inf
    state["next_look_s"] = unsettled.sample_times_s[0]
    state["alarm"] = rules.alarms["due_s"].argmin() if len(rules.alarms) else 0
    state["next_alarm_s"] = rules.alarms["due_s"].min(initial=math.inf)
    recorded = compiled.Recorded(
        log=np.empty(_evaluations(rules.alarms, minutes), records.LOGGED),
        capacity=np.empty(4 * traffic.requests + 4 * minutes + 16, records.CAPACITY),
    )
    compiled.run(
        states,
        _reading(assumptions),
        compiled.Queue(requests, again=np.empty(traffic.requests, int)),
        compiled.Fleet(
            np.zeros(instances, records.INSTANCE),
            np.zeros((instances, assumptions.concurrency), records.SLOT),
        ),
        rules,
        scheduled,
        compiled.Supply(
            _setups_s(assumptions, seed), np.array(list(assumptions.shortages_s), records.SHORTAGE)
        ),
        compiled.Metrics(
            points=np.full((records.PUBLISHED, minutes), math.nan),
            looks=np.zeros((records.PUBLISHED, minutes), int),
            looks_s=np.array(unsettled.sample_times_s),
            announced=np.full(int(minutes * MINUTE_S / compiled.ANNOUNCEMENTS_S), math.nan),
        ),
        recorded,
    )
    started_s, finished_s = requests["started_s"].copy(), requests["finished_s"].copy()
    waits_s = (started_s - traffic.arrivals_s)[~np.isnan(finished_s)]
    made_of = InstanceHours(
        *(
            float(state[f"{part}_s"]) / 3600
            for part in ("work", "setup", "gaps", "tail", "over_shoot", "lost")
        )
    )
    hours = sum(astuple(made_of))
    return Run(
        completed=len(waits_s),
        expired=int(state["expired"]),
        interrupted=int(state["interrupted"]),
        wait_s=_wait(waits_s),
        instance_hours=hours,
        cost_usd=hours * assumptions.usd_per_instance_hour,
        starts=int(state["starts"]),
        peak_instances=int(state["peak"]),
        made_of=made_of,
        detection_s=state["detected_s"] / state["wake_ups"] if state["wake_ups"] else math.nan,
        started_s=started_s,
        finished_s=finished_s,
        capacity=recorded.capacity[: state["changes"]].copy(),
        log=recorded.log[: state["logged"]].copy(),
        policies=tuple(policy.name for policy in plan.policies),
    )


def _reading(assumptions: Assumptions) -> np.ndarray:
    """The assumptions as a record for the event loop."""
    unsettled = assumptions.unsettled
    readings = np.zeros(1, records.READING)
    reading = readings[0]
    reading["concurrency"] = assumptions.concurrency
    reading["ttl_s"] = assumptions.request_ttl_s
    reading["metric_delay_s"] = unsettled.metric_delay_s
    reading["announcement_delay_s"] = unsettled.announcement_delay_s
    reading["scale_in_takes_s"] = unsettled.scale_in_takes_s
    reading["counts_inflight"] = unsettled.backlog_counts_inflight
    reading["backlog_at_zero"] = unsettled.backlog_per_instance_at_zero == "backlog"
    reading["never_from_zero"] = unsettled.target_tracking_from_zero == "never"
    reading["drains"] = unsettled.inflight_on_scale_in == "drain"
    reading["refuses"] = unsettled.capacity_change_in_progress == "refused"
    reading["range_plus_third"] = unsettled.evaluation_range == "n_plus_third"
    reading["setup_is_billed"] = unsettled.setup_is_billed
    return readings


def alarm_phases_s(
    plan: ScalingPlan, seed: int, known_s: Mapping[str, tuple[float, ...]] | None = None
) -> list[float]:
    """Each alarm's phase in seconds after a full minute, in the order of `records.from_plan`.

    Alarms of the same role (wake-up, scale-out, scale-in) have the same phases in all plans: the
    first of a role in one plan is evaluated together with the first of that role in another. So
    differences come from the plans, not from luck.

    Args:
        plan: the plan with the alarms.
        seed: seed of the phases that were not measured.
        known_s: measured phases by policy name.
    """
    dice = {role: np.random.default_rng((seed, role.value)) for role in _Role}
    phases_s: list[float] = []
    for policy in plan.policies:
        drawn_s = [
            float(dice[role].uniform(0.0, MINUTE_S)) % every_s for role, every_s in _roles(policy)
        ]
        measured_s = (known_s or {}).get(policy.name, ())
        phases_s += measured_s if len(measured_s) == len(drawn_s) else drawn_s
    return phases_s


class _Role(Enum):
    """An alarm's role; its value selects the random stream of the alarm's phase."""

    WAKE = 0
    SCALE_OUT = 1
    SCALE_IN = 2
    ANNOUNCEMENTS = 4


def _roles(policy: ScalingPolicy) -> Iterator[tuple[_Role, int]]:
    """Role and seconds between evaluations of each of a policy's alarms, in order."""
    if isinstance(policy, TargetTrackingPolicy):
        yield _Role.SCALE_OUT, 60
        if not policy.disable_scale_in:
            yield _Role.SCALE_IN, 60
        return
    starved = (Metric.HAS_BACKLOG_WITHOUT_CAPACITY, Metric.BACKLOG_WITHOUT_CAPACITY)
    for alarm in policy.alarms:
        if alarm.metric == Metric.REQUESTS_WITHOUT_CAPACITY:
            role = _Role.ANNOUNCEMENTS
        elif alarm.metric in starved:
            role = _Role.WAKE
        else:
            role = _Role.SCALE_OUT if alarm.fires_when_high else _Role.SCALE_IN
        yield role, evaluated_every_s(alarm.period_s)


def _evaluations(alarms: np.ndarray, minutes: int) -> int:
    """Upper limit of the number of evaluations."""
    return int((minutes * MINUTE_S / alarms["every_s"]).sum()) + 1


def _setups_s(assumptions: Assumptions, seed: int) -> np.ndarray:
    """Setup times in order of the starts, the same for every plan."""
    if not assumptions.setup_sigma:
        return np.array([assumptions.setup_s])
    normal = np.random.default_rng((seed, SETUP_STREAM)).standard_normal(SETUPS)
    return assumptions.setup_s * np.exp(assumptions.setup_sigma * normal)


def _wait(waits_s: np.ndarray) -> Wait:
    if not len(waits_s):
        return Wait(*[math.nan] * 5)
    p50, p95, p99 = np.percentile(waits_s, [50, 95, 99])
    return Wait(float(waits_s.mean()), float(p50), float(p95), float(p99), float(waits_s.max()))


def _scheduled(plan: ScalingPlan, start_s: float, end_s: float) -> list[tuple[float, int, int]]:
    """(second, minimum, maximum) of every scheduled action, in order; -1 keeps a bound."""

    def each() -> Iterator[tuple[float, int, int]]:
        for action in plan.schedules:
            low = -1 if action.min_capacity is None else action.min_capacity
            high = -1 if action.max_capacity is None else action.max_capacity
            due = schedules.times(action.schedule, action.timezone, start_s, start_s + end_s)
            yield from ((at_s - start_s, low, high) for at_s in due)

    return sorted(each())
