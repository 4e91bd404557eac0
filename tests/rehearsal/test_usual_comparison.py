"""`rehearse` compares a plan with another one, unless something is named."""

import pytest

from async_inference.cli.rehearsal import _default_comparison
from tests.support import ROOT


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("stack", "policy", "against"),
    [
        ("dev", None, ["tuned"]),
        ("prod", None, ["documented"]),
        ("prod", "documented", ["tuned"]),
        ("dev", "tuned", ["documented"]),
    ],
)
def test_no_plan_is_compared_with_itself(stack, policy, against):
    assert _default_comparison(stack, policy) == against
