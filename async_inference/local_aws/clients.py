"""Isolates the local stack: its clients and variables ignore the user's AWS setup.

Profiles, files, endpoint URLs and switches of the user's shell are for the real AWS, and no proxy
serves loopback.
"""

import os
import re
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING

from async_inference.aws_clients import Clients

if TYPE_CHECKING:
    import boto3

ACCOUNT_ID = "123456789012"
"""The account that owns all resources of the embedded AWS."""
REGION = "us-east-1"
LOOPBACK = ("127.0.0.1", "localhost")
AWS_VARIABLE = re.compile(r"AWS_\w+|BOTO_CONFIG")
NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


@cache
def session(region: str = REGION) -> "boto3.Session":
    """A session of the embedded AWS, which ignores the user's variables and files."""
    import boto3  # a preview that changes nothing needs none
    import botocore.session
    from botocore.config import Config
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    # Each setting has its default, and no variable or file that could change it.
    blind = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        blind[name] = (None, None, os.devnull, None)
    own = botocore.session.Session(session_vars=blind)
    own.set_default_client_config(
        Config(proxies={}, use_fips_endpoint=False, use_dualstack_endpoint=False)
    )
    return boto3.Session(
        botocore_session=own,
        region_name=region,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 the embedded AWS takes any
    )


def clients_at(url: str, region: str = REGION) -> Clients:
    """Makes clients of the embedded AWS at a URL."""
    return partial(session(region).client, endpoint_url=url)


def variables(url: str) -> dict[str, str]:
    """The variables with which any AWS SDK uses an embedded AWS and nothing else.

    Args:
        url: where it listens.
    """
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        # All that boto3 and version 1 of the AWS CLI read.
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        **NO_FILES,
        **_past_the_proxy(os.environ),
    }


def isolated(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of the local stack: this process's, without AWS's variables.

    Args:
        own: variables to add. Loopback is excluded from proxies.
    """
    users = {key: value for key, value in os.environ.items() if not AWS_VARIABLE.fullmatch(key)}
    return {**users, **NO_FILES, **_past_the_proxy(os.environ), **own}


def _past_the_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY with loopback, in both spellings, since programs differ in which one they read."""
    given = f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}".split(",")
    hosts = dict.fromkeys([*filter(None, map(str.strip, given)), *LOOPBACK])
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))
