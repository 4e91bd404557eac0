"""Reports all problems of bad input together: which key, which value, which rule, what to do."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel


class StackValue(BaseModel):
    """Base of frozen models that refuse unknown keys; keys are camelCase in stack files."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,  # models inside other models need no validator of their own
    )


class InvalidInputError(Exception):
    """Input that cannot be used; `problems` has a sentence for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(self.problems))


def problems_of(error: ValidationError, prefix: Sequence[str] = ()) -> list[str]:
    """A sentence for each problem that pydantic found.

    Args:
        error: the error of a model's validation.
        prefix: the keys that lead to the validated value, outermost first.
    """
    sentences: list[str] = []
    for problem in error.errors(include_url=False):
        key = dotted((*prefix, *problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            sentences.append(f"{key}: no such key; remove it or correct its spelling")
        elif problem["type"] == "missing":
            sentences.append(f"{key}: is required; add it")
        else:
            rule = message[0].lower() + message[1:]
            sentences.append(f"{key} = {shown(problem['input'])}: {rule}")
    return sentences


def dotted(parts: Iterable[str | int]) -> str:
    """`("a", 0, "b")` as `a[0].b`, the way a reader finds it in YAML."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def shown(value: object, limit: int = 80) -> str:
    """A value for a message: its repr, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
