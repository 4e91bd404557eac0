"""Announces requests in the background: no request waits for an announcement or fails with it."""

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from async_inference.client.protocol import Call, Rule

GATHERED = 5
"""The first announcement waits for 1/5 of the interval, so that it can include more requests."""
CLOSES_WITHIN_S = 2.0
"""How long a process that exits waits for its last announcement."""
_log = logging.getLogger(__name__)


class Performer(Protocol):
    """Something that makes AWS calls, such as `aws.Aws`."""

    def perform(self, effect: Call) -> Any:
        """Make the call and return the response."""

    def close(self) -> None:
        """Close all connections."""


class Announcer:
    """Performs `Protocol.announce` in a separate thread, once for a burst of requests.

    The first announcement of a burst waits for a fifth of `every_s` to include more requests. It
    decides how many instances start, because SageMaker refuses further changes until they serve.
    Requests that come within `every_s` after it are announced together. Closing announces the rest.

    Args:
        rule: announces a number of requests.
        aws: makes the calls; it is closed with the announcer.
        every_s: seconds from one announcement to the next.
    """

    def __init__(
        self,
        rule: Callable[[int], Rule[bool]],
        aws: Performer,
        every_s: float,
    ) -> None:
        self._rule = rule
        self._aws = aws
        self._every_s = every_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._requests = 0
        self._next_s = 0.0
        self._trouble = ""
        self._until_exit = False

    def announce(self, requests: int) -> None:
        """Announce requests in the background."""
        with self._lock:
            self._requests += requests
            if self._thread is not None or not self._requests:
                return
            self._thread = threading.Thread(target=self._send, daemon=True, name="announcer")
            try:
                self._thread.start()
            except RuntimeError as error:  # No more threads, or the process is exiting.
                self._thread = None
                self._failed(error)
                return
            if not self._until_exit:
                self._until_exit = True
                atexit.register(self.close)

    def close(self) -> None:
        """Send what is not announced yet, within at most `CLOSES_WITHIN_S`."""
        atexit.unregister(self.close)
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(CLOSES_WITHIN_S)
        self._aws.close()

    def _send(self) -> None:
        while True:
            gathers_s = self._every_s / GATHERED
            self._closed.wait(max(gathers_s, self._next_s - time.monotonic()))
            with self._lock:
                requests, self._requests = self._requests, 0
                if not requests:
                    self._thread = None
                    return
            self._next_s = time.monotonic() + self._every_s
            try:
                self._run(self._rule(requests))
            except Exception as error:
                self._failed(error)

    def _run(self, rule: Rule[bool]) -> None:
        with contextlib.suppress(StopIteration):
            effect = next(rule)
            while True:
                assert isinstance(effect, Call)
                try:
                    answer = self._aws.perform(effect)
                except Exception as error:
                    effect = rule.throw(error)
                else:
                    effect = rule.send(answer)

    def _failed(self, error: Exception) -> None:
        """Log each new error once; the endpoint's alarms still notice the queue a bit later."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.warning("requests could not be announced, which delays a cold start: %s", error)
