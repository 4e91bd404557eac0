"""The handler as the container has it."""

from tests.support.handler import in_process, in_the_container

__all__ = ["in_process", "in_the_container"]  # fixtures
