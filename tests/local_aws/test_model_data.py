"""What an instance of the embedded AWS finds beside its code: its data sources, whole."""

import hashlib
import io
import json
import random
import tarfile

import pytest

pytestmark = pytest.mark.local_aws

CODE = """
import hashlib, json, os, pathlib

def model_fn(model_dir): return None
def input_fn(data, content_type): return data
def predict_fn(data, model):
    base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"]) / "additional-model-data-sources"
    return {
        "path": os.environ.get("PYTHONPATH"),
        "files": {
            file.relative_to(base).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in base.rglob("*") if file.is_file()
        },
    }
def output_fn(prediction, accept): return json.dumps(prediction)
"""
LARGE_BYTES = 7_000_001
"""Beyond what moto keeps in memory (MOTO_S3_DEFAULT_KEY_BUFFER_SIZE, 5 MiB)."""


def test_data_sources_arrive_whole_large_and_small_packed_and_not(start):
    account = start()
    random_bytes = random.Random(7).randbytes
    weights = {"large": random_bytes(LARGE_BYTES), "small": b"1", "vae/deep": random_bytes(6 << 20)}
    packages = {"a.py": b"A = 1", "b/c.so": random_bytes(LARGE_BYTES)}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, body in packages.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    account.s3.create_bucket(Bucket="data")
    for name, body in weights.items():
        account.s3.put_object(Bucket="data", Key=f"sdxl/{name}", Body=body)
    account.s3.put_object(Bucket="data", Key="packages.tar.gz", Body=archive.getvalue())
    sources = {
        "weights": ("s3://data/sdxl/", "S3Prefix", "None"),
        "packages": ("s3://data/packages.tar.gz", "S3Object", "Gzip"),
    }

    account.deploy(
        "listing",
        CODE,
        container={
            "Environment": {
                "SAGEMAKER_PROGRAM": "inference.py",
                "PYTHONPATH": "/opt/ml/additional-model-data-sources/packages",
            },
            "AdditionalModelDataSources": [
                {
                    "ChannelName": channel,
                    "S3DataSource": {
                        "S3Uri": uri,
                        "S3DataType": kind,
                        "CompressionType": compression,
                    },
                }
                for channel, (uri, kind, compression) in sources.items()
            ],
        },
    )
    account.in_service("listing")
    found = json.loads(account.read(account.submit(b"{}", "listing")["OutputLocation"]))

    assert found["files"] == {
        f"{channel}/{name}": hashlib.sha256(body).hexdigest()
        for channel, files in (("weights", weights), ("packages", packages))
        for name, body in files.items()
    }
    assert found["path"] is None, "its packages are for the container's Python, not for this one"
