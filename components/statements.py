"""Statements of IAM policy documents."""

from collections.abc import Iterable

Statement = dict[str, object]


def actions(service: str, names: str) -> list[str]:
    """Actions of one service, their names in one text."""
    return [f"{service}:{name}" for name in names.split()]


def allow(
    sid: str,
    action: str | list[str],
    resource: str | list[str],
    condition: Statement | None = None,
) -> Statement:
    statement: Statement = {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})


def document(statements: Iterable[Statement]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}
