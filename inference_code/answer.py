"""Encodes images with their metadata as PNG, JPEG, WebP or JSON, or several as a zip file."""

import base64
import io
import json
import zipfile
from dataclasses import asdict, dataclass, replace
from typing import Any

from errors import RefusedError

JSON, ZIP = "application/json", "application/zip"
IMAGE_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
IMAGE_DESCRIPTION = 0x010E
"""The EXIF tag that holds the metadata of a JPEG or WebP, as JSON."""
MAX_ACCEPT_CHARACTERS = 1000


@dataclass(frozen=True)
class Metadata:
    """How an image was made; enough to make it again."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    strength: float | None
    refine: float | None
    model: str
    version: str
    loras: dict[str, float] | None = None
    withheld: list[int] | None = None
    """Indexes of images that the safety checker made black; None without a safety checker."""


@dataclass(frozen=True)
class Answer:
    """The images (PIL), the metadata of the first one, and how long they took.

    The image with index i has the first one's seed plus i. JSON and zip contain the times, but
    images do not, because the same request must give the same image, byte by byte.
    """

    images: list[Any]
    metadata: Metadata
    timings_s: dict[str, float]

    def story(self) -> dict[str, Any]:
        """Metadata and times, for JSON."""
        return asdict(self.metadata) | {"timings_s": self.timings_s}


def negotiate(accept: str | None, images: int) -> str:
    """The media type of the answer: the first possible one of those with the highest q-value.

    Args:
        accept: an Accept header, with q-values.
        images: the number of images; several fit only JSON and zip.

    Raises:
        RefusedError: 406, none of the accepted types is possible.
    """
    able = [*IMAGE_FORMATS, JSON, ZIP] if images == 1 else [ZIP, JSON]
    if len(accept or "") <= MAX_ACCEPT_CHARACTERS:
        # Sorting is stable: among equal q-values, the header's order decides.
        for media_range, quality in sorted(_ranges(accept or "*/*"), key=lambda r: -r[1]):
            for media_type in able:
                if quality > 0 and _covers(media_range, media_type):
                    return media_type
    shown = repr(accept)
    raise RefusedError(
        406,
        f"Accept {shown if len(shown) <= 100 else shown[:99] + '…'}: {images} "
        f"image{'s come' if images > 1 else ' comes'} as {', '.join(able)}",
    )


def encode(answer: Answer, media_type: str) -> bytes:
    """The answer's bytes in a type that `negotiate` returned for this number of images."""
    if media_type == JSON:
        pngs = [_image(answer, index, "image/png") for index in range(len(answer.images))]
        images = [base64.b64encode(png).decode() for png in pngs]
        return json.dumps({"images": images, "metadata": answer.story()}).encode()
    if media_type == ZIP:
        buffer = io.BytesIO()
        # PNGs are compressed already.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for index in range(len(answer.images)):
                entry = zipfile.ZipInfo(f"{index}.png")  # always with the same date
                archive.writestr(entry, _image(answer, index, "image/png"))
            entry = zipfile.ZipInfo("metadata.json")
            archive.writestr(entry, json.dumps(answer.story(), indent=2))
        return buffer.getvalue()
    return _image(answer, 0, media_type)


def _ranges(accept: str) -> list[tuple[str, float]]:
    ranges = []
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        ranges.append((media_range, quality))
    return ranges


def _covers(media_range: str, media_type: str) -> bool:
    kind = media_type.partition("/")[0]
    # octet-stream covers every type.
    return media_range in (media_type, f"{kind}/*", "*/*", "application/octet-stream")


def _image(answer: Answer, index: int, media_type: str) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    metadata = asdict(replace(answer.metadata, seed=answer.metadata.seed + index))
    buffer = io.BytesIO()
    if media_type == "image/png":
        info = PngInfo()
        for key, value in metadata.items():
            if value is not None:
                info.add_itxt(key, str(value))
        answer.images[index].save(buffer, format="PNG", pnginfo=info)
    else:
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = json.dumps(metadata)
        answer.images[index].save(buffer, format=IMAGE_FORMATS[media_type], quality=95, exif=exif)
    return buffer.getvalue()
