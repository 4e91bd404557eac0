"""What can go wrong between a request and its result, each as its own type.

Every error is an `InferenceError` and ends in what to do about it, where there is something to do.
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
    """Anything that keeps a request from its result."""

    inference_id: str | None = None
    """Which request, where the error belongs to one."""


class RejectedError(InferenceError):
    """The request is wrong: SageMaker or the model refused it, and will do so again.

    `status` is the model's HTTP status, None where SageMaker refused.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class FailedError(InferenceError):
    """The model, or SageMaker around it, failed with this message."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ExpiredError(FailedError):
    """The request waited in the queue for longer than its time to live."""


class DeadlineError(InferenceError):
    """There was no answer by the caller's deadline. An accepted request continues anyway."""


class ThrottledError(DeadlineError):
    """AWS still asked for fewer calls when the deadline came."""


class NoFailurePathError(DeadlineError):
    """No output by the deadline, of an endpoint that tells no failures: it may have failed."""


class EndpointGoneError(InferenceError):
    """There is no such endpoint (any more), or it does not serve; what waited in it is lost."""


class CredentialsError(InferenceError):
    """No credentials, or expired or wrong ones."""


class AccessError(InferenceError):
    """The credentials lack a permission."""


class OutputTooLargeError(InferenceError):
    """The output is larger than the caller takes into memory; it stays where it is."""


class StorageError(InferenceError):
    """A bucket is not there, or the result could not be written to disk."""


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
"""What a call to AWS raises when AWS, the way to it, the credentials or a disk fail; all else is a
fault of ours, which ends the rule as it is."""


def is_missing(error: Exception) -> bool:
    """Whether S3 says that there is no such object."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in _NOT_THERE


def is_throttle(error: Exception) -> bool:
    """Whether AWS asks for fewer calls."""
    return isinstance(error, ClientError) and (
        error.response["Error"]["Code"] in _THROTTLES or _status(error) == 429
    )


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, ClientError):
        known = error.response["Error"]["Code"] in _TRANSIENT or _status(error) >= 500
        return known or is_throttle(error)
    return isinstance(
        error, HTTPClientError | ConnectionError | IncompleteReadError | ResponseStreamingError
    )


def typed(
    error: Exception,
    doing: str,
    permission: str,
    otherwise: type[InferenceError] = RejectedError,
) -> InferenceError:
    """The typed error for what a call to AWS raised.

    Args:
        error: not transient, and not a missing object.
        doing: what was tried, as the start of a sentence.
        permission: the IAM action that it takes.
        otherwise: the type for what has none of its own.
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
            return AccessError(f"{doing}: {code}: {message}; it takes {permission}")
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
"""How SageMaker reports what the container answered."""
_EXPIRED = re.compile(r"\bexpired\b", re.IGNORECASE)
"""UNSETTLED: AWS documents no text for an expired request; the word is all that is asked for."""


def of_failure(text: str) -> RejectedError | FailedError:
    """The error that a failure object or notification tells of, with the model's own message.

    A 4xx of the container is a rejection: the same request would be refused again. A JSON answer
    with `error` or `message` is reduced to that.
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
    # SageMaker's toolkit appends the traceback to what was raised.
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
