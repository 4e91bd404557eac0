"""The real Pulumi CLI deploying this program onto an embedded AWS, in its own folder."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from async_inference.local_aws.clients import clients_at, isolated
from async_inference.local_aws.fleet.processes import ProcessTemplate
from async_inference.local_aws.make_up import STATE, environment
from async_inference.local_aws.provider.template import ProviderTemplate
from async_inference.local_aws.server import LocalAws, Options
from async_inference.local_aws.services.errors import AwsError
from async_inference.local_aws.services.moto_services import operation_name
from tests.support import ROOT
from tests.support.forked_python import ForkedPython
from tests.support.image_python import python_with
from tests.support.waiting import eventually

HANDLER = """
VERSION = 1

def model_fn(model_dir): return None
def input_fn(data, content_type): return data
def predict_fn(data, model): return f"{VERSION}: {data}"
def output_fn(prediction, accept): return prediction
"""


INSTALLED = {"pip", *re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.M)}
"""What `pulumi install` would install for the program, and pip, by which Pulumi lists it."""
IMPORTED = (
    "pulumi",
    "components.async_endpoint",
    "async_inference.stack.settings",
    "pip._internal.cli.main",
    "pip._internal.commands.list",
)
"""What takes a program, and Pulumi's list of its packages, longest to start."""
SIGNED_AS = {"monitoring": "cloudwatch"}
NAMED_OTHERWISE = {
    "budgets:CreateBudget": "budgets:ModifyBudget",
    "budgets:DeleteBudget": "budgets:ModifyBudget",
    "budgets:DescribeBudget": "budgets:ViewBudget",
}
"""Operations whose IAM action has another name."""


class Hold:
    """Calls of some names: carried out, and not answered before they are released."""

    def __init__(self, calls: Iterable[str]) -> None:
        self._calls = set(calls)
        self.missing = set(calls)
        self._released = threading.Event()

    def keep(self, call: str) -> None:
        if call in self._calls:
            self.missing.discard(call)
            assert self._released.wait(240)

    def release(self) -> None:
        self._released.set()


class RecordingAws(LocalAws):
    """Remembers the operations of our own services, in order, and the IAM actions of all that name
    theirs (S3 names none); may hold the answers of calls."""

    def __init__(
        self,
        options: Options,
        processes: ProcessTemplate | None = None,
        providers: ProviderTemplate | None = None,
    ) -> None:
        self.operations: list[str] = []
        self.actions: set[str] = set()
        self.refused: dict[str, AwsError] = {}
        """How operations of our own services are refused."""
        self.hold = Hold(())
        super().__init__(options, processes, providers)

    def providers_at_work(self) -> list[psutil.Process]:
        """The providers of every engine that runs now."""
        pid = self._providers.pid
        return psutil.Process(pid).children() if pid else []

    def _dispatch(self, environ: dict[str, Any], body: bytes) -> tuple[str, list, list[bytes]]:
        scope = re.search(r"Credential=([^/]+/){3}([\w-]+)", environ.get("HTTP_AUTHORIZATION", ""))
        service = SIGNED_AS.get(scope[2], scope[2]) if scope else ""
        operation = operation_name(environ, body)
        call = f"{service}:{operation}"
        if service and operation:
            self.actions.add(NAMED_OTHERWISE.get(call, call))
        if service == "s3":
            call = _s3_call(environ)
        answer = super()._dispatch(environ, body)
        self.hold.keep(call)
        return answer

    def _answer(self, service: str, api: Any, operation: str, body: bytes) -> Any:
        self.operations.append(operation)
        if operation in self.refused:
            raise self.refused[operation]
        return super()._answer(service, api, operation, body)


def _s3_call(environ: dict[str, Any]) -> str:
    """The call: `s3:PUT:bucket`, `s3:PUT:object`, or by the setting, `s3:PUT:policy`."""
    setting = environ.get("QUERY_STRING", "").partition("&")[0].partition("=")[0]
    whole = "object" if "/" in environ.get("PATH_INFO", "/").strip("/") else "bucket"
    return f"s3:{environ['REQUEST_METHOD']}:{setting or whole}"


@dataclass(frozen=True)
class Preview:
    """What a preview says: the steps of each resource, by type and name, and its messages."""

    steps: dict[str, list[str]]
    said: str


class Program:
    """A copy of the project's program with a handler that needs no torch, and its stack.

    Args:
        virtualenv: the folder of the Python that runs it.
    """

    def __init__(
        self, folder: Path, aws: RecordingAws, virtualenv: Path, stack: str = "local"
    ) -> None:
        self.folder, self.aws, self.stack = folder, aws, stack
        for name in ("Pulumi.yaml", "__main__.py"):
            shutil.copy(ROOT / name, folder / name)
        own = ROOT / f"Pulumi.{stack}.yaml"
        shutil.copy(own if own.exists() else ROOT / "Pulumi.local.yaml", folder / own.name)
        for name in ("components", "async_inference"):
            if not (folder / name).exists():
                (folder / name).symlink_to(ROOT / name)
        if not (folder / ".venv").exists():
            (folder / ".venv").symlink_to(virtualenv)
        self.write_handler(HANDLER)
        (folder / STATE).mkdir(exist_ok=True)
        self.environment = isolated(environment(aws.url, folder))
        self.pulumi("stack", "select", "--create", stack)

    def write_handler(self, code: str) -> None:
        (self.folder / "inference_code").mkdir(exist_ok=True)
        (self.folder / "inference_code" / "inference.py").write_text(code)

    def configure(self, **values: object) -> None:
        path = self.folder / f"Pulumi.{self.stack}.yaml"
        document = yaml.safe_load(path.read_text())
        document["config"] |= {f"async-inference:{key}": v for key, v in values.items()}
        path.write_text(yaml.safe_dump(document))

    def pulumi(self, *arguments: str, succeeds: bool = True) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self, succeeds: bool = True) -> str:
        return self.pulumi("up", "--yes", "--skip-preview", "-s", self.stack, succeeds=succeeds)

    def destroy(self) -> str:
        arguments = ("destroy", "--yes", "--skip-preview", "--run-program", "-s", self.stack)
        return self.pulumi(*arguments)

    def interrupt(self, *arguments: str, at: Collection[str]) -> None:
        """Run the CLI until the embedded AWS has carried out one call of each of these names
        (`sagemaker:CreateEndpoint`, `s3:PUT:bucket`), and kill it before it gets their answers."""
        self.aws.hold = hold = Hold(at)
        try:
            self._run_and_kill(arguments, hold)
        finally:
            hold.release()

    def _run_and_kill(self, arguments: Sequence[str], hold: Hold) -> None:
        log = self.folder / "interrupted.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                ["pulumi", *arguments, "--yes", "--skip-preview", "--parallel", "32"],
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=said,
            )
        eventually(
            lambda: not hold.missing or process.poll() is not None,
            f"{sorted(hold.missing)}, or an end",
            120,
        )
        assert process.poll() is None, (hold.missing, log.read_text())
        cli = psutil.Process(process.pid)
        started = cli.children(recursive=True)

        def stopped() -> bool:
            """Every thread: one may still be in the middle of a write when the signal is sent."""
            threads = Path(f"/proc/{process.pid}/task").glob("*/stat")
            try:
                return all(stat.read_text().rpartition(") ")[2].startswith("T") for stat in threads)
            except (FileNotFoundError, ProcessLookupError):
                return False  # one ended while they were read

        def stopped_between_two_states() -> bool:
            cli.suspend()
            eventually(stopped, "every thread stopped", 30)
            try:
                for state in self.folder.rglob(f"stacks/**/{self.stack}.json"):
                    json.loads(state.read_text())
            except ValueError:
                cli.resume()
                return False
            return True

        # The file backend does not replace the state at once: half of it would be Pulumi's loss.
        eventually(stopped_between_two_states, "a whole state", 30)
        process.kill()
        process.wait(timeout=60)
        # Plugins have their own groups, and may go on asking for what they waited for.
        for left in started:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(started, timeout=60)
        eventually(lambda: not self.aws.providers_at_work(), "no provider at work", 30)

    def preview(self, *more: str) -> Preview:
        done = subprocess.run(
            ["pulumi", "preview", "--json", "-s", self.stack, *more],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        previewed = json.loads(done.stdout)
        steps: dict[str, list[str]] = {}
        for step in previewed["steps"]:
            kind, name = step["urn"].split("::")[-2:]
            steps.setdefault(f"{kind.rpartition('$')[2].rpartition(':')[2]} {name}", []).append(
                step["op"]
            )
        messages = [each["message"] for each in previewed["diagnostics"]]
        return Preview(steps, "".join(messages))

    def state(self) -> dict[str, Any]:
        """Pulumi's state: `resources`, and `pending_operations` of an interrupted command."""
        return json.loads(self.pulumi("stack", "export", "-s", self.stack))["deployment"]

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json", "-s", self.stack))

    def client(self, service: str) -> Any:
        return clients_at(self.aws.url)(service)  # ty: ignore[no-matching-overload] any of them

    def endpoint(self) -> dict[str, Any]:
        name = f"async-sdxl-{self.stack}"
        return self.client("sagemaker").describe_endpoint(EndpointName=name)

    def model_image(self) -> str:
        """The image of the model that the endpoint runs."""
        sagemaker = self.client("sagemaker")
        configuration = sagemaker.describe_endpoint_config(
            EndpointConfigName=self.endpoint()["EndpointConfigName"]
        )
        model = configuration["ProductionVariants"][0]["ModelName"]
        return sagemaker.describe_model(ModelName=model)["PrimaryContainer"]["Image"]


def changes(preview: Preview) -> dict[str, list[str]]:
    unchanged = {"same", "refresh"}
    return {
        name: [op for op in ops if op not in unchanged]
        for name, ops in preview.steps.items()
        if not unchanged.issuperset(ops)
    }


def submit(program, text: str) -> str:
    """Where the answer to a request will be."""
    accepted = program.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=program.endpoint()["EndpointName"],
        Body=text.encode(),
        ContentType="application/json",
    )
    return accepted["OutputLocation"]


def answered(program, location: str) -> str:
    """The answer at a place, once it is there."""
    s3 = program.client("s3")
    bucket, _, key = location.removeprefix("s3://").partition("/")

    def answer() -> str | None:
        try:
            return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        except s3.exceptions.NoSuchKey:
            return None

    return eventually(answer, "an answer", 60)


def ask(program, text: str) -> str:
    return answered(program, submit(program, text))


@pytest.fixture(scope="session")
def cli() -> None:
    """The CLI, installed where it is missing: these tests are never skipped for want of it."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "pulumi_cli.py")], check=True)


@pytest.fixture(scope="session")
def providers() -> Iterator[ProviderTemplate]:
    """What Pulumi's providers are forks of."""
    template = ProviderTemplate()
    yield template
    template.close()


@pytest.fixture(scope="session")
def virtualenv(tmp_path_factory) -> Iterator[Path]:
    """A virtual environment with what `pulumi install` installs, and nothing else."""
    folder = tmp_path_factory.mktemp("program") / ".venv"
    template = ForkedPython(python_with(folder, INSTALLED), IMPORTED, ROOT)
    yield folder
    template.close()


@pytest.fixture
def aws(tmp_path, processes, providers) -> Iterator[RecordingAws]:
    options = Options(folder=tmp_path / "aws", minute_s=1.0)
    aws = RecordingAws(options, processes, providers)
    aws.start()
    yield aws
    aws.stop()


@pytest.fixture
def program(cli, tmp_path, aws, virtualenv) -> Program:
    folder = tmp_path / "program"
    folder.mkdir()
    return Program(folder, aws, virtualenv)


ONE_PIXEL = """
import base64

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)

def model_fn(model_dir): return None
def input_fn(data, content_type): return data
def predict_fn(data, model): return base64.b64decode(PICTURE)
def output_fn(prediction, accept): return prediction
"""
"""A handler that needs no torch and answers with a picture of one pixel."""


def copied(folder: Path) -> Path:
    """What git has of this tree, in its own repository with branch main."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "inference_code" / "inference.py").write_text(ONE_PIXEL)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / ".local").mkdir()
    (folder / ".local" / "bin").symlink_to(ROOT / ".local" / "bin")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "as it is"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder
