"""A handler's packages, packed for the container's Python: a cold start installs nothing.

Installing at the start, as the serving toolkit does with a `requirements.txt`, costs each cold
start its time, takes what the index has that day, and fails without a network.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pulumi

from components.archive import archived

IMAGE_PACKAGES = Path(__file__).with_name("image_packages.txt")
TORCH = re.compile(r"torch|triton")
GLIBC = "manylinux_2_28"
"""What wheels may ask of the image's C library: Ubuntu 20.04 has 2.31, 22.04 has 2.35."""


@dataclass(frozen=True)
class Target:
    """What the packages are for, such as Python `3.12` on `x86_64`."""

    python: str
    machine: str


def target_of(image: str) -> Target | None:
    """What an image's tag tells: `-py312-` is Python 3.12; None if it tells nothing."""
    found = re.search(r"\bpy3(\d+)\b", image)
    if found is None:
        return None
    return Target(f"3.{found[1]}", "aarch64" if "arm64" in image else "x86_64")


def requirements(handler: Path) -> Path | None:
    """What lists a handler's packages: the lock, where there is one; None if nothing does."""
    for name in ("requirements.lock", "requirements.txt"):
        if (handler / name).exists():
            return handler / name
    return None


def packed(handler: Path, target: Target, build_folder: Path) -> Path | None:
    """Download a handler's packages and pack them, unless that was done before.

    Returns:
        The archive, named after its content; None for a handler that needs nothing.

    Raises:
        pulumi.RunError: they cannot be had.
    """
    asked = requirements(handler)
    if asked is None:
        return None
    excludes = _left_to_the_image(handler)
    key = hashlib.sha256(f"{target}\n{excludes}".encode())
    # A list may include others of its folder (-r, -c).
    for file in sorted([*handler.glob("*.txt"), *handler.glob("*.lock")]):
        key.update(f"\0{file.name}\0".encode() + file.read_bytes())
    folder = build_folder / "packages" / key.hexdigest()
    done = next(folder.glob("*.tar.gz"), None)
    if done is not None:
        return done
    build_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build_folder, prefix="packages-") as unfinished:
        tree = Path(unfinished) / "tree"
        tree.mkdir()
        (Path(unfinished) / "excludes.txt").write_text(excludes)
        _install(asked, target, tree, Path(unfinished) / "excludes.txt")
        _forget_this_machine(tree)
        files = {
            file.relative_to(tree).as_posix(): file
            for file in sorted(tree.rglob("*"))
            if file.is_file()
        }
        if not files:
            return None
        _say(f"Packing {sum(file.stat().st_size for file in files.values()) / 1e6:.0f} MB ...")
        return archived(files, folder)


def _left_to_the_image(handler: Path) -> str:
    """The names to leave out, a line each."""
    listed = handler / "requirements.txt"
    named = re.findall(r"^[\w.-]+", listed.read_text(), re.MULTILINE) if listed.exists() else []
    own = {re.sub(r"[-_.]+", "-", name).lower() for name in named}
    return "".join(
        f"{name}\n"
        for name in IMAGE_PACKAGES.read_text().splitlines()
        if not name.startswith("#") and (TORCH.match(name) or name not in own)
    )


def _install(asked: Path, target: Target, tree: Path, excludes: Path) -> None:
    if find_spec("uv") is None:
        raise pulumi.RunError(
            f"packing the packages of {asked} needs uv: {sys.executable} -m pip install uv"
        )
    _say(f"Getting the packages of {asked} for Python {target.python}, {target.machine} ...")
    command = [
        *(sys.executable, "-m", "uv", "pip", "install", "--target", tree, "-r", asked),
        *("--python-version", target.python, "--python-platform", f"{target.machine}-{GLIBC}"),
        *("--only-binary", ":all:", "--excludes", excludes, "--color", "never"),
    ]
    said: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as uv:
        assert uv.stderr is not None
        for line in uv.stderr:
            said.append(line.rstrip())
            if re.match(r"Resolved|Downloading|Installed", line):
                _say(line.rstrip())
    if uv.returncode:
        reason = "\n".join(said[-8:])
        raise pulumi.RunError(
            f"nothing was deployed: the packages of {asked} cannot be had for Python "
            f"{target.python}, {target.machine}:\n{reason}\n"
            "Correct the list, or try again with the package index in reach; once packed, they are "
            "kept, and no network is needed."
        )


def _forget_this_machine(tree: Path) -> None:
    """Remove what depends on the Python that installed the packages: their commands."""
    shutil.rmtree(tree / "bin", ignore_errors=True)
    (tree / ".lock").unlink(missing_ok=True)
    for record in tree.glob("*.dist-info/RECORD"):
        kept = [line for line in record.read_text().splitlines() if not line.startswith("bin/")]
        record.unlink()  # It may be a link into uv's cache.
        record.write_text("\n".join(kept) + "\n")


def _say(line: str) -> None:
    # Pulumi shows what a program writes, while its own log waits for the program to go on.
    print(line, file=sys.stderr, flush=True)
