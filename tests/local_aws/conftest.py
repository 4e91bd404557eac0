"""An embedded AWS on a free port."""

from tests.support.embedded_aws import processes, start

__all__ = ["processes", "start"]  # fixtures
