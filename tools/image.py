"""Pins the newest Ray Serve image: its tag, and the list of its packages.

    git clone --depth 1 <AWS's deep-learning-containers> containers
    python tools/image.py containers && make lock

The argument is a checkout of that repository. The tag is the newest one in docs/ray/changelog, and
the list comes from docker/ray/uv.lock. `make lock` then resolves the handlers' packages again; read
what changed, and run `make test`.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "components" / "images" / "ray.txt"
PINNED_IN = ROOT / "async_inference" / "stack" / "images.py"
TAG = re.compile(r"serve-ml-sagemaker-cuda-v\d+\.\d+")


def listed(lock: str, tag: str, commit: str) -> str:
    """The list of packages from the image's uv.lock."""
    document = tomllib.loads(lock)
    packages = sorted(
        (package["name"], package["version"])
        for package in document["package"]
        if "virtual" not in package["source"]
    )
    python = document["requires-python"].strip("=.*")
    head = (
        f"# What AWS's image ray:{tag} brings for Python {python}, all of it: a handler's\n"
        "# packages are chosen to fit, and what is here is not packed. From docker/ray/uv.lock of\n"
        f"# github.com/aws/deep-learning-containers, commit {commit}; written by tools/image.py.\n"
    )
    return head + "".join(f"{name}=={version}\n" for name, version in packages)


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "docker/ray/uv.lock").is_file():
        print("usage: python tools/image.py CHECKOUT, one of deep-learning-containers")
        return 2
    checkout = Path(sys.argv[1])
    newest = TAG.search((checkout / "docs/ray/changelog/index.md").read_text())
    if newest is None:
        print(f"error: {checkout}/docs/ray/changelog/index.md names no SageMaker tag")
        return 1
    tag = newest[0]
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "--short=8", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lock = (checkout / "docker/ray/uv.lock").read_text()
    LIST.write_text(listed(lock, tag, commit))
    PINNED_IN.write_text(TAG.sub(tag, PINNED_IN.read_text()))
    print(f"pinned {tag}; next: make lock docs, then make test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
