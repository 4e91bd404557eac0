"""The search for a better plan: plans that AWS can run, evaluated on unseen traffic.

The first half of the traffic trains the search, the second half evaluates it. The search tries step
policies, target tracking and schedules, nothing that needs custom code in AWS.
"""

import math
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from async_inference.rehearsal import traffic as traffics
from async_inference.rehearsal.comparison import FIGURES, Estimate, PlanRuns
from async_inference.rehearsal.rehearse import (
    COLUMNS,
    bound_instance_hours,
    runs_as_json,
    stack_assumptions,
    traffic_as_json,
    value_text,
)
from async_inference.rehearsal.simulator import Assumptions, InstanceHours, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import (
    DOCUMENTED,
    AdjustmentType,
    Comparison,
    Metric,
    MetricAlarm,
    ScalingPlan,
    ScalingPolicy,
    ScalingRules,
    ScheduledAction,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.stack import settings
from async_inference.validation import InvalidInputError

SEEDS = 4
"""Default number of seeds with which each plan is simulated."""
HOURS, MEAN_WAIT_S, P95_WAIT_S = (
    FIGURES[name] for name in ("instance_hours", "mean_wait_s", "p95_wait_s")
)
BATCH = 8
"""Plans per round, simulated in parallel. It is fixed so that a seed finds the same plan on any
machine."""
MARGIN = 0.98
"""Fraction of the limit that a plan may use on training traffic, because unseen traffic differs."""
PENALTY = 4.0
DEVIATION_PENALTY = 0.004
"""Penalty for each number that differs from preset `tuned`. It keeps what the training traffic
never needed, such as the reaction to a spike."""
SURGE_SLACK = 1.5
"""A plan's p95 wait in a surge may be this many times that of the documented policy."""
PARENTS = 16
"""How many of the best plans so far the next ones are bred from."""
SHOWN = 12
EMPTY_BELOW = 0.5
"""Alarm threshold below which the queue is empty."""

Objective = Literal["hours", "wait"]


@dataclass(frozen=True)
class PlanParameters:
    """A plan in the few numbers that the search changes; 0 leaves a policy out.

    A percentage is the part of the instances that thinning or sleep removes at a time, at
    least one; 0 removes one.
    """

    wake_minutes: int = 1
    wake_adds: int = 1
    wake_more_at: int = 0
    wake_more_adds: int = 2
    wake_cooldown_s: int = 300
    flood_at: int = 15
    flood_adds: int = 1
    deluge_above: int = 10
    deluge_adds: int = 4
    torrent_above: int = 0
    torrent_adds: int = 0
    flood_minutes: int = 1
    flood_cooldown_s: int = 600
    pressure_at: int = 0
    pressure_minutes: int = 1
    pressure_cooldown_s: int = 600
    tracking_target: int = 0
    tracking_scales_in: bool = False
    thinning_below: float = 1.0
    thinning_minutes: int = 8
    thinning_cooldown_s: int = 900
    thinning_percent: int = 25
    sleep_minutes: int = 120
    sleep_share: float = 0.7
    sleep_cooldown_s: int = 300
    sleep_percent: int = 50
    warm_from_h: int = 0
    warm_hours: int = 0


TUNED_PARAMETERS = PlanParameters()

CHOICES: dict[str, tuple] = {
    "wake_minutes": (1, 2),
    "wake_adds": (1, 2),
    "wake_more_at": (0, 0, 4, 6, 8, 12, 20),
    "wake_more_adds": (2, 3, 4),
    "wake_cooldown_s": (60, 120, 180, 300, 600),
    "flood_at": (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40),
    "flood_adds": (1, 2, 3),
    "deluge_above": (3, 5, 10, 15, 20, 30),
    "deluge_adds": (1, 2, 3, 4),
    "torrent_above": (0, 5, 10, 20, 30),
    "torrent_adds": (0, 1, 2, 3, 4),
    "flood_minutes": (1, 2, 3),
    "flood_cooldown_s": (60, 120, 180, 300, 600),
    "pressure_at": (0, 3, 4, 5, 6, 7, 8, 10, 15),
    "pressure_minutes": (1, 2, 3, 5),
    "pressure_cooldown_s": (60, 120, 300, 600),
    "tracking_target": (0, 0, 0, 3, 5, 8, 12, 20),
    "tracking_scales_in": (False, True),
    "thinning_below": (0.0, 0.26, 0.34, 0.51, 0.67, 1.0, 1.25),
    "thinning_minutes": (1, 2, 3, 5, 8),
    "thinning_cooldown_s": (0, 60, 120, 300, 600, 900),
    "thinning_percent": (0, 0, 25, 50, 75, 90),
    "sleep_minutes": (1, 2, 3, 5, 8, 10, 15, 20, 30, 45, 60, 90, 120, 180),
    "sleep_share": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "sleep_cooldown_s": (0, 60, 120, 300),
    "sleep_percent": (0, 0, 50, 90, 100),
    "warm_from_h": tuple(range(24)),
    "warm_hours": (0, 0, 0, 0, 2, 4, 6, 8, 10, 12),
}
assert set(CHOICES) == {field.name for field in fields(PlanParameters)}


def rules(parameters: PlanParameters) -> ScalingRules:
    """The policies and schedules of a plan with these parameters."""
    per_instance = Metric.BACKLOG_SIZE_PER_INSTANCE
    one_more = (StepAdjustment(lower_bound=0, adjustment=1),)
    policies: list[ScalingPolicy] = [_wake(parameters)]
    alarm = _alarm(Metric.BACKLOG_SIZE, parameters.flood_at, parameters.flood_minutes)
    policies.append(_step("Flood", alarm, _flood_steps(parameters), parameters.flood_cooldown_s))
    if parameters.pressure_at:
        alarm = _alarm(per_instance, parameters.pressure_at, parameters.pressure_minutes)
        policies.append(_step("Pressure", alarm, one_more, parameters.pressure_cooldown_s))
    if parameters.tracking_target:
        policies.append(
            TargetTrackingPolicy(
                name="Tracking-ScalingPolicy",
                target=parameters.tracking_target,
                disable_scale_in=not parameters.tracking_scales_in,
            )
        )
    if parameters.thinning_below:
        alarm = _alarm(per_instance, -parameters.thinning_below, parameters.thinning_minutes)
        policies.append(
            _less("Thinning", alarm, parameters.thinning_percent, parameters.thinning_cooldown_s)
        )
    # On the whole backlog, which has data at zero instances under every reading (unsettled.py).
    alarm = _alarm(
        Metric.BACKLOG_SIZE, -EMPTY_BELOW, parameters.sleep_minutes, parameters.sleep_share
    )
    policies.append(_less("Sleep", alarm, parameters.sleep_percent, parameters.sleep_cooldown_s))
    return ScalingRules(policies=tuple(policies), schedules=_warm_window(parameters))


def _wake(parameters: PlanParameters) -> StepScalingPolicy:
    """The scale-out from zero: one step, or a larger one from `wake_more_at` requests on."""
    alarm = _alarm(Metric.HAS_BACKLOG_WITHOUT_CAPACITY, 0.5, parameters.wake_minutes)
    steps = (StepAdjustment(lower_bound=0, adjustment=parameters.wake_adds),)
    if parameters.wake_more_at:
        alarm = _alarm(Metric.BACKLOG_WITHOUT_CAPACITY, 0.5, parameters.wake_minutes)
        more = max(parameters.wake_adds, parameters.wake_more_adds)
        steps = (
            steps[0].model_copy(update={"upper_bound": float(parameters.wake_more_at)}),
            StepAdjustment(lower_bound=parameters.wake_more_at, adjustment=more),
        )
    return _step("WakeUp", alarm, steps, parameters.wake_cooldown_s)


def _flood_steps(parameters: PlanParameters) -> tuple[StepAdjustment, ...]:
    """Two or three steps, each at least as large as the one below it."""
    deluge_adds = max(parameters.flood_adds, parameters.deluge_adds)
    from_deluge = StepAdjustment(lower_bound=parameters.deluge_above, adjustment=deluge_adds)
    steps = [
        StepAdjustment(
            lower_bound=0, upper_bound=parameters.deluge_above, adjustment=parameters.flood_adds
        ),
        from_deluge,
    ]
    if parameters.torrent_adds:
        torrent = parameters.deluge_above + max(parameters.torrent_above, 1)
        steps[-1] = from_deluge.model_copy(update={"upper_bound": float(torrent)})
        steps.append(
            StepAdjustment(lower_bound=torrent, adjustment=deluge_adds + parameters.torrent_adds)
        )
    return tuple(steps)


def _alarm(metric: Metric, at: float, minutes: int, share: float = 1.0) -> MetricAlarm:
    """An alarm that fires at or above `at`; if `at` is negative, below its absolute value."""
    return MetricAlarm(
        metric=metric,
        comparison=Comparison.GREATER_OR_EQUAL if at > 0 else Comparison.LESS,
        threshold=abs(at),
        evaluation_periods=minutes,
        datapoints_to_alarm=max(1, math.ceil(minutes * share - 1e-9)),
    )


def _step(
    name: str, alarm: MetricAlarm, steps: tuple[StepAdjustment, ...], cooldown_s: int
) -> StepScalingPolicy:
    return StepScalingPolicy(
        name=f"{name}-ScalingPolicy", alarm=alarm, steps=steps, cooldown_s=cooldown_s
    )


def _less(name: str, alarm: MetricAlarm, percent: int, cooldown_s: int) -> StepScalingPolicy:
    """A policy that removes a percentage, at least one instance; 0 removes one instance."""
    removed = StepAdjustment(upper_bound=0, adjustment=-(percent or 1))
    kind = (
        AdjustmentType.PERCENT_CHANGE_IN_CAPACITY if percent else AdjustmentType.CHANGE_IN_CAPACITY
    )
    return _step(name, alarm, (removed,), cooldown_s).model_copy(update={"adjustment_type": kind})


def _warm_window(parameters: PlanParameters) -> tuple[ScheduledAction, ...]:
    if not parameters.warm_hours:
        return ()
    until_h = (parameters.warm_from_h + parameters.warm_hours) % 24
    return (
        ScheduledAction(
            name="warm", schedule=f"cron(0 {parameters.warm_from_h} * * ? *)", min_capacity=1
        ),
        ScheduledAction(name="cold", schedule=f"cron(0 {until_h} * * ? *)", min_capacity=0),
    )


@dataclass(frozen=True)
class EvaluatedPlan:
    """A plan with its runs over both halves of the traffic."""

    name: str
    plan: ScalingPlan
    training: PlanRuns
    unseen: PlanRuns


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    `front` holds the plans that no other plan beat in both p95 wait and instance hours on the
    training half, shortest wait first. `bound_instance_hours` is the lower bound for the unseen
    half with an age limit of `max_p95_wait_s`.
    """

    chosen: EvaluatedPlan
    documented: EvaluatedPlan
    front: tuple[EvaluatedPlan, ...]
    unseen: tuple[Traffic, ...]
    tried: int
    max_p95_wait_s: float
    bound_instance_hours: float | None
    assumptions: Assumptions


def split_in_half(traffic: Traffic) -> tuple[Traffic, Traffic, float]:
    """The first and second half of the traffic by time, and when the second starts.

    Raises:
        InvalidInputError: a half is empty.
    """
    middle_s = (traffic.arrivals_s[0] + traffic.span_s) / 2
    late = traffic.arrivals_s >= middle_s
    if late.all() or not late.any():
        raise InvalidInputError(
            ["--traffic: one half of its time has no requests, so a plan could not be evaluated on "
             "unseen traffic; use a longer trace"]
        )  # fmt: skip
    first = Traffic(traffic.arrivals_s[~late], traffic.service_s[~late])
    second = Traffic(traffic.arrivals_s[late] - middle_s, traffic.service_s[late])
    return first, second, float(middle_s)


def with_surge(traffic: Traffic, capacity: int) -> Traffic:
    """The traffic with a surge in the middle: an hour's work for all instances in half an hour.

    It protects a plan against traffic that the training lacks. For example, a plan that was trained
    with two instances at most may have lost the policy that removes five again.

    Args:
        traffic: the original traffic.
        capacity: requests that all instances together work on at the same time.
    """
    middle_s = traffic.span_s / 2
    requests = max(1, round(3600 * capacity / float(traffic.service_s.mean())))
    arrivals_s = np.concatenate([traffic.arrivals_s, middle_s + np.linspace(0, 1800, requests)])
    service_s = np.concatenate([traffic.service_s, np.resize(traffic.service_s, requests)])
    order = np.argsort(arrivals_s, kind="stable")
    return Traffic(arrivals_s[order], service_s[order])


def tune(
    *,
    stack: str,
    traffic: str,
    objective: Objective,
    max_p95_wait_s: float | None,
    changed: Sequence[str],
    plans: int,
    seed: int,
    seeds: int = SEEDS,
    advance: Callable[[int], None],
) -> SearchResult:
    """Search for a better plan within a stack's bounds.

    Args:
        stack: the stack whose file gives bounds and assumptions.
        traffic: a CSV file, or a generator's name; assumed to start at midnight UTC.
        objective: `hours`: fewest instance hours with a p95 wait within the limit; `wait`: shortest
            mean wait with no more instance hours than the documented policy.
        max_p95_wait_s: the limit; None is the documented policy's p95 wait.
        changed: assumptions as `name=value`.
        plans: how many plans to try.
        seed: seed of the search, and the first one of traffic, alarm phases and setup times.
        seeds: with how many seeds each plan is simulated.
        advance: called with the number of plans tried since the last call.

    Raises:
        InvalidInputError: everything that is wrong with the arguments.
    """
    own = settings.from_stack_file(Path(f"Pulumi.{stack}.yaml"))
    assumptions, _ = stack_assumptions(own, changed)
    taken = tuple(range(seed, seed + seeds))
    halved = [split_in_half(each) for each in traffics.load_for_seeds(traffic, taken)]
    training = [first for first, _, _ in halved]
    unseen = tuple(second for _, second, _ in halved)
    surges = [with_surge(each, own.max_capacity * assumptions.concurrency) for each in training]

    def within(found: ScalingRules) -> ScalingPlan:
        return found.within(own.min_capacity, own.max_capacity)

    def train(plan: ScalingPlan) -> tuple[PlanRuns, PlanRuns]:
        """A plan's runs over the training halves, and over the same with a surge."""

        def over(arriving: Sequence[Traffic]) -> PlanRuns:
            each = zip(arriving, taken, strict=True)
            return PlanRuns("", plan, tuple(simulate(plan, t, assumptions, s) for t, s in each))

        return over(training), over(surges)

    def evaluate(name: str, plan: ScalingPlan, runs: PlanRuns) -> EvaluatedPlan:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            over_unseen = pool.map(
                lambda number: simulate(
                    plan, unseen[number], assumptions, taken[number], start_s=halved[number][2]
                ),
                range(seeds),
            )
        return EvaluatedPlan(
            name, plan, replace(runs, name=name), PlanRuns(name, plan, tuple(over_unseen))
        )

    baseline, surge_before = train(within(DOCUMENTED))
    documented = evaluate("documented", within(DOCUMENTED), baseline)
    limit_s = baseline.mean(P95_WAIT_S) if max_p95_wait_s is None else max_p95_wait_s

    def runs(parameters: PlanParameters) -> tuple[PlanRuns, PlanRuns]:
        return train(within(rules(parameters)))

    def score(parameters: PlanParameters) -> float:
        run, in_surge = tried[parameters]
        return base_score(parameters, run) + PENALTY * (
            _excess(in_surge.mean(HOURS), surge_before.mean(HOURS))
            + _excess(in_surge.mean(P95_WAIT_S), SURGE_SLACK * surge_before.mean(P95_WAIT_S))
        )

    def base_score(parameters: PlanParameters, found: PlanRuns) -> float:
        if not _serves_all(found):
            return math.inf
        deviations = sum(
            getattr(parameters, name) != getattr(TUNED_PARAMETERS, name) for name in CHOICES
        )
        hours = math.log(found.mean(HOURS)) + DEVIATION_PENALTY * deviations
        if objective == "hours":
            return hours + PENALTY * _excess(found.mean(P95_WAIT_S), MARGIN * limit_s)
        wait = math.log(max(found.mean(MEAN_WAIT_S), 1.0)) + DEVIATION_PENALTY * deviations
        return wait + PENALTY * _excess(found.mean(HOURS), MARGIN * baseline.mean(HOURS))

    rng = random.Random(seed)
    tried: dict[PlanParameters, tuple[PlanRuns, PlanRuns]] = {}
    parents = [TUNED_PARAMETERS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while len(tried) < plans:
            batch = [] if tried else [TUNED_PARAMETERS]
            for _ in range(100 * BATCH):
                if len(batch) >= min(BATCH, plans - len(tried)):
                    break
                parameters = _child(parents, rng)
                if parameters not in tried and parameters not in batch:
                    batch.append(parameters)
            if not batch:
                break
            tried.update(zip(batch, pool.map(runs, batch), strict=True))
            parents = sorted(dict.fromkeys((*parents, *batch)), key=score)[:PARENTS]
            advance(len(batch))
    best = parents[0]
    front = _front({parameters: run for parameters, (run, _) in tried.items()})
    names = {parameters: f"plan {number}" for number, parameters in enumerate(front, start=1)}
    return SearchResult(
        chosen=evaluate("chosen", within(rules(best)), tried[best][0]),
        documented=documented,
        front=tuple(evaluate(names[s], within(rules(s)), tried[s][0]) for s in front),
        unseen=unseen,
        tried=len(tried),
        max_p95_wait_s=limit_s,
        bound_instance_hours=bound_instance_hours(unseen, assumptions, limit_s, own.max_capacity),
        assumptions=assumptions,
    )


def _excess(value: float, limit: float) -> float:
    """Logarithm of a value's ratio to its limit; 0 below the limit."""
    return max(0.0, math.log(max(value, 1.0) / max(limit, 1.0)))


def _child(parents: Sequence[PlanParameters], rng: random.Random) -> PlanParameters:
    """Parameters with each number from one of two parents, up to two of them drawn at random."""
    couple = rng.choice(parents), rng.choice(parents)
    mixed = {name: getattr(rng.choice(couple), name) for name in CHOICES}
    changed = rng.sample(sorted(CHOICES), rng.choice((0, 1, 1, 2)))
    return PlanParameters(**mixed | {name: rng.choice(CHOICES[name]) for name in changed})


def _serves_all(found: PlanRuns) -> bool:
    return all(run.completed and not run.expired for run in found.runs)


def _front(tried: dict[PlanParameters, PlanRuns]) -> list[PlanParameters]:
    best, front = math.inf, []
    figures = {
        parameters: (found.mean(P95_WAIT_S), found.mean(HOURS))
        for parameters, found in tried.items()
    }
    for parameters in sorted(tried, key=lambda parameters: figures[parameters]):
        _, hours = figures[parameters]
        if _serves_all(tried[parameters]) and hours < best:
            best = hours
            front.append(parameters)
    every = max(1, math.ceil(len(front) / SHOWN))
    return front[::every]


def as_json(found: SearchResult) -> dict[str, Any]:
    """What `--json` prints: the runs over the unseen half, and the chosen plan."""
    return {
        "traffic": traffic_as_json(found.unseen),
        "assumptions": asdict(found.assumptions),
        "tried": found.tried,
        "max_p95_wait_s": found.max_p95_wait_s,
        "runs": [
            runs_as_json(evaluated.unseen)
            for evaluated in (found.documented, found.chosen, *found.front)
        ],
        "chosen": found.chosen.plan.model_dump(mode="json", by_alias=True, exclude_none=True),
        "bound": {
            "age_limit_s": found.max_p95_wait_s,
            "instance_hours": found.bound_instance_hours,
        },
    }


def as_table(found: SearchResult) -> Group:
    """The front, the chosen plan and the documented policy on the unseen half."""
    table = Table("policy", "p95 wait", "mean wait", "GPU-hours", "of documented", "starts")
    for column in table.columns[1:]:
        column.justify = "right"
    before = found.documented.unseen
    for evaluated in (found.documented, found.chosen, *found.front):
        runs = evaluated.unseen
        part = Estimate.of(
            [
                run.instance_hours / other.instance_hours
                for run, other in zip(runs.runs, before.runs, strict=True)
            ]
        )
        table.add_row(
            evaluated.name,
            *(
                COLUMNS[name][1].format(value_text(name, runs.mean(FIGURES[name])))
                for name in ("p95_wait_s", "mean_wait_s", "instance_hours")
            ),
            f"{part.mean:.2f} ({part.low:.2f}..{part.high:.2f})",
            value_text("starts", runs.mean(FIGURES["starts"])),
            style="bold" if evaluated is found.chosen else None,
            end_section=evaluated is found.chosen,
        )
    bound, hours = found.bound_instance_hours, found.chosen.unseen.mean(HOURS)
    given, seeds = traffic_as_json(found.unseen), len(found.unseen)
    text = f"A simulated estimate. {found.tried} plans were tried on the first half of the traffic."
    text += f" All figures are for the second half ({given['requests']:.0f} requests), which the "
    text += f"search did not see: means over {seeds} seeds, and the range of the ratio of hours."
    text += " The traffic is assumed to start at midnight UTC."
    if found.assumptions.calibrated:
        text += f" The simulation is {found.assumptions.calibrated}."
    if bound:
        text += (
            f" The lower bound (clairvoyant) for waits up to {found.max_p95_wait_s:.0f} s is "
            f"{bound:.1f} GPU-hours; the chosen plan needs {hours / bound:.1f} times that."
        )
    lines = [_made_of(found), Text(text)]
    p95_wait_s = found.chosen.unseen.mean(P95_WAIT_S)
    if p95_wait_s > found.max_p95_wait_s:
        lines.append(
            Text(
                f"The chosen plan's p95 wait, {p95_wait_s:.0f} s, exceeds the "
                f"limit of {found.max_p95_wait_s:.0f} s on the unseen half.",
                style="yellow",
            )
        )
    return Group(table, *lines)


def _made_of(found: SearchResult) -> Table:
    """What the instance hours of the unseen half were spent on."""
    table = Table("GPU-hours spent on")
    shown = (found.documented, found.chosen)
    for evaluated in shown:
        table.add_column(evaluated.name, justify="right")
    for field in fields(InstanceHours):
        hours = [
            evaluated.unseen.mean(lambda run, part=field.name: getattr(run.made_of, part))
            for evaluated in shown
        ]
        table.add_row(field.name.replace("_", "-"), *(f"{each:.1f}" for each in hours))
    detections_s = [evaluated.unseen.mean(lambda run: run.detection_s) for evaluated in shown]
    table.add_section()
    table.add_row(
        "detection from zero",
        *("-" if math.isnan(each) else f"{each:.0f} s" for each in detections_s),
    )
    return table


def picture(found: SearchResult, path: Path) -> None:
    """Wait against instance hours on the unseen half, as a PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()

    def place(evaluated: EvaluatedPlan) -> tuple[float, float]:
        return evaluated.unseen.mean(P95_WAIT_S), evaluated.unseen.mean(HOURS)

    axes.plot(*zip(*sorted(map(place, found.front)), strict=True), "o-", label="tried plans")
    for evaluated, marker in ((found.chosen, "*"), (found.documented, "s")):
        axes.plot(*place(evaluated), marker, ms=12, label=evaluated.name)
    if found.bound_instance_hours is not None:
        axes.axhline(found.bound_instance_hours, ls="--", color="grey", label="lower bound")
    axes.axvline(found.max_p95_wait_s, ls=":", color="grey", label="p95 limit")
    axes.set(xlabel="p95 wait (s)", ylabel="instance hours", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def as_stack_file(stack: str, found: SearchResult) -> str:
    """The stack's file with the chosen plan instead of the present one; comments are lost."""
    document: dict[str, Any] = yaml.safe_load(
        Path(f"Pulumi.{stack}.yaml").read_text(encoding="utf-8")
    )
    plan = found.chosen.plan
    chosen = ScalingRules(policies=plan.policies, schedules=plan.schedules)
    document["config"] |= {
        f"{settings.PROJECT}:scalingPreset": "custom",
        f"{settings.PROJECT}:scalingPlan": chosen.model_dump(
            mode="json", by_alias=True, exclude_none=True
        ),
    }
    return yaml.safe_dump(document, sort_keys=False)
