"""Options that several commands share."""

from typing import Annotated

import typer

EndpointOption = Annotated[str | None, typer.Option(help="Endpoint name, instead of --stack.")]
StackOption = Annotated[
    str | None,
    typer.Option(help="Stack whose endpoint to use; default: local, while the embedded AWS runs."),
]
TrafficOption = Annotated[
    str, typer.Option(help="CSV file (arrival_s,service_s; or .gz) or name of a generator.")
]
ChangedOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change an assumption, such as setup_s=300.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
