"""`rehearse`, `tune` and `history`: predict what a stack's scaling does, and find a better plan."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from async_inference.cli.options import ChangedOption, JsonOption, StackOption, TrafficOption
from async_inference.cli.target import aws_errors_reported, target_of
from async_inference.validation import InvalidInputError


def rehearse(
    stack: Annotated[str, typer.Option(help="Stack whose file to read.")] = "dev",
    traffic: TrafficOption = "bursts",
    policy: Annotated[
        str | None, typer.Option(help="A preset or a YAML file instead of the stack's plan.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Presets, files or git revisions to compare with; default: documented, or tuned "
            "for a documented plan."
        ),
    ] = None,
    changed: ChangedOption = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps per SDXL image; sets the mean service time.", min=1, max=150),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="First seed of traffic, alarm phases and setup times.", min=0)
    ] = 0,
    seeds: Annotated[int, typer.Option(help="Number of seeds to compare over.", min=1)] = 8,
    readings: Annotated[
        bool,
        typer.Option("--readings", help="Also simulate every other reading of AWS."),
    ] = False,
    as_json: JsonOption = False,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page with charts; created if missing.")
    ] = None,
) -> None:
    """Predict what a stack's scaling does to waits, GPU-hours and cost, before it is deployed.

    For example: async-inference rehearse --stack prod --traffic diurnal --against aws
    """
    console = Console()
    with Console(stderr=True).status("rehearsing (compiling takes 10 s the first time)"):
        from async_inference.rehearsal import rehearse as rehearsal

        found = rehearsal.rehearse(
            stack=stack,
            traffic=traffic,
            policy=policy,
            against=_default_comparison(stack, policy) if against is None else against,
            changed=changed or [],
            seed=seed,
            seeds=seeds,
            readings=readings,
            steps=steps,
        )
        page = None
        if report is not None:
            from async_inference.rehearsal import report as reports

            page = reports.write(found, report)
    if as_json:
        typer.echo(json.dumps(rehearsal.as_json(found), indent=2))
    else:
        console.print(rehearsal.as_table(found))
    if page is not None:
        Console(stderr=True, soft_wrap=True).print(f"Report: {page}")


def _default_comparison(stack: str, policy: str | None) -> list[str]:
    """The preset that a plan is compared with by default."""
    from async_inference.scaling.plan import PRESETS
    from async_inference.stack import settings

    if policy is None:
        plan = settings.from_stack_file(Path(f"Pulumi.{stack}.yaml")).plan
        documented = PRESETS["documented"].within(plan.min_capacity, plan.max_capacity)
        return ["tuned"] if plan == documented else ["documented"]
    return ["tuned"] if policy == "documented" else ["documented"]


def tune(
    traffic: TrafficOption,
    stack: Annotated[str, typer.Option(help="Stack whose bounds and assumptions to keep.")] = "dev",
    objective: Annotated[
        str,
        typer.Option(
            help="hours: fewest hours within the p95 limit; wait: shortest wait without more hours."
        ),
    ] = "hours",
    max_p95_wait_s: Annotated[
        float | None,
        typer.Option(help="Limit of the p95 wait; default: the documented policy's.", min=1),
    ] = None,
    changed: ChangedOption = None,
    plans: Annotated[int, typer.Option(help="Number of plans to try.", min=1)] = 2000,
    seed: Annotated[
        int, typer.Option(help="Seed of the search and of its simulations.", min=0)
    ] = 0,
    seeds: Annotated[int, typer.Option(help="Number of seeds to try each plan on.", min=1)] = 4,
    output: Annotated[
        Path | None, typer.Option(help="Stack file to write; default: Pulumi.<stack>-tuned.yaml.")
    ] = None,
    as_json: JsonOption = False,
    report: Annotated[Path | None, typer.Option(help="Folder for the chart.")] = None,
) -> None:
    """Find scaling policies with fewer GPU-hours and no longer waits; write them as stack config.

    For example: async-inference tune --traffic mine.csv --set setup_s=300
    """
    if objective not in ("hours", "wait"):
        raise InvalidInputError([f"--objective {objective}: must be hours or wait"])
    target = output or Path(f"Pulumi.{stack}-tuned.yaml")
    for option, path in (("--output", target.parent), ("--report", report)):
        if path is not None and not path.is_dir():
            raise InvalidInputError([f"{option}: there is no folder {path}; create it first"])
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("trying plans (compiling takes 10 s the first time)", total=plans)
        from async_inference.rehearsal import search

        found = search.tune(
            stack=stack,
            traffic=traffic,
            objective=objective,
            max_p95_wait_s=max_p95_wait_s,
            changed=changed or [],
            plans=plans,
            seed=seed,
            seeds=seeds,
            advance=lambda tried: progress.advance(task, tried),
        )
        written = search.as_stack_file(stack, found)
    if as_json:
        typer.echo(json.dumps(search.as_json(found), indent=2))
    else:
        Console().print(search.as_table(found))
    target.write_text(written, encoding="utf-8")
    console = Console(stderr=as_json, soft_wrap=True)
    if report is not None:
        search.picture(found, report / "front.png")
        console.print(f"Chart of the Pareto front: {report / 'front.png'}")
    console.print(f"Stack config with the chosen plan: {target}")


def history(
    endpoint: Annotated[
        str | None, typer.Argument(help="Endpoint name, instead of --stack.")
    ] = None,
    stack: StackOption = None,
    variant: Annotated[str, typer.Option(help="Production variant.")] = "AllTraffic",
    days: Annotated[
        float, typer.Option(help="Days to read back; CloudWatch keeps 15.", min=0.01, max=15)
    ] = 14,
    output: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("traffic.csv"),
) -> None:
    """Read a live endpoint's past traffic from CloudWatch, to use with rehearse and tune.

    With --stack it reads the account of the stack's provider, otherwise that of the shell.

    For example: async-inference history --stack prod --days 7 --output mine.csv
    """
    from async_inference.rehearsal import history as histories
    from async_inference.rehearsal import traffic as traffics

    if not output.parent.is_dir():
        raise InvalidInputError([f"--output: there is no folder {output.parent}; create it first"])
    target = target_of(endpoint, stack)
    with Console(stderr=True).status("reading CloudWatch"), aws_errors_reported():
        cloudwatch = target.session.client("cloudwatch", endpoint_url=target.url)
        minutes = histories.fetch(cloudwatch, target.endpoint, variant, timedelta(days=days))
    found = histories.reconstruct(minutes)
    traffics.write(found, output)
    console = Console(soft_wrap=True)
    console.print(
        f"{found.requests} requests over {found.span_s / 86_400:.1f} days, "
        f"{found.work_s / 3600:.1f} h of work, to the minute: {output}"
    )
    console.print(f"Next: async-inference rehearse --traffic {output}")
