"""The embedded AWS of its own tests, and clients of it."""

import pytest

from async_inference.client import Client
from async_inference.local_aws.server import LocalAws, Options
from async_inference.scaling.unsettled import Unsettled
from tests.support.client import QUICK, session
from tests.support.embedded_aws import Account


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
