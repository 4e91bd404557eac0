"""The gallery: one page that shows everything and runs nothing of what it shows."""

import base64
import json
import struct
import zipfile
import zlib
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from async_inference.client import gallery
from async_inference.client.ledger import Entry, Item
from async_inference.client.protocol import Request, Result


def png(*texts: tuple[bytes, bytes]) -> bytes:
    """A PNG file, as far as its text chunks."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data))

    head = chunk(b"IHDR", b"\0" * 13)
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*text) for text in texts) + chunk(b"IDAT", b"")
    )


def entry(number: int, prompt: str, content_type: str = "image/png", **fields) -> Entry:
    request = Request.json({"prompt": prompt, **fields})
    name = f"{number:04d}-abcdef01.png"
    result = Result(content_type, 1, "00")
    return Entry(f"id{number}", number, Item(prompt, request), file=name, result=result)


class Seen(HTMLParser):
    """Which elements a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str | None] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def written(folder, *entries: Entry) -> Seen:
    return Seen(gallery.write(folder, "async-sdxl-dev", entries).read_text(encoding="utf-8"))


def test_each_image_stands_with_its_prompt_its_request_and_what_it_says_of_itself(tmp_path):
    one = entry(1, "a seven", steps=20)
    (tmp_path / str(one.file)).write_bytes(
        png(
            (b"tEXt", b"seed\0" + b"7"),
            (b"iTXt", b"model\0\0\0\0\0" + "größer".encode()),
            (b"iTXt", b"steps\0\1\0\0\0" + zlib.compress(b"20")),
        )
    )

    seen = written(tmp_path, one)

    assert seen.tags.count("img") == 1
    assert seen.sources == [one.file, one.file]
    for text in ("a seven", "seed7", "modelgrößer", "steps20", "1 of 1 results"):
        assert text in seen.text


@settings(max_examples=15)
@given(text=st.text(max_size=40))
def test_nothing_that_a_prompt_a_field_or_a_file_says_becomes_markup(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("gallery")
    hostile = f"<script>alert(1)</script><img src=x onerror=alert(1)>\"'{text}"
    one = entry(1, hostile, style=hostile)
    (folder / str(one.file)).write_bytes(
        png((b"tEXt", b"model\0" + hostile.encode("latin-1", "replace")))
    )
    failed = Entry("id2", 2, Item(hostile, Request.json({})), failure=("FailedError", hostile))

    seen = written(folder, one, failed)

    assert "script" not in seen.tags
    assert seen.tags.count("img") == 1
    assert seen.sources == [one.file, one.file]


def test_a_failure_stands_where_its_image_would(tmp_path):
    failed = Entry(
        "id1",
        1,
        Item("poison", Request.json({})),
        failure=("RejectedError", "cannot be drawn"),
    )

    seen = written(tmp_path, failed)

    assert "RejectedError: cannot be drawn" in seen.text
    assert "0 of 1 results" in seen.text


def test_a_result_that_is_no_image_is_linked_and_its_text_shown(tmp_path):
    one = entry(1, "a seven", content_type="application/json")
    one.file = "0001-abcdef01.json"
    (tmp_path / one.file).write_text('{"images": []}\n')

    seen = written(tmp_path, one)

    assert "img" not in seen.tags
    assert '{"images": []}' in seen.text


def test_the_images_of_a_zip_or_json_result_stand_one_by_one_and_nothing_else_is_unpacked(tmp_path):
    """What inference_code answers to num_images: 2 (its answer.py), and what it never would."""
    images = [png((b"tEXt", b"seed\0" + seed)) for seed in (b"7", b"8")]
    zipped = entry(1, "two sevens", content_type="application/zip", num_images=2)
    zipped.file = "0001-abcdef01.zip"
    with zipfile.ZipFile(tmp_path / zipped.file, "w") as archive:
        archive.writestr("0.png", images[0])
        archive.writestr("../../outside.png", images[1])
        archive.writestr("page.html", "<script>alert(1)</script>")
        archive.writestr("metadata.json", "{}")
    document = entry(2, "in base64", content_type="application/json")
    document.file = "0002-abcdef01.json"
    coded = [base64.b64encode(image).decode() for image in images]
    (tmp_path / document.file).write_text(
        json.dumps({"images": [*coded, "not base64!", None, "PHNjcmlwdD4="], "metadata": {}})
    )

    seen = written(tmp_path, zipped, document)

    paths = [f"{n:04d}-abcdef01/{index}.png" for n in (1, 2) for index in (0, 1)]
    assert seen.sources == [path for path in paths for _ in ("href", "src")]
    assert [(tmp_path / path).read_bytes() for path in paths] == images * 2
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4 + 2 + 1
    for text in ("two sevens (1 of 2)", "in base64 (2 of 2)", "seed7", "seed8", "num_images2"):
        assert text in seen.text


def test_a_damaged_archive_is_linked_as_it_is(tmp_path):
    one = entry(1, "cut short", content_type="application/zip")
    one.file = "0001-abcdef01.zip"
    with zipfile.ZipFile(tmp_path / one.file, "w") as archive:
        archive.writestr("0.png", png())
    whole = (tmp_path / one.file).read_bytes()
    (tmp_path / one.file).write_bytes(whole.replace(b"IHDR", b"XXXX"))

    seen = written(tmp_path, one)

    assert "img" not in seen.tags
    assert seen.sources == [one.file]


def test_a_file_that_is_cut_short_or_no_png_tells_nothing(tmp_path):
    path = tmp_path / "x.png"
    whole = png((b"tEXt", b"seed\0" + b"7"))
    for content in (b"", b"hello", whole[:12], whole[:40]):
        path.write_bytes(content)
        assert gallery.png_text(path) == {}
    path.write_bytes(whole)
    assert gallery.png_text(path) == {"seed": "7"}
