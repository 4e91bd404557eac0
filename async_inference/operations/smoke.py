"""Sends a request that shows whether the endpoint really answers.

The status InService proves nothing: `/ping` answers 200 before the model has loaded, and even if
loading fails (docs/aws-facts.md#torchserve).
"""

import time
from collections.abc import Callable

from async_inference.aws_names import log_group
from async_inference.client import Client, InferenceError, Request
from async_inference.operations.checks import Check
from async_inference.operations.verify import Asked, Live, stranded

BODY = b'{"prompt": "a lighthouse", "steps": 1, "width": 256, "height": 256, "seed": 7}'
"""A cheap request that inference_code answers."""


def smoke(
    client: Client,
    asked: Asked,
    live: Live,
    *,
    body: bytes,
    within_s: float,
    say: Callable[[str], None],
) -> Check:
    """Submit one request and wait until it ends, with an answer or without.

    Args:
        client: of the stack's endpoint.
        asked, live: the stack and what runs.
        body: the request, JSON.
        within_s: how long to wait in total, including a cold start.
        say: prints what is being waited for.
    """
    what, expected = "smoke request", f"an answer within {within_s:.0f} s"
    if stranded(asked, live):
        return Check(
            what, expected, "not sent: it would wait in vain", "see wake-up from zero above"
        )
    cold = "" if live.instances else ": no instance runs, so this is a cold start"
    say(f"waiting for the smoke request's answer, up to {within_s:.0f} s{cold}")
    started_s = time.monotonic()
    try:
        result = client.infer(Request(body=body), deadline_s=within_s)
    except InferenceError as error:
        return Check(
            what,
            expected,
            f"{error}",
            f"see the logs in {log_group(asked.settings.endpoint_name)}, and the "
            "endpoint's scaling activities: is the quota used up, do instances start?",
        )
    took_s = time.monotonic() - started_s
    return Check(what, expected, f"{result.size_bytes} bytes after {took_s:.0f} s")
