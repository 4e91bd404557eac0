"""A batch: many requests with bounded concurrency, each result on disk exactly once.

The ledger records each step of a request before and after it, so a batch that was killed can
resume. A request that was

- never sent is sent;
- possibly sent is searched for at its output location and only then sent again, after all others,
  because by then an accepted one has a result. It keeps its id and therefore its location;
- accepted is waited for;
- written to disk is recorded, not fetched again.
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
"""How many requests are submitted at the same time."""
STATE_EVERY_S = 15.0
"""Seconds between two DescribeEndpoint calls for the number of instances."""
SPACINGS = 20
"""How many of the latest results the estimate of the remaining time uses."""


@dataclass(frozen=True)
class Progress:
    """The progress of a batch, for display.

    Args:
        total: requests of this run.
        done: requests with a result, from earlier runs too.
        failed: requests that failed, in earlier runs too.
        waiting: requests in the queue or in service.
        instances: the endpoint's instances in service; None if unknown.
        started_s: monotonic time at which this run began.
        ends_s: monotonic times at which the latest requests of this run ended.
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
    """An estimate of the remaining time, as a sentence with its basis.

    Args:
        progress: the batch's present progress.
        now_s: monotonic time.
        cold_start_s: seconds from a request to an endpoint at zero until its result.
    """
    if not progress.left:
        return ""
    ends = progress.ends_s
    if len(ends) >= 2:
        spacing_s = (ends[-1] - ends[0]) / (len(ends) - 1)
        left_s = max(0.0, progress.left * spacing_s - (now_s - ends[-1]))
        return f"about {span(left_s)} left, estimated from the last {len(ends)} results"
    if ends:
        return "one result so far; an estimate needs two"
    if progress.instances is None:
        return "no result yet"
    if progress.instances:
        return f"warm: {progress.instances} in service; no result yet"
    left_s = cold_start_s - (now_s - progress.started_s)
    if left_s > 0:
        return f"cold: no instances yet; first result expected in about {span(left_s)}"
    late = span(-left_s)
    return f"cold: no instances yet, {late} later than a cold start usually takes"


def span(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def expected_locations(inference_id: str, like: Accepted) -> Accepted | None:
    """A request's locations, inferred from those of another request of the batch.

    Filename is part of the output's name (BC), but SageMaker does not document how the name is
    built. None if locations do not contain ids.
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
        client: a client of the ledger's endpoint; the caller closes it.
        ledger: the batch's ledger.
        ids: the requests of this run.
        in_flight: how many requests may be in the queue at the same time. The endpoint scales with
            its backlog, so a small number keeps it small.
        until_s: monotonic time at which the run ends; the rest can be resumed.
        queue_url: an SQS queue that only this run reads; None polls S3.
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
        """The present progress."""
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
        """Work until all requests have ended or the deadline has passed.

        Raises:
            InferenceError: an error that affects every request: credentials, permissions, a missing
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
        """The result or failure of a request that an earlier run may have sent, if there is one."""
        known = (other.accepted for other in self._ledger.entries.values() if other.accepted)
        place = next((expected_locations(entry.inference_id, accepted) for accepted in known), None)
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
        self._changed.set()  # Submitters that wait for a free slot check the time.

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
        """Keep the number of instances up to date for `progress`."""
        while True:
            try:
                state = await self._client.run(self._client.protocol.state(time.monotonic()))
                self._instances = state.instances
            except InferenceError:
                self._instances = None  # Not permitted to ask, or AWS is not reachable now.
            await asyncio.sleep(STATE_EVERY_S)
