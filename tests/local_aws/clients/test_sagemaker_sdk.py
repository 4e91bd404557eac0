"""The SageMaker Python SDK's asynchronous predictor: predict, wait, result, failure."""

import json
from pathlib import Path

import pytest

from tests.support import CLIENTS

pytestmark = pytest.mark.clients


def test_the_asynchronous_predictor_predicts_waits_and_raises_what_failed(account, run):
    account.s3.put_object(Bucket="echo-bucket", Key="in/request", Body=b"hello")

    printed = run(
        account,
        CLIENTS / "python" / "bin" / "python",
        Path(__file__).parent / "predict.py",
        "echo",
        SAGEMAKER_SUPPRESS_V2_WARNING="1",
    )

    # Before that, the SDK says where it looked for its configuration.
    found = json.loads(printed.splitlines()[-1])
    assert found["waited"] == "wait for me"
    assert found["later"] == "come back later"
    assert found["output_path"].startswith("s3://echo-bucket/out/")
    assert "poisoned" in found["failure"]
    assert found["unfinished"] == "ObjectNotExistedError"
    inference_id, location = found["resource"]
    assert inference_id == "by-resource"
    assert location.startswith("s3://echo-bucket/out/")
    assert found["status"] == "InService"
    assert found["all"] == ["echo"]
