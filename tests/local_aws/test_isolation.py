"""Nothing of the user's AWS environment, and no proxy, reaches the local stack."""

import fcntl
import os
import socket
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from async_inference.cli.target import reached_by
from async_inference.local_aws import clients, daemon, make_up
from async_inference.validation import InvalidInputError

HOSTILE = {
    "AWS_PROFILE": "a-company-s",
    "AWS_DEFAULT_PROFILE": "another",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_SAGEMAKER": "http://127.0.0.1:9",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_CA_BUNDLE": "/nowhere.pem",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_RETRY_MODE": "patient",
    "AWS_MAX_ATTEMPTS": "many",
    "AWS_SESSION_TOKEN": "another's",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


@pytest.fixture
def hostile(monkeypatch, tmp_path) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text("[default]\nregion = mars\nsts_regional_endpoints = no\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.local_aws
def test_server_and_clients_are_blind_to_the_users_environment(hostile, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    aws = daemon.start(tmp_path / "aws", port=port, minute_s=1, setup_s=0)
    try:
        assert clients.clients_at(aws.url)("sagemaker").list_endpoints()["Endpoints"] == []
        assert clients.clients_at(aws.url)("s3").list_buckets()["Buckets"] == []
        identity = clients.clients_at(aws.url)("sts").get_caller_identity()
        assert identity["Account"] == clients.ACCOUNT_ID
    finally:
        daemon.stop(tmp_path / "aws")


@pytest.mark.local_aws
def test_who_imports_the_emulator_keeps_the_moto_that_they_have():
    program = """
import async_inference.local_aws.server
from moto.cloudwatch.models import cloudwatch_backends
from moto.cloudwatch.responses import CloudWatchResponse
from moto.s3.models import FakeBucket
mine = [cloudwatch_backends.backend, CloudWatchResponse.parse_parameters, FakeBucket.get_permission]
print({each.__module__.partition(".")[0] for each in mine})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "{'moto'}"


def test_a_process_of_the_local_stack_sees_no_variable_of_the_users_aws(hostile, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet")

    seen = clients.isolated(clients.variables("http://127.0.0.1:4590"))

    assert {key: value for key, value in seen.items() if key.startswith("AWS_")} == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4590",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    assert seen["HTTP_PROXY"] == HOSTILE["HTTP_PROXY"], "what leaves the machine may need it"
    assert seen["NO_PROXY"] == seen["no_proxy"] == "intranet,127.0.0.1,localhost"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_file_to_source_takes_the_users_aws_away_and_bears_any_path(
    hostile, monkeypatch, tmp_path, shell
):
    folder = tmp_path / "it's a földer"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make_up._write_env_file(make_up.environment("http://127.0.0.1:4590", make_up.LOCAL))

    done = subprocess.run(
        [shell, "-c", ". .local/env && env"], capture_output=True, text=True, check=True
    )

    seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert seen["PULUMI_HOME"] == f"{folder}/.local/pulumi-home"
    assert seen["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4590"
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"} & seen.keys()
    assert "127.0.0.1" in seen["NO_PROXY"]


def test_the_server_and_what_it_starts_get_no_variable_of_the_users_aws(
    hostile, monkeypatch, tmp_path
):
    started = {}

    def popen(command, **options):
        started.update(options["env"])
        raise OSError("enough seen")

    monkeypatch.setattr("subprocess.Popen", popen)
    with pytest.raises(OSError, match="enough seen"):
        daemon.start(tmp_path / "aws", port=0, minute_s=1, setup_s=0)

    assert "AWS_PROFILE" not in started
    assert "AWS_ENDPOINT_URL_S3" not in started


def test_two_make_up_at_a_time_take_turns(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    order = []
    monkeypatch.setattr(make_up, "_up_alone", lambda *_: order.append("up"))
    (tmp_path / ".local").mkdir()
    with (tmp_path / ".local" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(
            target=lambda: make_up.up(Console(quiet=True), prompt="a", port=0, minute_s=1)
        )
        second.start()
        second.join(0.2)
        order.append("the first is done")
    second.join(10)

    assert order == ["the first is done", "up"]


def test_verify_and_preflight_of_stack_local_say_how_to_start_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)

    with pytest.raises(InvalidInputError, match="is not running; start it with make up"):
        reached_by("local", "us-east-1")


def test_verify_and_preflight_find_the_local_stack_by_themselves(hostile, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runs = make_up.Daemon(1, 0.0, "http://127.0.0.1:4590", 1.0)
    monkeypatch.setattr("async_inference.local_aws.daemon.running", lambda _: runs)

    reached = reached_by("local", "us-east-1")

    assert reached.client("sagemaker").meta.endpoint_url == "http://127.0.0.1:4590"
    assert reached.environment["PULUMI_BACKEND_URL"] == f"file://{tmp_path}/.local/pulumi-state"
    assert "AWS_PROFILE" not in reached.environment
