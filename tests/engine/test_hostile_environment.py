"""The local stack on a machine that is not ours: nothing of the user's environment reaches it."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.engine import copied

pytestmark = pytest.mark.engine


@pytest.fixture
def silent_proxy() -> Iterator[str]:
    """The address of a proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hostile(silent_proxy) -> dict[str, str]:
    """A company's shell: no HOME, no UTF-8, its own AWS settings and proxy."""
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C",
        "AWS_PROFILE": "a-profile-that-is-not-there",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": "http://127.0.0.1:9",
        "AWS_CA_BUNDLE": "/nowhere.pem",
        "AWS_USE_FIPS_ENDPOINT": "true",
        **dict.fromkeys(
            ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), silent_proxy
        ),
    }


def test_up_generate_verify_and_down_work_in_a_hostile_environment(
    cli, tmp_path, hostile, free_port
):
    folder = copied(tmp_path / "Müllers Gerät (neu)" / "check out")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["async-inference", *arguments],
            cwd=folder,
            env=hostile,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        assert "The image:" in run("local", "up", "--port", str(free_port), "--minute-s", "0.2")
        image = run("generate", "eine Sieben für Müller", "--stack", "local").strip()
        assert (folder / image).read_bytes().startswith(b"\x89PNG")
        assert "as asked" in run("verify", "--stack", "local")
    finally:
        said = run("local", "down")

    assert "Stopped the embedded AWS." in said
    assert not (folder / ".local" / "aws").exists()
