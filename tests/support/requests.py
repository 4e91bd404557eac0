"""Requests to the handler that have something wrong, and pictures to put into them."""

import base64
import io
import json
import struct
import zlib


def picture(width: int = 64, height: int = 64, form: str = "PNG") -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


def bomb(width: int = 60_000, height: int = 60_000) -> str:
    """A PNG of some hundred bytes that says it has 3.6 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000), 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)
    return base64.b64encode(png + chunk(b"IEND", b"")).decode()


def malformed() -> list[tuple[bytes, str]]:
    """Four hundred and more requests with something wrong: (body, content type)."""
    wrong_types = [None, True, [], {}, [1], "7", 1.5, -1, 0, 10**30, 1e308, "x" * 100_000]
    numbers = ("steps", "width", "height", "seed", "num_images")
    fields: list[dict] = [
        {name: value}
        for name in (*numbers, "guidance_scale", "strength", "refine", "scheduler", "image")
        for value in wrong_types
        if value is not None  # null is as if the field were absent
        and not (value == 0 and name in ("seed", "guidance_scale", "refine"))
        and not (value == 1.5 and name == "guidance_scale")
    ]
    fields += [
        {"width": width} for width in (1, 63, 65, 100, 1001, 2047, 4095, 4097, 4104, 2**31, 2**63)
    ]
    fields += [{"width": 4096, "height": height} for height in (1024, 2048, 4096)]
    fields += [{"steps": 30, "strength": strength} for strength in (0.1, 0.5, 1)]
    fields += [{"refine": share, "image": picture()} for share in (0.1, 0.5, 0.9)]
    fields += [{name: wrong} for name in ("preset", "loras") for wrong in wrong_types[1:] if wrong]
    fields += [{"loras": {"x": wrong}} for wrong in wrong_types if wrong not in (0, -1, 1.5, True)]
    fields += [{"loras": dict.fromkeys(map(str, range(count)), 1)} for count in (5, 50, 5_000)]
    fields += [{"image": f"{scheme}://host/x.png"} for scheme in ("https", "s3", "file", "ftp")]
    fields += [{"prompt": prompt} for prompt in ("", None, 7, [], {}, "x" * 4_001, "\ud800")]
    fields += [{"prompt": "x" * 10**power} for power in (4, 5, 6, 7)]
    fields += [{"negative_prompt": wrong} for wrong in (7, [], "x" * 4_001)]
    fields += [{name: 1} for name in ("Prompt", "colour", "__class__", "model_config", "")]
    pictures = [bomb(), bomb(4_097, 4_096), bomb(1, 2**31 - 1), "data:,", "data:image/png;base64,"]
    pictures += [picture()[:length] for length in range(4, 68, 8)]
    pictures += [picture(form=form) for form in ("GIF", "BMP", "TIFF", "PPM")]
    fields += [{"image": wrong} for wrong in pictures]
    fields += [{"image": picture(), "mask_image": wrong} for wrong in pictures]
    as_json = "application/json"
    bodies = [(json.dumps({"prompt": "x"} | wrong).encode(), as_json) for wrong in fields]
    whole = b'{"prompt": "x"}'
    longer = b'{"prompt": "x", "steps": 3, "seed": 7, "width": 64, "loras": {"x": 1.0}}'
    bodies += [(text[:length], as_json) for text in (whole, longer) for length in range(len(text))]
    bodies += [
        (text, as_json)
        for text in (b"[]", b"7", b"null", b'"x"', b"NaN", b"\x00", b"[" * 100_000, b"1" * 10_000)
    ]
    bodies += [(whole, wrong) for wrong in ("image/png", "text/html", "x", "application/xml")]
    bodies += [(whole[:at] + b"\xff" + whole[at:], as_json) for at in range(len(whole))]
    bodies += [(whole[:at] + whole[at + 1 :], as_json) for at in (0, 1, 8, 9, 11, 13)]
    bodies += [(bytes([byte]) + whole, as_json) for byte in range(33, 127) if byte != ord("{")]
    bodies += [
        ('{"prompt": "é"}'.encode(code), "application/json") for code in ("latin-1", "utf-16")
    ]
    return bodies


def malformed_json() -> list[bytes]:
    """The bodies of those that come as JSON, except the largest."""
    bodies = [body for body, kind in malformed() if kind == "application/json"]
    return [body for body in bodies if len(body) < 1_000_000]
