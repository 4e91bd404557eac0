"""The embedded AWS's clock, which can run faster than the wall clock."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime


class Clock:
    """Simulated seconds since the epoch, `minute_s` real seconds for each simulated minute.

    Everything in the embedded AWS takes the time from here, so that metrics, alarms, cooldowns,
    times to live and setup keep their proportions at any speed.

    Args:
        minute_s: real seconds of a simulated minute; 60 is real time.
        origin_s: simulated time at which this clock starts; the wall clock's time if None.
    """

    def __init__(self, minute_s: float = 60.0, origin_s: float | None = None) -> None:
        if minute_s <= 0:
            raise ValueError(f"minute_s {minute_s} must be positive")
        self.minute_s = minute_s
        self.speed = 60.0 / minute_s
        self._origin_s = time.time() if origin_s is None else origin_s
        self._started_s = time.monotonic()
        self._moment = threading.local()

    def now_s(self) -> float:
        """Simulated seconds since the epoch; they never decrease."""
        held_s = getattr(self._moment, "at_s", None)
        if held_s is not None:
            return held_s
        return self._origin_s + (time.monotonic() - self._started_s) * self.speed

    @contextmanager
    def at(self, due_s: float) -> Generator[None]:
        """Hold this thread's time at the second when its work was due, however late it runs.

        A slow machine then decides as a fast one does. Otherwise a tenth of a real second, which a
        fast clock makes many simulated ones, could decide whether a cooldown has ended.
        """
        self._moment.at_s = due_s
        try:
            yield
        finally:
            self._moment.at_s = None

    def now(self) -> datetime:
        """The simulated time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def real_s(self, simulated_s: float) -> float:
        """The real seconds that some simulated seconds take."""
        return simulated_s / self.speed

    def wait(self, event: threading.Event, simulated_s: float) -> bool:
        """Wait until `event` is set or `simulated_s` have passed; returns whether it was set."""
        return event.wait(max(0.0, self.real_s(simulated_s)))
