"""The command alone says what can be done next, from where the user is."""

import re
import shlex

import pytest
import typer
from rich.console import Console

from async_inference.cli import app
from async_inference.cli.next_steps import next_steps
from tests.support.command_line import parsed


def said(folder, url: str | None) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(next_steps(folder, url))
    return captured.get()


@pytest.fixture
def project(tmp_path):
    (tmp_path / "Pulumi.yaml").touch()
    return tmp_path


def test_outside_the_project_it_says_where_to_go(tmp_path):
    assert "change to the project's folder" in said(tmp_path, None)


def test_before_anything_runs_the_first_step_is_make_up(project):
    steps = said(project, None).splitlines()

    assert "No stack runs" in steps[0]
    assert steps[2].rstrip().endswith("make up")


def test_while_the_local_stack_runs_its_address_and_an_image_come_first(project):
    steps = said(project, "http://127.0.0.1:4590").splitlines()

    assert "http://127.0.0.1:4590" in steps[0]
    assert 'async-inference generate "a seven"' in steps[2]


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:4590"])
def test_every_step_of_ours_is_a_command_that_the_command_line_takes(project, url):
    commands = re.findall(r"async-inference ((?!--)\w.*?)\s*$", said(project, url), re.MULTILINE)

    assert commands
    for words in commands:
        parsed(typer.main.get_command(app), shlex.split(words))
