"""The client for asyncio: the same protocol, with AWS calls made in a few threads."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

from async_inference.client.aws import SUBSCRIBED_WITHIN_S, Connected, queue_name
from async_inference.client.errors import InferenceError
from async_inference.client.protocol import (
    Accepted,
    EndpointState,
    Request,
    Result,
    Rule,
    Sleep,
)
from async_inference.client.sync import DEFAULT_DEADLINE_S
from async_inference.client.watch import Watch

T = TypeVar("T")


class AsyncClient(Connected):
    """`Client` for asyncio, with the same arguments and errors."""

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._connections, thread_name_prefix="async-inference")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._close)

    async def infer(
        self,
        request: Request,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        key: str | None = None,
    ) -> Result:
        """Submit and wait."""
        until_s = time.monotonic() + deadline_s
        accepted = await self._submit(request, key, until_s)
        return await self.run(self.protocol.wait(accepted, until_s))

    async def submit(
        self,
        request: Request,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        key: str | None = None,
    ) -> Accepted:
        """Submit a request and return without waiting for its result."""
        return await self._submit(request, key, time.monotonic() + deadline_s)

    async def wait(
        self,
        accepted: Accepted,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        into: Path | None = None,
    ) -> Result:
        """Wait for a request's result."""
        return await self.run(self.protocol.wait(accepted, time.monotonic() + deadline_s, into))

    async def wait_each(
        self,
        accepted: Iterable[Accepted],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        queue_url: str | None = None,
    ) -> AsyncIterator[tuple[Accepted, Result | InferenceError]]:
        """Wait for many requests; yields each with its result or error as it ends."""
        until_s = time.monotonic() + deadline_s
        watch = Watch(self.protocol, queue_url)
        for each in accepted:
            watch.add(each)
        while watch.pending:
            for each in await self.run(watch.results(until_s)):
                yield each

    async def state(self) -> EndpointState:
        """The endpoint's present state."""
        return await self.run(self.protocol.state(time.monotonic()))

    @asynccontextmanager
    async def subscribed(self) -> AsyncGenerator[str]:
        """A queue with a message for each request that ends; it is deleted on exit."""
        until_s = time.monotonic() + SUBSCRIBED_WITHIN_S
        subscription = await self.run(self.protocol.subscribe(queue_name(), until_s))
        try:
            yield subscription.queue_url
        finally:
            until_s = time.monotonic() + SUBSCRIBED_WITHIN_S
            await self.run(self.protocol.unsubscribe(subscription, until_s))

    async def _submit(self, request: Request, key: str | None, until_s: float) -> Accepted:
        accepted = await self.run(self.protocol.submit(request, self._id(key, request), until_s))
        self.announce(1)
        return accepted

    async def run(self, rule: Rule[T]) -> T:
        """Perform a rule: its calls in threads, its pauses on the event loop."""
        loop = asyncio.get_running_loop()
        answer: object = None
        try:
            effect = next(rule)
            while True:
                try:
                    if isinstance(effect, Sleep):
                        await asyncio.sleep(effect.seconds)
                        answer = None
                    else:
                        answer = await loop.run_in_executor(
                            self._threads, self._aws.perform, effect
                        )
                except Exception as error:
                    effect = rule.throw(error)
                else:
                    effect = rule.send(answer)
        except StopIteration as end:
            return end.value
