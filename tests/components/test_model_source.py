"""What travels to the container as the handler's code."""

import tarfile
from pathlib import Path

import pytest

from async_inference.images import DEFAULT_TAG, image_of
from components.model_source import package

ROOT = Path(__file__).resolve().parents[2]


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
