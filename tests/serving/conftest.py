"""The handler behind model servers, and beside them in this process."""

from tests.support.embedded_aws import processes
from tests.support.handler import in_process, in_the_container

__all__ = ["in_process", "in_the_container", "processes"]  # fixtures
