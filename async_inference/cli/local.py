"""`local up`, `down`, `status` and `logs`: the stack on this machine."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from async_inference.terminal import Name
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from async_inference.local_aws.daemon import Daemon
    from async_inference.local_aws.services.alarms import AlarmReport
    from async_inference.local_aws.services.autoscaling import Activity
    from async_inference.local_aws.status import EndpointReport, Refusal, StatusReport

CHARTED_MINUTES = 45
"""How many minutes fit into 80 columns, next to the numbers."""
SHOWN_ACTIVITIES = 6
WATCHED_EVERY_S = 0.5
BARS = "▁▂▃▄▅▆▇█"

app = typer.Typer(help="Run the stack on this machine, on the embedded AWS.", no_args_is_help=True)


@app.command("up")
def up(
    prompt: Annotated[str, typer.Argument(help="What the image should show.")] = "a seven",
    port: Annotated[int, typer.Option(help="Loopback port of the embedded AWS.")] = 4590,
    minute_s: Annotated[
        float, typer.Option(help="Real seconds for each simulated minute.", min=0.05)
    ] = 0.5,
) -> None:
    """Deploy onto the embedded AWS, wake it from zero and get an image."""
    from async_inference.local_aws import make_up

    make_up.up(Console(), prompt=prompt, port=port, minute_s=minute_s)


@app.command("down")
def down() -> None:
    """Destroy the local stack and stop the embedded AWS."""
    from async_inference.local_aws import make_up

    make_up.down(Console())


@app.command("status")
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Run until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, once.")] = False,
) -> None:
    """Show instances, backlog, alarms and the last scaling activities, with causes.

    It prints the address of a page with the same as live charts.

    For example: async-inference local status --watch
    """
    import httpx

    if watch and as_json:
        raise InvalidInputError(["--watch --json: choose one of them; --json prints once"])
    aws = _running()

    def look() -> "StatusReport":
        try:
            return httpx.get(
                f"{aws.url}/_local/status",
                params={"minutes": CHARTED_MINUTES},
                timeout=10,
                trust_env=False,
            ).json()
        except (httpx.TransportError, ValueError) as error:
            raise InvalidInputError(
                [f"the embedded AWS does not respond ({error}); start it again with make up"]
            ) from error

    if as_json:
        typer.echo(json.dumps(look(), indent=2))
        return
    console = Console()
    if not watch:
        console.print(_shown(look(), aws.url))
        return
    with (
        suppress(KeyboardInterrupt),
        Live(_shown(look(), aws.url), console=console, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(WATCHED_EVERY_S)
            live.update(_shown(look(), aws.url), refresh=True)


@app.command("logs")
def logs(
    endpoint: Annotated[str | None, typer.Argument(help="Endpoint name; default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Run until Ctrl-C.")] = False,
) -> None:
    """Print the instances' logs, each line with its CloudWatch log stream.

    For example: async-inference local logs async-sdxl-local --follow
    """
    from async_inference.local_aws import daemon

    folder = daemon.AWS_FOLDER / "logs"
    known = sorted({path.name for path in folder.glob("*/*")})
    if endpoint is not None and endpoint not in known:
        raise InvalidInputError(
            [f"endpoint {endpoint} has no logs; endpoints with logs: {', '.join(known) or 'none'}"]
        )
    if not known:
        raise InvalidInputError(["no endpoint has written a log yet; deploy one with make up"])
    console = Console(soft_wrap=True, highlight=False)
    read: dict[Path, int] = {}
    with suppress(KeyboardInterrupt):
        while True:
            for stream, line in _new_lines(folder, endpoint or "*", read):
                console.print(Text.assemble((stream, "dim"), f" {line}"))
            if not follow:
                return
            time.sleep(WATCHED_EVERY_S)


def _new_lines(folder: Path, endpoint: str, read: dict[Path, int]) -> Iterator[tuple[str, str]]:
    """Complete lines that were not read yet, with their stream; files in order of last change.

    Args:
        folder: the folder of logs, by region, endpoint and variant.
        endpoint: the endpoint's name, or `*`.
        read: how many bytes of each file were read; updated here.
    """
    files = folder.glob(f"*/{endpoint}/*/*log")
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        with path.open("rb") as log:
            log.seek(read.get(path, 0))
            lines = log.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        read[path] = read.get(path, 0) + sum(map(len, lines))
        stream = f"{path.parent.name}/{path.name.removesuffix('.log').replace('.', '/')}"
        for line in lines:
            yield stream, line.decode(errors="replace").rstrip()


def _running() -> "Daemon":
    from async_inference.local_aws import daemon

    aws = daemon.running(daemon.AWS_FOLDER)
    if aws is None:
        raise InvalidInputError(["the embedded AWS is not running; start it with make up"])
    return aws


def _shown(found: "StatusReport", url: str) -> Group:
    speed = "in real time" if found["minute_s"] == 60 else f"a minute takes {found['minute_s']:g} s"
    parts: list[RenderableType] = [
        Text.assemble(
            ("Embedded AWS", "bold"), f"  {_time(found['now_s'], '%Y-%m-%d %H:%M:%S')} UTC, {speed}"
        ),
        Text(f"Live charts: {url}/_local/", style="dim"),
    ]
    for name, region in found["regions"].items():
        if not region["endpoints"]:
            parts.append(Text(f"No endpoint in {name}."))
        for endpoint_name, endpoint in region["endpoints"].items():
            parts += ["", *_endpoint_shown(endpoint_name, endpoint)]
        if region["alarms"]:
            parts += ["", _alarms_shown(region["alarms"])]
        if region["activities"] or region["not_scaled"]:
            parts += ["", _activities_shown(region["activities"], region["not_scaled"])]
    if not found["regions"]:
        parts.append(Text("No endpoint yet; make up deploys one."))
    return Group(*parts)


def _endpoint_shown(name: str, endpoint: "EndpointReport") -> list[RenderableType]:
    history = endpoint["history"]
    oldest_s = endpoint["oldest_age_s"]

    def total(column: list[float | None]) -> str:
        return str(round(sum(value for value in column if value is not None)))

    numbers = Table.grid(padding=(0, 2))
    window = Text(f"the last {CHARTED_MINUTES} simulated minutes", style="dim")
    numbers.add_row("", "", window)
    for what, value, column in (
        (
            "in service",
            f"{endpoint['in_service']} of {endpoint['desired']} desired",
            history["in_service"],
        ),
        ("backlog", f"{endpoint['backlog']}, {endpoint['busy']} in progress", history["backlog"]),
        (
            "oldest",
            "none" if oldest_s is None else str(timedelta(seconds=int(oldest_s))),
            history["oldest_age_s"],
        ),
        ("done", total(history["done"]), history["done"]),
        ("failed", total(history["failed"]), history["failed"]),
    ):
        bars = Text(_bars(column), style="red" if what == "failed" else "cyan")
        numbers.add_row(Text(what, style="dim"), Text(value), bars)
    shown: list[RenderableType] = [
        Text.assemble((name, "bold"), f"  {endpoint['status']}, runs {endpoint['configuration']}"),
        Text(endpoint["summary"], style="bold"),
        numbers,
    ]
    if endpoint["failure_reason"]:
        shown.append(Text(endpoint["failure_reason"], style="red"))
    if endpoint["instances"]:
        instances = Table("instance", "state", "busy", "configuration", box=None, padding=(0, 2))
        for instance in endpoint["instances"]:
            busy = f"{instance['busy']} of {instance['concurrency']}"
            cells = (instance["name"], instance["state"], busy, instance["configuration"])
            instances.add_row(*map(Name, cells))
        shown += ["", instances]
    return shown


def _alarms_shown(alarms: "list[AlarmReport]") -> Table:
    table = Table("alarm", "state", "since", "why", box=None, padding=(0, 2))
    styles = {"ALARM": "bold red", "OK": "green"}
    for alarm in alarms:
        table.add_row(
            Name.assemble(_shortened(alarm["name"]), "\n", (alarm["condition"], "dim")),
            Text(alarm["state"], style=styles.get(alarm["state"], "dim")),
            _time(alarm["since_s"]),
            Name(alarm["reason"]),
        )
    return table


def _activities_shown(activities: "list[Activity]", not_scaled: "list[Refusal]") -> Table:
    table = Table("at", "last activities", "cause", box=None, padding=(0, 2))
    both = sorted([*activities, *not_scaled], key=lambda each: each["StartTime"], reverse=True)
    for activity in both[:SHOWN_ACTIVITIES]:
        style = "" if "StatusCode" in activity else "dim"
        cause = _shortened(activity["Cause"])
        description = Name(activity["Description"], style=style)
        table.add_row(_time(activity["StartTime"]), description, Name(cause, style=style))
    return table


def _shortened(text: str) -> str:
    """The text without the resource and UUID in the names of target tracking's alarms."""
    pattern = r"\bTargetTracking-\S+-(Alarm(?:High|Low))-[0-9a-f-]{36}"
    return re.sub(pattern, r"TargetTracking \1", text)


def _time(at_s: float, form: str = "%H:%M") -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime(form)


def _bars(values: list[float | None]) -> str:
    most = max((value for value in values if value is not None), default=0)
    return "".join(
        " " if value is None else BARS[round(value / most * (len(BARS) - 1)) if most else 0]
        for value in values
    )
