"""`python -m async_inference`: the command, where its script is not on PATH."""

from async_inference.cli import main

main()
