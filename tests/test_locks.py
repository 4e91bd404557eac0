"""What is pinned for whom, and that what is not installed is told."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from async_inference import __main__ as command
from tests.support import ROOT

LOCKS = sorted([ROOT / "requirements.txt", *(ROOT / "locks").glob("*.txt")])


def pins(lock: Path) -> dict[str, str]:
    """Each package of a lock with its version."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_lock_has_hashes_and_says_whom_it_is_for(lock):
    text = lock.read_text()

    assert pins(lock)
    assert text.count("--hash=sha256:") >= len(pins(lock))
    assert f"`{lock.name}`" in (ROOT / "locks" / "README.md").read_text()


@pytest.mark.parametrize("lock", ["requirements.txt", "locks/commands.txt"])
def test_what_a_part_needs_has_the_versions_that_were_tested(lock):
    assert pins(ROOT / lock).items() <= pins(ROOT / "locks" / "everything.txt").items()


def test_the_program_brings_no_simulator_no_emulator_and_no_command():
    """What it imports, the linter's contracts say."""
    installed = pins(ROOT / "requirements.txt").keys()

    assert {"pulumi", "pulumi-aws", "boto3", "pydantic", "pyyaml", "uv"} <= installed
    assert not {"numba", "numpy", "scipy", "matplotlib", "moto", "typer", "rich"} & installed


PROGRAM = """
import importlib.metadata, json, sys
brought = {"async-inference", *json.loads(sys.argv[1])}
for module, owners in importlib.metadata.packages_distributions().items():
    if not brought & {owner.lower().replace("_", "-") for owner in owners}:
        sys.modules.setdefault(module, None)
import async_inference.stack.provider, components.async_endpoint  # the program and its hooks
"""


def test_the_program_imports_nothing_that_pulumi_install_does_not_bring():
    brought = json.dumps(list(pins(ROOT / "requirements.txt")))
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, brought]

    subprocess.run(command, cwd=ROOT, check=True)


@pytest.mark.parametrize(("missing", "extra"), [("typer", "commands"), ("numba", "rehearsal")])
def test_a_command_whose_packages_are_not_installed_says_which_to_install(missing, extra):
    hidden = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['rehearse']\n"
    run = f"{hidden}from async_inference.__main__ import main; main()"

    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: this command needs {missing}, which is not installed")
    assert f"pip install 'async-inference[{extra}]'" in done.stderr


def test_every_package_that_may_be_missing_belongs_to_an_extra():
    declared = (ROOT / "pyproject.toml").read_text()

    for extra in set(command.EXTRAS.values()):
        assert f"\n{extra} = [" in declared
