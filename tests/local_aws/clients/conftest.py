"""Programs that nobody here wrote, as their users run them: an endpoint URL and any credentials."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from async_inference.local_aws import make_up
from tests.support.embedded_aws import Account

ENDS_WITHIN_S = 120


@pytest.fixture
def account(start) -> Account:
    account = start()
    account.deploy()
    account.in_service()
    return account


@pytest.fixture
def run(tmp_path) -> Callable[..., str]:
    """Run a program against an account; returns what it printed."""

    def run(account: Account, *command: str | Path, **more: str) -> str:
        if shutil.which(command[0]) is None:
            pytest.fail(f"{command[0]} is missing; run: python tools/install.py clients")
        # What .local/env exports, and nothing of the user's own: no profile, no proxy.
        environment = {**make_up.environment(account.aws.url, tmp_path), "HOME": str(tmp_path)}
        done = subprocess.run(
            command,
            env=environment | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    return run
