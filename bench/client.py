"""The overhead of a client's batch over the same calls with plain boto3."""

import asyncio
import socket
import statistics
import time
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx

from async_inference.client import AsyncClient, Request
from async_inference.client.batch import SUBMITTERS, Batch
from async_inference.client.ledger import Item, Ledger
from async_inference.client.protocol import split
from async_inference.local_aws import daemon
from async_inference.local_aws.clients import clients_at
from bench import runtime

REQUESTS = 300
RUNS = 5


def overhead_s(folder: Path) -> float:
    """Median seconds per request that a batch takes longer than plain boto3, in alternating runs.

    Plain boto3 submits everything, waits until the queue is empty, and reads each output. It keeps
    no ledger, writes no file, and would lose everything if it were killed.
    """
    with _endpoint(folder / "aws") as url:
        aws = clients_at(url)
        clients: dict[str, Any] = {
            name: aws(name) for name in ("s3", "sagemaker", "sagemaker-runtime")
        }
        runtime.deploy(clients)
        while clients["sagemaker"].describe_endpoint(EndpointName="bench")["EndpointStatus"] != (
            "InService"
        ):
            time.sleep(0.1)
        differences = []
        for run in range(RUNS + 1):
            plain_s = _plain(clients, url)
            batch_s = asyncio.run(_batch(folder / f"batch-{run}", url))
            differences.append((batch_s - plain_s) / REQUESTS)
        return statistics.median(differences[1:])


@contextmanager
def _endpoint(folder: Path) -> Generator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = daemon.start(folder, port=port, minute_s=60, setup_s=0)
    try:
        yield running.url
    finally:
        daemon.stop(folder)


def _plain(clients: dict[str, Any], url: str) -> float:
    started_s = time.perf_counter()
    with ThreadPoolExecutor(SUBMITTERS) as threads:
        accepted = list(
            threads.map(
                lambda number: clients["sagemaker-runtime"].invoke_endpoint_async(
                    EndpointName="bench", Body=b"x" * 200, Filename=uuid.uuid4().hex
                ),
                range(REQUESTS),
            )
        )
        while _backlog(url):
            time.sleep(0.02)
        for answer in accepted:
            bucket, key = split(answer["OutputLocation"])
            threads.submit(lambda b=bucket, k=key: clients["s3"].get_object(Bucket=b, Key=k))
    return time.perf_counter() - started_s


def _backlog(url: str) -> int:
    status = httpx.get(f"{url}/_local/status").json()
    return status["regions"]["us-east-1"]["endpoints"]["bench"]["backlog"]


async def _batch(folder: Path, url: str) -> float:
    session = boto3.Session(
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 the embedded AWS accepts any
        region_name="us-east-1",
    )
    items = [Item(str(n), Request(body=b"x" * 200), key=str(n)) for n in range(REQUESTS)]
    async with AsyncClient("bench", session=session, url=url) as caller:
        await caller.state()  # Load the client's services, as in the plain run.
        started_s = time.perf_counter()
        with Ledger(
            folder, "bench", "local", now_s=time.time, new_batch=lambda: uuid.uuid4().hex[:8]
        ) as ledger:
            await Batch(caller, ledger, ledger.ask(items)).run()
            assert all(entry.file for entry in ledger.entries.values())
        return time.perf_counter() - started_s
