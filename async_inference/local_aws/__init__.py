"""The embedded AWS: one loopback process that runs an endpoint's code and scales it."""
