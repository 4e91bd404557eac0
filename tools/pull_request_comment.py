"""Writes a comment on a pull request: what it would change in AWS, policies, waits and cost.

    python tools/pull_request_comment.py FOLDER [--repository OWNER/NAME --number N]

FOLDER has a folder for each stack with the workflow's files: `events.jsonl` and `diff.txt` of
`pulumi preview --event-log --diff`, `rehearsal.json` and `rehearsal.txt` (standard error) of
`async-inference rehearse --against <base> --json`. Without a number it prints the comment. With one
it creates the comment on GitHub, or updates the existing one, with GITHUB_TOKEN. It needs only
Python, so that the job with permission to comment installs nothing.
"""

import argparse
import json
import os
import re
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MARKER = "<!-- async-inference: pull request -->"
"""The marker by which the comment is found."""
MOST_CHARACTERS = 65_536
"""Longest comment (GitHub REST API)."""
DIFF_CHARACTERS = 20_000
"""Longest part of a stack's diff in the comment; the rest is in the workflow's log."""
PAGE = 100
TOLD = {"create", "update", "replace", "delete", "import"}
"""Operations that the comment lists; a replacement includes its create and delete."""
_COLOUR = re.compile(r"<\{%.*?%\}>")


@dataclass(frozen=True)
class StackReport:
    """The workflow's files of one stack; None or empty if a step left nothing."""

    name: str
    events: Sequence[dict[str, Any]]
    diff: str
    rehearsal: dict[str, Any] | None
    rehearsal_said: str


def read(folder: Path) -> list[StackReport]:
    """Every stack's report."""
    return [_read(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def _read(folder: Path) -> StackReport:
    def text(name: str) -> str:
        path = folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    rehearsal = text("rehearsal.json").strip()
    return StackReport(
        name=folder.name,
        events=[json.loads(line) for line in text("events.jsonl").splitlines() if line.strip()],
        diff=_COLOUR.sub("", text("diff.txt")),
        rehearsal=json.loads(rehearsal) if rehearsal else None,
        rehearsal_said=text("rehearsal.txt"),
    )


def body(reports: Sequence[StackReport]) -> str:
    """The comment; if it exceeds GitHub's limit, it loses its diffs and is then cut."""
    whole = _text(reports)
    if len(whole) > MOST_CHARACTERS:
        whole = _text([replace(report, diff="") for report in reports])
    return whole[:MOST_CHARACTERS]


def _text(reports: Sequence[StackReport]) -> str:
    parts = [MARKER, "## What this changes"]
    if not reports:
        parts.append("No preview left a report; see the workflow's log.")
    for report in reports:
        parts += [f"### Stack `{report.name}`", *_preview(report), *_policies(report)]
        parts += _rehearsal(report)
    return "\n\n".join(parts) + "\n"


def _preview(report: StackReport) -> Iterator[str]:
    changes = list(_changes(report.events))
    errors = [
        _COLOUR.sub("", event["diagnosticEvent"]["message"]).strip()
        for event in report.events
        if event.get("diagnosticEvent", {}).get("severity") == "error"
    ]
    finished = any("summaryEvent" in event for event in report.events)
    if errors or not finished:
        yield "**The preview failed.**"
        yield fenced("\n".join(errors) or report.diff[-2000:] or "There are no events.")
    if finished and not changes:
        yield "No changes."
    if changes:
        yield from _changed(changes, report.diff)


def _changed(changes: Sequence[tuple[str, str, str]], diff: str) -> Iterator[str]:
    counts = Counter(verb for verb, _, _ in changes)
    yield ", ".join(f"{count} to {verb}" for verb, count in counts.items()) + ":"
    rows = [f"| {verb} | {cell(name)} | {cell(keys)} |" for verb, name, keys in changes]
    yield "\n".join(["| | resource | changes |", "|---|---|---|", *rows])
    if diff:
        cut = diff[:DIFF_CHARACTERS]
        more = "" if cut == diff else "\n... the rest is in the workflow's log"
        yield f"<details><summary>Diff</summary>\n\n{fenced(cut + more, 'diff')}\n\n</details>"


def _changes(events: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for event in events:
        step = event.get("resourcePreEvent", {}).get("metadata", {})
        verb = step.get("op")
        if verb not in TOLD or step["type"] == "pulumi:pulumi:Stack":
            continue
        kind, name = step["type"].rpartition(":")[2], step["urn"].rpartition("::")[2]
        keys = ", ".join((step.get("keys") or []) or (step.get("diffs") or []))
        yield verb, f"{kind} {name}", keys if verb in ("update", "replace") else ""


def _policies(report: StackReport) -> Iterator[str]:
    told = [event["policyEvent"] for event in report.events if "policyEvent" in event]
    loaded = any("policyLoadEvent" in event for event in report.events) or told
    if not loaded:
        yield "Policies: none ran."
        return
    if not told:
        yield "Policies: all kept."
        return
    rows = [
        f"| {cell(each['enforcementLevel'])} | {cell(each['policyName'])} | "
        f"{cell(_COLOUR.sub('', each['message']))} |"
        for each in told
    ]
    yield "\n".join(["| policies | rule | says |", "|---|---|---|", *rows])


FIGURES = {
    "mean_wait_s": ("mean wait", "{:.0f} s"),
    "p95_wait_s": ("p95 wait", "{:.0f} s"),
    "instance_hours": ("instance hours", "{:.1f}"),
    "cost_usd": ("cost", "${:.2f}"),
    "starts": ("starts", "{:.0f}"),
    "expired": ("expired requests", "{:.0f}"),
}
"""Figures of the rehearsal's `over_seeds`: heading and format."""


def _rehearsal(report: StackReport) -> Iterator[str]:
    if report.rehearsal is None:
        yield "Not rehearsed:"
        yield fenced(report.rehearsal_said.strip()[-2000:] or "the rehearsal left nothing.")
        return
    now, before = report.rehearsal["runs"][:2]
    noise = {
        each["figure"]: each["noise"]
        for each in report.rehearsal["differences"]
        if each["against"] == before["policy"]
    }
    readings = {
        each["figure"]: each
        for each in report.rehearsal.get("readings", ())
        if each["policy"] == now["policy"]
    }
    rows = []
    for name, (title, form) in FIGURES.items():
        was, is_now = before["over_seeds"][name], now["over_seeds"][name]
        changed = change(was["mean"], is_now["mean"])
        if changed and noise[name]:
            changed += " (noise)"
        however = ""
        if name in readings:
            low, high = (shown(form, readings[name][key]) for key in ("low", "high"))
            however = f"{low} to {high}"
        cells = (title, over_seeds(form, was), over_seeds(form, is_now), changed, however)
        rows.append(f"| {' | '.join(cells)} |")
    traffic, seeds = report.rehearsal["traffic"], report.rehearsal["assumptions"]["seeds"]
    calibrated = report.rehearsal["assumptions"].get("calibrated")
    header = [
        f"| rehearsal | {cell(before['policy'])} | this | change | this, under any reading |",
        "|---|--:|--:|--:|--:|",
    ]
    yield "\n".join([*header, *rows])
    moved = Counter(each["moved_by"] for each in readings.values() if each["moved_by"])
    yield (
        f"A simulated estimate: {traffic['requests']:.0f} requests over "
        f"{traffic['span_s'] / 86_400:.1f} days"
        + (f", {cell(calibrated)}" if calibrated else "")
        + f"; means over {len(seeds)} seeds with the range over "
        "them. A change is noise if the seeds disagree on its sign."
        + (f" The reading that matters most is `{moved.most_common(1)[0][0]}`." if moved else "")
    )


def shown(form: str, value: float | None) -> str:
    """A figure, or a dash if there is none because no request was served."""
    return "-" if value is None else form.format(value)


def over_seeds(form: str, estimate: dict[str, float | None]) -> str:
    """A mean with its range, if there is one."""
    mean, low, high = (shown(form, estimate[key]) for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} to {high})"


def change(was: float | None, is_now: float | None) -> str:
    """A figure's change in percent."""
    if was is None or is_now is None or was == is_now:
        return "" if was == is_now else "-"
    return "new" if was == 0 else f"{(is_now - was) / was:+.0%}"


def cell(text: str) -> str:
    """Text for a table's cell: on one line, with everything escaped that Markdown would read."""
    words = " ".join(text.split())
    for special in "\\`*_|<>[]@":
        words = words.replace(
            special, f"\\{special}" if special not in "<>@" else _ENTITIES[special]
        )
    return words


_ENTITIES = {"<": "&lt;", ">": "&gt;", "@": "&#64;"}  # no markup, and nobody is notified


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence does not occur in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


class GitHub:
    """Comments of one repository.

    Args:
        api: the API's URL.
        repository: `owner/name`.
        token: a token with permission to comment on pull requests.
    """

    def __init__(self, api: str, repository: str, token: str) -> None:
        self._base = f"{api}/repos/{repository}"
        self._token = token

    def publish(self, number: int, text: str) -> None:
        """Update the comment with the marker, or create one."""
        page = 1
        while True:
            found = self._ask("GET", f"/issues/{number}/comments?per_page={PAGE}&page={page}")
            for comment in found:
                if comment["body"].startswith(MARKER):
                    self._ask("PATCH", f"/issues/comments/{comment['id']}", {"body": text})
                    return
            if len(found) < PAGE:
                break
            page += 1
        self._ask("POST", f"/issues/{number}/comments", {"body": text})

    def _ask(self, method: str, path: str, payload: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 the URL is GitHub's, from its own runner
            self._base + path,
            method=method,
            data=None if payload is None else json.dumps(payload).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 as above
            return json.load(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repository")
    parser.add_argument("--number", type=int)
    asked = parser.parse_args()
    text = body(read(asked.folder))
    if asked.number is None:
        sys.stdout.write(text)
        return 0
    api = os.environ.get("GITHUB_API_URL", "https://api.github.com")
    GitHub(api, asked.repository, os.environ["GITHUB_TOKEN"]).publish(asked.number, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
