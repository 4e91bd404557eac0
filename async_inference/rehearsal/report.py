"""A rehearsal as one self-contained HTML page and its pictures."""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from async_inference.rehearsal.comparison import FIGURES, Estimate
from async_inference.rehearsal.rehearse import COLUMNS, Rehearsal, traffic_as_json, value_text
from async_inference.rehearsal.simulator import Run
from async_inference.scaling.autoscaler import Verdict
from async_inference.validation import InvalidInputError

BINS = 120
MOST_DOTS = 5000
DAY_S = 86_400.0
HOUR_S = 3600.0
STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: right }
td:first-child, th:first-child { text-align: left }
.wide { overflow-x: auto }
.wide td, .wide th { white-space: nowrap }
img { width: 100%; min-width: 45rem; max-width: 75rem; background: white }
"""


ALTS = (
    "Arrivals, backlog, instances, waits, cost and policy actions on one time axis",
    "Share of requests served, by their wait",
)
"""Alternative texts of the page's pictures."""


def write(rehearsal: Rehearsal, folder: Path) -> Path:
    """Write `index.html`, `timeline.png` and `waits.png`; the page embeds both pictures.

    Returns:
        The page's path.

    Raises:
        InvalidInputError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {"timeline": timeline(rehearsal), "waits": _waits(rehearsal)}
        for name, figure in pictures.items():
            figure.savefig(folder / f"{name}.png", dpi=110)
        images = [
            base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in pictures
        ]
        page = folder / "index.html"
        page.write_text(_page(rehearsal, images), encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            [f"--report {folder}: cannot be written ({error.strerror}); name another folder"]
        ) from error
    return page


def timeline(rehearsal: Rehearsal) -> Figure:
    """Arrivals, backlog, instances, waits, cost and policy actions on one time axis."""
    traffic = rehearsal.traffics[0]
    unit_s, unit = (DAY_S, "days") if traffic.span_s > 3 * DAY_S else (HOUR_S, "hours")
    figure = Figure(figsize=(12, 14), layout="constrained")
    panels = figure.subplots(6, 1, sharex=True, height_ratios=[1, 1.4, 1.4, 1.4, 1, 2])
    arrivals, queued, instances, waits, cost, actions = panels
    arrivals.hist(traffic.arrivals_s / unit_s, bins=BINS, color="grey")
    arrivals.set_ylabel("arrivals")
    labels: list[str] = []
    for number, (name, run) in enumerate(first_runs(rehearsal)):
        color = f"C{number}"
        at_s, waiting = backlog(rehearsal, run)
        queued.step(at_s / unit_s, waiting, where="post", color=color, label=name, lw=1)
        changes_s = run.capacity["at_s"]
        asked, serving = run.capacity["desired"], run.capacity["in_service"]
        instances.step(changes_s / unit_s, asked, where="post", color=color, lw=0.8, ls=":")
        instances.step(changes_s / unit_s, serving, where="post", color=color, lw=1)
        _draw_waits(waits, rehearsal, run, color, unit_s)
        billed = asked if rehearsal.assumptions.unsettled.setup_is_billed else serving
        spent_s = np.concatenate([[0.0], np.cumsum(np.diff(changes_s) * billed[:-1])])
        price = rehearsal.assumptions.usd_per_instance_hour
        cost.plot(changes_s / unit_s, spent_s / HOUR_S * price, color=color)
        _draw_actions(actions, name, run, color, unit_s, labels)
    queued.set_ylabel("backlog, requests")
    figure.legend(loc="outside upper right", ncols=len(rehearsal.plans))
    instances.set_ylabel("instances\n(dotted: desired)")
    waits.set_ylabel("wait, s")
    cost.set_ylabel("cost, $")
    actions.set_yticks(range(len(labels)), labels, fontsize=8)
    actions.set_ylim(len(labels) - 0.5, -0.5)
    actions.set_title("scale-out ▲, scale-in ▼, no effect: grey", loc="left", fontsize=9)
    actions.set_xlabel(unit)
    return figure


def first_runs(rehearsal: Rehearsal) -> list[tuple[str, Run]]:
    """Each plan's name and its run with the first seed, which the pictures show."""
    return [(runs.name, runs.runs[0]) for runs in rehearsal.plans]


def backlog(rehearsal: Rehearsal, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """When the backlog changes, and the backlog from then on."""
    arrivals_s = rehearsal.traffics[0].arrivals_s
    expiry_s = arrivals_s + rehearsal.assumptions.request_ttl_s
    gone_s = np.where(np.isnan(run.finished_s), expiry_s, run.finished_s)
    at_s = np.concatenate([arrivals_s, gone_s])
    change = np.concatenate([np.ones(len(arrivals_s)), -np.ones(len(gone_s))])
    order = np.argsort(at_s, kind="stable")
    return at_s[order], np.cumsum(change[order])


def _draw_waits(axes: Axes, rehearsal: Rehearsal, run: Run, color: str, unit_s: float) -> None:
    served = ~np.isnan(run.finished_s)
    at_s = rehearsal.traffics[0].arrivals_s[served]
    waits_s = (run.started_s - rehearsal.traffics[0].arrivals_s)[served]
    if len(waits_s) <= MOST_DOTS:
        axes.plot(at_s / unit_s, waits_s, ".", ms=2, color=color)
        return
    edges_s = np.linspace(0, rehearsal.traffics[0].span_s, BINS + 1)
    place = np.searchsorted(edges_s, at_s) - 1
    bins = np.unique(place)
    p95_s = [np.percentile(waits_s[place == number], 95) for number in bins]
    axes.plot(edges_s[bins.clip(0)] / unit_s, p95_s, color=color, lw=1)


def _draw_actions(
    axes: Axes, name: str, run: Run, color: str, unit_s: float, labels: list[str]
) -> None:
    if not len(run.log):
        return
    at_s, before, after = run.log["at_s"], run.log["before"], run.log["after"]
    for index, policy in enumerate(run.policies):
        row, own = len(labels), run.log["policy"] == index
        labels.append(f"{name}: {policy.removesuffix('-ScalingPolicy')}")
        for which, marker, shade, size in (
            (after == before, ".", "lightgrey", 2),
            (after > before, "^", color, 5),
            (after < before, "v", color, 5),
        ):
            chosen_s = at_s[own & which]
            axes.plot(chosen_s / unit_s, np.full(len(chosen_s), row), marker, ms=size, color=shade)


def _waits(rehearsal: Rehearsal) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, run) in enumerate(first_runs(rehearsal)):
        served = ~np.isnan(run.finished_s)
        waits_s = np.sort((run.started_s - rehearsal.traffics[0].arrivals_s)[served])
        share = np.arange(1, len(waits_s) + 1) / max(1, len(waits_s))
        axes.plot(waits_s.clip(1), 100 * share, color=f"C{number}", label=name)
    axes.axhline(95, color="grey", ls=":", lw=1)
    # Set here, because matplotlib cannot find a scale where nothing was served.
    axes.set(xlim=(1, max(10.0, rehearsal.assumptions.request_ttl_s)), ylim=(0, 102))
    axes.set(xscale="log", xlabel="wait until service starts, s", ylabel="requests served, %")
    axes.legend(loc="upper left")
    return figure


def _page(rehearsal: Rehearsal, images: list[str]) -> str:
    given, hours = traffic_as_json(rehearsal.traffics), rehearsal.bound_instance_hours
    best = "none within the capacity bounds" if hours is None else f"{hours:.1f} instance hours"
    assumed = asdict(rehearsal.assumptions)
    unsettled = assumed.pop("unsettled")
    seeds = {"seeds": ", ".join(map(str, rehearsal.seeds))}
    heads = [heading for heading, _ in FIGURE_COLUMNS.values()]
    figures = [
        [runs.name, *(_shown(name, runs.estimate(FIGURES[name])) for name in FIGURE_COLUMNS)]
        for runs in rehearsal.plans
    ]
    differences = [
        [
            f"{each.policy} minus {each.against}",
            FIGURE_COLUMNS[each.figure][0],
            _shown(each.figure, each.estimate),
            "noise" if each.noise else "",
        ]
        for each in rehearsal.differences
        if each.figure in FIGURE_COLUMNS
    ]
    ignored = [
        [name, policy, verdict.name.lower().replace("_", " "), count]
        for name, run in first_runs(rehearsal)
        for (policy, verdict), count in _ignored(run)
    ]
    sensitivities = [
        [
            each.policy,
            FIGURE_COLUMNS[each.figure][0],
            _shown(each.figure, Estimate(each.assumed, each.low, each.high)),
            each.moved_by or "none",
        ]
        for each in rehearsal.sensitivities or ()
        if each.figure in FIGURE_COLUMNS
    ]
    body = [
        "<h1>Rehearsal</h1>",
        f"<p>A simulated estimate: {given['requests']:.0f} requests over "
        f"{given['span_s'] / DAY_S:.1f} days, {given['work_s'] / HOUR_S:.1f} h of work; means over "
        f"{len(rehearsal.seeds)} seeds, with the range over them.</p>",
        *(f"<p><strong>Warning:</strong> {escape(text)}</p>" for text in rehearsal.warnings),
        _table(["policy", *heads], figures),
        _table(["difference", "figure", "mean and range", ""], differences),
        f"<p>Lower bound (clairvoyant) for waits up to {rehearsal.age_limit_s:.0f} s: {best}.</p>",
        *(
            [
                "<h2>Under each other reading of AWS</h2>",
                _table(["policy", "figure", "mean and range", "moved most by"], sensitivities),
            ]
            if sensitivities
            else ()
        ),
        f"<h2>The run of seed {rehearsal.seeds[0]}</h2>",
        *(
            f'<div class="wide"><img alt="{alt}" src="data:image/png;base64,{image}"></div>'
            for alt, image in zip(ALTS, images, strict=True)
        ),
        "<h2>Policy actions without effect</h2>",
        _table(["run", "policy", "reason", "times"], ignored),
        "<h2>Assumptions</h2>",
        _table(["assumption", "value"], [*(assumed | unsettled | seeds).items()]),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Rehearsal</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


FIGURE_COLUMNS = COLUMNS | {
    "interrupted": ("interrupted", "{}"),
    "expired": ("expired", "{}"),
}


def _shown(figure: str, estimate: Estimate) -> str:
    mean, low, high = (
        value_text(figure, value) for value in (estimate.mean, estimate.low, estimate.high)
    )
    unit = FIGURE_COLUMNS[figure][1]
    return unit.format(mean) if low == high else f"{unit.format(mean)} ({low}..{high})"


def _ignored(run: Run) -> Iterator[tuple[tuple[str, Verdict], int]]:
    counts = Counter(run.log[["policy", "verdict"]].tolist())
    for (policy, verdict), count in sorted(counts.items()):
        if verdict != Verdict.SCALED:
            yield (run.policies[policy], Verdict(verdict)), count


def _table(heads: list[str], rows: list[Any]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = (
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
