"""A long queue costs little memory: it is on disk, but for a few numbers a request."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.faults

QUEUED = 100_000
LARGEST_BYTES = 500 * 1024 * 1024
FILL = """
import json, sys
from pathlib import Path
import psutil
from async_inference.local_aws.server import LocalAws, Options
from tests.support.embedded_aws import Account

aws = LocalAws(Options(folder=Path(sys.argv[1])))
aws.start()
try:
    account = Account(aws)
    account.deploy()
    account.in_service()
    endpoint = aws.running("us-east-1")["echo"]
    endpoint.set_desired(0)
    region = aws._region("us-east-1").sagemaker
    before = psutil.Process().memory_info().rss
    for number in range(int(sys.argv[2])):
        region.invoke_endpoint_async({"EndpointName": "echo"}, b"a lighthouse at dusk")
    endpoint.sample(first=True)
    after = psutil.Process().memory_info().rss
    print(json.dumps({"before": before, "after": after, "backlog": endpoint.backlog}))
finally:
    aws.stop()
"""


def test_a_hundred_thousand_requests_can_wait(tmp_path, capsys):
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", FILL, str(tmp_path / "aws"), str(QUEUED)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )

    grown = found["after"] - found["before"]
    with capsys.disabled():
        print(f"\n{QUEUED:,} requests queued in {grown / 2**20:.0f} MiB")
    assert found["backlog"] == QUEUED
    assert found["after"] < LARGEST_BYTES
