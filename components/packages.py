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
from importlib.util import find_spec
from pathlib import Path

import pulumi

from async_inference.stack.images import Image
from components.archive import archived

IMAGES = Path(__file__).with_name("images")
"""The packages in AWS's images, one list for each repository."""
TORCH = re.compile(r"torch|triton")
GLIBC = "manylinux_2_28"
"""The C library that wheels may need: Ubuntu 20.04 has 2.31, 22.04 has 2.35."""


def requirements(handler: Path, image: Image) -> Path | None:
    """The file that lists a handler's packages: the lock for the image, where there is one.

    A `requirements.lock` is for images whose packages are unknown. Those of the Ray Serve image are
    known, and such a lock could name other versions.
    """
    names = [f"requirements.{image.repository}.lock", "requirements.lock", "requirements.txt"]
    if image.serving == "ray":
        names.remove("requirements.lock")
    return next((handler / name for name in names if (handler / name).exists()), None)


def packed(handler: Path, image: Image, build_folder: Path) -> Path | None:
    """Download a handler's packages and pack them, unless the archive exists.

    The archive includes bytecode where this machine has the image's Python. The image's variables
    keep Python from writing any, so each cold start would compile everything that it imports.

    Returns:
        The archive, named after its content; None for a handler that needs nothing.

    Raises:
        pulumi.RunError: they cannot be downloaded.
    """
    asked = requirements(handler, image)
    if asked is None:
        return None
    brought = IMAGES / f"{image.repository}.txt"
    excludes = _left_to_the_image(handler, brought)
    key = hashlib.sha256(f"{image.python} {image.machine}\n{brought.read_text()}\n".encode())
    # A list may include others of its folder (-r, -c).
    for file in sorted([*handler.glob("*.txt"), *handler.glob("*.lock")]):
        key.update(f"\0{file.name}\0".encode() + file.read_bytes())
    folder = build_folder / "packages" / key.hexdigest()
    done = next(folder.glob("*.tar.gz"), None)
    if done is not None:
        return done
    build_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build_folder, prefix="packages-") as unfinished:
        work = Path(unfinished)
        tree = work / "tree"
        tree.mkdir()
        (work / "excludes.txt").write_text(excludes)
        wanted = asked
        if image.serving == "ray" and asked.suffix != ".lock":
            # All together must fit the image; leaving its packages out hides what does not.
            wanted = work / "fits.txt"
            _uv("compile", asked, image, "-c", brought, "-o", wanted)
        _uv("install", asked, image, "--target", tree, "-r", wanted)
        _forget_this_machine(tree)
        files = _files(tree)
        if not files:
            return None
        assert image.python is not None
        _compile(tree, image.python)
        derived = {name: file for name, file in _files(tree).items() if name not in files}
        _say(f"Packing {sum(file.stat().st_size for file in files.values()) / 1e6:.0f} MB ...")
        return archived(files, folder, derived)


def _files(tree: Path) -> dict[str, Path]:
    return {
        file.relative_to(tree).as_posix(): file
        for file in sorted(tree.rglob("*"))
        if file.is_file()
    }


def _left_to_the_image(handler: Path, brought: Path) -> str:
    """The names of packages to leave out, one a line.

    A package that the image's list names without a version is packed if the handler names it.
    """
    listed = handler / "requirements.txt"
    named = re.findall(r"^[\w.-]+", listed.read_text(), re.MULTILINE) if listed.exists() else []
    handlers = {re.sub(r"[-_.]+", "-", name).lower() for name in named}
    lines = [line.split("==") for line in brought.read_text().splitlines() if line[:1].isalpha()]
    return "".join(
        f"{name}\n"
        for name, *version in lines
        if version or TORCH.match(name) or name not in handlers
    )


def _compile(tree: Path, python: str) -> None:
    """Compile all modules for a Python version, if this machine has it."""
    found = subprocess.run(
        [sys.executable, "-m", "uv", "python", "find", "--no-python-downloads", python],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        _say(f"No Python {python} here (uv python install {python}): packed without bytecode.")
        return
    # Bytecode must be used whatever the files' times, which unpacking changes.
    options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", tree]
    # Some packages hold files of other Python versions, which do not compile.
    command = [found.stdout.strip(), "-m", "compileall", *options, tree]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def _uv(work: str, asked: Path, image: Image, *options: str | Path) -> None:
    """`uv pip compile` or `uv pip install` for an image's Python.

    `excludes.txt`, beside the target, lists the packages to leave out.

    Raises:
        pulumi.RunError: it failed, with the reason.
    """
    if find_spec("uv") is None:
        raise pulumi.RunError(
            f"packing the packages of {asked} needs uv: {sys.executable} -m pip install uv"
        )
    assert image.python is not None
    command = [sys.executable, "-m", "uv", "pip", work, *map(str, options), "--color", "never"]
    command += ["--python-version", image.python, "--only-binary", ":all:"]
    # Only wheels are taken, so the image's Python is not needed here.
    command += ["--python-platform", f"{image.machine}-{GLIBC}", "--no-python-downloads"]
    if work == "compile":
        command += [str(asked), "-q"]
    else:
        _say(f"Getting the packages of {asked} for Python {image.python}, {image.machine} ...")
        target = Path(options[options.index("--target") + 1])
        command += ["--excludes", str(target.with_name("excludes.txt"))]
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
            f"{image.python}, {image.machine}, beside what the image brings "
            f"(components/images/{image.repository}.txt):\n{reason}\n"
            "Correct the list, or try again with the package index in reach; once packed, they are "
            "kept, and no network is needed."
        )


def _forget_this_machine(tree: Path) -> None:
    """Remove the packages' commands, which depend on the Python that installed them."""
    shutil.rmtree(tree / "bin", ignore_errors=True)
    (tree / ".lock").unlink(missing_ok=True)
    for record in tree.glob("*.dist-info/RECORD"):
        kept = [line for line in record.read_text().splitlines() if not line.startswith("bin/")]
        record.unlink()  # It may be a link into uv's cache.
        record.write_text("\n".join(kept) + "\n")


def _say(line: str) -> None:
    # Pulumi shows a program's output at once, but its log only when the program continues.
    print(line, file=sys.stderr, flush=True)
