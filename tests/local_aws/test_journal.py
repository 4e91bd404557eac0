"""The state file of an embedded AWS."""

import sqlite3

import pytest

from async_inference.local_aws.journal import Call, Journal
from async_inference.local_aws.services.moto_services import publish

pytestmark = pytest.mark.local_aws


def test_a_file_of_a_version_that_recorded_no_moments_is_read_and_continued(tmp_path):
    path = tmp_path / "state.sqlite3"
    before = publish("arn:aws:sns:us-east-1:123456789012:ends", "before")
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE calls (id INTEGER PRIMARY KEY AUTOINCREMENT, object_path TEXT UNIQUE, "
        "method TEXT NOT NULL, path TEXT NOT NULL, query TEXT NOT NULL, headers TEXT NOT NULL, "
        "body BLOB NOT NULL)"
    )
    old.execute(
        "INSERT INTO calls (method, path, query, headers, body) VALUES (?, ?, '', '{}', ?)",
        (before.method, before.path, before.body),
    )
    old.commit()
    old.close()

    after = Call("POST", "/", "", {}, b"after")
    Journal(path).record(after, 5.0)

    assert list(Journal(path).calls()) == [(1, None, before), (2, 5.0, after)]
