"""The program under mocks."""

from tests.components.conftest import register

__all__ = ["register"]  # a fixture
