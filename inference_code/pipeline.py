"""Loading and running the diffusers pipeline; one code path for real weights and tiny ones."""

import time
from pathlib import Path

import torch
from answer import Answer, Metadata
from diffusers import StableDiffusionXLPipeline
from request import ImageRequest

MEMORY_SAVERS_BELOW_BYTES = 20 * 2**30
"""A T4 (16 GiB) needs them for 1024 x 1024; an A10G (24 GiB) is faster without."""


def load(weights: str) -> StableDiffusionXLPipeline:
    """The pipeline for a folder, a Hugging Face id, or `tiny`; fp16 on a GPU, fp32 without."""
    on_gpu = torch.cuda.is_available()
    if weights == "tiny":
        from tiny import tiny_pipeline

        pipeline = tiny_pipeline()
    else:
        folder = Path(weights)
        half = {"torch_dtype": torch.float16, "variant": "fp16"} if on_gpu else {}
        if folder.is_dir() and not list(folder.rglob("*.fp16.safetensors")):
            half.pop("variant", None)
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            weights, use_safetensors=True, add_watermarker=False, **half
        )
    pipeline.name_of_weights = weights
    pipeline.set_progress_bar_config(disable=True)
    if on_gpu:
        pipeline.to("cuda")
        if torch.cuda.get_device_properties(0).total_memory < MEMORY_SAVERS_BELOW_BYTES:
            pipeline.enable_attention_slicing()
            pipeline.vae.enable_tiling()
    return pipeline


def generate(pipeline: StableDiffusionXLPipeline, request: ImageRequest) -> Answer:
    """The images of a request; the same seed gives the same images."""
    started_s = time.perf_counter()
    # A generator for each image, on the CPU: an image does not depend on how many were asked for,
    # nor on the device.
    generators = [
        torch.Generator("cpu").manual_seed(request.seed + index)
        for index in range(request.num_images)
    ]
    with torch.inference_mode():
        images = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or None,
            num_inference_steps=request.steps,
            guidance_scale=float(request.guidance_scale),
            width=request.width,
            height=request.height,
            num_images_per_prompt=request.num_images,
            generator=generators,
        ).images
    return Answer(
        images=images,
        metadata=Metadata(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            steps=request.steps,
            guidance_scale=float(request.guidance_scale),
            width=request.width,
            height=request.height,
            model=pipeline.name_of_weights,
            seconds=round(time.perf_counter() - started_s, 3),
        ),
    )
