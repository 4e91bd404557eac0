"""The endpoint that a command uses, and how to reach it."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    import boto3

    from async_inference.aws_clients import Clients
    from async_inference.stack.settings import Settings

LOCAL_STACK = "local"
ANNOUNCED_EVERY_S = 10.0
"""The period of preset `announced`'s alarm on announcements."""
TYPICAL_DETECTION_S = 210.0
"""Mean seconds from a request's arrival at an idle endpoint to the scale-out
(docs/aws-facts.md#wake-up)."""


@dataclass(frozen=True)
class Target:
    """An endpoint and how to reach it.

    Args:
        endpoint: the endpoint's name.
        aws: `local`, or the region.
        session: credentials and region.
        url: the embedded AWS's URL; None for AWS.
        minute_s: real seconds for a minute of that AWS.
        settings: the stack's settings, if a stack was named.
    """

    endpoint: str
    aws: str
    session: "boto3.Session"
    url: str | None
    minute_s: float
    settings: "Settings | None"

    def announce_every_s(self, asked: bool | None) -> float | None:
        """Real seconds between announcements; None for no announcements.

        Args:
            asked: whether to announce; None announces if the stack's policies use it.
        """
        if asked is None:
            asked = self.settings is not None and self.settings.plan.uses_announcements
        return ANNOUNCED_EVERY_S * self.minute_s / 60 if asked else None

    @property
    def cold_start_s(self) -> float:
        """Typical real seconds from a request at an idle endpoint to its first instance."""
        from async_inference.stack.groups import Setup

        setup_s = self.settings.usual_setup_s if self.settings else Setup().usual_s
        return (TYPICAL_DETECTION_S + setup_s) * self.minute_s / 60


def target_of(endpoint: str | None, stack: str | None, begun_at: str | None = None) -> Target:
    """The target of a command. With a stack it has the credentials of the stack's provider.

    Args:
        endpoint: the endpoint's name; None is the stack's.
        stack: the stack's name; None is local while the embedded AWS runs.
        begun_at: the `aws` of the target with which a ledger was begun.

    Raises:
        InvalidInputError: there is no such target, or no region.
    """
    import boto3

    from async_inference.local_aws import clients, daemon
    from async_inference.stack import provider, settings

    aws = daemon.running(daemon.AWS_FOLDER)
    if begun_at is not None:
        local = begun_at == LOCAL_STACK
    else:
        local = stack == LOCAL_STACK or (
            stack is None and aws is not None and (endpoint is None or _runs(aws.url, endpoint))
        )
    if local and aws is None:
        raise InvalidInputError(["the embedded AWS is not running; start it with make up"])
    if local and endpoint is None:
        stack = LOCAL_STACK
    if stack is None and endpoint is None:
        raise InvalidInputError(
            ["no endpoint is named; use --stack or --endpoint, or start the local stack: make up"]
        )
    file = Path(f"Pulumi.{stack}.yaml")
    own = None if stack is None else settings.from_stack_file(file)
    name = endpoint or (own.endpoint_name if own else "")
    if aws is not None and local:
        return Target(name, LOCAL_STACK, clients.session(), aws.url, aws.minute_s, own)
    session = (
        provider.session(provider.of_stack(file), begun_at or own.region)
        if own
        else boto3.Session(region_name=begun_at)
    )
    if session.region_name is None:
        raise InvalidInputError(["no region is set; set AWS_DEFAULT_REGION, or name --stack"])
    return Target(name, session.region_name, session, None, 60.0, own)


@dataclass(frozen=True)
class Reached:
    """How to read a stack's resources and its Pulumi state.

    Args:
        session: credentials and region.
        url: the embedded AWS's URL; None for AWS.
        environment: environment variables for the Pulumi CLI.
    """

    session: "boto3.Session"
    url: str | None
    environment: Mapping[str, str]

    @property
    def client(self) -> "Clients":
        """Makes the client of a service."""
        return partial(self.session.client, endpoint_url=self.url)


def reached_by(stack: str, region: str) -> Reached:
    """How to read a stack with its provider's credentials; stack local is on the embedded AWS.

    Raises:
        InvalidInputError: the stack is local, and there is no embedded AWS.
    """
    from async_inference.local_aws import clients, daemon
    from async_inference.stack import provider

    if stack == LOCAL_STACK:
        aws = daemon.running(daemon.AWS_FOLDER)
        if aws is not None:
            from async_inference.local_aws import make_up

            variables = make_up.environment(aws.url, daemon.LOCAL)
            os.environ["PATH"] = variables["PATH"]  # subprocess finds the CLI there
            return Reached(clients.session(region), aws.url, clients.isolated(variables))
        if "AWS_ENDPOINT_URL" not in os.environ:
            raise InvalidInputError(["the embedded AWS is not running; start it with make up"])
    values = provider.of_stack(Path(f"Pulumi.{stack}.yaml"))
    return Reached(provider.session(values, region), None, os.environ)


def _runs(url: str, endpoint: str) -> bool:
    """Whether the embedded AWS has this endpoint."""
    import httpx

    regions = (
        httpx.get(f"{url}/_local/status", timeout=10, trust_env=False).json()["regions"].values()
    )
    return any(endpoint in region["endpoints"] for region in regions)


@contextmanager
def aws_errors_reported() -> Generator[None]:
    """Report botocore's errors as bad input, with AWS's message and the remedy if it is known."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        remedy = "set AWS_PROFILE, or name a stack whose config has aws:profile"
        raise InvalidInputError([f"AWS: {error}; {remedy}"]) from error
    except (BotoCoreError, ClientError) as error:
        raise InvalidInputError([f"AWS: {error}"]) from error
