"""A rehearsal: plans over the same traffic, compared with the lower bound, as table and JSON."""

import math
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from pydantic import ValidationError
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from async_inference.calibration import file as calibration
from async_inference.rehearsal import comparison
from async_inference.rehearsal import traffic as traffics
from async_inference.rehearsal.bound import clairvoyant_instance_hours
from async_inference.rehearsal.comparison import (
    FIGURES,
    MIN_CONCLUSIVE_SEEDS,
    Difference,
    Estimate,
    PlanRuns,
    Sensitivity,
)
from async_inference.rehearsal.image_times import with_steps
from async_inference.rehearsal.simulator import Assumptions
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import PRESETS, ScalingPlan, ScalingRules
from async_inference.scaling.unsettled import Unsettled
from async_inference.scaling.waking import wakes_from_zero
from async_inference.stack import settings
from async_inference.stack.groups import Setup
from async_inference.stack.settings import Settings
from async_inference.validation import InvalidInputError, problems_of

USD_PER_INSTANCE_HOUR = {
    "ml.g4dn.xlarge": 0.7364,
    "ml.g4dn.2xlarge": 0.94,
    "ml.g5.xlarge": 1.408,
    "ml.g5.2xlarge": 1.515,
}
"""SageMaker hosting in us-east-1, mid-2026 (docs/aws-facts.md#prices)."""
DEFAULT_AGE_LIMIT_S = 600.0
PARTS: dict[str, object] = {name: field.annotation for name, field in Setup.model_fields.items()}
SETTABLE: dict[str, Any] = {
    **PARTS,
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
    """The assumptions and the results of a rehearsal.

    Args:
        traffics: the traffic of each seed; a file's traffic is the same for all.
        assumptions: the assumptions of all runs.
        seeds: seeds of generated traffic, alarm phases and setup times.
        plans: each plan's runs, the rehearsed plan first.
        age_limit_s: longest wait that the lower bound allows.
        bound_instance_hours: the lower bound's mean over the seeds; None if a seed has no bound.
        warnings: likely mistakes in the plans.
        sensitivities: how much other readings change the figures; None unless requested.
    """

    traffics: tuple[Traffic, ...]
    assumptions: Assumptions
    seeds: tuple[int, ...]
    plans: tuple[PlanRuns, ...]
    age_limit_s: float
    bound_instance_hours: float | None
    warnings: tuple[str, ...]
    sensitivities: tuple[Sensitivity, ...] | None = None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The first plan minus each of the others."""
        return tuple(comparison.differences(self.plans))


def rehearse(
    *,
    stack: str,
    traffic: str,
    policy: str | None,
    against: Sequence[str],
    changed: Sequence[str],
    seed: int,
    seeds: int = comparison.SEEDS,
    readings: bool = False,
    steps: int | None = None,
) -> Rehearsal:
    """Run a stack's plan, or another plan within its bounds, and others for comparison.

    Args:
        stack: the stack's name.
        traffic: a CSV file, or a generator's name.
        policy: a preset, or a YAML file with policies and schedules; None is the stack's plan.
        against: presets, files, or git revisions of the stack file.
        changed: assumptions as `name=value`.
        seed: the first seed of traffic, alarm phases and setup times.
        seeds: how many seeds.
        readings: whether to run the plans under every other reading of AWS, too.
        steps: denoising steps per image, from which service times follow; None keeps the traffic's.

    Raises:
        InvalidInputError: everything that is wrong with the arguments.
    """
    own = settings.from_stack_file(Path(f"Pulumi.{stack}.yaml"))
    taken = tuple(range(seed, seed + seeds))
    arriving = traffics.load_for_seeds(traffic, taken)
    if steps is not None:
        arriving = tuple(with_steps(each, own.instance_type, steps) for each in arriving)
    assumptions, age_limit_s = stack_assumptions(own, changed)
    named = [_plan(own, policy or stack, stack)]
    named += [_plan(own, name, stack) for name in against]
    plans = comparison.run_plans(named, arriving, assumptions, taken)
    return Rehearsal(
        traffics=arriving,
        assumptions=assumptions,
        seeds=taken,
        plans=plans,
        age_limit_s=age_limit_s,
        bound_instance_hours=bound_instance_hours(
            arriving, assumptions, age_limit_s, own.max_capacity
        ),
        warnings=tuple(f"{name}: {text}" for name, plan in named for text in _warnings(plan)),
        sensitivities=comparison.sensitivities(plans, arriving, assumptions, taken)
        if readings
        else None,
    )


def bound_instance_hours(
    traffics: Sequence[Traffic], assumptions: Assumptions, age_limit_s: float, max_capacity: int
) -> float | None:
    """The lower bound under a rehearsal's assumptions, as a mean over the traffics.

    None if even `max_capacity` instances cannot keep the age limit.
    """
    setup_billed_s = assumptions.setup_s if assumptions.unsettled.setup_is_billed else 0.0
    bound = partial(
        clairvoyant_instance_hours,
        age_limit_s=age_limit_s,
        setup_billed_s=setup_billed_s,
        concurrency=assumptions.concurrency,
        max_capacity=max_capacity,
    )
    different = {id(traffic): traffic for traffic in traffics}.values()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bounds = list(pool.map(bound, different))
    known = [hours for hours in bounds if hours is not None]
    return fmean(known) if len(known) == len(bounds) else None


def as_json(rehearsal: Rehearsal) -> dict[str, Any]:
    """What `--json` prints; times in seconds, NaN as null."""
    found = {
        "traffic": traffic_as_json(rehearsal.traffics),
        "assumptions": {
            **asdict(rehearsal.assumptions),
            "seed": rehearsal.seeds[0],
            "seeds": list(rehearsal.seeds),
        },
        "runs": [runs_as_json(runs) for runs in rehearsal.plans],
        "differences": [_difference_as_json(each) for each in rehearsal.differences],
        "bound": {
            "age_limit_s": rehearsal.age_limit_s,
            "instance_hours": rehearsal.bound_instance_hours,
        },
    }
    if rehearsal.sensitivities is not None:
        found["readings"] = [_known(asdict(each)) for each in rehearsal.sensitivities]
    return found


def _difference_as_json(difference: Difference) -> dict[str, Any]:
    values = asdict(difference)
    return _known(values | values.pop("estimate"))


def traffic_as_json(traffics: Sequence[Traffic]) -> dict[str, Any]:
    """Number of requests, total work and time span, as means over the seeds."""
    return {
        "requests": _whole(fmean(traffic.requests for traffic in traffics)),
        "span_s": fmean(traffic.span_s for traffic in traffics),
        "work_s": fmean(traffic.work_s for traffic in traffics),
    }


def runs_as_json(runs: PlanRuns) -> dict[str, Any]:
    """A plan's waits, hours and cost: means over the seeds, and `over_seeds` with the ranges."""
    waits = [asdict(run.wait_s) for run in runs.runs]
    return {
        "policy": runs.name,
        "completed": _whole(runs.mean(lambda run: run.completed)),
        "expired": _whole(runs.mean(lambda run: run.expired)),
        "interrupted": _whole(runs.mean(lambda run: run.interrupted)),
        "wait_s": _known(
            {key: Estimate.of([wait[key] for wait in waits]).mean for key in waits[0]}
        ),
        "instance_hours": runs.mean(lambda run: run.instance_hours),
        "cost_usd": runs.mean(lambda run: run.cost_usd),
        "starts": _whole(runs.mean(lambda run: run.starts)),
        "peak_instances": max(run.peak_instances for run in runs.runs),
        "over_seeds": {
            name: _known(asdict(runs.estimate(figure))) for name, figure in FIGURES.items()
        },
    }


def _whole(value: float) -> float | int:
    """A mean of counts, as an integer if it is one."""
    return int(value) if value == int(value) else value


def _known(value: object) -> Any:
    """The value with null in place of NaN."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def as_table(rehearsal: Rehearsal) -> Group:
    """The rehearsal for a terminal: figures, differences, and the assumptions behind them."""
    return Group(
        *(Text(f"warning: {warning}", style="yellow") for warning in rehearsal.warnings),
        figures_table(rehearsal.plans, rehearsal.differences),
        *map(Text, _sentences(rehearsal)),
        *_readings(rehearsal),
    )


COLUMNS = {
    "mean_wait_s": ("mean wait", "{} s"),
    "p95_wait_s": ("p95 wait", "{} s"),
    "instance_hours": ("GPU-hours", "{}"),
    "cost_usd": ("cost", "${}"),
    "starts": ("starts", "{}"),
}
"""The figures of the table: heading, and a format with the unit."""
DECIMALS = {"instance_hours": 1, "cost_usd": 2}
"""Decimal places of values below 100."""


def value_text(figure: str, value: float, sign: str = "") -> str:
    """A value as a table shows it, without unit; `sign` is + to show a plus sign."""
    if math.isnan(value):
        return "-"
    return f"{value:{sign}.{DECIMALS.get(figure, 0) if abs(value) < 100 else 0}f}"


def figures_table(plans: Sequence[PlanRuns], differences: Sequence[Difference]) -> Table:
    """Each plan's means and ranges, then the first plan's differences from the others."""
    several = len(plans[0].runs) > 1
    table = _table("policy")
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for runs in plans:
        cells = [_cell(name, runs.estimate(FIGURES[name]), several) for name in COLUMNS]
        table.add_row(runs.name, *cells)
    for other in plans[1:] if several else ():
        cells = [
            _cell(each.figure, each.estimate, several, sign="+", noise=each.noise)
            for each in differences
            if each.against == other.name and each.figure in COLUMNS
        ]
        table.add_row(f"{plans[0].name} minus\n{other.name}", *cells)
    return table


def _table(*headings: str) -> Table:
    return Table(*headings, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _cell(
    figure: str, estimate: Estimate, several: bool, sign: str = "", noise: bool = False
) -> Text:
    mean = COLUMNS[figure][1].format(value_text(figure, estimate.mean, sign))
    cell = Text(mean.replace("$+", "+$").replace("$-", "-$"))
    if several:
        low, high = value_text(figure, estimate.low, sign), value_text(figure, estimate.high, sign)
        cell.append(f"\n{low}..{high}", style="dim")
    if noise:
        cell.append("\nnoise", style="yellow")
    return cell


def _sentences(rehearsal: Rehearsal) -> Iterator[str]:
    assumed, seeds = rehearsal.assumptions, len(rehearsal.seeds)
    hours = rehearsal.bound_instance_hours
    best = (
        "no number of instances within the bounds achieves that"
        if hours is None
        else f"{hours:.1f} GPU-hours, ${hours * assumed.usd_per_instance_hour:.2f}"
    )
    if seeds > 1:
        yield (
            f"Each figure is the mean over {seeds} seeds; below it is the range. A difference is "
            f"noise if the seeds disagree on its sign{_too_few(seeds)}."
        )
    else:
        yield "One seed only: small differences may be noise; --seeds 8 shows which are."
    yield f"Lower bound (clairvoyant) for waits up to {rehearsal.age_limit_s:.0f} s: {best}."
    for heading, count in (
        ("Most instances at a time", lambda runs: max(run.peak_instances for run in runs.runs)),
        ("Interrupted by a scale-in and started again", _counted("interrupted")),
        ("Expired in the queue", _counted("expired")),
    ):
        each = ", ".join(f"{runs.name} {round(count(runs), 1):g}" for runs in rehearsal.plans)
        yield f"{heading}: {each}."
    given = traffic_as_json(rehearsal.traffics)
    yield (
        f"A simulated estimate: {given['requests']:.0f} requests over "
        f"{given['span_s'] / 86_400:.1f} days, {given['work_s'] / 3600:.1f} h of work. It "
        f"{basis(assumed)} {assumed.setup_s:.0f} s from requesting an instance to its first "
        f"request, {assumed.concurrency} request(s) per instance at a time, "
        f"${assumed.usd_per_instance_hour:g} an instance hour (us-east-1, mid-2026), metrics "
        f"{assumed.unsettled.metric_delay_s:.0f} s late, and the readings of scaling/unsettled.py. "
        "Change any of them with --set, or see how much the readings matter with --readings."
    )


def _readings(rehearsal: Rehearsal) -> Iterator[Text | Table]:
    if rehearsal.sensitivities is not None:
        yield Text("\nMeans over the seeds under each other reading of AWS:")
        yield from _readings_tables(rehearsal.sensitivities)


def _too_few(seeds: int) -> str:
    if seeds >= MIN_CONCLUSIVE_SEEDS:
        return ""
    return f", and always with fewer than {MIN_CONCLUSIVE_SEEDS} seeds"


def _counted(figure: str) -> Callable[[PlanRuns], float]:
    return lambda runs: runs.mean(FIGURES[figure])


def _readings_tables(sensitivities: Sequence[Sensitivity]) -> Iterator[Table]:
    """How much other readings of AWS change each figure, a table for each plan."""
    for policy in dict.fromkeys(each.policy for each in sensitivities):
        table = _table(policy)
        for heading in ("as assumed", "lowest", "highest"):
            table.add_column(heading, justify="right")
        table.add_column("moved most by", no_wrap=True)
        for each in sensitivities:
            if each.policy == policy and each.figure in COLUMNS:
                heading, unit = COLUMNS[each.figure]
                values = (each.assumed, each.low, each.high)
                cells = [unit.format(value_text(each.figure, value)) for value in values]
                table.add_row(heading, *cells, each.moved_by or "none")
        yield table


def basis(assumptions: Assumptions) -> str:
    """The start of the sentence that lists a prediction's assumptions."""
    return f"is {assumptions.calibrated}: it takes" if assumptions.calibrated else "assumes"


def _warnings(plan: ScalingPlan) -> Iterator[str]:
    if not wakes_from_zero(plan, Unsettled()):
        yield (
            "no policy scales out from zero for a single request; it waits until more arrive, or "
            "expires"
        )
    yield from plan.warnings()


def stack_assumptions(own: Settings, changed: Sequence[str]) -> tuple[Assumptions, float]:
    """A rehearsal's assumptions for a stack, and the lower bound's age limit in seconds.

    Raises:
        InvalidInputError: each wrong change, and an instance type whose price is unknown.
    """
    values, problems = _changes(changed)
    price = USD_PER_INSTANCE_HOUR.get(own.instance_type)
    if price is None and "usd_per_instance_hour" not in values:
        problems.append(
            f"instanceType = {own.instance_type!r}: its price is unknown; "
            "add --set usd_per_instance_hour=<dollars>"
        )
    problems += _setup_problems(own, values)
    if problems:
        raise InvalidInputError(problems)
    parts = {name: values.pop(name) for name in PARTS if name in values}
    setup_s = own.usual_setup_s
    if parts:
        setup_s = own.setup.model_copy(update=parts).usual_s
    age_limit_s = values.pop("age_limit_s", DEFAULT_AGE_LIMIT_S)
    stated = Assumptions(
        setup_s=setup_s,
        concurrency=own.max_concurrent_invocations_per_instance,
        request_ttl_s=float(own.request_ttl_s),
        usd_per_instance_hour=price or 0.0,
    )
    # A user who sets a part of the setup time has set the setup time.
    said = values.keys() | ({"setup_s"} if parts else set())
    known = calibration.apply(stated, own.stack, besides=said)
    unsettled = {f.name: values.pop(f.name) for f in fields(Unsettled) if f.name in values}
    try:
        reading = replace(known.unsettled, **unsettled)
    except ValueError as error:
        raise InvalidInputError([f"--set: {error}"]) from error
    return replace(known, unsettled=reading, **values), age_limit_s


def _setup_problems(own: Settings, values: dict[str, object]) -> Iterator[str]:
    """What is wrong with changes of the setup time: it is one number or parts, not both."""
    parts = [name for name in PARTS if name in values]
    if parts and "setup_s" in values:
        yield f"--set {parts[0]}: this is a part of setup_s, which is set too; remove one of them"
    elif parts and own.setup_s:
        yield (
            f"--set {parts[0]}: the stack's setupS = {own.setup_s} has no parts; set setup_s, or "
            "give the stack a setup in parts"
        )
    try:
        Setup.model_validate(own.setup.model_dump() | {name: values[name] for name in parts})
    except ValidationError as error:
        yield from (f"--set {text}" for text in problems_of(error))


def _changes(changed: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The valid changes by name, and what is wrong with the others."""
    values: dict[str, object] = {}
    problems: list[str] = []
    for item in changed:
        name, equals, text = item.partition("=")
        if not equals or name not in SETTABLE:
            known = ", ".join(SETTABLE)
            problems.append(f"--set {item}: must be name=value with one of the names {known}")
            continue
        value = yaml.safe_load(text)
        wanted = SETTABLE[name]
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if wanted is bool and not isinstance(value, bool):
            problems.append(f"--set {item}: must be true or false")
        elif wanted in (int, float) and not (numeric and value >= 0):
            problems.append(f"--set {item}: must be a number, 0 or more")
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
            raise InvalidInputError([f"{name}: is not valid YAML ({error})"]) from error
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
            [f"{name!r}: is not a preset ({known}), a file or a git revision with this stack file"]
        )
    origin = f"{name}:Pulumi.{stack}.yaml"
    return origin, settings.from_stack_text(shown.stdout, stack=stack, origin=origin).plan
