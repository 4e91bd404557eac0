"""Asynchronous inference as a function call: submit, wait, collect.

Needs boto3 and nothing else of this project.

    from async_inference.client import Client, Request

    result = Client("async-sdxl-dev").infer(Request.json({"prompt": "a seven"}), deadline_s=900)
"""

from async_inference.client.aio import AsyncClient
from async_inference.client.errors import (
    AccessError,
    CredentialsError,
    DeadlineError,
    EndpointGoneError,
    ExpiredError,
    FailedError,
    InferenceError,
    NoFailurePathError,
    OutputTooLargeError,
    RejectedError,
    StorageError,
    ThrottledError,
)
from async_inference.client.protocol import Accepted, EndpointState, Pace, Request, Result
from async_inference.client.sync import Client

__all__ = [
    "Accepted",
    "AccessError",
    "AsyncClient",
    "Client",
    "CredentialsError",
    "DeadlineError",
    "EndpointGoneError",
    "EndpointState",
    "ExpiredError",
    "FailedError",
    "InferenceError",
    "NoFailurePathError",
    "OutputTooLargeError",
    "Pace",
    "RejectedError",
    "Request",
    "Result",
    "StorageError",
    "ThrottledError",
]
