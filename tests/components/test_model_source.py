"""What travels to the container as the handler's code."""

import tarfile
from pathlib import Path

import pytest

from async_inference.stack.images import DEFAULT_TAG, image_of
from components import archive
from components.archive import archived
from components.model_source import package
from tests.support import ROOT


@pytest.mark.parametrize(
    ("weights", "travel"), [("tiny", True), ("s3://models/sdxl", False), ("org/name", False)]
)
def test_the_tiny_models_weights_travel_only_where_they_are_loaded(tmp_path, weights, travel):
    archive = package(
        ROOT / "inference_code", image_of(DEFAULT_TAG), weights=weights, build_folder=tmp_path
    )

    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert "code/inference.py" in names
    assert any(name.startswith("code/tiny/") for name in names) is travel
    assert travel or archive.stat().st_size < 100_000


def test_two_programs_that_pack_the_same_files_at_once_do_not_disturb_each_other(
    tmp_path, monkeypatch
):
    """`pulumi up` of two stacks in one checkout."""

    def pack_twice(files: dict[str, Path], unfinished: Path) -> None:
        monkeypatch.undo()
        pack(files, unfinished)
        archived(files, tmp_path)

    pack = archive._pack
    monkeypatch.setattr(archive, "_pack", pack_twice)

    packed = archived({"code/inference.py": ROOT / "inference_code" / "inference.py"}, tmp_path)

    assert list(tmp_path.iterdir()) == [packed]
    with tarfile.open(packed) as content:
        assert content.getnames() == ["code/inference.py"]
