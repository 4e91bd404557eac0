"""Asynchronous inference as a function call: submit, wait, collect."""
