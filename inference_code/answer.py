"""Images with their story, as PNG or JSON."""

import base64
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

from errors import RefusedError

PNG, JSON = "image/png", "application/json"


@dataclass(frozen=True)
class Metadata:
    """How an image came to be; enough to make it again."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    width: int
    height: int
    model: str
    seconds: float


@dataclass(frozen=True)
class Answer:
    """The images (PIL), and what made them."""

    images: list[Any]
    metadata: Metadata


def negotiated(accept: str | None) -> str:
    """The media type to answer with; PNG unless JSON is preferred.

    Raises:
        RefusedError: 406, none of the accepted types can be made.
    """
    wanted = [part.split(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    for media_type in wanted:
        if media_type in (PNG, "image/*", "*/*", "application/octet-stream"):
            return PNG
        if media_type in (JSON, "application/*"):
            return JSON
    raise RefusedError(406, f"Accept {accept!r}: images come as {PNG} or {JSON}")


def encode(answer: Answer, media_type: str) -> bytes:
    """The answer's bytes.

    Raises:
        RefusedError: 406, several images do not fit one PNG.
    """
    if media_type == JSON:
        pngs = [_png(image, answer.metadata) for image in answer.images]
        images = [base64.b64encode(png).decode() for png in pngs]
        return json.dumps({"images": images, "metadata": asdict(answer.metadata)}).encode()
    if len(answer.images) != 1:
        raise RefusedError(
            406, f"{len(answer.images)} images do not fit one PNG; send Accept: {JSON}"
        )
    return _png(answer.images[0], answer.metadata)


def _png(image: Any, metadata: Metadata) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in asdict(metadata).items():
        # Not the time it took: the same request gives the same bytes.
        if key != "seconds":
            info.add_itxt(key, str(value))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()
