"""What IAM policy documents allow and deny, conditions left aside."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase


def may(policies: Sequence[Mapping[str, object]], action: str, resource: str) -> bool:
    """Whether IAM policy documents allow an action on a resource, and none denies it.

    Statements with conditions are ignored, since conditions cannot be evaluated here.
    """
    allowed = any(
        _covers(statement, action, resource)
        for policy in policies
        for statement in _statements(policy, "Allow")
    )
    return allowed and not any(refused(policy, action, resource) for policy in policies)


def refused(policy: Mapping[str, object], action: str, resource: str) -> bool:
    """Whether a policy document denies an action on a resource unconditionally."""
    return any(_covers(s, action, resource) for s in _statements(policy, "Deny"))


def _statements(policy: Mapping[str, object], effect: str) -> Iterator[Mapping[str, object]]:
    for statement in _listed(policy.get("Statement")):
        assert isinstance(statement, Mapping)  # IAM takes nothing else
        if statement["Effect"] == effect and not statement.get("Condition"):
            yield statement


def _covers(statement: Mapping[str, object], action: str, resource: str) -> bool:
    # IAM's * and ? are those of fnmatch, and the case of actions does not count. Brackets occur in
    # neither.
    actions, resources = _listed(statement.get("Action")), _listed(statement.get("Resource"))
    return any(fnmatchcase(action.lower(), str(pattern).lower()) for pattern in actions) and any(
        fnmatchcase(resource, str(pattern)) for pattern in resources
    )


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
