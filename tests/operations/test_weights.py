"""Publishing weights, against moto's S3."""

import hashlib
import json

import boto3
import pytest
from moto import mock_aws

from async_inference.operations.weights import MANIFEST, loaded, local_source, publish
from async_inference.validation import InvalidInputError

PART_BYTES = 5 * 2**20
"""The smallest that S3 takes."""
FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"a": 1}',
    "unet/diffusion_pytorch_model.safetensors": bytes(range(256)) * 2**16,
    "unet/diffusion_pytorch_model.bin": b"the same once more",
}
LARGE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        file = tmp_path / "weights" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "weights"


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="models")
        yield s3


def sent(s3) -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket="models").get("Contents", [])
    return {
        entry["Key"]: s3.get_object(Bucket="models", Key=entry["Key"])["Body"].read()
        for entry in found
        if not entry["Key"].endswith(MANIFEST)
    }


def test_files_arrive_uncompressed_under_their_names(folder, s3):
    progress: list[int] = []
    source = local_source(folder)

    done = publish(source, "models", "sdxl/1", s3, progress.append, PART_BYTES)

    wanted = {f"sdxl/1/{name}": FILES[name] for name in FILES if not name.endswith(".bin")}
    assert sent(s3) == wanted
    assert (done.sent_files, done.kept_files) == (3, 0)
    assert sum(progress) == source.total_bytes == done.sent_bytes


def test_what_is_there_already_is_not_sent_again_but_a_changed_file_is(folder, s3):
    publish(local_source(folder), "models", "sdxl", s3, part_bytes=PART_BYTES)
    (folder / "unet/config.json").write_bytes(b'{"a": 2}')  # the same size

    done = publish(local_source(folder), "models", "sdxl", s3, part_bytes=PART_BYTES)

    assert (done.sent_files, done.kept_files) == (1, 2)
    assert sent(s3)["sdxl/unet/config.json"] == b'{"a": 2}'


def test_an_interrupted_file_goes_on_with_the_parts_that_are_missing(folder, s3, monkeypatch):
    upload_part, numbers = s3.upload_part, []

    def breaks(**request):
        if request["PartNumber"] == 3:
            raise KeyboardInterrupt
        return upload_part(**request)

    monkeypatch.setattr(s3, "upload_part", breaks)
    with pytest.raises(KeyboardInterrupt):
        publish(local_source(folder), "models", "sdxl", s3, part_bytes=PART_BYTES)
    (begun,) = s3.list_multipart_uploads(Bucket="models")["Uploads"]
    listed = s3.list_parts(Bucket="models", Key=f"sdxl/{LARGE}", UploadId=begun["UploadId"])[
        "Parts"
    ]
    there = {part["PartNumber"] for part in listed}

    def counts(**request):
        numbers.append(request["PartNumber"])
        return upload_part(**request)

    monkeypatch.setattr(s3, "upload_part", counts)
    publish(local_source(folder), "models", "sdxl", s3, part_bytes=PART_BYTES)

    assert set(numbers) == {1, 2, 3, 4} - there
    assert 3 in numbers
    assert sent(s3)[f"sdxl/{LARGE}"] == FILES[LARGE]


def test_a_refusal_of_s3_is_a_sentence(folder, s3):
    with pytest.raises(InvalidInputError, match=r"s3://absent/sdxl: .*NoSuchBucket"):
        publish(local_source(folder), "absent", "sdxl", s3)


def test_a_folder_without_weights_says_so(tmp_path):
    with pytest.raises(InvalidInputError, match=r"holds no file that matches \*.json"):
        local_source(tmp_path)
    with pytest.raises(InvalidInputError, match="is not a folder"):
        local_source(tmp_path / "absent")


def test_what_was_published_is_written_beside_it(folder, s3):
    publish(local_source(folder), "models", "sdxl", s3, part_bytes=PART_BYTES)

    body = s3.get_object(Bucket="models", Key=f"sdxl/{MANIFEST}")["Body"].read()
    manifest = json.loads(body)

    assert (manifest["source"], manifest["revision"]) == (str(folder.resolve()), None)
    assert manifest["sha256"]["model_index.json"] == hashlib.sha256(b"{}").hexdigest()
    assert len(manifest["sha256"]) == 3


SDXL = [
    *("README.md", "model_index.json", "sd_xl_base_1.0.safetensors", "tokenizer/vocab.json"),
    *("tokenizer/merges.txt", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_flax_model.msgpack"),
    *("vae_decoder/model.onnx", "vae/diffusion_pytorch_model.safetensors"),
]


def test_by_default_what_a_handler_loads_is_published_and_nothing_twice():
    assert loaded(SDXL) == [
        "model_index.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_single_file_is_what_a_folder_of_lora_weights_has():
    assert loaded(["pixel.safetensors", "notes.md"]) == ["pixel.safetensors"]


def test_parts_in_half_precision_are_taken_with_their_index():
    parts = ["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"]
    whole = ["m-00001-of-00001.safetensors", "m.safetensors.index.json"]

    assert loaded([*parts, *whole, "m.safetensors.index.fp16.json"]) == [
        *parts,
        "m.safetensors.index.fp16.json",
    ]
