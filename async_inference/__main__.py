"""The command `async-inference`, or `python -m async_inference` if its script is not on PATH."""

import sys

EXTRAS = {
    "httpx": "commands",
    "psutil": "commands",
    "pydantic": "commands",
    "rich": "commands",
    "typer": "commands",
    "yaml": "commands",
    "boto3": "client",
    "matplotlib": "rehearsal",
    "numba": "rehearsal",
    "numpy": "rehearsal",
    "scipy": "rehearsal",
    "cheroot": "local",
    "moto": "local",
    "sagemaker_inference": "local",
}
"""The extra of this package that installs each module that a command imports."""


def main() -> None:
    """Run the command, or print which package it lacks."""
    try:
        from async_inference.cli import main as command

        command()
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.exit(
            f"error: this command needs {error.name}, which is not installed: "
            f"pip install 'async-inference[{extra}]', or -e '.[{extra}]' in a checkout"
        )


if __name__ == "__main__":
    main()
