"""A bucket that goes takes along what the program put there, and is kept for what others made.

That the engine asks, and what is left then, tests/engine shows.
"""

from typing import Any

import pytest

from components.private_bucket import BucketHoldsObjectsError, empty


class Bucket:
    """Versions of objects by key, the newest last; None is a delete marker."""

    def __init__(self, **objects: list[str | None]) -> None:
        self.objects = {key.replace("__", "/"): versions for key, versions in objects.items()}
        self.locked: set[str] = set()

    def list_objects_v2(self, Bucket: str, MaxKeys: int) -> dict[str, object]:  # noqa: N803
        current = [key for key, versions in self.objects.items() if versions[-1] is not None]
        found = [{"Key": key} for key in current[:MaxKeys]]
        return {"KeyCount": len(found), "Contents": found}

    def get_paginator(self, operation: str) -> "Bucket":
        assert operation == "list_object_versions"
        return self

    def paginate(self, Bucket: str, Prefix: str) -> list[dict[str, object]]:  # noqa: N803
        versions, markers = [], []
        for key, known in self.objects.items():
            for number, each in enumerate(known):
                if key.startswith(Prefix):
                    kind = markers if each is None else versions
                    kind.append({"Key": key, "VersionId": str(number)})
        return [{"Versions": versions, "DeleteMarkers": markers}]

    def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, object]:  # noqa: N803
        keys = {each["Key"] for each in Delete["Objects"]}
        for key in keys - self.locked:
            del self.objects[key]
        return {"Errors": [{"Key": key, "Message": "is locked"} for key in keys & self.locked]}


def test_archives_and_old_versions_go():
    bucket: Any = Bucket(code__1__model=["archive"], async_sdxl__input__1=["old", None])

    empty(bucket, "demo")

    assert bucket.objects == {}


def test_objects_of_requests_are_kept_with_their_versions_and_the_way_out_said():
    bucket: Any = Bucket(
        code__1__model=["archive"],
        async_sdxl__output__1=["old", "image"],
        async_sdxl__output__2=["old", None],
    )

    with pytest.raises(BucketHoldsObjectsError) as raised:
        empty(bucket, "demo")

    assert set(bucket.objects) == {"async_sdxl/output/1", "async_sdxl/output/2"}
    said = str(raised.value)
    assert "holds 1 object(s) that requests made, such as async_sdxl/output/1" in said
    assert "aws s3 rm --recursive s3://demo" in said


def test_an_object_that_cannot_be_deleted_is_named():
    bucket: Any = Bucket(code__1__model=["archive"])
    bucket.locked = {"code/1/model"}

    with pytest.raises(BucketHoldsObjectsError, match="code/1/model cannot be deleted: is locked"):
        empty(bucket, "demo")
