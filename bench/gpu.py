"""Full-size SDXL on a GPU: seconds per image and peak memory, before and after optimisation.

    python -m bench.gpu          one run of at most eight minutes; the rest is left out
    python -m bench.gpu --tiny   the same measurements with the tiny model; needs no GPU

Full size with random weights in fp16, 1024 pixels, 30 and 4 steps, 1, 2 and 4 images. Random
weights take the same time and memory as trained ones; nothing is downloaded.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HANDLER = Path(__file__).resolve().parents[1] / "inference_code"
FULL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""stabilityai/stable-diffusion-xl-base-1.0, unet/config.json."""
FULL_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
FULL_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
FULL_TEXT_2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


DEADLINE_S = 470.0
"""No measurement starts that would end later, judging by the slowest step so far."""
T4_GIB = 14.6


@dataclass(frozen=True)
class Way:
    """A way to run the handler."""

    name: str
    savers: bool = False
    """Slice attention, tile, and decode all images at once, as before the optimisation."""
    half_vae: bool = False
    """Decode in fp16, as MODEL_VAE=sdxl-vae-fp16-fix allows, not in fp32."""
    steps: tuple[int, ...] = (30, 4)
    memory_gib: float | None = None


WAYS = (
    Way("now"),
    Way("fp16 VAE", half_vae=True),
    Way("as before", savers=True),
    Way("now, a T4's memory", steps=(4,), memory_gib=T4_GIB),
    Way("fp16 VAE, a T4's memory", half_vae=True, steps=(4,), memory_gib=T4_GIB),
    Way("as before, a T4's memory", savers=True, steps=(4,), memory_gib=T4_GIB),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model, on whatever is there")
    options = parser.parse_args()
    began_s = time.perf_counter()
    sys.path.insert(0, str(HANDLER))
    import torch

    if not torch.cuda.is_available() and not options.tiny:
        print("error: no GPU here; --tiny runs the same measurements without one", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    side = 64 if options.tiny else 1024
    table = Table("how", "what", "seconds an image", "peak GPU memory", title_justify="left")
    table.title = f"{side} pixels, on {device}"
    for row in measured(options.tiny, side, began_s + DEADLINE_S):
        table.add_row(*row)
        print(*row, sep="; ", file=sys.stderr, flush=True)
    Console().print(table)
    return 0


def measured(tiny: bool, side: int, until_s: float) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table: how, what was requested, seconds per image, peak memory."""
    import pipeline as handler
    import torch
    from request import ImageRequest
    from weights import Weights

    small = handler.load(Weights.from_environment(".", {"MODEL_WEIGHTS": "tiny"}))
    model = small if tiny else handler.Model(full_size(small.base), None, "full", "-", 0.0)
    fused = model.base.unet.attn_processors
    # One-time work: cuDNN's choice of algorithms, the first use of each kernel.
    handler.generate(model, ImageRequest(prompt="x", steps=1, seed=1, width=side, height=side))
    slowest_step_s = 0.0
    for way in WAYS:
        _set(model.base, way, fused)
        for steps in way.steps:
            for images in (1, 2, 4):
                what = f"{steps} steps, {images} image{'s' if images > 1 else ''}"
                if time.perf_counter() + slowest_step_s * steps * images > until_s:
                    yield way.name, what, "no time left", "-"
                    continue
                request = ImageRequest(
                    prompt="a seven",
                    steps=steps,
                    seed=1,
                    width=side,
                    height=side,
                    num_images=images,
                )
                try:
                    seconds, peak = _measured(model, request)
                    slowest_step_s = max(slowest_step_s, seconds / steps)
                    yield way.name, what, f"{seconds:.3f}", peak
                except torch.OutOfMemoryError:
                    yield way.name, what, "out of memory", "-"
                torch.cuda.empty_cache()


def _set(base: Any, way: Way, fused: dict[str, Any]) -> None:
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        share = way.memory_gib * 2**30 / total if way.memory_gib else 1.0
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    base.vae.register_to_config(force_upcast=not way.half_vae)
    # A copy, because diffusers empties the dictionary.
    base.unet.set_attn_processor(dict(fused))
    if way.savers:
        base.enable_attention_slicing()
        base.vae.enable_tiling()
        base.vae.disable_slicing()
    else:
        base.vae.disable_tiling()
        base.vae.enable_slicing()


def _measured(model: Any, request: Any) -> tuple[float, str]:
    import pipeline as handler
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    started_s = time.perf_counter()
    # The images are on the CPU at the end, so the GPU is done.
    handler.generate(model, request)
    seconds = (time.perf_counter() - started_s) / request.num_images
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if gpu else "-"
    return seconds, peak


def full_size(tiny: Any) -> Any:
    """SDXL with random weights in half precision on the GPU, and the tiny model's tokenizer."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    ids = {
        name: getattr(tiny.tokenizer, name)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda"):
            pipeline = StableDiffusionXLPipeline(
                vae=AutoencoderKL(**FULL_VAE),
                text_encoder=CLIPTextModel(CLIPTextConfig(**FULL_TEXT, **ids)),
                text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**FULL_TEXT_2, **ids)),
                tokenizer=tiny.tokenizer,
                tokenizer_2=tiny.tokenizer_2,
                unet=UNet2DConditionModel(**FULL_UNET),
                scheduler=tiny.scheduler,
                add_watermarker=False,
            )
    finally:
        torch.set_default_dtype(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    sys.exit(main())
