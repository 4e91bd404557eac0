"""SQS on the embedded AWS: who waits for a message holds up nobody."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.local_aws


def test_a_receive_that_waits_gets_what_is_sent_meanwhile(start):
    account = start()
    queue = account.sqs.create_queue(QueueName="ends")["QueueUrl"]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(account.sqs.receive_message, QueueUrl=queue, WaitTimeSeconds=20)
        while not waiting.running():
            pass
        account.sqs.send_message(QueueUrl=queue, MessageBody="done")

        (received,) = waiting.result().get("Messages", [])

    assert received["Body"] == "done"


def test_a_message_older_than_its_queue_keeps_is_not_received(start, monkeypatch):
    account = start()
    keeps = {"MessageRetentionPeriod": "60"}
    queue = account.sqs.create_queue(QueueName="ends", Attributes=keeps)["QueueUrl"]
    account.sqs.send_message(QueueUrl=queue, MessageBody="old")
    now_s = time.time()

    monkeypatch.setattr(time, "time", lambda: now_s + 61)

    assert "Messages" not in account.sqs.receive_message(QueueUrl=queue)


def test_after_a_restart_those_messages_are_gone_that_were_deleted(start, monkeypatch):
    """A message that is received twice is deleted by its second handle. A replay in no time must
    not give that handle to another message."""
    account = start()
    queue = account.sqs.create_queue(QueueName="ends")["QueueUrl"]
    for body in ("first", "second"):
        account.sqs.send_message(QueueUrl=queue, MessageBody=body)

    def received() -> dict[str, str]:
        (message,) = account.sqs.receive_message(QueueUrl=queue)["Messages"]
        return message

    received()  # and its answer is lost
    now_s = time.time()
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now_s + 31)
        again = received()
        account.sqs.delete_message(QueueUrl=queue, ReceiptHandle=again["ReceiptHandle"])
    account.aws.stop()
    account = start()

    assert again["Body"] == "first"
    assert received()["Body"] == "second"
