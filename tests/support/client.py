"""Clients of an embedded AWS."""

import boto3

from async_inference.client import Pace
from tests.support.embedded_aws import REGION

QUICK = Pace(first_s=0.02, longest_s=2.0)


def session() -> boto3.Session:
    """Credentials that mean nothing, as the embedded AWS takes them."""
    return boto3.Session(
        aws_access_key_id="local", aws_secret_access_key="local", region_name=REGION
    )
