"""Waits for many requests at once, by polling S3 or with SageMaker's notifications."""

import json
import math
from dataclasses import dataclass, field
from datetime import datetime

from async_inference.client import errors
from async_inference.client.errors import InferenceError
from async_inference.client.protocol import (
    ENDPOINT_CHECKED_EVERY_S,
    Accepted,
    Call,
    Ended,
    Protocol,
    Result,
    Rule,
    Sleep,
)

SWEPT_EVERY_S = 60.0
"""Seconds between S3 polls during a wait with notifications, because SNS may fail silently."""
LONGEST_RECEIVE_S = 20
"""Largest WaitTimeSeconds of ReceiveMessage (BC)."""


@dataclass(frozen=True)
class Notice:
    """A notification about one request; see `Ended` for the fields."""

    inference_id: str
    failed: bool
    reason: str | None
    took_s: float


@dataclass
class Watch:
    """Waits for many requests at once, in rounds.

    Args:
        protocol: the endpoint's protocol.
        queue_url: an SQS queue that only this caller reads, subscribed to the endpoint's topics;
            None polls S3.
    """

    protocol: Protocol
    queue_url: str | None = None
    _pending: dict[str, Accepted] = field(default_factory=dict)
    _told: dict[str, Notice] = field(default_factory=dict)
    _expected: set[str] = field(default_factory=set)
    _pause_s: float = 0.0
    _swept_s: float = -math.inf
    _checked_s: float = math.inf

    @property
    def pending(self) -> list[Accepted]:
        """The requests that have not ended yet."""
        return list(self._pending.values())

    def expect(self, inference_id: str) -> None:
        """Expect a request before it is submitted, because its notification may come first."""
        self._expected.add(inference_id)

    def add(self, accepted: Accepted) -> None:
        """Wait for this request too."""
        self._expected.discard(accepted.inference_id)
        self._pending[accepted.inference_id] = accepted
        self._pause_s = 0.0

    def drop(self, inference_id: str) -> None:
        """Stop waiting for a request."""
        for known in (self._pending, self._told):
            known.pop(inference_id, None)
        self._expected.discard(inference_id)

    def round(self, until_s: float) -> Rule[list[Ended]]:
        """Pause, at most until the deadline, then return the requests that have ended.

        Raises:
            EndpointGoneError: the endpoint is not in service, and no more requests have ended.
        """
        now_s = self.protocol.now_s()
        if self._checked_s == math.inf:
            self._checked_s = now_s
        pause_s = max(self._pause_s, self.protocol.pace.first_s)
        left_s = max(0.0, until_s - now_s)
        if self.queue_url is None:
            yield Sleep(min(pause_s, left_s))
            ended = yield from self.protocol.look(self.pending)
        else:
            yield from self._receive(self.queue_url, left_s)
            ended = self._notified()
            if not ended and self.protocol.now_s() - self._swept_s >= SWEPT_EVERY_S:
                self._swept_s = self.protocol.now_s()
                ended = yield from self.protocol.look(self.pending)
        if not ended and self.protocol.now_s() - self._checked_s >= ENDPOINT_CHECKED_EVERY_S:
            self._checked_s = self.protocol.now_s()
            gone = yield from self.protocol.gone()
            if gone is not None:
                ended = yield from self.protocol.look(self.pending)
                if not ended:
                    raise gone
        for each in ended:
            self.drop(each.accepted.inference_id)
        self._pause_s = self.protocol.pace.first_s if ended else self.protocol.pace.after(pause_s)
        return ended

    def results(self, until_s: float) -> Rule[list[tuple[Accepted, Result | InferenceError]]]:
        """One round: the results of ended requests, and at the deadline errors for the others."""
        found: list[tuple[Accepted, Result | InferenceError]] = []
        for ended in (yield from self.round(until_s)):
            try:
                found.append(
                    (ended.accepted, (yield from self.protocol.collect(ended, None, until_s)))
                )
            except InferenceError as error:
                found.append((ended.accepted, error))
        if self.protocol.now_s() >= until_s:
            for accepted in self.pending:
                found.append((accepted, self.protocol.too_late(accepted, None)))
                self.drop(accepted.inference_id)
        return found

    def _receive(self, queue_url: str, left_s: float) -> Rule[None]:
        wait_s = int(min(LONGEST_RECEIVE_S, left_s))
        try:
            answer = yield Call(
                "sqs",
                "receive_message",
                {"QueueUrl": queue_url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": wait_s},
                patient=True,
            )
            messages = answer.get("Messages", [])
            for message in messages:
                told = notification(message["Body"])
                if told and (told.inference_id in {*self._expected, *self._pending}):
                    self._told[told.inference_id] = told
            if messages:
                entries = [
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ]
                yield Call(
                    "sqs", "delete_message_batch", {"QueueUrl": queue_url, "Entries": entries}
                )
            elif wait_s == 0:
                yield Sleep(min(left_s, self.protocol.pace.first_s))
        except errors.TROUBLE as error:
            if not errors.is_transient(error):
                raise errors.typed_error(
                    error, f"receiving from {queue_url}", "sqs:ReceiveMessage and sqs:DeleteMessage"
                ) from error
            yield Sleep(min(left_s, self.protocol.pace.longest_s))

    def _notified(self) -> list[Ended]:
        known = [self._told.pop(each) for each in list(self._told) if each in self._pending]
        return [
            Ended(self._pending[told.inference_id], told.failed, told.reason, told.took_s)
            for told in known
        ]


def notification(body: str) -> Notice | None:
    """The notification in an SQS message; None if the message is something else.

    Accepts SNS's envelope and raw delivery (DG async-inference-check-predictions).
    """
    try:
        message = json.loads(body)
        if "invocationStatus" not in message:
            message = json.loads(message["Message"])
        failed = message["invocationStatus"] != "Completed"
        received, ended = (
            datetime.fromisoformat(message[key]) for key in ("receivedTime", "eventTime")
        )
        return Notice(
            message["inferenceId"],
            failed,
            message.get("failureReason") if failed else None,
            (ended - received).total_seconds(),
        )
    except (ValueError, KeyError, TypeError):
        return None
