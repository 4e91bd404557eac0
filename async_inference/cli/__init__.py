"""The command `async-inference`: a thin layer, with one module for each topic."""

import sys
from pathlib import Path

import typer
from rich.console import Console

from async_inference.cli import calibration, client, load, local, operations, rehearsal, weights
from async_inference.validation import InvalidInputError

EXIT_INVALID_INPUT = 2

app = typer.Typer(
    name="async-inference",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    """Rehearse, run and use a SageMaker asynchronous endpoint that costs nothing while idle.

    Exit codes: 0 done, 1 failed or differs, 2 bad input, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        from async_inference.cli.next_steps import next_steps
        from async_inference.local_aws import daemon

        running = daemon.running(daemon.AWS_FOLDER)
        Console().print(next_steps(Path.cwd(), running.url if running else None))


app.command()(rehearsal.rehearse)
app.command()(rehearsal.tune)
app.command()(rehearsal.history)
app.command()(client.generate)
app.command()(client.batch)
app.command()(client.resume)
app.command()(load.load)
app.command()(calibration.calibrate)
app.command()(operations.verify)
app.command()(operations.preflight)
app.add_typer(local.app, name="local")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Run the command; on bad input, print what is wrong and exit with code 2."""
    try:
        app()
    except InvalidInputError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for problem in error.problems:
            console.print(f"error: {problem}", markup=False, style="red")
        sys.exit(EXIT_INVALID_INPUT)
