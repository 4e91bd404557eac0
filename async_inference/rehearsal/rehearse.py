"""One rehearsal: plans over the same traffic, beside the clairvoyant bound, as table and JSON."""

import math
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Group
from rich.table import Table
from rich.text import Text

from async_inference import settings
from async_inference.calibration import file as calibration
from async_inference.rehearsal import traffic as traffics
from async_inference.rehearsal.bound import clairvoyant_instance_hours
from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import PRESETS, ScalingPlan, ScalingRules
from async_inference.scaling.unsettled import Unsettled
from async_inference.settings import Settings
from async_inference.validation import InvalidInputError, problems_of

USD_PER_INSTANCE_HOUR = {
    "ml.g4dn.xlarge": 0.7364,
    "ml.g4dn.2xlarge": 0.94,
    "ml.g5.xlarge": 1.408,
    "ml.g5.2xlarge": 1.515,
}
"""SageMaker hosting in us-east-1, mid-2026 (aws-facts.md section 7)."""
DEFAULT_AGE_LIMIT_S = 600.0
SETTABLE: dict[str, Any] = {
    **{
        f.name: f.type
        for f in fields(Assumptions)
        if f.name not in ("shortages_s", "unsettled", "phases_s", "calibrated")
    },
    **{f.name: f.type for f in fields(Unsettled)},
    "age_limit_s": float,
}


@dataclass(frozen=True)
class Rehearsal:
    """What was assumed and what came out."""

    traffic: Traffic
    assumptions: Assumptions
    seed: int
    runs: tuple[tuple[str, Run], ...]
    age_limit_s: float
    bound_instance_hours: float | None
    warnings: tuple[str, ...]


def rehearse(
    *,
    stack: str,
    traffic: str,
    policy: str | None,
    against: Sequence[str],
    changed: Sequence[str],
    seed: int,
) -> Rehearsal:
    """Run a stack's plan, or another within its bounds, and others for comparison.

    Args:
        stack: name of the stack file.
        traffic: a CSV file, or a generator's name.
        policy: a preset, or a YAML file with policies and schedules; None is the stack's own.
        against: presets, files, or git revisions of the stack file.
        changed: assumptions as `name=value`.
        seed: of traffic, alarm phases and setup times.

    Raises:
        InvalidInputError: all that is wrong with what was asked.
    """
    own = settings.from_stack_file(Path(f"Pulumi.{stack}.yaml"))
    arriving = traffics.loaded(traffic, seed)
    assumptions, age_limit_s = assumed(own, changed)
    plans = [_plan(own, policy or stack, stack)]
    plans += [_plan(own, name, stack) for name in against]
    bound = bound_instance_hours(arriving, assumptions, age_limit_s, own.max_capacity)
    return Rehearsal(
        traffic=arriving,
        assumptions=assumptions,
        seed=seed,
        runs=tuple((name, simulate(plan, arriving, assumptions, seed)) for name, plan in plans),
        age_limit_s=age_limit_s,
        bound_instance_hours=bound,
        warnings=tuple(f"{name}: {text}" for name, plan in plans for text in _warnings(plan)),
    )


def bound_instance_hours(
    traffic: Traffic, assumptions: Assumptions, age_limit_s: float, max_capacity: int
) -> float | None:
    """The clairvoyant bound under a rehearsal's assumptions."""
    return clairvoyant_instance_hours(
        traffic,
        age_limit_s=age_limit_s,
        setup_billed_s=assumptions.setup_s if assumptions.unsettled.setup_is_billed else 0.0,
        concurrency=assumptions.concurrency,
        max_capacity=max_capacity,
    )


def as_json(rehearsal: Rehearsal) -> dict[str, Any]:
    """What `--json` prints; times in seconds, NaN as null."""
    return {
        "traffic": traffic_as_json(rehearsal.traffic),
        "assumptions": {**asdict(rehearsal.assumptions), "seed": rehearsal.seed},
        "runs": [run_as_json(name, run) for name, run in rehearsal.runs],
        "bound": {
            "age_limit_s": rehearsal.age_limit_s,
            "instance_hours": rehearsal.bound_instance_hours,
        },
    }


def traffic_as_json(traffic: Traffic) -> dict[str, Any]:
    """How much there is to do, in how long."""
    return {"requests": traffic.requests, "span_s": traffic.span_s, "work_s": traffic.work_s}


def run_as_json(policy: str, run: Run) -> dict[str, Any]:
    """What a policy did to waits, hours and cost."""
    return {
        "policy": policy,
        "completed": run.completed,
        "expired": run.expired,
        "interrupted": run.interrupted,
        "wait_s": {
            key: None if math.isnan(value) else value for key, value in asdict(run.wait_s).items()
        },
        "instance_hours": run.instance_hours,
        "cost_usd": run.cost_usd,
        "starts": run.starts,
        "peak_instances": run.peak_instances,
    }


def as_table(rehearsal: Rehearsal) -> Group:
    """What a person decides from, with what it rests on."""
    table = Table("policy", "mean wait", "p95", "GPU-hours", "cost", "starts", "peak", "lost")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, run in rehearsal.runs:
        table.add_row(
            name,
            f"{run.wait_s.mean:.0f} s",
            f"{run.wait_s.p95:.0f} s",
            f"{run.instance_hours:.1f}",
            f"${run.cost_usd:.2f}",
            *map(str, (run.starts, run.peak_instances, run.expired)),
        )
    given, assumed = rehearsal.traffic, rehearsal.assumptions
    hours = rehearsal.bound_instance_hours
    best = (
        "no number of instances within the bounds could do that"
        if hours is None
        else f"{hours:.1f} GPU-hours, ${hours * assumed.usd_per_instance_hour:.2f}"
    )
    interrupted = ", ".join(f"{name} {run.interrupted}" for name, run in rehearsal.runs)
    days, work_h = given.span_s / 86_400, given.work_s / 3600
    return Group(
        *(Text(f"warning: {warning}", style="yellow") for warning in rehearsal.warnings),
        table,
        Text(f"Whoever knew all arrivals, with waits up to {rehearsal.age_limit_s:.0f} s: {best}."),
        Text(f"Requests that lost their instance and started again: {interrupted}."),
        Text(
            f"An estimate by simulation: {given.requests} requests over {days:.1f} days, "
            f"{work_h:.1f} h of work, seed {rehearsal.seed}. It {basis(assumed)} "
            f"{assumed.setup_s:.0f} s "
            f"from asking for an instance to its first request, {assumed.concurrency} request(s) "
            f"an instance at a time, ${assumed.usd_per_instance_hour:g} an instance hour "
            f"(us-east-1, mid-2026), metrics {assumed.unsettled.metric_delay_s:.0f} s late, and "
            "the readings of scaling/unsettled.py; change any with --set."
        ),
    )


def basis(assumptions: Assumptions) -> str:
    """What stands before the numbers that a prediction rests on."""
    return f"is {assumptions.calibrated}: it takes" if assumptions.calibrated else "assumes"


def _warnings(plan: ScalingPlan) -> Iterator[str]:
    if not plan.wakes_from_zero(Unsettled()):
        yield "no policy leaves zero for a single request; it waits until more come, or expires"
    yield from plan.warnings()


def assumed(own: Settings, changed: Sequence[str]) -> tuple[Assumptions, float]:
    """What a rehearsal of a stack rests on, and the bound's age limit in seconds.

    Raises:
        InvalidInputError: each change that is wrong, and an instance type of unknown price.
    """
    values, problems = _changes(changed)
    price = USD_PER_INSTANCE_HOUR.get(own.instance_type)
    if price is None and "usd_per_instance_hour" not in values:
        problems.append(
            f"instanceType = {own.instance_type!r}: its price is not known; "
            "add --set usd_per_instance_hour=<dollars>"
        )
    if problems:
        raise InvalidInputError(problems)
    age_limit_s = values.pop("age_limit_s", DEFAULT_AGE_LIMIT_S)
    stated = Assumptions(
        setup_s=float(own.setup_s),
        concurrency=own.max_concurrent_invocations_per_instance,
        request_ttl_s=float(own.request_ttl_s),
        usd_per_instance_hour=price or 0.0,
    )
    known = calibration.apply(stated, own.stack, besides=values)
    unsettled = {f.name: values.pop(f.name) for f in fields(Unsettled) if f.name in values}
    try:
        reading = replace(known.unsettled, **unsettled)
    except ValueError as error:
        raise InvalidInputError([f"--set: {error}"]) from error
    return replace(known, unsettled=reading, **values), age_limit_s


def _changes(changed: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Values by name, and what is wrong with the others."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for item in changed:
        name, equals, text = item.partition("=")
        if not equals or name not in SETTABLE:
            known = ", ".join(SETTABLE)
            problems.append(f"--set {item}: must be name=value with a name of {known}")
            continue
        value = yaml.safe_load(text)
        wanted = SETTABLE[name]
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if wanted is bool and not isinstance(value, bool):
            problems.append(f"--set {item}: must be true or false")
        elif wanted in (int, float) and not (numeric and value >= 0):
            problems.append(f"--set {item}: must be a number, not negative")
        else:
            values[name] = wanted(value) if wanted in (int, float) else value
    return values, problems


def _plan(own: Settings, name: str, stack: str) -> tuple[str, ScalingPlan]:
    if name == stack:
        return stack, own.plan
    if name in PRESETS:
        return name, PRESETS[name].within(own.min_capacity, own.max_capacity)
    path = Path(name)
    if path.is_file():
        try:
            rules = ScalingRules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise InvalidInputError([f"{name}: {text}" for text in problems_of(error)]) from error
        except yaml.YAMLError as error:
            raise InvalidInputError([f"{name}: is no YAML ({error})"]) from error
        return name, rules.within(own.min_capacity, own.max_capacity)
    shown = subprocess.run(
        ["git", "show", f"{name}:./Pulumi.{stack}.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode:
        known = ", ".join(PRESETS)
        raise InvalidInputError(
            [f"{name!r}: is no preset ({known}), no file, and no git revision with this stack file"]
        )
    origin = f"{name}:Pulumi.{stack}.yaml"
    return origin, settings.from_stack_text(shown.stdout, stack=stack, origin=origin).plan
