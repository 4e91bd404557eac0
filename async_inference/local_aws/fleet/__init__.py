"""Endpoints that serve: their instances, worker processes and queues."""
