"""What a caller did wrong, as an HTTP status and sentences.

The toolkit answers a raised error with its whole traceback, so a refusal travels from function to
function as a value, and only `output_fn` turns it into an answer.
"""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """An HTTP status from 400 on, and a sentence for each problem."""

    status: int
    problems: tuple[str, ...]

    @property
    def body(self) -> bytes:
        return json.dumps(
            {"error": "; ".join(self.problems), "problems": list(self.problems)}
        ).encode()


class RefusedError(Exception):
    """A refusal on its way to the function of the contract that was called."""

    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(*problems)
        self.refusal = Refusal(status, problems)
