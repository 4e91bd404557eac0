"""The embedded AWS's fixtures, for the test that goes over HTTP."""

from tests.local_aws.conftest import processes, start

__all__ = ["processes", "start"]  # fixtures
