"""Writes an HTML page that shows a batch's results with prompts and metadata.

The page is in the results' folder and loads nothing from elsewhere. A result of several images, as
zip or JSON, is unpacked into a folder.
"""

import base64
import html
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from async_inference.client.ledger import Entry

FILE = "index.html"
SHOWN_CHARACTERS = 2000
MAX_IMAGES = 100
"""The most images of one result that the page shows."""
MAX_IMAGE_BYTES = 64 << 20
MAX_JSON_BYTES = 256 << 20
"""The largest JSON document that is parsed; the page only links larger ones."""
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } img { width: 100%; height: auto; background: #eee; }
figcaption { font-weight: 600; margin: .4rem 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .8rem; margin: 0; font-size: .85em; }
dt { color: #666; } dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; padding: .6rem; }
.failed { color: #a00; }
"""


def write(folder: Path, endpoint: str, entries: Iterable[Entry]) -> Path:
    """Write `index.html` into the folder of a batch.

    Args:
        folder: the folder of the results.
        endpoint: the endpoint's name.
        entries: the requests to show, in this order.

    Returns:
        The page's path.
    """
    shown = list(entries)
    figures = "\n".join(_figure(folder, entry) for entry in shown if entry.ended)
    done = sum(entry.file is not None for entry in shown)
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'">
<title>{html.escape(endpoint)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(endpoint)}</h1>
<p>{done} of {len(shown)} results.</p>
<main>
{figures}
</main>
</html>
"""
    partial = folder / f"{FILE}.partial"
    partial.write_text(page, encoding="utf-8")
    return partial.replace(folder / FILE)


def _figure(folder: Path, entry: Entry) -> str:
    asked = _asked(entry)
    label = html.escape(entry.item.label)
    if entry.failure is not None:
        kind, message = entry.failure
        body = f'<pre class="failed">{html.escape(f"{kind}: {message}")}</pre>'
        return _block(body, label, asked)
    assert entry.file is not None
    assert entry.result is not None
    path, link = folder / entry.file, html.escape(quote(entry.file))
    if entry.result.content_type.startswith("image/") or path.suffix in (".png", ".jpg", ".webp"):
        return _picture(folder, path, label, asked)
    pictures = unpacked(path)
    if pictures:
        return "\n".join(
            _picture(folder, picture, f"{label} ({number} of {len(pictures)})", asked)
            for number, picture in enumerate(pictures, 1)
        )
    with path.open("rb") as file:
        start = file.read(SHOWN_CHARACTERS).decode("utf-8", "replace")
    text = html.escape(start) if start.isprintable() or "\n" in start else ""
    return _block(f'<a href="{link}">{link}</a><pre>{text}</pre>', label, asked)


def _picture(folder: Path, path: Path, label: str, asked: dict[str, str]) -> str:
    link = html.escape(quote(path.relative_to(folder).as_posix()))
    body = f'<a href="{link}"><img src="{link}" alt="{label}" loading="lazy"></a>'
    return _block(body, label, asked | png_text(path))


def unpacked(path: Path) -> list[Path]:
    """Unpack the images of a zip file, or of the list `images` (base64) of a JSON document.

    They go into a folder named after the result. Other and damaged files give no images.
    """
    if zipfile.is_zipfile(path):
        found = _zipped(path)
    elif path.suffix == ".json" and path.stat().st_size <= MAX_JSON_BYTES:
        found = _in_json(path)
    else:
        return []
    folder = path.with_suffix("")
    files = []
    for number, image in enumerate(found):
        if number == MAX_IMAGES:
            break
        folder.mkdir(exist_ok=True)
        # Numbered, because an archive's entries may have any name.
        file = folder / f"{number}{_suffix(image)}"
        if not file.exists() or file.stat().st_size != len(image):
            file.write_bytes(image)
        files.append(file)
    return files


def _zipped(path: Path) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    image = file.read(MAX_IMAGE_BYTES + 1)
                if len(image) <= MAX_IMAGE_BYTES and _suffix(image):
                    yield image
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        return  # Damaged, encrypted, or in an unknown compression.


def _in_json(path: Path) -> Iterator[bytes]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return
    images = document.get("images") if isinstance(document, dict) else None
    for text in images if isinstance(images, list) else ():
        try:
            image = base64.b64decode(text, validate=True)
        except (ValueError, TypeError):
            continue
        if _suffix(image):
            yield image


def _suffix(content: bytes) -> str:
    """The file name extension for an image's bytes; empty if they are not an image."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if content.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    return ".webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else ""


def _block(body: str, label: str, facts: dict[str, str]) -> str:
    rows = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items()
    )
    return f"<figure>{body}<figcaption>{label}</figcaption><dl>{rows}</dl></figure>"


def _asked(entry: Entry) -> dict[str, str]:
    try:
        fields = json.loads(entry.item.request.body or b"{}")
    except ValueError:
        return {}
    if not isinstance(fields, dict):
        return {}
    return {
        str(key): text if isinstance(text, str) else json.dumps(text)
        for key, text in fields.items()
        if key != "prompt" and len(str(text)) <= SHOWN_CHARACTERS
    }


def png_text(path: Path) -> dict[str, str]:
    """The text metadata of a PNG file without its prompt; empty for any other file."""
    found: dict[str, str] = {}
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return found
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind == b"IDAT" or length > 1 << 20:
                break
            data = file.read(length)
            file.seek(4, 1)
            key, text = _text_chunk(kind, data)
            if key and key != "prompt":
                found[key] = text
    return found


def _text_chunk(kind: bytes, data: bytes) -> tuple[str, str]:
    """Keyword and text of a tEXt or iTXt chunk (PNG specification, 11.3.3)."""
    key, _, rest = data.partition(b"\0")
    try:
        if kind == b"tEXt":
            return key.decode("latin-1"), rest.decode("latin-1")
        if kind == b"iTXt":
            compressed = rest[:1] == b"\1"
            text = rest[2:].split(b"\0", 2)[2]
            if compressed:
                text = zlib.decompressobj().decompress(text, 1 << 20)
            return key.decode("latin-1"), text.decode("utf-8")
    except (IndexError, ValueError, zlib.error):
        pass
    return "", ""
