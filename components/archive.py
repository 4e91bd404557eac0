"""Reproducible model archives: the same files give the same bytes and name."""

import gzip
import hashlib
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path


def archived(
    files: Mapping[str, Path], folder: Path, derived: Mapping[str, Path] | None = None
) -> Path:
    """Pack files, each under its name, unless the archive exists.

    Reading is quick and compressing is not, so a preview without changes does not pack again.

    Args:
        files: by their names in the archive.
        folder: where it goes.
        derived: more files, generated from the others. The archive's name does not depend on them,
            since machines differ in whether and how they generate them.

    Returns:
        The archive, `<folder>/<sha256 of names and contents>.tar.gz`.
    """
    content = hashlib.sha256()
    for name, file in files.items():
        content.update(f"{name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    archive = folder / f"{content.hexdigest()}.tar.gz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # A new folder: another stack's program may pack the same files at the same time.
        with tempfile.TemporaryDirectory(dir=folder, prefix="archive-") as unfinished:
            packed = Path(unfinished) / archive.name
            _pack({**files, **(derived or {})}, packed)
            packed.replace(archive)
    return archive


def _pack(files: Mapping[str, Path], archive: Path) -> None:
    with (
        archive.open("wb") as output,
        gzip.GzipFile(filename="", fileobj=output, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
