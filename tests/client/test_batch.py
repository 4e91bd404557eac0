"""Batches against the embedded endpoint, and what is expected of them in the meantime."""

import asyncio
import itertools
import json
import time

import pytest

from async_inference.client import AccessError, AsyncClient, EndpointGoneError, Request
from async_inference.client import batch as batches
from async_inference.client.batch import Batch, Progress, estimate, expected_locations
from async_inference.client.ledger import FILE, Item, Ledger
from async_inference.client.protocol import Accepted
from tests.support.client import QUICK, session

batch_ids = itertools.count()


def opened(folder, endpoint="echo") -> Ledger:
    return Ledger(
        folder,
        endpoint,
        "local",
        now_s=time.time,
        new_batch=lambda: f"{next(batch_ids):08x}",
    )


def items(*prompts: str) -> list[Item]:
    return [
        Item(prompt, Request(body=prompt.encode(), content_type="text/plain")) for prompt in prompts
    ]


def run(account, folder, *prompts: str, endpoint="echo", deadline_s=60.0, **more) -> Ledger:
    """One run of a batch to its end; its ledger, closed."""

    async def work(ledger: Ledger) -> None:
        async with AsyncClient(
            endpoint, session=session(), url=account.aws.url, pace=QUICK
        ) as client:
            ids = ledger.ask(items(*prompts))
            until_s = time.monotonic() + deadline_s
            await Batch(client, ledger, ids, until_s=until_s, **more).run()

    with opened(folder, endpoint) as ledger:
        asyncio.run(work(ledger))
    return ledger


def events(ledger: Ledger, event: str) -> list[dict]:
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    return [line for line in lines if line.get("event") == event]


@pytest.mark.local_aws
def test_each_request_of_a_batch_becomes_a_file_of_its_own(account, tmp_path):
    prompts = [f"prompt {number}" for number in range(40)]

    ledger = run(account, tmp_path, *prompts, in_flight=7)

    results = [(tmp_path / str(entry.file)).read_text() for entry in ledger.entries.values()]
    assert results == prompts
    assert len(list(tmp_path.iterdir())) == 41, "results and ledger, nothing half done"


@pytest.mark.local_aws
def test_a_poisoned_prompt_fails_alone_and_says_why(account, tmp_path):
    ledger = run(account, tmp_path, "one", "poison", "three")

    one, poisoned, three = ledger.entries.values()
    assert one.file
    assert three.file
    assert poisoned.failure is not None
    assert poisoned.failure[0] == "RejectedError"
    assert "poisoned" in poisoned.failure[1]


@pytest.mark.local_aws
def test_a_batch_run_again_sends_nothing_and_fetches_nothing(account, tmp_path):
    run(account, tmp_path, "one", "two")
    before = (tmp_path / FILE).read_bytes()

    run(account, tmp_path, "one", "two")

    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.local_aws
def test_a_request_that_was_perhaps_sent_is_looked_for_before_it_is_sent_again(account, tmp_path):
    ledger = run(account, tmp_path, "one", "two")
    two = list(ledger.entries.values())[1]
    lines = ledger.path.read_text().splitlines(keepends=True)
    # As if the kill had come between the submission and its answer.
    ledger.path.write_text(
        "".join(
            line
            for line in lines
            if two.inference_id not in line or '"asked"' in line or '"sending"' in line
        )
    )
    (tmp_path / str(two.file)).unlink()

    ledger = run(account, tmp_path, "one", "two")

    assert (tmp_path / str(ledger.entries[two.inference_id].file)).read_text() == "two"
    assert len(events(ledger, "sending")) == 2, "not sent a second time"


@pytest.mark.local_aws
def test_a_deadline_leaves_a_ledger_that_goes_on(account, tmp_path):
    account.deploy("idle")
    account.in_service("idle")
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="idle",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}],
    )
    account.in_service("idle")
    ledger = run(account, tmp_path, "one", "two", endpoint="idle", deadline_s=0.5, in_flight=1)
    assert len(events(ledger, "accepted")) == 1
    assert not any(entry.ended for entry in ledger.entries.values())
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="idle",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 1}],
    )

    ledger = run(account, tmp_path, "one", "two", endpoint="idle")

    assert all(entry.file for entry in ledger.entries.values())
    assert len(events(ledger, "sending")) == 2


@pytest.mark.local_aws
def test_what_stands_against_every_request_stops_the_batch_and_fails_none(account, tmp_path):
    with pytest.raises(EndpointGoneError, match="nothing"):
        run(account, tmp_path, "one", "two", endpoint="nothing")

    with opened(tmp_path, "nothing") as ledger:
        assert not any(entry.failure for entry in ledger.entries.values())


class Forbidden:
    """A client whose every call is refused; it keeps what it was to announce."""

    protocol = AsyncClient("echo").protocol

    def __init__(self) -> None:
        self.announced: list[int] = []

    def announce(self, requests: int) -> None:
        self.announced.append(requests)

    async def run(self, rule):
        rule.close()
        raise AccessError("it takes s3:ListBucket")


async def stopped(client: Forbidden, ledger: Ledger, ids: list[str]) -> None:
    with pytest.raises(AccessError):
        await Batch(client, ledger, ids).run()  # ty: ignore[invalid-argument-type]


def test_a_permission_that_is_missing_later_stops_the_batch(tmp_path):
    with opened(tmp_path) as ledger:
        asyncio.run(stopped(Forbidden(), ledger, ledger.ask(items("one"))))


def test_a_batch_announces_all_of_it_at_once_and_goes_on_with_what_is_left(tmp_path):
    client = Forbidden()
    with opened(tmp_path) as ledger:
        ids = ledger.ask(items("one", "two", "three"))
        asyncio.run(stopped(client, ledger, ids))
        ledger.failed(ids[0], ValueError("poisoned"))

        asyncio.run(stopped(client, ledger, ids))

    assert client.announced == [3, 2]


@pytest.mark.parametrize(
    ("like", "place"),
    [
        (
            Accepted("aaa", "s3://b/out/aaa.out", "s3://b/fail/aaa-error.out"),
            Accepted("bbb", "s3://b/out/bbb.out", "s3://b/fail/bbb-error.out"),
        ),
        (
            Accepted("aaa", "s3://b/out/aaa.out", "s3://b/fail/another-error.out"),
            Accepted("bbb", "s3://b/out/bbb.out", None),
        ),
        (Accepted("aaa", "s3://b/out/another.out", None), None),
    ],
)
def test_where_an_output_will_be_is_learned_from_another_one(like, place):
    assert expected_locations("bbb", like) == place


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        (Progress(10), "no result yet"),
        (Progress(10, instances=0), "cold: no instances yet; first result expected in about 8 min"),
        (Progress(10, instances=2), "warm: 2 in service; no result yet"),
        (Progress(10, done=1, ends_s=(90.0,)), "an estimate needs two"),
        (Progress(30, done=4, ends_s=(70.0, 80.0, 90.0, 100.0)), "about 4 min left"),
        (Progress(10, started_s=-600.0, instances=0), "cold: no instances yet, 2 min later than"),
    ],
)
def test_the_estimate_says_what_it_rests_on(progress, says):
    assert says in estimate(progress, now_s=100.0, cold_start_s=550.0)
    assert estimate(Progress(10, done=9, failed=1), now_s=100.0, cold_start_s=550.0) == ""


def test_durations_are_told_as_people_say_them():
    assert [batches.span(s) for s in (0.2, 59, 150, 7200)] == ["1 s", "59 s", "2 min", "2.0 h"]
