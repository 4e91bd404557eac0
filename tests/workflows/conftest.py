"""The real CLI on an embedded AWS."""

from tests.support.embedded_aws import processes
from tests.support.engine import aws, cli, program, providers

__all__ = ["aws", "cli", "processes", "program", "providers"]  # fixtures
