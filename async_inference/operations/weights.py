"""Uploads weights to S3 uncompressed: in parallel, with checksums, and resumable.

SageMaker then mounts the prefix beside the code (ModelDataSource, S3Prefix, CompressionType None):
no archive has to be made, downloaded in one stream, or unpacked.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef

INCLUDED = ("*.json", "*.txt", "*.safetensors")
"""The files that diffusers and transformers load; hubs also hold other formats."""
MANIFEST = "published.json"
"""The object that holds the source, revision and checksums of the weights beside it."""
_HALF = re.compile(r"\.fp16(-\d+-of-\d+)?\.safetensors$")
PART_BYTES = 64 * 2**20
"""One upload of a larger file; S3 takes 5 MiB to 5 GiB, at most 10,000 of them (S3 user guide)."""
WORKERS = 8
CHECKSUM = "sha256"
"""The object's metadata key with the whole file's checksum: S3's own one is of its parts."""


class Manifest(TypedDict):
    """What `published.json` says of the weights beside it; `sha256` is by file."""

    source: str
    revision: str | None
    bytes: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Published:
    """The files and bytes that were sent, and those that were already there."""

    sent_files: int
    sent_bytes: int
    kept_files: int
    kept_bytes: int


@dataclass(frozen=True)
class Source:
    """A folder's files that are published, by their path inside it."""

    folder: Path
    files: tuple[str, ...]
    total_bytes: int
    name: str
    revision: str | None = None
    """The commit, of a Hugging Face repository."""


def loaded(names: Iterable[str]) -> list[str]:
    """The files of a model that a handler loads, by their paths.

    Of a component with both precisions a GPU loads the half only. Beside the components of
    diffusers' layout, a single-file checkpoint holds the same weights and is left out.
    """
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in INCLUDED)]
    in_half = {name.rpartition("/")[0] for name in wanted if _HALF.search(name)}
    has_components = "model_index.json" in wanted

    def is_loaded(name: str) -> bool:
        folder = name.rpartition("/")[0]
        if not name.endswith(".safetensors"):
            return not name.endswith(".safetensors.index.json") or folder not in in_half
        if has_components and not folder:
            return False
        return folder not in in_half or _HALF.search(name) is not None

    return [name for name in wanted if is_loaded(name)]


def local_source(folder: Path, include: Sequence[str] | None = None) -> Source:
    """The files of a folder that match one of the patterns, or that a handler loads.

    Raises:
        InvalidInputError: no folder, or nothing in it matches.
    """
    if not folder.is_dir():
        raise InvalidInputError([f"{folder}: is not a folder; name one, or a Hugging Face id"])
    there = (file for file in sorted(folder.rglob("*")) if file.is_file())
    files = _chosen((file.relative_to(folder).as_posix() for file in there), include)
    if not files:
        patterns = ", ".join(include or INCLUDED)
        raise InvalidInputError([f"{folder}: holds no file that matches {patterns}; see --include"])
    total_bytes = sum((folder / file).stat().st_size for file in files)
    return Source(folder, tuple(files), total_bytes, str(folder.resolve()))


def _chosen(names: Iterable[str], include: Sequence[str] | None) -> list[str]:
    names = [name for name in names if name.rpartition("/")[2] != MANIFEST]
    if include is None:
        return loaded(names)
    return [
        name
        for name in names
        if any(fnmatch(name.rpartition("/")[2], pattern) for pattern in include)
    ]


def hub_source(
    hub_id: str, revision: str | None = None, include: Sequence[str] | None = None
) -> Source:
    """The same of a Hugging Face repository, downloaded into the hub's cache where it is not yet.

    Raises:
        InvalidInputError: huggingface_hub is missing, or has no such repository or revision.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise InvalidInputError(
            [f"{hub_id}: a Hugging Face id needs huggingface_hub; pip install huggingface_hub"]
        ) from None
    try:
        known = HfApi().model_info(hub_id, revision=revision or "main")
        wanted = _chosen((each.rfilename for each in known.siblings or ()), include)
        folder = snapshot_download(hub_id, revision=known.sha, allow_patterns=wanted)
    except Exception as error:
        sentence = str(error).strip().splitlines()[0]
        raise InvalidInputError([f"{hub_id}: {sentence}"]) from error
    found = local_source(Path(folder), include)
    return replace(found, name=hub_id, revision=known.sha)


def publish(
    source: Source,
    bucket: str,
    prefix: str,
    s3: "S3Client",
    done: Callable[[int], None] = lambda _bytes: None,
    part_bytes: int = PART_BYTES,
) -> Published:
    """Upload what is not there yet, file by file and part by part.

    A file is there if its size and SHA-256 are; parts that an interrupted run has sent are kept.

    Args:
        source: what to publish.
        bucket, prefix: where to.
        s3: a boto3 client of S3; used by several threads.
        done: called with the bytes that are on S3 in addition, sent or found.
        part_bytes: size of the parts of larger files.

    Raises:
        InvalidInputError: S3 refuses; what was sent stays, and the next run continues.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    prefix = prefix.strip("/")
    with ThreadPoolExecutor(WORKERS) as files, ThreadPoolExecutor(WORKERS) as parts:

        def key(name: str) -> str:
            return f"{prefix}/{name}" if prefix else name

        def one(name: str) -> tuple[int, bool, str]:
            upload = _Upload(source.folder / name, bucket, key(name), s3, part_bytes, done, parts)
            return upload.size, upload.run(), upload.checksum

        running = [files.submit(one, name) for name in source.files]
        try:
            _wait(running)
            results = [future.result() for future in running]
            # Last: it is there only if all that it names is.
            checksums = {
                name: result[2] for name, result in zip(source.files, results, strict=True)
            }
            manifest: Manifest = {
                "source": source.name,
                "revision": source.revision,
                "bytes": source.total_bytes,
                "sha256": checksums,
            }
            body = json.dumps(manifest, indent=2).encode()
            s3.put_object(Bucket=bucket, Key=key(MANIFEST), Body=body)
        except (BotoCoreError, ClientError) as error:
            raise InvalidInputError(
                [f"s3://{bucket}/{prefix}: {error}; uploaded parts are kept; run the command again"]
            ) from error
        except BaseException:
            parts.shutdown(wait=False, cancel_futures=True)
            files.shutdown(wait=False, cancel_futures=True)
            raise
    sent = [size for size, was_sent, _ in results if was_sent]
    kept = [size for size, was_sent, _ in results if not was_sent]
    return Published(len(sent), sum(sent), len(kept), sum(kept))


class _Upload:
    """One file on its way."""

    def __init__(
        self,
        file: Path,
        bucket: str,
        key: str,
        s3: "S3Client",
        part_bytes: int,
        done: Callable[[int], None],
        parts: ThreadPoolExecutor,
    ) -> None:
        self.size = file.stat().st_size
        self.checksum = ""
        self._file, self._s3, self._done, self._parts = file, s3, done, parts
        self._part_bytes = part_bytes
        self._bucket, self._key = bucket, key

    def run(self) -> bool:
        """Upload the file; False if it was there."""
        with self._file.open("rb") as stream:
            checksum = self.checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        if self._is_there(checksum):
            self._done(self.size)
            return False
        metadata = {CHECKSUM: checksum}
        if self.size <= self._part_bytes:
            body = self._file.read_bytes()
            self._s3.put_object(
                Bucket=self._bucket,
                Key=self._key,
                Body=body,
                Metadata=metadata,
                ChecksumSHA256=_sha256(body),
            )
            self._done(self.size)
        else:
            self._send_parts(metadata)
        return True

    def _is_there(self, checksum: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            found = self._s3.head_object(Bucket=self._bucket, Key=self._key)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return found["ContentLength"] == self.size and found["Metadata"].get(CHECKSUM) == checksum

    def _send_parts(self, metadata: dict[str, str]) -> None:
        upload_id, sent = self._interrupted()
        if upload_id is None:
            upload_id = self._s3.create_multipart_upload(
                Bucket=self._bucket, Key=self._key, Metadata=metadata, ChecksumAlgorithm="SHA256"
            )["UploadId"]
        offsets = range(0, self.size, self._part_bytes)
        running = [
            self._parts.submit(self._send_part, upload_id, number, offset, sent.get(number))
            for number, offset in enumerate(offsets, start=1)
        ]
        _wait(running)
        self._s3.complete_multipart_upload(
            Bucket=self._bucket,
            Key=self._key,
            UploadId=upload_id,
            MultipartUpload={"Parts": [part.result() for part in running]},
        )

    def _interrupted(self) -> tuple[str | None, "dict[int, PartTypeDef]"]:
        """The upload that an earlier run began, and the parts that it sent."""
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._key
        )
        begun = [upload for page in pages for upload in page.get("Uploads", [])]
        ids = [upload["UploadId"] for upload in begun if upload["Key"] == self._key]
        if not ids:
            return None, {}
        pages = self._s3.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self._key, UploadId=ids[-1]
        )
        found = (part for page in pages for part in page.get("Parts", []))
        return ids[-1], {part["PartNumber"]: part for part in found}

    def _send_part(
        self, upload_id: str, number: int, offset: int, sent: "PartTypeDef | None"
    ) -> "CompletedPartTypeDef":
        with self._file.open("rb") as stream:
            stream.seek(offset)
            body = stream.read(self._part_bytes)
        checksum = _sha256(body)
        if sent is not None and _same(sent, body, checksum):
            etag = sent["ETag"]
        else:
            etag = self._s3.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=upload_id,
                PartNumber=number,
                Body=body,
                ChecksumSHA256=checksum,
            )["ETag"]
        self._done(len(body))
        return {"PartNumber": number, "ETag": etag, "ChecksumSHA256": checksum}


def _same(sent: "PartTypeDef", body: bytes, checksum: str) -> bool:
    if "ChecksumSHA256" in sent:
        return sent["ChecksumSHA256"] == checksum
    # Services like S3 that list no checksums still have the MD5 of each part.
    return sent["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()


def _sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def _wait(futures: Sequence[Future]) -> None:
    """Wait for all; the first failure cancels what has not begun, and is raised."""
    _, pending = wait(futures, return_when=FIRST_EXCEPTION)
    for future in pending:
        future.cancel()
    for future in _failed(futures):
        raise future.exception() or AssertionError


def _failed(futures: Sequence[Future]) -> Iterator[Future]:
    return (
        future
        for future in futures
        if future.done() and not future.cancelled() and future.exception() is not None
    )
