"""A trial deployment that cannot start an instance: what AWS accepts of a stack, for nothing.

A copy of the stack is deployed with an instance type whose quota is 0, and destroyed once SageMaker
has refused the endpoint for that quota. By then AWS has accepted or refused everything else, except
the scaling of the endpoint.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from async_inference.aws_clients import Clients
from async_inference.operations import preflight
from async_inference.operations.account import StackState, exported
from async_inference.operations.checks import Check
from async_inference.stack.groups import LOCAL_STORAGE
from async_inference.stack.settings import MAX_STACK_NAME, PROJECT, Settings
from async_inference.validation import InvalidInputError

SUFFIX = "-probe"
OVER_QUOTA = "ResourceLimitExceeded"
"""SageMaker's error for an instance beyond the account's quota (BC CreateEndpoint)."""
_QUOTA = re.compile(r"(ml\.[a-z0-9-]+\.[a-z0-9]+) for endpoint usage")
_OWN_BACKEND = ("encryptionsalt", "secretsprovider", "encryptedkey")


@dataclass(frozen=True)
class Trial:
    """A stack that is deployed and destroyed.

    Args:
        name: its name.
        instance_type: one of which the account may run none.
        file: the text of its `Pulumi.<name>.yaml`.
    """

    name: str
    instance_type: str
    file: str


def quotas(client: Clients) -> dict[str, float]:
    """How many instances of each type the account may run for endpoints."""
    found: dict[str, float] = {}
    for each in preflight.quotas(client("service-quotas")):
        named = _QUOTA.fullmatch(each["QuotaName"])
        if named:
            # What was applied to the account comes first, and counts before AWS's default.
            found.setdefault(named[1], each["Value"])
    return found


def without_quota(settings: Settings, known: Mapping[str, float]) -> str | None:
    """The instance type most like the stack's of which the account may run none.

    Args:
        settings: the stack's.
        known: instances that the account may run, by type.
    """
    own = settings.instance_type
    family = own.split(".")[1]

    def unlikeness(other: str) -> tuple[bool, bool, bool, str]:
        theirs = other.split(".")[1]
        local = (theirs in LOCAL_STORAGE) == (family in LOCAL_STORAGE)
        return other != own, theirs != family, not local, other

    none = [each for each, value in known.items() if value == 0 and ".t2." not in each]
    return min(none, key=unlikeness, default=None)


def trial(text: str, stack: str, instance_type: str) -> Trial:
    """A copy of a stack that notifies nobody, starts no instance and leaves nothing behind.

    Args:
        text: the stack's file.
        stack: its name.
        instance_type: one of which no instance can start.

    Raises:
        InvalidInputError: the file holds secrets, which a copy cannot read.
    """
    document = yaml.safe_load(text)
    secrets = [
        key
        for key, value in document["config"].items()
        if isinstance(value, dict) and "secure" in value
    ]
    if secrets:
        raise InvalidInputError(
            [f"{key}: is a secret, which a copy of the stack cannot read" for key in secrets]
        )
    config = document["config"] | {
        f"{PROJECT}:instanceType": instance_type,
        f"{PROJECT}:forceDestroyBucket": True,
    }
    config.pop(f"{PROJECT}:subscriptions", None)
    kept = {key: value for key, value in document.items() if key not in _OWN_BACKEND}
    return Trial(
        name=f"{stack[: MAX_STACK_NAME - len(SUFFIX)]}{SUFFIX}",
        instance_type=instance_type,
        file=yaml.safe_dump(kept | {"config": config}),
    )


def probe(wanted: Trial, folder: Path, environment: Mapping[str, str] | None) -> list[Check]:
    """Deploy, look, destroy.

    Args:
        wanted: the trial stack.
        folder: the program's.
        environment: the CLI's variables; this process's if None.

    Raises:
        InvalidInputError: an earlier trial still exists, or Pulumi has no backend.
    """
    file = folder / f"Pulumi.{wanted.name}.yaml"
    if file.exists():
        raise InvalidInputError(
            [
                f"{file.name}: is left over from an earlier trial; remove it first: pulumi destroy "
                f"--run-program --stack {wanted.name} && pulumi stack rm {wanted.name}"
            ]
        )

    def pulumi(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--stack", wanted.name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    file.write_text(wanted.file, encoding="utf-8")
    created = pulumi("stack", "init", "--no-select")
    if created.returncode:
        file.unlink()
        raise InvalidInputError([f"pulumi stack init: {' '.join(created.stderr.split())}"])
    try:
        up = pulumi("up", "--yes", "--skip-preview", "--continue-on-error")
        found = list(checks(wanted, up.stdout + up.stderr, exported(wanted.name, environment)))
    finally:
        down = pulumi("destroy", "--yes", "--skip-preview", "--run-program")
        gone = down.returncode == 0 and pulumi("stack", "rm", "--yes").returncode == 0
    if gone:
        file.unlink(missing_ok=True)
        return [*found, Check("taken down", "nothing left", "nothing left")]
    said = "; ".join(message for _, message in _errors(down.stdout + down.stderr))
    again = f"pulumi destroy --run-program --stack {wanted.name}"
    return [*found, Check("taken down", "nothing left", said or "something is left", again)]


def checks(wanted: Trial, said: str, state: StackState) -> Iterator[Check]:
    """The checks that a trial answers.

    Args:
        wanted: the trial stack.
        said: what `pulumi up` printed.
        state: the stack's state after it.
    """
    resources = (state.get("deployment") or {}).get("resources") or []
    kinds = Counter(
        each["type"].rpartition(":")[2]
        for each in resources
        if each["type"].startswith("aws:") and each.get("id")
    )
    started = kinds.pop("Endpoint", 0)
    for kind, number in sorted(kinds.items()):
        yield Check(kind, "AWS takes it", f"{number} created")
    errors = list(_errors(said))
    for name, message in errors:
        if not (name.endswith("-endpoint") or OVER_QUOTA in message):
            yield Check(name, "AWS takes it", message, "correct what AWS names")
    refusals = [message for name, message in errors if name.endswith("-endpoint")]
    asked = f"refused for the quota of {wanted.instance_type} alone"
    if any(OVER_QUOTA in message for message in refusals):
        yield Check("Endpoint", asked, OVER_QUOTA)
    elif started:
        yield Check("Endpoint", asked, "created", "it ran until it was destroyed: see the bill")
    else:
        found = "; ".join(refusals) or "it did not come to that"
        yield Check("Endpoint", asked, found, "correct what AWS names")
    yield Check("scaling", "AWS takes it", "needs an endpoint", checked=False)


def _errors(said: str) -> Iterator[tuple[str, str]]:
    """Each error that Pulumi printed at the end, with the name of its resource."""
    name = ""
    for line in said.partition("Diagnostics:")[2].splitlines():
        headed = re.fullmatch(r"  \S+ \((.+)\):", line)
        if headed:
            name = headed[1]
        failed = re.match(r"    error: (.+)", line)
        if failed and not failed[1].startswith("update failed"):
            yield name, failed[1]
