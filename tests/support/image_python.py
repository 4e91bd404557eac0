"""A Python that has some of the packages that are installed here, and no others."""

import importlib.metadata
import venv
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement


def needed(*names: str) -> set[str]:
    """Packages with all that they need, of those that are installed here."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # torch's CPU build comes without CUDA's.
        found.add(name)
        requirements = [Requirement(line) for line in asked]
        left += [each.name for each in requirements if not each.marker or each.marker.evaluate()]
    return found


def python_with(folder: Path, names: Iterable[str]) -> Path:
    """Make it in a folder, with links to the packages; names that are not here are left out."""
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = []
    for name in names:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        here += [(found, file.parts[0]) for file in found.files or []]
    # Several may share a folder.
    for path in {distribution.locate_file(top) for distribution, top in here if top != ".."}:
        (packages / Path(str(path)).name).symlink_to(str(path))
    return folder / "bin" / "python"
