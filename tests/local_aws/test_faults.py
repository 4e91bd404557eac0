"""Nothing that was accepted is lost or answered twice, whatever is killed, refused or slow."""

import json
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from async_inference.local_aws import daemon
from async_inference.local_aws.faults import Faults
from tests.support.embedded_aws import ECHO, Account
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

REQUESTS = 10_000
INSTANCES = 5
POISONED, SLOW = 0.03, 0.01
FAULTS = Faults(s3_write_failure_rate=0.02, seed=7)
MINUTE_S = 2.0
SLOW_TIMEOUT_S = 15
"""Half a second of real time; the slow handler takes a minute of it."""
INSTANCE_KILL_EVERY_S = 1.0
WITHIN_S = 500.0
RESTARTED_WITHIN_S = 90.0
BATCH = 250


class Killable:
    """An embedded AWS in its own process, that can be killed and started again."""

    def __init__(self, folder, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        daemon.start(self.folder, port=self.port, minute_s=MINUTE_S, setup_s=0, faults=FAULTS)

    def process(self) -> psutil.Process:
        running = daemon.running(self.folder)
        assert running is not None
        return psutil.Process(running.pid)

    def instances(self) -> list[psutil.Process]:
        """The instances' processes: forks of one template, which is a child of the server."""
        return [fork for template in self.process().children() for fork in template.children()]

    def kill(self) -> None:
        process = self.process()
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def aws(tmp_path) -> Iterator[Killable]:
    # Below the ports that the system lends to clients: one of them, trying to reach the dead server
    # from its very port, would be connected to itself and keep the server from coming back.
    dice = random.Random(str(tmp_path))
    port = next(port for port in iter(lambda: dice.randrange(20_000, 30_000), 0) if _free(port))
    aws = Killable(tmp_path / "aws", port)
    yield aws
    daemon.stop(aws.folder)


class Caller:
    """Submits requests, and knows which of them were accepted."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._dice = random.Random(11)
        self._lock = threading.Lock()
        self._tries = 0
        self.accepted: dict[str, dict] = {}

    def submit(self, _: int) -> None:
        """One request, with a new name at each try: a lost answer may belong to an accepted one."""
        with self._lock:
            chance, inline = self._dice.random(), self._dice.random() < 0.5
        kind = "slow" if chance < SLOW else "poison" if chance < SLOW + POISONED else "fine"
        asked: dict[str, object] = {"InputLocation": f"s3://echo-bucket/in/{kind}"}
        if inline:
            asked = {"Body": kind.encode(), "ContentType": "text/plain"}
        if kind == "slow":
            asked["InvocationTimeoutSeconds"] = SLOW_TIMEOUT_S
        end_s = time.monotonic() + RESTARTED_WITHIN_S
        while True:
            with self._lock:
                self._tries += 1
                name = f"request-{self._tries}"
            try:
                answer = self._runtime.invoke_endpoint_async(
                    EndpointName="echo", InferenceId=name, **asked
                )
            except (BotoCoreError, ClientError):
                # The server is dead just now.
                assert time.monotonic() < end_s, "the server did not come back"
                time.sleep(0.2)
                continue
            with self._lock:
                self.accepted[name] = answer
            return


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Generator[None]:
    """Do something in the background, which ends by the event that it is given."""
    done = threading.Event()
    worker = threading.Thread(target=work, args=(done,))
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


@contextmanager
def killed_instances(aws: Killable) -> Generator[list[int]]:
    """Kill an instance at random every second; yields those killed so far."""
    dice, killed = random.Random(13), []

    def kill(done: threading.Event) -> None:
        while not done.wait(INSTANCE_KILL_EVERY_S):
            # The server, or the instance, may be dead already.
            with suppress(psutil.Error, AssertionError, IndexError):
                process = dice.choice(aws.instances())
                process.kill()
                killed.append(process.pid)

    with meanwhile(kill):
        yield killed


def test_every_accepted_request_ends_in_one_answer_and_one_notification(aws, capsys):
    account = Account(aws)
    topic, _ = account.listen("ends")
    output = {"NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic}}
    account.deploy(output=output)
    for kind in ("fine", "poison", "slow"):
        account.s3.put_object(Bucket="echo-bucket", Key=f"in/{kind}", Body=kind.encode())
    account.configure("echo-2", "echo", ECHO, instances=INSTANCES, output=output)
    account.in_service()
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="echo",
        DesiredWeightsAndCapacities=[
            {"VariantName": "AllTraffic", "DesiredInstanceCount": INSTANCES}
        ],
    )
    account.in_service()
    once = Config(retries={"total_max_attempts": 1}, max_pool_connections=4)
    caller = Caller(
        boto3.client(
            "sagemaker-runtime",
            endpoint_url=aws.url,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=once,
        )
    )
    server_kills = 0
    with (
        heard(account) as notified,
        killed_instances(aws) as killed,
        ThreadPoolExecutor(4) as callers,
    ):
        for first in range(0, REQUESTS, BATCH):
            submitted = callers.map(caller.submit, range(BATCH))
            if first in (REQUESTS // 4, REQUESTS * 3 // 4):
                aws.kill()
                server_kills += 1
                aws.start()
            if first == REQUESTS // 2:
                account.in_service()
                account.sagemaker.update_endpoint(
                    EndpointName="echo",
                    EndpointConfigName="echo-2",
                    DeploymentConfig={
                        "BlueGreenUpdatePolicy": {
                            "TrafficRoutingConfiguration": {
                                "Type": "CANARY",
                                "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 2},
                                "WaitIntervalInSeconds": 120,
                            }
                        }
                    },
                )
            list(submitted)

        eventually(lambda: left(aws) == 0, "an empty queue", WITHIN_S)
        eventually(
            lambda: set(caller.accepted) <= set(notified), "a notification for each", WITHIN_S
        )
    account.in_service()

    described = account.sagemaker.describe_endpoint(EndpointName="echo")
    assert described["EndpointConfigName"] == "echo-2", "the update came through"
    written = Counter(
        entry["Key"]
        for page in account.s3.get_paginator("list_objects_v2").paginate(Bucket="echo-bucket")
        for entry in page.get("Contents", [])
    )
    ends: Counter[str] = Counter()
    for answer in caller.accepted.values():
        places = [answer["OutputLocation"], answer["FailureLocation"]]
        keys = [place.removeprefix("s3://echo-bucket/") for place in places]
        assert sum(key in written for key in keys) == 1, answer
        ends["output" if keys[0] in written else "failure"] += 1
    with capsys.disabled():
        print(
            f"\n{len(caller.accepted):,} accepted: {ends['output']:,} outputs, "
            f"{ends['failure']:,} failures, {len(notified):,} notifications; "
            f"{server_kills} kills of the server, {len(killed)} of instances, 1 update"
        )
    assert server_kills == 2
    assert killed
    assert {len(messages) for messages in notified.values()} == {1}


@contextmanager
def heard(account: Account) -> Generator[dict[str, set[str]]]:
    """The SQS messages that told of each InferenceId's end, taken from the queue as they come.

    As a user would: a queue that nobody empties slows every publication down. A message whose
    deletion a kill of the server swallowed comes again, under its own MessageId.
    """
    queue = account.sqs.get_queue_url(QueueName="ends-queue")["QueueUrl"]
    found: dict[str, set[str]] = {}

    def listen(done: threading.Event) -> None:
        while not done.is_set():
            with suppress(ClientError, BotoCoreError):
                messages = account.sqs.receive_message(
                    QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1
                ).get("Messages", [])
                for message in messages:
                    told = json.loads(json.loads(message["Body"])["Message"])
                    found.setdefault(told["inferenceId"], set()).add(message["MessageId"])
                if messages:
                    account.sqs.delete_message_batch(
                        QueueUrl=queue,
                        Entries=[
                            {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                            for index, message in enumerate(messages)
                        ],
                    )

    with meanwhile(listen):
        yield found


def left(aws: Killable) -> int:
    """Requests without an answer."""
    status = httpx.get(f"{aws.url}/_local/status", timeout=60).json()
    return status["regions"]["us-east-1"]["endpoints"]["echo"]["backlog"]
