"""Linters and scanners that nobody here wrote, over all that the stacks register.

They read a CloudFormation rendering and the policy documents; what AWS makes of them, AWS shows.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloudformation import template
from tests.support.program import STACKS

pytestmark = pytest.mark.audit

ACCEPTED = {
    # Who reads and writes objects is told by CloudTrail's data events, an account's own choice; a
    # bucket for access logs beside this one would have to be told by a third.
    "CKV_AWS_18": {"dev", "prod", "guarded"},
    # Under a key of AWS's: the reference system has no key of its own, encryption: customer has.
    "CKV_AWS_158": {"dev"},
    # Both get their weights from a hub by default, which isolation would forbid; networkIsolation
    # is refused with such weights, and on in the guarded stack.
    "CKV_AWS_370": {"dev", "prod"},
}
"""Findings of checkov that stand, and in which stacks."""


@pytest.fixture
def templates(registered, tmp_path) -> dict[str, Path]:
    written = {stack: tmp_path / f"{stack}.json" for stack in STACKS}
    for stack, path in written.items():
        path.write_text(json.dumps(template(registered(stack)), indent=1))
    return written


def output_of(*command: str | Path, given: str | None = None) -> str:
    """A tool's output, whatever its exit code: findings are judged here."""
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert not done.stderr, done.stderr
    return done.stdout


def test_cfn_lint_finds_nothing(tools, templates):
    found = output_of(tools / "cfn-lint", "--format", "json", *templates.values())

    assert [f"{each['Filename']}: {each['Message']}" for each in json.loads(found)] == []


def test_checkov_finds_what_is_accepted_and_nothing_else(tools, templates):
    found = json.loads(
        output_of(
            tools / "checkov",
            *("--file", *templates.values()),
            *("--framework", "cloudformation", "--output", "json"),
            *("--compact", "--quiet", "--skip-download"),
        )
    )

    assert found["summary"]["parsing_errors"] == 0
    findings: dict[str, set[str]] = {}
    for each in found["results"]["failed_checks"]:
        findings.setdefault(each["check_id"], set()).add(Path(each["file_path"]).stem)
    assert findings == ACCEPTED


@pytest.mark.parametrize("stack", ["dev", "guarded"])
@pytest.mark.parametrize(
    "document", ["role", "deployer_policy", "invoker_policy", "operator_policy"]
)
def test_parliament_finds_nothing_in_a_policy(tools, registered, stack, document):
    record = registered(stack)

    found = output_of(tools / "parliament", "--json", given=policy(record, document))

    assert found == ""


def policy(record: Any, document: str) -> str:
    if document == "role":
        return record["aws:iam/rolePolicy:RolePolicy", "sdxl-role-policy"].inputs["policy"]
    return record.outputs["async-inference:index:AsyncEndpoint", "sdxl"][document]
