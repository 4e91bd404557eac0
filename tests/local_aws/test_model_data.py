"""What an instance of the embedded AWS finds beside its code: its data sources, whole."""

import hashlib
import io
import json
import random
import tarfile

import pytest

from async_inference.local_aws.fleet.instance import extract

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


@pytest.fixture(params=["with the standard filter", "without it, as Python 3.11.2"])
def python(request, monkeypatch):
    if request.param.startswith("without"):
        whole = tarfile.TarFile.extractall

        def without_filter(tar, path):
            whole(tar, path)

        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.setattr(tarfile.TarFile, "extractall", without_filter)


def archive_of(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarFile:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.linkname = kind, 0, "/etc"
        tar.addfile(entry, io.BytesIO())
    return tarfile.open(fileobj=io.BytesIO(content.getvalue()))


def test_an_archive_is_unpacked_on_every_python(python, tmp_path):
    extract(archive_of("code/inference.py"), tmp_path)

    assert (tmp_path / "code" / "inference.py").exists()


@pytest.mark.parametrize(
    ("name", "kind"), [("../beside", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)]
)
def test_an_archive_puts_nothing_outside_its_folder(python, tmp_path, name, kind):
    into = tmp_path / "model"
    into.mkdir()

    with pytest.raises(tarfile.TarError):
        extract(archive_of(name, kind), into)

    assert list(tmp_path.rglob("*")) == [into]
