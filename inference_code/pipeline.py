"""Loading and running the diffusers pipeline; one code path for real weights and tiny ones."""

import hashlib
import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from answer import Answer, Metadata
from device import GIB, pixels_that_fit, weight_bytes
from diffusers import StableDiffusionXLPipeline
from errors import RefusedError
from PIL import Image
from prompts import prompt_arguments
from request import ImageRequest
from weights import Weights, check_layout, half_precision

REFINED_SHARE = 0.2
"""Of the steps, for the refiner, where a request does not say (SDXL's own report)."""

FEW_STEPS = 8
"""Up to here timesteps are trailing, so that the first is the noisiest: weights distilled to few
steps (Lightning, Turbo, Hyper) were trained so. Leading ones would start at 751 of 999 with 4."""

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"euler_at_final": True}),
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
    max_pixels: int | None = None
    """What decodes in the GPU's memory; None without a GPU."""

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
        folder, _, file = weights.lora.rpartition("/")
        if file.endswith(".safetensors"):
            base.load_lora_weights(folder or ".", weight_name=file)
        else:
            base.load_lora_weights(weights.lora)
        base.fuse_lora(lora_scale=weights.lora_scale)
        base.unload_lora_weights()
    refiner = None
    if weights.refiner:
        shared = {"vae": base.vae, "text_encoder_2": base.text_encoder_2}
        refiner = _pretrained(diffusers.StableDiffusionXLImg2ImgPipeline, weights.refiner, **shared)
    # One image after the other: decoding takes the same memory for eight as for one. Attention is
    # left fused: slicing it takes more time and more memory.
    base.vae.enable_slicing()
    max_pixels = None
    if torch.cuda.is_available():
        pipelines = [pipeline for pipeline in (base, refiner) if pipeline is not None]
        max_pixels = fitting_pixels(pipelines, torch.cuda.mem_get_info()[0])
        for pipeline in pipelines:
            pipeline.to("cuda")
    load_s = time.perf_counter() - started_s
    return Model(base, refiner, weights.name, _version(), load_s, max_pixels)


def fitting_pixels(pipelines: list[Any], memory_bytes: int) -> int:
    """The pixels of the largest image that memory allows beside the weights of pipelines.

    Raises:
        ValueError: it is less than the model's own size.
    """
    base = pipelines[0]
    modules = [
        part
        for pipeline in pipelines
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    weights_bytes = weight_bytes(*modules)
    fp32_decode = base.vae.dtype == torch.float32 or bool(base.vae.config.force_upcast)
    pixels = pixels_that_fit(memory_bytes, weights_bytes, fp32_decode=fp32_decode)
    side = base.default_sample_size * base.vae_scale_factor
    if pixels < side**2:
        raise ValueError(
            f"the weights take {weights_bytes / GIB:.1f} GiB, and the GPU has "
            f"{memory_bytes / GIB:.1f} GiB: too little to decode {side} x {side} pixels; leave "
            "MODEL_REFINER out or take an instance with more GPU memory (ml.g5.xlarge has 24 GB)"
        )
    return pixels


def warm_up(model: Model) -> None:
    """Make one image, so that the first request does not wait for what torch does only once."""
    generate(model, ImageRequest(prompt="warm-up", steps=1, seed=0))


def generate(model: Model, request: ImageRequest) -> Answer:
    """The images of a request; the same seed gives the same images.

    Raises:
        RefusedError: 400, it asks for a refiner that is not there, for more pixels than memory
            allows, or for more steps than the scheduler has.
    """
    started_s = time.perf_counter()
    if request.refine and model.refiner is None:
        raise RefusedError(400, f"refine = {request.refine}: this endpoint has no refiner")
    width, height = request.size(model.size)
    if model.max_pixels is not None and width * height > model.max_pixels:
        raise RefusedError(
            400,
            f"width x height = {width * height}: at most {model.max_pixels} pixels fit the memory "
            "of this endpoint's GPU",
        )
    pipeline = _pipeline_for(model, request)
    refine = None
    # A generator for each image, on the CPU: the noise does not depend on how many were asked for,
    # nor on the device.
    generators = [
        torch.Generator("cpu").manual_seed((request.seed + index) % 2**64)
        for index in range(request.num_images)
    ]
    common = {
        "num_inference_steps": request.steps,
        "guidance_scale": float(request.guidance_scale),
        "num_images_per_prompt": request.num_images,
        "generator": generators,
    }
    with torch.inference_mode(), _dtype_kept(model.base.vae, model.base.unet.dtype):
        texts = prompt_arguments(pipeline, request.prompt, request.negative_prompt)
        if request.image is None:
            if model.refiner is not None:
                refine = REFINED_SHARE if request.refine is None else float(request.refine) or None
            if refine:
                latents = pipeline(
                    **texts,
                    **common,
                    width=width,
                    height=height,
                    denoising_end=1 - refine,
                    output_type="latent",
                ).images
                # On the base's schedule: another scheduler reads the latents' noise wrongly.
                scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
                refiner = _rebuilt(type(model.refiner), model.refiner, scheduler)
                texts = prompt_arguments(refiner, request.prompt, request.negative_prompt)
                images = refiner(
                    **texts, **common, image=latents, denoising_start=1 - refine
                ).images
            else:
                images = pipeline(**texts, **common, width=width, height=height).images
        else:
            images = _from_picture(pipeline, texts | common, request, (width, height))
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
    start = _flattened(request.image, "white").resize(size, Image.Resampling.LANCZOS)
    common = common | {"image": start, "strength": float(request.strength)}
    if request.mask_image is None:
        return pipeline(**common).images
    mask = _mask(request.mask_image).resize(size)
    width, height = size
    images = pipeline(**common, mask_image=mask, width=width, height=height).images
    # What is not masked went through the VAE and back; it shall be as it was.
    return [Image.composite(image, start, mask) for image in images]


def _flattened(picture: Image.Image, background: str) -> Image.Image:
    """RGB; what is transparent shows the background, not the colours hidden there."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(ground, picture).convert("RGB")


def _mask(picture: Image.Image) -> Image.Image:
    """What is to change, as white. A mask painted in black on nothing means what is opaque."""
    grey = _flattened(picture, "black").convert("L")
    if picture.has_transparency_data and grey.getextrema() == (0, 0):
        return picture.convert("RGBA").getchannel("A")
    return grey


@contextmanager
def _dtype_kept(vae: Any, dtype: torch.dtype) -> Iterator[None]:
    """Leave the VAE as it was; diffusers upcasts it and, after an error, does not cast it back."""
    try:
        yield
    finally:
        # All of it: an error may have come in the middle of a cast, with both types inside.
        vae.to(dtype)


def _pretrained(kind: type, weights: str, **shared: Any) -> Any:
    check_layout(weights)
    on_gpu = torch.cuda.is_available()
    folder = Path(weights)
    half = half_precision(folder) if folder.is_dir() else on_gpu
    options = {
        "torch_dtype": torch.float16 if on_gpu else torch.float32,
        "use_safetensors": True,
        "add_watermarker": False,
        **shared,
    }
    try:
        pipeline = kind.from_pretrained(weights, variant="fp16" if half else None, **options)
    except (OSError, ValueError) as error:
        if folder.is_dir() or not half:
            raise
        # Many models on the hub have no files of that variant.
        print(f"{weights}: no variant fp16 ({error}); loading the plain files", flush=True)
        pipeline = kind.from_pretrained(weights, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_for(model: Model, request: ImageRequest) -> Any:
    """A pipeline of the loaded parts for one request: schedulers count steps, so each has its own.

    It costs about a millisecond.
    """
    config = model.base.scheduler.config
    if request.scheduler is None:
        scheduler_class, options = type(model.base.scheduler), {}
    else:
        name, options = SCHEDULERS[request.scheduler]
        scheduler_class = getattr(diffusers, name)
    if request.steps <= FEW_STEPS and "timestep_spacing" in _parameters(scheduler_class):
        options = options | {"timestep_spacing": "trailing"}
    scheduler = scheduler_class.from_config(config, **options)
    most = scheduler.config.get("original_inference_steps")
    if most is not None and request.steps > most:
        raise RefusedError(
            400,
            f"steps = {request.steps}: scheduler {request.scheduler or 'lcm'} has at most {most}",
        )
    if request.mask_image is not None:
        kind = diffusers.StableDiffusionXLInpaintPipeline
    elif request.image is not None:
        kind = diffusers.StableDiffusionXLImg2ImgPipeline
    else:
        kind = StableDiffusionXLPipeline
    return _rebuilt(kind, model.base, scheduler)


def _rebuilt(kind: type, pipeline: Any, scheduler: Any) -> Any:
    """A pipeline of another's parts and of its settings, with a scheduler of its own."""
    parts = pipeline.components
    settings = {
        name: value
        for name, value in pipeline.config.items()
        if name in _parameters(kind) and name not in parts
    }
    accepted = {name: part for name, part in parts.items() if name in _parameters(kind)}
    built = kind(**accepted | settings | {"scheduler": scheduler}, add_watermarker=False)
    built.set_progress_bar_config(disable=True)
    return built


def _parameters(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters)


def _version() -> str:
    """Names the handler's code, wherever it runs."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).resolve().parent.glob("*.py")):
        content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:12]
