"""A Python that has some of the packages that are installed here, and no others."""

import importlib.metadata
import venv
from collections.abc import Iterable
from pathlib import Path


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
