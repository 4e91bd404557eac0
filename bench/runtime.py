"""The overhead of the embedded endpoint over a handler that does nothing."""

import io
import statistics
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from async_inference.local_aws.clients import clients_at
from async_inference.local_aws.fleet.endpoint import Endpoint
from async_inference.local_aws.server import LocalAws, Options
from async_inference.scaling.unsettled import Unsettled

HANDLER = b"""
def model_fn(model_dir): return None
def input_fn(data, content_type): return data
def predict_fn(data, model): return data
def output_fn(prediction, accept): return prediction
"""
INSTANCES = 5
REQUESTS = 1000
SINGLE_REQUESTS = 100
IDLE_S = 5.0
STARTS = 5


@dataclass(frozen=True)
class Measured:
    """Throughput with a full queue, overhead of one request, and the cost of idling and instances.

    Args:
        instance_bytes: memory that an instance does not share with other processes.
    """

    requests_per_s: float
    median_overhead_s: float
    idle_cpu_percent: float
    median_start_s: float
    instance_bytes: float


def measure(folder: Path) -> Measured:
    """Deploy a no-op handler and send requests through S3 input and output."""
    # The capacity changes below overlap, which SageMaker would refuse.
    overlapping = Unsettled(capacity_change_in_progress="allowed")
    aws = LocalAws(Options(folder=folder, unsettled=overlapping))
    aws.start()
    try:
        at = clients_at(aws.url)
        clients = {name: at(name) for name in ("s3", "sagemaker", "sagemaker-runtime")}
        deploy(clients)
        running = aws.running("us-east-1")["bench"]
        while running.status != "InService":
            time.sleep(0.05)
        single = []
        for _ in range(SINGLE_REQUESTS):
            started = time.perf_counter()
            _submit(clients)
            while running.backlog:
                time.sleep(0)
            single.append(time.perf_counter() - started)
        _set_desired(running, 0)
        for _ in range(REQUESTS):
            _submit(clients)
        _set_desired(running, INSTANCES)
        while running.in_service < INSTANCES and running.backlog > REQUESTS * 0.9:
            time.sleep(0.005)
        before, started = running.backlog, time.perf_counter()
        while running.backlog:
            time.sleep(0.005)
        rate = before / (time.perf_counter() - started)
        process = psutil.Process()
        process.cpu_percent()
        time.sleep(IDLE_S)
        idle_percent = process.cpu_percent()
        forks = [fork for child in process.children() for fork in child.children()]
        own_bytes = statistics.median(fork.memory_full_info().uss for fork in forks)
        starts_s = [_start_s(running) for _ in range(STARTS)]
        return Measured(
            rate, statistics.median(single), idle_percent, statistics.median(starts_s), own_bytes
        )
    finally:
        aws.stop()


def _start_s(running: Endpoint) -> float:
    """Seconds from requesting one more instance until it serves."""
    before, started = running.in_service, time.perf_counter()
    _set_desired(running, before + 1)
    while running.in_service == before:
        time.sleep(0.005)
    return time.perf_counter() - started


def _set_desired(running: Endpoint, count: int) -> None:
    if not running.set_desired(count):
        raise RuntimeError(f"the endpoint refused {count} instances")


def _submit(clients: dict[str, Any]) -> None:
    clients["sagemaker-runtime"].invoke_endpoint_async(
        EndpointName="bench", InputLocation="s3://bench/input"
    )


def deploy(clients: dict[str, Any]) -> None:
    """The endpoint `bench`, whose handler does nothing."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo("code/inference.py")
        entry.size = len(HANDLER)
        tar.addfile(entry, io.BytesIO(HANDLER))
    clients["s3"].create_bucket(Bucket="bench")
    clients["s3"].put_object(Bucket="bench", Key="code.tar.gz", Body=archive.getvalue())
    clients["s3"].put_object(Bucket="bench", Key="input", Body=b"x" * 200)
    sagemaker = clients["sagemaker"]
    sagemaker.create_model(
        ModelName="bench",
        ExecutionRoleArn="arn:aws:iam::123456789012:role/bench",
        PrimaryContainer={
            "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/bench:1",
            "ModelDataUrl": "s3://bench/code.tar.gz",
        },
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName="bench",
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": "bench",
                "InstanceType": "ml.g5.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://bench/out"}},
    )
    sagemaker.create_endpoint(EndpointName="bench", EndpointConfigName="bench")
