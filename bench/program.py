"""The duration of a preview, with the engine and without it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks

from async_inference.local_aws.make_up import STATE, environment
from async_inference.local_aws.server import LocalAws, Options
from components.async_endpoint import AsyncEndpoint, AsyncEndpointArgs

ROOT = Path(__file__).resolve().parents[1]
Work = Callable[[], object]


@contextmanager
def previews(folder: Path) -> Generator[tuple[Work, Work]]:
    """Previews of stack local before its first deployment, and of a program that does nothing."""
    ours, empty = folder / "ours", folder / "empty"
    for program in (ours, empty):
        (program / STATE).mkdir(parents=True)
    for name in ("Pulumi.yaml", "Pulumi.local.yaml", "__main__.py"):
        shutil.copy(ROOT / name, ours / name)
    shutil.copytree(ROOT / "inference_code", ours / "inference_code")
    (ours / ".venv").symlink_to(ROOT / ".venv")
    (empty / "Pulumi.yaml").write_text("name: empty\nruntime: python\n")
    (empty / "__main__.py").write_text("import pulumi\n")
    aws = LocalAws(Options(folder=folder / "aws"))
    aws.start()

    def pulumi_in(program: Path, *arguments: str) -> None:
        subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=program,
            env={**os.environ, **environment(aws.url, program)},
            capture_output=True,
            check=True,
        )

    try:
        for program in (ours, empty):
            pulumi_in(program, "stack", "select", "--create", "local")
        yield (
            lambda: pulumi_in(ours, "preview", "--stack", "local"),
            lambda: pulumi_in(empty, "preview", "--stack", "local"),
        )
    finally:
        aws.stop()


class _Answers(mocks.Mocks):
    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return args.name, {**args.inputs, "arn": "arn:aws:s3:::bench", "bucket": "bench"}

    def call(self, args: mocks.MockCallArgs) -> Any:
        return {
            "accountId": "123456789012",
            "partition": "aws",
            "region": "us-east-1",
            "registryPath": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:1",
        }


def build_under_mocks(folder: Path) -> Work:
    """Builds the whole component under Pulumi's mocks."""
    handler = folder / "handler"
    handler.mkdir()
    (handler / "inference.py").write_text("def model_fn(model_dir): ...\n")

    def build() -> None:
        mocks.set_mocks(_Answers(), project="async-inference", stack="bench", preview=False)

        def registered() -> None:
            AsyncEndpoint(
                "bench",
                AsyncEndpointArgs(
                    endpoint_name="bench",
                    region="us-east-1",
                    instance_type="ml.g5.xlarge",
                    handler=handler,
                    weights="tiny",
                ),
            )

        pulumi.runtime.test(registered)()

    return build
