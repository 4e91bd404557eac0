"""`calibration.<stack>.yaml`: the findings of each calibration, and the readings that follow.

The file belongs in version control, next to the stack file. `readings` holds the current result.
`looks` holds the evidence, an entry for each run of calibrate; its weight halves every
`HALF_LIFE_S`.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator

from async_inference.calibration.estimators import (
    LEAST_SEEN,
    LIKELY,
    Estimate,
    Finding,
    Start,
    setup,
)
from async_inference.calibration.records import Records
from async_inference.scaling.unsettled import Unsettled
from async_inference.validation import InvalidInputError, StackValue, problems_of

if TYPE_CHECKING:
    from async_inference.rehearsal.simulator import Assumptions

DAY_S = 86_400.0
HALF_LIFE_S = 90 * DAY_S
"""AWS changes without notice: image caching came in June 2026 and halved every start."""
OLD_S = 90 * DAY_S
MEASURED = ("setup_s", "setup_sigma")
READINGS = tuple(each.name for each in fields(Unsettled))
HEADER = """\
# Readings of AWS that were measured on the endpoint (docs/rehearsal.md).
# Written by async-inference calibrate; rehearse, tune and load use `readings`.
"""

Value = bool | int | float | str


class Found(StackValue):
    """One finding of one look, from `estimators.Finding`."""

    value: Value
    observations: int = Field(ge=0)
    low: float | None = None
    high: float | None = None
    odds: float | None = None
    because: str = ""


class Look(StackValue):
    """What one run of calibrate found.

    Args:
        starts: for each start, its time in seconds since the epoch, the seconds until all instances
            served, and for each instance how long after the first it was requested.
    """

    since: datetime
    until: datetime
    configuration: str
    found: dict[str, Found] = Field(default_factory=dict)
    starts: tuple[Annotated[tuple[float, ...], Field(min_length=3)], ...] = ()


class Calibration(StackValue):
    """All looks at one endpoint, oldest first, and the readings that follow."""

    endpoint: str
    readings: dict[str, Value]
    phases_s: dict[str, tuple[Annotated[float, Field(ge=0, lt=60)], ...]] = Field(
        default_factory=dict
    )
    """The phases of each policy's alarms. An alarm keeps its phase while it exists, so only the
    newest look counts."""
    looks: tuple[Look, ...] = Field(min_length=1)

    @field_validator("readings")
    @classmethod
    def _readings_are_known(cls, readings: dict[str, Value]) -> dict[str, Value]:
        unknown = sorted(set(readings) - {*MEASURED, *READINGS})
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such reading; remove it")
        for name in MEASURED:
            value = readings.get(name, 1.0)
            if isinstance(value, bool | str) or not 0 <= value < math.inf:
                raise ValueError(f"{name} = {value!r} must be a number, 0 or more")
        known: dict[str, Any] = {n: readings[n] for n in READINGS if n in readings}
        for name, value in known.items():
            _check_type(name, value)
        Unsettled(**known)
        return readings

    @property
    def until(self) -> datetime:
        """When the endpoint was last read."""
        return self.looks[-1].until

    @property
    def starts(self) -> int:
        """How many starts the setup time was estimated from."""
        return len(_starts(self.looks))

    @property
    def old(self) -> bool:
        """Whether the endpoint was last read so long ago that AWS may have changed since."""
        return (datetime.now(UTC) - self.until).total_seconds() > OLD_S

    def said(self, besides: Collection[str] = ()) -> str:
        """The clause with which a prediction cites this; `besides` names what the user set."""
        of = f"{self.endpoint}, read {self.until:%Y-%m-%d}"
        if "setup_s" in self.readings and "setup_s" not in besides:
            return f"calibrated from {self.starts} starts of {of}"
        return f"calibrated by {of}, but for the setup time"


_TYPES: Mapping[str, tuple[str, ...]] = {
    "backlog_per_instance_at_zero": ("backlog", "no_data"),
    "target_tracking_from_zero": ("async_page", "never"),
    "inflight_on_scale_in": ("requeue", "drain"),
    "capacity_change_in_progress": ("refused", "allowed"),
    "evaluation_range": ("n_plus_third", "n_plus_2"),
}


def _check_type(name: str, value: Value) -> None:
    default = getattr(Unsettled(), name)
    if isinstance(default, str):
        if value not in _TYPES[name]:
            raise ValueError(f"{name} = {value!r} must be one of {', '.join(_TYPES[name])}")
    elif isinstance(default, bool) is not isinstance(value, bool) or isinstance(value, str):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise ValueError(f"{name} = {value!r} must be {kind}")


def path_of(stack: str) -> Path:
    """The path of a stack's calibration, next to its stack file."""
    return Path(f"calibration.{stack}.yaml")


def read(path: Path) -> Calibration | None:
    """Read a calibration; None if there is no such file.

    Raises:
        InvalidInputError: everything that is wrong with it.
    """
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Calibration.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError([f"{path}: cannot be read as YAML ({error})"]) from error
    except ValidationError as error:
        remedy = "; correct it, or remove the file and run async-inference calibrate"
        raise InvalidInputError(
            [f"{path}: {text}{remedy}" for text in problems_of(error)]
        ) from error


def write(calibration: Calibration, path: Path) -> None:
    """Write a file that `read` reads.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    content = calibration.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    try:
        path.write_text(HEADER + text, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError([f"{path}: cannot be written ({error.strerror})"]) from error


def apply(assumptions: "Assumptions", stack: str, besides: Collection[str] = ()) -> "Assumptions":
    """The assumptions, with the values of the stack's calibration if there is one.

    Args:
        assumptions: the assumptions without calibration.
        stack: the stack whose `calibration.<stack>.yaml` is read from the current folder.
        besides: names that the user set; they stay unchanged.

    Raises:
        InvalidInputError: the file is wrong.
    """
    calibration = read(path_of(stack))
    return (
        assumptions if calibration is None else apply_calibration(assumptions, calibration, besides)
    )


def apply_calibration(
    assumptions: "Assumptions", calibration: Calibration, besides: Collection[str] = ()
) -> "Assumptions":
    """The assumptions, with the values of a calibration."""
    taken: dict[str, object] = {
        name: value for name, value in calibration.readings.items() if name not in besides
    }
    readings = {name: taken.pop(name) for name in READINGS if name in taken}
    return replace(
        assumptions,
        unsettled=replace(assumptions.unsettled, **readings),
        phases_s=tuple(calibration.phases_s.items()),
        calibrated=calibration.said(besides),
        **taken,
    )


@dataclass(frozen=True)
class Merged:
    """A calibration with a new look, and sentences about what the looks disagree on."""

    calibration: Calibration
    notes: tuple[str, ...]


def merge(before: Calibration | None, records: Records, estimate: Estimate) -> Merged:
    """Add a look to a calibration.

    Where the spans of an older look and this one overlap, the evidence counts once.

    Raises:
        InvalidInputError: the calibration is of another endpoint.
    """
    if before is not None and before.endpoint != records.endpoint:
        raise InvalidInputError(
            [
                f"the existing calibration is of endpoint {before.endpoint}, not "
                f"{records.endpoint}; choose another file with --output"
            ]
        )
    newest = Look(
        since=_date(records.since_s),
        until=_date(records.read_s),
        configuration=records.configuration,
        found={
            each.name: Found(
                value=each.value,
                observations=each.observations,
                low=each.low,
                high=each.high,
                odds=each.odds,
                because=each.because,
            )
            for each in estimate.findings
            if each.value is not None and each.name not in MEASURED
        },
        starts=tuple(
            tuple(round(value, 1) for value in (each.at_s, each.took_s, *each.asked_s))
            for each in estimate.starts
        ),
    )
    older = [_without(look, newest) for look in (before.looks if before else ())]
    looks = (*(each for each in older if each.found or each.starts), newest)
    readings: dict[str, Value] = {}
    notes: list[str] = []
    weighed = setup(_starts(looks), [_weight(start.at_s, newest) for start in _starts(looks)])
    for each in weighed:
        if each.value is not None:
            readings[each.name] = each.value
    for name in READINGS:
        value, note = _agreed(name, looks)
        if value is not None:
            readings[name] = value
        if note:
            notes.append(note)
    calibration = Calibration(
        endpoint=records.endpoint,
        readings=readings,
        phases_s=dict(estimate.phases_s) or (before.phases_s if before else {}),
        looks=looks,
    )
    return Merged(calibration, tuple(notes))


def _without(look: Look, newest: Look) -> Look:
    """An older look without what the newest one saw too."""
    span_s = (look.until - look.since).total_seconds()
    outside_s = (min(look.until, newest.since) - look.since).total_seconds()
    share = min(1.0, max(0.0, outside_s / span_s)) if span_s > 0 else 0.0
    found = {}
    for name, each in look.found.items():
        left = each
        if name in newest.found:
            odds = None if each.odds is None else round(each.odds**share, 2)
            left = each.model_copy(
                update={"observations": math.floor(each.observations * share), "odds": odds}
            )
        if left.observations:
            found[name] = left
    starts = tuple(each for each in look.starts if each[0] < newest.since.timestamp())
    if not newest.starts:
        starts = look.starts
    return look.model_copy(update={"found": found, "starts": starts})


def _starts(looks: Sequence[Look]) -> list[Start]:
    """The starts of the newest configuration, or of all if it has too few."""

    def of(chosen: Sequence[Look]) -> list[Start]:
        return [
            Start(at_s, took_s, tuple(asked_s))
            for look in chosen
            for at_s, took_s, *asked_s in look.starts
        ]

    live = of([look for look in looks if look.configuration == looks[-1].configuration])
    return live if len(live) >= LEAST_SEEN else of(looks)


def _agreed(name: str, looks: Sequence[Look]) -> tuple[Value | None, str | None]:
    """The value of a reading on which the looks agree, and a sentence if they contradict."""
    telling = [(look, look.found[name]) for look in looks if name in look.found]
    if not telling:
        return None, None
    newest_look, newest = telling[-1]
    if newest.odds is None:
        return _mean(name, telling)
    support: dict[Value, float] = {}
    for look, found in telling:
        weight = _weight(look.until.timestamp(), looks[-1])
        support[found.value] = support.get(found.value, 0.0) + weight * math.log(
            max(1.0, found.odds or 1.0)
        )
    ordered = sorted(support.items(), key=lambda each: -each[1])
    if len(ordered) == 1:
        return newest.value, None
    lead = ordered[0][1] - ordered[1][1]
    value = ordered[0][0] if lead >= math.log(LIKELY) else newest.value
    others = ", ".join(str(each) for each, _ in ordered if each != value)
    return value, (
        f"{name}: looks contradict each other; {value} is used, not {others}; the newest one with "
        f"evidence, of {newest_look.until:%Y-%m-%d}, says {newest.value}"
    )


def _mean(name: str, telling: Sequence[tuple[Look, Found]]) -> tuple[Value, str | None]:
    """A number's weighted mean over the looks, or its newest value if it has changed."""
    newest_look, newest = telling[-1]
    fitting, left = [], []
    for look, found in telling:
        apart = (
            None not in (found.low, found.high, newest.low, newest.high)
            and not (found.low <= newest.high and newest.low <= found.high)  # ty: ignore
        )
        (left if apart else fitting).append((look, found))
    weights = [
        _weight(look.until.timestamp(), newest_look) * found.observations for look, found in fitting
    ]
    values = [float(found.value) for _, found in fitting]
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    note = None
    if left:
        note = (
            f"{name} was {left[-1][1].value} until {left[-1][0].until:%Y-%m-%d} and is "
            f"{newest.value} since: it has changed, so only the newest look is used"
        )
    return round(mean, 1), note


def _weight(at_s: float, newest: Look) -> float:
    return 0.5 ** (max(0.0, newest.until.timestamp() - at_s) / HALF_LIFE_S)


def _date(at_s: float) -> datetime:
    return datetime.fromtimestamp(round(at_s), UTC)


def sentences(findings: Sequence[Finding]) -> Iterator[str]:
    """What was not found and why, a sentence each."""
    for each in findings:
        if each.value is None:
            yield f"{each.name}: not enough evidence, because {each.because}"
