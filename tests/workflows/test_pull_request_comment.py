"""The comment of a pull request: what it says, and that there is only ever one."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.support import ROOT
from tools.pull_request_comment import (
    MARKER,
    MOST_CHARACTERS,
    GitHub,
    StackReport,
    body,
    cell,
    fenced,
    read,
)


def step(op: str, kind: str, name: str, **more: object) -> dict[str, object]:
    urn = f"urn:pulumi:dev::async-inference::{kind}::{name}"
    return {"resourcePreEvent": {"metadata": {"op": op, "type": kind, "urn": urn, **more}}}


CONFIGURATION = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
EVENTS = [
    step("same", "pulumi:pulumi:Stack", "async-inference-dev"),
    step("replace", CONFIGURATION, "sdxl-config", keys=["productionVariants"]),
    step("create-replacement", CONFIGURATION, "sdxl-config"),
    step(
        "update", "aws:sagemaker/endpoint:Endpoint", "sdxl-endpoint", diffs=["endpointConfigName"]
    ),
    {"policyLoadEvent": {}},
    {"summaryEvent": {"resourceChanges": {"update": 1, "replace": 1}}},
]


def over_seeds(mean: float | None, spread: float = 0.0) -> dict[str, float | None]:
    if mean is None:
        return {"mean": None, "low": None, "high": None}
    return {"mean": mean, "low": mean - spread, "high": mean + spread}


def run(policy: str, **figures: dict[str, float | None]) -> dict[str, Any]:
    own = {
        "mean_wait_s": over_seeds(100.0),
        "p95_wait_s": over_seeds(400.0),
        "instance_hours": over_seeds(10.0),
        "cost_usd": over_seeds(9.4),
        "starts": over_seeds(5.0),
        "interrupted": over_seeds(0.0),
        "expired": over_seeds(0.0),
    }
    return {"policy": policy, "over_seeds": own | figures}


BASE = "origin/main:Pulumi.dev.yaml"
REHEARSAL: dict[str, Any] = {
    "traffic": {"requests": 500, "span_s": 604_800.0},
    "assumptions": {"seeds": list(range(8))},
    "runs": [
        run(
            "dev",
            mean_wait_s=over_seeds(90.0, 30.0),
            p95_wait_s=over_seeds(600.0),
            cost_usd=over_seeds(4.7),
            expired=over_seeds(3.0),
        ),
        run(BASE),
    ],
    "differences": [
        {"policy": "dev", "against": BASE, "figure": name, "noise": name == "mean_wait_s"}
        for name in run(BASE)["over_seeds"]
    ],
    "readings": [
        {
            "policy": "dev",
            "figure": "p95_wait_s",
            "low": 500.0,
            "high": 900.0,
            "moved_by": "samples_per_minute=6",
        }
    ],
}


def report(**changed: Any) -> StackReport:
    given: dict[str, Any] = {
        "name": "dev",
        "events": EVENTS,
        "diff": "~ sdxl-endpoint",
        "rehearsal": REHEARSAL,
        "rehearsal_said": "",
    }
    return StackReport(**given | changed)


def test_the_comment_tells_changes_policies_waits_and_cost():
    said = body([report()])

    assert said.startswith(MARKER)
    assert "1 to replace, 1 to update:" in said
    assert "| replace | EndpointConfiguration sdxl-config | productionVariants |" in said
    assert "| update | Endpoint sdxl-endpoint | endpointConfigName |" in said
    assert "Policies: all kept." in said
    assert "| p95 wait | 400 s | 600 s | +50% | 500 s to 900 s |" in said
    assert "| cost | $9.40 | $4.70 | -50% |  |" in said
    assert "| expired requests | 0 | 3 | new |  |" in said
    assert "| starts | 5 | 5 |  |  |" in said
    assert "A simulated estimate: 500 requests over 7.0 days; means over 8 seeds" in said
    assert "The reading that matters most is `samples_per_minute=6`." in said


def test_a_change_on_whose_sign_the_seeds_disagree_is_called_noise():
    assert "| mean wait | 100 s | 90 s (60 s to 120 s) | -10% (noise) |" in body([report()])


def test_a_rehearsal_that_rests_on_a_live_endpoint_says_so():
    assumed = REHEARSAL["assumptions"] | {"calibrated": "calibrated from 23 starts of sdxl"}

    said = body([report(rehearsal=REHEARSAL | {"assumptions": assumed})])

    assert "500 requests over 7.0 days, calibrated from 23 starts of sdxl; means" in said


def test_a_broken_policy_is_told_in_its_own_words():
    violation = {
        "policyEvent": {
            "policyName": "tells-failures",
            "enforcementLevel": "mandatory",
            "message": "<{%fg 1%}>Failed requests leave a trace.\nsdxl-config has none<{%reset%}>",
        }
    }

    said = body([report(events=[*EVENTS, violation])])

    assert (
        "| mandatory | tells-failures | Failed requests leave a trace. sdxl-config has none |"
        in said
    )


def test_a_preview_that_failed_says_why():
    error = {"diagnosticEvent": {"severity": "error", "message": "minCapacity = 7: exceeds"}}

    said = body([report(events=[error], diff="")])

    assert "**The preview failed.**" in said
    assert "minCapacity = 7: exceeds" in said
    assert "Policies: none ran." in said


def test_a_preview_that_never_ran_and_a_rehearsal_that_could_not_are_told():
    nothing = report(
        events=[], diff="error: no credentials", rehearsal=None, rehearsal_said="price"
    )

    said = body([nothing])

    assert "error: no credentials" in said
    assert "Not rehearsed:\n\n```\nprice\n```" in said
    assert "No preview left a report" in body([])


def test_waits_of_a_run_that_served_nothing_are_no_numbers():
    asleep = run("dev", mean_wait_s=over_seeds(None), p95_wait_s=over_seeds(None))
    none = REHEARSAL | {"runs": [asleep, run(BASE)]}

    assert "| p95 wait | 400 s | - | - (noise) |" not in body([report(rehearsal=none)])
    assert "| p95 wait | 400 s | - | - |" in body([report(rehearsal=none)])


def test_a_diff_that_is_too_long_is_cut_and_the_comment_fits():
    long = report(diff="~ changed\n" * 10_000)

    assert "the rest is in the workflow's log" in body([long])
    assert len(body([long] * 9)) <= MOST_CHARACTERS


def test_what_others_wrote_stays_text():
    """A resource's name or a message is not markup, and notifies nobody."""
    assert cell("a|b\nc <img> @team `x`") == "a\\|b c &lt;img&gt; &#64;team \\`x\\`"
    assert fenced("```\nout") == "````\n```\nout\n````"


class Comments(BaseHTTPRequestHandler):
    """GitHub's comments of one issue, a page of a hundred at a time."""

    comments: list[dict[str, object]]
    calls: list[str]

    def _answer(self) -> None:
        self.calls.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length", 0))
        given = json.loads(self.rfile.read(length) or "{}")
        answer: object = given
        if self.command == "GET":
            page = int(self.path.rpartition("page=")[2])
            answer = self.comments[(page - 1) * 100 : page * 100]
        elif self.command == "POST":
            self.comments.append({"id": len(self.comments), **given})
        else:
            self.comments[int(self.path.rpartition("/")[2])] |= given
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 as http.server spells them

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def github() -> Iterator[tuple[GitHub, type[Comments]]]:
    handler = type("Handler", (Comments,), {"comments": [], "calls": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield GitHub(f"http://127.0.0.1:{server.server_port}", "own/er", "token"), handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_first_comment_is_new_and_every_later_one_replaces_it(github):
    api, seen = github

    api.publish(7, f"{MARKER} one")
    api.publish(7, f"{MARKER} two")

    assert [comment["body"] for comment in seen.comments] == [f"{MARKER} two"]
    assert seen.calls[1] == "POST /repos/own/er/issues/7/comments"
    assert seen.calls[-1] == "PATCH /repos/own/er/issues/comments/0"


def test_the_comment_is_found_behind_a_hundred_others_and_those_are_left_alone(github):
    api, seen = github
    seen.comments += [{"id": n, "body": f"looks good, see {MARKER}"} for n in range(150)]
    seen.comments.append({"id": 150, "body": f"{MARKER} one"})

    api.publish(7, f"{MARKER} two")

    assert seen.comments[150]["body"] == f"{MARKER} two"
    assert {comment["body"] for comment in seen.comments[:150]} == {f"looks good, see {MARKER}"}


def test_a_folder_of_what_the_workflow_left_is_read(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "events.jsonl").write_text("\n".join(map(json.dumps, EVENTS)) + "\n")
    (tmp_path / "dev" / "diff.txt").write_text("<{%fg 2%}>+ one<{%reset%}>")
    (tmp_path / "prod").mkdir()

    dev, prod = read(tmp_path)

    assert (dev.name, dev.events, dev.diff, dev.rehearsal) == ("dev", EVENTS, "+ one", None)
    assert (prod.name, prod.events) == ("prod", [])


@pytest.mark.rehearsal
def test_a_real_rehearsal_is_what_the_comment_reads(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from async_inference.cli import app

    monkeypatch.chdir(ROOT)
    asked = ["rehearse", "--stack", "dev", "--against", "aws", "--seeds", "2", "--readings"]
    asked += ["--traffic", "sparse", "--json"]
    rehearsal = json.loads(CliRunner().invoke(app, asked).stdout)

    said = body([report(rehearsal=rehearsal)])

    assert "| rehearsal | aws | this | change | this, under any reading |" in said
    assert said.count("%") >= 4


@pytest.mark.engine
def test_the_events_of_a_real_preview_are_what_the_comment_reads(program, tmp_path):
    left = tmp_path / "report" / "local"
    left.mkdir(parents=True)
    done = subprocess.run(
        ["pulumi", "preview", "--stack", "local", "--non-interactive", "--diff", "--color", "never",
         "--event-log", str(left / "events.jsonl")],
        cwd=program.folder,
        env=program.environment | {"PULUMI_DEBUG_COMMANDS": "true"},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    (left / "diff.txt").write_text(done.stdout)

    said = body(read(tmp_path / "report"))

    assert "| create | Endpoint sdxl-endpoint |  |" in said
    assert "Policies: none ran." in said
    assert "aws:sagemaker/endpoint:Endpoint: (create)" in said
