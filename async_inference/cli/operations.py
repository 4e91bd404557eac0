"""`verify`: does a stack run as its config says? `preflight`: can it run?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from async_inference.cli.options import JsonOption
from async_inference.cli.target import aws_errors_reported, reached_by
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from async_inference.cli.target import Reached
    from async_inference.operations.checks import Check
    from async_inference.stack.settings import Settings

EXIT_DIFFERS = 1
DEFAULT_WITHIN_S = 1800.0


def verify(
    stack: Annotated[str, typer.Option(help="Deployed stack.")] = "dev",
    sends: Annotated[
        bool, typer.Option("--smoke/--no-smoke", help="Send a request and wait for its result.")
    ] = True,
    body: Annotated[
        Path | None,
        typer.Option(help="JSON file with the request to send; default: a small image."),
    ] = None,
    within_s: Annotated[
        float, typer.Option(help="Seconds to wait for the result, cold start included.", min=1)
    ] = DEFAULT_WITHIN_S,
    as_json: JsonOption = False,
) -> None:
    """Compare a running stack with its config and send a request; exit code 1 if it differs.

    For example: async-inference verify --stack prod --within-s 900
    """
    from async_inference.client import Client
    from async_inference.operations import account, smoke, verify
    from async_inference.stack import settings

    own = settings.from_stack_file(Path(f"Pulumi.{stack}.yaml"))
    request = smoke.BODY if body is None else _read(body)
    reached = reached_by(stack, own.region)
    console = Console(stderr=True, soft_wrap=True)
    with console.status("reading Pulumi's state and what runs"), aws_errors_reported():
        asked = account.asked(own, account.exported(stack, reached.environment))
        live = account.live(reached.client, asked)
        found = verify.checks(asked, live)
        if sends and live.endpoint is not None:
            with Client(own.endpoint_name, session=reached.session, url=reached.url) as client:
                found.append(
                    smoke.smoke(
                        client, asked, live, body=request, within_s=within_s, say=console.print
                    )
                )
    _show(found, as_json)


def preflight(
    stack: Annotated[str, typer.Option(help="Stack to be deployed.")] = "dev",
    tries: Annotated[
        bool,
        typer.Option("--probe", help="Deploy a copy that cannot start an instance, after asking."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --probe: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check before a deployment whether a stack can run in this account; exit code 1 if not.

    For example: async-inference preflight --stack prod
    """
    from async_inference.operations import preflight
    from async_inference.stack import settings

    file = Path(f"Pulumi.{stack}.yaml")
    own = settings.from_stack_file(file)
    reached = reached_by(stack, own.region)
    console = Console(stderr=True, soft_wrap=True)
    with console.status("looking at the account"), aws_errors_reported():
        found = preflight.preflight(own, reached.client, console.print)
    if tries:
        found += _probed(own, file, reached, console, yes=yes)
    _show(found, as_json)


def _probed(
    own: "Settings", file: Path, reached: "Reached", console: Console, *, yes: bool
) -> "list[Check]":
    """The checks of a probe, after the user has agreed to it."""
    from async_inference.operations import probe

    with console.status("reading the quotas"), aws_errors_reported():
        instance_type = probe.without_quota(own, probe.quotas(reached.client))
    if instance_type is None:
        raise InvalidInputError(
            [
                "--probe: this account has no instance type with a quota of 0, and only that keeps "
                "the probe from starting an instance"
            ]
        )
    wanted = probe.trial(file.read_text(encoding="utf-8"), own.stack, instance_type)
    console.print(
        f"A copy of stack {own.stack}, called {wanted.name}, will be deployed to {own.region} with "
        f"{instance_type}, then destroyed. The account's quota for that type is 0, so SageMaker "
        "refuses the endpoint and no instance starts. Bucket, role, topics, alarms, model and "
        "configuration exist for a few minutes and cost a few cents at most. If the copy has a KMS "
        "key, it is scheduled for deletion in 30 days, at no cost."
    )
    if not yes and not typer.confirm("Deploy and destroy it?", err=True):
        raise typer.Exit(EXIT_DIFFERS)
    with console.status(f"deploying and destroying {wanted.name} (a few minutes)"):
        return probe.probe(wanted, file.parent, reached.environment)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError([f"--body {path}: cannot be read ({error.strerror})"]) from error


def _show(found: "Sequence[Check]", as_json: bool) -> None:
    from async_inference.operations import checks

    if as_json:
        typer.echo(json.dumps(checks.as_json(found), indent=2))
    else:
        Console().print(checks.as_table(found))
    if not all(check.passed for check in found):
        raise typer.Exit(EXIT_DIFFERS)
