"""What a caller may ask for, and the sentence for everything else."""

import base64
import binascii
import io
import json
import math
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from errors import RefusedError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"environment variable {name} = {text!r}: must be a whole number above 0")
    return int(text)


MAX_STEPS = _limit("MAX_STEPS", 150)
MAX_PIXELS = _limit("MAX_PIXELS", 1536 * 1536)
MAX_IMAGES = _limit("MAX_IMAGES", 8)
MAX_PROMPT_CHARACTERS = _limit("MAX_PROMPT_CHARACTERS", 4000)
MAX_BODY_BYTES = _limit("MAX_BODY_BYTES", 64_000_000)
MAX_INPUT_PIXELS = _limit("MAX_INPUT_PIXELS", 4096 * 4096)
JSON_TYPES = {"application/json", "application/jsonlines"}
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
PIXEL_STEP = 8
"""Latents are an eighth of the pixels."""
SMALLEST_SIDE = 64


MAX_LORAS = 4


@dataclass(frozen=True)
class Preset:
    """What weights that were distilled to few steps want, where a request does not say."""

    steps: int
    guidance_scale: float
    scheduler: str | None = None
    """None is the model's own."""
    one_step_timestep: int | None = None
    """The timestep of an image in one step, where it is not the noisiest."""


PRESETS = {
    # ByteDance/SDXL-Lightning; files of 2, 4 and 8 steps.
    "lightning": Preset(steps=4, guidance_scale=0.0, scheduler="euler"),
    # stabilityai/sdxl-turbo; 1 to 4 steps.
    "turbo": Preset(steps=1, guidance_scale=0.0),
    # ByteDance/Hyper-SD; files of 2, 4 and 8 steps, and of one step with its own timestep.
    "hyper": Preset(steps=4, guidance_scale=0.0, scheduler="ddim", one_step_timestep=800),
    # latent-consistency/lcm-lora-sdxl; 2 to 8 steps.
    "lcm": Preset(steps=4, guidance_scale=1.0, scheduler="lcm"),
}
"""As the models' own cards on Hugging Face say (read November 2026)."""
DEFAULT_PRESET = os.environ.get("PRESET") or None
if DEFAULT_PRESET not in (None, *PRESETS):
    raise ValueError(
        f"environment variable PRESET = {DEFAULT_PRESET!r}: must be one of {', '.join(PRESETS)}"
    )


def _picture(value: object) -> "Image":
    """A picture from base64 (or a data URL), refused by its header before anything is decoded."""
    if not isinstance(value, str):
        raise ValueError(f"must be a {', '.join(PICTURE_FORMATS)} picture in base64")
    if re.match(r"\w+://", value):
        raise ValueError("is a URL, and none is fetched; send the picture itself in base64")
    from PIL import Image, ImageOps

    file = io.BytesIO(_decoded(value))
    too_large = ValueError(f"has too many pixels; at most {MAX_INPUT_PIXELS} are read")
    try:
        picture = Image.open(file, formats=PICTURE_FORMATS)
        if picture.width * picture.height > MAX_INPUT_PIXELS:
            raise too_large
        picture.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"is not a picture in a format of {', '.join(PICTURE_FORMATS)}") from None
    except Exception as error:
        if error is too_large:
            raise
        # Pillow's decoders raise whatever a broken file leads to.
        raise ValueError(f"cannot be decoded: {error}") from None
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception as error:
        raise ValueError(f"has EXIF data that cannot be read, remove it: {error}") from None
    return _eight_bits(picture)


def _decoded(value: str) -> bytes:
    """Bytes from base64 as mail, URLs and browsers write it: with line breaks, `-_`, `data:`."""
    encoded = value.partition(",")[2] if value[:5].lower() == "data:" else value
    encoded = "".join(encoded.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is no base64") from None


def _eight_bits(picture: "Image") -> "Image":
    """Grey of 16 bits scaled to 8; Pillow's own conversion cuts it off at 255."""
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
    return picture


Side = Annotated[StrictInt, Field(ge=SMALLEST_SIDE, le=4096, multiple_of=PIXEL_STEP)]
Text = Annotated[StrictStr, Field(max_length=MAX_PROMPT_CHARACTERS)]
Number = StrictFloat | StrictInt
Picture = Annotated[Any, BeforeValidator(_picture)]
Scheduler = Literal[
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde_karras",
    "euler",
    "euler_ancestral",
    "heun",
    "lcm",
    "unipc",
]


class ImageRequest(BaseModel):
    """One request for images.

    prompt: what to show. negative_prompt: what to keep out. steps: denoising steps.
    guidance_scale: how closely to follow the prompt. width, height: pixels, multiples of 8; the
    model's own size, or that of `image`, if absent. seed: the same seed gives the same images; a
    random one if absent. num_images: how many. scheduler: the model's own if absent.

    image: a picture in base64 to start from, scaled to width and height. strength: how far to go
    from it, above 0 to 1. mask_image: only what is white in it changes.

    refine: the share of the steps that the refiner takes, where the endpoint has one.

    preset: what weights for few steps want (`PRESETS`), for the fields that are absent; `PRESET`
    of the environment if absent. loras: names of LoRA weights that the endpoint has, with scales.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[Text, Field(min_length=1)]
    negative_prompt: Text = ""
    steps: Annotated[StrictInt, Field(ge=1, le=MAX_STEPS)] = 30
    guidance_scale: Annotated[Number, Field(ge=0, le=50)] = 5.0
    width: Side | None = None
    height: Side | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = Field(
        default_factory=lambda: secrets.randbelow(2**32)
    )
    num_images: Annotated[StrictInt, Field(ge=1, le=MAX_IMAGES)] = 1
    scheduler: Scheduler | None = None
    image: Picture | None = None
    mask_image: Picture | None = None
    strength: Annotated[Number, Field(gt=0, le=1)] = 0.8
    refine: Annotated[Number, Field(ge=0, lt=1)] | None = None
    preset: Literal["lightning", "turbo", "hyper", "lcm"] | None = None
    loras: Annotated[
        dict[
            Annotated[StrictStr, Field(max_length=200)],
            Annotated[Number, Field(ge=-2, le=2)],
        ],
        Field(max_length=MAX_LORAS),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        problems = []
        if self.mask_image is not None and self.image is None:
            problems.append("mask_image: needs image, the picture that it masks")
        if "strength" in self.model_fields_set and self.image is None:
            problems.append("strength: needs image, the picture to start from")
        if self.refine is not None and self.image is not None:
            problems.append("refine: refines what a prompt alone makes; leave it or image out")
        if self.image is not None and int(self.steps * self.strength) < 1:
            problems.append(
                f"strength = {self.strength}: leaves none of {self.steps} steps; raise either"
            )
        width, height = self.size((SMALLEST_SIDE, SMALLEST_SIDE))
        if width * height > MAX_PIXELS:
            problems.append(f"width x height = {width * height}: at most {MAX_PIXELS} pixels")
        if problems:
            raise RefusedError(400, *problems)
        return self

    @property
    def timesteps(self) -> list[int] | None:
        """The timesteps, where they do not follow from the scheduler and the steps."""
        preset = PRESETS[self.preset] if self.preset else None
        if preset is None or preset.one_step_timestep is None or self.steps > 1:
            return None
        return [preset.one_step_timestep]

    def size(self, default: tuple[int, int]) -> tuple[int, int]:
        """Width and height to make: as asked, as `image` has them, or the default.

        A side that is not given follows the image's; an image above MAX_PIXELS is scaled down to
        the default's area.
        """
        if self.image is None:
            return self.width or default[0], self.height or default[1]
        width, height = self.image.size
        if self.width and self.height:
            return self.width, self.height
        if self.width or self.height:
            scale = self.width / width if self.width else self.height / height
        elif _side(width) * _side(height) > MAX_PIXELS:
            scale = math.sqrt(min(default[0] * default[1], MAX_PIXELS) / (width * height))
        else:
            scale = 1.0
        return self.width or _side(width * scale), self.height or _side(height * scale)


def parse(body: str | bytes, content_type: str | None) -> ImageRequest:
    """A request from its body: JSON, or a bare prompt as text.

    Raises:
        RefusedError: 413, 415 or 400, with every problem.
    """
    if len(body) > MAX_BODY_BYTES:
        raise RefusedError(
            413, f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are read"
        )
    media_type = (content_type or "application/json").split(";")[0].strip().lower()
    if media_type not in JSON_TYPES | {"text/plain", "application/octet-stream"}:
        raise RefusedError(
            415, f"content type {media_type!r} is not read; send application/json or text/plain"
        )
    try:
        text = body.decode("utf-8") if isinstance(body, bytes | bytearray) else body
    except UnicodeDecodeError:
        raise RefusedError(400, "the body is not UTF-8") from None
    if media_type == "text/plain":
        fields: object = {"prompt": text.strip()}
    else:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, 'the body must be a JSON object like {"prompt": "a lighthouse"}')
    # null is as if the field were absent, for every field.
    fields = {
        name: value
        for name, value in fields.items()
        if value is not None or name not in ImageRequest.model_fields
    }
    try:
        return ImageRequest.model_validate(_with_preset(fields))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise RefusedError(400, *map(_sentence, problems)) from None


def _with_preset(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, and what a preset says about those that are absent."""
    name = fields.get("preset", DEFAULT_PRESET)
    # Anything else is refused with the rest.
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return fields
    steps = fields.get("steps", preset.steps)
    # The timestep of one step is LCM's way to start from it.
    one_step = preset.one_step_timestep is not None and steps == 1
    said = {
        "preset": name,
        "steps": steps,
        "guidance_scale": preset.guidance_scale,
        "scheduler": "lcm" if one_step else preset.scheduler,
    }
    return said | fields


def _side(pixels: float) -> int:
    return max(SMALLEST_SIDE, int(pixels) // PIXEL_STEP * PIXEL_STEP)


def _sentence(problem) -> str:
    field = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(ImageRequest.model_fields)
        return f"{_shown(field, 60)}: no such field; there are {known}"
    if problem["type"] == "missing":
        return f"{field}: is required"
    rule = problem["msg"].removeprefix("Value error, ")
    shown = problem["input"]
    # Cut before it is quoted: a picture has millions of characters.
    shown = repr(shown[:60] if isinstance(shown, str) else shown)
    return f"{field} = {_shown(shown, 60)}: {rule[0].lower()}{rule[1:]}"


def _shown(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
