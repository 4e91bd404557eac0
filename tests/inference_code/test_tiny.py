"""The tiny SDXL makes the digit that its prompt names: the whole way from text to image works.

Its training is shown to be repeatable by a few steps; that all of them teach it, by what it makes.
"""

import functools
import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = ROOT / "examples" / "digits" / "inference.py"
TRAINING = ROOT / "inference_code" / "tiny" / "train.py"
IMAGES_EACH = 5
UNSEEN_SEED = 900_000


def module(path: Path) -> ModuleType:
    """A file as its own module, whose name no other takes."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def training(monkeypatch) -> Iterator[ModuleType]:
    """The training, with a few steps for the text encoders, which no argument shortens."""
    import torch

    threads = torch.get_num_threads()
    train = module(TRAINING)
    few = functools.partial(train.train_text_encoders, steps=2)
    monkeypatch.setattr(train, "train_text_encoders", few)
    yield train
    torch.set_num_threads(threads)


def test_a_training_is_repeated_to_the_byte_by_its_seed(training, monkeypatch, tmp_path):
    def trained(name: str, seed: int) -> dict[str, bytes]:
        few = ["--vae-steps", "2", "--steps", "2", "--output", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", ["train.py", "--seed", str(seed), *few])
        training.main()
        files = (tmp_path / name).rglob("*.safetensors")
        return {file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in files}

    first = trained("first", 1)

    assert len(first) == 4, "VAE, UNet and two text encoders"
    assert trained("again", 1) == first
    assert trained("other", 2) != first


def test_a_classifier_of_real_digits_recognises_nine_of_ten_images(in_process):
    reader = module(DIGITS)
    knows_digits = reader.model_fn(None)
    model = in_process()
    asked = {"steps": 20, "seed": UNSEEN_SEED, "num_images": IMAGES_EACH}
    read: dict[str, list[int]] = {}

    for word in WORDS:
        answer = model.ask({**asked, "prompt": f"a {word}"}, "application/zip")
        archive = zipfile.ZipFile(io.BytesIO(answer.body))
        images = [archive.read(f"{index}.png") for index in range(IMAGES_EACH)]
        read[word] = [
            reader.predict_fn(reader.input_fn(image, "image/png"), knows_digits) for image in images
        ]
    right = sum(read[word].count(digit) for digit, word in enumerate(WORDS))

    assert right >= 0.9 * len(WORDS) * IMAGES_EACH, read
