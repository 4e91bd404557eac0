"""The workflows pass linters that nobody here wrote, and keep what those do not know."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = ROOT / ".local" / "bin" / "actionlint"


def checked(command: list[str | Path], folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.audit
def test_actionlint_finds_nothing():
    """Built from its Go module, at the version in tools/actionlint/go.mod."""
    package = "github.com/rhysd/actionlint/cmd/actionlint"
    checked(["go", "build", "-o", ACTIONLINT, package], ROOT / "tools" / "actionlint")

    checked([ACTIONLINT, *WORKFLOWS])


@pytest.mark.audit
def test_zizmor_finds_nothing_at_its_strictest():
    zizmor = Path(sys.executable).with_name("zizmor")

    checked([zizmor, "--offline", "--no-progress", "--persona", "pedantic", ".github"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_job_has_more_than_it_needs(path):
    """Nothing by default: jobs that talk to AWS get a token for it, the comment may write."""
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"].pop("contents") == "read"
        allowed = {"preview": {"id-token"}, "deploy": {"id-token"}, "comment": {"pull-requests"}}
        assert set(job["permissions"]) == allowed.get(name, set()), name
        roles = [s for s in job["steps"] if "configure-aws" in s.get("uses", "")]
        assert bool(roles) == ("id-token" in job["permissions"])
        for step in roles:
            assert set(step["with"]) <= {"role-to-assume", "aws-region", "role-duration-seconds"}


def test_what_was_deployed_is_verified():
    steps = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text())["jobs"]["deploy"]
    commands = [step["run"] for step in steps["steps"] if "run" in step]

    assert "preflight --stack" in commands[-3]
    assert commands[-2].startswith("pulumi up")
    assert "verify --stack" in commands[-1]
