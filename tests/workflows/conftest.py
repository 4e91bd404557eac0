"""The real CLI on an embedded AWS."""

from tests.engine.conftest import aws, cli, program

__all__ = ["aws", "cli", "program"]  # fixtures
