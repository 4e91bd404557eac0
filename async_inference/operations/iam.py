"""What IAM policy documents allow and deny, as far as it can be judged without their conditions."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any


def may(policies: Sequence[Mapping[str, Any]], action: str, resource: str) -> bool:
    """Whether IAM policy documents allow an action on a resource, and none denies it.

    Statements with conditions count neither way, since conditions cannot be judged from here.
    """
    allowed = any(
        _covers(statement, action, resource)
        for policy in policies
        for statement in _statements(policy, "Allow")
    )
    return allowed and not any(refused(policy, action, resource) for policy in policies)


def refused(policy: Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether a policy document denies an action on a resource, without conditions."""
    return any(_covers(s, action, resource) for s in _statements(policy, "Deny"))


def _statements(policy: Mapping[str, Any], effect: str) -> Iterator[Mapping[str, Any]]:
    for statement in _listed(policy.get("Statement")):
        if statement["Effect"] == effect and not statement.get("Condition"):
            yield statement


def _covers(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    # IAM's * and ? are those of fnmatch; actions know no case. Brackets occur in neither.
    return any(
        fnmatchcase(action.lower(), pattern.lower()) for pattern in _listed(statement.get("Action"))
    ) and any(fnmatchcase(resource, pattern) for pattern in _listed(statement.get("Resource")))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
