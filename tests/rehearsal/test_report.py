"""The report is one page that needs nothing else, and says what the runs say."""

from dataclasses import replace

import pytest
from matplotlib.testing.compare import compare_images

from async_inference.rehearsal import report
from async_inference.rehearsal.comparison import FIGURES
from async_inference.rehearsal.rehearse import Rehearsal, rehearse
from async_inference.validation import InvalidInputError
from tools import pictures

pytestmark = pytest.mark.rehearsal


def rehearsed(traffic: str = "sparse", *changed: str) -> Rehearsal:
    return rehearse(
        stack="dev",
        traffic=traffic,
        policy=None,
        against=["tuned"],
        changed=list(changed),
        seed=1,
        seeds=2,
    )


def test_the_page_holds_its_pictures_and_refers_to_nothing_outside(tmp_path):
    page = report.write(rehearsed("bursts"), tmp_path / "new" / "folder")

    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 2
    assert "http:" not in html
    assert "https:" not in html
    for name in ("timeline.png", "waits.png"):
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_says_what_the_runs_say_and_why_policies_did_nothing(tmp_path):
    found = rehearsed()

    html = report.write(found, tmp_path).read_text(encoding="utf-8")

    for runs in found.plans:
        assert f"<td>{runs.name}</td>" in html
        hours, usd = (runs.estimate(FIGURES[name]) for name in ("instance_hours", "cost_usd"))
        assert f"<td>{hours.mean:.1f} ({hours.low:.1f}..{hours.high:.1f})</td>" in html
        assert f"<td>${usd.mean:.2f} ({usd.low:.2f}..{usd.high:.2f})</td>" in html
    assert "<td>nothing to change</td>" in html
    assert "<td>metric_delay_s</td><td>60.0</td>" in html


def test_a_policys_name_is_text_and_no_markup(tmp_path):
    found = rehearsed()
    named = replace(found, plans=(replace(found.plans[0], name="<script>"),))

    assert "<script>" not in report.write(named, tmp_path).read_text(encoding="utf-8")


def test_traffic_that_expires_altogether_still_makes_a_page(tmp_path):
    page = report.write(rehearsed("sparse", "setup_s=1000000", "request_ttl_s=60"), tmp_path)

    assert "<td>- s</td>" in page.read_text(encoding="utf-8")


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")

    with pytest.raises(InvalidInputError, match="name another folder"):
        report.write(rehearsed(), taken)


def test_the_documentations_pictures_are_what_is_drawn_today(tmp_path, monkeypatch):
    monkeypatch.chdir(pictures.IMAGES.parents[1])

    for name, figure in pictures.draw().items():
        figure.savefig(tmp_path / name, dpi=pictures.DPI)
        # Fonts are drawn a little differently from machine to machine.
        difference = compare_images(str(pictures.IMAGES / name), str(tmp_path / name), tol=5)
        assert difference is None, f"run `make docs` and commit {name}: {difference}"
