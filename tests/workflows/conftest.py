"""The real CLI on an embedded AWS."""

from tests.support.embedded_aws import processes
from tests.support.engine import aws, cli, program, providers, virtualenv

__all__ = ["aws", "cli", "processes", "program", "providers", "virtualenv"]  # fixtures
