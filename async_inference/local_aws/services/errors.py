"""The error responses of the embedded AWS."""


class AwsError(Exception):
    """An error as AWS answers it.

    Args:
        code: AWS's error code, such as `ValidationException`.
        message: AWS's message.
        status: the HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def validation_error(message: str) -> AwsError:
    """A ValidationException, SageMaker's answer to most bad requests."""
    return AwsError("ValidationException", message)
