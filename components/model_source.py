"""Archives of the handler's code and packages, and where the container finds them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws

from async_inference.stack.images import Image
from components.archive import archived
from components.packages import packed

BUILD_FOLDER = Path(".local/build")
TINY = "tiny"
"""Weights that are packaged with the handler, from its folder of that name."""
WEIGHTS_CHANNEL, PACKAGES_CHANNEL = "weights", "packages"
_CodeArgsDict = aws.sagemaker.ModelPrimaryContainerModelDataSourceArgsDict
_SourceArgsDict = aws.sagemaker.ModelPrimaryContainerAdditionalModelDataSourceArgsDict
_RAY = Path(__file__).with_name("ray_application.py"), Path(__file__).with_name("ray_config.yaml")
_LEFT_OUT = {"__pycache__", ".pytest_cache", ".ruff_cache", ".DS_Store"}


@dataclass(frozen=True, kw_only=True)
class ModelSourceArgs:
    """What a `ModelSource` packages.

    Args:
        bucket_name: where the archives go.
        handler: folder whose files become the container's `code/`.
        image: what is known of the container's image.
        weights: `s3://` prefix or `.tar.gz`, a Hugging Face id, or `tiny`.
    """

    bucket_name: pulumi.Input[str]
    handler: Path
    image: Image
    weights: str


def mount(channel: str) -> str:
    """Where SageMaker puts an additional model data source (BC AdditionalModelDataSource)."""
    return f"/opt/ml/additional-model-data-sources/{channel}"


def package(
    handler: Path, image: Image, *, weights: str = TINY, build_folder: Path = BUILD_FOLDER
) -> Path:
    """Pack a handler's files as `code/...` of a model archive named after their content.

    For Ray Serve, its application and config lie beside `code/`. What the container would install
    at its start is left out, where the image tells its Python and packages are packed for that.

    The same files give the same bytes, so that only a change reaches the endpoint; symlinks are
    followed, since a model archive must hold none (DG).

    Args:
        handler: the folder.
        image: what is known of the container's image.
        weights: what the handler loads; its folder `tiny` is left out for all but `tiny`.
        build_folder: where the archive goes.
    """
    files = {
        f"code/{file.relative_to(handler).as_posix()}": file
        for file in sorted(handler.rglob("*"))
        if file.is_file() and not _LEFT_OUT.intersection(file.relative_to(handler).parts)
    }
    if weights != TINY:
        files = {name: file for name, file in files.items() if not name.startswith("code/tiny/")}
    packed_apart = image.python is not None
    for name in list(files):
        if re.fullmatch(
            r"code/requirements.*\.lock" + packed_apart * r"|code/requirements\.txt", name
        ):
            del files[name]
    if image.serving == "ray":
        application, config = _RAY
        files |= {application.name: application, "config.yaml": config}
    return archived(files, build_folder)


class ModelSource(pulumi.ComponentResource):
    """Code, packages and weights as the model's data sources.

    - the code archive in the bucket, its key holding the content's hash: a changed line makes a new
      object, hence a new model, a new configuration and an update of the endpoint
    - the archive of the handler's packages the same way, if it asks for any and the image tells its
      Python; otherwise the container installs them at each start
    - weights stay where they are; a code change never uploads them again, nor the packages
    """

    code: _CodeArgsDict
    weights_location: str
    """What the handler reads as MODEL_WEIGHTS: a folder, a Hugging Face id, or `tiny`."""
    packages_folder: str | None
    """What belongs on the container's PYTHONPATH."""
    additional_sources: list[_SourceArgsDict] | None

    def __init__(
        self, name: str, args: ModelSourceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:ModelSource", name, None, opts)
        packages = packed(args.handler, args.image, BUILD_FOLDER) if args.image.python else None
        code = package(args.handler, args.image, weights=args.weights)
        code_uri = self._uploaded(f"{name}-code", code, "model.tar.gz", args)
        self.code = {"s3_data_sources": [_data(code_uri, archived=True)]}
        sources: list[_SourceArgsDict] = []
        self.packages_folder = None
        if packages is not None:
            uri = self._uploaded(f"{name}-packages", packages, "packages.tar.gz", args)
            sources.append(_source(PACKAGES_CHANNEL, uri, archived=True))
            self.packages_folder = mount(PACKAGES_CHANNEL)
        self.weights_location = args.weights
        if args.weights.startswith("s3://"):
            archived = args.weights.endswith(".tar.gz")
            uri = args.weights if archived else f"{args.weights.rstrip('/')}/"
            sources.append(_source(WEIGHTS_CHANNEL, uri, archived=archived))
            self.weights_location = mount(WEIGHTS_CHANNEL)
        self.additional_sources = sources or None
        self.register_outputs({"code_uri": code_uri})

    def _uploaded(
        self, name: str, archive: Path, file: str, args: ModelSourceArgs
    ) -> pulumi.Output[str]:
        content_hash = archive.name.removesuffix(".tar.gz")
        uploaded = aws.s3.BucketObjectv2(
            name,
            bucket=args.bucket_name,
            key=f"code/{content_hash}/{file}",
            source=pulumi.FileAsset(archive),
            # An object takes ten tags (S3 user guide), other resources 50: none of them here.
            override_provider={"default_tags": {"tags": {}}},
            # Going back to earlier code meets the archive under its old key, so deleting what was
            # replaced could delete what runs. Archives are small; they go with the bucket.
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=True),
        )
        return pulumi.Output.concat("s3://", uploaded.bucket, "/", uploaded.key)


def _data(uri: pulumi.Input[str], *, archived: bool) -> Any:
    return {
        "s3_uri": uri,
        "s3_data_type": "S3Object" if archived else "S3Prefix",
        "compression_type": "Gzip" if archived else "None",
    }


def _source(channel: str, uri: pulumi.Input[str], *, archived: bool) -> _SourceArgsDict:
    return {"channel_name": channel, "s3_data_sources": [_data(uri, archived=archived)]}
