"""The provider is a separate process for each engine, and ends with it."""

import os
import subprocess
from collections.abc import Callable, Iterator

import grpc
import psutil
import pytest
from google.protobuf.empty_pb2 import Empty  # ty: ignore[missing-module-member]
from pulumi.runtime.proto import provider_pb2_grpc

from async_inference.local_aws import clients
from async_inference.local_aws.make_up import PLUGIN, PLUGIN_FOLDER
from async_inference.local_aws.provider.plugin import VERSION
from async_inference.local_aws.provider.template import ProviderTemplate
from async_inference.local_aws.server import LocalAws, Options
from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws


@pytest.fixture(scope="module")
def template() -> Iterator[ProviderTemplate]:
    template = ProviderTemplate()
    yield template
    template.close()


@pytest.fixture(scope="module")
def url(template, tmp_path_factory) -> Iterator[str]:
    aws = LocalAws(Options(folder=tmp_path_factory.mktemp("aws")), providers=template)
    aws.start()
    yield aws.url
    aws.stop()


@pytest.fixture
def plugin(url) -> Iterator[Callable[[], subprocess.Popen]]:
    """Start the plugin, as the engine does."""
    started: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [PLUGIN_FOLDER / PLUGIN, "127.0.0.1:1", "--logtostderr"],
                stdout=subprocess.PIPE,
                env={**os.environ, **clients.variables(url)},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def version_at(port: int) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return provider_pb2_grpc.ResourceProviderStub(channel).GetPluginInfo(Empty()).version


def forks_of(template: ProviderTemplate) -> list[psutil.Process]:
    assert template.pid is not None
    return psutil.Process(template.pid).children()


def test_each_engine_gets_a_provider_of_its_own(plugin, template):
    ports = [int(plugin().stdout.readline()) for _ in range(2)]
    assert [version_at(port) for port in ports] == [VERSION, VERSION]
    assert len(set(ports)) == len(forks_of(template)) == 2


def test_a_provider_ends_with_the_plugin_that_the_engine_started(plugin, template):
    eventually(lambda: not forks_of(template), "the other tests' providers to end", 30)
    process = plugin()
    process.stdout.readline()
    (fork,) = forks_of(template)
    process.kill()
    eventually(lambda: not fork.is_running(), "the provider to end", 30)


def test_a_plugin_ends_with_its_provider(plugin, template):
    process = plugin()
    process.stdout.readline()
    for fork in forks_of(template):
        fork.kill()
    assert process.wait(timeout=30) == 0


def test_a_template_that_was_killed_is_started_again(plugin, template):
    psutil.Process(template.pid).kill()
    assert version_at(int(plugin().stdout.readline())) == VERSION


@pytest.mark.parametrize("variables", [{}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}])
def test_without_an_embedded_aws_the_plugin_says_how_to_start_one(variables):
    done = subprocess.run(
        [PLUGIN_FOLDER / PLUGIN, "127.0.0.1:1"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"stack local talks to the embedded AWS, and there is none at AWS_ENDPOINT_URL = "
        f"{variables.get('AWS_ENDPOINT_URL', '')!r}; run `make up`, or `. .local/env` before "
        "calling pulumi yourself\n"
    )
