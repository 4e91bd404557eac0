"""Names in columns that are narrower than they are."""

import pytest
from rich.console import Console

from async_inference.operations.checks import Check, as_table
from async_inference.terminal import Name


def lines(text: str, width: int) -> list[str]:
    return [line.plain for line in Name(text).wrap(Console(), width)]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("scaled out to 3", 10, ["scaled out", "to 3"]),
        ("async-sdxl-dev-config-3f2a", 12, ["async-sdxl-", "dev-config-", "3f2a"]),
        ("HasBacklogWithoutCapacity >= 1", 14, ["HasBacklog", "Without", "Capacity >= 1"]),
        ("policy HasBacklog-Policy", 12, ["policy", "HasBacklog-", "Policy"]),
        ("aaaaaaaaaa", 4, ["aaaa", "aaaa", "aa"]),
        ("two\nlines", 10, ["two", "lines"]),
        ("", 5, [""]),
    ],
)
def test_a_name_breaks_where_its_parts_meet(text, width, expected):
    assert lines(text, width) == expected


def test_no_line_is_too_long_and_no_letter_is_lost():
    text = "arn:aws:sns:us-east-1:123456789012:async-sdxl-dev-success-3f2a9c1"

    for width in range(1, 70):
        broken = lines(text, width)

        assert max(map(len, broken)) <= width
        assert "".join(broken) == text


def test_the_table_of_checks_cuts_no_name_at_80_columns():
    name = "alarm sdxl-hasbacklogwithoutcapacity-alarm-7c1d2e3"
    console = Console(width=80)

    with console.capture() as capture:
        console.print(as_table([Check(name, "HasBacklogWithoutCapacity >= 0.5", "missing")]))

    assert "…" not in capture.get()
    assert max(map(len, capture.get().splitlines())) <= 80
