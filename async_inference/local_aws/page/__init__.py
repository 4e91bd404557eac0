"""The page of the embedded AWS: what `local status` shows, as live charts, at /_local/.

It shows names that others chose, so its script only ever sets text, and its policy allows the
browser neither inline scripts nor any other host.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_inference.local_aws.http_server import Response

PATH = "/_local/"
FILES = {
    PATH: ("index.html", "text/html; charset=utf-8"),
    f"{PATH}page.css": ("page.css", "text/css; charset=utf-8"),
    f"{PATH}page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""By path: the file beside this one, and its content type."""

_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
]


def answer(path: str) -> "Response":
    """One of the page's files."""
    name, content_type = FILES[path]
    content = (Path(__file__).parent / name).read_bytes()
    headers = [("Content-Type", content_type), ("Content-Length", str(len(content)))]
    return "200 OK", headers + _HEADERS, [content]
