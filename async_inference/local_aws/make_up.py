"""`make up`: deploy onto the embedded AWS, wake the endpoint from zero, get an image.

The real Pulumi CLI deploys, with state, credentials and plugins of this work tree only.
"""

import fcntl
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx
from botocore.exceptions import EndpointConnectionError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from async_inference.aws_names import split_s3_uri
from async_inference.local_aws import clients, daemon, page
from async_inference.local_aws.clients import clients_at
from async_inference.local_aws.daemon import AWS_FOLDER, LOCAL, Daemon
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from types_boto3_sagemaker.type_defs import ProductionVariantSummaryTypeDef

    from async_inference.local_aws.services.autoscaling import Activity

T = TypeVar("T")

STATE = "pulumi-state"
PULUMI_STATE = LOCAL / STATE
IMAGES = LOCAL / "images"
STACK = "local"
ROOT = Path(__file__).resolve().parents[2]
PLUGIN_FOLDER = Path(__file__).resolve().parent / "provider" / "bin"
PLUGIN = "pulumi-resource-aws"
PATIENCE_S = 300.0
"""Real seconds until a stage counts as failed."""


@dataclass
class Stages:
    """How long each part took, in real seconds, in order."""

    took_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        started_s = time.monotonic()
        yield
        self.took_s[name] = time.monotonic() - started_s

    def table(self) -> Table:
        table = Table("part", "seconds", title="Where the time went", title_justify="left")
        table.columns[1].justify = "right"
        for name, seconds in self.took_s.items():
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("in total", f"{sum(self.took_s.values()):.1f}", style="bold")
        return table


def environment(url: str, folder: Path) -> dict[str, str]:
    """The variables with which `pulumi` and AWS clients use an embedded AWS.

    Args:
        url: where it listens.
        folder: where Pulumi keeps state and plugins.
    """
    tools = [ROOT / LOCAL / "bin", PLUGIN_FOLDER, Path(sys.executable).parent]
    return {
        "PATH": os.pathsep.join([*map(str, tools), os.environ.get("PATH", "")]),
        "PULUMI_BACKEND_URL": f"file://{folder.resolve() / STATE}",
        "PULUMI_HOME": str(folder.resolve() / "pulumi-home"),
        # The local stack has no secrets, but the file backend needs a passphrase.
        "PULUMI_CONFIG_PASSPHRASE": "",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        **clients.variables(url),
    }


def installed_plugin(folder: Path) -> dict[str, str]:
    """Install the local provider plugin where Pulumi looks first.

    For a plugin on PATH Pulumi prints a warning at each use.

    Args:
        folder: where Pulumi keeps state and plugins.

    Returns:
        The variables that make Pulumi use it.
    """
    version = importlib.metadata.version("pulumi-aws")
    link = folder.resolve() / "pulumi-home" / "plugins" / f"resource-aws-v{version}" / PLUGIN
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(PLUGIN_FOLDER / PLUGIN)
    return {"PULUMI_IGNORE_AMBIENT_PLUGINS": "true"}


def up(console: Console, *, prompt: str, port: int, minute_s: float) -> Path:
    """Deploy, wake the endpoint, get an image, and scale in to zero again.

    Returns:
        The image's path.

    Raises:
        InvalidInputError: something that a person can fix.
    """
    with _alone(console):
        return _up_alone(console, prompt, port, minute_s)


@contextmanager
def _alone(console: Console) -> Generator[None]:
    """One `make up` or `make down` at a time: the state has one writer."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "lock").open("a") as lock:  # released when the process ends, in whatever way
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with console.status("waiting: another make up or make down is at work in this folder"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _up_alone(console: Console, prompt: str, port: int, minute_s: float) -> Path:
    ran_before = daemon.running(AWS_FOLDER) is not None
    try:
        return _up(console, prompt, port, minute_s)
    except (EndpointConnectionError, httpx.TransportError) as error:
        raise InvalidInputError(
            [
                f"the embedded AWS stopped answering ({error}); see {AWS_FOLDER / 'server.log'}, "
                "and run make up again"
            ]
        ) from error
    except KeyboardInterrupt:
        if not ran_before and daemon.stop(AWS_FOLDER):
            console.print("Interrupted: stopped the embedded AWS. make up continues from here.")
        raise


def _up(console: Console, prompt: str, port: int, minute_s: float) -> Path:
    stages = Stages()
    with stages.stage("start the embedded AWS"):
        aws = _start(console, port, minute_s)
    variables = environment(aws.url, LOCAL) | installed_plugin(LOCAL)
    _write_env_file(variables)
    with stages.stage("pulumi up"):
        _deploy(console, aws, variables)
    outputs = json.loads(_pulumi(variables, "stack", "output", "--json", "--stack", STACK))
    name = outputs["endpoint_name"]
    watch = Watch(console, aws, name)
    with stages.stage("idle: scale in to zero"):
        watch.until("the endpoint has no instances", lambda: watch.instances() == 0)
    console.print(f'Submitting "{prompt}" to {name}, which has no instances.')
    runtime = clients_at(aws.url)("sagemaker-runtime")
    accepted = runtime.invoke_endpoint_async(
        EndpointName=name,
        Body=json.dumps({"prompt": prompt, "steps": 20, "seed": 7}),
        ContentType="application/json",
        Accept="image/png",
    )
    with stages.stage("detect the backlog"):
        watch.until("the wake-up policy asks for an instance", lambda: watch.desired() > 0)
    with stages.stage("start an instance"):
        watch.until("an instance is in service", lambda: watch.instances() > 0)
    with stages.stage("make the image"):
        image = watch.until(
            "the image is on S3",
            lambda: _result(aws, accepted["OutputLocation"], accepted["FailureLocation"]),
        )
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{accepted['InferenceId']}.png"
    path.write_bytes(image)
    console.print(f"The image: {path}", highlight=False)
    with stages.stage("scale in to zero again"):
        watch.until("the endpoint has no instances", lambda: watch.instances() == 0)
    _finish(console, stages, path, aws)
    return path


def down(console: Console) -> None:
    """Destroy the stack, stop the embedded AWS, and remove what they kept."""
    with _alone(console):
        _down(console)


def _down(console: Console) -> None:
    aws = daemon.running(AWS_FOLDER)
    if aws is None and (AWS_FOLDER / "state.sqlite3").exists() and PULUMI_STATE.exists():
        aws = daemon.start(AWS_FOLDER, port=daemon.PORT, minute_s=1.0, setup_s=0.0)
    whole = not _cut_short() and not _interrupted()
    if aws is not None and whole and _checkpoint().get("resources"):
        # The hooks that guard the live endpoint need the program.
        arguments = ["destroy", "--yes", "--skip-preview", "--run-program", "--stack", STACK]
        _shown(environment(aws.url, LOCAL) | installed_plugin(LOCAL), *arguments)
    stopped = daemon.stop(AWS_FOLDER)
    for folder in (AWS_FOLDER, PULUMI_STATE):
        shutil.rmtree(folder, ignore_errors=True)
    (LOCAL / "env").unlink(missing_ok=True)
    console.print("Stopped the embedded AWS." if stopped else "Nothing was running.")


class Watch:
    """Prints what happens to an endpoint while waiting for a condition."""

    def __init__(self, console: Console, aws: Daemon, endpoint: str) -> None:
        self._console = console
        self._aws = aws
        self._endpoint = endpoint
        self._sagemaker = clients_at(aws.url)("sagemaker")
        self._instances = -1
        self._told: set[str] = set()
        self._http = httpx.Client(base_url=aws.url, timeout=10, trust_env=False)
        for activity in self._activities():
            self._told.add(activity["ActivityId"])

    def instances(self) -> int:
        """Instances in service."""
        return self._variant()["CurrentInstanceCount"]

    def desired(self) -> int:
        """Desired instances."""
        return self._variant()["DesiredInstanceCount"]

    def until(self, what: str, condition: Callable[[], T | None]) -> T:
        """Wait until `condition` returns something true, which is returned; print what happens.

        Raises:
            InvalidInputError: it took longer than PATIENCE_S.
        """
        started_s = time.monotonic()
        with self._console.status("") as spinner:
            while True:
                self._tell()
                found = condition()
                if found:
                    return found
                waited_s = time.monotonic() - started_s
                if waited_s > PATIENCE_S:
                    raise InvalidInputError(
                        [
                            f"gave up after {PATIENCE_S:.0f} s of waiting until {what}; see "
                            f"{AWS_FOLDER / 'logs'}, and start over with make down up"
                        ]
                    )
                minutes = waited_s / self._aws.minute_s
                spinner.update(
                    f"waiting until {what} ({waited_s:.0f} s, {minutes:.0f} simulated minutes)"
                )
                time.sleep(0.1)

    def _variant(self) -> "ProductionVariantSummaryTypeDef":
        found = self._sagemaker.describe_endpoint(EndpointName=self._endpoint)
        return found["ProductionVariants"][0]

    def _activities(self) -> "list[Activity]":
        regions = self._http.get("/_local/status").json()["regions"].values()
        found = [activity for region in regions for activity in region["activities"]]
        return sorted(found, key=lambda activity: activity["StartTime"])

    def _tell(self) -> None:
        for activity in self._activities():
            if activity["ActivityId"] in self._told:
                continue
            self._told.add(activity["ActivityId"])
            self._console.print(f"  {event(activity, self._instances)}", highlight=False)
        count = self.instances()
        if count != self._instances:
            if self._instances >= 0:
                self._console.print(f"  instances in service: {self._instances} -> {count}")
            self._instances = count


def event(activity: "Activity", in_service: int) -> str:
    """A scaling activity in one line; `local status` has its full text.

    Args:
        activity: as DescribeScalingActivities has it.
        in_service: instances in service before it.
    """
    count = re.search(r"desired instance count to (\d+)", activity["Description"])
    if count is None:
        return activity["Description"]
    direction = "out" if int(count[1]) > in_service else "in"
    _, _, policy = activity["Cause"].partition("triggered policy ")
    return f"scale-{direction} to {count[1]}: {policy or activity['Cause']}"


def _start(console: Console, port: int, minute_s: float) -> Daemon:
    if _cut_short():
        console.print("Pulumi was killed while it wrote its state: starting over, empty.")
        daemon.stop(AWS_FOLDER)
        for folder in (AWS_FOLDER, PULUMI_STATE):
            shutil.rmtree(folder, ignore_errors=True)
    known = daemon.running(AWS_FOLDER)
    aws = daemon.start(AWS_FOLDER, port=port, minute_s=minute_s, setup_s=0.0)
    console.print(
        f"The embedded AWS {'runs' if known else 'started'} at {aws.url}.\n"
        f"One simulated minute takes {aws.minute_s:g} s. Watch it live: {aws.url}{page.PATH}"
    )
    return aws


def _interrupted() -> bool:
    """Whether a deployment was interrupted: it left a lock, or a pending operation."""
    if any((PULUMI_STATE / ".pulumi" / "locks").rglob("*.json")):
        return True
    return bool(_checkpoint().get("pending_operations"))


def _cut_short() -> bool:
    """Whether the state file is truncated: the CLI does not replace it atomically."""
    try:
        _checkpoint()
    except ValueError:
        return True
    return False


def _checkpoint() -> dict[str, object]:
    """Pulumi's state of the stack, empty if there is none."""
    for state in (PULUMI_STATE / ".pulumi" / "stacks").rglob(f"{STACK}.json"):
        return json.loads(state.read_text()).get("checkpoint", {}).get("latest") or {}
    return {}


def _deploy(console: Console, aws: Daemon, variables: dict[str, str]) -> None:
    PULUMI_STATE.mkdir(parents=True, exist_ok=True)
    _pulumi(variables, "stack", "select", "--create", STACK)
    if _interrupted():
        console.print("The last deployment was interrupted: continuing from there.")
        _pulumi(variables, "cancel", "--yes", STACK)
        arguments = ["refresh", "--yes", "--skip-preview", "--run-program", "--stack", STACK]
        _pulumi(variables, *arguments, "--clear-pending-creates")
    # If .local/aws was lost, Pulumi's state names resources that are gone: refresh it first.
    lost = not clients_at(aws.url)("sagemaker").list_endpoints()["Endpoints"]
    arguments = ["up", "--yes", "--skip-preview", "--suppress-outputs", "--stack", STACK]
    if _shown(variables, *arguments, *(["--refresh"] if lost else [])):
        raise InvalidInputError(
            ["pulumi up failed, see above; when you have fixed it, run make up again"]
        )


def _shown(variables: dict[str, str], *arguments: str) -> int:
    """Run the CLI with its own display; returns its exit code."""
    process = subprocess.Popen(["pulumi", *arguments], env=_merged(variables))
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The CLI got the signal too, and cleans up locks, language host and plugins.
        process.wait(timeout=PATIENCE_S)
        raise


def _pulumi(variables: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        ["pulumi", *arguments, "--non-interactive"],
        env=_merged(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InvalidInputError([f"pulumi {' '.join(arguments)}: {done.stderr.strip()}"])
    return done.stdout


def _merged(variables: dict[str, str]) -> dict[str, str]:
    # subprocess looks programs up in this process's PATH.
    os.environ["PATH"] = variables["PATH"]
    return clients.isolated(variables)


def _result(aws: Daemon, output: str, failure: str) -> bytes | None:
    s3 = clients_at(aws.url)("s3")
    for location in (output, failure):
        bucket, key = split_s3_uri(location)
        try:
            body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            continue
        if location == failure:
            raise InvalidInputError([f"the inference failed: {body.decode(errors='replace')}"])
        return body
    return None


def _write_env_file(variables: dict[str, str]) -> None:
    lines = [
        "# No variable of another AWS environment reaches the local stack.",
        "for name in $(env | sed -n 's/^\\(AWS_[A-Za-z0-9_]*\\)=.*/\\1/p')",
        'do unset "$name"; done',
    ]
    lines += [
        f"export {key}={shlex.quote(value)}" for key, value in variables.items() if key != "PATH"
    ]
    path = variables["PATH"].removesuffix(os.environ.get("PATH", ""))
    lines.append(f'export PATH={shlex.quote(path)}"$PATH"')
    LOCAL.mkdir(exist_ok=True)
    (LOCAL / "env").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _finish(console: Console, stages: Stages, path: Path, aws: Daemon) -> None:
    console.print(stages.table())
    console.print(
        'The model is tiny: it draws digits, "zero" to "nine". The deployment is real: an\n'
        "alarm scaled the endpoint out from 0 instances; it answered and scaled in to 0."
    )
    table = Table("next", "command", box=None, padding=(0, 2, 0, 0))
    for what, command in (
        ("see the image", f"open {path}"),
        ("watch live charts", f"open {aws.url}{page.PATH}"),
        ("watch as text", "async-inference local status --watch"),
        ("use pulumi yourself", ". .local/env && pulumi preview --stack local"),
        ("destroy it all", "make down"),
    ):
        table.add_row(what, Text(command, style="bold"))
    console.print(table)
