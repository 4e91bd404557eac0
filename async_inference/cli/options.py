"""Options that several commands have."""

from typing import Annotated

import typer

EndpointOption = Annotated[
    str | None, typer.Option(help="The endpoint's name, instead of a stack's.")
]
StackOption = Annotated[
    str | None,
    typer.Option(help="Whose endpoint to use; by default local, while the embedded AWS runs."),
]
TrafficOption = Annotated[
    str, typer.Option(help="CSV (arrival_s,service_s; also .gz) or a generator's name.")
]
ChangedOption = Annotated[
    list[str] | None, typer.Option("--set", help="Another assumption, such as setup_s=300.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable, alone.")]
