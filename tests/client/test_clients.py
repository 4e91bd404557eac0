"""Both clients against the embedded endpoint: the protocol's requests are what AWS takes."""

import asyncio
from pathlib import Path

import pytest
from typer import testing

from async_inference.cli import app
from async_inference.cli import client as cli
from async_inference.cli.target import Target
from async_inference.client import (
    AsyncClient,
    Client,
    DeadlineError,
    EndpointGoneError,
    NoFailurePathError,
    OutputTooLargeError,
    RejectedError,
    Request,
    Result,
)
from tests.support.client import QUICK, session

pytestmark = pytest.mark.local_aws
SLOW = Request(body=b"slow", content_type="text/plain")


def text(content: str) -> Request:
    return Request(body=content.encode(), content_type="text/plain")


def test_inference_is_a_function_call(client):
    assert client.infer(text("hello"), deadline_s=20).body == b"hello"


def test_a_large_payload_goes_and_comes_through_s3(client):
    large = "x" * 200_000

    assert client.infer(text(large), deadline_s=20).body == large.encode()


def test_a_refused_input_is_a_typed_error_with_the_models_message(client):
    with pytest.raises(RejectedError, match="poisoned") as refused:
        client.infer(text("poison"), deadline_s=20)
    assert refused.value.status == 400


def test_a_result_may_go_into_a_file_that_is_whole_or_absent(client, tmp_path):
    accepted = client.submit(text("hello"))

    result = client.wait(accepted, deadline_s=20, into=tmp_path / "greeting")

    assert result.path.read_bytes() == b"hello"
    assert [path.name for path in tmp_path.iterdir()] == [result.path.name]


def test_the_same_key_gets_the_result_of_the_first_try(client, account):
    first = client.infer(text("once"), deadline_s=20, key="order 7")
    again = client.submit(text("once"), key="order 7")

    assert client.wait(again, deadline_s=20) == first


def test_an_output_larger_than_the_caller_takes_stays_where_it_is(account):
    with Client(
        "echo", session=session(), url=account.aws.url, pace=QUICK, max_output_bytes=4
    ) as small:
        accepted = small.submit(text("hello"))
        with pytest.raises(OutputTooLargeError, match=accepted.output_location):
            small.wait(accepted, deadline_s=20)


def test_an_endpoint_that_is_not_there_is_named(account):
    with (
        Client("nothing", session=session(), url=account.aws.url) as nobody,
        pytest.raises(EndpointGoneError, match="nothing"),
    ):
        nobody.infer(text("hello"), deadline_s=20)


def test_an_endpoint_without_a_failure_path_makes_the_deadline_say_so(account):
    account.deploy("mute", output={"S3FailurePath": None})
    account.in_service("mute")

    with (
        Client("mute", session=session(), url=account.aws.url, pace=QUICK) as client,
        pytest.raises(NoFailurePathError),
    ):
        client.infer(text("poison"), deadline_s=0.5)


def test_the_state_says_whether_the_next_request_waits_for_a_cold_start(client, account):
    state = client.state()

    assert (state.status, state.instances) == ("InService", 1)
    assert state.output_path == "s3://echo-bucket/out"


def test_asyncio_gets_the_same_answers(account):
    async def work():
        async with AsyncClient(
            "echo", session=session(), url=account.aws.url, pace=QUICK
        ) as client:
            one = await client.infer(text("hello"), deadline_s=20)
            many = [await client.submit(text(f"number {number}")) for number in range(20)]
            poisoned = await client.submit(text("poison"))
            found = {
                accepted.inference_id: result
                async for accepted, result in client.wait_each([*many, poisoned], deadline_s=20)
            }
            with pytest.raises(DeadlineError):
                await client.infer(SLOW, deadline_s=0.1)
        return one, [found[each.inference_id] for each in many], found[poisoned.inference_id]

    one, many, refusal = asyncio.run(work())
    assert one.body == b"hello"
    assert [result.body for result in many] == [b"number %d" % n for n in range(20)]
    assert isinstance(refusal, RejectedError)


def batch(monkeypatch, account, endpoint: str, folder: Path, *more: str) -> testing.Result:
    """`async-inference batch` over two prompts, to an endpoint of this embedded AWS."""
    target = Target(endpoint, "local", session(), account.aws.url, 60.0, None)
    monkeypatch.setattr(cli, "target_of", lambda *_: target)
    folder.mkdir()
    (folder / "prompts.txt").write_text("one\ntwo\n")
    asked = ["batch", str(folder / "prompts.txt"), "--output", str(folder / "out"), *more]
    return testing.CliRunner().invoke(app, asked)


def test_a_batch_is_told_by_notifications_where_the_endpoint_has_topics(
    account, monkeypatch, tmp_path
):
    topic = account.sns.create_topic(Name="batch-ends")["TopicArn"]
    topics = {"NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic}}
    account.deploy("telling", output=topics)
    account.in_service("telling")

    told = batch(monkeypatch, account, "telling", tmp_path / "told", "--notifications")
    silent = batch(monkeypatch, account, "echo", tmp_path / "silent", "--notifications")

    assert told.exit_code == 0, told.output
    assert "2 of 2 results" in told.output
    assert account.sqs.list_queues().get("QueueUrls", []) == []
    assert silent.exit_code == 1
    assert "topic" in silent.output


def test_one_queue_hears_how_all_requests_end_and_is_removed_afterwards(account):
    topic = account.sns.create_topic(Name="ends")["TopicArn"]
    account.deploy(
        "told", output={"NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic}}
    )
    account.in_service("told")

    with (
        Client("told", session=session(), url=account.aws.url, pace=QUICK) as client,
        client.subscribed() as queue_url,
    ):
        accepted = [client.submit(text(prompt)) for prompt in ("one", "two", "poison")]
        found = dict(client.wait_each(accepted, deadline_s=30, queue_url=queue_url))

    outputs = [found[each] for each in accepted[:2]]
    assert [each.body for each in outputs if isinstance(each, Result)] == [b"one", b"two"]
    assert isinstance(found[accepted[2]], RejectedError)
    assert account.sqs.list_queues().get("QueueUrls", []) == []
    assert account.sns.list_subscriptions()["Subscriptions"] == []
