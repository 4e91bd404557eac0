"""The commands' words and exit codes, where no endpoint is needed; and what the wheel holds."""

import sys
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from typer.testing import CliRunner

from async_inference.cli import app, main
from tests.support import ROOT


def refused(monkeypatch, capsys, *arguments: str) -> list[str]:
    """The lines that a command with bad input ends with; exit code 2."""
    monkeypatch.setattr(sys, "argv", ["async-inference", *arguments])
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ("batch", "prompts.csv", "--output", "out", "--set", "steps"),
            [
                "error: --set steps: must be name=value, such as steps=20",
                "error: prompts.csv: cannot be read (No such file or directory)",
            ],
        ),
        (
            ("resume", "out"),
            ["error: out/ledger.jsonl: does not exist; name the folder of a batch"],
        ),
        (
            ("generate", "a seven"),
            [
                "error: no endpoint is named; use --stack or --endpoint, or start the local "
                "stack: make up"
            ],
        ),
        (
            ("generate", "a seven", "--endpoint", "mine"),
            ["error: no region is set; set AWS_DEFAULT_REGION, or name --stack"],
        ),
        (
            ("generate", "a seven", "--stack", "local"),
            ["error: the embedded AWS is not running; start it with make up"],
        ),
    ],
)
def test_bad_input_is_sentences_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, lines):
    monkeypatch.chdir(tmp_path)

    assert refused(monkeypatch, capsys, *arguments) == lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("batch", "prompts.csv", "--output", "out", "--format", "xml"), "text csv jsonl"),
        (("load", "--traffic", "bursts", "--payload", "cats"), "steps sleep"),
    ],
)
def test_an_option_with_choices_names_them(tmp_path, monkeypatch, capsys, arguments, choices):
    monkeypatch.chdir(tmp_path)

    said = " ".join(refused(monkeypatch, capsys, *arguments))

    assert all(f"'{choice}'" in said for choice in choices.split())


def test_a_wrong_batch_file_is_told_line_by_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text('{"prompt": "fine"}\n[]\n{\n')

    lines = refused(monkeypatch, capsys, "batch", "x.jsonl", "--output", "out")

    assert lines[0] == 'error: x.jsonl:2: must be an object like {"prompt": "a seven"}'
    assert lines[1].startswith("error: x.jsonl:3: is not valid JSON")
    assert not Path("out").exists()


def test_a_batch_goes_on_where_it_was_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    header = '{"ledger": 1, "batch": "abcdef01", "endpoint": "echo", "aws": "local"}\n'
    (tmp_path / "ledger.jsonl").write_text(header)

    assert refused(monkeypatch, capsys, "resume", ".") == [
        "error: the embedded AWS is not running; start it with make up"
    ]


@pytest.mark.parametrize("name", ["generate", "batch", "resume", "load"])
def test_each_command_shows_an_example(name):
    assert "For example: async-inference" in CliRunner().invoke(app, [name, "--help"]).output


def test_the_wheel_says_that_it_is_typed():
    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}

    assert "async_inference/py.typed" in files
    assert "async_inference/client/protocol.py" in files
