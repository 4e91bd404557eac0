"""Nothing that was accepted is lost or answered twice, whatever is killed."""

import json
import random
import signal
import socket
from collections import Counter

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config

from async_inference.local_aws import daemon
from tests.local_aws.conftest import Account, eventually

pytestmark = pytest.mark.faults

REQUESTS = 600
POISONED = 0.03


class Killable:
    """An embedded AWS in a process of its own, that can be killed and started again."""

    def __init__(self, folder, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        daemon.start(self.folder, port=self.port, minute_s=60, setup_s=0)

    def process(self) -> psutil.Process:
        running = daemon.running(self.folder)
        assert running is not None
        return psutil.Process(running.pid)

    def kill(self) -> None:
        process = self.process()
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.fixture
def aws(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    aws = Killable(tmp_path / "aws", port)
    yield aws
    daemon.stop(aws.folder)


def test_every_accepted_request_ends_in_one_answer_and_one_notification(aws, capsys):
    account = Account(aws)
    account.client = lambda service: boto3.client(
        service,
        endpoint_url=aws.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 10, "mode": "standard"}),
    )
    account.runtime = account.client("sagemaker-runtime")
    account.s3 = account.client("s3")
    topic, _ = account.listen("ends")
    account.deploy(
        output={"NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic}},
    )
    account.in_service()
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="echo",
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}],
    )
    dice = random.Random(7)
    accepted: dict[str, dict] = {}
    for number in range(REQUESTS):
        body = b"poison" if dice.random() < POISONED else f"request {number}".encode()
        answer = account.runtime.invoke_endpoint_async(
            EndpointName="echo", Body=body, InferenceId=f"request-{number}"
        )
        accepted[answer["InferenceId"]] = answer
        if number % 120 == 60:
            # Instances are forks of one template, which is a child of the server.
            workers = [i for template in aws.process().children() for i in template.children()]
            if workers:
                dice.choice(workers).kill()
        if number in (200, 400):
            aws.kill()
            aws.start()

    def left() -> int:
        status = httpx.get(f"{aws.url}/_local/status").json()
        return status["regions"]["us-east-1"]["endpoints"]["echo"]["backlog"]

    eventually(lambda: left() == 0, "an empty queue", 120)

    objects = Counter(
        entry["Key"]
        for page in account.s3.get_paginator("list_objects_v2").paginate(Bucket="echo-bucket")
        for entry in page.get("Contents", [])
    )
    ends = Counter()
    for answer in accepted.values():
        places = [answer["OutputLocation"], answer["FailureLocation"]]
        keys = [place.removeprefix("s3://echo-bucket/") for place in places]
        assert sum(key in objects for key in keys) == 1, answer
        ends["output" if keys[0] in objects else "failure"] += 1
    notified: Counter[str] = Counter()
    queue = account.sqs.get_queue_url(QueueName="ends-queue")["QueueUrl"]
    while messages := account.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        for message in messages:
            notified[json.loads(json.loads(message["Body"])["Message"])["inferenceId"]] += 1
            account.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    with capsys.disabled():
        print(
            f"\n{len(accepted)} accepted: {ends['output']} outputs, {ends['failure']} failures, "
            f"{sum(notified.values())} notifications, 2 server kills, 5 worker kills"
        )
    assert set(notified) == set(accepted)
    assert set(notified.values()) == {1}
