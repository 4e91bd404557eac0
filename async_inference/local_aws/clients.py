"""boto3 clients of an embedded AWS, which takes any credentials and never the user's own."""

from typing import Any

ACCOUNT_ID = "123456789012"
"""Whose resources all of the embedded AWS's are."""


def client(url: str, service: str, region: str = "us-east-1") -> Any:
    """A client of one service at an embedded AWS's URL."""
    import boto3  # a preview that changes nothing needs none

    return boto3.client(
        service,
        endpoint_url=url,
        region_name=region,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 the embedded AWS takes any
    )
