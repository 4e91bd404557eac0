"""What a caller may ask for, and the sentence for everything else."""

import json
import os
import secrets
from typing import Annotated

from errors import RefusedError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

MAX_STEPS = int(os.environ.get("MAX_STEPS", "150"))
MAX_PIXELS = int(os.environ.get("MAX_PIXELS", str(1536 * 1536)))
MAX_IMAGES = int(os.environ.get("MAX_IMAGES", "8"))
MAX_PROMPT_CHARACTERS = 4000
MAX_BODY_BYTES = 1_000_000
JSON_TYPES = {"application/json", "application/jsonlines"}
DEFAULT_SIZE = int(os.environ.get("DEFAULT_SIZE", "1024"))

Side = Annotated[StrictInt, Field(ge=64, le=4096, multiple_of=8)]
Text = Annotated[StrictStr, Field(max_length=MAX_PROMPT_CHARACTERS)]


class ImageRequest(BaseModel):
    """One request for images.

    prompt: what to show. negative_prompt: what to keep out. steps: denoising steps.
    guidance_scale: how closely to follow the prompt. width, height: pixels, multiples of 8.
    seed: the same seed gives the same images; a random one if absent. num_images: how many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[Text, Field(min_length=1)]
    negative_prompt: Text = ""
    steps: Annotated[StrictInt, Field(ge=1, le=MAX_STEPS)] = 30
    guidance_scale: Annotated[StrictFloat | StrictInt, Field(ge=0, le=50)] = 5.0
    width: Side = DEFAULT_SIZE
    height: Side = DEFAULT_SIZE
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = Field(
        default_factory=lambda: secrets.randbelow(2**32)
    )
    num_images: Annotated[StrictInt, Field(ge=1, le=MAX_IMAGES)] = 1


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
            raise RefusedError(400, f"the body is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, 'the body must be a JSON object like {"prompt": "a lighthouse"}')
    try:
        request = ImageRequest.model_validate(fields)
    except ValidationError as error:
        raise RefusedError(400, *map(_sentence, error.errors(include_url=False))) from None
    if request.width * request.height > MAX_PIXELS:
        raise RefusedError(
            400, f"width x height = {request.width * request.height}: at most {MAX_PIXELS} pixels"
        )
    return request


def _sentence(problem) -> str:
    field = ".".join(
        str(part) for part in problem["loc"] if not str(part).startswith("constrained")
    )
    field = field.split(".")[0]
    if problem["type"] == "extra_forbidden":
        known = ", ".join(ImageRequest.model_fields)
        return f"{field}: no such field; there are {known}"
    if problem["type"] == "missing":
        return f"{field}: is required"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 60 else shown[:59] + "…"
    return f"{field} = {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
