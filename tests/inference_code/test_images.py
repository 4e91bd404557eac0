"""The tiny SDXL through SageMaker's own Transformer, and as an endpoint of the embedded AWS."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from components.model_source import package
from tests.local_aws.conftest import ROLE, eventually, start  # noqa: F401 a fixture

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

ASKED = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def handler_folder() -> Path:
    return Path(__file__).resolve().parents[2] / "inference_code"


@pytest.fixture
def account(start, handler_folder, tmp_path):  # noqa: F811
    account = start(minute_s=60)
    account.s3.create_bucket(Bucket="images")
    archive = package(handler_folder, tmp_path / "build")
    account.s3.put_object(Bucket="images", Key="code.tar.gz", Body=archive.read_bytes())
    account.sagemaker.create_model(
        ModelName="sdxl",
        ExecutionRoleArn=ROLE,
        PrimaryContainer={
            "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1",
            "ModelDataUrl": "s3://images/code.tar.gz",
            "Environment": {"SAGEMAKER_PROGRAM": "inference.py", "MODEL_WEIGHTS": "tiny"},
        },
    )
    account.sagemaker.create_endpoint_config(
        EndpointConfigName="sdxl",
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": "sdxl",
                "InstanceType": "ml.g5.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={
            "OutputConfig": {"S3OutputPath": "s3://images/out", "S3FailurePath": "s3://images/bad"}
        },
    )
    account.sagemaker.create_endpoint(EndpointName="sdxl", EndpointConfigName="sdxl")
    eventually(lambda: account.status("sdxl") == "InService", "the endpoint", 120)
    return account


def ask(account, fields: dict, accept: str = "image/png") -> dict:
    return account.runtime.invoke_endpoint_async(
        EndpointName="sdxl",
        Body=json.dumps(fields).encode(),
        ContentType="application/json",
        Accept=accept,
    )


def test_an_endpoint_answers_a_prompt_refuses_a_bad_one_and_repeats_itself_by_seed(account):
    from PIL import Image

    first = account.read(ask(account, ASKED)["OutputLocation"], 60)
    again = account.read(ask(account, ASKED)["OutputLocation"], 60)
    other = account.read(ask(account, {**ASKED, "seed": 8})["OutputLocation"], 60)
    image = Image.open(io.BytesIO(first))

    assert (image.format, image.size) == ("PNG", (64, 64))
    assert image.info["prompt"] == "a lighthouse"
    assert image.info["seed"] == "7"
    assert first == again, "the same seed gives the same bytes"
    assert first != other

    for bad in (
        b"{",
        b'{"steps": 3}',
        b'{"prompt": "x", "width": 65}',
        b'{"prompt": "x", "steps": 10000}',
    ):
        refused = account.runtime.invoke_endpoint_async(
            EndpointName="sdxl", Body=bad, ContentType="application/json"
        )
        failure = account.read(refused["FailureLocation"], 60).decode()
        assert "Received client error (400) from primary" in failure
        assert "Traceback" not in failure

    both = ask(account, {**ASKED, "num_images": 2}, "application/json")
    answer = json.loads(account.read(both["OutputLocation"], 60))
    assert len(answer["images"]) == 2
    assert answer["metadata"]["seed"] == 7

    refused = ask(account, {**ASKED, "num_images": 2}, "image/png")
    assert b"(406)" in account.read(refused["FailureLocation"], 60)


def test_the_packaged_handler_holds_its_requirements_and_no_leftovers(handler_folder, tmp_path):
    with tarfile.open(package(handler_folder, tmp_path)) as tar:
        names = set(tar.getnames())

    assert {"code/inference.py", "code/requirements.txt", "code/tiny.py"} <= names
    assert not [name for name in names if "__pycache__" in name]
