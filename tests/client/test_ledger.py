"""The ledger: whatever a kill leaves of it, the batch continues and nothing is done twice."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_inference.client.errors import FailedError
from async_inference.client.ledger import FILE, Item, Ledger, LedgerError
from async_inference.client.protocol import Accepted, Request, Result


def opened(folder, endpoint="echo", aws="local") -> Ledger:
    times = itertools.count(1000)
    return Ledger(
        folder, endpoint, aws, now_s=lambda: float(next(times)), new_batch=lambda: "abcdef01"
    )


def item(prompt: str, key: str = "0") -> Item:
    return Item(prompt, Request.json({"prompt": prompt}, accept="image/png"), key)


def place(inference_id: str) -> Accepted:
    return Accepted(inference_id, f"s3://b/out/{inference_id}", f"s3://b/fail/{inference_id}")


def collect(ledger: Ledger, inference_id: str) -> None:
    """What a batch does with a result: into its place, then into the ledger."""
    path = ledger.folder / f"{ledger.entries[inference_id].stem}.txt"
    path.write_text("result")
    ledger.collected(inference_id, Result("text/plain", 6, "00", path=path))


def lived(folder, fates: list[str]) -> dict[str, object]:
    """A ledger in which each request has come as far as its fate says; its entries."""
    with opened(folder) as ledger:
        ids = ledger.ask(item(f"prompt {number}") for number in range(len(fates)))
        for stage in ("sending", "accepted", "ended"):
            for each, fate in zip(ids, fates, strict=True):
                if stage == "sending" and fate != "asked":
                    ledger.sending(each)
                if stage == "accepted" and fate not in ("asked", "sending"):
                    ledger.accepted(place(each))
                if stage == "ended" and fate == "collected":
                    collect(ledger, each)
                if stage == "ended" and fate == "failed":
                    ledger.failed(each, FailedError("broken"))
        return {each: vars(ledger.entries[each]) | {"result": None} for each in ids}


FATES = st.lists(
    st.sampled_from(["asked", "sending", "accepted", "collected", "failed"]), min_size=1, max_size=6
)


@settings(max_examples=8)
@given(fates=FATES)
def test_a_ledger_read_back_says_what_was_written(tmp_path_factory, fates):
    folder = tmp_path_factory.mktemp("ledger")
    before = lived(folder, fates)

    with opened(folder, None, None) as ledger:
        after = {each: vars(e) | {"result": None} for each, e in ledger.entries.items()}
        assert after == before
        assert (ledger.batch, ledger.endpoint, ledger.aws) == ("abcdef01", "echo", "local")


@settings(max_examples=20)
@given(fates=FATES, data=st.data())
def test_any_prefix_of_the_file_cut_anywhere_resumes_right(tmp_path_factory, fates, data):
    folder = tmp_path_factory.mktemp("ledger")
    lived(folder, fates)
    content = (folder / FILE).read_bytes()
    cut = data.draw(st.integers(0, len(content)), label="bytes that were written")
    (folder / FILE).write_bytes(content[:cut])
    lines = [json.loads(line) for line in content[:cut].split(b"\n")[:-1]][1:]

    with opened(folder) as ledger:
        ids = ledger.ask(item(f"prompt {number}") for number in range(len(fates)))
        ledger.recover()

        assert len(set(ids)) == len(fates), "each is wanted once"
        told = {
            event: {x["id"] for x in lines if x["event"] == event}
            for event in ("sending", "accepted", "collected", "failed")
        }
        for each, fate in zip(ids, fates, strict=True):
            entry = ledger.entries[each]
            assert entry.sending == (each in told["sending"])
            assert (entry.accepted is not None) == (each in told["accepted"])
            assert (entry.failure is not None) == (each in told["failed"])
            # A result that is on disk is never fetched again, recorded or not.
            assert (entry.file is not None) == (fate == "collected")

    again = [json.loads(line) for line in (folder / FILE).read_bytes().splitlines()]
    collected = [line["id"] for line in again if line.get("event") == "collected"]
    assert len(collected) == len(set(collected)), "each is collected once"


def test_the_same_file_again_asks_for_nothing_twice_and_for_what_is_new(tmp_path):
    with opened(tmp_path) as ledger:
        first = ledger.ask([item("a"), item("b")])
        second = ledger.ask([item("b"), item("c"), item("a")])

        assert second == [first[1], ledger.entries[second[1]].inference_id, first[0]]
        assert [entry.number for entry in ledger.entries.values()] == [1, 2, 3]


def test_equal_lines_are_wanted_as_often_as_they_stand_there(tmp_path):
    with opened(tmp_path) as ledger:
        assert len(set(ledger.ask([item("a", "0"), item("a", "1")]))) == 2


def test_a_failed_one_that_is_asked_for_again_gets_a_place_of_its_own(tmp_path):
    with opened(tmp_path) as ledger:
        (first,) = ledger.ask([item("a")])
        ledger.failed(first, FailedError("broken"))
        assert ledger.ask([item("a")]) == [first]

        (second,) = ledger.ask([item("a")], failed_too=True)

        assert second != first
        assert list(ledger.entries) == [second]
        assert ledger.entries[second].number == 1
    with opened(tmp_path) as ledger:
        assert list(ledger.entries) == [second]


def test_ids_fit_file_names_and_share_the_prefix_of_their_batch(tmp_path):
    """Filename takes at most 32 characters (BC)."""
    with opened(tmp_path) as ledger:
        ids = ledger.ask(item(f"prompt {number}") for number in range(20))

    assert {each[:8] for each in ids} == {"abcdef01"}
    assert {len(each) for each in ids} == {32}


def test_a_payload_that_is_no_text_is_kept_too(tmp_path):
    request = Request(body=b"\x00\xff", content_type="image/png", ttl_s=60)
    with opened(tmp_path) as ledger:
        (each,) = ledger.ask([Item("binary", request)])

    with opened(tmp_path, None, None) as ledger:
        assert ledger.entries[each].item == Item("binary", request)


def test_a_result_that_somebody_removed_is_fetched_again(tmp_path):
    with opened(tmp_path) as ledger:
        (each,) = ledger.ask([item("a")])
        ledger.accepted(place(each))
        collect(ledger, each)
        (tmp_path / str(ledger.entries[each].file)).unlink()

    with opened(tmp_path) as ledger:
        assert not ledger.entries[each].ended
        assert ledger.entries[each].accepted == place(each)


def test_two_processes_cannot_work_on_one_batch(tmp_path):
    with (
        opened(tmp_path),
        pytest.raises(LedgerError, match="another process is working on this batch"),
    ):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "aws", "says"),
    [("other", "local", "endpoint echo, not other"), ("echo", "eu-west-1", "AWS local, not eu")],
)
def test_a_folder_belongs_to_one_endpoint(tmp_path, endpoint, aws, says):
    opened(tmp_path).__exit__(None, None, None)

    with pytest.raises(LedgerError, match=says):
        opened(tmp_path, endpoint, aws)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a ledger\n", ":1: is not a line"),
        (b'{"ledger": 9}\n', "has format 9"),
        (
            b'{"ledger": 1, "batch": "b", "endpoint": "echo", "aws": "local"}\n{"event": "x"}\n',
            ":2: is not a line",
        ),
    ],
)
def test_a_file_that_is_no_ledger_is_refused(tmp_path, content, says):
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(LedgerError, match=says):
        opened(tmp_path)


def test_there_is_nothing_to_resume_where_nothing_began(tmp_path):
    with pytest.raises(LedgerError, match="does not exist; name the folder of a batch"):
        opened(tmp_path / "nothing", None, None)
    assert not (tmp_path / "nothing").exists()
