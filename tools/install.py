"""Installs, side by side, what the local stack needs beyond the locked base packages.

- the Pulumi CLI (tools/pulumi_cli.py)
- what inference_code imports (locks/serving.txt), into the same virtual environment

With the argument `clients`, what the test tier of that name needs instead:

- clients in Python (locks/clients.txt), into a separate virtual environment
- the AWS SDK for JavaScript (tests/local_aws/clients/javascript), where npm is
- a browser, where this is Debian's root user

With the argument `audit`, the linters and scanners of that tier (locks/audit.txt), into a
separate virtual environment.

Without npm or a browser, the tests that need it are skipped, and say so.

Does nothing when both are there already; on failure nothing half done is left behind as done.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[1]
SERVING_LOCK = ROOT / "locks" / "serving.txt"
SERVING_STAMP = ROOT / ".venv" / ".serving"
AUDIT = ROOT / ".local" / "audit"
AUDIT_LOCK = ROOT / "locks" / "audit.txt"
AUDIT_STAMP = AUDIT / ".installed"
CLIENTS = ROOT / ".local" / "clients"
CLIENTS_LOCK = ROOT / "locks" / "clients.txt"
CLIENTS_STAMP = CLIENTS / ".python"
JAVASCRIPT = ROOT / "tests" / "local_aws" / "clients" / "javascript"
JAVASCRIPT_LOCK = JAVASCRIPT / "package-lock.json"
JAVASCRIPT_STAMP = CLIENTS / ".javascript"
LOGS = ROOT / ".local" / "logs"
GPU_ONLY = re.compile(r"^(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


@dataclass(frozen=True)
class Step:
    """One thing to install: its name, what it brings, the work, whether all fails without it."""

    name: str
    what: str
    work: Callable[[Path], None]
    needed: bool = True


class StepFailedError(Exception):
    """A step's command failed; its log says why."""


def logged(command: list[str | Path], log: Path, **environment: str) -> None:
    """Run a command with its output in a log.

    Raises:
        StepFailedError: the command ended with another code than 0.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env={**os.environ, **environment}
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        raise StepFailedError(f"{Path(command[0]).name} ended with code {code}")


def without_gpu_packages(lock: str) -> str:
    """A lock's text without torch and what only its CUDA build needs."""
    kept, keep = [], True
    for line in lock.splitlines():
        if line and not line[0].isspace():
            keep = not GPU_ONLY.match(line)
        if keep:
            kept.append(line)
    return "\n".join(kept) + "\n"


def digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def installed(stamp: Path, lock: Path) -> bool:
    """Whether what the lock asks for is what was installed last."""
    return stamp.exists() and stamp.read_text() == digest(lock)


def install_serving(log: Path) -> None:
    """Install the handler's packages; torch's CPU build (0.2 GB) where it can be reached."""
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    lock = SERVING_LOCK.read_text()
    torch = re.search(r"^torch==([\w.]+)", lock, re.MULTILINE)
    if torch and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        # PyPI's build for this platform is the CUDA one, 5.2 GB that a machine without a GPU
        # never uses; the CPU build has its own index, which uv knows by name.
        try:
            logged(
                [*uv, "--torch-backend", "cpu", "--no-deps", f"torch=={torch[1]}"],
                log,
                UV_HTTP_TIMEOUT="10",
                UV_HTTP_RETRIES="1",
            )
            lock = without_gpu_packages(lock)
        except StepFailedError:
            pass
    wanted = log.with_suffix(".txt")
    wanted.write_text(lock)
    # Every requirement is listed in the lock, so nothing has to be resolved.
    logged([*uv, "--require-hashes", "--no-deps", "-r", wanted], log)
    SERVING_STAMP.write_text(digest(SERVING_LOCK))


def install_pulumi_cli(log: Path) -> None:
    """Install the Pulumi CLI by the first way that works."""
    logged([sys.executable, ROOT / "tools" / "pulumi_cli.py"], log)


def install_apart(folder: Path, lock: Path, log: Path) -> None:
    """Install a lock's packages into a separate virtual environment."""
    uv = [sys.executable, "-m", "uv"]
    logged([*uv, "venv", "--clear", "--python", sys.executable, folder], log)
    pip = [*uv, "pip", "install", "--python", folder / "bin" / "python"]
    logged([*pip, "--require-hashes", "--no-deps", "-r", lock], log)


def install_clients(log: Path) -> None:
    """Install the AWS CLI and the SageMaker SDK apart from this project's own packages."""
    install_apart(CLIENTS / "python", CLIENTS_LOCK, log)
    CLIENTS_STAMP.write_text(digest(CLIENTS_LOCK))


def install_audit(log: Path) -> None:
    """Install cfn-lint, checkov and parliament, whose pins fight with this project's."""
    install_apart(AUDIT, AUDIT_LOCK, log)
    AUDIT_STAMP.write_text(digest(AUDIT_LOCK))


def install_javascript(log: Path) -> None:
    """Install what the client in JavaScript imports."""
    folder = CLIENTS / "javascript"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(JAVASCRIPT / name, folder)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund"]
    logged(["npm", "ci", *quiet, "--prefix", folder], log)
    JAVASCRIPT_STAMP.write_text(digest(JAVASCRIPT_LOCK))


def install_browser(log: Path) -> None:
    """Install Debian's Chromium with the driver that fits it."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    logged(["apt-get", "update"], log, **quiet)
    packages = ["chromium", "chromium-driver", "fonts-dejavu-core"]
    logged(["apt-get", "install", "--yes", "--no-install-recommends", *packages], log, **quiet)


def missing_for_clients() -> list[Step]:
    """The steps for the test tier `clients` that are not done yet."""
    steps = []
    if not installed(CLIENTS_STAMP, CLIENTS_LOCK):
        what = "AWS CLI, SageMaker Python SDK: 0.4 GB on disk"
        steps.append(Step("Python clients", what, install_clients))
    if not installed(JAVASCRIPT_STAMP, JAVASCRIPT_LOCK) and shutil.which("npm"):
        what = "AWS SDK for JavaScript: 23 MB on disk"
        steps.append(Step("JavaScript clients", what, install_javascript))
    if not shutil.which("chromedriver") and shutil.which("apt-get") and os.geteuid() == 0:
        what = "Debian's chromium and chromium-driver, 0.4 GB on disk"
        steps.append(Step("browser", what, install_browser, needed=False))
    return steps


def missing_for_audit() -> list[Step]:
    """The step for the test tier `audit`, unless it is done."""
    if installed(AUDIT_STAMP, AUDIT_LOCK):
        return []
    return [Step("linters", "cfn-lint, checkov, parliament: 0.3 GB on disk", install_audit)]


def missing() -> list[Step]:
    """The steps for the local stack that are not done yet."""
    steps = []
    # `pulumi install` upgrades setuptools; TorchServe's toolkit imports what is gone from it.
    if not installed(SERVING_STAMP, SERVING_LOCK) or find_spec("pkg_resources") is None:
        what = "torch, diffusers, transformers: 0.5 GB with torch's CPU build, else 5.2 GB on disk"
        steps.append(Step("packages", what, install_serving))
    check = [sys.executable, str(ROOT / "tools" / "pulumi_cli.py"), "--check"]
    if subprocess.run(check, cwd=ROOT, capture_output=True, check=False).returncode:
        what = "installed, or built from Go modules: 2 to 4 minutes on two cores"
        steps.append(Step("Pulumi CLI", what, install_pulumi_cli))
    return steps


def main() -> int:
    asked = {"clients": missing_for_clients, "audit": missing_for_audit}
    steps = asked.get(sys.argv[1] if sys.argv[1:] else "", missing)()
    if not steps:
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False)
    for step in steps:
        console.print(f"Installing {step.name}: {step.what}")
    failures: dict[str, str] = {}

    def run(step: Step, log: Path) -> None:
        try:
            step.work(log)
        except (StepFailedError, OSError) as error:
            failures[step.name] = str(error)

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        running: dict[threading.Thread, tuple[Step, TaskID]] = {}
        for step in steps:
            log = LOGS / f"install-{step.name.replace(' ', '-').lower()}.log"
            log.unlink(missing_ok=True)
            thread = threading.Thread(target=run, args=(step, log), daemon=True)
            running[thread] = (step, progress.add_task(step.name, total=1))
            thread.start()
        while running:
            for thread in [thread for thread in running if not thread.is_alive()]:
                step, task = running.pop(thread)
                progress.update(task, completed=1)
                state = "failed" if step.name in failures else "done"
                progress.console.print(f"{step.name}: {state}")
            time.sleep(0.1)
    for name, reason in failures.items():
        log = LOGS / f"install-{name.replace(' ', '-').lower()}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        console.print(
            f"{tail}\nerror: {name}: {reason}; the whole log: {log.relative_to(ROOT)}", markup=False
        )
    return 1 if any(step.needed and step.name in failures for step in steps) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
