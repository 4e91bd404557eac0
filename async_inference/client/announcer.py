"""Says that requests come, apart from the requests: no request waits for it or fails by it."""

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from async_inference.client.protocol import Call, Rule

GATHERED = 5
"""Part of the time between two announcements for which the first one waits for what else comes."""
CLOSES_WITHIN_S = 2.0
"""How long a process that ends waits for its last announcement."""
_log = logging.getLogger(__name__)


class Performer(Protocol):
    """What performs calls, such as `aws.Aws`."""

    def perform(self, effect: Call) -> Any:
        """Do it and return its answer."""

    def close(self) -> None:
        """Close all connections."""


class Announcer:
    """Performs `Protocol.announce` in a separate thread, once for a burst of requests.

    An announcement waits for a fifth of `every_s` for what else comes: the first one decides how
    many instances start, and a change in progress refuses the next. What comes within `every_s`
    after it goes out together when that time is over. Closing sends what is left.

    Args:
        rule: how so many requests are announced.
        aws: does what the rule asks for; closed with the announcer.
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
        """Announce requests; returns at once."""
        with self._lock:
            self._requests += requests
            if self._thread is not None or not self._requests:
                return
            self._thread = threading.Thread(target=self._send, daemon=True, name="announcer")
            try:
                self._thread.start()
            except RuntimeError as error:  # No more threads, or the process ends.
                self._thread = None
                self._failed(error)
                return
            if not self._until_exit:
                self._until_exit = True
                atexit.register(self.close)

    def close(self) -> None:
        """Send what is not sent yet, for at most a moment."""
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
        """Say once why; the endpoint still notices its queue, a minute or two later."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.warning("requests could not be announced, which delays a cold start: %s", error)
