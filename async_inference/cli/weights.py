"""`weights publish`: uploads weights to S3 once, apart from the code."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from async_inference.validation import InvalidInputError

app = typer.Typer(help="Publish a model's weights to S3.", no_args_is_help=True)


@app.callback()
def weights_group() -> None:
    """A model's weights on S3."""


@app.command("publish")
def publish(
    source: Annotated[
        str, typer.Argument(help="Local folder or Hugging Face id, optionally id@revision.")
    ],
    destination: Annotated[str, typer.Argument(help="s3://bucket/prefix")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the Hugging Face repository.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="File-name pattern to upload, instead of what a handler loads; repeatable."
        ),
    ] = None,
) -> None:
    """Upload weights uncompressed; run it again to resume after an interruption.

    For example: async-inference weights publish stabilityai/stable-diffusion-xl-base-1.0
    s3://my-models/sdxl
    """
    import boto3
    from botocore.config import Config

    from async_inference.operations import weights as publishing

    where = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", destination)
    if where is None:
        raise InvalidInputError([f"{destination!r}: must look like s3://bucket/prefix"])
    console = Console(stderr=True)
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", source)
    if Path(source).is_dir() or on_hub is None:
        found = publishing.local_source(Path(source), include)
    else:
        found = publishing.hub_source(on_hub[1], on_hub[2] or revision, include)
    s3 = boto3.client("s3", config=Config(max_pool_connections=2 * publishing.WORKERS))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(f"{len(found.files)} files", total=found.total_bytes)
        done = publishing.publish(
            found, where[1], where[2] or "", s3, lambda sent: bar.update(task, advance=sent)
        )
    console.print(
        f"{destination}: {done.sent_files} files sent ({done.sent_bytes / 1e6:.1f} MB), "
        f"{done.kept_files} were there already ({done.kept_bytes / 1e6:.1f} MB).\n"
        f"Next: pulumi config set async-inference:weights {destination}",
        highlight=False,
    )
