"""The house vocabulary (docs/vocabulary.toml) holds in pages, docstrings, comments and messages."""

import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

VOCABULARY = tomllib.loads((ROOT / "docs" / "vocabulary.toml").read_text(encoding="utf-8"))
PHRASES = {re.compile(phrase): better for phrase, better in VOCABULARY["phrases"].items()}
QUOTED = {"docs/aws-facts.md"}
"""Pages that quote AWS's words."""


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository by pattern, as far as they exist."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]


def prose_of_page(text: str) -> str:
    """A page without code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def prose_of_code(text: str) -> Iterator[str]:
    """The strings and comments of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.string


def objections(text: str) -> list[str]:
    """What the vocabulary has against a text: the words, and what to write instead."""
    one_line = " ".join(text.split())
    return [
        f"{found[0]!r}: write {better}"
        for phrase, better in PHRASES.items()
        for found in phrase.finditer(one_line)
    ]


def test_a_phrase_that_the_vocabulary_forbids_is_found_across_lines():
    assert objections("The folder gets a bucket of\n    its own.") == [
        "'a bucket of its own': write its own ..., a separate ..."
    ]


@pytest.mark.parametrize(
    "page", tracked("README.md", "docs/**.md", "CHANGELOG.md"), ids=lambda page: page.name
)
def test_pages_keep_to_the_house_vocabulary(page):
    if str(page.relative_to(ROOT)) not in QUOTED:
        assert objections(prose_of_page(page.read_text(encoding="utf-8"))) == []


def test_code_keeps_to_the_house_vocabulary():
    found = {
        str(file.relative_to(ROOT)): words
        for file in tracked("*.py")
        if file != Path(__file__)
        if (words := objections("\n".join(prose_of_code(file.read_text(encoding="utf-8")))))
    }

    assert found == {}
