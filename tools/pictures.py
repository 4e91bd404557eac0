"""Draws the documentation's pictures from rehearsals; `make docs` runs it.

A test draws them again and compares.
"""

from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from async_inference.rehearsal import report
from async_inference.rehearsal.comparison import FIGURES
from async_inference.rehearsal.rehearse import Rehearsal, rehearse

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
DPI = 110
SHOWN_H = (0.5, 5.5)
"""The hours that the README's picture shows: a few bursts."""


def draw() -> dict[str, Figure]:
    """Each picture by file name; must run in the project's folder, because it reads stack files."""
    found = rehearse(
        stack="dev",
        traffic="bursts",
        policy=None,
        against=["tuned"],
        changed=[],
        seed=0,
    )
    light = {"zero-to-n.png": _zero_to_n(found), "tuned-on-bursts.png": report.timeline(found)}
    with style.context("dark_background"):
        return light | {"zero-to-n-dark.png": _zero_to_n(found)}


def _zero_to_n(found: Rehearsal) -> Figure:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    backlog, instances, waits = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1.2, 1])
    for number, (runs, (name, run)) in enumerate(
        zip(found.plans, report.first_runs(found), strict=True)
    ):
        color = f"C{number}"
        at_s, waiting = report.backlog(found, run)
        means = (runs.mean(FIGURES[key]) for key in ("instance_hours", "cost_usd", "mean_wait_s"))
        policy = "documented" if name == "dev" else name
        label = "{}: {:.0f} GPU-hours, ${:.0f}, mean wait {:.0f} s".format(policy, *means)
        # The first line is wider, so that it shows where the second one covers it.
        wide = 1 + 2 * (number == 0)
        backlog.step(at_s / 3600, waiting, where="post", color=color, lw=1.3 * wide)
        changes_s, serving = run.capacity["at_s"], run.capacity["in_service"]
        instances.fill_between(changes_s / 3600, serving, step="post", color=color, alpha=0.25)
        instances.step(changes_s / 3600, serving, where="post", color=color, label=label)
        served = ~np.isnan(run.finished_s)
        waited_s = (run.started_s - found.traffics[0].arrivals_s)[served]
        arrived_h = found.traffics[0].arrivals_s[served] / 3600
        waits.plot(arrived_h, waited_s, ".", ms=3 * wide, color=color)
    days = found.traffics[0].span_s / 86_400
    figure.suptitle(
        f"Bursts of images, {SHOWN_H[1] - SHOWN_H[0]:.0f} of {days * 24:.0f} hours "
        f"(simulated; the figures are of all {days:.0f} days, means over {len(found.seeds)} seeds)",
        fontsize=10,
    )
    backlog.set_ylabel("backlog")
    instances.set_ylabel("instances")
    figure.legend(loc="outside lower center", fontsize=9)
    waits.set(ylabel="wait, s", xlabel="hours", xlim=SHOWN_H, ylim=(0, None))
    return figure


if __name__ == "__main__":
    for name, figure in draw().items():
        figure.savefig(IMAGES / name, dpi=DPI)
