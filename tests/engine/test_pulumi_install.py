"""A fresh clone needs Pulumi's own two commands, and no other, before its first preview.

`--no-plugins`, since the published provider comes from the vendor's site: here the embedded AWS's
takes its place. The language host that can be built from Go modules installs with pip, whatever
`runtime.options.toolchain` says; pip is what Pulumi.yaml names.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from async_inference.local_aws.clients import clients_at
from async_inference.local_aws.make_up import STATE, environment
from tests.support import ROOT
from tests.support.engine import copied

pytestmark = pytest.mark.engine


def packages(python: Path) -> set[str]:
    """What is installed beside a Python, except pip and what venv brings with it."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True,
        check=True,
    )
    found = {each["name"].lower().replace("_", "-") for each in json.loads(listed.stdout)}
    return found - {"pip", "setuptools", "wheel"}


def test_pulumi_install_then_pulumi_preview_works_in_a_fresh_clone(cli, tmp_path, aws):
    folder = copied(tmp_path / "clone")
    (folder / ".venv").unlink()
    (folder / ".local" / STATE).mkdir()
    for lock in (folder / "inference_code").glob("requirements.*"):
        lock.unlink()  # packing them takes a minute, and the walk from an account to images does it
    # Compiling each of pulumi-aws's modules takes longer than the rest.
    variables = os.environ | environment(aws.url, folder / ".local") | {"PIP_NO_COMPILE": "1"}

    def pulumi(*arguments: str) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pulumi("install", "--no-plugins")
    pulumi("stack", "select", "--create", "dev")
    said = pulumi("preview", "--stack", "dev")

    asked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert packages(folder / ".venv" / "bin" / "python") == set(asked)
    assert "async-sdxl-dev is created" in said
    assert not clients_at(aws.url)("s3").list_buckets()["Buckets"]
