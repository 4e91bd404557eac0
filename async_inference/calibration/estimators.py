"""Estimates which reading of AWS an endpoint's records support, and how strongly.

Each estimator is a pure function over frozen records. It gives a reading only if the records are at
least `LIKELY` times likelier under it than under any other, and a number only after `LEAST_SEEN`
observations. Otherwise it says what is missing.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr, logsumexp, stdtrit

from async_inference.calibration.records import (
    MINUTE_S,
    CapacityChange,
    Records,
    capacity_changes,
    foreign_changes,
)
from async_inference.scaling.alarms import evaluation_range
from async_inference.scaling.autoscaler import HIGH_ALARM_PERIODS, LOW_ALARM_PERIODS
from async_inference.scaling.plan import Metric

LIKELY = 20.0
"""Likelihood ratio from which a reading is accepted: the usual 1 in 20."""
ODDS_OF_ONE = 49.0
"""Odds from one clear observation of a reading. One in fifty may mislead, because of a deployment
or a manual change in the same minute."""
MOST_ODDS = 1e6
LEAST_SEEN = 3
"""Observations that a number needs."""
SHORTAGE_RATIO = 3.0
"""A start that took more than this many times the median was waiting for capacity."""
NO_SIGMA = 0.005
PHASE_SPREAD_S = 5.0
NOTED_LATE_S = 60.0
IDLE_MINUTES = 20
"""This many minutes without work end an episode."""
LOOK_ERROR_S = MINUTE_S / math.sqrt(12)
"""Standard error of a request's time when it is measured by samples a minute apart."""
PUBLISHED_DELAY_S = (60.0, 90.0)
"""Delay of metrics in published runs (docs/aws-facts.md#alarms)."""

Value = float | int | str | bool


@dataclass(frozen=True)
class Finding:
    """What the records show about one reading or number.

    Args:
        name: an assumption as `rehearse --set` takes it, or a number that is only reported.
        value: None if there is not enough evidence.
        observations: how many observations support it.
        because: the evidence, or what is missing, as a clause.
        low, high: the number's 95 % confidence interval.
        odds: how many times likelier the records are under this value than under the next best.
    """

    name: str
    value: Value | None
    observations: int
    because: str
    low: float | None = None
    high: float | None = None
    odds: float | None = None


@dataclass(frozen=True)
class Start:
    """A scale-out, or several that overlapped.

    Args:
        at_s: when the first instance was requested.
        took_s: seconds from then until all instances served.
        asked_s: for each instance, seconds from the first request to its request.
    """

    at_s: float
    took_s: float
    asked_s: tuple[float, ...]


@dataclass(frozen=True)
class Estimate:
    """All findings, and notes about them.

    Args:
        starts: the starts from which the setup time was estimated.
        phases_s: for each policy, the phases of its alarms.
        notes: what else a reader should know, a sentence each.
    """

    findings: tuple[Finding, ...]
    starts: tuple[Start, ...]
    phases_s: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Finding:
        return next(each for each in self.findings if each.name == name)


def estimate(records: Records) -> Estimate:
    """Estimate readings and numbers from an endpoint's records."""
    changes = capacity_changes(records)
    starts, first_start, apart = later_starts(records, changes)
    delay = metric_delay(records)
    inflight = counts_inflight(records)
    findings = [
        *setup(starts),
        first_start,
        *parts(records, changes),
        scale_in(changes),
        change_in_progress(records, changes),
        samples_per_minute(records),
        delay,
        range_of_evaluation(records, delay),
        scale_in_ratio(records),
        from_zero(records, changes),
        at_zero(records, changes),
        inflight,
        on_scale_in(records, changes, inflight),
        service(records),
        Finding(
            "setup_is_billed",
            None,
            0,
            "no metric shows what an instance costs; compare the bill's hours with these starts",
        ),
        Finding(
            "announcement_delay_s",
            None,
            0,
            "these records contain SageMaker's metrics only, not the clients' announcements",
        ),
    ]
    told = (*apart, *notes(records, changes))
    return Estimate(tuple(findings), starts, phases(records), told)


# Starts


def later_starts(
    records: Records, changes: Sequence[CapacityChange]
) -> tuple[tuple[Start, ...], Finding, tuple[str, ...]]:
    """The starts that show the setup time, the endpoint's first start, and notes on the others.

    An endpoint's first start has no cached image (docs/aws-facts.md#start). It is the creation
    itself if the records contain that; otherwise it is the first scale-out, if its time differs
    from the others'.
    """
    left: list[str] = []
    usable = list(_starts(changes))
    old = [start for start in usable if start.at_s < records.configuration_created_s]
    if old:
        left.append(
            f"{_count(len(old), 'start')} of an earlier configuration left out; the live one is "
            f"{records.configuration}"
        )
    starts = [start for start in usable if start.at_s >= records.configuration_created_s]
    first = _creation_start(records)
    if first is None and len(starts) > LEAST_SEEN and records.created_s >= records.since_s:
        rest = np.log([start.took_s for start in starts[1:]])
        spread = max(float(rest.std(ddof=1)), 0.05)
        if math.log(starts[0].took_s) - rest.mean() > max(3 * spread, math.log(1.3)):
            first = starts.pop(0).took_s
    if len(starts) > LEAST_SEEN:
        median_s = float(np.median([start.took_s for start in starts]))
        slow = [start for start in starts if start.took_s > SHORTAGE_RATIO * median_s]
        if slow:
            left.append(
                f"{_count(len(slow), 'start')} left out that took up to "
                f"{max(start.took_s for start in slow):.0f} s: AWS was short of capacity"
            )
            starts = [start for start in starts if start not in slow]
    told = (
        Finding("first_setup_s", None, 0, "the endpoint was created before the time that was read")
        if first is None
        else Finding(
            "first_setup_s",
            round(first),
            1,
            "the first start after the creation, whose image was not cached yet",
            max(0.0, first - MINUTE_S),
            first + MINUTE_S,
        )
    )
    return tuple(starts), told, tuple(left)


def _starts(changes: Sequence[CapacityChange]) -> Iterator[Start]:
    """Completed scale-outs; overlapping ones count as one, or not at all with a scale-in."""
    together: list[CapacityChange] = []
    for change, following in pairwise([*changes, None]):
        assert change is not None
        together.append(change)
        if change.ended_s is not None and (
            following is None or following.started_s >= change.ended_s - 1
        ):
            if all(each.after > each.before for each in together):
                at_s = together[0].started_s
                offsets = [
                    each.started_s - at_s
                    for each in together
                    for _ in range(each.after - each.before)
                ]
                yield Start(at_s, change.ended_s - at_s, tuple(offsets))
            together = []


def _creation_start(records: Records) -> float | None:
    """Seconds from the endpoint's creation to its first instance in service, to the minute.

    Instances are counted once a minute, at an unknown second of it.
    """
    if records.created_s < records.since_s:
        return None
    later = [minute for minute in records.minutes.instances if minute >= records.created_s]
    scaled = [a.started_s for a in records.activities if a.started_s >= records.created_s]
    # Without this check, instances of a later start could be taken for those of the creation.
    if not later or min(scaled, default=math.inf) < min(later):
        return None
    return min(later) - records.created_s


def setup(starts: Sequence[Start], weights: Sequence[float] | None = None) -> Iterator[Finding]:
    """Median and spread of the setup time, which is lognormal as in the simulator.

    Args:
        starts: the observed starts.
        weights: the weight of each; None weighs all equally.
    """
    if len(starts) < LEAST_SEEN:
        because = f"there are {_count(len(starts), 'start')}, and {LEAST_SEEN} are needed"
        yield Finding("setup_s", None, len(starts), because)
        yield Finding("setup_sigma", None, len(starts), because)
        return
    median_s, sigma = lognormal(starts, weights or [1.0] * len(starts))
    because = "scale-outs, from the request until all instances were in service"
    factor = math.exp(float(stdtrit(len(starts) - 1, 0.975)) * sigma / math.sqrt(len(starts)))
    yield Finding(
        "setup_s",
        round(median_s, 1),
        len(starts),
        because,
        round(median_s / factor, 1),
        round(median_s * factor, 1),
    )
    yield Finding(
        "setup_sigma", 0.0 if sigma <= NO_SIGMA else round(sigma, 3), len(starts), because
    )


def lognormal(starts: Sequence[Start], weights: Sequence[float]) -> tuple[float, float]:
    """Median and sigma of one instance's setup time, by maximum likelihood.

    A scale-out of several instances lasts until the last one is ready.
    """
    took_s = np.array([max(start.took_s, 1.0) for start in starts])
    weight = np.array(weights)
    logs = np.log(took_s)
    mean = float(np.average(logs, weights=weight))
    spread = math.sqrt(float(np.average((logs - mean) ** 2, weights=weight)))
    if spread <= NO_SIGMA and all(set(start.asked_s) == {0.0} for start in starts):
        return math.exp(mean), spread
    if all(len(start.asked_s) == 1 for start in starts):
        many = len(logs) / (len(logs) - 1) if len(logs) > 1 else 1.0
        return math.exp(mean), spread * math.sqrt(many)
    most = max(len(start.asked_s) for start in starts)
    # Pad with instances that were ready long before, so that all rows have the same length.
    asked_s = np.array([[*s.asked_s, *[-1e9] * (most - len(s.asked_s))] for s in starts])
    each_log = np.log(np.maximum(took_s[:, None] - asked_s, 1.0))

    def unlikelihood(at: np.ndarray) -> float:
        sigma = max(math.exp(at[1]), NO_SIGMA)
        z = (each_log - at[0]) / sigma
        ready = log_ndtr(z)
        last = -z * z / 2 - math.log(sigma) - each_log - ready
        return -float((weight * (ready.sum(axis=1) + logsumexp(last, axis=1))).sum())

    begin = [mean, math.log(max(spread, 0.05))]
    best = minimize(unlikelihood, begin, method="Nelder-Mead", tol=1e-6).x
    return math.exp(best[0]), max(math.exp(best[1]), NO_SIGMA)


def parts(records: Records, changes: Sequence[CapacityChange]) -> Iterator[Finding]:
    """The two parts of a start: before and after the container's first log line."""
    before, within = [], []
    for change in changes:
        if change.after <= change.before or not change.alone or change.ended_s is None:
            continue
        for began_s in records.containers:
            if change.started_s < began_s < change.ended_s:
                before.append(began_s - change.started_s)
                within.append(change.ended_s - began_s)
    for name, seen in (("setup_until_container_s", before), ("setup_in_container_s", within)):
        if len(seen) < LEAST_SEEN:
            because = f"the logs show {_count(len(seen), 'container')} that began during a start"
            yield Finding(name, None, len(seen), because)
        else:
            low, middle, high = np.percentile(seen, [2.5, 50, 97.5])
            because = "from the first line in each container's log"
            yield Finding(name, round(float(middle)), len(seen), because, round(low), round(high))


def scale_in(changes: Sequence[CapacityChange]) -> Finding:
    """How long a scale-in keeps the endpoint Updating."""
    took_s = [
        change.ended_s - change.started_s
        for change in changes
        if change.after < change.before and change.ended_s is not None and change.alone
    ]
    if len(took_s) < LEAST_SEEN:
        because = f"there are {_count(len(took_s), 'scale-in')}, and {LEAST_SEEN} are needed"
        return Finding("scale_in_takes_s", None, len(took_s), because)
    return Finding(
        "scale_in_takes_s",
        round(float(np.median(took_s)), 1),
        len(took_s),
        "scale-ins, from the request until the endpoint was in service again",
        round(min(took_s), 1),
        round(max(took_s), 1),
    )


def change_in_progress(records: Records, changes: Sequence[CapacityChange]) -> Finding:
    """Whether SageMaker refuses a capacity change while another one is in progress.

    Application Auto Scaling may record the end of a change late. So an overlap counts only if it
    was longer than `NOTED_LATE_S`, and for a scale-out only if instances were still missing.
    """
    refused = [
        activity
        for activity in records.activities
        if activity.refused
        and any(
            change.started_s <= activity.started_s < (change.ended_s or records.read_s)
            for change in changes
        )
    ]
    overlapped = 0
    for first, second in pairwise(changes):
        ended_s = first.ended_s or records.read_s
        seen = records.minutes.serving(int(second.started_s // MINUTE_S) * MINUTE_S)
        done = first.after > first.before and seen is not None and seen >= first.after
        overlapped += ended_s - second.started_s > NOTED_LATE_S and not done
    return _voted(
        "capacity_change_in_progress",
        {"refused": len(refused), "allowed": overlapped},
        "activities that failed because the endpoint was Updating, and changes that overlapped",
        "no policy wanted a second change while one was in progress; a burst would show it",
    )


# Metrics


def samples_per_minute(records: Records) -> Finding:
    """How many samples make up a minute's datapoint: the datapoint's SampleCount."""
    name = "samples_per_minute"
    counts = Counter(round(count) for count in records.minutes.samples.values())
    total = sum(counts.values())
    if total < IDLE_MINUTES:
        return Finding(name, None, total, f"{total} minutes of ApproximateBacklogSize were read")
    value, often = counts.most_common(1)[0]
    if often < 0.9 * total or not 1 <= value <= 60:
        return Finding(name, None, total, f"SampleCount varies: {_listed(counts)}")
    whole = all(float(each).is_integer() for each in records.minutes.backlog.values())
    if value == 1 and not whole:
        because = "SampleCount is 1, but datapoints are not whole numbers: they are means already"
        return Finding(name, None, total, because)
    return Finding(name, value, total, "SampleCount of ApproximateBacklogSize", odds=MOST_ODDS)


def metric_delay(records: Records) -> Finding:
    """How long after the end of its minute a datapoint becomes visible to alarms.

    If the newest minute that an evaluation saw is m, the delay is at most the time since the end of
    m. If the next minute has a datapoint too, it is at least a minute less than that. Alarms are
    evaluated at different phases, so several alarms narrow the interval.
    """
    name = "metric_delay_s"
    metric_of = {a.name: a.metric for a in records.alarms if a.period_s == MINUTE_S}
    bounds: list[tuple[float, float]] = []
    for change in records.changes:
        series = records.minutes.queue.get(metric_of.get(change.alarm, ""), {})
        if change.newest_s is None or int(change.newest_s) + MINUTE_S not in series:
            continue
        high = change.at_s - change.newest_s - MINUTE_S
        bounds.append((high - MINUTE_S, high))
    if len(bounds) < LEAST_SEEN:
        because = f"{len(bounds)} state changes of alarms show which minutes the alarms saw"
        return Finding(name, None, len(bounds), because)
    low, high, agree = _most_covered(bounds)
    if agree < 0.8 * len(bounds):
        return Finding(name, None, len(bounds), "the delay varies by more than a minute")
    low = max(low, 0.0)
    published = max(low, PUBLISHED_DELAY_S[0]), min(high, PUBLISHED_DELAY_S[1])
    inner = published if published[0] <= published[1] else (low, high)
    phases = len({round(each) for _, each in bounds})
    return Finding(
        name,
        round(sum(inner) / 2),
        len(bounds),
        f"the newest minute that alarms saw, at {_count(phases, 'different phase')}; the middle of "
        "the interval that fits" + (", published runs included" if inner == published else ""),
        round(low, 1),
        round(high, 1),
    )


def phases(records: Records) -> dict[str, tuple[float, ...]]:
    """The phases of each policy's alarms, target tracking's high alarm first.

    A policy is left out if fewer than three evaluations of one of its alarms were seen, or if they
    are more than `PHASE_SPREAD_S` apart: then the alarm has no fixed phase.
    """
    own: dict[str, list[str]] = {}
    for alarm in sorted(records.alarms, key=lambda each: each.is_low):
        for arn in alarm.policies:
            own.setdefault(arn.rpartition(":policyName/")[2], []).append(alarm.name)
    found = {}
    for policy, alarms in own.items():
        known = [
            _phase_s([change.at_s for change in records.changes if change.alarm == alarm])
            for alarm in alarms
        ]
        if None not in known:
            found[policy] = tuple(each for each in known if each is not None)
    return found


def _phase_s(evaluated_s: Sequence[float]) -> float | None:
    """The mean second of the minute of these moments, on a circle: 59 s and 1 s are 2 s apart."""
    if len(evaluated_s) < LEAST_SEEN:
        return None
    turns = np.array(evaluated_s) % MINUTE_S * (2 * math.pi / MINUTE_S)
    middle = float(np.angle(np.exp(1j * turns).mean()))
    off = np.abs(np.angle(np.exp(1j * (turns - middle)))) * MINUTE_S / (2 * math.pi)
    if off.max() > PHASE_SPREAD_S:
        return None
    return round(middle / (2 * math.pi) * MINUTE_S % MINUTE_S, 1)


def _most_covered(bounds: Sequence[tuple[float, float]]) -> tuple[float, float, int]:
    """The interval that most of the given ones contain, and how many contain it."""
    edges = sorted({edge for each in bounds for edge in each})
    covered = [
        (sum(low <= left and right <= high for low, high in bounds), left, right)
        for left, right in pairwise(edges)
    ]
    if not covered:
        return edges[0], edges[0], len(bounds)
    most = max(count for count, _, _ in covered)
    best = [(left, right) for count, left, right in covered if count == most]
    return best[0][0], best[-1][1], most


def range_of_evaluation(records: Records, delay: Finding) -> Finding:
    """How many periods an alarm looks back: those until it runs out of datapoints."""
    name = "evaluation_range"
    alarms = {a.name: a for a in records.alarms if a.period_s == MINUTE_S}
    low_s, high_s = (
        (delay.low, delay.high)
        if delay.low is not None and delay.high is not None
        else PUBLISHED_DELAY_S
    )
    votes = {"n_plus_third": 0, "n_plus_2": 0}
    for change in records.changes:
        alarm = alarms.get(change.alarm)
        if alarm is None or change.after != "INSUFFICIENT_DATA":
            continue
        periods = alarm.evaluation_periods
        ranges = {
            "n_plus_third": evaluation_range(periods, True),
            "n_plus_2": evaluation_range(periods, False),
        }
        seen = [m for m in records.minutes.queue.get(alarm.metric, {}) if m < change.at_s]
        if not seen or ranges["n_plus_third"] == ranges["n_plus_2"]:
            continue
        last_s = max(seen) + MINUTE_S
        empty = [(change.at_s - delay_s - last_s) / MINUTE_S for delay_s in (high_s, low_s)]
        fits = [
            reading for reading, length in ranges.items() if empty[0] - 1 <= length <= empty[1] + 1
        ]
        if len(fits) == 1:
            votes[fits[0]] += 1
    return _voted(
        name,
        votes,
        "alarms of more than eight periods that ran out of datapoints",
        "no alarm of more than eight periods ran out of datapoints; otherwise the readings agree",
    )


def scale_in_ratio(records: Records) -> Finding:
    """The threshold of target tracking's low alarm, divided by the target (the high one's)."""
    name = "scale_in_ratio"
    pairs = [
        (high, low)
        for high in records.alarms
        for low in records.alarms
        if high.tracks
        and not high.is_low
        and low.is_low
        and set(high.policies) & set(low.policies)
        and high.threshold > 0
    ]
    if not pairs:
        return Finding(name, None, 0, "the endpoint has no target tracking that scales in")
    ratios = {round(low.threshold / high.threshold, 4) for high, low in pairs}
    if len(ratios) > 1:
        return Finding(name, None, len(pairs), f"the ratios differ: {_listed(sorted(ratios))}")
    periods = f"{pairs[0][0].evaluation_periods} and {pairs[0][1].evaluation_periods} minutes"
    return Finding(
        name,
        ratios.pop(),
        len(pairs),
        f"thresholds of target tracking's alarms, which look at {periods}",
        odds=MOST_ODDS,
    )


def from_zero(records: Records, changes: Sequence[CapacityChange]) -> Finding:
    """Whether target tracking scales out from zero.

    Staying at zero is evidence only if a scale-out was possible: another alarm's policy scaled out
    afterwards, no schedule held the capacity at zero, and no activity reports that the maximum was
    reached or that AWS was short of capacity.
    """
    high = {a.name for a in records.alarms if a.tracks and not a.is_low}
    left = sum(change.before == 0 and change.alarm in high for change in changes)
    rang = list(_in_alarm(records, high))
    stayed = 0
    for asleep, following in _zeros(changes):
        begin_s, until_s = asleep.ended_s, following.started_s if following else records.read_s
        assert begin_s is not None
        hindered = any(
            begin_s <= each.started_s < until_s
            and (each.status == "Failed" or "AlreadyAtMaxCapacity" in each.not_scaled)
            for each in records.activities
        )
        free = asleep.alarm and following and following.alarm and not hindered
        stayed += bool(free) and any(
            min(until_s, end_s) - max(since_s, begin_s) > 1.5 * MINUTE_S for since_s, end_s in rang
        )
    return _voted(
        "target_tracking_from_zero",
        {"async_page": left, "never": stayed},
        "target tracking's alarm at zero instances, and what followed",
        "target tracking's high alarm never fired at zero, because another policy was faster, as "
        "it always is under this plan"
        if high
        else "the endpoint has no target tracking",
    )


def _zeros(
    changes: Sequence[CapacityChange],
) -> Iterator[tuple[CapacityChange, CapacityChange | None]]:
    """The completed changes to zero instances, each with the change that followed."""
    for change, following in pairwise([*changes, None]):
        if change is not None and change.after == 0 and change.ended_s is not None:
            yield change, following


def _in_alarm(records: Records, names: Iterable[str]) -> Iterator[tuple[float, float]]:
    """The spans in which one of these alarms was in ALARM."""
    for name in names:
        own = sorted((c for c in records.changes if c.alarm == name), key=lambda each: each.at_s)
        for change, following in pairwise([*own, None]):
            if change is not None and change.after == "ALARM":
                yield change.at_s, following.at_s if following else records.read_s


def at_zero(records: Records, changes: Sequence[CapacityChange]) -> Finding:
    """The value of ApproximateBacklogSizePerInstance at zero instances."""
    votes = {"backlog": 0, "no_data": 0}
    per_instance = records.minutes.queue.get(Metric.BACKLOG_SIZE_PER_INSTANCE, {})
    for asleep, following in _zeros(changes):
        assert asleep.ended_s is not None
        until_s = following.started_s if following else records.read_s
        minutes = [
            minute
            for minute in _whole_minutes(asleep.ended_s, until_s)
            if minute in records.minutes.backlog and records.minutes.serving(minute) == 0
        ]
        if len(minutes) < LEAST_SEEN:
            continue
        share = sum(minute in per_instance for minute in minutes) / len(minutes)
        if share >= 0.9 or share <= 0.1:
            votes["backlog" if share >= 0.9 else "no_data"] += 1
    return _voted(
        "backlog_per_instance_at_zero",
        votes,
        "times at zero instances, with and without datapoints",
        "the endpoint was never at zero instances for three whole minutes",
    )


def counts_inflight(records: Records) -> Finding:
    """Whether the backlog counts requests in progress, by Little's law.

    If it does, the backlog summed over time equals the sum of the requests' total times. If it does
    not, it equals the sum of their times in the backlog. The difference is the work. SageMaker
    counts work that a scale-in interrupted as time in the backlog, so the sum may be smaller.
    """
    name = "backlog_counts_inflight"
    rows = []
    ended = 0.0
    for minutes in _episodes(records):
        work_s = sum(map(records.minutes.work_s, minutes))
        done = sum(records.minutes.ended.get(minute, 0.0) for minute in minutes)
        gap = any(minute not in records.minutes.backlog for minute in minutes)
        if not done or gap:
            continue
        area_s = MINUTE_S * sum(records.minutes.backlog[minute] for minute in minutes)
        waited_s = sum(records.minutes.in_backlog_ms.get(minute, 0.0) for minute in minutes) / 1000
        rows.append((area_s - waited_s, work_s))
        ended += done
    total_work_s = sum(work_s for _, work_s in rows)
    if not total_work_s:
        return Finding(name, None, int(ended), "no request ended while the backlog was published")
    share = float(sum(extra_s for extra_s, _ in rows) / total_work_s)
    looks = max(1, round(np.median(list(records.minutes.samples.values()) or [1])))
    # In the worst case, the requests of one episode are all late or all early.
    error = LOOK_ERROR_S / looks * math.sqrt(ended * max(1.0, ended / len(rows) / 10))
    error = max(error, math.sqrt(sum((e - share * w) ** 2 for e, w in rows))) / total_work_s
    log_odds = (2 * share - 1) / (2 * error * error)
    odds = min(MOST_ODDS, math.exp(min(abs(log_odds), 20.0)))
    # A share far from 0 and 1 supports neither reading; a negative one is interrupted work.
    near = -2 < share < 0.4 or 0.6 < share < 1.4
    because = f"by Little's law {share:.2f} of the work in progress is in the backlog"
    return Finding(
        name,
        share > 0.5 if odds >= LIKELY and near else None,
        int(ended),
        because,
        round(share - 2 * error, 2),
        round(share + 2 * error, 2),
        round(odds, 1),
    )


def _episodes(records: Records) -> Iterator[range]:
    """Spans of minutes with work, separated by `IDLE_MINUTES` without."""
    backlog = records.minutes.backlog
    busy = sorted({m for m, value in backlog.items() if value > 0} | set(records.minutes.ended))
    if not busy:
        return
    first = busy[0]
    # The last one may not be over.
    for minute, following in pairwise([*busy, max(backlog, default=0)]):
        if following - minute > IDLE_MINUTES * MINUTE_S:
            yield range(first, minute + MINUTE_S, MINUTE_S)
            first = following


def on_scale_in(records: Records, changes: Sequence[CapacityChange], inflight: Finding) -> Finding:
    """What happens to requests in progress when the last instance is removed.

    A request that was served from before such a scale-in until well after it was allowed to finish.
    A request that was in progress before it and was served after the next start was put back.
    """
    votes = {"requeue": 0, "drain": 0}
    runs = list(_lone_runs(records))
    for change, following in pairwise([*changes, None]):
        if change is None or change.after != 0:
            continue
        began_s, again_s = change.started_s, following.ended_s if following else None
        # A minute's sum contains what ended since the previous sample, up to a minute earlier.
        if any(run.latest_start_s < began_s and run.end_s > began_s + MINUTE_S for run in runs):
            votes["drain"] += 1
        elif again_s is not None and inflight.value is not None:
            look = int(began_s // MINUTE_S - 1) * MINUTE_S
            last = records.minutes.backlog.get(look)
            slots = (records.minutes.serving(look) or 0) * records.concurrency
            # Then no request was waiting, because a free slot takes one immediately.
            served = (
                last is not None and slots and (1 <= last <= slots if inflight.value else last == 0)
            )
            votes["requeue"] += bool(served) and any(
                run.latest_arrival_s < look and run.latest_start_s >= again_s for run in runs
            )
    return _voted(
        "inflight_on_scale_in",
        votes,
        "scale-ins to zero with a request in progress, and when it ended",
        "no instance was seen to be removed while it worked on a request",
    )


@dataclass(frozen=True)
class _Run:
    """A request's service, to the minute."""

    latest_arrival_s: float
    latest_start_s: float
    end_s: float


def _lone_runs(records: Records) -> Iterator[_Run]:
    """The requests that ended alone in their minute; the times of these are known."""
    minutes = records.minutes
    for minute, count in minutes.ended.items():
        if count == 1:
            end_s = float(minute + MINUTE_S)
            whole_s = minutes.total_ms.get(minute, 0.0) / 1000
            yield _Run(end_s - whole_s, end_s - minutes.work_s(minute), float(minute))


def service(records: Records) -> Finding:
    """The mean service time of the requests."""
    rows = [
        (count, records.minutes.work_s(minute) / count)
        for minute, count in records.minutes.ended.items()
        if count > 0
    ]
    ended = sum(count for count, _ in rows)
    if ended < LEAST_SEEN:
        return Finding("service_s", None, int(ended), f"{ended:.0f} requests ended")
    weights, means = np.array(rows).T
    mean_s = float(np.average(means, weights=weights))
    error_s = float(means.std()) / math.sqrt(len(rows)) * 2
    return Finding(
        "service_s",
        round(mean_s, 2),
        int(ended),
        "mean of TotalProcessingTime minus TimeInBacklog",
        round(max(0.0, mean_s - error_s), 2),
        round(mean_s + error_s, 2),
    )


# What else a reader should know


def notes(records: Records, changes: Sequence[CapacityChange]) -> Iterator[str]:
    """What a reader must know in addition to the findings, a sentence each."""
    yield from records.unread
    if not changes:
        yield (
            "AWS has no record that the endpoint ever scaled; send it requests first, as "
            "docs/rehearsal.md describes"
        )
    earlier = sum(each.started_s < records.created_s for each in records.activities)
    if earlier:
        yield (
            f"{_count(earlier, 'activity', 'activities')} belong to an earlier endpoint of this "
            "name, which was replaced; they are left out"
        )
    yield from (
        f"{wanted} instances were requested and {seen} in service without an activity, "
        f"{_ago(records, at_s)}: somebody changed the capacity by hand, or an instance failed; "
        "later changes are counted from the instances that were seen"
        for at_s, wanted, seen in foreign_changes(records)
    )
    by_schedule = sum(change.alarm is None for change in changes)
    if by_schedule:
        yield f"{_count(by_schedule, 'change')} by a schedule or by new bounds, not by an alarm"
    backlog = records.minutes.backlog
    if backlog:
        missing = (max(backlog) - min(backlog)) // MINUTE_S + 1 - len(backlog)
        if missing:
            yield (
                f"{_count(missing, 'minute')} without a datapoint of ApproximateBacklogSize; "
                "evidence that spans them is left out"
            )
    else:
        yield "CloudWatch has no datapoint of ApproximateBacklogSize in this time"
    if abs(records.skew_s) > MINUTE_S / 2:
        direction = "ahead of" if records.skew_s > 0 else "behind"
        yield (
            f"this machine's clock is {abs(records.skew_s):.0f} s {direction} AWS's; all times are "
            "AWS's"
        )
    yield from _apart(records, changes)
    tracking = [a for a in records.alarms if a.tracks]
    unusual = [
        a
        for a in tracking
        if a.evaluation_periods != (LOW_ALARM_PERIODS if a.is_low else HIGH_ALARM_PERIODS)
    ]
    if unusual:
        yield (
            f"target tracking looks at {unusual[0].evaluation_periods} minutes in "
            f"{unusual[0].name}; the rehearsal assumes {HIGH_ALARM_PERIODS} for its high alarm and "
            f"{LOW_ALARM_PERIODS} for its low one"
        )


def _apart(records: Records, changes: Sequence[CapacityChange]) -> Iterator[str]:
    """A note if activities began before the alarm that caused them fired."""
    early = []
    for change in changes:
        rang = [c for c in records.changes if c.alarm == change.alarm and c.after == "ALARM"]
        before = [c.at_s for c in rang if c.at_s <= change.started_s]
        soon = [c.at_s for c in rang if change.started_s < c.at_s < change.started_s + 5 * MINUTE_S]
        if rang and soon and not before:
            early.append(min(soon) - change.started_s)
    if early:
        yield (
            f"activities began up to {max(early):.0f} s before the alarm that caused them fired: "
            "the clocks of CloudWatch and Application Auto Scaling differ; the findings do not "
            "depend on them to the second"
        )


def _ago(records: Records, at_s: float) -> str:
    return f"{(records.read_s - at_s) / 3600:.1f} hours before this was read"


def _voted(name: str, votes: Mapping[str, int], what: str, missing: str) -> Finding:
    """The reading with most votes, if the others have hardly any."""
    (best, most), *others = sorted(votes.items(), key=lambda each: -each[1])
    total = sum(votes.values())
    if not total:
        return Finding(name, None, 0, missing)
    lead = min(most - max(number for _, number in others), 4)
    odds = min(MOST_ODDS, ODDS_OF_ONE**lead)
    if odds < LIKELY:
        return Finding(name, None, total, f"the records contradict each other: {_listed(votes)}")
    return Finding(name, best, total, f"{what}: {_listed(votes)}", odds=round(odds, 1))


def _whole_minutes(begin_s: float, until_s: float) -> range:
    """The starts of the whole minutes within a span."""
    first = math.ceil(begin_s / MINUTE_S) * MINUTE_S
    return range(first, int(until_s // MINUTE_S) * MINUTE_S, MINUTE_S)


def _listed(values: Mapping | Sequence) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{count} x {value}" for value, count in values.items() if count)
    return ", ".join(map(str, values))


def _count(number: int, what: str, many: str | None = None) -> str:
    return f"{number} {what if number == 1 else many or what + 's'}"
