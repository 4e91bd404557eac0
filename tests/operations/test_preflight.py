"""What `preflight` says of a stack and an account."""

import io
import json
import tarfile
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from async_inference.calibration import file as calibration
from async_inference.operations import preflight
from async_inference.operations.checks import Check
from async_inference.stack import settings
from async_inference.stack.images import image_of
from tests.support import ROOT
from tests.support.settings import stack


def test_a_quota_below_the_most_instances_says_what_to_do():
    few = preflight.quota(stack(instanceType="ml.g5.2xlarge", maxCapacity=4), 2.0)

    assert few.what == "quota: ml.g5.2xlarge for endpoint usage"
    assert (few.asked, few.found) == ("at least 4", "2")
    assert "or set maxCapacity to 2" in (few.remedy or "")


@pytest.mark.parametrize(
    ("value", "verdict", "found"),
    [
        (4.0, "ok", "4, less what other endpoints use of it"),
        (0.0, "differs", "0"),
        (None, "differs", "us-east-1 serves no such type"),
    ],
)
def test_a_quota_is_enough_missing_or_of_no_such_type(value, verdict, found):
    check = preflight.quota(stack(maxCapacity=4), value)

    assert (check.verdict, check.found) == (verdict, found)


def test_the_most_that_a_schedule_allows_counts_against_the_quota():
    day = {"name": "day", "schedule": "cron(0 7 * * ? *)", "maxCapacity": 9}
    wake = {
        "type": "StepScaling",
        "name": "wake",
        "alarm": {"metric": "HasBacklogWithoutCapacity", "threshold": 0.5},
        "steps": [{"lowerBound": 0, "adjustment": 1}],
    }
    plan = {"policies": [wake], "schedules": [day]}

    check = preflight.quota(stack(scalingPreset="custom", scalingPlan=plan, maxCapacity=2), 5.0)

    assert check.asked == "at least 9"


@pytest.mark.parametrize(
    ("image", "cuda"),
    [
        ("pytorch-inference:2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker", (12, 4)),
        ("ray:serve-ml-sagemaker-cuda-v1.4", (12, 9)),
        ("ray:serve-ml-sagemaker-cpu-v1.4", None),
        ("own:cu118", (11, 8)),
        ("own:1.0-cu130", (13, 0)),
        ("own:latest", None),
        ("acu124:1", None),
    ],
)
def test_an_image_tag_tells_its_cuda(image, cuda):
    assert image_of(image).cuda == cuda


def test_an_image_past_its_last_patch_is_told():
    old = "2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker"
    day = date(2026, 6, 30)

    after = preflight.patches(stack(imageTag=old), day + timedelta(days=1))

    assert preflight.patches(stack(imageTag=old), day).verdict == "ok"
    assert after.found == "AWS patched it until 30 June 2026"
    assert "set imageTag to serve-ml-sagemaker-cuda-v1.4" in (after.remedy or "")
    assert preflight.patches(stack(), day + timedelta(days=1)).verdict == "ok"
    assert preflight.patches(stack(imageUri=OWN.format("1")), day).verdict == "not checked"


PYTORCH = "2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker"
OWN = "123456789012.dkr.ecr.us-east-1.amazonaws.com/own:{}"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        pytest.param({"imageUri": OWN.format("cu113")}, "ok", id="the driver carries it"),
        pytest.param({}, "ok", id="the AMI that the image asks for carries all of CUDA 12"),
        pytest.param({"imageTag": PYTORCH}, "ok", id="AWS's image brings cuda-compat libraries"),
        pytest.param({"imageUri": OWN.format("cu124")}, "differs", id="an own image may not"),
        pytest.param(
            {"imageUri": OWN.format("cu121"), "instanceType": "ml.g6.xlarge"}, "ok", id="535"
        ),
        pytest.param(
            {"imageUri": OWN.format("cu124"), "instanceType": "ml.p6-b200.48xlarge"},
            "not checked",
            id="not published",
        ),
        pytest.param({"inferenceAmiVersion": "newer"}, "not checked", id="an unknown AMI"),
        pytest.param({"instanceType": "ml.m5.xlarge"}, "ok", id="no GPU"),
        pytest.param({"imageUri": OWN.format("1")}, "not checked", id="no CUDA in the tag"),
    ],
)
def test_the_driver_of_an_instance_family_carries_the_images_cuda_or_not(values, verdict):
    """Defaults: 470 with CUDA 11.4 on g4dn and g5, 535 with 12.2 on g6 (DG)."""
    assert preflight.driver(stack(**values)).verdict == verdict


def test_a_too_new_image_is_told_which_ami_would_carry_it():
    check = preflight.driver(stack(imageUri=OWN.format("cu124")))

    assert check.found.startswith("driver 470, CUDA 11.4")
    assert "set inferenceAmiVersion to al2-ami-sagemaker-inference-gpu-3-1" in (check.remedy or "")


def test_a_region_without_sagemaker_is_told():
    assert preflight.region(stack(), ["us-east-1"]).verdict == "ok"
    assert preflight.region(stack(), ["eu-west-1"]).verdict == "differs"


@pytest.mark.parametrize(
    "name", ["us-east-1", "cn-north-1", "us-gov-west-1", "eusc-de-east-1", "us-isob-east-1"]
)
def test_regions_of_every_partition_are_known_and_taken(name):
    """Role and deployer's policy have ARNs of the partition."""
    assert name in preflight.known_regions()
    given = {"aws:region": name, "async-inference:handler": str(ROOT / "inference_code")}
    assert settings.load(given, stack="dev").region == name


def archive(*members: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return packed.getvalue()


def link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "elsewhere"
    return member


@pytest.fixture
def account(start) -> Any:
    """An embedded account with an image and weights, good and bad."""
    account = start()
    account.s3.create_bucket(Bucket="weights")
    for key in ("sdxl/model_index.json", "single/sdxl.safetensors"):
        account.s3.put_object(Bucket="weights", Key=key, Body=b"1")
    plain = archive(tarfile.TarInfo("./model_index.json"))
    account.s3.put_object(Bucket="weights", Key="plain.tar.gz", Body=plain)
    linked = archive(tarfile.TarInfo("a"), link("b"))
    account.s3.put_object(Bucket="weights", Key="linked.tar.gz", Body=linked)
    account.s3.put_object(Bucket="weights", Key="text.tar.gz", Body=b"no archive")
    ecr = account.client("ecr")
    ecr.create_repository(repositoryName="own")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"size": 0},
        "layers": [],
    }
    ecr.put_image(repositoryName="own", imageManifest=json.dumps(manifest), imageTag="cu113")

    return account


@pytest.mark.local_aws
def test_an_account_is_looked_at_and_what_cannot_be_seen_is_said(account):
    checks = preflight.preflight(stack(weights="tiny"), account.client, lambda text: None)

    found = {check.what: check for check in checks}
    assert found["credentials"].found.startswith("123456789012, as arn:aws:")
    assert found["weights"].verdict == "ok"
    # AWS's registry answers nobody else, and moto serves no quotas of SageMaker.
    assert [found[what].verdict for what in ("image", "quota")] == ["not checked", "not checked"]


@pytest.mark.local_aws
def test_an_image_or_repository_that_does_not_exist_is_told(account):
    found = [
        preflight.image(stack(imageUri=uri), account.client)
        for uri in (OWN.format("cu113"), OWN.format("cu118"), OWN.replace("own", "no").format("1"))
    ]

    assert [check.verdict for check in found] == ["ok", "differs", "differs"]
    assert all("does not exist" in check.found for check in found[1:])


@pytest.mark.parametrize(
    ("names", "found", "remedy"),
    [
        (["model_index.json", "unet/a.safetensors"], "objects", None),
        (
            ["sdxl/model_index.json"],
            "the model is one level deeper, in sdxl",
            "weights s3://models/m/sdxl",
        ),
        (["sdxl_lightning_4step.ckpt"], "a single-file checkpoint, sdxl_l", "from_single_file"),
        (["unet/a.safetensors"], "none", "publish a folder of diffusers' layout"),
    ],
)
def test_weights_that_diffusers_cannot_read_are_told_before_they_are_deployed(names, found, remedy):
    check = preflight.layout(stack(weights="s3://models/m"), names, "objects")

    assert check.found.startswith(found)
    assert (check.remedy is None) if remedy is None else (remedy in (check.remedy or ""))


def test_the_weights_of_another_handler_have_whatever_layout_it_reads():
    digits = stack(weights="s3://models/m", handler=str(ROOT / "examples" / "digits"))

    assert preflight.layout(digits, ["svc.safetensors"], "objects").passed


@pytest.mark.local_aws
def test_weights_are_there_and_without_symlinks_or_it_is_told(account):
    """model.tar.gz must hold no symlinks (docs/aws-facts.md#model-artifacts)."""
    said: list[str] = []
    found = {
        place: preflight.weights(stack(weights=f"s3://weights/{place}"), account.s3, said.append)
        for place in (
            "sdxl",
            "plain.tar.gz",
            "sd",
            "single",
            "linked.tar.gz",
            "text.tar.gz",
            "no.tar.gz",
        )
    }

    assert [found[place].verdict for place in ("sdxl", "plain.tar.gz")] == ["ok", "ok"]
    assert found["sd"].found == "nothing there"
    assert found["single"].found == "a single-file checkpoint, sdxl.safetensors"
    assert found["no.tar.gz"].found == "nothing there"
    assert found["linked.tar.gz"].found == "links: b"
    assert found["text.tar.gz"].found.startswith("no tar.gz")
    assert "reading s3://weights/plain.tar.gz for symlinks" in said


@pytest.mark.local_aws
def test_keys_of_weights_and_output_buckets_that_the_endpoint_may_not_use_are_named(account):
    kms = account.client("kms")
    arns = [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
    account.s3.put_object(
        Bucket="weights",
        Key="locked/unet.safetensors",
        Body=b"1",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=arns[0],
    )
    account.s3.create_bucket(Bucket="theirs")
    account.s3.put_bucket_encryption(
        Bucket="theirs",
        ServerSideEncryptionConfiguration={
            "Rules": [
                {
                    "ApplyServerSideEncryptionByDefault": {
                        "SSEAlgorithm": "aws:kms",
                        "KMSMasterKeyID": arns[1],
                    }
                }
            ]
        },
    )

    def looked(weights: str = "tiny", **values: Any) -> Check:
        return preflight.keys(stack(weights=weights, **values), account.s3, kms)

    assert looked("s3://weights/sdxl").verdict == "ok"
    assert looked("s3://weights/locked").found == f"s3://weights/locked: {arns[0]}"
    found = looked(outputPath="s3://theirs/out")
    assert found.found == f"s3://theirs/out: {arns[1]}"
    assert "security.otherKeyArns" in (found.remedy or "")
    allowed = {"otherKeyArns": arns}
    assert looked("s3://weights/locked", outputPath="s3://theirs/out", security=allowed).passed


def test_an_old_calibration_is_told_and_fails_nothing():
    def looked(days_ago: int) -> preflight.Check:
        until = datetime.now(UTC) - timedelta(days=days_ago)
        look = calibration.Look(since=until, until=until, configuration="one")
        known = calibration.Calibration(endpoint="sdxl", readings={}, looks=(look,))
        return preflight.calibrated("prod", known)

    assert looked(3).verdict == "ok"
    assert looked(200).verdict == "not checked"
    assert "async-inference calibrate --stack prod" in looked(200).found
