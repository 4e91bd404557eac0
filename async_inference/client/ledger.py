"""The ledger of a batch's requests and results: an append-only file that survives a kill.

`ledger.jsonl` has a JSON object per line; a line without a newline does not count. The first line
is the header: `ledger` is the format's version, `batch` the prefix of all ids, `endpoint` the
endpoint and `aws` its place (`local` or a region). Each other line has `event`, `id` and `at`
(seconds since the epoch), and by event:

| event | meaning | more fields |
|---|---|---|
| asked | the batch has this request | number, label, request; `instead_of`: id of a failed one |
| sending | from now on it may be in the queue | |
| accepted | it is in the queue | output, failure: `s3://` URIs |
| collected | its complete result is on disk | file, content_type, bytes, sha256 |
| failed | it has ended without a result | kind: the error's type; message |
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import mimetypes
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from async_inference.client.protocol import Accepted, Request, Result, derived_id

FILE = "ledger.jsonl"
VERSION = 1


class LedgerError(Exception):
    """A ledger that cannot be used, and why."""


@dataclass(frozen=True)
class Item:
    """One request of a batch.

    Args:
        label: its name for people, such as its prompt.
        request: what is sent.
        key: distinguishes equal requests.
    """

    label: str
    request: Request
    key: str = "0"


@dataclass
class Entry:
    """The present state of one request.

    Args:
        inference_id: its id.
        number: its position in the batch, from 1.
        item: the request.
        sending: whether it may be in the queue.
        accepted: its locations, once it is in the queue.
        file: the result's file name, once it is on disk.
        result: the result, once it is on disk.
        failure: kind and message, if it has failed.
    """

    inference_id: str
    number: int
    item: Item
    sending: bool = False
    accepted: Accepted | None = None
    file: str | None = None
    result: Result | None = None
    failure: tuple[str, str] | None = None

    @property
    def ended(self) -> bool:
        return self.file is not None or self.failure is not None

    @property
    def stem(self) -> str:
        """The name of its result's file without the extension, which depends on the result."""
        return f"{self.number:04d}-{self.inference_id[-8:]}"


class Ledger:
    """An open ledger, locked against other processes.

    Args:
        folder: the folder of the ledger and the results; created if missing.
        endpoint: the endpoint's name; None takes the ledger's.
        aws: the endpoint's place, `local` or a region; None takes the ledger's.
        now_s: the wall clock.
        new_batch: makes the prefix of a new ledger's ids, 8 characters.

    Raises:
        LedgerError: it is in use, belongs to another endpoint, is damaged, or is to be resumed and
            does not exist.
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str | None,
        aws: str | None,
        *,
        now_s: Callable[[], float],
        new_batch: Callable[[], str],
    ) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.entries: dict[str, Entry] = {}
        self._now_s = now_s
        if endpoint is None and not self.path.is_file():
            raise LedgerError(f"{self.path}: does not exist; name the folder of a batch")
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header: dict[str, Any] | None = self._read()
            if header is None:
                if endpoint is None or aws is None:
                    raise LedgerError(f"{self.path}: is empty; start its batch again")
                header = {
                    "ledger": VERSION,
                    "batch": new_batch(),
                    "endpoint": endpoint,
                    "aws": aws,
                }
                self._append([header])
                self.sync()
        except BlockingIOError as error:
            self._file.close()
            raise LedgerError(f"{self.path}: another process is working on this batch") from error
        except BaseException:
            self._file.close()
            raise
        self.batch: str = header["batch"]
        self.endpoint: str = header["endpoint"]
        self.aws: str = header["aws"]
        for name, given, own in (("endpoint", endpoint, self.endpoint), ("AWS", aws, self.aws)):
            if given not in (None, own):
                self._file.close()
                raise LedgerError(
                    f"{self.path}: belongs to {name} {own}, not {given}; name another folder"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def ask(self, items: Iterable[Item], *, failed_too: bool = False) -> list[str]:
        """Add requests to the batch, except those that it has already.

        Args:
            items: the requests; equal ones with the same key are one request.
            failed_too: whether to add failed requests again.

        Returns:
            The id of each item, in the same order.
        """
        ids, lines = [], []
        known = {self._identity(entry.item): entry for entry in self.entries.values()}
        last = max((entry.number for entry in self.entries.values()), default=0)
        for item in items:
            entry = known.get(self._identity(item))
            again = failed_too and entry is not None and entry.failure is not None
            if entry is None or again:
                last += entry is None
                line = self._asked(item, entry, entry.number if entry else last)
                lines.append(line)
                self._apply(line)
                entry = known[self._identity(item)] = self.entries[line["id"]]
            ids.append(entry.inference_id)
        self._append(lines)
        self.sync()
        return ids

    def ask_again(self) -> None:
        """Add all failed requests again."""
        failed = [entry.item for entry in self.entries.values() if entry.failure is not None]
        self.ask(failed, failed_too=True)

    def sending(self, inference_id: str) -> None:
        """Record that the request may be in the queue from now on."""
        self._record("sending", inference_id)

    def accepted(self, accepted: Accepted) -> None:
        """Record that the request is in the queue."""
        self._record(
            "accepted",
            accepted.inference_id,
            output=accepted.output_location,
            failure=accepted.failure_location,
        )

    def collected(self, inference_id: str, result: Result) -> None:
        """Record that the result is on disk under its final name."""
        assert result.path is not None
        self._record(
            "collected",
            inference_id,
            file=result.path.name,
            content_type=result.content_type,
            bytes=result.size_bytes,
            sha256=result.sha256,
        )

    def failed(self, inference_id: str, error: Exception) -> None:
        """Record that the request has ended without a result."""
        self._record("failed", inference_id, kind=type(error).__name__, message=str(error))

    def sync(self) -> None:
        """Flush the ledger and the names of the results to disk.

        A killed process loses nothing without it. A machine that loses power loses what came after
        the last flush, and fetches it again, with the same ids from the same locations.
        """
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        os.fsync(self._file.fileno())

    def recover(self) -> None:
        """Record complete results that a kill left unrecorded, and delete incomplete ones."""
        for half in self.folder.glob("*.partial"):
            half.unlink()
        present = {path.stem: path for path in self.folder.iterdir() if path.is_file()}
        for entry in self.entries.values():
            path = present.get(entry.stem)
            if not entry.ended and path is not None:
                content = path.read_bytes()
                media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
                digest = hashlib.sha256(content).hexdigest()
                result = Result(media_type, len(content), digest, path=path)
                self.collected(entry.inference_id, result)

    # The file

    def _read(self) -> dict[str, Any] | None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # A line that a kill cut short does not count.
            self._file.truncate(whole)
        header = None
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                document = json.loads(line)
                if number == 1:
                    if document["ledger"] != VERSION:
                        raise LedgerError(f"{self.path}: has format {document['ledger']}")
                    header = document
                else:
                    self._apply(document)
            except (ValueError, KeyError, TypeError) as error:
                raise LedgerError(f"{self.path}:{number}: is not a line of a ledger") from error
        for entry in self.entries.values():
            if entry.file is not None and not (self.folder / entry.file).is_file():
                # Somebody removed the file, or a power failure lost its name: fetch it again.
                entry.file = entry.result = None
        return header

    def _apply(self, line: dict[str, Any]) -> None:
        if line["event"] == "asked":
            self.entries.pop(line.get("instead_of"), None)
            item = Item(line["label"], _request(line["request"]), line["key"])
            self.entries[line["id"]] = Entry(line["id"], line["number"], item)
            return
        entry = self.entries[line["id"]]
        if line["event"] == "sending":
            entry.sending = True
        elif line["event"] == "accepted":
            entry.accepted = Accepted(line["id"], line["output"], line["failure"])
        elif line["event"] == "collected":
            entry.file = line["file"]
            entry.result = Result(line["content_type"], line["bytes"], line["sha256"])
        elif line["event"] == "failed":
            entry.failure = (line["kind"], line["message"])
        else:
            raise ValueError(line["event"])

    def _asked(self, item: Item, before: Entry | None, number: int) -> dict[str, Any]:
        # A repetition needs another location, because the first one's holds its failure.
        seed = f"{item.key} after {before.inference_id}" if before else item.key
        line = {
            "event": "asked",
            "id": derived_id(seed, item.request, self.batch),
            "at": self._now_s(),
            "number": number,
            "label": item.label,
            "key": item.key,
            "request": _document(item.request),
        }
        return line | ({"instead_of": before.inference_id} if before else {})

    @staticmethod
    def _identity(item: Item) -> str:
        return derived_id(item.key, item.request)

    def _record(self, event: str, inference_id: str, **more: object) -> None:
        line = {"event": event, "id": inference_id, "at": self._now_s(), **more}
        self._append([line])
        self._apply(line)

    def _append(self, lines: Iterable[dict[str, object]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()


def _document(request: Request) -> dict[str, Any]:
    document = {key: value for key, value in vars(request).items() if value is not None}
    if request.body is not None:
        with contextlib.suppress(UnicodeDecodeError):
            return document | {"body": request.body.decode("utf-8")}
        document["body_base64"] = base64.b64encode(document.pop("body")).decode()
    return document


def _request(document: dict[str, Any]) -> Request:
    fields = dict(document)
    if "body_base64" in fields:
        fields["body"] = base64.b64decode(fields.pop("body_base64"))
    elif "body" in fields:
        fields["body"] = fields["body"].encode()
    return Request(**fields)
