"""The AWS SDK for JavaScript, version 3: one client that shares no code with the suite's own."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support import CLIENTS

pytestmark = pytest.mark.clients


def test_a_client_in_javascript_sends_waits_reads_and_tells_failures_apart(account, run):
    node, packages = shutil.which("node"), CLIENTS / "javascript" / "node_modules"
    if node is None or not packages.exists():
        pytest.skip("no Node.js with npm, which installs the SDK: python tools/install.py clients")
    account.s3.put_object(Bucket="echo-bucket", Key="in/request", Body=b"hello")
    account.s3.put_object(Bucket="echo-bucket", Key="in/poison", Body=b"poison")

    printed = run(
        account,
        node,
        Path(__file__).parent / "javascript" / "invoke.cjs",
        "echo",
        NODE_PATH=str(packages),
    )

    found = json.loads(printed)
    assert found["status"] == 202
    assert found["inferenceId"] == "from-javascript"
    assert found["answer"] == "hello"
    assert "poisoned" in found["failure"]
    assert found["refused"]["status"] == 400
    assert found["refused"]["name"] == "ValidationError"
    assert "Endpoint nothing of account" in found["refused"]["message"]
