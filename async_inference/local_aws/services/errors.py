"""The error responses of the embedded AWS."""


class AwsError(Exception):
    """An error in AWS's own terms.

    Args:
        code: AWS's error code, such as `ValidationException`.
        message: AWS's words.
        status: the HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def validation_error(message: str) -> AwsError:
    """A ValidationException, which SageMaker answers for most that is wrong."""
    return AwsError("ValidationException", message)
