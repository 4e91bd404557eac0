"""Loads and runs the diffusers pipeline, with the same code for real weights and tiny ones."""

import hashlib
import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy
import torch
from answer import Answer, Metadata
from device import GIB, pixels_that_fit, weight_bytes
from diffusers import StableDiffusionXLPipeline
from errors import RefusedError
from PIL import Image
from prompts import prompt_arguments
from request import ImageRequest
from weights import Weights, check_layout, half_precision, hub_id

REFINED_SHARE = 0.2
"""Default share of the steps that the refiner takes (SDXL report)."""

FEW_STEPS = 8
"""Up to this many steps, timesteps are trailing, so that the first one is the noisiest. Weights
that were distilled to few steps (Lightning, Turbo, Hyper) were trained that way. With 4 steps,
leading timesteps would start at 751 of 999."""

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
    """The model that a process has loaded."""

    base: Any
    """A text-to-image pipeline of diffusers."""
    refiner: StableDiffusionXLPipeline | None
    name: str
    version: str
    load_s: float
    max_pixels: int | None = None
    """Pixels of the largest image that the GPU's memory can decode; None without a GPU."""
    adapters: dict[str, str] = field(default_factory=dict)
    """LoRA weights: the name in a request, and the adapter's name in the base."""
    safety_checker: Any = None
    one_by_one: threading.Lock = field(default_factory=threading.Lock)
    """Held while images are made: the VAE is cast and LoRA weights are switched in place."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height for which the base was trained."""
        return (_side(self.base),) * 2


def _backbone(pipeline: Any) -> Any:
    """The denoiser: a UNet or a transformer."""
    return getattr(pipeline, "unet", None) or pipeline.transformer


def _side(pipeline: Any) -> int:
    """Side in pixels of the images for which a pipeline was trained."""
    size = getattr(pipeline, "default_sample_size", None) or _backbone(pipeline).config.sample_size
    return size * pipeline.vae_scale_factor


def load(weights: Weights) -> Model:
    """Load the model into memory, in fp16 on a GPU and fp32 without one."""
    started_s = time.perf_counter()
    parts: dict[str, Any] = {"add_watermarker": weights.watermark}
    if weights.watermark and not diffusers.utils.is_invisible_watermark_available():
        raise ValueError("WATERMARK = 1: add invisible-watermark to the handler's requirements.txt")
    if weights.vae:
        parts["vae"] = _loaded(diffusers.AutoencoderKL, weights.vae)
    # SD 1.x models contain a safety checker; see MODEL_SAFETY_CHECKER.
    parts |= {"safety_checker": None, "requires_safety_checker": False}
    base = _pretrained(weights.base, **parts)
    if weights.lora:
        # Merged into the weights, so that it costs nothing at each step.
        folder, _, file = weights.lora.rpartition("/")
        name, revision = hub_id(weights.lora)
        if file.endswith(".safetensors"):
            base.load_lora_weights(folder or ".", weight_name=file)
        elif Path(weights.lora).is_dir():
            base.load_lora_weights(weights.lora)
        else:
            base.load_lora_weights(name, revision=revision)
        base.fuse_lora(lora_scale=weights.lora_scale)
        base.unload_lora_weights()
    # Names may have dots, but names of torch's modules may not.
    adapters = {name: f"lora_{number}" for number, name in enumerate(weights.loras)}
    for name, file in weights.loras.items():
        base.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=adapters[name])
    refiner = None
    if weights.refiner:
        shared = {"vae": base.vae, "text_encoder_2": getattr(base, "text_encoder_2", None)}
        refiner = _pretrained(weights.refiner, **shared, add_watermarker=weights.watermark)
    # Decode one image after the other, so that eight need no more memory than one. Attention stays
    # fused, because slicing it takes more time and more memory.
    base.vae.enable_slicing()
    checker = _safety_checker(weights.safety_checker) if weights.safety_checker else None
    max_pixels = None
    if torch.cuda.is_available():
        pipelines = [pipeline for pipeline in (base, refiner) if pipeline is not None]
        max_pixels = fitting_pixels(pipelines, torch.cuda.mem_get_info()[0])
        for pipeline in pipelines:
            pipeline.to("cuda")
        if checker is not None:
            checker.model.to("cuda")
    load_s = time.perf_counter() - started_s
    return Model(
        base=base,
        refiner=refiner,
        name=weights.name,
        version=_version(),
        load_s=load_s,
        max_pixels=max_pixels,
        adapters=adapters,
        safety_checker=checker,
    )


def fitting_pixels(pipelines: list[Any], memory_bytes: int) -> int:
    """Pixels of the largest image that fits into memory together with the pipelines' weights.

    Raises:
        ValueError: an image of the model's default size does not fit.
    """
    base = pipelines[0]
    modules = [
        part
        for pipeline in pipelines
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    weights_bytes = weight_bytes(*modules)
    upcast = bool(base.vae.config.get("force_upcast"))
    fp32_decode = base.vae.dtype == torch.float32 or upcast
    pixels = pixels_that_fit(memory_bytes, weights_bytes, fp32_decode=fp32_decode)
    side = _side(base)
    if pixels < side**2:
        raise ValueError(
            f"the weights take {weights_bytes / GIB:.1f} GiB, and the GPU has "
            f"{memory_bytes / GIB:.1f} GiB: too little to decode {side} x {side} pixels; leave "
            "MODEL_REFINER out or take an instance with more GPU memory (ml.g5.xlarge has 24 GB)"
        )
    return pixels


def warm_up(model: Model) -> None:
    """Make one image, so that the first request does not wait for torch's one-time work."""
    generate(model, ImageRequest(prompt="warm-up", steps=1, seed=0))


def generate(model: Model, request: ImageRequest) -> Answer:
    """Make the images of a request; the same seed gives the same images.

    Raises:
        RefusedError: 400, the request wants a refiner that is missing, more pixels than fit into
            memory, or more steps than the scheduler has.
    """
    started_s = time.perf_counter()
    if request.refine and model.refiner is None:
        raise RefusedError(400, f"refine = {request.refine}: this endpoint has no refiner")
    unknown = sorted(request.loras.keys() - model.adapters.keys())
    if unknown:
        there = ", ".join(model.adapters) or "none"
        raise RefusedError(400, f"loras: this endpoint has no {', '.join(unknown)}; it has {there}")
    width, height = request.size(model.size)
    if model.max_pixels is not None and width * height > model.max_pixels:
        raise RefusedError(
            400,
            f"width x height = {width * height}: at most {model.max_pixels} pixels fit the memory "
            "of this endpoint's GPU",
        )
    pipeline = _pipeline_for(model, request)
    refine = None
    # A generator for each image, on the CPU, so that the noise depends neither on the number of
    # images nor on the device.
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
    if request.timesteps is not None:
        common["timesteps"] = request.timesteps
    with (
        model.one_by_one,
        torch.inference_mode(),
        _dtype_kept(model.base.vae, _backbone(model.base).dtype),
    ):
        _adapt(model, request.loras)
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
                # With the base's schedule: another scheduler would misread the latents' noise.
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
        withheld = None if model.safety_checker is None else model.safety_checker.withhold(images)
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
            loras={name: float(scale) for name, scale in request.loras.items()} or None,
            withheld=withheld,
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
    # What is not masked went through the VAE and back; restore it.
    return [Image.composite(image, start, mask) for image in images]


def _flattened(picture: Image.Image, background: str) -> Image.Image:
    """The picture in RGB, with the background in place of what is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(ground, picture).convert("RGB")


def _mask(picture: Image.Image) -> Image.Image:
    """The mask, white where the picture may change.

    In a mask that is black on a transparent background, the opaque part may change.
    """
    grey = _flattened(picture, "black").convert("L")
    if picture.has_transparency_data and grey.getextrema() == (0, 0):
        return picture.convert("RGBA").getchannel("A")
    return grey


@contextmanager
def _dtype_kept(vae: Any, dtype: torch.dtype) -> Iterator[None]:
    """Restore the VAE's type: diffusers upcasts it, and does not cast it back after an error."""
    try:
        yield
    finally:
        # Cast all of it, because an error in the middle of a cast leaves both types inside.
        vae.to(dtype)


def _adapt(model: Model, scales: dict[str, Any]) -> None:
    """Activate LoRA weights of the base, or deactivate all of them."""
    if scales:
        model.base.enable_lora()
        names = [model.adapters[name] for name in scales]
        model.base.set_adapters(names, [float(scale) for scale in scales.values()])
    elif model.adapters:
        model.base.disable_lora()


@dataclass(frozen=True)
class SafetyChecker:
    """Finds images that must not be shown: those whose CLIP embedding is near given concepts."""

    processor: Any
    model: Any

    def withhold(self, images: list[Image.Image]) -> list[int]:
        """Make such images black, and return their indexes."""
        pixels = self.processor(images, return_tensors="pt").pixel_values
        _, found = self.model(
            images=[numpy.asarray(image) for image in images],
            clip_input=pixels.to(self.model.device, self.model.dtype),
        )
        withheld = [index for index, flagged in enumerate(found) if flagged]
        for index in withheld:
            images[index] = Image.new("RGB", images[index].size)
        return withheld


def _safety_checker(place: str) -> SafetyChecker:
    """The safety checker in a folder, or with a hub id: CompVis/stable-diffusion-safety-checker."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    name, revision = (place, None) if Path(place).is_dir() else hub_id(place)
    processor = CLIPImageProcessor.from_pretrained(name, revision=revision)
    return SafetyChecker(processor, _loaded(StableDiffusionSafetyChecker, place))


def _pretrained(place: str, **parts: Any) -> Any:
    """The pipeline that a model's model_index.json names."""
    check_layout(place)
    name, revision = (place, None) if Path(place).is_dir() else hub_id(place)
    index = diffusers.DiffusionPipeline.load_config(name, revision=revision)
    kind = getattr(diffusers, index["_class_name"])
    known = _parameters(kind)
    pipeline = _loaded(kind, place, **{key: parts[key] for key in parts if key in known})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _loaded(kind: Any, place: str, **parts: Any) -> Any:
    """Load weights from a folder or the hub, in fp16 on a GPU and fp32 without one."""
    folder, on_gpu = Path(place), torch.cuda.is_available()
    name, revision = (place, None) if folder.is_dir() else hub_id(place)
    options = {
        "torch_dtype": torch.float16 if on_gpu else torch.float32,
        "use_safetensors": True,
        "revision": revision,
        **parts,
    }
    half = half_precision(folder) if folder.is_dir() else on_gpu
    try:
        return kind.from_pretrained(name, variant="fp16" if half else None, **options)
    except (OSError, ValueError) as error:
        if folder.is_dir() or not half:
            raise
        # Many models on the hub have no fp16 files.
        print(f"{place}: no variant fp16 ({error}); loading the plain files", flush=True)
        return kind.from_pretrained(name, **options)


def _pipeline_for(model: Model, request: ImageRequest) -> Any:
    """A pipeline for one request, made of the loaded parts and a new scheduler.

    Schedulers count steps, so requests cannot share one. It takes about a millisecond.
    """
    own = model.base.scheduler
    if request.scheduler is None:
        scheduler_class, options = type(own), {}
    else:
        name, options = SCHEDULERS[request.scheduler]
        scheduler_class = getattr(diffusers, name)
        # All of these schedulers need a beta schedule, which flow-matching models do not have.
        if "beta_schedule" not in own.config:
            raise RefusedError(
                400, f"scheduler = {request.scheduler!r}: does not fit this endpoint's model"
            )
    if request.steps <= FEW_STEPS and "timestep_spacing" in _parameters(scheduler_class):
        options = options | {"timestep_spacing": "trailing"}
    scheduler = scheduler_class.from_config(own.config, **options)
    most = scheduler.config.get("original_inference_steps")
    if most is not None and request.steps > most:
        raise RefusedError(
            400,
            f"steps = {request.steps}: scheduler {request.scheduler or 'lcm'} has at most {most}",
        )
    return _rebuilt(_kind_for(model.base, request), model.base, scheduler)


def _kind_for(base: Any, request: ImageRequest) -> Any:
    """The pipeline class for a request, of the base's family."""
    if request.image is None:
        return type(base)
    if isinstance(base, StableDiffusionXLPipeline):
        if request.mask_image is None:
            return diffusers.StableDiffusionXLImg2ImgPipeline
        return diffusers.StableDiffusionXLInpaintPipeline
    # Used only for other families, because it imports all of them.
    field, auto = (
        ("image", diffusers.AutoPipelineForImage2Image)
        if request.mask_image is None
        else ("mask_image", diffusers.AutoPipelineForInpainting)
    )
    try:
        return type(auto.from_pipe(base))
    except ValueError:
        raise RefusedError(400, f"{field}: not supported by this endpoint's model") from None


def _rebuilt(kind: Any, pipeline: Any, scheduler: Any) -> Any:
    """A pipeline with another one's parts and settings, and a different scheduler."""
    known, parts = _parameters(kind), pipeline.components
    settings = {
        name: value
        for name, value in pipeline.config.items()
        if name in known and name not in parts
    }
    if "add_watermarker" in known:
        settings["add_watermarker"] = pipeline.watermark is not None
    accepted = {name: part for name, part in parts.items() if name in known}
    built = kind(**accepted | settings | {"scheduler": scheduler})
    built.set_progress_bar_config(disable=True)
    return built


def _parameters(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters)


def _version() -> str:
    """A version of the handler's code that is the same wherever it runs."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).resolve().parent.glob("*.py")):
        content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:12]
