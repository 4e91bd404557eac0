"""`local up`, `down` and `status`: the stack on this machine."""

import json
import time
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from async_inference.validation import InvalidInputError

app = typer.Typer(help="The stack on this machine: the embedded AWS.", no_args_is_help=True)


@app.command("up")
def up(
    prompt: Annotated[str, typer.Argument(help="What the image shall show.")] = "a lighthouse",
    port: Annotated[int, typer.Option(help="Loopback port of the embedded AWS.")] = 4590,
    minute_s: Annotated[
        float, typer.Option(help="Real seconds for each simulated minute.", min=0.05)
    ] = 0.5,
) -> None:
    """Deploy onto the embedded AWS, wake it from zero and get an image."""
    from async_inference.local_aws import journey

    journey.up(Console(), prompt=prompt, port=port, minute_s=minute_s)


@app.command("down")
def down() -> None:
    """Destroy the local stack and stop the embedded AWS."""
    from async_inference.local_aws import journey

    journey.down(Console())


@app.command("status")
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Instances, backlog, alarms and last activities of the embedded AWS."""
    import httpx

    from async_inference.local_aws import daemon
    from async_inference.local_aws.journey import AWS_FOLDER

    aws = daemon.running(AWS_FOLDER)
    if aws is None:
        raise InvalidInputError(["the embedded AWS does not run; start it with make up"])

    def fetch() -> dict:
        return httpx.get(f"{aws.url}/_local/status", timeout=10).json()

    if as_json:
        typer.echo(json.dumps(fetch(), indent=2))
        return
    console = Console()
    if not watch:
        console.print(_status(fetch()))
        return
    with Live(_status(fetch()), console=console) as live:
        while True:
            time.sleep(0.5)
            live.update(_status(fetch()))


def _status(found: dict) -> Group:
    endpoints = Table("endpoint", "status", "instances", "asked for", "backlog")
    alarms = Table("alarm", "state")
    activities = Table("last activities", "cause")
    for region in found["regions"].values():
        for name, endpoint in region["endpoints"].items():
            counts = (endpoint["in_service"], endpoint["desired"], endpoint["backlog"])
            endpoints.add_row(name, endpoint["status"], *map(str, counts))
        for alarm in region["alarms"]:
            alarms.add_row(alarm["name"], alarm["state"])
        for activity in region["activities"][:5]:
            activities.add_row(activity["Description"], activity["Cause"])
    return Group(endpoints, alarms, activities)
