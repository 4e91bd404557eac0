"""Traffic replayed against a real endpoint, beside what a rehearsal of its plan predicts.

Requests are sent at the trace's times, and made so that the handler takes about the trace's
service time. SageMaker's notifications say to the millisecond, by its clock, when each was received
and when it ended. Without topics, a request has ended when its result is seen on S3.

If the clock of an embedded AWS runs fast, requests are sent faster by the same factor, and all
times are in seconds of that clock.
"""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from async_inference.client import AsyncClient, InferenceError, Request
from async_inference.client.protocol import Accepted
from async_inference.client.watch import Watch
from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import ScalingPlan

PREDICTIONS = 20
"""Simulated runs, each with other alarm phases, since the real ones are unknown."""
MAX_STEPS = 150
"""The most that `inference_code` accepts."""
GRACE_S = 3600.0
"""How long to wait for the last answers after the last request, by the endpoint's clock."""


@dataclass(frozen=True)
class Payload:
    """How a request is made to take a given service time.

    Args:
        kind: `steps` sends a prompt with steps in proportion; `sleep` sends `{"sleep_s": ...}`, for
            a handler that sleeps that long.
        step_s: seconds of one step on the endpoint's instances.
    """

    kind: str
    step_s: float

    def served_s(self, service_s: float) -> float:
        """The service time that a request can really have, in the endpoint's seconds."""
        if self.kind == "sleep":
            return service_s
        return self._steps(service_s) * self.step_s

    def request(self, number: int, service_s: float, speed: float) -> Request:
        """The request; `speed` is the endpoint's clock's, which handlers do not follow."""
        if self.kind == "sleep":
            return Request.json({"sleep_s": service_s / speed})
        steps = self._steps(service_s)
        return Request.json({"prompt": f"load {number}", "steps": steps, "seed": number})

    def _steps(self, service_s: float) -> int:
        return min(MAX_STEPS, max(1, round(service_s / self.step_s)))


@dataclass(frozen=True)
class Replay:
    """What was measured, in seconds of the endpoint's clock.

    Args:
        sent_s: when each request was accepted, since the first was due.
        took_s: from acceptance to the end; NaN for requests that failed or did not end.
        failed: how many ended without an output, or were refused.
        unanswered: how many did not end.
        exact: whether the times are SageMaker's; otherwise they are late by up to `late_s`.
        late_s: the pause between two looks at S3.
    """

    sent_s: np.ndarray
    took_s: np.ndarray
    failed: int
    unanswered: int
    exact: bool
    late_s: float


async def replay(
    client: AsyncClient,
    traffic: Traffic,
    payload: Payload,
    *,
    speed: float,
    ended: Callable[[], None] = lambda: None,
) -> Replay:
    """Send the traffic and wait for all answers; nothing is downloaded.

    Args:
        client: of the endpoint.
        traffic: what to send, in the endpoint's seconds.
        payload: how.
        speed: of the endpoint's clock; 1 is real time.
        ended: called for each request that has ended.

    Raises:
        InferenceError: every request was refused.
    """
    async with contextlib.AsyncExitStack() as stack:
        state = await client.state()
        queue_url = None
        if state.topics:
            queue_url = await stack.enter_async_context(client.subscribed())
        return await _replay(client, traffic, payload, speed, ended, queue_url)


async def _replay(
    client: AsyncClient,
    traffic: Traffic,
    payload: Payload,
    speed: float,
    ended: Callable[[], None],
    queue_url: str | None,
) -> Replay:
    watch = Watch(client.protocol, queue_url)
    sent_s = np.full(traffic.requests, math.nan)
    took_s = np.full(traffic.requests, math.nan)
    numbers: dict[str, int] = {}
    failed = 0
    started_s = time.monotonic()
    until_s = started_s + (traffic.span_s + GRACE_S) / speed

    def now_s() -> float:
        return (time.monotonic() - started_s) * speed

    async def send(number: int) -> Accepted | InferenceError:
        inference_id = uuid.uuid4().hex
        watch.expect(inference_id)
        numbers[inference_id] = number
        request = payload.request(number, float(traffic.service_s[number]), speed)
        try:
            accepted = await client.run(client.protocol.submit(request, inference_id, until_s))
        except InferenceError as error:
            watch.drop(inference_id)
            return error
        sent_s[number] = now_s()
        client.announce(1)
        watch.add(accepted)
        return accepted

    async def send_all() -> list[Accepted | InferenceError]:
        sending = []
        for number, arrival_s in enumerate(traffic.arrivals_s):
            await asyncio.sleep(max(0.0, (float(arrival_s) - now_s()) / speed))
            sending.append(asyncio.create_task(send(number)))
        return list(await asyncio.gather(*sending))

    sender = asyncio.create_task(send_all())
    try:
        while (not sender.done() or watch.pending) and time.monotonic() < until_s:
            if not watch.pending and queue_url is None:
                await asyncio.sleep(0.01)
                continue
            for each in await client.run(watch.round(min(until_s, time.monotonic() + 1.0))):
                number = numbers[each.accepted.inference_id]
                ended()
                if each.failed:
                    failed += 1
                elif each.took_s is not None:
                    took_s[number] = each.took_s
                else:
                    took_s[number] = now_s() - sent_s[number]
        answers = await sender
    finally:
        sender.cancel()
    refused = [each for each in answers if isinstance(each, InferenceError)]
    if len(refused) == traffic.requests:
        raise refused[0]
    return Replay(
        sent_s=sent_s,
        took_s=took_s,
        failed=failed + len(refused),
        unanswered=len(watch.pending),
        exact=queue_url is not None,
        late_s=client.protocol.pace.longest_s * speed,
    )


@dataclass(frozen=True)
class Spread:
    """Mean, median and 95th percentile of seconds."""

    mean: float
    p50: float
    p95: float

    @classmethod
    def of(cls, values_s: np.ndarray) -> "Spread":
        known = values_s[~np.isnan(values_s)]
        if not len(known):
            return cls(math.nan, math.nan, math.nan)
        p50, p95 = np.percentile(known, [50, 95])
        return cls(float(known.mean()), float(p50), float(p95))


@dataclass(frozen=True)
class Comparison:
    """Measured and predicted times.

    A wait is from acceptance to the start of service: the total time less the requested service
    time. A total time is from acceptance to the end. There is a prediction for each simulated run.
    """

    replay: Replay
    measured_wait: Spread
    measured_total: Spread
    predicted_wait: tuple[Spread, ...]
    predicted_total: tuple[Spread, ...]


def shaped(traffic: Traffic, payload: Payload, *, speed: float, limit: int | None) -> Traffic:
    """The traffic as it can be sent: its first requests, closer together."""
    arrivals_s = traffic.arrivals_s[:limit] / speed
    services_s = [payload.served_s(float(each)) for each in traffic.service_s[:limit]]
    return Traffic(arrivals_s - arrivals_s[0], np.array(services_s))


def predicted(plan: ScalingPlan, traffic: Traffic, assumptions: Assumptions) -> list[Run]:
    """Runs of the plan over the traffic, from an idle endpoint."""
    return [simulate(plan, traffic, assumptions, seed) for seed in range(PREDICTIONS)]


def compared(traffic: Traffic, replay: Replay, runs: Sequence[Run]) -> Comparison:
    """Measured beside predicted."""
    return Comparison(
        replay=replay,
        measured_wait=Spread.of(np.maximum(0.0, replay.took_s - traffic.service_s)),
        measured_total=Spread.of(replay.took_s),
        predicted_wait=tuple(Spread.of(run.started_s - traffic.arrivals_s) for run in runs),
        predicted_total=tuple(Spread.of(run.finished_s - traffic.arrivals_s) for run in runs),
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """What `--json` prints; times in seconds of the endpoint's clock, NaN as null."""
    rows = {}
    for name, measured, runs in _rows(comparison):
        rows[name] = {
            "measured": _known(asdict(measured)),
            "predicted": _known({key: _middle(runs, key) for key in ("mean", "p50", "p95")}),
            "predicted_range": {
                key: [_finite(bound) for bound in _range(runs, key)]
                for key in ("mean", "p50", "p95")
            },
        }
    replay = comparison.replay
    return {
        "requests": len(replay.took_s),
        "failed": replay.failed,
        "unanswered": replay.unanswered,
        "exact": replay.exact,
        **rows,
    }


def as_table(comparison: Comparison) -> Group:
    """Measured and predicted waits, side by side."""
    table = Table("", "measured", "predicted", "predicted range")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, measured, runs in _rows(comparison):
        for key in ("mean", "p50", "p95"):
            least, most = _range(runs, key)
            table.add_row(
                f"{name.removesuffix('_s')} {key}",
                f"{getattr(measured, key):.1f} s",
                f"{_middle(runs, key):.1f} s",
                f"{least:.1f} to {most:.1f} s",
            )
    replay = comparison.replay
    least, most = _range(comparison.predicted_wait, "mean")
    within = least <= comparison.measured_wait.mean <= most
    how = (
        "from SageMaker's notifications"
        if replay.exact
        else f"by polling S3, up to {replay.late_s:.0f} s late"
    )
    return Group(
        table,
        Text(
            f"{len(replay.took_s)} requests, {replay.failed} failed, {replay.unanswered} "
            f"unanswered; measured {how}. A wait is the total time less the requested service "
            f"time. Predicted: median and range of {PREDICTIONS} simulated runs that start "
            "idle, each with alarm phases of its own. The measured mean wait lies "
            f"{'within' if within else 'outside'} that range."
        ),
    )


def _rows(comparison: Comparison) -> list[tuple[str, Spread, tuple[Spread, ...]]]:
    return [
        ("wait_s", comparison.measured_wait, comparison.predicted_wait),
        ("total_s", comparison.measured_total, comparison.predicted_total),
    ]


def _middle(runs: Sequence[Spread], key: str) -> float:
    return float(np.median([getattr(run, key) for run in runs]))


def _range(runs: Sequence[Spread], key: str) -> tuple[float, float]:
    values = [getattr(run, key) for run in runs]
    return min(values), max(values)


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {key: _finite(value) for key, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
