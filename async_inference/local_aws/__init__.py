"""The embedded AWS: one loopback process that really runs and really scales an endpoint."""
