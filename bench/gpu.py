"""The full-size SDXL on a GPU: seconds an image, peak memory, and what the handler adds.

    python -m bench.gpu              full size, random weights in fp16, 1024 pixels, 30 steps
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
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sys.path.insert(0, str(HANDLER))
    import torch

    if not torch.cuda.is_available() and not options.tiny:
        print("error: no GPU here; --tiny runs the same measurements without one", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    title = f"{options.pixels} pixels, {options.steps} steps, on {device}"
    table = Table("what", "seconds an image", "peak GPU memory", title=title, title_justify="left")
    for row in measured(options):
        table.add_row(*row)
    Console().print(table)
    return 0


def measured(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows: the bare pipeline and the handler, without and with the memory savers."""
    import pipeline as handler
    import torch
    from request import ImageRequest
    from weights import Weights

    tiny = handler.load(Weights.from_environment(".", {"MODEL_WEIGHTS": "tiny"}))
    model = tiny if options.tiny else handler.Model(full_size(tiny.base), None, "full", "-", 0.0)
    side = options.pixels
    request = ImageRequest(prompt="a seven", steps=options.steps, seed=1, width=side, height=side)

    def bare() -> Any:
        with torch.inference_mode():
            return model.base(
                request.prompt, num_inference_steps=request.steps, width=side, height=side
            )

    rows = []
    for savers in ("", ", memory savers"):
        if savers:
            handler.save_memory(model.base)
        works = {
            "bare pipeline": bare,
            "handler": lambda: handler.generate(model, request),
        }
        for name, work in works.items():
            work()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            seconds = statistics.median(_timed(work) for _ in range(options.repeats))
            peak = "-"
            if torch.cuda.is_available():
                peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
            rows.append((name + savers, f"{seconds:.3f}", peak))
    return rows


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
