"""What the documentation says is so: its commands exist and run, generated pages are current."""

import re
import shlex
import subprocess

import pytest
import typer

from async_inference.cli import app
from async_inference.rehearsal import traffic
from async_inference.rehearsal.comparison import FIGURES
from async_inference.rehearsal.rehearse import rehearse, traffic_as_json
from tests.support import ROOT
from tests.support.command_line import parsed
from tools import command_reference, configuration_reference, parity_table

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(program: str) -> list[list[str]]:
    """The words of each command line of a program, from every shell block of the documentation."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"\s(?:&&|\||>)\s", line):
                    words = shlex.split(part, comments=True)
                    if words[:1] == [program]:
                        found.append(words[1:])
    return found


@pytest.mark.parametrize("words", commands("async-inference"), ids=" ".join)
def test_every_documented_command_is_one_that_the_command_line_takes(words):
    parsed(typer.main.get_command(app), words)


@pytest.mark.parametrize("target", sorted({words[0] for words in commands("make")}))
def test_every_documented_make_target_exists(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)


def test_the_configuration_reference_is_what_the_schema_says():
    written = configuration_reference.PAGE.read_text(encoding="utf-8")

    assert written == configuration_reference.page(), "run `make docs` and commit the page"


def test_the_command_reference_is_what_the_help_says():
    written = command_reference.PAGE.read_text(encoding="utf-8")

    assert written == command_reference.page(), "run `make docs` and commit the page"


def test_the_parity_table_is_what_the_embedded_aws_registers():
    written = parity_table.PAGE.read_text(encoding="utf-8")

    assert written == parity_table.page(), "run `make docs` and commit the page"


def test_every_difference_belongs_to_an_operation_that_the_embedded_aws_serves():
    served = {(each, name) for each in parity_table.OWN for name in parity_table.served(each)}

    assert set(parity_table.DIFFERS) <= served


FACTS = ROOT / "docs" / "aws-facts.md"
HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)


def sections() -> dict[str, str]:
    """The text of each section of the facts, by its anchor."""
    _, *parts = HEADING.split(FACTS.read_text(encoding="utf-8"))
    names = [name.lower().replace(" ", "-") for name in parts[::2]]
    return dict(zip(names, parts[1::2], strict=True))


def test_every_cited_fact_is_a_section_of_the_page():
    found = subprocess.run(
        ["git", "grep", "-hoE", r"aws-facts\.md(#[a-z0-9-]+)?"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    cited = {line.partition("#")[2] for line in found.stdout.splitlines()}

    assert cited - {""} <= set(sections())


def test_every_section_of_the_facts_has_a_link_or_was_observed():
    sourced = re.compile(r"\[[^]]+\][\[(]|\(observed")

    assert [name for name, text in sections().items() if not sourced.search(text)] == []


@pytest.fixture
def project(tmp_path):
    """A checkout with the stack files, on branch main, and a trace `mine.csv`."""
    for file in ROOT.glob("Pulumi*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "inference_code").mkdir()
    (tmp_path / "inference_code" / "inference.py").touch()
    traffic.write(traffic.generate("bursts", 0), tmp_path / "mine.csv")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "stacks"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.rehearsal
@pytest.mark.parametrize(
    "words",
    [words for words in commands("async-inference") if words[0] in ("rehearse", "tune")],
    ids=" ".join,
)
def test_every_documented_rehearsal_and_search_runs(words, project, monkeypatch, capsys):
    monkeypatch.chdir(project)

    app([*words, "--plans", "8"] if words[0] == "tune" else words, standalone_mode=False)

    assert capsys.readouterr().out.strip()


def cost_row(name: str) -> str:
    """A line of the README's cost table, as the rehearsal has it today."""
    found = rehearse(
        stack="dev", traffic=name, policy="documented", against=["tuned"], changed=[], seed=0
    )
    given = traffic_as_json(found.traffics)
    days = given["span_s"] / 86_400
    cells = [f"`{name}`, {given['requests'] / days:.0f} images a day"]
    for runs in found.plans:
        usd, wait_s = runs.estimate(FIGURES["cost_usd"]), runs.estimate(FIGURES["mean_wait_s"])
        cells.append(
            f"${usd.mean / days:.2f} ({usd.low / days:.2f}-{usd.high / days:.2f}), "
            f"{wait_s.mean:.0f} s ({wait_s.low:.0f}-{wait_s.high:.0f})"
        )
    always_on = 24 * found.assumptions.usd_per_instance_hour
    return f"| {' | '.join([*cells, f'${always_on:.2f} a day'])} |"


@pytest.mark.rehearsal
@pytest.mark.parametrize("name", ["sparse", "bursts", "diurnal", "steady"])
def test_the_readmes_costs_are_what_the_rehearsal_says(name, monkeypatch):
    monkeypatch.chdir(ROOT)

    row = cost_row(name)

    assert row in (ROOT / "README.md").read_text(encoding="utf-8"), f"the README needs: {row}"
