"""The instances' output in CloudWatch Logs: `/aws/sagemaker/Endpoints/<endpoint>`.

Stream `<variant>/<instance>` is the container's output, `<variant>/<instance>/data-log` has lines
that name the request (DG async-inference-monitor). Files under `logs/` survive a restart; events
are made from them when a client reads.
"""

from pathlib import Path

from moto.logs.models import LogGroup, LogsBackend, logs_backends

from async_inference.aws_names import log_group
from async_inference.local_aws.clients import ACCOUNT_ID
from async_inference.local_aws.clock import Clock

SUFFIXES = {".log": "", ".data-log": "/data-log"}


class EndpointLogs:
    """The logs of all endpoints of one embedded AWS.

    Args:
        folder: holds `<region>/<endpoint>/<variant>/<instance>.log` and `.data-log`.
        clock: an event's time is when its line was first seen.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._read_bytes: dict[Path, int] = {}

    def collect(self) -> None:
        """Add the lines written since the last call; call it with moto's lock held."""
        for path in sorted(self._folder.glob("*/*/*/*")):
            start = self._read_bytes.get(path, 0)
            if path.suffix not in SUFFIXES or path.stat().st_size <= start:
                continue
            with path.open("rb") as log:
                log.seek(start)
                # A line that is not complete yet is left for the next time.
                complete, newline, _ = log.read().rpartition(b"\n")
            if not newline:
                continue
            self._read_bytes[path] = start + len(complete) + 1
            self._append(path, complete.decode("utf-8", "replace").split("\n"))

    def _append(self, path: Path, lines: list[str]) -> None:
        region, endpoint, variant, _ = path.relative_to(self._folder).parts
        backend: LogsBackend = logs_backends[ACCOUNT_ID][region]
        name = log_group(endpoint)
        backend.ensure_log_group(name)
        group: LogGroup = backend.groups[name]
        stream = f"{variant}/{path.stem}{SUFFIXES[path.suffix]}"
        if stream not in group.streams:
            group.create_log_stream(stream)
        at_ms = int(self._clock.now_s() * 1000)
        group.put_log_events(stream, [{"timestamp": at_ms, "message": line} for line in lines])
