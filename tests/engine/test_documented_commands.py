"""The documentation's shell blocks, run as they stand and in a newcomer's order.

AWS is the embedded one; a handler that needs no torch answers with a picture of one pixel. The
local stack's commands run on a machine that is not ours: nothing of its environment reaches it.
"""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from async_inference.local_aws.clients import clients_at
from async_inference.local_aws.make_up import environment
from tests.support.engine import ROOT, copied

pytestmark = pytest.mark.engine

PAGES = {path.stem: path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
CLIENTS = ROOT / ".local" / "clients" / "python" / "bin"
"""Where the tier before this one put the AWS CLI."""
BUCKET = "state-of-somebody"
ON_AWS = [
    ("getting-started", 0),
    ("getting-started", 1),
    ("getting-started", 2),
    ("README", 3),
    ("client", 0),
    ("getting-started", 3),
    ("security", 0),
    ("ci", 0),
    ("verify", 0),
    ("verify", 1),
    ("rehearsal", 1),
    ("operations", 0),
    ("getting-started", 4),
]
HERE = ("local-stack", 0)
ELSEWHERE = {
    ("README", 0): "make up comes first in the walk on this machine; make test runs this",
    ("README", 1): "history is walked in rehearsal's words, the rest is run by tier rehearsal",
    ("README", 2): "needs an account at Pulumi Cloud; but for that, it is getting-started's",
    ("client", 1): "a load takes as long as its trace: tests/client/test_load.py",
    ("contributing", 0): "make check is tier check; bench and lock take too long, docs is checked",
    ("handler", 0): "examples/digits is deployed by tier serving",
    ("handler", 1): "needs a hub: tests/operations/test_weights_from_a_hub.py serves a small one",
    ("handler", 2): "takes minutes; tests/inference_code/test_tiny.py trains for a few steps",
    ("handler", 3): "needs a hub: tests/operations/test_weights_from_a_hub.py serves a small one",
    ("open-on-aws", 0): "needs quotas, which the embedded AWS has not; test_stacks.py does it",
    ("policies", 0): "the language host that is built from Go modules starts no policy packs",
    ("rehearsal", 0): "run by tier rehearsal",
    ("rehearsal", 2): "needs an endpoint that has scaled: tests/calibration/test_command.py",
    ("rehearsal", 3): "takes an afternoon: tests/calibration/test_command.py, with a fast clock",
    ("rehearsal", 4): "run by tier rehearsal",
    ("scaling", 0): "run by tier rehearsal",
    ("reuse", 0): "names a repository that a reader has to have",
}
"""Blocks that are not walked here, and why."""


def blocks() -> dict[tuple[str, int], str]:
    """Every shell block of the documentation: by page and number."""
    return {
        (name, number): block
        for name, page in PAGES.items()
        for number, block in enumerate(
            re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        )
    }


def walked(folder: Path, environment: dict[str, str], script: str) -> None:
    """Run these lines in one shell, until one fails."""
    done = subprocess.run(
        # bash takes no PS4 from root's environment
        ["bash", "-euo", "pipefail", "-c", f"PS4='+ ${{SECONDS}} s: '; set -x\n{script}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout


def test_every_shell_block_of_the_documentation_is_run_or_says_why_not():
    walked_here = {*ON_AWS, HERE}

    assert walked_here | ELSEWHERE.keys() == blocks().keys()
    assert not walked_here & ELSEWHERE.keys()


def test_the_way_from_an_account_to_images_and_back_to_nothing(checkout, aws):
    variables = environment(aws.url, checkout / ".local")
    del variables["PULUMI_BACKEND_URL"]  # the reader logs in
    variables |= {
        "PATH": os.pathsep.join([str(CLIENTS), variables["PATH"]]),
        "PULUMI_SKIP_CONFIRMATIONS": "true",
    }
    clients_at(aws.url)("iam").create_role(RoleName="ci-deploys", AssumeRolePolicyDocument="{}")
    (checkout / "prompts.csv").write_text("prompt\na seven\na nine\n")
    found = blocks()
    # What some pages say of prod is said of the one stack here: prod's own is deployed elsewhere.
    script = "\n".join(found[place] for place in ON_AWS).replace("prod", "dev")
    # It is installed already, see the fixture; test_pulumi_install.py installs.
    script = re.sub(r"^pulumi install\b.*| && pip install -e.*$", "", script, flags=re.MULTILINE)
    # Pulumi's own client for S3 does not look at AWS_ENDPOINT_URL.
    address = f"endpoint={aws.url.removeprefix('http://')}&disableSSL=true&s3ForcePathStyle=true"
    script = script.replace(
        "pulumi login s3://YOUR-STATE-BUCKET", f"pulumi login 's3://{BUCKET}?{address}'"
    ).replace("YOUR-STATE-BUCKET", BUCKET)

    walked(checkout, os.environ | variables, script)

    assert not clients_at(aws.url)("sagemaker").list_endpoints()["Endpoints"], "dev was removed"
    assert len(list((checkout / "images").glob("*.png"))) == 4, "two prompts, once with other steps"
    assert (checkout / "mine.csv").read_text().startswith("arrival_s,service_s")


@pytest.fixture
def silent_proxy() -> Iterator[str]:
    """The address of a proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hostile(silent_proxy) -> dict[str, str]:
    """A company's shell: no HOME, no UTF-8, its own AWS settings and proxy."""
    return {
        "PATH": os.pathsep.join([str(CLIENTS), os.environ["PATH"]]),
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


def interrupted(command: list[str], folder: Path, environment: dict[str, str], told: str) -> int:
    """The exit code of a program that gets Ctrl-C in its terminal once it has told something."""
    said = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if told in line:
                os.killpg(process.pid, signal.SIGINT)
                told = "\0"
    assert told == "\0", "".join(said)
    return process.returncode


def at_work(folder: Path) -> list[str]:
    """The processes whose work is this folder's."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command or (process.info["cwd"] or "").startswith(str(folder)):
            found.append(command)
    return found


def test_make_up_goes_on_after_ctrl_c_makes_an_image_is_looked_at_and_removed(
    cli, tmp_path, hostile, free_port
):
    """But for its port, which may be taken by the reader's own."""
    checkout = copied(tmp_path / "Müllers Gerät (neu)" / "check out")
    up = ["async-inference", "local", "up", "--port", str(free_port)]
    endless = re.compile(r"^(.* --(?:watch|follow)\b.*)$", re.MULTILINE)
    block = endless.sub(
        r"timeout --signal=INT 5 \1 || test $? = 124", re.sub(r"\s+#.*", "", blocks()[HERE])
    )
    more = "async-inference generate 'eine Sieben für Müller'\nasync-inference verify --stack local"

    for told in ("The embedded AWS started", "creating", "Submitting"):
        assert interrupted(up, checkout, hostile, told) == 130
        assert at_work(checkout) == []
    walked(checkout, hostile, f"make install\n{' '.join(up)}")
    images = list((checkout / ".local" / "images").glob("*.png"))
    walked(checkout, hostile, block.replace("make down", f"{more}\nmake down"))

    assert len(images) == 1
    assert images[0].read_bytes().startswith(b"\x89PNG")
    assert len(list((checkout / "generated").glob("*.png"))) == 2
    assert at_work(checkout) == []
    assert not (checkout / ".local" / "aws").exists()
    status = ["git", "status", "--porcelain"]
    assert subprocess.run(status, cwd=checkout, capture_output=True, check=True).stdout == b""
