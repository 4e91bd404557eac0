"""The compiled event loop of the simulation; `simulator.simulate` gives it its records.

Each iteration brings the number of instances to the wanted one, assigns requests to free slots, and
handles the next event. There is a function for each event. AWS's rules come from
`async_inference.scaling`.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from async_inference.rehearsal.records import METRICS, NONE
from async_inference.scaling.alarms import (
    STATISTIC_CODES,
    AlarmState,
    evaluation_range,
    next_state,
    period_statistic,
    runs_action,
)
from async_inference.scaling.autoscaler import (
    NO_STEP_COVERS,
    Verdict,
    bid,
    change_in_progress,
    finish_scale_out,
    start_cooldown,
    stepped_capacity,
    tracked_capacity,
)
from async_inference.scaling.plan import Metric
from async_inference.scaling.rules import RULES

for _rule in RULES:
    register_jitable(_rule)

MINUTE_S = 60.0
ANNOUNCEMENTS_S = 10.0
"""The shortest period of an alarm."""
MAX_EVENTS = 2**40
"""More than any run has. The loop is counted because LLVM miscompiles an endless one."""
SAMPLE_COUNT = STATISTIC_CODES["SampleCount"]
_ALARM = int(AlarmState.ALARM)
_SCALED, _NO_STEP = int(Verdict.SCALED), int(Verdict.NO_STEP_COVERS)
_NEVER_FROM_ZERO, _IN_PROGRESS = int(Verdict.NEVER_FROM_ZERO), int(Verdict.CHANGE_IN_PROGRESS)
_BACKLOG, _PER_INSTANCE, _AGE, _STARVED, _ANNOUNCED = range(len(METRICS))
assert METRICS == (
    Metric.BACKLOG_SIZE,
    Metric.BACKLOG_SIZE_PER_INSTANCE,
    Metric.AGE_OF_OLDEST_REQUEST,
    Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
    Metric.REQUESTS_WITHOUT_CAPACITY,
)

# Phases of an instance. A scale-in removes instances in this order.
_STARTING, _SERVING, _LEAVING = 0, 1, 2
# Events. Of several at the same time, the first in this list happens first.
_ENDS, _ARRIVES, _IS_READY, _SCHEDULED, _CLAMPS, _LOOKS, _EVALUATES, _OVER = range(8)


class Queue(NamedTuple):
    """All requests by arrival, and a stack of those whose instance was removed, the next on top."""

    requests: np.ndarray
    again: np.ndarray


class Fleet(NamedTuple):
    """The present instances, in the order in which they were requested, and their slots."""

    instances: np.ndarray
    slots: np.ndarray


class Supply(NamedTuple):
    """The setup time of each start, in order, and when AWS is short of capacity."""

    setups_s: np.ndarray
    shortages: np.ndarray


class Metrics(NamedTuple):
    """Each metric's datapoint of each minute, the mean of its looks, and when the looks are.

    `announced` is what clients publish: the sum of each 10 s, NaN where there is none.
    """

    points: np.ndarray
    looks: np.ndarray
    looks_s: np.ndarray
    announced: np.ndarray


class Recorded(NamedTuple):
    """Each request to a policy with its outcome, and each change of the capacity."""

    log: np.ndarray
    capacity: np.ndarray


@njit(cache=True, nogil=True)
def run(states, readings, queue, fleet, rules, scheduled, supply, metrics, recorded):
    """Run until all requests are answered and the capacity is at its minimum, or until the end."""
    state, reading = states[0], readings[0]
    for _ in range(MAX_EVENTS):
        if state.wanted != state.desired:
            _change_capacity(state, reading, queue, fleet, rules, supply, recorded)
        _hand_out(state, reading, queue, fleet)
        event = _next_event(state, queue, fleet, scheduled)
        if event == _ENDS:
            _end_request(state, reading, queue, fleet)
        elif event == _ARRIVES:
            _arrive(state, queue, metrics)
        elif event == _IS_READY:
            _put_in_service(state, fleet, rules, recorded)
        elif event == _SCHEDULED:
            _set_bounds(state, reading, scheduled)
        elif event == _CLAMPS:
            state.wanted = min(max(state.desired, state.minimum), state.maximum)
        elif event == _LOOKS:
            _look(state, reading, queue, fleet, metrics)
        elif event == _EVALUATES:
            _evaluate(state, reading, rules, metrics, recorded)
        else:
            break
    state.expired += state.again + len(queue.requests) - state.head
    while state.instances:
        _remove(state, reading, fleet, 0)


@register_jitable
def _arrive(state, queue, metrics):
    """Queue a request; while no instance serves, its client announces what it submits."""
    announces = queue.requests[state.arrived].announces
    state.arrived += 1
    if state.serving == 0 and announces:
        period = int(state.now_s // ANNOUNCEMENTS_S)
        sum_before = metrics.announced[period]
        metrics.announced[period] = announces + (0.0 if math.isnan(sum_before) else sum_before)


@register_jitable
def _change_capacity(state, reading, queue, fleet, rules, supply, recorded):
    """Request or remove instances until as many stay as are wanted."""
    if state.wanted < state.desired:
        state.scale_in_ends_s = state.now_s + reading.scale_in_takes_s
    staying = 0
    for index in range(state.instances):
        staying += fleet.instances[index].phase != _LEAVING
    while staying < state.wanted and state.instances < len(fleet.instances):
        _ask_for_instance(state, fleet, supply)
        staying += 1
    while staying > state.wanted:
        _tell_to_leave(state, reading, queue, fleet)
        staying -= 1
    if state.desired == 0 and (state.again or state.head < state.arrived):
        oldest = queue.again[state.again - 1] if state.again else state.head
        state.detected_s += state.now_s - queue.requests[oldest].arrival_s
        state.wake_ups += 1
    state.desired = state.wanted
    state.peak = max(state.peak, state.desired)
    if state.serving >= state.desired:
        finish_scale_out(rules.policies, state.now_s)
    _record_capacity(state, recorded.capacity)


@register_jitable
def _ask_for_instance(state, fleet, supply):
    """Request an instance; it starts when there is no capacity shortage."""
    begin_s = state.now_s
    for index in range(len(supply.shortages)):
        shortage = supply.shortages[index]
        if shortage.start_s <= begin_s < shortage.end_s:
            begin_s = shortage.end_s
    instance = fleet.instances[state.instances]
    instance.phase = _STARTING
    instance.busy = 0
    instance.asked_s = state.now_s
    instance.ready_s = begin_s + supply.setups_s[state.starts % len(supply.setups_s)]
    instance.work_s = instance.lost_s = 0.0
    instance.last_end_s = math.nan
    slots = fleet.slots[state.instances]
    for slot in range(len(slots)):
        slots[slot].request = -1
        slots[slot].end_s = math.inf
    state.instances += 1
    state.starts += 1


@register_jitable
def _tell_to_leave(state, reading, queue, fleet):
    """Remove an instance: first those that are starting, then idle ones, the oldest first."""
    chosen = -1
    for index in range(state.instances):
        instance = fleet.instances[index]
        if instance.phase == _LEAVING:
            continue
        if chosen < 0 or (instance.phase, instance.busy) < (
            fleet.instances[chosen].phase,
            fleet.instances[chosen].busy,
        ):
            chosen = index
    instance = fleet.instances[chosen]
    if instance.phase == _SERVING:
        state.serving -= 1
        if instance.busy and not reading.drains:
            _interrupt(state, queue, fleet, chosen)
    instance.phase = _LEAVING
    state.working -= instance.busy
    state.draining += instance.busy
    if instance.busy == 0:
        _remove(state, reading, fleet, chosen)


@register_jitable
def _interrupt(state, queue, fleet, index):
    """Put all requests of an instance back at the head of the queue, the last one first."""
    instance, slots = fleet.instances[index], fleet.slots[index]
    for slot in range(len(slots)):
        request = slots[slot].request
        if request < 0:
            continue
        queue.again[state.again] = request
        state.again += 1
        state.interrupted += 1
        state.working -= 1
        instance.lost_s += state.now_s - queue.requests[request].started_s
        instance.last_end_s = state.now_s
        instance.busy -= 1
        slots[slot].request = -1
        slots[slot].end_s = math.inf


@register_jitable
def _remove(state, reading, fleet, index):
    """Delete an instance, add its hours to the totals, and keep the others in order."""
    instance = fleet.instances[index]
    ready_s = instance.ready_s
    billed_from_s = instance.asked_s if reading.setup_is_billed else min(ready_s, state.now_s)
    if math.isnan(instance.last_end_s):
        state.over_shoot_s += state.now_s - billed_from_s
    else:
        work_s = instance.work_s / reading.concurrency
        lost_s = instance.lost_s / reading.concurrency
        state.work_s += work_s
        state.lost_s += lost_s
        state.setup_s += ready_s - billed_from_s
        state.gaps_s += instance.last_end_s - ready_s - work_s - lost_s
        state.tail_s += state.now_s - instance.last_end_s
    state.instances -= 1
    for moved in range(index, state.instances):
        fleet.instances[moved] = fleet.instances[moved + 1]
        fleet.slots[moved] = fleet.slots[moved + 1]


@register_jitable
def _hand_out(state, reading, queue, fleet):
    """Assign waiting requests to free slots, first come, first served; drop expired ones."""
    room = state.serving * reading.concurrency
    while state.working < room and (state.again or state.head < state.arrived):
        if state.again:
            state.again -= 1
            number = queue.again[state.again]
        else:
            number = state.head
            state.head += 1
        request = queue.requests[number]
        if state.now_s >= request.arrival_s + reading.ttl_s:
            state.expired += 1
            continue
        request.started_s = state.now_s
        state.working += 1
        _take(state, fleet, number, state.now_s + request.service_s)


@register_jitable
def _take(state, fleet, number, end_s):
    """Assign a request to the first free slot; there must be one."""
    for index in range(state.instances):
        instance = fleet.instances[index]
        if instance.phase != _SERVING or instance.busy == fleet.slots.shape[1]:
            continue
        instance.busy += 1
        for number_in_instance in range(fleet.slots.shape[1]):
            slot = fleet.slots[index, number_in_instance]
            if slot.request < 0:
                slot.request = number
                slot.end_s = end_s
                return


@register_jitable
def _next_event(state, queue, fleet, scheduled):
    """Advance the clock to the next event, record which instance it concerns, and return it."""
    next_ready_s = next_end_s = math.inf
    ready = ending = ending_slot = 0
    for index in range(state.instances):
        instance = fleet.instances[index]
        if instance.phase == _STARTING:
            if instance.ready_s < next_ready_s:
                next_ready_s = instance.ready_s
                ready = index
        elif instance.busy:
            for slot in range(fleet.slots.shape[1]):
                if fleet.slots[index, slot].end_s < next_end_s:
                    next_end_s = fleet.slots[index, slot].end_s
                    ending = index
                    ending_slot = slot
    requests = len(queue.requests)
    next_arrival_s = (
        queue.requests[state.arrived].arrival_s if state.arrived < requests else math.inf
    )
    next_scheduled_s = (
        scheduled[state.next_scheduled].at_s if state.next_scheduled < len(scheduled) else math.inf
    )
    # If a change in progress prevented new bounds from being met, they are met when it is done.
    next_clamp_s = math.inf
    if not state.minimum <= state.desired <= state.maximum and state.serving >= state.desired:
        next_clamp_s = max(state.now_s, state.scale_in_ends_s)
    others_s = min(
        next_ready_s, next_scheduled_s, next_clamp_s, state.next_look_s, state.next_alarm_s
    )
    now_s = min(next_end_s, next_arrival_s, others_s)
    answered = state.head == requests and state.again + state.working + state.draining == 0
    at_rest = answered and state.desired == state.minimum == state.instances
    if now_s > state.end_s or at_rest:
        state.now_s = min(now_s, state.end_s)
        return _OVER
    state.now_s = now_s
    if next_end_s == now_s:
        state.instance = ending
        state.slot = ending_slot
        return _ENDS
    if next_arrival_s == now_s:
        return _ARRIVES
    if next_ready_s == now_s:
        state.instance = ready
        return _IS_READY
    if next_scheduled_s == now_s:
        return _SCHEDULED
    if next_clamp_s == now_s:
        return _CLAMPS
    return _LOOKS if state.next_look_s == now_s else _EVALUATES


@register_jitable
def _end_request(state, reading, queue, fleet):
    """End a request; a leaving instance is removed with its last one."""
    instance, slot = fleet.instances[state.instance], fleet.slots[state.instance, state.slot]
    request = queue.requests[slot.request]
    request.finished_s = state.now_s
    instance.work_s += request.service_s
    instance.last_end_s = state.now_s
    instance.busy -= 1
    slot.request = -1
    slot.end_s = math.inf
    if instance.phase != _LEAVING:
        state.working -= 1
        return
    state.draining -= 1
    if instance.busy == 0:
        _remove(state, reading, fleet, state.instance)


@register_jitable
def _put_in_service(state, fleet, rules, recorded):
    """Put an instance in service; the last of the requested ones ends the scale-out."""
    fleet.instances[state.instance].phase = _SERVING
    state.serving += 1
    if state.serving >= state.desired:
        finish_scale_out(rules.policies, state.now_s)
    _record_capacity(state, recorded.capacity)


@register_jitable
def _set_bounds(state, reading, scheduled):
    """Run a scheduled action: set the bounds, and the capacity unless that is refused."""
    action = scheduled[state.next_scheduled]
    state.next_scheduled += 1
    if action.minimum >= 0:
        state.minimum = action.minimum
    if action.maximum >= 0:
        state.maximum = action.maximum
    if not _refused(state, reading):
        state.wanted = min(max(state.desired, state.minimum), state.maximum)


@register_jitable
def _refused(state, reading):
    """Whether SageMaker refuses a capacity change now."""
    return reading.refuses and change_in_progress(
        state.now_s, state.desired, state.serving, state.scale_in_ends_s
    )


@register_jitable
def _look(state, reading, queue, fleet, metrics):
    """Take SageMaker's sample of each queue metric, after dropping expired requests at the head."""
    requests = queue.requests
    while (
        state.head < state.arrived and state.now_s >= requests[state.head].arrival_s + reading.ttl_s
    ):
        state.head += 1
        state.expired += 1
    waiting = state.arrived - state.head + state.again
    at_work = state.working + state.draining
    backlog = waiting + (at_work if reading.counts_inflight else 0)
    _sample(state, metrics, _BACKLOG, backlog)
    if state.serving or reading.backlog_at_zero:
        _sample(state, metrics, _PER_INSTANCE, backlog / max(1, state.serving))
    if waiting + at_work:
        _sample(state, metrics, _AGE, state.now_s - _oldest_arrival_s(state, queue, fleet))
    starved = waiting + at_work > 0 and state.serving == 0
    _sample(state, metrics, _STARVED, 1.0 if starved else 0.0)
    state.looks += 1
    a_minute = len(metrics.looks_s)
    state.next_look_s = state.looks // a_minute * MINUTE_S + metrics.looks_s[state.looks % a_minute]


@register_jitable
def _sample(state, metrics, metric, value):
    """Add a look to its minute's datapoint, which is the mean of the minute's looks."""
    minute = int(state.now_s // MINUTE_S)
    metrics.looks[metric, minute] += 1
    looks, mean = metrics.looks[metric, minute], metrics.points[metric, minute]
    metrics.points[metric, minute] = value if looks == 1 else mean + (value - mean) / looks


@register_jitable
def _oldest_arrival_s(state, queue, fleet):
    """Arrival of the oldest request that is not answered."""
    requests = queue.requests
    oldest_s = requests[state.head].arrival_s if state.head < state.arrived else math.inf
    for index in range(state.again):
        oldest_s = min(oldest_s, requests[queue.again[index]].arrival_s)
    for index in range(state.instances):
        slots = fleet.slots[index]
        for slot in range(len(slots)):
            if slots[slot].request >= 0:
                oldest_s = min(oldest_s, requests[slots[slot].request].arrival_s)
    return oldest_s


@register_jitable
def _evaluate(state, reading, rules, metrics, recorded):
    """Evaluate an alarm as CloudWatch does; in ALARM, its policy is asked to scale."""
    alarm = rules.alarms[state.alarm]
    alarm.due_s += alarm.every_s
    _schedule_alarms(state, rules.alarms)
    window = _evaluation_window(state, reading, alarm, alarm.metric, metrics)
    if alarm.times != NONE:
        window = window * _evaluation_window(state, reading, alarm, alarm.times, metrics)
    before_state = alarm.state
    alarm.state = next_state(
        window,
        alarm.evaluation_periods,
        alarm.datapoints_to_alarm,
        alarm.comparison,
        alarm.threshold,
        alarm.missing,
        alarm.state,
    )
    newest = _newest(window)
    if alarm.state != _ALARM or math.isnan(newest):
        return
    if not runs_action(before_state != _ALARM, state.now_s, alarm.ran_s):
        return
    alarm.ran_s = state.now_s
    policy = rules.policies[alarm.policy]
    before = after = state.desired
    asked, verdict = _asked(state, reading, policy, alarm, rules.steps, newest)
    if verdict == _SCALED:
        after, verdict = bid(policy, asked, before, state.minimum, state.maximum, state.now_s)
    if verdict == _SCALED and _refused(state, reading):
        after, verdict = before, _IN_PROGRESS
    if verdict == _SCALED:
        start_cooldown(rules.policies, alarm.policy, before, after, state.now_s)
        state.wanted = after
    logged = recorded.log[state.logged]
    logged.at_s = state.now_s
    logged.policy = alarm.policy
    logged.verdict = verdict
    logged.before = before
    logged.after = after
    state.logged += 1


@register_jitable
def _schedule_alarms(state, alarms):
    """Find the alarm that is evaluated next."""
    state.next_alarm_s = math.inf
    for index in range(len(alarms)):
        if alarms[index].due_s < state.next_alarm_s:
            state.next_alarm_s = alarms[index].due_s
            state.alarm = index


@register_jitable
def _evaluation_window(state, reading, alarm, metric, metrics):
    """The datapoints of the evaluation range that are visible now, oldest first."""
    count = evaluation_range(alarm.evaluation_periods, reading.range_plus_third)
    if metric == _ANNOUNCED:
        points, grain_s, delay_s = metrics.announced, ANNOUNCEMENTS_S, reading.announcement_delay_s
    else:
        points, grain_s, delay_s = metrics.points[metric], MINUTE_S, reading.metric_delay_s
    width = max(1, int(alarm.period_s // grain_s))
    end = math.floor((state.now_s - delay_s) / alarm.every_s) * int(alarm.every_s // grain_s)
    if width == 1 and alarm.statistic != SAMPLE_COUNT and end >= count:
        return points[end - count : end]
    window = np.full(count, math.nan)
    for period in range(count):
        first = end - width * (count - period)
        total, found, least, most = 0.0, 0, math.inf, -math.inf
        for minute in range(max(first, 0), max(first + width, 0)):
            value = points[minute]
            if not math.isnan(value):
                total += value
                found += 1
                least = min(least, value)
                most = max(most, value)
        if found:
            window[period] = period_statistic(alarm.statistic, total, found, least, most)
    return window


@register_jitable
def _newest(window):
    """The newest datapoint, NaN if there is none."""
    for back in range(len(window) - 1, -1, -1):
        if not math.isnan(window[back]):
            return window[back]
    return math.nan


@register_jitable
def _asked(state, reading, policy, alarm, steps, newest):
    """The capacity that a policy asks for, and the verdict so far."""
    if policy.tracks:
        asked = tracked_capacity(state.desired, newest, policy.target, alarm.scales_in)
        never = state.desired == 0 and reading.never_from_zero and not alarm.scales_in
        return asked, _NEVER_FROM_ZERO if never else _SCALED
    asked = stepped_capacity(
        state.desired,
        newest - alarm.threshold,
        policy.adjustment_type,
        steps[policy.first_step : policy.end_step],
        policy.min_magnitude,
    )
    return asked, _NO_STEP if asked == NO_STEP_COVERS else _SCALED


@register_jitable
def _record_capacity(state, capacity):
    """Record the requested and the serving instances, while the record has room."""
    if state.changes < len(capacity):
        change = capacity[state.changes]
        change.at_s = state.now_s
        change.desired = state.desired
        change.in_service = state.serving
        state.changes += 1
