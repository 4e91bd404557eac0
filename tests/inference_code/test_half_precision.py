"""What a GPU does to the handler, shown on the CPU: the tiny SDXL in fp16, its VAE force_upcast."""

import copy
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.support.handler import (
    ASKED,
    FOLDER,
    MODULES,
    InProcess,
    encoded,
    forget_handler,
    opened,
)

pytestmark = [
    pytest.mark.serving,
    pytest.mark.filterwarnings("ignore"),  # what torch, diffusers and transformers warn of
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The handler with its model as a GPU has it: fp16, and a VAE that decodes in fp32."""
    import torch

    with pytest.MonkeyPatch.context() as container:
        container.syspath_prepend(str(FOLDER))
        container.setenv("MODEL_WEIGHTS", "tiny")
        container.setenv("SAGEMAKER_PROGRAM", "inference.py")
        forget_handler()
        handler = InProcess(tmp_path_factory.mktemp("model"))
        modules = {name: sys.modules[name] for name in MODULES}
    model: Any = handler.transformer._model
    model.base.to(torch.float16)
    model.base.vae.register_to_config(force_upcast=True)
    return handler, model, modules


@pytest.fixture
def half(loaded, in_the_container):
    """That handler, with a copy of its model for one test to break."""
    handler, model, modules = loaded
    sys.modules.update(modules)
    handler.transformer._model = replace(model, base=copy.deepcopy(model.base))
    return handler


@pytest.mark.parametrize(
    ("kind", "failing"),
    [
        ("text", "decode"),
        ("image", "encode"),
        ("image", "decode"),
        ("inpainting", "encode"),
        ("inpainting", "decode"),
    ],
)
def test_an_out_of_memory_in_the_vae_leaves_it_in_half_precision(half, monkeypatch, kind, failing):
    import torch
    from PIL import Image

    start = encoded(Image.new("RGB", (64, 64), "grey"))
    asked = ASKED | {"image": start} if kind != "text" else ASKED
    asked = asked | {"mask_image": start} if kind == "inpainting" else asked
    vae = half.transformer._model.base.vae
    before = half.ask(ASKED)

    def short(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    with monkeypatch.context() as failed:
        failed.setattr(vae, failing, short)
        refused = half.ask(asked)
    after = half.ask(ASKED)

    assert (before.status, refused.status, after.status) == (200, 507, 200)
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float16}
    assert after.body == before.body


def test_one_out_of_memory_among_fifty_requests_costs_one_answer(half, monkeypatch):
    import torch

    vae = half.transformer._model.base.vae
    decode, calls = vae.decode, []

    def short_once(*args, **options):
        calls.append(1)
        if len(calls) == 25:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return decode(*args, **options)

    monkeypatch.setattr(vae, "decode", short_once)
    statuses = [half.ask({**ASKED, "steps": 1}).status for _ in range(50)]

    assert (statuses.count(200), statuses.count(507)) == (49, 1)


def test_requests_at_the_same_time_share_the_model_in_turn(half):
    """An endpoint with more than one request at a time: the VAE is cast to fp32 and back."""
    from concurrent.futures import ThreadPoolExecutor

    import pipeline
    from request import ImageRequest

    model = half.transformer._model
    request = ImageRequest(prompt="a seven", steps=1, seed=7)

    def pixels(_number: int) -> bytes:
        return pipeline.generate(model, request).images[0].tobytes()

    alone = pixels(0)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(pixels, range(16)))

    assert set(together) == {alone}


def test_images_are_decoded_one_by_one_and_attention_stays_fused(half):
    model = half.transformer._model
    decoder, batches = model.base.vae.decoder, []
    decoder.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))

    answer = half.ask({**ASKED, "num_images": 3}, "application/zip")

    assert answer.status == 200
    assert batches == [1, 1, 1]
    assert not any(
        "Sliced" in type(processor).__name__
        for processor in model.base.unet.attn_processors.values()
    )
    assert not model.base.vae.use_tiling


@pytest.mark.parametrize("scheduler", [None, "ddim", "euler_ancestral", "lcm", "dpmpp_2m"])
def test_an_ideal_refiner_changes_an_image_little_whatever_the_scheduler(half, scheduler):
    """The base as its own refiner: on the same schedule it goes on as the base alone would."""
    import diffusers
    import numpy

    model = half.transformer._model
    asked = {**ASKED, "steps": 10} | ({"scheduler": scheduler} if scheduler else {})
    alone = opened(half.ask(asked).body)
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(
        **model.base.components, add_watermarker=False
    )
    half.transformer._model = replace(model, refiner=refiner)
    refined = opened(half.ask(asked | {"refine": 0.2}).body)

    error = numpy.asarray(alone, float) - numpy.asarray(refined, float)
    assert (error**2).mean() ** 0.5 < 3


def test_a_refiner_on_a_schedule_of_its_own_spoils_the_image(half):
    """Why it gets the base's: the same latents, read as those of the model's own scheduler."""
    import diffusers
    import numpy
    import torch

    base = half.transformer._model.base
    other = diffusers.EulerAncestralDiscreteScheduler.from_config(base.scheduler.config)
    parts = base.components
    kind: object = type(base)
    refiner: Any = diffusers.StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    asked = {"prompt": "a seven", "num_inference_steps": 20}

    def made(refined_on: object) -> Any:
        started = kind(**parts | {"scheduler": other}, add_watermarker=False)
        seeded = {"generator": torch.Generator().manual_seed(7)}
        if refined_on is None:
            return numpy.asarray(started(**asked, **seeded).images[0], float)
        refiner.scheduler = refined_on
        latents = started(**asked, **seeded, denoising_end=0.6, output_type="latent").images
        image = refiner(**asked, **seeded, image=latents, denoising_start=0.6).images[0]
        return numpy.asarray(image, float)

    alone = made(None)
    own, shared = made(base.scheduler), made(other)

    assert ((own - alone) ** 2).mean() ** 0.5 > 10
    assert ((shared - alone) ** 2).mean() ** 0.5 < 3


def test_a_models_own_settings_reach_each_request(half):
    import pipeline
    from request import ImageRequest

    model = half.transformer._model
    model.base.register_to_config(force_zeros_for_empty_prompt=False)

    made = pipeline._pipeline_for(model, ImageRequest(prompt="x"))

    assert made.config.force_zeros_for_empty_prompt is False


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp_2m", "ddim", "unipc", "euler_ancestral"])
def test_few_steps_begin_with_the_noisiest_timestep(half, scheduler):
    import pipeline
    from request import ImageRequest

    request = ImageRequest(prompt="x", steps=4, scheduler=scheduler)
    made = pipeline._pipeline_for(half.transformer._model, request).scheduler
    made.set_timesteps(4)

    assert int(made.timesteps[0]) == 999


def test_more_steps_than_lcm_has_are_refused(half):
    answer = half.ask({**ASKED, "steps": 51, "scheduler": "lcm"})

    assert answer.status == 400
    assert b"steps = 51: scheduler lcm has at most 50" in answer.body


def test_an_image_above_the_gpus_memory_is_refused_before_the_work(half):
    half.transformer._model = replace(half.transformer._model, max_pixels=64 * 64)

    assert half.ask(ASKED).status == 200
    refused = half.ask({**ASKED, "width": 72})
    assert refused.status == 400
    assert b"at most 4096 pixels fit the memory" in refused.body


def test_weights_that_leave_no_memory_for_one_image_are_refused_at_load(half):
    import pipeline
    from device import GIB

    base = half.transformer._model.base

    assert pipeline.fitting_pixels([base], 2 * GIB) > 64 * 64
    with pytest.raises(ValueError, match="leave MODEL_REFINER out"):
        pipeline.fitting_pixels([base], GIB)


def test_transparency_shows_white_and_an_alpha_mask_paints_what_is_opaque(half):
    import pipeline
    from PIL import Image

    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    painted = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    painted.paste((0, 0, 0, 255), (0, 0, 32, 64))

    assert pipeline._flattened(clear, "white").getpixel((5, 5)) == (255, 255, 255)
    mask = pipeline._mask(painted)
    assert (mask.getpixel((5, 5)), mask.getpixel((60, 5))) == (255, 0)


def test_a_long_prompt_counts_to_its_end_and_stays_out_of_the_log(half, capfd, caplog):
    start = " ".join(["seven"] * 90)
    for more in ({}, {"negative_prompt": "a blurred four"}):
        one = half.ask(ASKED | more | {"prompt": f"{start} private"})
        other = half.ask(ASKED | more | {"prompt": f"{start} a nine"})

        assert (one.status, other.status) == (200, 200)
        assert opened(one.body).tobytes() != opened(other.body).tobytes()
    assert "private" not in caplog.text + "".join(capfd.readouterr())


def test_one_chunk_is_encoded_as_diffusers_does(half):
    import prompts
    import torch

    base = half.transformer._model.base
    encoders = [(base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)]
    with torch.inference_mode():
        expected, _, expected_pooled, _ = base.encode_prompt(
            "a seven", do_classifier_free_guidance=False
        )
        embeds, pooled = prompts._encoded(encoders, "a seven", 1)

    assert torch.equal(embeds, expected)
    assert torch.equal(pooled, expected_pooled)


def test_a_lora_may_be_named_by_its_file(in_process, tmp_path):
    import diffusers
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    plain = in_process()
    made = plain.ask(ASKED).body
    torch.manual_seed(0)
    unet: Any = diffusers.UNet2DConditionModel.from_config(
        plain.transformer._model.base.unet.config
    )
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    diffusers.StableDiffusionXLPipeline.save_lora_weights(
        tmp_path, get_peft_model_state_dict(unet), weight_name="style.safetensors"
    )
    (tmp_path / "other.safetensors").write_bytes(b"")

    adapted = in_process(MODEL_LORA=str(tmp_path / "style.safetensors"))

    assert adapted.ask(ASKED).body != made
