"""The full-size SDXL on a GPU: seconds an image and peak memory of the handler.

    python -m bench.gpu              full size, random weights in fp16, 1024 pixels, 30 and 4 steps
    python -m bench.gpu --memory-gib 14.6   with no more memory than a T4 has
    python -m bench.gpu --tiny       the same measurements with the tiny model: no GPU needed

Random weights take the same time and memory as trained ones; nothing is downloaded.
"""

import argparse
import statistics
import sys
import time
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model, on whatever is there")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory-gib", type=float, help="cap the memory; 14.6 is a T4's")
    parser.add_argument("--half-vae", action="store_true", help="decode in fp16, not in fp32")
    parser.add_argument("--savers", action="store_true", help="slice attention and tile, as before")
    options = parser.parse_args()
    sys.path.insert(0, str(HANDLER))
    import torch

    if not torch.cuda.is_available() and not options.tiny:
        print("error: no GPU here; --tiny runs the same measurements without one", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    title = f"{options.pixels} pixels, on {device}"
    table = Table("what", "seconds an image", "peak GPU memory", title=title, title_justify="left")
    for row in measured(options):
        table.add_row(*row)
    Console().print(table)
    return 0


def measured(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows: what was asked, seconds an image, peak memory."""
    import pipeline as handler
    import torch
    from request import ImageRequest
    from weights import Weights

    tiny = handler.load(Weights.from_environment(".", {"MODEL_WEIGHTS": "tiny"}))
    model = tiny if options.tiny else handler.Model(full_size(tiny.base), None, "full", "-", 0.0)
    side = options.pixels
    if torch.cuda.is_available() and options.memory_gib:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory_gib * 2**30 / total))
    model.base.vae.register_to_config(force_upcast=not options.half_vae)
    if options.savers:
        model.base.enable_attention_slicing()
        model.base.vae.enable_tiling()
    else:
        model.base.vae.enable_slicing()
    rows = []
    for steps in (options.steps, 4):
        for images in (1, 2, 4):
            request = ImageRequest(
                prompt="a seven", steps=steps, seed=1, width=side, height=side, num_images=images
            )
            name = f"{steps} steps, {images} image{'s' if images > 1 else ''}"
            try:
                rows.append((name, *_measured(model, request, options.repeats)))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                rows.append((name, "out of memory", "-"))
    return rows


def _measured(model: Any, request: Any, repeats: int) -> tuple[str, str]:
    import pipeline as handler
    import torch

    def work() -> None:
        handler.generate(model, request)

    work()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(_timed(work) for _ in range(repeats)) / request.num_images
    if not torch.cuda.is_available():
        return f"{seconds:.3f}", "-"
    return f"{seconds:.3f}", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def full_size(tiny: Any) -> Any:
    """SDXL with random weights in half precision on the GPU, and the tiny one's tokenizer."""
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


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
