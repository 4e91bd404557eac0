"""An embedded AWS on a free port with a fast clock, and an endpoint on it made with plain boto3."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from async_inference.local_aws.faults import Faults
from async_inference.local_aws.fleet.processes import ProcessTemplate
from async_inference.local_aws.server import LocalAws, Options
from async_inference.scaling.unsettled import Unsettled
from tests.support.waiting import eventually

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/endpoint"
ECHO = """
import time
from sagemaker_inference.errors import BaseInferenceToolkitError

def model_fn(model_dir):
    return "model"

def input_fn(data, content_type):
    if data == b"poison" or data == "poison":
        raise BaseInferenceToolkitError(400, "poisoned", "poisoned")
    if data in (b"slow", "slow"):
        time.sleep(60)
    return data

def predict_fn(data, model):
    return data

def output_fn(prediction, accept):
    return prediction
"""


class Account:
    """One embedded AWS as a user sees it: clients, and the usual endpoint."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.s3 = self.client("s3")
        self.sagemaker = self.client("sagemaker")
        self.runtime = self.client("sagemaker-runtime")
        self.autoscaling = self.client("application-autoscaling")
        self.cloudwatch = self.client("cloudwatch")
        self.sns = self.client("sns")
        self.sqs = self.client("sqs")

    def client(self, service: str) -> Any:
        return boto3.client(  # ty: ignore[no-matching-overload] any of them
            service,
            endpoint_url=self.aws.url,
            region_name=REGION,
            aws_access_key_id="local",
            aws_secret_access_key="local",
            # What is refused, the server refuses.
            config=Config(parameter_validation=False),
        )

    def deploy(self, name: str = "echo", code: str = ECHO, **asynchronous: Any) -> None:
        """Bucket, model, configuration and endpoint; returns without waiting."""
        self.s3.create_bucket(Bucket=f"{name}-bucket")
        self.configure(f"{name}-1", name, code, **asynchronous)
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-1")

    def configure(
        self,
        configuration: str,
        name: str,
        code: str = ECHO,
        *,
        instance_type: str = "ml.g5.xlarge",
        instances: int = 1,
        concurrency: int = 1,
        output: Mapping[str, object] | None = None,
        container: Mapping[str, object] | None = None,
    ) -> None:
        bucket = f"{name}-bucket"
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            entry = tarfile.TarInfo("code/inference.py")
            entry.size = len(code.encode())
            tar.addfile(entry, io.BytesIO(code.encode()))
        key = f"code/{configuration}.tar.gz"
        self.s3.put_object(Bucket=bucket, Key=key, Body=archive.getvalue())
        self.sagemaker.create_model(
            ModelName=f"{configuration}-model",
            ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1",
                "ModelDataUrl": f"s3://{bucket}/{key}",
                "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
                **(container or {}),
            },
        )
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=configuration,
            ProductionVariants=[
                {
                    "VariantName": "AllTraffic",
                    "ModelName": f"{configuration}-model",
                    "InstanceType": instance_type,
                    "InitialInstanceCount": instances,
                }
            ],
            AsyncInferenceConfig={
                "OutputConfig": {
                    key: value
                    for key, value in {
                        "S3OutputPath": f"s3://{bucket}/out",
                        "S3FailurePath": f"s3://{bucket}/fail",
                        **(output or {}),
                    }.items()
                    if value is not None
                },
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": concurrency},
            },
        )

    def in_service(self, name: str = "echo") -> None:
        eventually(lambda: self.status(name) == "InService", f"{name} in service")

    def status(self, name: str = "echo") -> str:
        return self.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"]

    def instances(self, name: str = "echo") -> int:
        (variant,) = self.sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
        return variant["CurrentInstanceCount"]

    def submit(self, body: bytes, name: str = "echo", **more: object) -> dict[str, Any]:
        self.s3.put_object(Bucket=f"{name}-bucket", Key="in/request", Body=body)
        return self.runtime.invoke_endpoint_async(
            EndpointName=name, InputLocation=f"s3://{name}-bucket/in/request", **more
        )

    def read(self, uri: str, within_s: float = 30.0) -> bytes:
        """The object at a location, once it is there."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")

        def found() -> dict[str, Any] | None:
            try:
                return self.s3.get_object(Bucket=bucket, Key=key)
            except self.s3.exceptions.NoSuchKey:
                return None

        return eventually(found, f"an object at {uri}", within_s)["Body"].read()

    def listen(self, topic: str) -> tuple[str, Callable[[], list[dict[str, Any]]]]:
        """A topic, and how to read the notifications that it sent so far."""
        arn = self.sns.create_topic(Name=topic)["TopicArn"]
        queue = self.sqs.create_queue(QueueName=f"{topic}-queue")["QueueUrl"]
        self.sns.subscribe(
            TopicArn=arn,
            Protocol="sqs",
            Endpoint=f"arn:aws:sqs:{REGION}:123456789012:{topic}-queue",
        )

        def receive() -> list[dict[str, Any]]:
            messages = self.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
            return [
                json.loads(json.loads(message["Body"])["Message"])
                for message in messages.get("Messages", [])
            ]

        return arn, receive


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessTemplate]:
    """What instances are forks of; it takes more than a second to start."""
    template = ProcessTemplate()
    yield template
    template.close()


@pytest.fixture
def start(tmp_path, processes) -> Iterator[Callable[..., Account]]:
    """Start an embedded AWS; several starts of one test share their state."""
    running: list[LocalAws] = []

    def run(
        minute_s: float = 60.0,
        setup_s: float = 0.0,
        folder: Path = tmp_path / "aws",
        faults: Faults | None = None,
        **unsettled: Any,
    ) -> Account:
        aws = LocalAws(
            Options(
                folder=folder,
                minute_s=minute_s,
                setup_s=setup_s,
                unsettled=Unsettled(**unsettled),
                faults=faults or Faults(),
            ),
            processes,
        )
        aws.start()
        running.append(aws)
        return Account(aws)

    yield run
    for aws in running:
        aws.stop()
