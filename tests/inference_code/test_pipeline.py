"""What the handler makes of requests, with the tiny SDXL, through SageMaker's own Transformer."""

import base64
import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]

ASKED = {"prompt": "a seven", "steps": 2, "seed": 7}


def encoded(image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(body: bytes):
    from PIL import Image

    return Image.open(io.BytesIO(body))


def test_an_image_says_how_it_was_made_and_its_seed_makes_it_again(in_process):
    model = in_process(WARM_UP="1")

    first = model.ask(ASKED)
    image = opened(first.body)

    assert (first.status, first.media_type, image.size) == (200, "image/png", (64, 64))
    assert image.info["prompt"] == "a seven"
    assert {key: image.info[key] for key in ("seed", "steps", "scheduler", "model")} == {
        "seed": "7",
        "steps": "2",
        "scheduler": "EulerDiscreteScheduler",
        "model": "tiny",
    }
    assert len(image.info["version"]) == 12
    assert model.ask(ASKED).body == first.body
    assert model.ask({**ASKED, "seed": 8}).body != first.body
    assert model.ask({**ASKED, "width": 128, "height": 64}).body != first.body


def test_several_images_are_those_of_the_following_seeds(in_process):
    model = in_process()
    alone = [opened(model.ask({**ASKED, "seed": seed}).body) for seed in (7, 8)]

    zipped = zipfile.ZipFile(io.BytesIO(model.ask({**ASKED, "num_images": 2}, "*/*, */zip").body))
    story = json.loads(zipped.read("metadata.json"))
    together = [opened(zipped.read(f"{index}.png")) for index in range(2)]
    as_json = json.loads(model.ask({**ASKED, "num_images": 2}, "application/json").body)

    assert [image.info["seed"] for image in together] == ["7", "8"]
    for one, other in zip(alone, together, strict=True):
        difference = max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))
        assert difference <= 2, "a batch rounds differently, no more"
    assert story["seed"] == as_json["metadata"]["seed"] == 7
    assert set(story["timings_s"]) == {"generate", "model_load"}
    assert len(as_json["images"]) == 2


def test_each_format_is_what_it_says_and_holds_the_metadata(in_process):
    model = in_process()

    for media_type, form in (("image/jpeg", "JPEG"), ("image/webp", "WEBP")):
        answer = model.ask(ASKED, media_type)
        image = opened(answer.body)
        described = json.loads(image.getexif()[0x010E])

        assert (answer.media_type, image.format) == (media_type, form)
        assert (described["prompt"], described["seed"]) == ("a seven", 7)


def test_every_scheduler_runs_is_deterministic_and_leaves_no_trace(in_process):
    model = in_process()
    from typing import get_args

    from pipeline import SCHEDULERS
    from request import Scheduler

    plain = model.ask(ASKED).body
    made = {name: model.ask({**ASKED, "scheduler": name}).body for name in SCHEDULERS}

    assert set(SCHEDULERS) == set(get_args(Scheduler))
    assert len(set(made.values())) >= len(made) - 1, "they differ, but for euler's own default"
    assert made["unipc"] == model.ask({**ASKED, "scheduler": "unipc"}).body
    assert model.ask(ASKED).body == plain, "the model's own scheduler is as it was"


def test_a_picture_is_started_from_and_only_what_is_masked_changes(in_process):
    from PIL import Image, ImageChops

    model = in_process()
    start = Image.new("RGB", (72, 64), "white")
    mask = Image.new("L", (72, 64), 0)
    mask.paste(255, (0, 0, 36, 64))
    asked = {**ASKED, "steps": 4, "image": encoded(start)}

    little = opened(model.ask({**asked, "strength": 0.25}).body)
    much = opened(model.ask({**asked, "strength": 1.0}).body)
    inpainted = opened(model.ask({**asked, "mask_image": encoded(mask)}).body)
    changed = ImageChops.difference(inpainted, start).getbbox()

    assert little.size == inpainted.size == (72, 64)
    assert little.info["strength"] == "0.25"
    assert mean(little) > mean(much), "a little strength stays near the white picture"
    assert changed is not None
    assert changed[2] <= 36, "right of the mask every pixel is the picture's"
    scaled = model.ask({**asked, "width": 64, "height": 128})
    assert opened(scaled.body).size == (64, 128)


def mean(image) -> float:
    values = image.convert("L").tobytes()
    return sum(values) / len(values)


def test_a_lora_changes_the_images_and_a_refiner_finishes_them(in_process, tmp_path):
    import diffusers
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    plain = in_process()
    made = plain.ask({**ASKED, "steps": 5}).body
    refused = plain.ask({**ASKED, "refine": 0.4})
    torch.manual_seed(0)
    base = plain.transformer._model.base
    # A refiner is another UNet, with the second text encoder only and an aesthetic score.
    config = dict(base.unet.config) | {
        "cross_attention_dim": base.text_encoder_2.config.hidden_size,
        "projection_class_embeddings_input_dim": 5 * 8 + base.text_encoder_2.config.hidden_size,
    }
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(
        **base.components
        | {
            "text_encoder": None,
            "tokenizer": None,
            "unet": diffusers.UNet2DConditionModel.from_config(config),
        },
        requires_aesthetics_score=True,
        add_watermarker=False,
    )
    refiner.save_pretrained(tmp_path / "refiner")
    unet = diffusers.UNet2DConditionModel.from_config(base.unet.config)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    diffusers.StableDiffusionXLPipeline.save_lora_weights(
        tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(unet)
    )

    adapted = in_process(MODEL_LORA=str(tmp_path / "lora"), MODEL_LORA_SCALE="0.5")
    with_lora = adapted.ask({**ASKED, "steps": 5}).body
    refining = in_process(MODEL_LORA="", MODEL_REFINER=str(tmp_path / "refiner"))
    refined = refining.ask({**ASKED, "steps": 5}).body

    assert refused.status == 400
    assert b"this endpoint has no refiner" in refused.body
    assert len({made, with_lora, refined}) == 3
    assert opened(refined).info["refine"] == "0.2"
    assert refining.ask({**ASKED, "steps": 5, "refine": 0}).body == made
    assert refining.ask({**ASKED, "steps": 5}).body == refined


def test_a_body_that_the_toolkit_cannot_decode_is_refused_with_a_sentence(in_process):
    answer = in_process().ask(b'{"prompt": "\xff"}')

    assert answer.status == 400
    assert json.loads(answer.body)["error"] == "the body is not UTF-8"


OUT_OF_MEMORY = """
import resource, sys
sys.path[:0] = sys.argv[1:]
import os
os.environ |= {"MODEL_WEIGHTS": "tiny", "SAGEMAKER_PROGRAM": "inference.py"}
from tests.inference_code.conftest import InProcess
from pathlib import Path
model = InProcess(Path.cwd())
small = {"prompt": "a seven", "steps": 1, "seed": 1}
before = model.ask(small).body
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
refused = model.ask(small | {"width": 4096, "height": 4096, "num_images": 2}, "application/zip")
print(refused.status, refused.body.decode())
print(model.ask(small).body == before)
"""


def test_out_of_memory_is_answered_and_the_next_request_served(in_the_container, tmp_path):
    from tests.inference_code.conftest import FOLDER

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OUT_OF_MEMORY, str(FOLDER), str(FOLDER.parent)],
        cwd=tmp_path,
        env={**os.environ, "MAX_PIXELS": "99999999"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Traceback" in done.stderr, "the log has it"
    refused, *_, again = done.stdout.splitlines()
    assert refused.startswith("507 ")
    assert "out of memory for 2 image(s) of 4096 x 4096" in refused
    assert again == "True", done.stderr[-1000:]
