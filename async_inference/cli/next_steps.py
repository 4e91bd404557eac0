"""Suggests the next commands."""

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

REHEARSE = ("predict waits, GPU-hours and cost", "async-inference rehearse --stack prod")
TUNE = ("find better policies for your traffic", "async-inference tune --traffic bursts")
DEPLOY = ("deploy to AWS: docs/getting-started.md", "pulumi up --stack dev")


def next_steps(folder: Path, embedded_aws_url: str | None) -> Group:
    """The next commands in a folder, with or without a running embedded AWS."""
    if not (folder / "Pulumi.yaml").is_file():
        return Group(
            Text(f"{folder} has no Pulumi.yaml: change to the project's folder first."),
            Text("async-inference --help lists every command."),
        )
    if embedded_aws_url is None:
        where = "No stack runs on this machine."
        steps = [("try it here, without an AWS account", "make up"), REHEARSE, TUNE, DEPLOY]
    else:
        where = f"The embedded AWS runs at {embedded_aws_url}"
        steps = [
            ("get an image from it", 'async-inference generate "a seven"'),
            ("watch it scale from zero and back", "async-inference local status --watch"),
            REHEARSE,
            TUNE,
            ("destroy the local stack", "make down"),
            DEPLOY,
        ]
    table = Table("next", "command", box=None, padding=(0, 2, 0, 0))
    for what, command in steps:
        table.add_row(what, Text(command, style="bold"))
    return Group(Text(where), table, Text("async-inference --help lists every command."))
