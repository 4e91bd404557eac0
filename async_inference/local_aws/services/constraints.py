"""Checks a request against botocore's service model: types, required members, limits, patterns.

botocore's validator checks only required members, types and minimal lengths, and leaves the rest to
the service, which here is this process.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from async_inference.local_aws.services.errors import validation_error

Answer = dict[str, object]
"""What an operation of the embedded AWS answers, in JSON. The types of boto3 describe what boto3
makes of it: times as datetime, members that may be missing as present, and response metadata."""

_KINDS = {
    "string": str,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "boolean": bool,
    "list": list,
    "map": dict,
    "structure": dict,
    "timestamp": (int, float, datetime),
    "blob": (bytes, str),
}
_WHOLE_NUMBERS = {"integer": 2**31 - 1, "long": 2**63 - 1}
_JAVA_CLASSES = {
    r"\p{ASCII}": r"[\x00-\x7F]",
    r"[\p{Print}]": r"[\x20-\x7E]",
    r"\p{Print}": r"[\x20-\x7E]",
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": r"\s",
    r"\uD800\uDC00-\uDBFF\uDFFF": "\\U00010000-\\U0010FFFF",
    r"\z": r"\Z",
}
"""Java's character classes in AWS's patterns, and Python's nearest equivalents."""


def check_request(shape: Shape, request: Mapping[str, object]) -> None:
    """Refuse a request that the service's model does not allow.

    Raises:
        AwsError: a ValidationException that lists every violation, as AWS words it.
    """
    problems: list[str] = []
    _check(shape, request, "", problems)
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected: "
        raise validation_error(count + "; ".join(problems))


def _check(shape: Shape, value: Any, path: str, problems: list[str]) -> None:
    kind = _KINDS.get(shape.type_name)
    wrong_bool = isinstance(value, bool) and shape.type_name != "boolean"
    if kind is not None and (not isinstance(value, kind) or wrong_bool):
        problems.append(_violation(value, path, f"Member must be of type {shape.type_name}"))
        return
    if isinstance(shape, StructureShape):
        problems += [
            _violation(None, _join(path, name), "Member must not be null")
            for name in shape.required_members
            if value.get(name) is None
        ]
        for name, member in value.items():
            if name in shape.members and member is not None:
                _check(shape.members[name], member, _join(path, name), problems)
        return
    largest = _WHOLE_NUMBERS.get(shape.type_name)
    if largest is not None and abs(value) > largest:
        problems.append(_violation(value, path, f"Member must be of type {shape.type_name}"))
    _check_limits(shape, value, path, problems)
    if isinstance(shape, ListShape):
        for index, item in enumerate(value):
            _check(shape.member, item, f"{path}.{index + 1}.member", problems)
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            _check(shape.key, key, f"{path}.key", problems)
            _check(shape.value, item, f"{path}.{key}", problems)


def _check_limits(shape: Shape, value: object, path: str, problems: list[str]) -> None:
    limits = shape.metadata
    sized = isinstance(value, str | bytes | list | dict)
    size, noun = (len(value), "length ") if sized else (value, "value ")
    if "min" in limits and size < limits["min"]:
        rule = f"Member must have {noun}greater than or equal to {limits['min']}"
        problems.append(_violation(value, path, rule))
    if "max" in limits and size > limits["max"]:
        rule = f"Member must have {noun}less than or equal to {limits['max']}"
        problems.append(_violation(value, path, rule))
    if isinstance(value, str):
        pattern = limits.get("pattern")
        if pattern and not _matches(pattern, value):
            rule = f"Member must satisfy regular expression pattern: {pattern}"
            problems.append(_violation(value, path, rule))
        if limits.get("enum") and value not in limits["enum"]:
            rule = f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]"
            problems.append(_violation(value, path, rule))


def _matches(pattern: str, value: str) -> bool:
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    if "\\p{" in pattern:
        # Scripts and other properties, which Python cannot check.
        return True
    try:
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    except re.error:
        # Two of AWS's patterns are not valid regular expressions.
        return True


def _violation(value: object, path: str, rule: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {rule}"


def _join(path: str, name: str) -> str:
    member = name[0].lower() + name[1:]
    return f"{path}.{member}" if path else member
