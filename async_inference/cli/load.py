"""`load`: replays traffic and compares the waits with the rehearsal's."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from async_inference.cli.client import EXIT_FAILED
from async_inference.cli.options import ChangedOption, EndpointOption, JsonOption, TrafficOption
from async_inference.cli.target import Target, target_of
from async_inference.validation import InvalidInputError

PayloadKind = Literal["steps", "sleep"]

if TYPE_CHECKING:
    from async_inference.operations.load import Payload, Replay
    from async_inference.rehearsal.traffic import Traffic


def load(
    traffic: TrafficOption,
    endpoint: EndpointOption = None,
    stack: Annotated[
        str | None,
        typer.Option(help="Stack that was deployed; default: local, while the embedded AWS runs."),
    ] = None,
    payload: Annotated[
        PayloadKind,
        typer.Option(help="steps: prompts with proportional steps; sleep: {'sleep_s': seconds}."),
    ] = "steps",
    step_s: Annotated[
        float, typer.Option(help="Seconds per step on the endpoint's instances.", min=1e-4)
    ] = 1.0,
    speed: Annotated[
        float, typer.Option(help="Divide the time between arrivals by this factor.", min=0.001)
    ] = 1.0,
    limit: Annotated[
        int | None, typer.Option(help="Send only the first requests of the traffic.", min=1)
    ] = None,
    changed: ChangedOption = None,
    seed: Annotated[int, typer.Option(help="Seed of a generator's traffic.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Send traffic to an idle endpoint and compare its waits with the rehearsal's.

    For example: async-inference load --traffic mine.csv --stack dev --step-s 1.1 --limit 200
    """
    target = target_of(endpoint, stack)
    if target.settings is None:
        raise InvalidInputError(["--endpoint: the rehearsal needs a plan; use --stack instead"])
    screen = Console(stderr=True, soft_wrap=True, highlight=False)
    with screen.status("rehearsing (compiling takes 10 s the first time)"):
        from async_inference.client import InferenceError
        from async_inference.operations import load as loads
        from async_inference.rehearsal import traffic as traffics
        from async_inference.rehearsal.rehearse import stack_assumptions

        assumptions, _ = stack_assumptions(target.settings, changed or [])
        how = loads.Payload(payload, step_s)
        sent = loads.shaped(traffics.load(traffic, seed), how, speed=speed, limit=limit)
        runs = loads.predicted(target.settings.plan, sent, assumptions)
    clock = 60 / target.minute_s
    cost_usd = sorted(run.cost_usd for run in runs)[len(runs) // 2]
    screen.print(
        f"{sent.requests} requests over {sent.span_s / 3600:.2f} h to {target.endpoint}, "
        f"{sent.work_s / 3600:.2f} h of work; estimated cost ${cost_usd:.2f}"
        + (f", {assumptions.calibrated}" if assumptions.calibrated else "")
        + (f"; its clock runs {clock:.0f} times as fast as this machine's" if clock != 1 else ""),
        markup=False,
    )
    try:
        replay = asyncio.run(replayed(target, sent, how, clock, screen))
    except InferenceError as error:
        screen.print(f"error: {type(error).__name__}: {error}", markup=False, style="red")
        raise typer.Exit(EXIT_FAILED) from error
    comparison = loads.compared(sent, replay, runs)
    if as_json:
        calibrated = {"calibrated": assumptions.calibrated}
        typer.echo(json.dumps(loads.as_json(comparison) | calibrated, indent=2))
    else:
        Console().print(loads.as_table(comparison))
    if replay.failed or replay.unanswered:
        raise typer.Exit(EXIT_FAILED)


async def replayed(
    target: Target, sent: "Traffic", how: "Payload", clock: float, screen: Console
) -> "Replay":
    """Send traffic with a progress bar, and warn if the endpoint is not idle."""
    from async_inference.client.aio import AsyncClient
    from async_inference.operations.load import replay

    async with AsyncClient(
        target.endpoint,
        session=target.session,
        url=target.url,
        announce_every_s=target.announce_every_s(None),
    ) as client:
        state = await client.state()
        if state.instances:
            screen.print(
                f"warning: {target.endpoint} has {state.instances} in service, but the rehearsal "
                "starts from zero; the first waits will be shorter than predicted",
                style="yellow",
            )
        with Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=screen, transient=True
        ) as bar:
            task = bar.add_task("", total=sent.requests)
            return await replay(client, sent, how, speed=clock, ended=lambda: bar.advance(task))
