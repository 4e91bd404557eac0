"""A handler's packages as one archive: which, for which Python, and the same bytes again.

The index is a folder of wheels made here. What it can not prove: that AWS's images work with them.
"""

import hashlib
import re
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pulumi
import pytest

from async_inference.stack.images import Image, image_of
from components import packages
from components.packages import packed
from tests.support import ROOT

TARGET = Image(serving="torchserve", python="3.12")
RAY = Image(serving="ray", python="3.13")
BOTH = "py3-none-any"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Callable[..., None]:
    """Add a wheel to the only index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))

    def add(name: str, version: str, *needs: str, tag: str = BOTH, command: str = "") -> None:
        described = f"{name}-{version}.dist-info"
        needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
        with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
            wheel.writestr(
                f"{described}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
            )
            wheel.writestr(
                f"{described}/WHEEL",
                f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
            )
            if command:
                wheel.writestr(
                    f"{described}/entry_points.txt", f"[console_scripts]\n{command} = {name}:main\n"
                )
            wheel.writestr(f"{described}/RECORD", "")

    return add


@pytest.fixture
def handler(tmp_path) -> Callable[..., Path]:
    """A handler's folder with its lists of packages."""

    def write(requirements: str, **files: str) -> Path:
        folder = tmp_path / "handler"
        folder.mkdir(exist_ok=True)
        (folder / "requirements.txt").write_text(requirements)
        for name, content in files.items():
            (folder / f"requirements.{name}").write_text(content)
        return folder

    return write


def modules(archive: Path | None) -> set[str]:
    """The packages in an archive, with their versions."""
    assert archive is not None
    with tarfile.open(archive) as tar:
        return {
            name.removesuffix(".dist-info/RECORD")
            for name in tar.getnames()
            if name.endswith(".dist-info/RECORD")
        }


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ("2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker", ("3.12", "x86_64")),
        ("1.ecr/pytorch-inference-arm64:2.6.0-cpu-py312-ubuntu22.04", ("3.12", "aarch64")),
        ("1.ecr/ray:serve-ml-sagemaker-cpu-v1.4", ("3.13", "x86_64")),
        ("1.ecr/own:py310", ("3.10", "x86_64")),
        ("1.ecr/own:1", (None, "x86_64")),
        ("1.ecr/happy3:1", (None, "x86_64")),
    ],
)
def test_an_images_tag_tells_what_to_pack_for(image, target):
    known = image_of(image)

    assert (known.python, known.machine) == target


def test_what_the_handler_asks_for_and_that_needs_is_packed_but_not_what_the_image_brings(
    index, handler, tmp_path
):
    """AWS's image has torch and numpy; another version in front of them would break either."""
    index("images", "2.0", "pixels>=1", "torch", "numpy")
    index("pixels", "1.5")

    archive = packed(handler("images\ntorch>=2\n"), TARGET, tmp_path / "build")

    assert modules(archive) == {"images-2.0", "pixels-1.5"}


def test_a_handler_that_names_numpy_gets_its_own(index, handler, tmp_path):
    index("images", "2.0", "numpy")
    index("numpy", "1.26.999")  # not one that uv may have in its cache

    archive = packed(handler("images\nNumPy==1.26.999  # as the model is\n"), TARGET, tmp_path)

    assert modules(archive) == {"images-2.0", "numpy-1.26.999"}


def test_wheels_are_those_of_the_containers_python_not_of_this_one(index, handler, tmp_path):
    index("fast", "1.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    index("fast", "1.1", tag="cp313-cp313-manylinux_2_28_x86_64")

    of_312 = packed(handler("fast\n"), TARGET, tmp_path / "build")
    of_313 = packed(handler("fast\n"), replace(TARGET, python="3.13"), tmp_path / "build")

    assert (modules(of_312), modules(of_313)) == ({"fast-1.0"}, {"fast-1.1"})


def test_a_lock_beside_the_list_decides_the_versions(index, handler, tmp_path):
    for version in ("1.0", "1.1"):
        index("images", version)
    wheel = tmp_path / "index" / f"images-1.0-{BOTH}.whl"
    lock = f"images==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"

    archive = packed(handler("images\n", lock=lock), TARGET, tmp_path / "build")

    assert modules(archive) == {"images-1.0"}


def test_a_file_that_is_not_the_locked_one_is_refused(index, handler, tmp_path):
    index("images", "1.0")
    folder = handler("images\n", lock=f"images==1.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(pulumi.RunError, match=r"(?s)requirements.lock cannot be had.*[Hh]ash"):
        packed(folder, TARGET, tmp_path / "build")


def test_the_archive_is_the_same_on_every_machine_and_holds_no_commands(index, handler, tmp_path):
    index("images", "2.0", command="make-images")
    folder = handler("images\n")

    first = packed(folder, TARGET, tmp_path / "here")
    again = packed(folder, TARGET, tmp_path / "there")

    assert first is not None
    assert again is not None
    assert first.name == again.name
    assert first.read_bytes() == again.read_bytes()
    with tarfile.open(first) as tar:
        assert not [name for name in tar.getnames() if name.startswith((".", "bin"))]
        file = tar.extractfile("images-2.0.dist-info/RECORD")
        assert file is not None
        record = file.read().decode()
    assert "images.py," in record, "importlib.metadata reads it"
    assert "make-images" not in record, "its hash depends on this machine's Python"


def test_once_packed_no_index_is_needed_until_the_list_changes(
    index, handler, tmp_path, monkeypatch
):
    index("images", "2.0")
    index("pixels", "1.5")
    folder = handler("images\n")
    first = packed(folder, TARGET, tmp_path / "build")
    wheels = tmp_path / "index"
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "nowhere"))

    assert packed(folder, TARGET, tmp_path / "build") == first

    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    changed = packed(handler("images\npixels\n"), TARGET, tmp_path / "build")
    assert modules(changed) == {"images-2.0", "pixels-1.5"}


@pytest.mark.parametrize("requirements", ["", "# nothing yet\n", "torch\n"])
def test_a_handler_that_needs_nothing_more_has_no_archive(index, handler, tmp_path, requirements):
    assert packed(handler(requirements), TARGET, tmp_path / "build") is None


def test_packages_that_cannot_be_had_are_named_and_nothing_half_done_stays(
    index, handler, tmp_path
):
    with pytest.raises(pulumi.RunError) as refused:
        packed(handler("missing-package\n"), TARGET, tmp_path / "build")

    said = str(refused.value)
    assert "requirements.txt cannot be had for Python 3.12, x86_64" in said
    assert "missing-package" in said
    assert "with the package index in reach" in said
    assert list((tmp_path / "build").iterdir()) == []


@pytest.fixture
def ray_brings(tmp_path, monkeypatch) -> None:
    """An image that has these packages, and no others."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "ray.txt").write_text("# all of it\nlayers==5.8.0\ntensors==2.10.0\n")
    (folder / "pytorch-inference.txt").write_text("tensors==2.6.0\n")
    monkeypatch.setattr(packages, "IMAGES", folder)


def test_what_a_known_image_brings_is_chosen_and_not_packed(index, handler, tmp_path, ray_brings):
    for version in ("5.8.0", "5.23.0"):
        index("layers", version)
    index("tensors", "2.10.0")
    index("pictures", "0.37.1", "layers>=5", "tensors")
    index("pictures", "0.42.1", "layers>=5.20", "tensors")

    archive = packed(handler("pictures\nlayers\n"), RAY, tmp_path / "build")

    assert modules(archive) == {"pictures-0.37.1"}, "a later one needs what the image lacks"


def test_what_does_not_fit_a_known_image_is_refused_with_the_reason(
    index, handler, tmp_path, ray_brings
):
    for version in ("5.8.0", "5.23.0"):
        index("layers", version)

    with pytest.raises(pulumi.RunError, match=r"(?s)beside what the image brings.*layers"):
        packed(handler("layers>=5.20\n"), RAY, tmp_path / "build")


def test_no_python_is_downloaded_to_choose_packages_for_one(
    index, handler, tmp_path, ray_brings, monkeypatch
):
    """uv would get a whole Python, or wait ten seconds for one where it cannot."""
    index("pictures", "0.37.1")
    future = replace(RAY, python="3.15")
    with socket.create_server(("127.0.0.1", 0)) as mirror:
        mirror.setblocking(False)
        url = f"http://127.0.0.1:{mirror.getsockname()[1]}"
        monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", url)
        monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")

        assert packed(handler("pictures\n"), future, tmp_path / "build")

        with pytest.raises(BlockingIOError):
            mirror.accept()


def test_each_image_has_a_lock_of_its_own(index, handler, tmp_path, ray_brings):
    for version in ("1.0", "1.1"):
        index("images", version)
    wheel = tmp_path / "index" / f"images-1.0-{BOTH}.whl"
    lock = f"images==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    folder = handler("images\n", **{"ray.lock": lock})

    assert modules(packed(folder, RAY, tmp_path / "ray")) == {"images-1.0"}
    assert modules(packed(folder, TARGET, tmp_path / "torchserve")) == {"images-1.1"}


def test_bytecode_is_packed_where_the_images_python_is_and_changes_no_name(
    index, handler, tmp_path, monkeypatch
):
    """Without it each cold start compiles: the images keep none (PYTHONDONTWRITEBYTECODE)."""
    index("images", "2.0")
    here = replace(TARGET, python=f"3.{sys.version_info.minor}")
    folder = handler("images\n")

    compiled = packed(folder, here, tmp_path / "with")
    monkeypatch.setattr(packages, "_compile", lambda tree, python: None)
    plain = packed(folder, here, tmp_path / "without")

    assert compiled is not None
    assert plain is not None
    assert compiled.name == plain.name, "a machine without that Python changes nothing deployed"
    with tarfile.open(compiled) as tar:
        (bytecode,) = [name for name in tar.getnames() if name.endswith(".pyc")]
        tar.extractall(tmp_path / "there", filter="data")
    (tmp_path / "there" / "images.py").touch()
    shown = subprocess.run(
        [sys.executable, "-B", "-v", "-c", "import images"],
        env={"PYTHONPATH": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"code object from '{tmp_path / 'there' / bytecode}'" in shown.stderr
    with tarfile.open(plain) as tar:
        assert not [name for name in tar.getnames() if name.endswith(".pyc")]


def test_the_locks_of_our_handlers_fit_the_images():
    """What `make lock` chose for the Ray Serve image is nothing that the image has."""
    brought = (packages.IMAGES / "ray.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in brought if not line.startswith("#")}
    for folder in ("inference_code", "examples/digits"):
        lock = (ROOT / folder / "requirements.ray.lock").read_text()
        assert not names.intersection(re.findall(r"^([\w-]+)==", lock, re.MULTILINE))
