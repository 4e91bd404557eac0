"""Writes docs/commands.md from the help of the commands.

`make docs` runs it; a test checks that the page is up to date.
"""

import re
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from async_inference.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
HEAD = """# Command line

<!-- Made by `make docs` from async_inference/cli/; do not edit. -->
"""


def page() -> str:
    """The whole page."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="async-inference", title="Command line"
    )
    _, _, body = text.partition("\n")
    # The overviews cut each help text short; the sections below have the whole text.
    body = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", body)
    # Every command has it.
    body = body.replace("* `--help`: Show this message and exit.\n", "")
    return HEAD + re.sub(r"\*\*Options\*\*:\n\n(?=#|\Z|\n)", "", body).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
