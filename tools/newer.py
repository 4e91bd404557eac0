"""`make newer`: lists newer versions of what is pinned, with links to their release notes.

It checks the Python packages in pyproject.toml, the Go modules of the CLI and of actionlint, the
npm packages of the JavaScript client, the workflows' actions and AWS's Ray Serve image. It reports
sources that it cannot reach, and checks the others. It changes nothing: `make lock
UPGRADE=--upgrade` upgrades Python packages within pyproject.toml's bounds; for the rest, the last
column names the file to edit.
"""

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version
from rich.console import Console
from rich.table import Table

from async_inference.stack.images import DEFAULT_TAG
from tools.image import TAG

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = "https://github.com/aws/deep-learning-containers"
CONTAINERS_PAGES = "https://raw.githubusercontent.com/aws/deep-learning-containers/main"
KEPT = {"github.com/pulumi/pulumi/sdk/v3": "the last that contains the Python language host"}
"""Go modules that are not upgraded, and why."""


class UnreachableError(Exception):
    """A source that could not be reached."""


@dataclass(frozen=True)
class Newer:
    """A pinned dependency that has a newer version.

    Args:
        name: its name.
        pinned: the version here.
        newest: the newest version.
        changes: the address of its release notes; empty if unknown.
        where: the file with the pin.
    """

    name: str
    pinned: str
    newest: str
    changes: str
    where: str


def python_packages() -> Iterator[Newer]:
    """The packages in pyproject.toml."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [*document["project"]["optional-dependencies"].values()]
    groups += document["dependency-groups"].values()
    named = {re.split(r"[\[<>=~!; ]", each)[0].lower() for group in groups for each in group}
    told = _said(sys.executable, "-m", "uv", "pip", "list", "--outdated", "--format", "json")
    for each in json.loads(told):
        if each["name"] in named:
            yield Newer(
                each["name"],
                each["version"],
                each["latest_version"],
                _changelog(each["name"]),
                "pyproject.toml",
            )


def _changelog(package: str) -> str:
    try:
        urls = metadata(package).get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    labelled = dict(url.split(", ", 1) for url in urls)
    for label, url in labelled.items():
        if re.search(r"change|release|history|news", label, re.IGNORECASE):
            return url
    return next((url for url in labelled.values() if "github.com" in url), "")


def go_modules() -> Iterator[Newer]:
    """The Go modules of the programs that tools/ builds."""
    for file in sorted(ROOT.glob("tools/*/go.mod")):
        text = file.read_text()
        (tool,) = re.findall(r"^tool (\S+)", text, re.MULTILINE)
        modules = re.findall(r"^\s*(\S+) v\S+", text, re.MULTILINE)
        module = max((each for each in modules if tool.startswith(f"{each}/")), key=len)
        form = "{{.Version}} {{with .Update}}{{.Version}}{{end}}"
        pinned, _, newest = _said(
            "go", "list", "-m", "-u", "-f", form, module, folder=file.parent
        ).partition(" ")
        if newest and module not in KEPT:
            repository = "/".join(module.split("/")[:3])
            changes = f"https://{repository}/releases/tag/{newest}"
            yield Newer(module, pinned, newest, changes, str(file.relative_to(ROOT)))


def npm_packages() -> Iterator[Newer]:
    """The packages of the JavaScript client."""
    folder = ROOT / "tests" / "local_aws" / "clients" / "javascript"
    # npm outdated ends with code 1 if anything is outdated.
    told = _said("npm", "outdated", "--json", folder=folder, codes=(0, 1))
    pinned = json.loads((folder / "package.json").read_text())["dependencies"]
    for name, each in json.loads(told or "{}").items():
        if each["latest"] != pinned[name].lstrip("^~"):
            where = str((folder / "package.json").relative_to(ROOT))
            yield Newer(name, pinned[name], each["latest"], "", where)


def actions() -> Iterator[Newer]:
    """The workflows' actions, by major version."""
    used: dict[str, tuple[str, str]] = {}
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for name, tag in re.findall(r"uses: ([\w-]+/[\w-]+)@(v\d+)", file.read_text()):
            used[name] = (tag, str(file.relative_to(ROOT)))
    for name, (tag, where) in used.items():
        majors = _tags(f"https://github.com/{name}", r"v(\d+)")
        newest = max(majors, key=int, default=tag[1:])
        if int(newest) > int(tag[1:]):
            changes = f"https://github.com/{name}/releases"
            yield Newer(name, tag, f"v{newest}", changes, where)


def image() -> Iterator[Newer]:
    """AWS's Ray Serve image for SageMaker; its changelog lists the newest tag first."""
    newest = TAG.search(_page(f"{CONTAINERS_PAGES}/docs/ray/changelog/index.md"))
    if newest and newest[0] != DEFAULT_TAG:
        where = "python tools/image.py CHECKOUT"
        yield Newer("ray (image)", DEFAULT_TAG, newest[0], f"{CONTAINERS}/releases", where)


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 the URL is GitHub's
            return answer.read().decode()
    except OSError as error:
        raise UnreachableError(f"{url}: {error}") from error


def _tags(repository: str, form: str) -> set[str]:
    """The first group of a pattern in each of a repository's tags that match it."""
    told = _said("git", "ls-remote", "--tags", "--refs", repository)
    matched = (re.fullmatch(form, tag) for tag in re.findall(r"refs/tags/(\S+)", told))
    return {found[1] for found in matched if found}


def _said(*command: str, folder: Path = ROOT, codes: tuple[int, ...] = (0,)) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreachableError(f"{command[0]}: {error}") from error
    if done.returncode not in codes:
        reason = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise UnreachableError(f"{' '.join(command[:4])} ...: {reason[-1]}")
    return done.stdout.strip()


def versions_behind(newer: Newer) -> int:
    """How far behind the pin is: 2 for a major version, 1 for a minor one, 0 for less."""
    try:
        old, new = Version(newer.pinned.lstrip("^~")), Version(newer.newest)
    except InvalidVersion:
        return 0
    return 2 if new.major > old.major else int(new.release[:2] > old.release[:2])


SOURCES: dict[str, Callable[[], Iterator[Newer]]] = {
    "Python packages": python_packages,
    "Go modules": go_modules,
    "npm packages": npm_packages,
    "actions": actions,
    "image": image,
}


def main() -> int:
    """Print what is newer, largest gap first; returns 1 if a source could not be reached."""
    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "pinned", "newest", "what changed", "pinned in"):
        table.add_column(heading, overflow="fold")
    found: list[Newer] = []
    unreachable: list[str] = []
    for kind, source in SOURCES.items():
        try:
            found += source()
        except UnreachableError as error:
            unreachable.append(f"{kind}: {error}")
    for each in sorted(found, key=versions_behind, reverse=True):
        table.add_row(each.name, each.pinned, each.newest, each.changes, each.where)
    console.print(table if found else "Nothing is newer.")
    for module, why in KEPT.items():
        console.print(f"kept: {module}: {why}", markup=False)
    for reason in unreachable:
        console.print(f"could not be checked: {reason}", markup=False, style="yellow")
    return 1 if unreachable else 0


if __name__ == "__main__":
    sys.exit(main())
