"""The embedded AWS of its own tests, and clients of it."""

import boto3
import pytest

from async_inference.client import Client, Pace
from async_inference.local_aws.server import LocalAws, Options
from async_inference.scaling.unsettled import Unsettled
from tests.local_aws.conftest import REGION, Account

QUICK = Pace(first_s=0.02, longest_s=2.0)


def session() -> boto3.Session:
    """Credentials that mean nothing, as the embedded AWS takes them."""
    return boto3.Session(
        aws_access_key_id="local", aws_secret_access_key="local", region_name=REGION
    )


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """An embedded AWS with the endpoint `echo` in service, shared by a file's tests."""
    # Its minutes are real ones: no test waits one for a scale-in to be done.
    quick = Unsettled(scale_in_takes_s=0)
    aws = LocalAws(Options(folder=tmp_path_factory.mktemp("aws"), unsettled=quick))
    aws.start()
    account = Account(aws)
    account.deploy()
    account.in_service()
    yield account
    aws.stop()


@pytest.fixture
def client(account):
    """A client of `echo`."""
    with Client("echo", session=session(), url=account.aws.url, pace=QUICK) as client:
        yield client
