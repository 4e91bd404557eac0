"""Checks before a deployment that a stack can run in an account.

Sources: botocore's service models (BC), SageMaker developer guide (DG).
"""

import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import botocore.session
from botocore.exceptions import ClientError

from async_inference.aws_clients import Clients
from async_inference.aws_names import split_s3_uri
from async_inference.calibration import file as calibration
from async_inference.operations.checks import Check
from async_inference.stack.images import DEFAULT_TAG, has_gpu
from async_inference.stack.settings import Settings

if TYPE_CHECKING:
    from types_boto3_ecr.type_defs import ImageIdentifierTypeDef
    from types_boto3_kms import KMSClient
    from types_boto3_s3 import S3Client
    from types_boto3_service_quotas import ServiceQuotasClient
    from types_boto3_service_quotas.type_defs import ServiceQuotaTypeDef

_NO_PROFILE = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
"""botocore's knowledge of regions, available even if AWS_PROFILE names no existing profile."""


@dataclass(frozen=True, kw_only=True)
class Ami:
    """The machine image under a GPU container: its NVIDIA driver, and that driver's CUDA."""

    driver: int
    cuda: tuple[int, int]


DEFAULT_AMIS = {
    **dict.fromkeys(("g4dn", "g5", "p4d", "p4de"), Ami(driver=470, cuda=(11, 4))),
    **dict.fromkeys(("g6", "p5"), Ami(driver=535, cuda=(12, 2))),
}
"""By instance family, where no InferenceAmiVersion is set (DG inference-gpu-drivers, read November
2026; the page names g4dn, g5, p4d and p4de with 470, and p5 and g6 with 535). AWS moves these over
time, and publishes none for families that are missing here."""
AMIS = {
    "al2-ami-sagemaker-inference-gpu-2": Ami(driver=535, cuda=(12, 2)),
    "al2-ami-sagemaker-inference-gpu-2-1": Ami(driver=535, cuda=(12, 2)),
    "al2-ami-sagemaker-inference-gpu-3-1": Ami(driver=550, cuda=(12, 4)),
    "al2023-ami-sagemaker-inference-gpu-4-1": Ami(driver=580, cuda=(13, 0)),
}
"""By InferenceAmiVersion (BC ProductionVariant, 1.44.5)."""
CUDA_12_DRIVER = 525
"""The oldest driver that runs every CUDA 12 (NVIDIA, CUDA compatibility: minor versions)."""


def preflight(settings: Settings, client: Clients, say: Callable[[str], None]) -> list[Check]:
    """Every check, in the order in which a deployment would meet it.

    Args:
        settings: what would be deployed.
        client: makes clients in the stack's region.
        say: prints what takes longer.

    Raises:
        BotoCoreError, ClientError: AWS accepts no credentials.
    """
    caller = client("sts").get_caller_identity()
    found = [
        Check("credentials", "an account", f"{caller['Account']}, as {caller['Arn']}"),
        region(settings, known_regions()),
    ]
    looked_up: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("quota", lambda: quota(settings, _quota(client("service-quotas"), settings))),
        ("image", lambda: image(settings, client)),
        ("image's patches", lambda: patches(settings, date.today())),
        ("GPU driver", lambda: driver(settings)),
        ("weights", lambda: weights(settings, client("s3"), say)),
        ("keys", lambda: keys(settings, client("s3"), client("kms"))),
    )
    for what, look in looked_up:
        try:
            found.append(look())
        except ClientError as error:
            found.append(Check(what, "a look at it", f"AWS refused: {error}", checked=False))
    known = calibration.read(calibration.path_of(settings.stack))
    return found if known is None else [*found, calibrated(settings.stack, known)]


def calibrated(stack: str, known: calibration.Calibration) -> Check:
    """Whether the calibration of rehearsals is recent; an old one fails no deployment."""
    found = f"read {known.until:%Y-%m-%d}"
    if known.old:
        found += f"; AWS may have changed since: async-inference calibrate --stack {stack}"
    return Check(
        str(calibration.path_of(stack)),
        f"at most {calibration.OLD_S / calibration.DAY_S:.0f} days old",
        found,
        checked=not known.old,
    )


def known_regions() -> set[str]:
    """The regions of SageMaker in every partition, as far as this botocore knows."""
    return {
        name
        for partition in _NO_PROFILE.get_available_partitions()
        for name in _NO_PROFILE.get_available_regions("sagemaker", partition)
    }


def region(settings: Settings, known: Iterable[str]) -> Check:
    """Whether SageMaker is in the stack's region, as far as this botocore knows."""
    if settings.region in known:
        return Check("region", settings.region, "serves SageMaker")
    return Check(
        "region",
        settings.region,
        "not among the regions of SageMaker that this botocore knows",
        "correct aws:region, or update boto3",
    )


# Quota


def quotas(client: "ServiceQuotasClient") -> "Iterator[ServiceQuotaTypeDef]":
    """SageMaker's quotas: first those that were ever changed for the account, then AWS's defaults.

    A quota that was never changed has no applied value (BC ListServiceQuotas).
    """
    for applied in client.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker"):
        yield from applied["Quotas"]
    defaults = client.get_paginator("list_aws_default_service_quotas")
    for default in defaults.paginate(ServiceCode="sagemaker"):
        yield from default["Quotas"]


def _quota(client: "ServiceQuotasClient", settings: Settings) -> float | None:
    """The account's quota for the instance type, None where AWS has no such quota."""
    wanted = quota_name(settings)
    return next((each["Value"] for each in quotas(client) if each["QuotaName"] == wanted), None)


def quota_name(settings: Settings) -> str:
    """The name of an instance type's hosting quota in Service Quotas."""
    return f"{settings.instance_type} for endpoint usage"


def quota(settings: Settings, value: float | None) -> Check:
    """Whether the account may run as many instances as the stack may ask for.

    Args:
        settings: what would be deployed.
        value: the quota; None if the region has none of that name.
    """
    # A schedule may raise the maximum.
    plan = settings.plan
    most = max([plan.max_capacity, *(action.max_capacity or 0 for action in plan.schedules)])
    what, asked = f"quota: {quota_name(settings)}", f"at least {most}"
    if value is None:
        remedy = "choose another instanceType or region"
        return Check(what, asked, f"{settings.region} serves no such type", remedy)
    if value >= most:
        return Check(what, asked, f"{value:g}, less what other endpoints use of it")
    return Check(
        what,
        asked,
        f"{value:g}",
        f"ask for more in the Service Quotas console, or set maxCapacity to {value:g}"
        if value
        else "ask for more in the Service Quotas console; none can start before",
    )


# Image and driver


def image(settings: Settings, client: Clients) -> Check:
    """Whether the image exists, if its registry answers."""
    if settings.image_uri is None:
        return Check(
            "image",
            f"{settings.image.repository}:{settings.image_tag}",
            "AWS's own registry answers nobody else's ecr:DescribeImages; see its list of Deep "
            "Learning Containers for tags",
            checked=False,
        )
    parts = re.fullmatch(
        r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.[^/]+/([^:@]+)(?::([^@]+))?(?:@(sha256:\S+))?",
        settings.image_uri,
    )
    assert parts is not None  # settings took it for an ECR image
    account, _, repository, tag, digest = parts.groups()
    wanted: ImageIdentifierTypeDef = (
        {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    )
    ecr = client("ecr")
    try:
        (known,) = ecr.describe_images(
            registryId=account, repositoryName=repository, imageIds=[wanted]
        )["imageDetails"]
    except (
        ecr.exceptions.RepositoryNotFoundException,
        ecr.exceptions.ImageNotFoundException,
    ) as error:
        said = error.response["Error"]["Message"]
        return Check("image", settings.image_uri, said, "push the image, or correct imageUri")
    return Check("image", settings.image_uri, f"{known.get('imageSizeInBytes', 0) / 1e9:.1f} GB")


def patches(settings: Settings, today: date) -> Check:
    """Whether AWS still patches the image, if it announced a last day."""
    until, what = settings.image.patched_until, "image's patches"
    if until is None:
        known = settings.image.serving == "ray"
        found = "no last day is announced" if known else "nothing is known of this image"
        return Check(what, "patched by AWS", found, checked=known)
    found = f"AWS patches it until {until:%d %B %Y}"
    if today <= until:
        return Check(what, "patched by AWS", found)
    remedy = f"leave imageUri out and set imageTag to {DEFAULT_TAG} or newer"
    return Check(what, "patched by AWS", found.replace("patches", "patched"), remedy)


def driver(settings: Settings) -> Check:
    """Whether the NVIDIA driver under the container supports the image's CUDA.

    An older driver supports a newer CUDA only through the image's own cuda-compat libraries (DG
    container-nvidia-compliance), which AWS's images have.
    """
    named = settings.image_uri or f"{settings.image.repository}:{settings.image_tag}"
    cuda, family = settings.image.cuda, settings.instance_type.split(".")[1]
    version = settings.inference_ami_version or settings.image.ami
    ami = AMIS.get(version) if version else DEFAULT_AMIS.get(family)
    what = f"GPU driver of {settings.instance_type}"
    if not has_gpu(settings.instance_type):
        return Check(what, "none", "none")
    if cuda is None:
        return Check(what, "the image's CUDA", f"{named}: its tag names none", checked=False)
    asked = f"CUDA {cuda[0]}.{cuda[1]}"
    if ami is None:
        found = (
            f"no driver is known of {version}"
            if version
            else (f"AWS publishes no default driver for {family}")
        )
        return Check(what, asked, found, checked=False)
    found = f"driver {ami.driver}, CUDA {ami.cuda[0]}.{ami.cuda[1]}"
    if cuda <= ami.cuda:
        return Check(what, asked, found)
    if cuda[0] == ami.cuda[0] and ami.driver >= CUDA_12_DRIVER:
        return Check(what, asked, f"{found}, which carries every minor version of CUDA {cuda[0]}")
    if settings.image_uri is None:
        return Check(what, asked, f"{found}, newer through the image's cuda-compat libraries")
    enough = next((name for name, each in AMIS.items() if each.cuda >= cuda), None)
    return Check(
        what,
        asked,
        f"{found}; newer only if the image brings cuda-compat libraries",
        "see that it does (/usr/local/cuda/compat), or use an image with an older CUDA"
        + (f", or set inferenceAmiVersion to {enough}" if enough else ""),
    )


# Model


def weights(settings: Settings, s3: "S3Client", say: Callable[[str], None]) -> Check:
    """Whether the weights exist where config says, and an archive of them has no links."""
    place, what = settings.weights, "weights"
    if not place.startswith("s3://"):
        found = (
            "made at the start"
            if place == "tiny"
            else "downloaded from Hugging Face at each start; needs a way out to it"
        )
        return Check(what, place, found, checked=place == "tiny")
    bucket, key = split_s3_uri(place)
    missing = Check(what, place, "nothing there", "upload the weights, or correct weights")
    try:
        if not place.endswith(".tar.gz"):
            prefix = f"{key.rstrip('/')}/" if key else ""
            found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1000)
            names = [each["Key"].removeprefix(prefix) for each in found.get("Contents", ())]
            return layout(settings, names, "objects") if names else missing
        say(f"reading {place} for symlinks")
        answer = s3.get_object(Bucket=bucket, Key=key)
    except (s3.exceptions.NoSuchKey, s3.exceptions.NoSuchBucket):
        return missing
    with answer["Body"] as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|gz") as archive:
                members = list(archive)
        except (tarfile.TarError, EOFError, OSError) as error:
            return Check(what, place, f"no tar.gz: {error}", "pack it again: tar czf")
    links = archived(place, members)
    if links.remedy is not None:
        return links
    names = [member.name.removeprefix("./") for member in members if member.isfile()]
    return layout(settings, names, links.found)


def layout(settings: Settings, names: list[str], found: str) -> Check:
    """Whether a handler that uses diffusers finds a model in these files.

    Args:
        settings: `weights`, and `handler`, whose packages say whether it uses diffusers.
        names: paths below the weights' prefix.
        found: the finding if it does.
    """
    what, place = "weights", settings.weights
    packages = Path(settings.handler) / "requirements.txt"
    if "model_index.json" in names or not packages.exists():
        return Check(what, place, found)
    if not re.search(r"^diffusers\b", packages.read_text(), re.MULTILINE):
        return Check(what, place, found)
    asked = f"{place}, with model_index.json"
    deeper = sorted(name.split("/")[0] for name in names if re.match(r"[^/]+/model_index\.", name))
    if deeper:
        remedy = f"pulumi config set async-inference:weights {place.rstrip('/')}/{deeper[0]}"
        if place.endswith(".tar.gz"):
            remedy = f"pack the folder {deeper[0]} itself: tar czf FILE -C {deeper[0]} ."
        return Check(what, asked, f"the model is one level deeper, in {deeper[0]}", remedy)
    single = [name for name in names if re.fullmatch(r"[^/]+\.(safetensors|ckpt)", name)]
    if single:
        remedy = (
            "convert it with StableDiffusionXLPipeline.from_single_file(...)"
            ".save_pretrained(folder) and publish that folder"
        )
        return Check(what, asked, f"a single-file checkpoint, {single[0]}", remedy)
    return Check(what, asked, "none", "publish a folder of diffusers' layout")


def archived(place: str, members: Iterable[tarfile.TarInfo]) -> Check:
    """Whether SageMaker accepts a model archive, which must not contain links (DG)."""
    count, links = 0, []
    for member in members:
        count += 1
        if member.issym() or member.islnk():
            links.append(member.name)
    if links:
        shown = ", ".join(links[:3]) + (f" and {len(links) - 3} more" if len(links) > 3 else "")
        remedy = "pack it with the files themselves: tar --dereference --hard-dereference -czf"
        return Check("weights", f"{place} without links", f"links: {shown}", remedy)
    return Check("weights", place, f"{count} entries, no links")


# Keys


def keys(settings: Settings, s3: "S3Client", kms: "KMSClient") -> Check:
    """Whether the endpoint may use the KMS keys of weights and outputs outside its bucket.

    Otherwise the first read of the weights fails, or the first write of an output.
    """
    security = settings.security
    allowed = {*security.other_key_arns, security.given_key_arn}
    used, forbidden = 0, []
    for place, key in _used_keys(settings, s3):
        known = kms.describe_key(KeyId=key)["KeyMetadata"]
        used += 1
        # Everybody who may use S3 may use the key that AWS manages for it.
        if known["KeyManager"] == "CUSTOMER" and known["Arn"] not in allowed:
            forbidden.append(f"{place}: {known['Arn']}")
    what, asked = "keys of weights and outputs", "the endpoint may use them"
    if forbidden:
        remedy = "add them to security.otherKeyArns, and let the keys' own policies allow it"
        return Check(what, asked, ", ".join(forbidden), remedy)
    return Check(what, asked, f"{used} outside the endpoint's own bucket")


def _used_keys(settings: Settings, s3: "S3Client") -> Iterator[tuple[str, str]]:
    """The places outside the endpoint's bucket that KMS keys encrypt, each with its key."""
    if settings.weights.startswith("s3://"):
        bucket, _, key = settings.weights.removeprefix("s3://").partition("/")
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents")
        if listed:
            found = s3.head_object(Bucket=bucket, Key=listed[0]["Key"])
            if "SSEKMSKeyId" in found:
                yield settings.weights, found["SSEKMSKeyId"]
    if settings.security.encryption != "aws":
        return  # SageMaker encrypts with the endpoint's key, whatever the bucket's default is.
    paths = {path for path in (settings.output_path, settings.failure_path) if path is not None}
    for place in sorted(paths):
        bucket = place.removeprefix("s3://").partition("/")[0]
        rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
        for rule in rules["Rules"]:
            key = rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID")
            if key:
                yield place, key
