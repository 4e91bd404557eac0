"""The handler's code, packaged by content, and where the container finds code and weights."""

import gzip
import hashlib
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pulumi
import pulumi_aws as aws

BUILD_FOLDER = Path(".local/build")
WEIGHTS_CHANNEL = "weights"
WEIGHTS_MOUNT = f"/opt/ml/additional-model-data-sources/{WEIGHTS_CHANNEL}"
"""Where SageMaker puts an additional model data source (BC AdditionalModelDataSource)."""
_LEFT_OUT = {"__pycache__", ".pytest_cache", ".ruff_cache", ".DS_Store"}


@dataclass(frozen=True, kw_only=True)
class ModelSourceArgs:
    """What a `ModelSource` packages.

    Args:
        bucket_name: where the code archive goes.
        handler: folder whose files become the container's `code/`.
        weights: `s3://` prefix or `.tar.gz`, a Hugging Face id, or `tiny`.
        tags: tags for the archive.
    """

    bucket_name: pulumi.Input[str]
    handler: Path
    weights: str
    tags: dict[str, str] = field(default_factory=dict)


def package(handler: Path, build_folder: Path = BUILD_FOLDER) -> Path:
    """Pack a handler's files as `code/...` of a model archive named after their content.

    The same files give the same bytes, so that only a change reaches the endpoint; symlinks are
    followed, since a model archive must hold none (DG).

    Returns:
        The archive, `<build_folder>/<sha256>.tar.gz`.
    """
    files = {
        f"code/{file.relative_to(handler).as_posix()}": file
        for file in sorted(handler.rglob("*"))
        if file.is_file() and not _LEFT_OUT.intersection(file.relative_to(handler).parts)
    }
    content = hashlib.sha256()
    for name, file in files.items():
        content.update(f"{name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    archive = build_folder / f"{content.hexdigest()}.tar.gz"
    # Reading is quick, compressing is not: a preview without a change does not pack again.
    if not archive.exists():
        build_folder.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".part")
        _pack(files, unfinished)
        unfinished.replace(archive)
    return archive


def _pack(files: dict[str, Path], archive: Path) -> None:
    with (
        archive.open("wb") as output,
        gzip.GzipFile(filename="", fileobj=output, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)


class ModelSource(pulumi.ComponentResource):
    """Code and weights as the model's data sources.

    - the code archive in the bucket, its key holding the content's hash: a changed line makes a new
      object, hence a new model, a new configuration and an update of the endpoint
    - weights stay where they are; a code change never uploads them again
    """

    code_uri: pulumi.Output[str]
    weights_location: str
    """What the handler reads as MODEL_WEIGHTS: a folder, a Hugging Face id, or `tiny`."""
    additional_sources: (
        list[aws.sagemaker.ModelPrimaryContainerAdditionalModelDataSourceArgsDict] | None
    )

    def __init__(
        self, name: str, args: ModelSourceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:ModelSource", name, None, opts)
        archive = package(args.handler)
        content_hash = archive.name.removesuffix(".tar.gz")
        code = aws.s3.BucketObjectv2(
            f"{name}-code",
            bucket=args.bucket_name,
            key=f"code/{content_hash}/model.tar.gz",
            source=pulumi.FileAsset(archive),
            tags=args.tags,
            # Going back to earlier code meets the archive under its old key, so deleting what was
            # replaced could delete what runs. Archives are small; they go with the bucket.
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True),
        )
        self.code_uri = pulumi.Output.concat("s3://", code.bucket, "/", code.key)
        if args.weights.startswith("s3://"):
            archived = args.weights.endswith(".tar.gz")
            self.weights_location = WEIGHTS_MOUNT
            self.additional_sources = [
                {
                    "channel_name": WEIGHTS_CHANNEL,
                    "s3_data_sources": [
                        {
                            "s3_uri": args.weights if archived else f"{args.weights.rstrip('/')}/",
                            "s3_data_type": "S3Object" if archived else "S3Prefix",
                            "compression_type": "Gzip" if archived else "None",
                        }
                    ],
                }
            ]
        else:
            self.weights_location = args.weights
            self.additional_sources = None
        self.register_outputs({"code_uri": self.code_uri})
