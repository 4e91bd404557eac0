"""`generate`, `batch`, `resume`: prompts in, results in a folder."""

import asyncio
import contextlib
import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from async_inference.cli.options import EndpointOption, JsonOption, StackOption
from async_inference.cli.target import Target, target_of
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from async_inference.client.ledger import Entry, Ledger

FileKind = Literal["text", "csv", "jsonl"]
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
AcceptOption = Annotated[str, typer.Option(help="Media type of the results.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A field of the payload, such as steps=20.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(help="Seconds in total; requests left then can be resumed.", min=1),
]
RetryFailedOption = Annotated[
    bool, typer.Option("--retry-failed", help="Send failed requests again.")
]
NotificationsOption = Annotated[
    bool,
    typer.Option(
        "--notifications",
        help="Wait for the endpoint's notifications, through a queue for this run, instead of "
        "polling S3.",
    ),
]
AnnounceOption = Annotated[
    bool | None,
    typer.Option(
        "--announce/--no-announce",
        help="Publish how many requests will come, so that instances start sooner; default: if the "
        "stack's policies use it.",
    ),
]
InFlightOption = Annotated[
    int,
    typer.Option(help="Most requests in the queue; the endpoint scales with its backlog.", min=1),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What the image should show.")],
    endpoint: EndpointOption = None,
    stack: StackOption = None,
    output: Annotated[Path, typer.Option(help="Folder for the result; created if missing.")] = Path(
        "generated"
    ),
    fields: SetOption = None,
    accept: AcceptOption = "image/png",
    deadline_s: DeadlineOption = 1800.0,
    announce: AnnounceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Get one image, even from an endpoint at zero instances.

    For example: async-inference generate "a seven" --set steps=20 --set seed=7
    """
    from async_inference.client import inputs

    target = target_of(endpoint, stack)
    item = inputs.item({"prompt": prompt, **_fields(fields)}, accept=accept, key=uuid.uuid4().hex)
    with _opened(output, target.endpoint, target.aws) as ledger:
        ids = ledger.ask([item])
        _work(
            target,
            ledger,
            ids,
            deadline_s=deadline_s,
            in_flight=1,
            announce=announce,
            as_json=as_json,
        )


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            help="Text with a prompt per line, .csv with a header, or .jsonl with a payload per "
            "line; - reads standard input."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for results and ledger.")],
    endpoint: EndpointOption = None,
    stack: StackOption = None,
    fields: SetOption = None,
    accept: AcceptOption = "image/png",
    kind: Annotated[
        FileKind | None,
        typer.Option("--format", help="Format of the file; default: from its name."),
    ] = None,
    in_flight: InFlightOption = 100,
    retry_failed: RetryFailedOption = False,
    deadline_s: DeadlineOption = None,
    notifications: NotificationsOption = False,
    announce: AnnounceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Get a result for each line of a file; run it again to resume where it stopped.

    For example: async-inference batch prompts.csv --output images --set steps=20
    """
    from async_inference.client import inputs

    problems: list[str] = []
    common: dict[str, object] = {}
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
    target = target_of(endpoint, stack)
    with _opened(output, target.endpoint, target.aws) as ledger:
        ids = ledger.ask(items, failed_too=retry_failed)
        _work(
            target,
            ledger,
            ids,
            deadline_s=deadline_s,
            in_flight=in_flight,
            notifications=notifications,
            announce=announce,
            as_json=as_json,
        )


def resume(
    output: Annotated[Path, typer.Argument(help="Folder of the batch, with its ledger.")],
    stack: Annotated[
        str | None,
        typer.Option(help="Stack whose credentials to use, as in the batch; default: the shell's."),
    ] = None,
    in_flight: InFlightOption = 100,
    retry_failed: RetryFailedOption = False,
    deadline_s: DeadlineOption = None,
    notifications: NotificationsOption = False,
    announce: AnnounceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume an interrupted batch from its ledger.

    For example: async-inference resume images
    """
    with _opened(output, None, None) as ledger:
        if retry_failed:
            ledger.ask_again()
        target = target_of(ledger.endpoint, stack, ledger.aws)
        ids = list(ledger.entries)
        _work(
            target,
            ledger,
            ids,
            deadline_s=deadline_s,
            in_flight=in_flight,
            notifications=notifications,
            announce=announce,
            as_json=as_json,
        )


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

    fields: dict[str, object] = {}
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
    notifications: bool = False,
    announce: bool | None,
    as_json: bool,
) -> None:
    """Run a batch with a progress bar, print the outcome, and exit with its code."""
    from async_inference.client.errors import InferenceError

    named = ["--stack", target.settings.stack] if target.settings else []
    named += ["--announce"] if announce else []
    announce_every_s = target.announce_every_s(announce)
    again = shlex.join(["async-inference", "resume", str(ledger.folder), *named])
    screen = Console(stderr=True, soft_wrap=True, highlight=False)
    trouble: str | None = None
    code = 0
    try:
        asyncio.run(
            _run(
                target,
                ledger,
                ids,
                deadline_s,
                in_flight,
                notifications,
                announce_every_s,
                screen,
            )
        )
    except KeyboardInterrupt:
        trouble, code = "interrupted; queued requests continue", EXIT_INTERRUPTED
    except InferenceError as error:
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        trouble, code = f"{type(error).__name__}: {error}{notes}", EXIT_FAILED
    entries = [ledger.entries[each] for each in ids]
    left = sum(not entry.ended for entry in entries)
    failed = [entry for entry in entries if entry.failure is not None]
    if left and trouble is None:
        trouble = f"the deadline has passed, and {left} of {len(entries)} requests have no result"
    _tell(ledger, entries, as_json)
    for entry in failed:
        said = ": ".join(entry.failure or ())
        line = f"failed: {entry.number}: {entry.item.label}: {said}"
        screen.print(line, markup=False, style="red")
    if trouble is not None:
        screen.print(f"error: {trouble}", markup=False, style="red")
    if left:
        screen.print(f"To resume: {again}", markup=False)
    code = code or (EXIT_FAILED if left or failed else 0)
    if code:
        raise typer.Exit(code)


async def _run(
    target: Target,
    ledger: "Ledger",
    ids: list[str],
    deadline_s: float | None,
    in_flight: int,
    notifications: bool,
    announce_every_s: float | None,
    screen: Console,
) -> None:
    from async_inference.client.aio import AsyncClient
    from async_inference.client.batch import Batch, estimate

    until_s = float("inf") if deadline_s is None else time.monotonic() + deadline_s
    async with (
        AsyncClient(
            target.endpoint,
            session=target.session,
            url=target.url,
            announce_every_s=announce_every_s,
        ) as client,
        client.subscribed() if notifications else contextlib.nullcontext() as queue_url,
    ):
        work = Batch(client, ledger, ids, in_flight=in_flight, until_s=until_s, queue_url=queue_url)
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
    document: dict[str, object] = {
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


def _tell(ledger: "Ledger", entries: list["Entry"], as_json: bool) -> None:
    """Write the gallery, and print where the results are."""
    from async_inference.client import gallery

    folder = ledger.folder
    page = gallery.write(folder, ledger.endpoint, ledger.entries.values())
    if as_json:
        typer.echo(json.dumps([_document(folder, entry) for entry in entries], indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    done = [entry for entry in entries if entry.file is not None]
    if len(entries) == 1 and done:
        console.print(str(folder / str(done[0].file)), markup=False)
        return
    console.print(f"{len(done)} of {len(entries)} results in {folder}", markup=False)
    console.print(f"Gallery: {page}", markup=False)
