"""A batch: many requests with bounded concurrency, each result on disk exactly once.

What happens to a request is in the ledger before and after each step, so that a batch continues
wherever it was killed:

- never sent: it is sent;
- perhaps sent: it is looked for where its output would be, and only then sent again, last of all,
  since by then an accepted one has its answer; the id is the same, so the place is too;
- accepted: it is waited for;
- on disk: it is recorded, not fetched again.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from async_inference.client.aio import AsyncClient
from async_inference.client.errors import (
    DeadlineError,
    FailedError,
    InferenceError,
    RejectedError,
)
from async_inference.client.ledger import Entry, Ledger
from async_inference.client.protocol import Accepted, Ended
from async_inference.client.watch import Watch

SUBMITTERS = 4
"""Requests that are submitted concurrently."""
STATE_EVERY_S = 15.0
"""Seconds between two looks at the endpoint's instances while no result arrives."""
SPACINGS = 20
"""The number of latest results that the estimate of the remaining time uses."""


@dataclass(frozen=True)
class Progress:
    """How far a batch is, for who shows it.

    Args:
        total: requests of this run.
        done: those with a result, of earlier runs too.
        failed: those that failed, of earlier runs too.
        waiting: those in the queue or being worked on.
        instances: of the endpoint, in service; None is unknown.
        started_s: monotonic time at which this run began.
        ends_s: monotonic times of the newest ends in this run.
    """

    total: int
    done: int = 0
    failed: int = 0
    waiting: int = 0
    instances: int | None = None
    started_s: float = 0.0
    ends_s: tuple[float, ...] = ()

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed


def estimate(progress: Progress, now_s: float, cold_start_s: float) -> str:
    """What is to be expected, as a sentence that says what it rests on.

    Args:
        progress: the batch now.
        now_s: monotonic time.
        cold_start_s: from a request to an endpoint without instances to its answer.
    """
    if not progress.left:
        return ""
    ends = progress.ends_s
    if len(ends) >= 2:
        spacing_s = (ends[-1] - ends[0]) / (len(ends) - 1)
        left_s = max(0.0, progress.left * spacing_s - (now_s - ends[-1]))
        return f"about {span(left_s)} left, by the last {len(ends)} ends (an estimate)"
    if ends:
        return "one answer so far; the second makes an estimate"
    if progress.instances is None:
        return "no answer yet"
    if progress.instances:
        return f"warm: {progress.instances} in service; no answer yet"
    left_s = cold_start_s - (now_s - progress.started_s)
    if left_s > 0:
        return f"cold: no instances yet; the first answer in about {span(left_s)} (an estimate)"
    late = span(-left_s)
    return f"cold: no instances yet, {late} later than a cold start usually takes"


def span(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def expected(inference_id: str, like: Accepted) -> Accepted | None:
    """Where a request will end, told from where another request of the batch does.

    Filename names the output (BC), but how it is put together is SageMaker's: so it is learned.
    None where locations do not carry ids.
    """
    if like.inference_id not in like.output_location:
        return None
    failure = like.failure_location
    return Accepted(
        inference_id,
        like.output_location.replace(like.inference_id, inference_id),
        failure.replace(like.inference_id, inference_id)
        if failure is not None and like.inference_id in failure
        else None,
    )


class Batch:
    """One run over some requests of a ledger.

    Args:
        client: of the ledger's endpoint; stays the caller's.
        ledger: what is wanted.
        ids: which of its requests this run is for.
        in_flight: how many may be in the queue at the same time. The endpoint scales by what
            waits: fewer than its instances' targets together keep it small.
        until_s: monotonic time at which the run ends; what is left then can be resumed.
        queue_url: an SQS queue of this run alone, instead of looking at S3.
    """

    def __init__(
        self,
        client: AsyncClient,
        ledger: Ledger,
        ids: Sequence[str],
        *,
        in_flight: int = 100,
        until_s: float = math.inf,
        queue_url: str | None = None,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._in_flight = in_flight
        self._until_s = until_s
        self._watch = Watch(client.protocol, queue_url)
        self._changed = asyncio.Event()
        self._in_queue = 0
        self._instances: int | None = None
        self._started_s = 0.0
        self._ends_s: deque[float] = deque(maxlen=SPACINGS)
        ledger.recover()
        self._entries = [ledger.entries[each] for each in ids]

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            total=len(self._entries),
            done=sum(entry.file is not None for entry in self._entries),
            failed=sum(entry.failure is not None for entry in self._entries),
            waiting=self._in_queue,
            instances=self._instances,
            started_s=self._started_s,
            ends_s=tuple(self._ends_s),
        )

    async def run(self) -> None:
        """Work until all have ended or the deadline has come.

        Raises:
            InferenceError: what stands against every request: credentials, permissions, a missing
                endpoint or bucket, a full disk.
        """
        self._started_s = time.monotonic()
        left = [entry for entry in self._entries if not entry.ended]
        self._client.announce(len(left))
        certain = [entry for entry in left if entry.accepted or not entry.sending]
        doubtful = [entry for entry in left if entry.sending and not entry.accepted]
        try:
            async with asyncio.TaskGroup() as group:
                observer = group.create_task(self._observe())
                await self._work(certain)
                await self._work(doubtful)
                observer.cancel()
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            self._ledger.sync()

    async def _work(self, entries: Sequence[Entry]) -> None:
        unsent: deque[Entry] = deque()
        for entry in entries:
            if entry.accepted is None:
                unsent.append(entry)
            else:
                self._wait_for(entry.accepted)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SUBMITTERS):
                    group.create_task(self._submit(unsent))
                group.create_task(self._collect(entries))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _submit(self, unsent: deque[Entry]) -> None:
        while unsent and self._in_time():
            if self._in_queue >= self._in_flight:
                self._changed.clear()
                await self._changed.wait()
                continue
            entry = unsent.popleft()
            self._in_queue += 1
            ended = await self._answered_before(entry) if entry.sending else None
            if ended is not None:
                await self._fetch(ended)
                continue
            self._ledger.sending(entry.inference_id)
            self._watch.expect(entry.inference_id)
            try:
                accepted = await self._client.run(
                    self._client.protocol.submit(
                        entry.item.request, entry.inference_id, self._until_s
                    )
                )
            except RejectedError as error:
                self._failed(entry, error)
            except DeadlineError:
                self._changed.set()
                return
            else:
                self._ledger.accepted(accepted)
                self._in_queue -= 1
                self._wait_for(accepted)

    async def _answered_before(self, entry: Entry) -> Ended | None:
        """The end of a request that an earlier run may have sent, if it has one."""
        known = (other.accepted for other in self._ledger.entries.values() if other.accepted)
        place = next((expected(entry.inference_id, accepted) for accepted in known), None)
        if place is None:
            return None
        ended = await self._client.run(self._client.protocol.found(place))
        if ended is not None:
            self._ledger.accepted(place)
        return ended

    async def _collect(self, entries: Sequence[Entry]) -> None:
        while self._in_time() and not all(entry.ended for entry in entries):
            if not self._watch.pending:
                self._changed.clear()
                await self._changed.wait()
                continue
            ended = await self._client.run(self._watch.round(self._until_s))
            await asyncio.gather(*(self._fetch(each) for each in ended))
            if ended:
                await asyncio.to_thread(self._ledger.sync)
        self._changed.set()  # Threads that wait for a free slot check the time.

    async def _fetch(self, ended: Ended) -> None:
        entry = self._ledger.entries[ended.accepted.inference_id]
        into = self._ledger.folder / entry.stem
        try:
            result = await self._client.run(
                self._client.protocol.collect(ended, into, self._until_s)
            )
        except (RejectedError, FailedError) as error:
            self._failed(entry, error)
        except DeadlineError:
            return
        else:
            self._ledger.collected(entry.inference_id, result)
            self._ended()

    def _wait_for(self, accepted: Accepted) -> None:
        self._in_queue += 1
        self._watch.add(accepted)
        self._changed.set()

    def _failed(self, entry: Entry, error: InferenceError) -> None:
        self._ledger.failed(entry.inference_id, error)
        self._ended()

    def _ended(self) -> None:
        self._in_queue -= 1
        self._ends_s.append(time.monotonic())
        self._changed.set()

    def _in_time(self) -> bool:
        return time.monotonic() < self._until_s

    async def _observe(self) -> None:
        """Keep the number of instances, for who looks at the progress."""
        while True:
            try:
                state = await self._client.run(self._client.protocol.state(time.monotonic()))
                self._instances = state.instances
            except InferenceError:
                self._instances = None  # Not allowed to ask, or not now.
            await asyncio.sleep(STATE_EVERY_S)
