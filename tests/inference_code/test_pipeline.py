"""What the handler makes of requests, with the tiny SDXL, through SageMaker's own Transformer."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from tests.support.handler import ASKED, encoded, opened

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]


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
from tests.support.handler import InProcess
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
    from tests.support.handler import FOLDER

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


def test_a_preset_makes_an_image_in_few_steps(in_process):
    model = in_process(PRESET="lightning")

    made = opened(model.ask({"prompt": "a seven", "seed": 7}).body)
    one_step = opened(model.ask({"prompt": "a seven", "preset": "hyper", "steps": 1}).body)

    assert (made.info["steps"], made.info["guidance_scale"]) == ("4", "0.0")
    assert (one_step.info["steps"], one_step.info["scheduler"]) == ("1", "lcm")


def test_a_vae_of_its_own_decodes_without_an_upcast(in_process, tmp_path):
    """As SDXL's own is, which is decoded in fp32, and its repaired copy, which is not."""
    import shutil

    plain = in_process()
    base = plain.transformer._model.base
    base.vae.save_pretrained(tmp_path / "vae-fp16-fix")
    base.vae.register_to_config(force_upcast=True)
    base.save_pretrained(tmp_path / "sdxl")
    shutil.move(tmp_path / "vae-fp16-fix", tmp_path / "sdxl" / "vae-fp16-fix")
    made = plain.ask(ASKED).body
    stories = []
    for vae in ("", "vae-fp16-fix"):
        model = in_process(MODEL_WEIGHTS=str(tmp_path / "sdxl"), MODEL_VAE=vae)
        stories.append(model.transformer._model.base.vae.config["force_upcast"])

    assert stories == [True, False]
    assert opened(model.ask(ASKED).body).tobytes() == opened(made).tobytes(), "the same weights"


def write_lora(base, file, seed: int) -> None:
    import diffusers
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel.from_config(base.unet.config)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    diffusers.StableDiffusionXLPipeline.save_lora_weights(
        file.parent, get_peft_model_state_dict(unet), weight_name=file.name
    )


def test_a_request_chooses_lora_weights_from_those_that_are_allowed(in_process, tmp_path):
    plain = in_process()
    made = plain.ask(ASKED).body
    none = plain.ask({**ASKED, "loras": {"pixel": 1}})
    for seed, name in enumerate(("pixel", "v1.5-ink")):
        write_lora(plain.transformer._model.base, tmp_path / f"{name}.safetensors", seed)

    model = in_process(MODEL_LORAS=str(tmp_path))
    pixel = model.ask({**ASKED, "loras": {"pixel": 1}}).body
    ink = model.ask({**ASKED, "loras": {"v1.5-ink": 0.5}}).body
    both = model.ask({**ASKED, "loras": {"pixel": 1, "v1.5-ink": 0.5}}).body
    refused = model.ask({**ASKED, "loras": {"../pixel": 1}})

    assert len({made, pixel, ink, both}) == 4
    assert opened(pixel).info["loras"] == "{'pixel': 1.0}"
    assert model.ask(ASKED).body == made, "none asked for, none left on"
    assert model.ask({**ASKED, "loras": {"pixel": 1}}).body == pixel
    assert refused.status == 400
    assert b"this endpoint has no ../pixel; it has pixel, v1.5-ink" in refused.body
    assert none.status == 400
    assert b"this endpoint has no pixel; it has none" in none.body


def test_requests_at_the_same_time_do_not_switch_each_others_lora_weights(in_process, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    write_lora(in_process().transformer._model.base, tmp_path / "pixel.safetensors", 0)
    model = in_process(MODEL_LORAS=str(tmp_path))
    import pipeline
    from request import ImageRequest

    def pixels(loras: dict) -> bytes:
        request = ImageRequest(prompt="a seven", steps=2, seed=7, loras=loras)
        return pipeline.generate(model.transformer._model, request).images[0].tobytes()

    asked = [{}, {"pixel": 1.0}] * 8
    alone = [pixels(loras) for loras in asked[:2]]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(pixels, asked))

    assert together == alone * 8


def test_a_folder_of_loras_without_any_is_refused_at_load(in_process, tmp_path):
    with pytest.raises(Exception, match=r"must be a folder with \.safetensors"):
        in_process(MODEL_LORAS=str(tmp_path))


@pytest.mark.parametrize("finds", [True, False])
def test_a_safety_checker_makes_what_it_finds_black(in_process, tmp_path, finds):
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = small | {"image_size": 32, "patch_size": 16, "intermediate_size": 8}
    config = CLIPConfig(vision_config=vision, text_config=small, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config)
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        # What cosine similarity must exceed: it is never below -1 nor above 1.
        setattr(checker, name, torch.nn.Parameter(torch.full((17,), -2.0 if finds else 2.0)))
    checker.special_care_embeds_weights = torch.nn.Parameter(torch.full((3,), 2.0))
    checker.save_pretrained(tmp_path)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    plain = in_process()

    model = in_process(MODEL_SAFETY_CHECKER=str(tmp_path))
    image = opened(model.ask(ASKED).body)
    story = json.loads(model.ask({**ASKED, "num_images": 2}, "application/json").body)

    assert (image.getextrema() == ((0, 0),) * 3) == finds
    assert story["metadata"]["withheld"] == ([0, 1] if finds else [])
    assert "withheld" not in opened(plain.ask(ASKED).body).info


def test_a_watermark_needs_its_package(in_process):
    import diffusers

    assert not diffusers.utils.is_invisible_watermark_available()
    with pytest.raises(Exception, match="add invisible-watermark to the handler's requirements"):
        in_process(WATERMARK="1")


def test_a_model_of_another_family_is_served_as_far_as_it_goes(in_process, tmp_path):
    """Stable Diffusion 1.x: one text encoder, no size or crop embeddings, its own checker."""
    import diffusers
    from PIL import Image

    parts = in_process().transformer._model.base.components
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=8,
        cross_attention_dim=parts["text_encoder"].config.hidden_size,
    )
    diffusers.StableDiffusionPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    start = encoded(Image.new("RGB", (64, 64), "white"))

    model = in_process(MODEL_WEIGHTS=str(tmp_path))
    text = model.ask(ASKED | {"negative_prompt": "a four", "scheduler": "dpmpp_2m"})
    picture = model.ask(ASKED | {"image": start})
    masked = model.ask(ASKED | {"image": start, "mask_image": start})

    assert type(model.transformer._model.base).__name__ == "StableDiffusionPipeline"
    assert [answer.status for answer in (text, picture, masked)] == [200, 200, 200]
    assert opened(text.body).size == opened(picture.body).size == (64, 64)


def test_a_model_without_half_precision_on_the_hub_loads_its_plain_files(in_process, monkeypatch):
    """On a GPU the variant fp16 is asked for first; many models have none."""
    from pathlib import Path

    in_process()
    import diffusers
    import pipeline
    import torch

    tiny = Path(pipeline.__file__).parent / "tiny"
    real, index = diffusers.StableDiffusionXLPipeline, {"_class_name": "StableDiffusionXLPipeline"}
    asked: list[tuple] = []

    class Hub(diffusers.StableDiffusionXLPipeline):
        @classmethod
        def load_config(cls, name, **_options):
            return index

        @classmethod
        def from_pretrained(cls, name, variant=None, revision=None, **options):
            asked.append((name, revision, variant))
            if variant:
                raise ValueError("no such modeling files are available")
            return real.from_pretrained(tiny, **options)

    monkeypatch.setattr(diffusers, "DiffusionPipeline", Hub)
    monkeypatch.setattr(diffusers, "StableDiffusionXLPipeline", Hub)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loaded = pipeline._pretrained("org/tiny@v2", add_watermarker=False)

    assert asked == [("org/tiny", "v2", "fp16"), ("org/tiny", "v2", None)]
    assert loaded.unet.dtype == torch.float16
