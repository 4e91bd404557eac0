"""Batch files: what they mean, and that everything wrong with one is told at once."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_inference.client import inputs
from async_inference.client.inputs import BatchFileError


def payloads(content: str | bytes, kind: str, **common) -> list[dict]:
    raw = content if isinstance(content, bytes) else content.encode()
    found = inputs.items(raw, "file", kind=kind, common=common, accept="image/png")
    return [json.loads(item.request.body or b"") for item in found]


def test_each_line_of_text_is_a_prompt():
    assert payloads("a seven\n\n  an eight \r\nzwölf\n", "text", steps=5) == [
        {"steps": 5, "prompt": "a seven"},
        {"steps": 5, "prompt": "an eight"},
        {"steps": 5, "prompt": "zwölf"},
    ]


def test_each_column_of_a_csv_file_is_a_field_and_prompts_stay_text():
    content = 'prompt,steps,seed,shiny\n7,20,,true\n"a, b\nc",,3,007\n'

    assert payloads(content, "csv", steps=5) == [
        {"steps": 20, "prompt": "7", "shiny": True},
        {"steps": 5, "prompt": "a, b\nc", "seed": 3, "shiny": "007"},
    ]


def test_each_line_of_json_is_a_payload_as_it_is():
    content = '{"prompt": "a", "steps": 1}\n\n{"text": "for another model"}\n'

    assert payloads(content, "jsonl", steps=5) == [
        {"steps": 1, "prompt": "a"},
        {"steps": 5, "text": "for another model"},
    ]


def test_equal_lines_are_items_of_their_own_and_the_same_ones_each_time():
    def keys() -> list[str]:
        return [
            item.key
            for item in inputs.items(b"a\nb\na\n", "x", kind="text", common={}, accept=None)
        ]

    assert keys() == keys() == ["0", "0", "1"]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt():
    assert payloads(b"\xef\xbb\xbfa seven\n", "text") == [{"prompt": "a seven"}]


@pytest.mark.parametrize(
    ("content", "kind", "problems"),
    [
        ("", "text", ["file: has no prompts"]),
        (b"fine\n\xff\n", "text", ["file:2: is not UTF-8 text"]),
        ("fine\n\x00\n", "text", ["file:2: holds control characters; is this a text file?"]),
        ("prompt\n", "csv", ["file: has no prompts"]),
        ("a,,a\n1,2,3\n", "csv", ["file:1: has repeated or empty column names: 'a', ''"]),
        (
            'prompt,steps\nfine,1\none\n"x\ny",2\n1,2,3\n',
            "csv",
            [
                "file:3: has 1 values for the 2 columns of the header",
                "file:6: has 3 values for the 2 columns of the header",
            ],
        ),
        ('prompt\n"open\n', "csv", ["file:2: is not valid CSV (unexpected end of data)"]),
        (
            '{"prompt": "fine"}\n[1]\n{"x": NaN}\n"text"\n',
            "jsonl",
            [
                'file:2: must be an object like {"prompt": "a seven"}',
                "file:3: is not valid JSON (NaN is not a JSON number)",
                'file:4: must be an object like {"prompt": "a seven"}',
            ],
        ),
    ],
)
def test_all_that_is_wrong_is_told_with_its_line(content, kind, problems):
    with pytest.raises(BatchFileError) as refused:
        payloads(content, kind)
    assert list(refused.value.problems) == problems


def test_of_very_many_problems_the_first_are_shown_and_the_rest_counted():
    with pytest.raises(BatchFileError) as refused:
        payloads("[]\n" * 50, "jsonl")
    assert len(refused.value.problems) == inputs.SHOWN_PROBLEMS + 1
    assert refused.value.problems[-1] == "file: and 30 more"


def refusable(content: str | bytes, kind: str) -> tuple[list[dict], tuple[str, ...]]:
    """The payloads of a file, or the problems with it."""
    try:
        return payloads(content, kind), ()
    except BatchFileError as error:
        return [], error.problems


GOOD = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3).map(
    lambda fields: json.dumps(fields, ensure_ascii=True)
)
BAD = st.sampled_from(["[]", "{", "7", "nonsense", '{"a": Infinity}'])


@settings(max_examples=15)
@given(lines=st.lists(st.tuples(st.booleans(), GOOD, BAD, st.booleans()), min_size=1, max_size=18))
def test_exactly_the_wrong_lines_are_named(lines):
    content, wrong = [], []
    for good, right_line, wrong_line, blank_before in lines:
        content += [""] * blank_before + [right_line if good else wrong_line]
        if not good:
            wrong.append(len(content))
    found, problems = refusable("\n".join(content), "jsonl")

    assert [problem.split(": ")[0] for problem in problems] == [f"file:{n}" for n in wrong]
    assert wrong or found == [json.loads(line) for line in content if line]


@settings(max_examples=50)
@given(content=st.binary(max_size=200), kind=st.sampled_from(["text", "csv", "jsonl"]))
def test_no_file_whatsoever_is_a_traceback(content, kind):
    found, problems = refusable(content, kind)

    assert bool(found) != bool(problems)
    assert all(problem.startswith("file:") for problem in problems)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.CSV", "csv"), ("a.jsonl", "jsonl"), ("a.txt", "text"), ("-", "text")]
)
def test_a_files_name_tells_its_kind(name, kind):
    assert inputs.kind_of(name) == kind
