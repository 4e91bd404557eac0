"""Compares measured waits with what a rehearsal predicts, before and after calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from async_inference.calibration.records import MINUTE_S, Records
from async_inference.rehearsal import history
from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import ScalingPlan
from async_inference.validation import InvalidInputError

SEEDS = 10
"""Several runs, because measured alarm phases are not used here."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Prediction:
    """The simulation of the measured traffic under one set of assumptions.

    Args:
        name: of the assumptions.
        mean_wait_s: mean over the seeds.
        runs: one for each seed.
    """

    name: str
    mean_wait_s: float
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Comparison:
    """Measured and predicted waits.

    Args:
        origin_s: the first minute; the traffic's times count from it.
        measured_wait_s: mean time in the backlog.
    """

    records: Records
    traffic: Traffic
    origin_s: int
    measured_wait_s: float
    predictions: tuple[Prediction, ...]

    def sentence(self) -> str:
        """The measured and predicted mean waits, and how much they differ."""
        told = "; ".join(
            f"{each.name} it predicts {each.mean_wait_s:.0f} s "
            f"({each.mean_wait_s / self.measured_wait_s - 1:+.0%})"
            for each in self.predictions
        )
        return (
            f"{self.traffic.requests} requests waited {self.measured_wait_s:.0f} s on average, as "
            f"measured. The rehearsal of the same traffic, with arrivals to the minute: {told}."
        )


def compare(
    records: Records, plan: ScalingPlan, assumptions: Sequence[tuple[str, Assumptions]]
) -> Comparison | None:
    """Simulate the measured traffic under each set of assumptions; None without traffic.

    Arrivals are known only to the minute, so predictions of single waits are no more precise.
    """
    minutes = records.minutes
    since = int(records.created_s // MINUTE_S + 1) * MINUTE_S
    own = [
        {minute: value for minute, value in each.items() if minute >= since}
        for each in (minutes.backlog, minutes.ended, minutes.in_backlog_ms, minutes.total_ms)
    ]
    backlog, ended, in_backlog_ms, total_ms = own
    try:
        traffic = history.reconstruct(history.Minutes(backlog, ended, in_backlog_ms, total_ms))
    except InvalidInputError:
        return None
    origin_s = min([*ended, *backlog])
    predictions = []
    for name, each in assumptions:
        runs = tuple(simulate(plan, traffic, each, seed, start_s=origin_s) for seed in range(SEEDS))
        mean_wait_s = float(np.mean([run.wait_s.mean for run in runs]))
        predictions.append(Prediction(name, mean_wait_s, runs))
    measured_s = sum(in_backlog_ms.values()) / 1000 / sum(ended.values())
    return Comparison(records, traffic, origin_s, measured_s, tuple(predictions))


def picture(comparison: Comparison, path: Path) -> None:
    """Draw backlog and capacity on one time axis, measured and predicted.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    minutes, origin_s = comparison.records.minutes, comparison.origin_s
    shown = sorted(minute for minute in minutes.backlog if minute >= origin_s)
    at_h = (np.array(shown) - origin_s) / HOUR_S
    figure = Figure(figsize=(12, 7), layout="constrained")
    queue, capacity = figure.subplots(2, 1, sharex=True)
    grey = {"color": "0.6", "alpha": 0.6, "step": "post", "label": "measured"}
    queue.fill_between(at_h, [minutes.backlog[minute] for minute in shown], **grey)
    capacity.fill_between(at_h, [minutes.serving(minute) or 0 for minute in shown], **grey)
    for number, each in enumerate(comparison.predictions):
        run, style = each.runs[0], {"color": f"C{number}", "lw": 1.2, "label": each.name}
        queue.step(*_backlog(comparison.traffic, run), where="post", **style)
        changes_s, serving = run.capacity["at_s"], run.capacity["in_service"]
        capacity.step(changes_s / HOUR_S, serving, where="post", **style)
    queue.set_ylabel("backlog, requests")
    capacity.set(ylabel="instances in service", xlabel="hours")
    queue.set_title(comparison.sentence(), fontsize=9, loc="left", wrap=True)
    queue.legend(loc="upper right")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise InvalidInputError(
            [f"--picture {path}: cannot be written ({error.strerror}); name another file"]
        ) from error


def _backlog(traffic: Traffic, run: Run) -> tuple[np.ndarray, np.ndarray]:
    ended_s = run.finished_s[~np.isnan(run.finished_s)]
    at_s = np.concatenate([traffic.arrivals_s, ended_s])
    change = np.concatenate([np.ones(traffic.requests), -np.ones(len(ended_s))])
    order = np.argsort(at_s, kind="stable")
    return at_s[order] / HOUR_S, np.cumsum(change[order])
