"""Handlers as endpoints of the embedded AWS: the tiny SDXL, and another model from its own folder.

The tiny SDXL writes digits, and the other one reads them.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_inference.local_aws.server import LocalAws, Options
from async_inference.stack.images import image_of
from components.model_source import package
from tests.support import ROOT
from tests.support.embedded_aws import ROLE, Account
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

SDXL, DIGITS = ROOT / "inference_code", ROOT / "examples" / "digits"
ASKED = {"prompt": "a seven", "steps": 20, "seed": 7}


TORCHSERVE = "pytorch-inference:2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker"
RAY = "ray:serve-ml-sagemaker-cuda-v1.4"


def configured(account, handler: Path, folder: Path, image: str, **variables: str) -> str:
    """A model and a configuration, as the program deploys them; the configuration's name."""
    name = f"{handler.name}-{image.partition(':')[0]}".replace("_", "-")
    archive = package(handler, image_of(image), build_folder=folder)
    account.s3.put_object(Bucket="images", Key=f"{name}.tar.gz", Body=archive.read_bytes())
    code = {"S3Uri": f"s3://images/{name}.tar.gz", "S3DataType": "S3Object"}
    account.sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={
            "Image": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{image}",
            "ModelDataSource": {"S3DataSource": code | {"CompressionType": "Gzip"}},
            "Environment": {"SAGEMAKER_PROGRAM": "inference.py", **variables},
        },
    )
    account.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": name,
                "InstanceType": "ml.g5.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={
            "OutputConfig": {"S3OutputPath": "s3://images/out", "S3FailurePath": "s3://images/bad"}
        },
    )
    return name


def deploy(account, handler: Path, folder: Path, **variables: str) -> None:
    """An endpoint named after its handler's folder, with TorchServe's image."""
    name = handler.name.replace("_", "-")
    configuration = configured(account, handler, folder, TORCHSERVE, **variables)
    account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=configuration)
    eventually(lambda: account.status(name) == "InService", name, 300)


@pytest.fixture(scope="module")
def account(processes, tmp_path_factory) -> Iterator[Account]:
    """One embedded AWS with both endpoints."""
    folder = tmp_path_factory.mktemp("account")
    aws = LocalAws(Options(folder=folder / "aws"), processes)
    aws.start()
    account = Account(aws)
    account.s3.create_bucket(Bucket="images")
    deploy(account, SDXL, folder / "build", MODEL_WEIGHTS="tiny")
    deploy(account, DIGITS, folder / "build")
    yield account
    aws.stop()


def ask(account, fields: dict, accept: str = "image/png") -> dict:
    return account.runtime.invoke_endpoint_async(
        EndpointName="inference-code",
        Body=json.dumps(fields).encode(),
        ContentType="application/json",
        Accept=accept,
    )


def test_an_endpoint_answers_a_prompt_refuses_a_bad_one_and_repeats_itself_by_seed(
    account, in_process
):
    from PIL import Image

    first = account.read(ask(account, ASKED)["OutputLocation"], 60)
    again = account.read(ask(account, ASKED)["OutputLocation"], 60)
    other = account.read(ask(account, {**ASKED, "seed": 8})["OutputLocation"], 60)
    image = Image.open(io.BytesIO(first))

    assert (image.format, image.info["prompt"], image.info["seed"]) == ("PNG", "a seven", "7")
    assert first == again, "the same seed gives the same bytes"
    assert first != other

    for bad in (
        b"{",
        b'{"steps": 3}',
        b'{"prompt": "x", "width": 65}',
        b'{"prompt": "x", "steps": 10000}',
        b'{"prompt": "\xff"}',
    ):
        refused = account.runtime.invoke_endpoint_async(
            EndpointName="inference-code", Body=bad, ContentType="application/json"
        )
        failure = account.read(refused["FailureLocation"], 60).decode()
        assert "Received client error (400) from primary" in failure
        assert "Traceback" not in failure

    both = ask(account, {**ASKED, "num_images": 2}, "application/json")
    answer = json.loads(account.read(both["OutputLocation"], 60))
    assert len(answer["images"]) == 2

    refused = ask(account, {**ASKED, "num_images": 2}, "image/png")
    assert b"(406)" in account.read(refused["FailureLocation"], 60)

    read = account.runtime.invoke_endpoint_async(
        EndpointName="digits", Body=first, ContentType="image/png", Accept="application/json"
    )
    assert json.loads(account.read(read["OutputLocation"], 60)) == {"digit": 7}
    unread = account.runtime.invoke_endpoint_async(
        EndpointName="digits", Body=b"no picture", ContentType="image/png"
    )
    assert b"(400)" in account.read(unread["FailureLocation"], 60)

    import torch

    torch.set_num_threads(1)
    transformer = in_process(OMP_NUM_THREADS="1")
    assert transformer.ask(ASKED).body == first, "in-process the same bytes"


def test_an_update_from_torchserve_to_ray_serve_loses_no_request(account, tmp_path):
    asked = [ask(account, ASKED | {"seed": seed}) for seed in range(4)]
    ray = configured(account, SDXL, tmp_path / "build", RAY, MODEL_WEIGHTS="tiny")
    account.sagemaker.update_endpoint(EndpointName="inference-code", EndpointConfigName=ray)
    asked += [ask(account, ASKED | {"seed": seed}) for seed in range(4)]

    eventually(lambda: account.status("inference-code") == "InService", "the update", 300)
    asked += [ask(account, ASKED | {"seed": seed}) for seed in range(4)]
    before, meanwhile, after = (
        [account.read(each["OutputLocation"], 60) for each in asked[at : at + 4]]
        for at in (0, 4, 8)
    )

    runs = account.sagemaker.describe_endpoint(EndpointName="inference-code")
    assert runs["EndpointConfigName"] == ray
    assert before == meanwhile == after


def test_the_packaged_handler_holds_its_requirements_if_they_are_not_packed_and_no_leftovers(
    tmp_path,
):
    for packed in (True, False):
        archive = package(SDXL, image_of("py312" if packed else ""), build_folder=tmp_path)
        with tarfile.open(archive) as tar:
            names = set(tar.getnames())

        assert {"code/inference.py", "code/tiny/model_index.json"} <= names
        assert ("code/requirements.txt" in names) != packed
        assert not [name for name in names if "__pycache__" in name or name.endswith(".lock")]
