"""The report is one page that needs nothing else, and says what the runs say."""

from dataclasses import replace

import pytest

from async_inference.rehearsal import report
from async_inference.rehearsal.rehearse import Rehearsal, rehearse
from async_inference.validation import InvalidInputError

pytestmark = pytest.mark.rehearsal


def rehearsed(traffic: str = "sparse", *changed: str) -> Rehearsal:
    return rehearse(
        stack="dev",
        traffic=traffic,
        policy=None,
        against=["tuned"],
        changed=list(changed),
        seed=1,
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

    for name, run in found.runs:
        assert f"<td>{name}</td>" in html
        assert f"<td>{run.instance_hours:.1f}</td>" in html
        assert f"<td>${run.cost_usd:.2f}</td>" in html
    assert "<td>nothing to change</td>" in html
    assert "<td>metric_delay_s</td><td>60.0</td>" in html


def test_a_policys_name_is_text_and_no_markup(tmp_path):
    found = rehearsed()
    named = replace(found, runs=(("<script>", found.runs[0][1]),))

    assert "<script>" not in report.write(named, tmp_path).read_text(encoding="utf-8")


def test_traffic_that_expires_altogether_still_makes_a_page(tmp_path):
    page = report.write(rehearsed("sparse", "setup_s=30000", "request_ttl_s=60"), tmp_path)

    assert "<td>nan</td>" in page.read_text(encoding="utf-8")


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")

    with pytest.raises(InvalidInputError, match="name another folder"):
        report.write(rehearsed(), taken)
