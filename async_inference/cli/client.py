"""`generate`, `batch`, `resume`: prompts in, results in a folder; `load`: traffic in, waits out."""

import asyncio
import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    import boto3

    from async_inference.client.ledger import Entry, Ledger
    from async_inference.load import Payload, Replay
    from async_inference.rehearsal.traffic import Traffic
    from async_inference.settings import Settings

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
LOCAL_STACK = "local"
TYPICAL_DETECTION_S = 210.0
"""Mean time from a request to an idle endpoint to the wish for an instance
(aws-facts.md section 6)."""

EndpointOption = Annotated[
    str | None, typer.Option(help="The endpoint's name, instead of a stack's.")
]
StackOption = Annotated[
    str | None,
    typer.Option(help="Whose endpoint to use; by default local, while the embedded AWS runs."),
]
AcceptOption = Annotated[str, typer.Option(help="Media type of the results.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A field of the payload, such as steps=20.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(help="Seconds for everything; what is left then can be resumed.", min=1),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable, alone.")]
InFlightOption = Annotated[
    int,
    typer.Option(help="Requests in the queue at a time; the endpoint scales by what waits.", min=1),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What the image shall show.")],
    endpoint: EndpointOption = None,
    stack: StackOption = None,
    output: Annotated[Path, typer.Option(help="Folder for the result; made if missing.")] = Path(
        "generated"
    ),
    fields: SetOption = None,
    accept: AcceptOption = "image/png",
    deadline_s: DeadlineOption = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Get one image, also from an endpoint that sleeps at zero instances.

    For example: async-inference generate "a seven" --set steps=20 --set seed=7
    """
    from async_inference.client import inputs

    target = _target(endpoint, stack)
    item = inputs.item({"prompt": prompt, **_fields(fields)}, accept=accept, key=uuid.uuid4().hex)
    with _opened(output, target.endpoint, target.aws) as ledger:
        ids = ledger.ask([item])
        _work(target, ledger, ids, deadline_s=deadline_s, in_flight=1, as_json=as_json)


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            help="Prompts: a line each, .csv with a header, or .jsonl with a payload a line; "
            "- reads standard input."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for results and ledger.")],
    endpoint: EndpointOption = None,
    stack: StackOption = None,
    fields: SetOption = None,
    accept: AcceptOption = "image/png",
    kind: Annotated[
        str | None, typer.Option("--format", help="text, csv or jsonl; by default by the name.")
    ] = None,
    in_flight: InFlightOption = 100,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask once more for those that failed.")
    ] = False,
    deadline_s: DeadlineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Get a result for each line of a file; run it again to go on where it stopped.

    For example: async-inference batch prompts.csv --output images --set steps=20
    """
    from async_inference.client import inputs

    problems: list[str] = []
    if kind not in (None, "text", "csv", "jsonl"):
        problems.append(f"--format {kind}: must be text, csv or jsonl")
    common: dict[str, Any] = {}
    content = b""
    try:
        common = _fields(fields)
    except InvalidInputError as error:
        problems += error.problems
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        problems.append(f"{file}: cannot be read ({error.strerror})")
    if problems:
        raise InvalidInputError(problems)
    name = "standard input" if str(file) == "-" else str(file)
    try:
        items = inputs.items(
            content, name, kind=kind or inputs.kind_of(name), common=common, accept=accept
        )
    except inputs.BatchFileError as error:
        raise InvalidInputError(error.problems) from error
    target = _target(endpoint, stack)
    with _opened(output, target.endpoint, target.aws) as ledger:
        ids = ledger.ask(items, failed_too=retry_failed)
        _work(target, ledger, ids, deadline_s=deadline_s, in_flight=in_flight, as_json=as_json)


def resume(
    output: Annotated[Path, typer.Argument(help="Folder of a batch, with its ledger.")],
    in_flight: InFlightOption = 100,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask once more for those that failed.")
    ] = False,
    deadline_s: DeadlineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a batch that was interrupted, by its ledger alone.

    For example: async-inference resume images
    """
    with _opened(output, None, None) as ledger:
        if retry_failed:
            ledger.ask_again()
        target = _target(ledger.endpoint, None, ledger.aws)
        ids = list(ledger.entries)
        _work(target, ledger, ids, deadline_s=deadline_s, in_flight=in_flight, as_json=as_json)


def load(
    traffic: Annotated[
        str, typer.Option(help="CSV (arrival_s,service_s; also .gz) or a generator's name.")
    ],
    endpoint: EndpointOption = None,
    stack: Annotated[
        str | None,
        typer.Option(help="Whose plan was deployed; by default local, while that runs."),
    ] = None,
    payload: Annotated[
        str,
        typer.Option(help="steps: prompts with steps in proportion; sleep: {'sleep_s': seconds}."),
    ] = "steps",
    step_s: Annotated[
        float, typer.Option(help="Seconds of one step on the endpoint's instances.", min=1e-4)
    ] = 1.0,
    speed: Annotated[
        float, typer.Option(help="Arrivals come this many times closer together.", min=0.001)
    ] = 1.0,
    limit: Annotated[
        int | None, typer.Option(help="Only the first requests of the traffic.", min=1)
    ] = None,
    changed: Annotated[
        list[str] | None, typer.Option("--set", help="Another assumption, such as setup_s=300.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a generator's traffic.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Send traffic to an idle endpoint and compare its waits with the rehearsal's.

    For example: async-inference load --traffic mine.csv --stack dev --step-s 1.1 --limit 200
    """
    if payload not in ("steps", "sleep"):
        raise InvalidInputError([f"--payload {payload}: must be steps or sleep"])
    target = _target(endpoint, stack)
    if target.settings is None:
        raise InvalidInputError(["which plan? Name --stack, whose plan was deployed"])
    screen = Console(stderr=True, soft_wrap=True, highlight=False)
    with screen.status("rehearsing (the first time compiles, about ten seconds)"):
        from async_inference import load as loads
        from async_inference.client import InferenceError
        from async_inference.rehearsal import traffic as traffics
        from async_inference.rehearsal.rehearse import assumed

        assumptions, _ = assumed(target.settings, changed or [])
        how = loads.Payload(payload, step_s)
        sent = loads.shaped(traffics.loaded(traffic, seed), how, speed=speed, limit=limit)
        runs = loads.predicted(target.settings.plan, sent, assumptions)
    clock = 60 / target.minute_s
    cost_usd = sorted(run.cost_usd for run in runs)[len(runs) // 2]
    screen.print(
        f"{sent.requests} requests over {sent.span_s / 3600:.2f} h to {target.endpoint}, "
        f"{sent.work_s / 3600:.2f} h of work; by the rehearsal about ${cost_usd:.2f}"
        + (f"; its clock runs {clock:.0f} times as fast as ours" if clock != 1 else ""),
        markup=False,
    )
    try:
        replay = asyncio.run(_replay(target, sent, how, clock, screen))
    except InferenceError as error:
        screen.print(f"error: {type(error).__name__}: {error}", markup=False, style="red")
        raise typer.Exit(EXIT_FAILED) from error
    comparison = loads.compared(sent, replay, runs)
    if as_json:
        typer.echo(json.dumps(loads.as_json(comparison), indent=2))
    else:
        Console().print(loads.as_table(comparison))
    if replay.failed or replay.unanswered:
        raise typer.Exit(EXIT_FAILED)


async def _replay(
    target: "Target", sent: "Traffic", how: "Payload", clock: float, screen: Console
) -> "Replay":
    from async_inference.client.aio import AsyncClient
    from async_inference.load import replay

    async with AsyncClient(target.endpoint, session=target.session, url=target.url) as client:
        state = await client.state()
        if state.instances:
            screen.print(
                f"warning: {target.endpoint} has {state.instances} in service, and the rehearsal "
                "starts idle; the first waits will be shorter than predicted",
                style="yellow",
            )
        with Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=screen, transient=True
        ) as bar:
            task = bar.add_task("", total=sent.requests)
            return await replay(client, sent, how, speed=clock, ended=lambda: bar.advance(task))


@dataclass(frozen=True)
class Target:
    """An endpoint and how to reach it.

    Args:
        endpoint: its name.
        aws: `local`, or the region.
        session: credentials and region.
        url: of the embedded AWS.
        minute_s: real seconds for a minute of that AWS.
        settings: the stack's, where one was named.
    """

    endpoint: str
    aws: str
    session: "boto3.Session"
    url: str | None
    minute_s: float
    settings: "Settings | None"

    @property
    def cold_start_s(self) -> float:
        """Real seconds from a request to an idle endpoint to its first instance, typically."""
        from async_inference.settings import DEFAULT_SETUP_S

        setup_s = self.settings.setup_s if self.settings else DEFAULT_SETUP_S
        return (TYPICAL_DETECTION_S + setup_s) * self.minute_s / 60


def _target(endpoint: str | None, stack: str | None, begun_at: str | None = None) -> Target:
    """Where to send; `begun_at` is the `aws` of the target that a ledger was begun with."""
    import boto3

    from async_inference import settings
    from async_inference.local_aws import daemon

    aws = daemon.running(daemon.AWS_FOLDER)
    if begun_at is not None:
        local = begun_at == LOCAL_STACK
    else:
        local = stack == LOCAL_STACK or (
            stack is None and aws is not None and (endpoint is None or _runs(aws.url, endpoint))
        )
    if local and aws is None:
        raise InvalidInputError(["the embedded AWS does not run; start it with make up"])
    if local and endpoint is None:
        stack = LOCAL_STACK
    if stack is None and endpoint is None:
        raise InvalidInputError(
            ["which endpoint? Name --stack or --endpoint, or start the local stack with make up"]
        )
    own = None if stack is None else settings.from_stack_file(Path(f"Pulumi.{stack}.yaml"))
    name = endpoint or (own.endpoint_name if own else "")
    if aws is not None and local:
        session = boto3.Session(
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 the embedded AWS takes any
            region_name="us-east-1",
        )
        return Target(name, LOCAL_STACK, session, aws.url, aws.minute_s, own)
    session = boto3.Session(region_name=own.region if own else begun_at)
    if session.region_name is None:
        raise InvalidInputError(["which region? Set AWS_REGION, or name --stack"])
    return Target(name, session.region_name, session, None, 60.0, own)


def _runs(url: str, endpoint: str) -> bool:
    """Whether the embedded AWS has this endpoint."""
    import httpx

    regions = httpx.get(f"{url}/_local/status", timeout=10).json()["regions"].values()
    return any(endpoint in region["endpoints"] for region in regions)


def _opened(output: Path, endpoint: str | None, aws: str | None) -> "Ledger":
    from async_inference.client.ledger import Ledger, LedgerError

    try:
        return Ledger(
            output, endpoint, aws, now_s=time.time, new_batch=lambda: uuid.uuid4().hex[:8]
        )
    except LedgerError as error:
        raise InvalidInputError([str(error)]) from error
    except OSError as error:
        raise InvalidInputError([f"{output}: {error.strerror or error}"]) from error


def _fields(given: list[str] | None) -> dict[str, Any]:
    from async_inference.client import inputs

    fields: dict[str, Any] = {}
    problems = []
    for item in given or []:
        name, equals, text = item.partition("=")
        if not equals or not name:
            problems.append(f"--set {item}: must be name=value, such as steps=20")
        else:
            fields[name] = inputs.value(text)
    if problems:
        raise InvalidInputError(problems)
    return fields


def _work(
    target: Target,
    ledger: "Ledger",
    ids: list[str],
    *,
    deadline_s: float | None,
    in_flight: int,
    as_json: bool,
) -> None:
    """Run a batch with a bar, then say what came of it; ends the command with its exit code."""
    from async_inference.client import gallery
    from async_inference.client.errors import InferenceError

    again = shlex.join(["async-inference", "resume", str(ledger.folder)])
    screen = Console(stderr=True, soft_wrap=True, highlight=False)
    trouble: str | None = None
    code = 0
    try:
        asyncio.run(_run(target, ledger, ids, deadline_s, in_flight, screen))
    except KeyboardInterrupt:
        trouble, code = "interrupted; what is in the queue goes on", EXIT_INTERRUPTED
    except InferenceError as error:
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        trouble, code = f"{type(error).__name__}: {error}{notes}", EXIT_FAILED
    entries = [ledger.entries[each] for each in ids]
    left = sum(not entry.ended for entry in entries)
    failed = [entry for entry in entries if entry.failure is not None]
    if left and trouble is None:
        trouble = f"the deadline has passed with {left} of {len(entries)} unanswered"
    page = gallery.write(ledger.folder, ledger.endpoint, ledger.entries.values())
    if as_json:
        typer.echo(json.dumps([_document(ledger.folder, entry) for entry in entries], indent=2))
    else:
        _tell(Console(soft_wrap=True, highlight=False), ledger.folder, entries, page)
    for entry in failed:
        assert entry.failure is not None
        kind, message = entry.failure
        screen.print(
            f"failed: {entry.number}: {entry.item.label}: {kind}: {message}",
            markup=False,
            style="red",
        )
    if trouble is not None:
        screen.print(f"error: {trouble}", markup=False, style="red")
    if left:
        screen.print(f"To go on: {again}", markup=False)
    code = code or (EXIT_FAILED if left or failed else 0)
    if code:
        raise typer.Exit(code)


async def _run(
    target: Target,
    ledger: "Ledger",
    ids: list[str],
    deadline_s: float | None,
    in_flight: int,
    screen: Console,
) -> None:
    from async_inference.client.aio import AsyncClient
    from async_inference.client.batch import Batch, estimate

    until_s = float("inf") if deadline_s is None else time.monotonic() + deadline_s
    async with AsyncClient(target.endpoint, session=target.session, url=target.url) as client:
        work = Batch(client, ledger, ids, in_flight=in_flight, until_s=until_s)
        with Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=screen,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=work.progress.total)

            def show() -> None:
                progress = work.progress
                told = estimate(progress, time.monotonic(), target.cold_start_s)
                failures = f"{progress.failed} failed; " if progress.failed else ""
                bar.update(
                    task,
                    completed=progress.done + progress.failed,
                    description=f"{failures}{progress.waiting} in the queue; {told}",
                )

            shown = asyncio.create_task(_repeat(show))
            try:
                await work.run()
            finally:
                shown.cancel()


async def _repeat(show: Callable[[], None]) -> None:
    while True:
        show()
        await asyncio.sleep(0.25)


def _document(folder: Path, entry: "Entry") -> dict[str, Any]:
    document: dict[str, Any] = {
        "number": entry.number,
        "inference_id": entry.inference_id,
        "label": entry.item.label,
        "status": "done" if entry.file else "failed" if entry.failure else "unfinished",
    }
    if entry.file is not None and entry.result is not None:
        document |= {"file": str(folder / entry.file), "bytes": entry.result.size_bytes}
    if entry.failure is not None:
        document |= {"error": entry.failure[0], "message": entry.failure[1]}
    return document


def _tell(console: Console, folder: Path, entries: list["Entry"], page: Path) -> None:
    done = [entry for entry in entries if entry.file is not None]
    if len(entries) == 1 and done:
        console.print(str(folder / str(done[0].file)), markup=False)
        return
    console.print(f"{len(done)} of {len(entries)} results in {folder}", markup=False)
    console.print(f"The gallery: {page}", markup=False)
