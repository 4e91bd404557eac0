"""The handler's overhead over diffusers, its start step by step, and the loading of weights."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig

from async_inference.local_aws.clients import clients_at
from async_inference.local_aws.server import LocalAws, Options
from components.model_source import WEIGHTS_CHANNEL

ROOT = Path(__file__).resolve().parents[1]
WEIGHT_FILES = 8
NO_OP = b"def model_fn(model_dir): return None\n"

BARE = """
import sys
steps, pixels, repeats = map(int, sys.argv[1:])
from diffusers import StableDiffusionXLPipeline
import torch
pipeline = StableDiffusionXLPipeline.from_pretrained(
    "inference_code/tiny", torch_dtype=torch.float32, add_watermarker=False
)
pipeline.set_progress_bar_config(disable=True)
def image():
    generator = torch.Generator("cpu").manual_seed(1)
    return pipeline("a seven", num_inference_steps=steps, width=pixels, height=pixels,
                    generator=generator).images
image()[0].save("/dev/null", format="PNG")
"""
"""The shortest script that makes an image of the same weights."""

HANDLER = """
import json, os, statistics, sys, time
began = time.perf_counter()
steps, pixels, repeats = map(int, sys.argv[1:])
os.environ |= {"MODEL_WEIGHTS": "tiny", "SAGEMAKER_PROGRAM": "inference.py"}
sys.path[:0] = ["inference_code", "."]
took = {}
def passed(what):
    took[what] = time.perf_counter() - began - sum(took.values())
import inference
passed("the handler's own modules")
import torch
passed("torch")
import diffusers
diffusers.StableDiffusionXLPipeline
passed("diffusers and transformers")
model = inference.model_fn(".")
passed("weights")
class Context:
    request_processor = [type("Headers", (), {"get_request_properties": lambda self: {
        "Accept": "image/png"}})()]
body = json.dumps({"prompt": "a seven", "steps": steps, "seed": 1, "width": pixels,
                   "height": pixels})
def image():
    asked = inference.input_fn(body, "application/json", Context)
    return inference.output_fn(inference.predict_fn(asked, model), "image/png", Context)
image()
passed("the first image")
def bare():
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.inference_mode():
        return model.base("a seven", num_inference_steps=steps, width=pixels, height=pixels,
                          generator=[generator]).images
def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
if not repeats:
    sys.exit()
# Alternating, so that other load on the machine affects both.
pairs = [(timed(image), timed(bare)) for _ in range(repeats)]
print(json.dumps({
    "start_s": took,
    "image_s": statistics.median(ours for ours, _ in pairs),
    "bare_s": statistics.median(theirs for _, theirs in pairs),
    "overhead_s": statistics.median(ours - theirs for ours, theirs in pairs),
}))
"""


def overhead(steps: int = 20, pixels: int = 256, repeats: int = 7) -> dict:
    """Seconds of the handler, of a bare call of the same pipeline, and of each start step."""
    done = _script(HANDLER, steps, pixels, repeats)
    return json.loads(done.splitlines()[-1])


def start_to_image_s(script: str, steps: int = 20, pixels: int = 64) -> float:
    """Seconds of a process that makes one image."""
    started = time.perf_counter()
    _script(script, steps, pixels, 0)
    return time.perf_counter() - started


def _script(source: str, *arguments: int) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout


def weights_ready_s(folder: Path, total_bytes: int) -> tuple[float, float]:
    """Seconds until an endpoint serves, with uncompressed weights and with a tar.gz."""
    import numpy as np

    aws = LocalAws(Options(folder=folder))
    aws.start()
    try:
        client = clients_at(aws.url)
        s3, sagemaker = client("s3"), client("sagemaker")
        s3.create_bucket(Bucket="bench")
        random = np.random.default_rng(0)
        # Normal numbers in half precision, like weights; they compress to nine tenths.
        weights = random.standard_normal(total_bytes // WEIGHT_FILES // 2, "f4").astype("f2")
        body = weights.tobytes()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
            for number in range(WEIGHT_FILES):
                name = f"{number}.safetensors"
                s3.put_object(Bucket="bench", Key=f"weights/{name}", Body=body)
                _add(tar, name, body)
        archive.seek(0)
        # In parts, because an archive of this size is uploaded that way.
        parts = TransferConfig(multipart_chunksize=64 << 20)
        s3.upload_fileobj(archive, "bench", "weights.tar.gz", Config=parts)
        code = io.BytesIO()
        with tarfile.open(fileobj=code, mode="w:gz") as tar:
            _add(tar, "code/inference.py", NO_OP)
        s3.put_object(Bucket="bench", Key="code.tar.gz", Body=code.getvalue())
        plain = {"S3Uri": "s3://bench/weights/", "S3DataType": "S3Prefix"}
        packed = {"S3Uri": "s3://bench/weights.tar.gz", "S3DataType": "S3Object"}
        return (
            _in_service_s(sagemaker, "plain", plain | {"CompressionType": "None"}),
            _in_service_s(sagemaker, "packed", packed | {"CompressionType": "Gzip"}),
        )
    finally:
        aws.stop()


def _add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(body)
    tar.addfile(entry, io.BytesIO(body))


def _in_service_s(sagemaker: Any, name: str, weights: dict[str, str]) -> float:
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/bench",
        PrimaryContainer={
            "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/bench:1",
            "ModelDataUrl": "s3://bench/code.tar.gz",
            "Environment": {"SAGEMAKER_PROGRAM": "inference.py"},
            "AdditionalModelDataSources": [
                {"ChannelName": WEIGHTS_CHANNEL, "S3DataSource": weights}
            ],
        },
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": name,
                "InstanceType": "ml.g5.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://bench/out"}},
    )
    started = time.perf_counter()
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    while sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] != "InService":
        time.sleep(0.02)
    return time.perf_counter() - started
