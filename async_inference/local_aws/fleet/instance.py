"""The instances of an endpoint: what they run, and how they start."""

import http.client
import os
import shutil
import tarfile
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_inference.local_aws.fleet.processes import InstanceProcess, ProcessTemplate
from async_inference.local_aws.services.moto_services import (
    MotoServices,
    ObjectMissingError,
    split_uri,
)

if TYPE_CHECKING:
    from types_boto3_sagemaker.type_defs import AdditionalModelDataSourceTypeDef

PING_EVERY_S = 0.05
DOWNLOADS_AT_ONCE = 4
MOUNT = "/opt/ml"


class StartError(Exception):
    """An instance could not start.

    Args:
        reason: why.
        killed: its process was killed while it started; another attempt may succeed.
    """

    def __init__(self, reason: str, killed: bool = False) -> None:
        super().__init__(reason)
        self.killed = killed


@dataclass(frozen=True)
class FleetPlan:
    """What the instances of an endpoint configuration run, as of its deployment."""

    configuration: str
    variant: str
    instance_type: str
    initial_instances: int
    concurrency: int
    environment: dict[str, str]
    model_data_url: str | None
    model_data_compression: str
    additional_sources: "tuple[AdditionalModelDataSourceTypeDef, ...]"
    output_path: str
    failure_path: str | None
    success_topic: str | None
    error_topic: str | None
    response_in: tuple[str, ...]

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> "FleetPlan":
        """The plan from its JSON in the journal."""
        kept = dict(document)
        for key in ("additional_sources", "response_in"):
            kept[key] = tuple(kept[key])
        return cls(**kept)


@dataclass
class Instance:
    """One machine of a fleet.

    Args:
        active: whether it takes requests, which an update decides.
        busy: how many requests it works on.
    """

    fleet: "Fleet"
    name: str
    asked_s: float
    log: Path
    in_service: bool = False
    active: bool = False
    leaving: bool = False
    process: InstanceProcess | None = None
    busy: int = 0
    wake: threading.Event = field(default_factory=threading.Event)
    connections: deque[http.client.HTTPConnection] = field(default_factory=deque)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.alive

    def ask(self, headers: dict[str, str], body: bytes, timeout_s: float) -> tuple[int, bytes, str]:
        """POST /invocations: status, body and content type of the answer.

        Args:
            timeout_s: real seconds.

        Raises:
            OSError, HTTPException: it did not answer.
        """
        assert self.process is not None
        try:
            connection = self.connections.pop()
        except IndexError:
            connection = http.client.HTTPConnection("127.0.0.1", self.process.port)
        try:
            connection.timeout = max(0.001, timeout_s)
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            connection.request("POST", "/invocations", body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except BaseException:
            connection.close()
            raise
        self.connections.append(connection)
        return response.status, answer, response.getheader("Content-Type") or ""

    def kill(self) -> None:
        """End its process immediately."""
        if self.process is not None:
            self.process.kill()

    def note(self, line: str) -> None:
        """Add a line to the platform's log of this instance (DG async-inference-monitor)."""
        with self.log.with_name(f"{self.name}.data-log").open("a") as log:
            log.write(line + "\n")


@dataclass
class Fleet:
    """The instances that run one configuration."""

    plan: FleetPlan
    desired: int
    instances: list[Instance] = field(default_factory=list)
    failure: str | None = None

    @property
    def staying(self) -> list[Instance]:
        """Those that are not leaving."""
        return [instance for instance in self.instances if not instance.leaving]

    @property
    def serving(self) -> list[Instance]:
        """Those in service."""
        return [instance for instance in self.staying if instance.in_service]


def start(
    instance: Instance, folder: Path, services: MotoServices, processes: ProcessTemplate
) -> InstanceProcess:
    """Start an instance's process on a clean folder, without waiting for its handler.

    Raises:
        StartError: its data could not be downloaded, or it did not start.
    """
    plan = instance.fleet.plan
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _lay_out(plan, folder, services)
    except (ObjectMissingError, tarfile.TarError, OSError) as error:
        raise StartError(f"The model data could not be downloaded: {error}") from error
    except Exception as error:
        # A bug of ours, which an endpoint that stays Creating would hide.
        traceback.print_exc()
        raise StartError(f"The embedded AWS failed, see its log: {error!r}") from error
    instance.log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with instance.log.open("ab") as log:
            return processes.fork(_variables(plan, folder), log)
    except OSError as error:
        raise StartError(f"The container did not start: {error}") from error


def wait_until_loaded(instance: Instance, process: InstanceProcess) -> None:
    """Wait until the handler has loaded.

    Raises:
        StartError: the process ended, or the instance is leaving.
    """
    while process.alive and not instance.leaving:
        if _ping(process.port):
            return
        instance.wake.wait(PING_EVERY_S)
    raise StartError(
        f"The primary container for production variant {instance.fleet.plan.variant} did not pass "
        f"the ping health check. See {instance.log.name}: {_last_line(instance.log)}",
        killed=not process.alive and not process.load_failed,
    )


def _lay_out(plan: FleetPlan, folder: Path, services: MotoServices) -> None:
    model = folder / "model"
    model.mkdir(parents=True)
    downloads: list[Callable[[], None]] = []
    if plan.model_data_url:
        downloads += _downloads(services, plan.model_data_url, plan.model_data_compression, model)
    for source in plan.additional_sources:
        data = source["S3DataSource"]
        into = folder / "additional-model-data-sources" / source["ChannelName"]
        into.mkdir(parents=True)
        downloads += _downloads(services, data["S3Uri"], data["CompressionType"], into)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
        for done in [threads.submit(download) for download in downloads]:
            done.result()


def extract(tar: tarfile.TarFile, into: Path) -> None:
    """Unpack an archive into a folder.

    Raises:
        tarfile.TarError: a member would be written outside that folder.
    """
    if hasattr(tarfile, "data_filter"):
        tar.extractall(into, filter="data")
        return
    # Python 3.11 has that filter from its fourth patch release on; Debian 12 has the second.
    for member in tar.getmembers():
        inside = (into / member.name).resolve().is_relative_to(into.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name} is not a file or folder within the archive")
    tar.extractall(into)  # noqa: S202 - looked at above


def _downloads(
    services: MotoServices, uri: str, compression: str, into: Path
) -> list[Callable[[], None]]:
    """Functions that download what a URI names into a folder, one for each object."""
    bucket, key = split_uri(uri)

    def unpack() -> None:
        with tempfile.NamedTemporaryFile(dir=into.parent, suffix=".tar.gz") as archive:
            services.download(bucket, key, Path(archive.name))
            with tarfile.open(archive.name) as tar:
                extract(tar, into)

    def fetch(found: str) -> None:
        target = into / found.removeprefix(key).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        services.download(bucket, found, target)

    if compression == "Gzip":
        return [unpack]
    return [partial(fetch, found) for found in services.list_objects(bucket, key)]


def _ping(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _variables(plan: FleetPlan, folder: Path) -> dict[str, str]:
    """A container's variables: those that the model declares, and those that Python needs."""
    declared = {
        # In a container it is /opt/ml; here each instance has a folder.
        key: value.replace(MOUNT, str(folder)) if value.startswith(MOUNT) else value
        for key, value in plan.environment.items()
        # It names packages for the container's Python; this Python has others.
        if key != "PYTHONPATH"
    }
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return {"OMP_NUM_THREADS": "1", **inherited, **declared, "SAGEMAKER_BASE_DIR": str(folder)}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it is empty"
