"""What is wrong with a request, as an HTTP status and sentences.

The toolkit answers a raised error with its whole traceback. So a refusal is passed from function to
function as a value, and `output_fn` turns it into an answer.
"""

import json
from dataclasses import dataclass
from typing import Any

MAX_PROBLEMS = 16
MAX_PROBLEM_CHARACTERS = 400
"""Together they keep an answer below 64 kB, whatever was sent."""


@dataclass(frozen=True)
class Refusal:
    """An HTTP status of 400 or more, and a sentence for each problem."""

    status: int
    problems: tuple[str, ...]

    @property
    def body(self) -> bytes:
        problems = [
            text
            if len(text) <= MAX_PROBLEM_CHARACTERS
            else text[: MAX_PROBLEM_CHARACTERS - 1] + "…"
            for text in self.problems[:MAX_PROBLEMS]
        ]
        if len(self.problems) > MAX_PROBLEMS:
            problems[-1] = f"and {len(self.problems) - MAX_PROBLEMS + 1} problems more"
        content = {"error": "; ".join(problems), "problems": problems}
        # A lone surrogate in a field's name has no UTF-8 encoding.
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


class RefusedError(Exception):
    """A refusal inside the handler; the function that the toolkit called catches it."""

    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(*problems)
        self.refusal = Refusal(status, problems)


def answer_without_traceback(transformer: Any) -> None:
    """Make the toolkit answer its errors with a sentence and log the traceback.

    The toolkit decodes a JSON body before it calls `input_fn`, so a body that is not UTF-8 fails
    there.

    Args:
        transformer: `sagemaker_inference.transformer.Transformer`.
    """

    def handle_error(context, error, trace: str) -> list[bytes]:
        print(trace, flush=True)
        if "UnicodeDecodeError" in trace:
            refusal = Refusal(400, ("the body is not UTF-8",))
        else:
            refusal = Refusal(error.status_code, (f"the handler failed: {error.message}",))
        context.set_response_status(code=refusal.status, phrase="Refused")
        return [refusal.body]

    transformer.handle_error = staticmethod(handle_error)
