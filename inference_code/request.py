"""Parses requests, and refuses bad ones with a sentence for each problem."""

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
    """Defaults for weights that were distilled to few steps."""

    steps: int
    guidance_scale: float
    scheduler: str | None = None
    """None is the model's default."""
    one_step_timestep: int | None = None
    """The timestep of an image in one step, if it is not the noisiest."""


PRESETS = {
    # ByteDance/SDXL-Lightning; files of 2, 4 and 8 steps.
    "lightning": Preset(steps=4, guidance_scale=0.0, scheduler="euler"),
    # stabilityai/sdxl-turbo; 1 to 4 steps.
    "turbo": Preset(steps=1, guidance_scale=0.0),
    # ByteDance/Hyper-SD; files of 2, 4 and 8 steps, and of one step with a special timestep.
    "hyper": Preset(steps=4, guidance_scale=0.0, scheduler="ddim", one_step_timestep=800),
    # latent-consistency/lcm-lora-sdxl; 2 to 8 steps.
    "lcm": Preset(steps=4, guidance_scale=1.0, scheduler="lcm"),
}
"""From the model cards on Hugging Face (read November 2026)."""
DEFAULT_PRESET = os.environ.get("PRESET") or None
if DEFAULT_PRESET not in (None, *PRESETS):
    raise ValueError(
        f"environment variable PRESET = {DEFAULT_PRESET!r}: must be one of {', '.join(PRESETS)}"
    )


def _picture(value: object) -> "Image":
    """A picture from base64 or a data URL; its header is checked before anything is decoded."""
    if not isinstance(value, str):
        raise ValueError(f"must be a {', '.join(PICTURE_FORMATS)} picture in base64")
    if re.match(r"\w+://", value):
        raise ValueError("is a URL, and URLs are not fetched; send the picture in base64")
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
        # Pillow's decoders raise all kinds of errors for broken files.
        raise ValueError(f"cannot be decoded: {error}") from None
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception as error:
        raise ValueError(f"has EXIF data that cannot be read, remove it: {error}") from None
    return _eight_bits(picture)


def _decoded(value: str) -> bytes:
    """Bytes from base64, also with line breaks, URL-safe, or as a data URL."""
    encoded = value.partition(",")[2] if value[:5].lower() == "data:" else value
    encoded = "".join(encoded.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not valid base64") from None


def _eight_bits(picture: "Image") -> "Image":
    """16-bit grey scaled to 8 bits; Pillow's conversion would clip it at 255."""
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

    prompt: what to show. negative_prompt: what to avoid. steps: denoising steps. guidance_scale:
    how closely to follow the prompt. width, height: pixels, multiples of 8; default: the size of
    `image` or the model's. seed: the same seed gives the same images; default: random.
    num_images: how many. scheduler: default: the model's.

    image: a picture in base64 to start from, scaled to width and height. strength: how much to
    change it, above 0 up to 1. mask_image: only its white part changes.

    refine: the share of the steps that the refiner takes, if the endpoint has one.

    preset: gives absent fields the defaults of few-step weights (`PRESETS`); default: the
    environment's `PRESET`. loras: names and scales of the endpoint's LoRA weights.
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
            problems.append("refine: cannot be combined with image; remove one of them")
        if self.image is not None and int(self.steps * self.strength) < 1:
            problems.append(
                f"strength = {self.strength}: leaves none of {self.steps} steps; increase either"
            )
        width, height = self.size((SMALLEST_SIDE, SMALLEST_SIDE))
        if width * height > MAX_PIXELS:
            problems.append(f"width x height = {width * height}: at most {MAX_PIXELS} pixels")
        if problems:
            raise RefusedError(400, *problems)
        return self

    @property
    def timesteps(self) -> list[int] | None:
        """The timesteps, unless they follow from the scheduler and the steps."""
        preset = PRESETS[self.preset] if self.preset else None
        if preset is None or preset.one_step_timestep is None or self.steps > 1:
            return None
        return [preset.one_step_timestep]

    def size(self, default: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the result: as requested, or those of `image`, or the default.

        A missing side follows from the image's aspect ratio. An image above MAX_PIXELS is scaled
        down to the default's area.
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
    """A request from its body, which is JSON or the prompt as plain text.

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
            415, f"content type {media_type!r}: must be application/json or text/plain"
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
    # null means that the field is absent.
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


def _with_preset(fields: dict[str, object]) -> dict[str, Any]:
    """The fields, with the preset's defaults for those that are absent."""
    name = fields.get("preset", DEFAULT_PRESET)
    # Validation refuses anything else.
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return fields
    steps = fields.get("steps", preset.steps)
    # LCM needs the timestep for an image in one step.
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
    # Cut before quoting, because a picture has millions of characters.
    shown = repr(shown[:60] if isinstance(shown, str) else shown)
    return f"{field} = {_shown(shown, 60)}: {rule[0].lower()}{rule[1:]}"


def _shown(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
