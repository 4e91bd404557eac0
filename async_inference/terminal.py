"""Wraps long names in narrow columns between their parts, without cutting anything."""

import re
from collections.abc import Iterator

from rich.console import Console
from rich.containers import Lines
from rich.text import Text

_WORD = re.compile(r"\s*\S+\s*")
_PART = re.compile(r".+?(?:[-_/:.,=]+|(?<=[a-z0-9])(?=[A-Z])|$)", re.DOTALL)
"""A part of a name ends after punctuation, or before a capital letter in CamelCase."""


class Name(Text):
    """Text whose long words continue on the next line.

    Rich would cut a word that is longer than a line, or break it after any letter.
    """

    def wrap(self, console: Console, width: int, **kwargs: object) -> Lines:
        """The lines that fit a width, in characters."""
        lines = Lines()
        for line in self.split(allow_blank=True):
            pieces = line.divide(_breaks(line.plain, max(1, width)))
            for piece in pieces:
                piece.rstrip()
            lines.extend(pieces)
        return lines


def _breaks(line: str, width: int) -> Iterator[int]:
    """The offsets at which a line is broken."""
    column = 0
    for word in _WORD.finditer(line):
        size = len(word[0].rstrip())
        if column and column + size > width:
            yield word.start()
            column = 0
        if size <= width:
            column += len(word[0])
            continue
        for part in _PART.finditer(word[0].rstrip()):
            if column and column + len(part[0]) > width:
                yield word.start() + part.start()
                column = 0
            column += len(part[0])
            while column > width:
                column -= width
                yield word.start() + part.end() - column
        column += len(word[0]) - size
