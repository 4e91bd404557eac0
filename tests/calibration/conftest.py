"""The embedded AWS's fixtures, for the test that goes over HTTP."""

from tests.support.embedded_aws import processes, start

__all__ = ["processes", "start"]  # fixtures
