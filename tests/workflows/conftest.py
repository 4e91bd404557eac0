"""The real CLI on an embedded AWS."""

from tests.support.engine import aws, cli, program

__all__ = ["aws", "cli", "program"]  # fixtures
