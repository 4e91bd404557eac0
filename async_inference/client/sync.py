"""The blocking client: each method returns when it is done."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
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
from async_inference.client.watch import Watch

T = TypeVar("T")
DEFAULT_DEADLINE_S = 1800.0
"""Half an hour, because a cold start can take ten minutes."""


class Client(Connected):
    """A client of one asynchronous endpoint; see `Connected` for its arguments."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._close()

    def infer(
        self,
        request: Request,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        key: str | None = None,
    ) -> Result:
        """Submit a request and wait for its result, with one deadline for both.

        Args:
            request: the request.
            deadline_s: seconds from now until the deadline.
            key: the same key and request get the same InferenceId and output location, so a caller
                that starts over gets the result of its first attempt; None is a new inference.

        Raises:
            InferenceError: one of its subclasses, with the model's message if there is one.
        """
        until_s = time.monotonic() + deadline_s
        accepted = self._submit(request, key, until_s)
        return self.run(self.protocol.wait(accepted, until_s))

    def submit(
        self,
        request: Request,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        key: str | None = None,
    ) -> Accepted:
        """Submit a request and return without waiting for its result."""
        return self._submit(request, key, time.monotonic() + deadline_s)

    def wait(
        self,
        accepted: Accepted,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        into: Path | None = None,
    ) -> Result:
        """Wait for a request's result; `into` is the file to write, without its extension."""
        return self.run(self.protocol.wait(accepted, time.monotonic() + deadline_s, into))

    def wait_each(
        self,
        accepted: Iterable[Accepted],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        queue_url: str | None = None,
    ) -> Iterator[tuple[Accepted, Result | InferenceError]]:
        """Wait for many requests; yields each with its result or error as it ends.

        Args:
            accepted: the requests.
            deadline_s: seconds from now until the deadline; the rest then gets a DeadlineError.
            queue_url: an SQS queue that only this caller reads, subscribed to the endpoint's topics
                (see `subscribed`); None polls S3.
        """
        until_s = time.monotonic() + deadline_s
        watch = Watch(self.protocol, queue_url)
        for each in accepted:
            watch.add(each)
        while watch.pending:
            yield from self.run(watch.results(until_s))

    def state(self) -> EndpointState:
        """The endpoint's present state: whether it serves, and with how many instances."""
        return self.run(self.protocol.state(time.monotonic()))

    @contextmanager
    def subscribed(self) -> Generator[str]:
        """A queue for `wait_each`, with a message for each request that ends; deleted on exit."""
        until_s = time.monotonic() + SUBSCRIBED_WITHIN_S
        subscription = self.run(self.protocol.subscribe(queue_name(), until_s))
        try:
            yield subscription.queue_url
        finally:
            until_s = time.monotonic() + SUBSCRIBED_WITHIN_S
            self.run(self.protocol.unsubscribe(subscription, until_s))

    def _submit(self, request: Request, key: str | None, until_s: float) -> Accepted:
        accepted = self.run(self.protocol.submit(request, self._id(key, request), until_s))
        self.announce(1)
        return accepted

    def run(self, rule: Rule[T]) -> T:
        """Perform a rule."""
        answer: object = None
        try:
            effect = next(rule)
            while True:
                try:
                    if isinstance(effect, Sleep):
                        time.sleep(effect.seconds)
                        answer = None
                    else:
                        answer = self._aws.perform(effect)
                except Exception as error:
                    effect = rule.throw(error)
                else:
                    effect = rule.send(answer)
        except StopIteration as end:
            return end.value
