"""What can go wrong between a request and its result, as a type for each case.

Every error is an `InferenceError`. Its message ends with the remedy, if there is one.
"""

import json
import re

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)


class InferenceError(Exception):
    """Base class of all errors that prevent a result."""

    inference_id: str | None = None
    """The request's id, if the error belongs to one request."""


class RejectedError(InferenceError):
    """SageMaker or the model rejected the request, and would do so again.

    `status` is the model's HTTP status; None if SageMaker rejected the request.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class FailedError(InferenceError):
    """The model or SageMaker failed with this message."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ExpiredError(FailedError):
    """The request waited in the queue for longer than its time to live."""


class DeadlineError(InferenceError):
    """There was no result by the caller's deadline. An accepted request continues anyway."""


class ThrottledError(DeadlineError):
    """AWS throttled the calls until the deadline."""


class NoFailurePathError(DeadlineError):
    """There was no output by the deadline, and the endpoint does not report failures."""


class EndpointGoneError(InferenceError):
    """The endpoint does not exist or is not in service; requests in its queue are lost."""


class CredentialsError(InferenceError):
    """Credentials are missing, expired or wrong."""


class AccessError(InferenceError):
    """The credentials lack a permission."""


class OutputTooLargeError(InferenceError):
    """The output is larger than `max_output_bytes`; it stays on S3."""


class StorageError(InferenceError):
    """A bucket does not exist, or the result could not be written to disk."""


_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "MissingAuthenticationTokenException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_THROTTLES = {
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_TRANSIENT = {"InternalError", "InternalFailure", "RequestTimeout", "ServiceUnavailable"}
_NOT_THERE = {"404", "NoSuchKey", "NotFound"}
_GONE = re.compile(r"(not found|could not find|is not in service)", re.IGNORECASE)


TROUBLE = (ClientError, BotoCoreError, OSError)
"""What an AWS call raises if AWS, the network, the credentials or a disk fail. Anything else is a
bug here and is raised unchanged."""


def is_missing(error: Exception) -> bool:
    """Whether S3 says that the object does not exist."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in _NOT_THERE


def is_throttle(error: Exception) -> bool:
    """Whether AWS asks for fewer calls."""
    return isinstance(error, ClientError) and (
        error.response["Error"]["Code"] in _THROTTLES or _status(error) == 429
    )


def is_transient(error: Exception) -> bool:
    """Whether a retry of the same call may succeed."""
    if isinstance(error, ClientError):
        known = error.response["Error"]["Code"] in _TRANSIENT or _status(error) >= 500
        return known or is_throttle(error)
    return isinstance(
        error, HTTPClientError | ConnectionError | IncompleteReadError | ResponseStreamingError
    )


def typed_error(
    error: Exception,
    doing: str,
    permission: str,
    otherwise: type[InferenceError] = RejectedError,
) -> InferenceError:
    """The typed error for an exception of an AWS call.

    Args:
        error: neither transient nor a missing object.
        doing: what was tried, as the start of a sentence.
        permission: the IAM action that the call needs.
        otherwise: the type of all other errors.
    """
    if isinstance(error, InferenceError):
        return error
    if isinstance(error, OSError):
        return StorageError(f"{doing}: {error.strerror or error}")
    if isinstance(error, ClientError):
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _CREDENTIALS:
            return CredentialsError(f"{doing}: {code}: {message}; renew the AWS credentials")
        if "AccessDenied" in code or _status(error) == 403:
            return AccessError(f"{doing}: {code}: {message}; it needs {permission}")
        if code == "NoSuchBucket":
            return StorageError(f"{doing}: {message}")
        if code.startswith("Validation") and _GONE.search(message):
            return EndpointGoneError(f"{doing}: {message}")
        return otherwise(f"{doing}: {code}: {message}")
    if isinstance(
        error,
        NoCredentialsError
        | PartialCredentialsError
        | CredentialRetrievalError
        | TokenRetrievalError
        | SSOError
        | NoRegionError,
    ):
        return CredentialsError(f"{doing}: {error}")
    if isinstance(error, ParamValidationError | BotoCoreError):
        return otherwise(f"{doing}: {error}")
    raise error


_FROM_CONTAINER = re.compile(
    r"Received (?:client|server) error \((?P<status>\d{3})\) from \w+"
    r'(?: with message "(?P<message>.*)")?',
    re.DOTALL,
)
"""SageMaker's message about a container's error response."""
_EXPIRED = re.compile(r"\bexpired\b", re.IGNORECASE)
"""UNSETTLED: AWS does not document the message of an expired request, so one word decides."""


def failure_error(text: str) -> RejectedError | FailedError:
    """The error for the text of a failure object or notification, with the model's message.

    A 4xx status of the container is a rejection: the same request would be rejected again. A JSON
    response with `error` or `message` is reduced to that.
    """
    container = _FROM_CONTAINER.search(text)
    if container is None:
        text = text.strip()
        return ExpiredError(text) if _EXPIRED.search(text) else FailedError(text)
    status = int(container["status"])
    message = _said(container["message"]) if container["message"] else text.strip()
    kind = RejectedError if 400 <= status < 500 else FailedError
    return kind(message, status)


def _said(message: str) -> str:
    # SageMaker's toolkit appends the traceback to the message.
    message = message.partition("\nTraceback (most recent call last)")[0] or message
    try:
        answer = json.loads(message)
    except ValueError:
        return message.strip()
    if isinstance(answer, dict):
        for key in ("error", "message"):
            if isinstance(answer.get(key), str):
                return answer[key]
    return message.strip()


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
