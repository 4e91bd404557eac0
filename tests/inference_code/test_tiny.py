"""The tiny SDXL makes the digit that its prompt names: the whole way from text to image works."""

import importlib.util
import io
import zipfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = Path(__file__).resolve().parents[2] / "handlers" / "digits" / "inference.py"
IMAGES_EACH = 5
UNSEEN_SEED = 900_000


def test_a_classifier_of_real_digits_recognises_nine_of_ten_images(in_process):
    spec = importlib.util.spec_from_file_location("digits_handler", DIGITS)
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
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
