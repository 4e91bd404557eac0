"""Puts a working Pulumi CLI and its Python language host into .local/bin.

It tries the CLI on PATH, then the vendor's installer, then a build from Go modules. go.mod and
go.sum in tools/pulumi and tools/pulumi-language-python pin what is built. The language host is the
last version that was part of a Go module with a fixed version. It expects Pulumi.yaml's virtual
environment as a flag, which the newer CLI does not pass, so a script does.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
BIN = TOOLS.parent / ".local" / "bin"
OLDEST = (3, 217, 0)
"""The first version with error hooks, resource hooks and replacement triggers."""
MODULES = {
    "pulumi-language-python": "github.com/pulumi/pulumi/sdk/v3",
    "pulumi": "github.com/pulumi/pulumi/pkg/v3",
}
"""The folders of programs to build, and the module that contains each program."""
HOST = """#!/bin/sh
# Started in the program's folder.
venv=$(sed -n 's/^ *virtualenv: *//p' Pulumi.yaml 2>/dev/null)
exec "$(dirname "$(readlink -f "$0")")/host/pulumi-language-python" \\
  ${venv:+-virtualenv="$venv"} "$@"
"""


class UnobtainableError(Exception):
    """A way to get the CLI did not work; the message says why."""


def version(pulumi: str | Path) -> tuple[int, ...] | None:
    """The version of a CLI; None if it does not run."""
    try:
        answer = subprocess.run(
            [pulumi, "version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    digits = re.match(r"v?(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in digits.groups()) if digits else None


def works() -> bool:
    """Whether `pulumi` and its language host are found: in .local/bin, or on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which("pulumi", path=path)
    if found is None or shutil.which("pulumi-language-python", path=path) is None:
        return False
    return (version(found) or (0,)) >= OLDEST


def ready() -> bool:
    """Whether both work, and are not builds of an older version than go.mod's."""
    own = BIN / "pulumi"
    built = own.is_file() and not own.is_symlink()
    return works() and (not built or version(own) == pinned())


def pinned() -> tuple[int, ...]:
    """The version of the CLI that go.mod pins."""
    found = re.search(
        rf"^\s*{MODULES['pulumi']} v(\d+)\.(\d+)\.(\d+)",
        (TOOLS / "pulumi" / "go.mod").read_text(),
        re.MULTILINE,
    )
    assert found is not None
    return tuple(map(int, found.groups()))


def from_path() -> None:
    """Link to the CLI on PATH.

    Raises:
        UnobtainableError: there is none, or it is too old.
    """
    others = [each for each in os.get_exec_path() if Path(each).resolve() != BIN.resolve()]
    found = shutil.which("pulumi", path=os.pathsep.join(others))
    if found is None:
        raise UnobtainableError("no pulumi on PATH")
    there = version(found)
    if there is None or there < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise UnobtainableError(f"{found} is older than {needed} or does not run")
    _link_from(Path(found).resolve().parent)


def from_vendor() -> None:
    """Run the vendor's installer.

    Raises:
        UnobtainableError: the installer cannot be reached or failed.
    """
    from pulumi.automation import PulumiCommand

    # Without a network the installer retries for minutes, and there is another way.
    into = BIN.parent / "pulumi-vendor"
    problem: list[BaseException] = []

    def install() -> None:
        try:
            PulumiCommand.install(root=str(into))
        except Exception as error:  # the installer raises whatever its shell did
            problem.append(error)

    thread = threading.Thread(target=install, daemon=True)
    thread.start()
    thread.join(timeout=180)
    if thread.is_alive() or problem:
        why = problem[0] if problem else "no answer within 180 s"
        raise UnobtainableError(f"the vendor's installer failed: {str(why).splitlines()[0][:200]}")
    _link_from(into / "bin")


def from_go() -> None:
    """Build both programs from Go modules.

    Raises:
        UnobtainableError: there is no Go, or the build failed.
    """
    go = shutil.which("go")
    if go is None:
        raise UnobtainableError("no go on PATH to build it from source (Go 1.26 or later)")
    BIN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BIN.parent) as folder:
        for name, module in MODULES.items():
            print(f"building {name} ...", flush=True)
            pinned = _go_list(go, name, "{{.Version}}", module)
            flags = f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={pinned}"
            built = subprocess.run(
                [go, "install", "-ldflags", flags, "tool"],
                cwd=TOOLS / name,
                env={**os.environ, "GOBIN": folder, "GOFLAGS": "-mod=readonly -buildvcs=false"},
                check=False,
            )
            if built.returncode:
                raise UnobtainableError(f"go install of {name} ended with {built.returncode}")
        host = "pulumi-language-python"
        module = _go_list(go, host, "{{.Dir}}", MODULES[host])
        launcher = Path(folder) / "pulumi-language-python-exec"
        shutil.copyfile(Path(module) / "python" / "cmd" / launcher.name, launcher)
        launcher.chmod(0o755)
        (BIN / "host").mkdir(exist_ok=True)
        for name in (host, launcher.name):
            (Path(folder) / name).replace(BIN / "host" / name)
        launcher.with_name(host).write_text(HOST)
        launcher.with_name(host).chmod(0o755)
        for name in (host, "pulumi"):
            (Path(folder) / name).replace(BIN / name)


def _go_list(go: str, tool: str, form: str, module: str) -> str:
    listed = subprocess.run(
        [go, "list", "-m", "-f", form, module],
        cwd=TOOLS / tool,
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.strip()


def _link_from(folder: Path) -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    for program in folder.glob("pulumi*"):
        link = BIN / program.name
        link.unlink(missing_ok=True)
        link.symlink_to(program)


def main() -> int:
    if ready():
        return 0
    if "--check" in sys.argv[1:]:
        return 1
    reasons = []
    ways: tuple[Callable[[], None], ...] = (from_path, from_vendor, from_go)
    for way in ways:
        try:
            way()
        except (UnobtainableError, OSError, subprocess.SubprocessError) as error:
            reasons.append(str(error))
            print(error, flush=True)
            continue
        if ready():
            return 0
        reasons.append(f"{way.__name__}: the CLI does not run")
    if works():
        print("The older CLI that was built before stays.")
        return 0
    print(
        "error: no Pulumi CLI: " + "; ".join(reasons) + ". Install pulumi (version 3.217 or "
        "later) or Go (1.25 or later), and run the same command again.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
