"""`calibrate`: measures on a live endpoint which reading of AWS holds."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from async_inference.cli.options import EndpointOption, JsonOption
from async_inference.cli.target import Target, aws_errors_reported, target_of
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from async_inference.aws_clients import Clients
    from async_inference.calibration.estimators import Estimate, Finding
    from async_inference.calibration.file import Merged
    from async_inference.calibration.records import Records

DEFAULT_DAYS = 14.0
EXIT_DECLINED = 1
LOOK_AGAIN_S = 15.0


def calibrate(
    stack: Annotated[
        str | None,
        typer.Option(help="Stack whose endpoint to read; default: local, while that runs."),
    ] = None,
    endpoint: EndpointOption = None,
    days: Annotated[
        float, typer.Option(help="Days to read back; CloudWatch keeps 15.", min=0.01, max=15)
    ] = DEFAULT_DAYS,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write or add to; default: calibration.<stack>.yaml."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG file for a chart of predicted and measured values.")
    ] = None,
    runs: Annotated[
        bool, typer.Option("--run", help="First send test requests, after asking.")
    ] = False,
    payload: Annotated[
        str, typer.Option(help="With --run: steps or sleep, as for load.")
    ] = "steps",
    service_s: Annotated[
        float, typer.Option(help="With --run: seconds that each request should take.", min=0.1)
    ] = 25.0,
    step_s: Annotated[
        float, typer.Option(help="With --run: seconds per step on the instances.", min=1e-4)
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Measure how AWS behaves on a live endpoint; rehearse, tune and load then use the result.

    It only reads, unless --run is given.

    For example: async-inference calibrate --stack prod --days 14 --picture calibration.png
    """
    target = target_of(endpoint, stack)
    name = stack or (target.settings.stack if target.settings else target.endpoint)
    own = target.settings
    if own is None and (picture or runs):
        raise InvalidInputError(["--run needs a plan; name the deployed stack with --stack"])
    if payload not in ("steps", "sleep"):
        raise InvalidInputError([f"--payload {payload}: must be steps or sleep"])
    screen = Console(stderr=True, soft_wrap=True, highlight=False)

    from async_inference.calibration import file, reading
    from async_inference.calibration.estimators import estimate

    path = output or file.path_of(name)
    for option, each in (("--output", path), ("--picture", picture)):
        if each is not None and not each.parent.is_dir():
            raise InvalidInputError(
                [f"{option}: there is no folder {each.parent}; create it first"]
            )
    before = file.read(path)
    if runs:
        _run(target, payload, service_s, step_s, screen)
    with screen.status("reading activities, alarms and metrics"), aws_errors_reported():
        records = reading.read(_clients(target), target.endpoint, timedelta(days=days))
    found = estimate(records)
    tells = any(each.value is not None for each in found.findings)
    merged = file.merge(before, records, found) if tells else None
    if merged is not None:
        file.write(merged.calibration, path)
    sentence = None
    if own is not None and merged is not None and picture is not None:
        sentence = _picture(target, records, merged, picture, screen)
    if as_json:
        typer.echo(json.dumps(_as_json(target.endpoint, found, merged, sentence), indent=2))
    else:
        Console(soft_wrap=False).print(_as_table(target.endpoint, found, merged))
    if sentence is not None:
        screen.print(f"{sentence}\nPicture: {picture}", markup=False)
    if merged is None:
        screen.print(f"Nothing was found, so {path} was not written.", style="yellow")
    elif own is None:
        screen.print(
            f"Rename {path} to calibration.<stack>.yaml, and rehearsals of that stack will use it.",
            markup=False,
        )
    else:
        screen.print(f"Rehearsals of {name} now use {path}; commit it.", markup=False)


def _clients(target: Target) -> "Clients":
    from botocore.config import Config

    config = Config(retries={"mode": "adaptive", "max_attempts": 10})
    return partial(target.session.client, endpoint_url=target.url, config=config)


def _picture(
    target: Target, records: "Records", merged: "Merged", path: Path, screen: Console
) -> str | None:
    with screen.status("simulating the measured traffic (compiling takes 10 s the first time)"):
        from async_inference.calibration import comparison, file
        from async_inference.rehearsal.simulator import Assumptions

        own = target.settings
        assert own is not None
        stated = Assumptions(
            setup_s=own.usual_setup_s,
            concurrency=own.max_concurrent_invocations_per_instance,
            request_ttl_s=float(own.request_ttl_s),
        )
        compared = comparison.compare(
            records,
            own.plan,
            (
                ("without calibration", stated),
                ("calibrated", file.apply_calibration(stated, merged.calibration)),
            ),
        )
        if compared is None:
            screen.print("No request ended in this time, so there is no picture.", style="yellow")
            return None
        comparison.picture(compared, path)
        return compared.sentence()


def _run(target: Target, payload: str, service_s: float, step_s: float, screen: Console) -> None:
    """Ask, send the experiment's requests, and wait until the endpoint is idle again."""
    with screen.status("designing the experiment (compiling takes 10 s the first time)"):
        from async_inference.calibration import experiment
        from async_inference.operations.load import Payload
        from async_inference.rehearsal.rehearse import stack_assumptions

        assert target.settings is not None
        assumptions, _ = stack_assumptions(target.settings, ())
        how = Payload(payload, step_s)
        plan = target.settings.plan
        chosen = experiment.design(plan, assumptions, how.served_s(service_s))
    for sentence in chosen.sentences(target.endpoint):
        screen.print(sentence, markup=False)
    if not typer.confirm("Send them?", err=True):
        screen.print("Nothing was sent or read.")
        raise typer.Exit(EXIT_DECLINED)
    asyncio.run(_send(target, chosen, how, screen))


async def _send(target: Target, chosen: Any, how: Any, screen: Console) -> None:
    from async_inference.cli.load import replayed
    from async_inference.client.aio import AsyncClient

    clock = 60 / target.minute_s
    replay = await replayed(target, chosen.traffic, how, clock, screen)
    if replay.failed or replay.unanswered:
        screen.print(
            f"{replay.failed} requests failed and {replay.unanswered} were not answered, so their "
            "service times are unknown",
            style="yellow",
        )
    last_visit_s = chosen.duration_s - chosen.traffic.span_s
    with screen.status("waiting until the endpoint is idle again"):
        async with AsyncClient(target.endpoint, session=target.session, url=target.url) as client:
            for _ in range(int(last_visit_s // LOOK_AGAIN_S) + 1):
                if not (await client.state()).instances:
                    break
                await asyncio.sleep(LOOK_AGAIN_S / clock)
        # The datapoints become visible a minute or two later.
        await asyncio.sleep(180 / clock)


def _as_table(endpoint: str, found: "Estimate", merged: "Merged | None") -> Group:
    """The findings with their evidence, then what was not found and why."""
    from async_inference.calibration.file import sentences

    table = Table("reading", "value", "seen", "evidence", title=f"What {endpoint} shows")
    for each in found.findings:
        if each.value is not None:
            table.add_row(each.name, str(each.value), str(each.observations), Text(_evidence(each)))
    lines = [*sentences(found.findings), *found.notes, *(merged.notes if merged else ())]
    return Group(table, *(Text(f"- {each}") for each in lines))


def _evidence(finding: "Finding") -> str:
    if finding.low is not None and finding.high is not None:
        return f"{finding.low:g} to {finding.high:g}; {finding.because}"
    if finding.odds is not None:
        return f"{finding.odds:,.0f} : 1; {finding.because}"
    return finding.because


def _as_json(
    endpoint: str, found: "Estimate", merged: "Merged | None", sentence: str | None
) -> dict[str, Any]:
    notes: Sequence[str] = (*found.notes, *(merged.notes if merged else ()))
    return {
        "endpoint": endpoint,
        "findings": [asdict(each) for each in found.findings],
        "readings": dict(merged.calibration.readings) if merged else {},
        "notes": list(notes),
        "comparison": sentence,
    }
