"""The program under mocks."""

from tests.support.registrations import register

__all__ = ["register"]  # a fixture
