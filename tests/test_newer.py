"""What `make newer` makes of what its sources say; that they answer, only a run can show."""

import pytest

from async_inference.stack.images import DEFAULT_TAG
from tools import newer
from tools.newer import Newer


def pinned(old: str, new: str) -> Newer:
    return Newer("package", old, new, "", "pyproject.toml")


@pytest.mark.parametrize(
    ("old", "new", "behind"),
    [("1.9.9", "2.0.0", 2), ("^1.1.0", "1.2.0", 1), ("1.1.0", "1.1.1", 0), ("v5", "v6", 2)],
)
def test_what_is_behind_by_a_major_version_comes_first(old, new, behind):
    assert newer.versions_behind(pinned(old, new)) == behind


TAGS = """
1a2b\trefs/tags/v5
1a2b\trefs/tags/v5.0.1
1a2b\trefs/tags/v9
1a2b\trefs/tags/v10
"""


def test_actions_are_compared_by_the_tags_of_their_repositories(monkeypatch):
    monkeypatch.setattr(newer, "_said", lambda *command: TAGS)

    assert {each.newest for each in newer.actions()} == {"v10"}


def test_the_image_is_compared_with_the_newest_of_awss_changelog(monkeypatch):
    page = (
        "## v9.1\n`ray:serve-ml-sagemaker-cuda-v9.1`\n## v9.0\n`ray:serve-ml-sagemaker-cuda-v9.0`"
    )
    monkeypatch.setattr(newer, "_page", lambda url: page)

    (image,) = newer.image()

    assert (image.pinned, image.newest) == (DEFAULT_TAG, "serve-ml-sagemaker-cuda-v9.1")
    monkeypatch.setattr(newer, "_page", lambda url: DEFAULT_TAG)
    assert not list(newer.image())


def test_a_module_that_is_kept_on_purpose_is_not_offered(monkeypatch):
    monkeypatch.setattr(newer, "_said", lambda *command, folder: "v1.0.0 v999.0.0")

    found = {each.name: each for each in newer.go_modules()}

    assert not newer.KEPT.keys() & found.keys()
    pulumi = found["github.com/pulumi/pulumi/pkg/v3"]
    assert pulumi.changes == "https://github.com/pulumi/pulumi/releases/tag/v999.0.0"
    assert pulumi.where == "tools/pulumi/go.mod"


def test_a_source_that_does_not_answer_leaves_the_others(monkeypatch, capsys):
    def down():
        raise newer.UnreachableError("git: no network")

    sources = {"actions": down, "Go modules": lambda: iter([pinned("1.0.0", "1.1.0")])}
    monkeypatch.setattr(newer, "SOURCES", sources)

    assert newer.main() == 1
    said = capsys.readouterr().out
    assert "1.1.0" in said
    assert "could not be checked: actions: git: no network" in said
