"""Two AWS accounts in one process: the shell's credentials are of one, a profile's of the other."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

SHELLS, STACKS = "123456789012", "222222222222"
ROLE = "arn:aws:iam::{}:role/deploy"
REGION = "us-east-1"


@dataclass(frozen=True)
class Accounts:
    """Credentials in the forms that a stack's config can name."""

    access_key: str
    secret_key: str
    profile: str
    shared_credentials_file: Path


def _key(account: str) -> tuple[str, str]:
    """An access key of a user in an account."""
    sts = boto3.client("sts", region_name=REGION)
    role = sts.assume_role(RoleArn=ROLE.format(account), RoleSessionName="tests")["Credentials"]
    iam = boto3.client(
        "iam",
        region_name=REGION,
        aws_access_key_id=role["AccessKeyId"],
        aws_secret_access_key=role["SecretAccessKey"],
        aws_session_token=role["SessionToken"],
    )
    iam.create_user(UserName="deployer")
    key = iam.create_access_key(UserName="deployer")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.fixture
def accounts(tmp_path, monkeypatch) -> Iterator[Accounts]:
    with mock_aws():
        own, others = _key(SHELLS), _key(STACKS)
        file = tmp_path / "credentials"
        file.write_text(
            f"[stacks]\naws_access_key_id = {others[0]}\naws_secret_access_key = {others[1]}\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", own[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", own[1])
        yield Accounts(*others, "stacks", file)
