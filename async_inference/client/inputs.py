"""Reads batch files: text, CSV or JSON lines, a request per line; reports all errors together."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from async_inference.client.ledger import Item
from async_inference.client.protocol import Request

SHOWN_PROBLEMS = 20
LABEL_CHARACTERS = 200
TEXT_COLUMNS = ("prompt", "negative_prompt")
"""Columns of a CSV file whose values stay text, even if they look like numbers."""
KINDS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class BatchFileError(Exception):
    """A batch file that cannot be used; `problems` has a sentence for each problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class _Line:
    number: int
    fields: dict[str, object] | None
    problem: str = ""


def kind_of(name: str) -> str:
    """`csv`, `jsonl` or `text`, from a file's name."""
    return KINDS.get(PurePath(name).suffix.lower(), "text")


def items(
    content: bytes,
    name: str,
    *,
    kind: str,
    common: Mapping[str, object],
    accept: str | None,
) -> list[Item]:
    """The requests of a batch file.

    Args:
        content: the file's content.
        name: the file's name for messages.
        kind: `text`: each line is a prompt; `csv`: each column is a field, named in the first line;
            `jsonl`: each line is a JSON object, sent unchanged.
        common: fields for every request that does not set them.
        accept: media type of the results.

    Raises:
        BatchFileError: each wrong line, with its number and what is wrong with it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BatchFileError([f"{name}:{line}: is not UTF-8 text"]) from error
    lines = list({"text": _text, "csv": _csv, "jsonl": _jsonl}[kind](text))
    problems = [f"{name}:{line.number}: {line.problem}" for line in lines if line.problem]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS]
        raise BatchFileError([*shown, f"{name}: and {more} more"] if more > 0 else shown)
    if not lines:
        raise BatchFileError([f"{name}: has no prompts"])
    seen: Counter[str] = Counter()
    found = []
    for line in lines:
        fields = {**common, **(line.fields or {})}
        payload = json.dumps(fields, ensure_ascii=False)
        # Two equal lines are two requests.
        key, seen[payload] = str(seen[payload]), seen[payload] + 1
        found.append(item(fields, accept=accept, key=key))
    return found


def item(fields: Mapping[str, object], *, accept: str | None, key: str) -> Item:
    """A request from the fields of its payload."""
    prompt = fields.get("prompt")
    payload = json.dumps(fields, ensure_ascii=False)
    label = prompt if isinstance(prompt, str) else payload
    request = Request(body=payload.encode(), accept=accept)
    return Item(label[:LABEL_CHARACTERS], request, key)


def _text(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        prompt = line.strip().replace("\t", " ")
        if not prompt:
            continue
        if not prompt.isprintable():
            yield _Line(number, None, "holds control characters; is this a text file?")
        else:
            yield _Line(number, {"prompt": prompt})


def _csv(text: str) -> Iterator[_Line]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    start = 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield _Line(start, None, f"is not valid CSV ({error})")
            return
        # A quoted cell may span several lines; messages give the row's first.
        number, start = start, rows.line_num + 1
        if not any(cell.strip() for cell in row):
            continue
        if names is None:
            names = [cell.strip() for cell in row]
            wrong = [name for name, count in Counter(names).items() if count > 1 or not name]
            if wrong:
                shown = ", ".join(repr(name) for name in wrong)
                yield _Line(number, None, f"has repeated or empty column names: {shown}")
                return
        elif len(row) != len(names):
            yield _Line(
                number, None, f"has {len(row)} values for the {len(names)} columns of the header"
            )
        else:
            cells = {
                name: cell.strip() if name in TEXT_COLUMNS else value(cell.strip())
                for name, cell in zip(names, row, strict=True)
                if cell.strip()
            }
            yield _Line(number, cells)


def _jsonl(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            yield _Line(number, None, f"is not valid JSON ({error})")
            continue
        if isinstance(value, dict):
            yield _Line(number, value)
        else:
            yield _Line(number, None, 'must be an object like {"prompt": "a seven"}')


def value(text: str) -> Any:
    """The number, true or false that the text is in JSON, or else the text."""
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return parsed if isinstance(parsed, int | float) and math.isfinite(parsed) else text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
