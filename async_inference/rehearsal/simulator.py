"""What a scaling plan does to traffic: a discrete-event simulation of one asynchronous endpoint.

The rules are those of `async_inference.scaling`, compiled; nothing about scaling is stated here
twice. One first-in-first-out queue, `concurrency` slots an instance, instances that are asked for,
start, serve and leave; metrics sampled once a minute, visible after a delay, alarms evaluated every
minute at phases of their own. The same seed gives the same run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property

import numpy as np
from numba import njit
from numba.extending import register_jitable

from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling import schedules
from async_inference.scaling.alarms import (
    COMPARISON_CODES,
    MISSING_DATA_CODES,
    STATISTIC_CODES,
    AlarmState,
    evaluation_range,
    next_state,
    period_statistic,
)
from async_inference.scaling.autoscaler import (
    ADJUSTMENT_CODES,
    NO_STEP_COVERS,
    Verdict,
    bid,
    finish_scale_out,
    start_cooldown,
    step_arrays,
    stepped_capacity,
    tracked_capacity,
    tracking_alarms,
)
from async_inference.scaling.plan import (
    Metric,
    MetricAlarm,
    ScalingPlan,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

MINUTE_S = 60.0
COOL_DOWN_MINUTES = 24 * 60
"""A run ends when all is answered and the capacity is at its minimum, or a day after the last
arrival."""
MAX_EVENTS = 2**40
"""More than any run has; a counted loop, since LLVM miscompiles the endless one."""
METRICS = tuple(Metric)
_ALARM, _INSUFFICIENT = int(AlarmState.ALARM), int(AlarmState.INSUFFICIENT_DATA)
_SCALED, _NO_STEP = int(Verdict.SCALED), int(Verdict.NO_STEP_COVERS)
_NEVER_FROM_ZERO = int(Verdict.NEVER_FROM_ZERO)
_BACKLOG, _PER_INSTANCE, _AGE, _STARVED = range(len(METRICS))
assert METRICS == (
    Metric.BACKLOG_SIZE,
    Metric.BACKLOG_SIZE_PER_INSTANCE,
    Metric.AGE_OF_OLDEST_REQUEST,
    Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a rehearsal rests on beside plan and traffic.

    Args:
        setup_s: median seconds from asking for an instance to its first request.
        setup_sigma: spread of the lognormal setup time; 0 makes it constant.
        concurrency: requests that one instance works on at the same time.
        request_ttl_s: seconds until an unserved request expires.
        usd_per_instance_hour: price of an instance.
        shortages_s: (from, to) while which an instance that is asked for comes only at the end.
        unsettled: the reading of what AWS leaves open.
    """

    setup_s: float = 340.0
    setup_sigma: float = 0.0
    concurrency: int = 1
    request_ttl_s: float = 21_600.0
    usd_per_instance_hour: float = 0.94
    shortages_s: tuple[tuple[float, float], ...] = ()
    unsettled: Unsettled = field(default_factory=Unsettled)


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
    """What instance hours are made of.

    Args:
        work: serving requests to their end.
        setup: from asking for an instance to its first moment in service.
        gaps: between requests, and slots that stayed empty beside busy ones.
        tail: after the last request of an instance.
        over_shoot: instances that never served any request, with their setup.
        interrupted: work that a scale-in threw away.
    """

    work: float
    setup: float
    gaps: float
    tail: float
    over_shoot: float
    interrupted: float


@dataclass(frozen=True)
class Action:
    """A policy that was asked to act at a time, and what became of it."""

    at_s: float
    policy: str
    verdict: Verdict
    before: int
    after: int


@dataclass(frozen=True)
class Run:
    """One plan over one traffic.

    `made_of` says what the instance hours went into; `detection_s` is the mean time from the
    arrival of the oldest waiting request to leaving zero, NaN if that never happened.
    `started_s` and `finished_s` are NaN for requests that expired; `capacity` holds (second,
    instances asked for, instances in service) at each change; `log` is what `actions` reads.
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
        """Each time that an alarm asked a policy to act, in order."""
        return tuple(
            Action(
                row[0], self.policies[int(row[1])], Verdict(int(row[2])), int(row[3]), int(row[4])
            )
            for row in self.log
        )


@dataclass(frozen=True)
class Lowered:
    """A plan as arrays, the form in which the compiled simulation reads it."""

    bounds: np.ndarray
    alarm_numbers: np.ndarray
    alarm_thresholds: np.ndarray
    policy_numbers: np.ndarray
    policy_values: np.ndarray
    steps: np.ndarray
    names: tuple[str, ...]


# Columns of the arrays.
_A_METRIC, _A_COMPARISON, _A_N, _A_M, _A_MISSING, _A_MINUTES, _A_POLICY = range(7)
_A_SCALES_IN, _A_STATISTIC = 7, 8
_SAMPLE_COUNT = STATISTIC_CODES["SampleCount"]
_P_TRACKS, _P_ADJUSTMENT, _P_FIRST_STEP, _P_END_STEP, _P_MAGNITUDE = range(5)
_V_TARGET, _V_OUT_COOLDOWN_S, _V_IN_COOLDOWN_S = range(3)


def lower(plan: ScalingPlan, unsettled: Unsettled) -> Lowered:
    """Turn a plan into arrays."""
    alarms: list[tuple[MetricAlarm, int, bool]] = []
    policies, values, steps = [], [], []
    for index, policy in enumerate(plan.policies):
        if isinstance(policy, TargetTrackingPolicy):
            high, low = tracking_alarms(policy, unsettled)
            alarms.append((high, index, False))
            if low is not None:
                alarms.append((low, index, True))
            policies.append((1, 0, 0, 0, 0))
            values.append((policy.target, policy.scale_out_cooldown_s, policy.scale_in_cooldown_s))
            continue
        assert isinstance(policy, StepScalingPolicy)
        alarms.append((policy.alarm, index, False))
        first = len(steps)
        steps.extend(zip(*step_arrays(policy), strict=True))
        adjustment = ADJUSTMENT_CODES[policy.adjustment_type]
        magnitude = policy.min_adjustment_magnitude or 0
        policies.append((0, adjustment, first, len(steps), magnitude))
        values.append((0.0, policy.cooldown_s, policy.cooldown_s))
    return Lowered(
        bounds=np.array([plan.min_capacity, plan.max_capacity], dtype=np.int64),
        alarm_numbers=np.array(
            [
                (
                    METRICS.index(alarm.metric),
                    COMPARISON_CODES[alarm.comparison],
                    alarm.evaluation_periods,
                    alarm.datapoints_to_alarm,
                    MISSING_DATA_CODES[alarm.treat_missing_data],
                    # SageMaker publishes once a minute: a shorter period brings nothing.
                    max(1, alarm.period_s // 60),
                    policy,
                    scales_in,
                    STATISTIC_CODES[alarm.statistic],
                )
                for alarm, policy, scales_in in alarms
            ],
            dtype=np.int64,
        ).reshape(-1, 9),
        alarm_thresholds=np.array([alarm.threshold for alarm, _, _ in alarms], dtype=np.float64),
        policy_numbers=np.array(policies, dtype=np.int64).reshape(-1, 5),
        policy_values=np.array(values, dtype=np.float64).reshape(-1, 3),
        steps=np.array(steps, dtype=np.float64).reshape(-1, 3),
        names=tuple(policy.name for policy in plan.policies),
    )


def simulate(
    plan: ScalingPlan,
    traffic: Traffic,
    assumptions: Assumptions,
    seed: int,
    start_s: float = 0.0,
    phases_s: Sequence[float] | None = None,
) -> Run:
    """Run a plan over traffic.

    Args:
        plan: what scales.
        traffic: what arrives.
        assumptions: what the run rests on.
        seed: of the alarms' phases and the setup times.
        start_s: seconds since the epoch at which the traffic starts, for schedules.
        phases_s: seconds after each full minute at which the alarms are evaluated, in the order of
            the policies, of target tracking the high one first; drawn where not given.
    """
    unsettled = assumptions.unsettled
    lowered = lower(plan, unsettled)
    random = np.random.default_rng(seed)
    alarms = len(lowered.alarm_thresholds)
    drawn_s = random.uniform(0.0, MINUTE_S, alarms)
    end_s = traffic.span_s + COOL_DOWN_MINUTES * MINUTE_S
    setups_s = assumptions.setup_s * np.exp(
        assumptions.setup_sigma * random.standard_normal(4096 if assumptions.setup_sigma else 1)
    )
    scheduled = _scheduled(plan, start_s, end_s)
    minutes = int(end_s // MINUTE_S) + 2
    log = np.empty((alarms * minutes + 1, 5))
    capacity = np.empty((4 * traffic.requests + 4 * minutes + 16, 3))
    started_s = np.full(traffic.requests, math.nan)
    finished_s = np.full(traffic.requests, math.nan)
    totals = _run(
        traffic.arrivals_s,
        traffic.service_s,
        lowered.bounds,
        lowered.alarm_numbers,
        lowered.alarm_thresholds,
        lowered.policy_numbers,
        lowered.policy_values,
        lowered.steps,
        drawn_s if phases_s is None else np.array(phases_s, dtype=np.float64),
        setups_s,
        np.array(scheduled, dtype=np.float64).reshape(-1, 3),
        np.array(assumptions.shortages_s, dtype=np.float64).reshape(-1, 2),
        assumptions.concurrency,
        assumptions.request_ttl_s,
        unsettled.metric_delay_s,
        unsettled.backlog_counts_inflight,
        unsettled.backlog_per_instance_at_zero == "backlog",
        unsettled.target_tracking_from_zero == "never",
        unsettled.inflight_on_scale_in == "drain",
        end_s,
        started_s,
        finished_s,
        log,
        capacity,
    )
    logged, changes, expired, interrupted, starts, peak, detection_s, lives = totals
    waits_s = (started_s - traffic.arrivals_s)[~np.isnan(finished_s)]
    made_of = _made_of(lives, assumptions)
    hours = sum(astuple(made_of))
    return Run(
        completed=len(waits_s),
        expired=expired,
        interrupted=interrupted,
        wait_s=_wait(waits_s),
        instance_hours=hours,
        cost_usd=hours * assumptions.usd_per_instance_hour,
        starts=starts,
        peak_instances=peak,
        made_of=made_of,
        detection_s=detection_s,
        started_s=started_s,
        finished_s=finished_s,
        capacity=capacity[:changes].copy(),
        log=log[:logged].copy(),
        policies=lowered.names,
    )


def _wait(waits_s: np.ndarray) -> Wait:
    if not len(waits_s):
        return Wait(*[math.nan] * 5)
    p50, p95, p99 = np.percentile(waits_s, [50, 95, 99])
    return Wait(float(waits_s.mean()), float(p50), float(p95), float(p99), float(waits_s.max()))


def _made_of(lives: np.ndarray, assumptions: Assumptions) -> InstanceHours:
    asked_s, ready_s, work_s, lost_s, last_end_s, gone_s = lives.T
    if not assumptions.unsettled.setup_is_billed:
        asked_s = np.minimum(ready_s, gone_s)
    work_s, lost_s = work_s / assumptions.concurrency, lost_s / assumptions.concurrency
    served = ~np.isnan(last_end_s)
    return InstanceHours(
        *(
            float(seconds.sum()) / 3600
            for seconds in (
                work_s,
                (ready_s - asked_s)[served],
                (last_end_s - ready_s - work_s - lost_s)[served],
                (gone_s - last_end_s)[served],
                (gone_s - asked_s)[~served],
                lost_s,
            )
        )
    )


def _scheduled(plan: ScalingPlan, start_s: float, end_s: float) -> list[tuple[float, int, int]]:
    """(second, minimum, maximum) of every scheduled action, in order; -1 leaves a bound alone."""

    def each() -> Iterator[tuple[float, int, int]]:
        for action in plan.schedules:
            low = -1 if action.min_capacity is None else action.min_capacity
            high = -1 if action.max_capacity is None else action.max_capacity
            due = schedules.times(action.schedule, action.timezone, start_s, start_s + end_s)
            yield from ((at_s - start_s, low, high) for at_s in due)

    return sorted(each())


# States of an instance.
_STARTING, _SERVING, _LEAVING = 0, 1, 2


# Columns of an instance's times, and of its life once it is over.
_ASKED_S, _READY_S, _WORK_S, _LOST_S, _LAST_END_S, _GONE_S = range(6)


@register_jitable
def _end_life(row, rows, now_s, lives, lived, state, times, busy, slot_end_s, slot_request):
    """Record the life of instance `row`; those after it move up, in the order they came."""
    if lived == len(lives):
        longer = np.empty((2 * lived, 6))
        longer[:lived] = lives
        lives = longer
    lives[lived] = times[row]
    lives[lived, _GONE_S] = now_s
    for i in range(row, rows - 1):
        state[i] = state[i + 1]
        times[i, :] = times[i + 1, :]
        busy[i] = busy[i + 1]
        slot_end_s[i, :] = slot_end_s[i + 1, :]
        slot_request[i, :] = slot_request[i + 1, :]
    return lives


@register_jitable
def _record(capacity, changes, now_s, desired, serving):
    """Note what is asked for and what serves; how many notes there are now."""
    if changes == len(capacity):
        return changes
    capacity[changes, 0] = now_s
    capacity[changes, 1] = desired
    capacity[changes, 2] = serving
    return changes + 1


@njit(cache=True, nogil=True)
def _run(
    arrivals_s,
    service_s,
    bounds,
    alarm_numbers,
    alarm_thresholds,
    policy_numbers,
    policy_values,
    steps,
    phases_s,
    setups_s,
    scheduled,
    shortages_s,
    concurrency,
    ttl_s,
    metric_delay_s,
    counts_inflight,
    backlog_at_zero,
    never_from_zero,
    drains,
    end_s,
    started_s,
    finished_s,
    log,
    capacity,
):
    requests = len(arrivals_s)
    minimum, maximum = bounds[0], bounds[1]
    policies = len(policy_numbers)
    alarms = len(alarm_thresholds)

    # Instances, in the order in which they were asked for; rows move up when one is gone.
    most = max(maximum, 1)
    for row in range(len(scheduled)):
        most = max(most, int(scheduled[row, 2]), int(scheduled[row, 1]))
    room = 2 * most + 2
    state = np.zeros(room, np.int64)
    times = np.zeros((room, 6))
    lives = np.empty((64, 6))
    lived = 0
    busy = np.zeros(room, np.int64)
    slot_end_s = np.full((room, concurrency), math.inf)
    slot_request = np.full((room, concurrency), -1)
    instances = 0

    desired = 0
    serving = 0
    working = 0  # requests on instances that serve
    draining = 0  # requests on instances that leave
    head = 0  # the first arrival that was not taken from the queue
    arrived = 0
    requeued = np.empty(16, np.int64)  # those that lost their instance, the last one first
    again = 0

    minutes = int(end_s // 60.0) + 2
    points = np.full((4, minutes), math.nan)
    states = np.full(alarms, _INSUFFICIENT)
    due_s = phases_s.copy()
    out_origin = np.zeros(policies, np.int64)
    out_until_s = np.full(policies, -math.inf)
    in_until_s = np.full(policies, -math.inf)
    out_cooldown_s = policy_values[:, 1].copy()

    logged = changes = expired = interrupted = starts = peak = 0
    detected_s = 0.0
    wake_ups = 0
    sample_s = 30.0
    next_scheduled = 0
    setups = 0
    wanted = minimum
    now_s = 0.0
    window = np.empty(1)

    for _ in range(MAX_EVENTS):
        # Bring the instances to what is asked for.
        if wanted != desired:
            alive = 0
            for i in range(instances):
                if state[i] != _LEAVING:
                    alive += 1
            while alive < wanted and instances < room:
                state[instances] = _STARTING
                times[instances, :] = 0.0
                times[instances, _ASKED_S] = now_s
                times[instances, _LAST_END_S] = math.nan
                begin_s = now_s
                for row in range(len(shortages_s)):
                    if shortages_s[row, 0] <= begin_s < shortages_s[row, 1]:
                        begin_s = shortages_s[row, 1]
                times[instances, _READY_S] = begin_s + setups_s[setups % len(setups_s)]
                setups += 1
                busy[instances] = 0
                slot_end_s[instances, :] = math.inf
                slot_request[instances, :] = -1
                instances += 1
                starts += 1
                alive += 1
            while alive > wanted:
                # Those that do not serve yet go first, then the idle ones, the oldest first.
                chosen = -1
                for i in range(instances):
                    if state[i] == _LEAVING:
                        continue
                    if (
                        chosen < 0
                        or state[i] < state[chosen]
                        or (state[i] == state[chosen] and busy[i] < busy[chosen])
                    ):
                        chosen = i
                alive -= 1
                if state[chosen] == _SERVING:
                    serving -= 1
                    if busy[chosen] and not drains:
                        for slot in range(concurrency):
                            request = slot_request[chosen, slot]
                            if request >= 0:
                                if again == len(requeued):
                                    bigger = np.empty(2 * again, np.int64)
                                    bigger[:again] = requeued
                                    requeued = bigger
                                requeued[again] = request
                                again += 1
                                interrupted += 1
                                working -= 1
                                busy[chosen] -= 1
                                times[chosen, _LOST_S] += now_s - started_s[request]
                                times[chosen, _LAST_END_S] = now_s
                                slot_end_s[chosen, slot] = math.inf
                                slot_request[chosen, slot] = -1
                state[chosen] = _LEAVING
                working -= busy[chosen]
                draining += busy[chosen]
                if busy[chosen] == 0:
                    lives = _end_life(
                        chosen, instances, now_s, lives, lived, state, times, busy, slot_end_s,
                        slot_request,
                    )  # fmt: skip
                    lived += 1
                    instances -= 1
            if desired == 0 and (again or head < arrived):
                oldest = requeued[again - 1] if again else head
                detected_s += now_s - arrivals_s[oldest]
                wake_ups += 1
            desired = wanted
            peak = max(peak, desired)
            if serving >= desired:
                finish_scale_out(now_s, out_cooldown_s, out_until_s)
            changes = _record(capacity, changes, now_s, desired, serving)

        # Hand waiting requests to free slots, first come first served.
        while (again or head < arrived) and working < serving * concurrency:
            if again:
                request = requeued[again - 1]
                again -= 1
            else:
                request = head
                head += 1
            if now_s >= arrivals_s[request] + ttl_s:
                expired += 1
                continue
            for i in range(instances):
                if state[i] == _SERVING and busy[i] < concurrency:
                    for slot in range(concurrency):
                        if slot_request[i, slot] < 0:
                            slot_request[i, slot] = request
                            slot_end_s[i, slot] = now_s + service_s[request]
                            break
                    busy[i] += 1
                    break
            working += 1
            started_s[request] = now_s

        # What happens next.
        next_arrival_s = arrivals_s[arrived] if arrived < requests else math.inf
        next_ready_s = math.inf
        ready = -1
        next_end_s = math.inf
        ending = ending_slot = -1
        for i in range(instances):
            if state[i] == _STARTING:
                if times[i, _READY_S] < next_ready_s:
                    next_ready_s = times[i, _READY_S]
                    ready = i
            elif busy[i]:
                for slot in range(concurrency):
                    if slot_end_s[i, slot] < next_end_s:
                        next_end_s = slot_end_s[i, slot]
                        ending = i
                        ending_slot = slot
        next_alarm_s = math.inf
        alarm = -1
        for a in range(alarms):
            if due_s[a] < next_alarm_s:
                next_alarm_s = due_s[a]
                alarm = a
        next_schedule_s = (
            scheduled[next_scheduled, 0] if next_scheduled < len(scheduled) else math.inf
        )
        now_s = min(
            next_arrival_s, next_ready_s, next_end_s, sample_s, next_alarm_s, next_schedule_s
        )
        answered = head == requests and again == 0 and working + draining == 0
        if now_s > end_s or (answered and desired == minimum and instances == minimum):
            now_s = min(now_s, end_s)
            break

        if next_end_s == now_s:
            request = slot_request[ending, ending_slot]
            finished_s[request] = now_s
            times[ending, _WORK_S] += service_s[request]
            times[ending, _LAST_END_S] = now_s
            slot_request[ending, ending_slot] = -1
            slot_end_s[ending, ending_slot] = math.inf
            busy[ending] -= 1
            if state[ending] == _LEAVING:
                draining -= 1
            else:
                working -= 1
            if state[ending] == _LEAVING and busy[ending] == 0:
                lives = _end_life(
                    ending, instances, now_s, lives, lived, state, times, busy, slot_end_s,
                    slot_request,
                )  # fmt: skip
                lived += 1
                instances -= 1
        elif next_arrival_s == now_s:
            arrived += 1
        elif next_ready_s == now_s:
            state[ready] = _SERVING
            serving += 1
            if serving >= desired:
                finish_scale_out(now_s, out_cooldown_s, out_until_s)
            changes = _record(capacity, changes, now_s, desired, serving)
        elif next_schedule_s == now_s:
            if scheduled[next_scheduled, 1] >= 0:
                minimum = int(scheduled[next_scheduled, 1])
            if scheduled[next_scheduled, 2] >= 0:
                maximum = int(scheduled[next_scheduled, 2])
            wanted = min(max(desired, minimum), maximum)
            next_scheduled += 1
        elif sample_s == now_s:
            while head < arrived and now_s >= arrivals_s[head] + ttl_s:
                head += 1
                expired += 1
            minute = int(now_s // 60.0)
            waiting = arrived - head + again
            counted = waiting + (working + draining if counts_inflight else 0)
            points[_BACKLOG, minute] = counted
            if serving or backlog_at_zero:
                points[_PER_INSTANCE, minute] = counted / max(1, serving)
            oldest_s = math.inf
            if head < arrived:
                oldest_s = arrivals_s[head]
            for n in range(again):
                oldest_s = min(oldest_s, arrivals_s[requeued[n]])
            if working + draining:
                for i in range(instances):
                    for slot in range(concurrency):
                        if slot_request[i, slot] >= 0:
                            oldest_s = min(oldest_s, arrivals_s[slot_request[i, slot]])
            if oldest_s < math.inf:
                points[_AGE, minute] = now_s - oldest_s
            starved = waiting + working + draining > 0 and serving == 0
            points[_STARVED, minute] = 1.0 if starved else 0.0
            sample_s += 60.0
        else:
            due_s[alarm] += 60.0
            numbers = alarm_numbers[alarm]
            n, width = numbers[_A_N], numbers[_A_MINUTES]
            count = evaluation_range(n)
            end_minute = math.floor((now_s - metric_delay_s) / 60.0)
            series = points[numbers[_A_METRIC]]
            statistic = numbers[_A_STATISTIC]
            if width == 1 and statistic != _SAMPLE_COUNT and end_minute >= count:
                window = series[end_minute - count : end_minute]
            else:
                window = np.full(count, math.nan)
                for period in range(count):
                    first = end_minute - width * (count - period)
                    total, found, least, most_seen = 0.0, 0, math.inf, -math.inf
                    for minute in range(max(first, 0), max(first + width, 0)):
                        value = series[minute]
                        if not math.isnan(value):
                            total += value
                            found += 1
                            least = min(least, value)
                            most_seen = max(most_seen, value)
                    if found:
                        window[period] = period_statistic(statistic, total, found, least, most_seen)
            threshold = alarm_thresholds[alarm]
            states[alarm] = next_state(
                window,
                n,
                numbers[_A_M],
                numbers[_A_COMPARISON],
                threshold,
                numbers[_A_MISSING],
                states[alarm],
            )
            if states[alarm] != _ALARM:
                continue
            newest = math.nan
            for back in range(len(window) - 1, -1, -1):
                if not math.isnan(window[back]):
                    newest = window[back]
                    break
            if math.isnan(newest):
                continue
            policy = numbers[_A_POLICY]
            rules = policy_numbers[policy]
            before = desired
            verdict = _SCALED
            if rules[_P_TRACKS]:
                scales_in = numbers[_A_SCALES_IN] == 1
                asked = tracked_capacity(
                    desired, newest, policy_values[policy, _V_TARGET], scales_in
                )
                if desired == 0 and never_from_zero and not scales_in:
                    verdict = _NEVER_FROM_ZERO
            else:
                first, end = rules[_P_FIRST_STEP], rules[_P_END_STEP]
                asked = stepped_capacity(
                    desired,
                    newest - threshold,
                    rules[_P_ADJUSTMENT],
                    steps[first:end, 0],
                    steps[first:end, 1],
                    steps[first:end, 2],
                    rules[_P_MAGNITUDE],
                )
                if asked == NO_STEP_COVERS:
                    verdict = _NO_STEP
            after = desired
            if verdict == _SCALED:
                after, verdict = bid(
                    policy,
                    asked,
                    desired,
                    minimum,
                    maximum,
                    now_s,
                    out_origin,
                    out_until_s,
                    in_until_s,
                )
            if verdict == _SCALED:
                start_cooldown(
                    policy,
                    desired,
                    after,
                    now_s,
                    policy_values[policy, _V_IN_COOLDOWN_S],
                    out_origin,
                    out_until_s,
                    in_until_s,
                )
                wanted = after
            log[logged, 0] = now_s
            log[logged, 1] = policy
            log[logged, 2] = verdict
            log[logged, 3] = before
            log[logged, 4] = after
            logged += 1

    expired += again
    while head < requests:
        head += 1
        expired += 1
    while instances:
        lives = _end_life(
            0, instances, now_s, lives, lived, state, times, busy, slot_end_s, slot_request
        )
        lived += 1
        instances -= 1
    detection_s = detected_s / wake_ups if wake_ups else math.nan
    return logged, changes, expired, interrupted, starts, peak, detection_s, lives[:lived]
