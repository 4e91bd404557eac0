"""State that survives `kill -9`: one SQLite file, with one transaction for each change.

- documents: the resources of the services of our own
- requests: those accepted and not yet answered
- calls: every changing call to moto, which keeps its state in memory; replayed at start

A request's answer (output object, notification, removal from the queue) is one transaction, so
that each accepted request ends in exactly one answer.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
  kind TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
  id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, request TEXT NOT NULL, body BLOB
);
CREATE TABLE IF NOT EXISTS calls (
  id INTEGER PRIMARY KEY AUTOINCREMENT, object_path TEXT UNIQUE, method TEXT NOT NULL,
  path TEXT NOT NULL, query TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, at_s REAL
);
"""


@dataclass(frozen=True)
class Call:
    """A changing call to moto: an HTTP request, or one of the two calls that this process makes.

    Args:
        method: an HTTP method, or `moto_services.PUT_OBJECT` or `PUBLISH`.
        object_path: the S3 object that the call writes, if it does: a later write replaces it.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    object_path: str | None = None


class Journal:
    """The state file of one embedded AWS.

    Args:
        path: the file; None keeps everything in memory, for tests that need no restart.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing; a machine that loses power may lose the last moments.
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)
        columns = [row[1] for row in self._database.execute("PRAGMA table_info(calls)")]
        if "at_s" not in columns:  # a file of an earlier version
            self._database.execute("ALTER TABLE calls ADD COLUMN at_s REAL")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def documents(self, kind: str) -> dict[str, Any]:
        """All documents of a kind, by name and in the order of names, as they were saved."""
        with self._lock:
            rows = self._database.execute(
                "SELECT name, document FROM documents WHERE kind = ? ORDER BY name", (kind,)
            ).fetchall()
        return {name: json.loads(document) for name, document in rows}

    def save(self, kind: str, name: str, document: Mapping[str, object]) -> None:
        """Create or replace a document."""
        with self._lock, self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                (kind, name, json.dumps(document)),
            )

    def delete(self, kind: str, name: str) -> None:
        """Delete a document, if there is one."""
        with self._lock, self._database:
            self._database.execute(
                "DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name)
            )

    def accept(self, endpoint: str, request: Mapping[str, object], body: bytes | None) -> int:
        """Keep a request until it is answered; once this returns, it is not lost.

        Returns:
            Its number; numbers grow in the order of acceptance.
        """
        with self._lock, self._database:
            cursor = self._database.execute(
                "INSERT INTO requests (endpoint, request, body) VALUES (?, ?, ?)",
                (endpoint, json.dumps(request), body),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def request(self, number: int) -> tuple[Any, bytes | None]:
        """An accepted request, as `accept` got it, and its inline body."""
        with self._lock:
            request, body = self._database.execute(
                "SELECT request, body FROM requests WHERE id = ?", (number,)
            ).fetchone()
        return json.loads(request), body

    def waiting(self, endpoint: str) -> list[tuple[int, float, float]]:
        """The endpoint's requests without an answer, in the order of acceptance.

        Returns:
            The number of each, and when it was accepted and expires, in simulated seconds.
        """
        with self._lock:
            return self._database.execute(
                "SELECT id, request ->> 'accepted_s', request ->> 'expires_s' FROM requests "
                "WHERE endpoint = ? ORDER BY id",
                (endpoint,),
            ).fetchall()

    def answer(self, number: int, calls: Sequence[Call], at_s: float) -> list[int]:
        """Forget a request and record what its answer writes, in one transaction.

        Args:
            number: the request's.
            calls: what its answer writes.
            at_s: the moment, in real seconds since the epoch.

        Returns:
            The numbers of the calls.
        """
        with self._lock, self._database:
            self._database.execute("DELETE FROM requests WHERE id = ?", (number,))
            return [self._record(call, at_s) for call in calls]

    def forget(self, endpoint: str) -> None:
        """Drop the requests of a deleted endpoint."""
        with self._lock, self._database:
            self._database.execute("DELETE FROM requests WHERE endpoint = ?", (endpoint,))

    def next_call(self) -> int:
        """The number that the next recorded call will get."""
        with self._lock:
            row = self._database.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'calls'"
            ).fetchone()
        return (row[0] if row else 0) + 1

    def record(self, call: Call, at_s: float) -> int:
        """Record a call that changes something, made at a moment in real seconds since the epoch.

        Returns:
            Its number.
        """
        with self._lock, self._database:
            return self._record(call, at_s)

    def calls(self) -> Iterator[tuple[int, float | None, Call]]:
        """All recorded calls in order, each with its number, and its moment where that is known."""
        with self._lock:
            numbers = [row[0] for row in self._database.execute("SELECT id FROM calls ORDER BY id")]
        for number in numbers:
            with self._lock:
                row = self._database.execute(
                    "SELECT method, path, query, headers, body, object_path, at_s FROM calls "
                    "WHERE id = ?",
                    (number,),
                ).fetchone()
            method, path, query, headers, body, object_path, at_s = row
            yield number, at_s, Call(method, path, query, json.loads(headers), body, object_path)

    def _record(self, call: Call, at_s: float) -> int:
        cursor = self._database.execute(
            "INSERT OR REPLACE INTO calls (object_path, method, path, query, headers, body, at_s) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                call.object_path,
                call.method,
                call.path,
                call.query,
                json.dumps(call.headers),
                call.body,
                at_s,
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid
