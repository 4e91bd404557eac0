"""The real CLI on an embedded AWS."""

from tests.engine.conftest import aws, cli, processes, program, providers

__all__ = ["aws", "cli", "processes", "program", "providers"]  # fixtures
