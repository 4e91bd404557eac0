"""One run of the simulation, compiled; `simulator.simulate` hands it arrays.

Each pass of its loop brings the instances to what is asked for, hands out requests, and goes to
what happens next.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from async_inference.rehearsal.lowered import (
    A_COMPARISON,
    A_M,
    A_METRIC,
    A_MINUTES,
    A_MISSING,
    A_N,
    A_POLICY,
    A_SCALES_IN,
    A_STATISTIC,
    METRICS,
    P_ADJUSTMENT,
    P_END_STEP,
    P_FIRST_STEP,
    P_MAGNITUDE,
    P_TRACKS,
    V_IN_COOLDOWN_S,
    V_TARGET,
)
from async_inference.scaling.alarms import (
    STATISTIC_CODES,
    AlarmState,
    evaluation_range,
    next_state,
    period_statistic,
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

MAX_EVENTS = 2**40
"""More than any run has; a counted loop, since LLVM miscompiles the endless one."""
SAMPLE_COUNT = STATISTIC_CODES["SampleCount"]
_ALARM, _INSUFFICIENT = int(AlarmState.ALARM), int(AlarmState.INSUFFICIENT_DATA)
_SCALED, _NO_STEP = int(Verdict.SCALED), int(Verdict.NO_STEP_COVERS)
_NEVER_FROM_ZERO, _IN_PROGRESS = int(Verdict.NEVER_FROM_ZERO), int(Verdict.CHANGE_IN_PROGRESS)
_BACKLOG, _PER_INSTANCE, _AGE, _STARVED = range(len(METRICS))
assert METRICS == (
    Metric.BACKLOG_SIZE,
    Metric.BACKLOG_SIZE_PER_INSTANCE,
    Metric.AGE_OF_OLDEST_REQUEST,
    Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
)

# States of an instance.
_STARTING, _SERVING, _LEAVING = 0, 1, 2
# Columns of an instance's times, and of its life once it is over.
_ASKED_S, _READY_S, _WORK_S, _LOST_S, _LAST_END_S, _GONE_S = range(6)


class _Instances(NamedTuple):
    """The instances that there are, a row each, in the order in which they were asked for.

    `slot_request` holds the request in each slot, -1 for none; `slot_end_s` when that ends.
    """

    state: np.ndarray
    times: np.ndarray
    busy: np.ndarray
    slot_end_s: np.ndarray
    slot_request: np.ndarray


@register_jitable
def _begin_life(its, row, now_s, setup_s, shortages_s):
    """Ask for an instance: it starts once there is no shortage."""
    begin_s = now_s
    for shortage in range(len(shortages_s)):
        if shortages_s[shortage, 0] <= begin_s < shortages_s[shortage, 1]:
            begin_s = shortages_s[shortage, 1]
    its.state[row] = _STARTING
    its.times[row, :] = 0.0
    its.times[row, _ASKED_S] = now_s
    its.times[row, _READY_S] = begin_s + setup_s
    its.times[row, _LAST_END_S] = math.nan
    its.busy[row] = 0
    its.slot_end_s[row, :] = math.inf
    its.slot_request[row, :] = -1


@register_jitable
def _end_life(its, row, rows, now_s, lives, lived):
    """Record the life of instance `row`; those after it move up, in the order they came."""
    if lived == len(lives):
        longer = np.empty((2 * lived, 6))
        longer[:lived] = lives
        lives = longer
    lives[lived] = its.times[row]
    lives[lived, _GONE_S] = now_s
    for i in range(row, rows - 1):
        its.state[i] = its.state[i + 1]
        its.times[i, :] = its.times[i + 1, :]
        its.busy[i] = its.busy[i + 1]
        its.slot_end_s[i, :] = its.slot_end_s[i + 1, :]
        its.slot_request[i, :] = its.slot_request[i + 1, :]
    return lives


@register_jitable
def _staying(its, rows):
    """How many instances were not told to leave."""
    count = 0
    for i in range(rows):
        if its.state[i] != _LEAVING:
            count += 1
    return count


@register_jitable
def _next_to_leave(its, rows):
    """Those that do not serve yet go first, then the idle ones, the oldest first."""
    chosen = -1
    for i in range(rows):
        if its.state[i] == _LEAVING:
            continue
        if (
            chosen < 0
            or its.state[i] < its.state[chosen]
            or (its.state[i] == its.state[chosen] and its.busy[i] < its.busy[chosen])
        ):
            chosen = i
    return chosen


@register_jitable
def _take(its, rows, request, end_s):
    """Give a request to the first free slot, which there must be."""
    slots = its.slot_request.shape[1]
    for i in range(rows):
        if its.state[i] == _SERVING and its.busy[i] < slots:
            for slot in range(slots):
                if its.slot_request[i, slot] < 0:
                    its.slot_request[i, slot] = request
                    its.slot_end_s[i, slot] = end_s
                    break
            its.busy[i] += 1
            return


@register_jitable
def _free(its, row, slot):
    """Empty a slot."""
    its.slot_request[row, slot] = -1
    its.slot_end_s[row, slot] = math.inf
    its.busy[row] -= 1


@register_jitable
def _interrupt(its, row, now_s, started_s, requeued, again):
    """Put all requests of an instance back into the queue; the last one goes first."""
    for slot in range(its.slot_request.shape[1]):
        request = its.slot_request[row, slot]
        if request < 0:
            continue
        if again == len(requeued):
            bigger = np.empty(2 * again, np.int64)
            bigger[:again] = requeued
            requeued = bigger
        requeued[again] = request
        again += 1
        its.times[row, _LOST_S] += now_s - started_s[request]
        its.times[row, _LAST_END_S] = now_s
        _free(its, row, slot)
    return requeued, again


@register_jitable
def _oldest_at_work_s(its, rows, arrivals_s):
    """When the oldest request that is being worked on arrived."""
    oldest_s = math.inf
    for i in range(rows):
        for slot in range(its.slot_request.shape[1]):
            if its.slot_request[i, slot] >= 0:
                oldest_s = min(oldest_s, arrivals_s[its.slot_request[i, slot]])
    return oldest_s


@register_jitable
def _sample(points, looks, metric, minute, value):
    """Add a look at a metric to its minute's point, the mean of the minute's looks."""
    looks[metric, minute] += 1
    if looks[metric, minute] == 1:
        points[metric, minute] = value
    else:
        points[metric, minute] += (value - points[metric, minute]) / looks[metric, minute]


@register_jitable
def _evaluation_window(series, statistic, width, count, end_minute):
    """The newest `count` periods of `width` minutes before `end_minute`, oldest first."""
    if width == 1 and statistic != SAMPLE_COUNT and end_minute >= count:
        return series[end_minute - count : end_minute]
    window = np.full(count, math.nan)
    for period in range(count):
        first = end_minute - width * (count - period)
        total, found, least, most = 0.0, 0, math.inf, -math.inf
        for minute in range(max(first, 0), max(first + width, 0)):
            value = series[minute]
            if not math.isnan(value):
                total += value
                found += 1
                least = min(least, value)
                most = max(most, value)
        if found:
            window[period] = period_statistic(statistic, total, found, least, most)
    return window


@register_jitable
def _newest(window):
    """The newest datapoint, NaN if there is none."""
    for back in range(len(window) - 1, -1, -1):
        if not math.isnan(window[back]):
            return window[back]
    return math.nan


@register_jitable
def _asked(desired, metric, threshold, rules, target, steps, scales_in, never_from_zero):
    """The capacity that a policy asks for, and whether it may."""
    if rules[P_TRACKS]:
        asked = tracked_capacity(desired, metric, target, scales_in)
        never = desired == 0 and never_from_zero and not scales_in
        return asked, _NEVER_FROM_ZERO if never else _SCALED
    own = steps[rules[P_FIRST_STEP] : rules[P_END_STEP]]
    asked = stepped_capacity(
        desired,
        metric - threshold,
        rules[P_ADJUSTMENT],
        own[:, 0],
        own[:, 1],
        own[:, 2],
        rules[P_MAGNITUDE],
    )
    return asked, _NO_STEP if asked == NO_STEP_COVERS else _SCALED


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
def run(
    arrivals_s,
    service_s,
    plan,
    phases_s,
    setups_s,
    scheduled,
    shortages_s,
    concurrency,
    ttl_s,
    looks_s,
    metric_delay_s,
    counts_inflight,
    backlog_at_zero,
    never_from_zero,
    drains,
    refuses,
    scale_in_takes_s,
    range_plus_third,
    end_s,
    started_s,
    finished_s,
    log,
    capacity,
):
    requests = len(arrivals_s)
    bounds, alarm_numbers, alarm_thresholds, policy_numbers, policy_values, steps = plan
    minimum, maximum = bounds[0], bounds[1]
    policies = len(policy_numbers)
    alarms = len(alarm_thresholds)

    most = max(maximum, 1)
    for row in range(len(scheduled)):
        most = max(most, int(scheduled[row, 2]), int(scheduled[row, 1]))
    room = 2 * most + 2
    its = _Instances(
        np.zeros(room, np.int64),
        np.zeros((room, 6)),
        np.zeros(room, np.int64),
        np.full((room, concurrency), math.inf),
        np.full((room, concurrency), -1),
    )
    lives = np.empty((64, 6))
    lived = 0
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
    looks = np.zeros((4, minutes), np.int64)
    states = np.full(alarms, _INSUFFICIENT)
    due_s = phases_s.copy()
    out_origin = np.zeros(policies, np.int64)
    out_until_s = np.full(policies, -math.inf)
    in_until_s = np.full(policies, -math.inf)
    out_cooldown_s = policy_values[:, 1].copy()

    logged = changes = expired = interrupted = starts = peak = 0
    detected_s = 0.0
    wake_ups = 0
    looked = 0
    sample_s = looks_s[0]
    scale_in_ends_s = -math.inf
    next_scheduled = 0
    wanted = minimum
    now_s = 0.0

    for _ in range(MAX_EVENTS):
        # Bring the instances to what is asked for.
        if wanted != desired:
            if wanted < desired:
                scale_in_ends_s = now_s + scale_in_takes_s
            staying = _staying(its, instances)
            while staying < wanted and instances < room:
                setup_s = setups_s[starts % len(setups_s)]
                _begin_life(its, instances, now_s, setup_s, shortages_s)
                instances += 1
                starts += 1
                staying += 1
            while staying > wanted:
                chosen = _next_to_leave(its, instances)
                staying -= 1
                if its.state[chosen] == _SERVING:
                    serving -= 1
                    if its.busy[chosen] and not drains:
                        before = again
                        requeued, again = _interrupt(its, chosen, now_s, started_s, requeued, again)
                        interrupted += again - before
                        working -= again - before
                its.state[chosen] = _LEAVING
                working -= its.busy[chosen]
                draining += its.busy[chosen]
                if its.busy[chosen] == 0:
                    lives = _end_life(its, chosen, instances, now_s, lives, lived)
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
            _take(its, instances, request, now_s + service_s[request])
            working += 1
            started_s[request] = now_s

        # What happens next.
        next_arrival_s = arrivals_s[arrived] if arrived < requests else math.inf
        # The innermost loop stays in place: as a function it makes a run a fifth slower.
        next_ready_s = next_end_s = math.inf
        ready = ending = ending_slot = -1
        for i in range(instances):
            if its.state[i] == _STARTING:
                if its.times[i, _READY_S] < next_ready_s:
                    next_ready_s = its.times[i, _READY_S]
                    ready = i
            elif its.busy[i]:
                for slot in range(concurrency):
                    if its.slot_end_s[i, slot] < next_end_s:
                        next_end_s = its.slot_end_s[i, slot]
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
        # Bounds that a change in progress keeps from being met are met when it is done.
        outside = desired < minimum or desired > maximum
        next_clamp_s = max(now_s, scale_in_ends_s) if outside and serving >= desired else math.inf
        now_s = min(
            next_arrival_s,
            next_ready_s,
            next_end_s,
            sample_s,
            next_alarm_s,
            next_schedule_s,
            next_clamp_s,
        )
        answered = head == requests and again == 0 and working + draining == 0
        if now_s > end_s or (answered and desired == minimum and instances == minimum):
            now_s = min(now_s, end_s)
            break

        if next_end_s == now_s:
            request = its.slot_request[ending, ending_slot]
            finished_s[request] = now_s
            its.times[ending, _WORK_S] += service_s[request]
            its.times[ending, _LAST_END_S] = now_s
            _free(its, ending, ending_slot)
            if its.state[ending] == _LEAVING:
                draining -= 1
                if its.busy[ending] == 0:
                    lives = _end_life(its, ending, instances, now_s, lives, lived)
                    lived += 1
                    instances -= 1
            else:
                working -= 1
        elif next_arrival_s == now_s:
            arrived += 1
        elif next_ready_s == now_s:
            its.state[ready] = _SERVING
            serving += 1
            if serving >= desired:
                finish_scale_out(now_s, out_cooldown_s, out_until_s)
            changes = _record(capacity, changes, now_s, desired, serving)
        elif next_schedule_s == now_s:
            if scheduled[next_scheduled, 1] >= 0:
                minimum = int(scheduled[next_scheduled, 1])
            if scheduled[next_scheduled, 2] >= 0:
                maximum = int(scheduled[next_scheduled, 2])
            next_scheduled += 1
            if not (refuses and change_in_progress(now_s, desired, serving, scale_in_ends_s)):
                wanted = min(max(desired, minimum), maximum)
        elif next_clamp_s == now_s:
            wanted = min(max(desired, minimum), maximum)
        elif sample_s == now_s:
            while head < arrived and now_s >= arrivals_s[head] + ttl_s:
                head += 1
                expired += 1
            minute = int(now_s // 60.0)
            waiting = arrived - head + again
            counted = waiting + (working + draining if counts_inflight else 0)
            _sample(points, looks, _BACKLOG, minute, counted)
            if serving or backlog_at_zero:
                _sample(points, looks, _PER_INSTANCE, minute, counted / max(1, serving))
            oldest_s = math.inf
            if head < arrived:
                oldest_s = arrivals_s[head]
            for n in range(again):
                oldest_s = min(oldest_s, arrivals_s[requeued[n]])
            if working + draining:
                oldest_s = min(oldest_s, _oldest_at_work_s(its, instances, arrivals_s))
            if oldest_s < math.inf:
                _sample(points, looks, _AGE, minute, now_s - oldest_s)
            starved = waiting + working + draining > 0 and serving == 0
            _sample(points, looks, _STARVED, minute, 1.0 if starved else 0.0)
            looked += 1
            sample_s = looked // len(looks_s) * 60.0 + looks_s[looked % len(looks_s)]
        else:
            due_s[alarm] += 60.0
            numbers = alarm_numbers[alarm]
            n = numbers[A_N]
            window = _evaluation_window(
                points[numbers[A_METRIC]],
                numbers[A_STATISTIC],
                numbers[A_MINUTES],
                evaluation_range(n, range_plus_third),
                math.floor((now_s - metric_delay_s) / 60.0),
            )
            threshold = alarm_thresholds[alarm]
            states[alarm] = next_state(
                window,
                n,
                numbers[A_M],
                numbers[A_COMPARISON],
                threshold,
                numbers[A_MISSING],
                states[alarm],
            )
            if states[alarm] != _ALARM:
                continue
            newest = _newest(window)
            if math.isnan(newest):
                continue
            policy = numbers[A_POLICY]
            asked, verdict = _asked(
                desired,
                newest,
                threshold,
                policy_numbers[policy],
                policy_values[policy, V_TARGET],
                steps,
                numbers[A_SCALES_IN] == 1,
                never_from_zero,
            )
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
            if (
                verdict == _SCALED
                and refuses
                and change_in_progress(now_s, desired, serving, scale_in_ends_s)
            ):
                after, verdict = desired, _IN_PROGRESS
            if verdict == _SCALED:
                start_cooldown(
                    policy,
                    desired,
                    after,
                    now_s,
                    policy_values[policy, V_IN_COOLDOWN_S],
                    out_origin,
                    out_until_s,
                    in_until_s,
                )
                wanted = after
            log[logged, 0] = now_s
            log[logged, 1] = policy
            log[logged, 2] = verdict
            log[logged, 3] = desired
            log[logged, 4] = after
            logged += 1

    expired += again
    while head < requests:
        head += 1
        expired += 1
    while instances:
        lives = _end_life(its, 0, instances, now_s, lives, lived)
        lived += 1
        instances -= 1
    detection_s = detected_s / wake_ups if wake_ups else math.nan
    return logged, changes, expired, interrupted, starts, peak, detection_s, lives[:lived]
