"""Loading and running the diffusers pipeline; one code path for real weights and tiny ones."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from answer import Answer, Metadata
from diffusers import StableDiffusionXLPipeline
from errors import RefusedError
from PIL import Image
from request import ImageRequest
from weights import Weights, half_precision

MEMORY_SAVERS_BELOW_BYTES = 20 * 2**30
"""A T4 (16 GiB) needs them for 1024 x 1024; an A10G (24 GiB) is faster without."""
REFINED_SHARE = 0.2
"""Of the steps, for the refiner, where a request does not say (SDXL's own report)."""

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Names in a request to diffusers' classes and their options."""


@dataclass(frozen=True)
class Model:
    """What a process has loaded."""

    base: StableDiffusionXLPipeline
    refiner: StableDiffusionXLPipeline | None
    name: str
    version: str
    load_s: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that the base was trained for."""
        side = self.base.default_sample_size * self.base.vae_scale_factor
        return side, side


def load(weights: Weights) -> Model:
    """The model in memory; fp16 on a GPU, fp32 without."""
    started_s = time.perf_counter()
    base = _pretrained(StableDiffusionXLPipeline, weights.base)
    if weights.lora:
        # Merged into the weights, so that it costs nothing at each step.
        base.load_lora_weights(weights.lora)
        base.fuse_lora(lora_scale=weights.lora_scale)
        base.unload_lora_weights()
    refiner = None
    if weights.refiner:
        shared = {"vae": base.vae, "text_encoder_2": base.text_encoder_2}
        refiner = _pretrained(diffusers.StableDiffusionXLImg2ImgPipeline, weights.refiner, **shared)
    if torch.cuda.is_available():
        scarce = torch.cuda.get_device_properties(0).total_memory < MEMORY_SAVERS_BELOW_BYTES
        for pipeline in filter(None, (base, refiner)):
            pipeline.to("cuda")
            if scarce:
                save_memory(pipeline)
    return Model(base, refiner, weights.name, _version(), time.perf_counter() - started_s)


def save_memory(pipeline: StableDiffusionXLPipeline) -> None:
    """Attention in slices, images decoded in tiles: slower, and less memory at once."""
    pipeline.enable_attention_slicing()
    pipeline.vae.enable_tiling()


def warm_up(model: Model) -> None:
    """Make one image, so that the first request does not wait for what torch does only once."""
    generate(model, ImageRequest(prompt="warm-up", steps=1, seed=0))


def generate(model: Model, request: ImageRequest) -> Answer:
    """The images of a request; the same seed gives the same images.

    Raises:
        RefusedError: 400, it asks for a refiner that is not there.
    """
    started_s = time.perf_counter()
    if request.refine and model.refiner is None:
        raise RefusedError(400, f"refine = {request.refine}: this endpoint has no refiner")
    width, height = request.size(model.size)
    pipeline = _pipeline_for(model, request)
    refine = None
    # A generator for each image, on the CPU: an image does not depend on how many were asked for,
    # nor on the device.
    generators = [
        torch.Generator("cpu").manual_seed((request.seed + index) % 2**64)
        for index in range(request.num_images)
    ]
    common = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "num_inference_steps": request.steps,
        "guidance_scale": float(request.guidance_scale),
        "num_images_per_prompt": request.num_images,
        "generator": generators,
    }
    with torch.inference_mode():
        if request.image is None:
            if model.refiner is not None:
                refine = REFINED_SHARE if request.refine is None else float(request.refine) or None
            if refine:
                latents = pipeline(
                    **common,
                    width=width,
                    height=height,
                    denoising_end=1 - refine,
                    output_type="latent",
                ).images
                images = model.refiner(**common, image=latents, denoising_start=1 - refine).images
            else:
                images = pipeline(**common, width=width, height=height).images
        else:
            images = _from_picture(pipeline, common, request, (width, height))
    return Answer(
        images=images,
        metadata=Metadata(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            steps=request.steps,
            guidance_scale=float(request.guidance_scale),
            scheduler=request.scheduler or type(pipeline.scheduler).__name__,
            width=width,
            height=height,
            strength=None if request.image is None else float(request.strength),
            refine=refine,
            model=model.name,
            version=model.version,
        ),
        timings_s={
            "generate": round(time.perf_counter() - started_s, 3),
            "model_load": round(model.load_s, 3),
        },
    )


def _from_picture(
    pipeline: Any, common: dict[str, Any], request: ImageRequest, size: tuple[int, int]
) -> list[Image.Image]:
    start = request.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    common = common | {"image": start, "strength": float(request.strength)}
    if request.mask_image is None:
        return pipeline(**common).images
    mask = request.mask_image.convert("L").resize(size)
    width, height = size
    images = pipeline(**common, mask_image=mask, width=width, height=height).images
    # What is not masked went through the VAE and back; it shall be as it was.
    return [Image.composite(image, start, mask) for image in images]


def _pretrained(kind: type, weights: str, **shared: Any) -> Any:
    on_gpu = torch.cuda.is_available()
    folder = Path(weights)
    half = half_precision(folder) if folder.is_dir() else on_gpu
    pipeline = kind.from_pretrained(
        weights,
        torch_dtype=torch.float16 if on_gpu else torch.float32,
        variant="fp16" if half else None,
        use_safetensors=True,
        add_watermarker=False,
        **shared,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_for(model: Model, request: ImageRequest) -> Any:
    """A pipeline of the loaded parts for one request: schedulers count steps, so each has its own.

    It costs about a millisecond.
    """
    parts = model.base.components
    if request.scheduler is None:
        scheduler = type(parts["scheduler"]).from_config(parts["scheduler"].config)
    else:
        name, options = SCHEDULERS[request.scheduler]
        scheduler = getattr(diffusers, name).from_config(parts["scheduler"].config, **options)
    if request.mask_image is not None:
        kind = diffusers.StableDiffusionXLInpaintPipeline
    elif request.image is not None:
        kind = diffusers.StableDiffusionXLImg2ImgPipeline
    else:
        kind = StableDiffusionXLPipeline
    pipeline = kind(**parts | {"scheduler": scheduler}, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _version() -> str:
    """Names the handler's code, wherever it runs."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).resolve().parent.glob("*.py")):
        content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:12]
