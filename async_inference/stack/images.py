"""What the tags of AWS's container images say: which server they run, and what they contain.

Source: github.com/aws/deep-learning-containers (Dockerfiles, docs/ray, docs/src/data), as of its
commit e0ecedea of August 2026, read in November.
"""

import re
from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

RAY_REPOSITORY, TORCHSERVE_REPOSITORY = "ray", "pytorch-inference"
DEFAULT_TAG = "serve-ml-sagemaker-cuda-v1.4"
"""The newest image whose packages are listed (components/images/ray.txt)."""
RAY_AMI = "al2-ami-sagemaker-inference-gpu-3-1"
"""What the Ray Serve image needs on a GPU: the default host's driver is too old (docs/ray)."""

TORCHSERVE_PATCHED_UNTIL = date(2026, 6, 30)
"""Of pytorch-inference 2.6, the last with TorchServe (docs/src/data/pytorch-inference, eop)."""


Server = Literal["ray", "torchserve"]


@dataclass(frozen=True)
class Image:
    """What an image's URI or tag says about it.

    Args:
        serving: Ray Serve, or TorchServe with SageMaker's toolkit.
        python: such as `3.13`; None where the tag does not say.
        machine: such as `x86_64`.
        cuda: its version; None for CPUs, and where the tag does not say.
        ami: the InferenceAmiVersion that it needs.
        patched_until: the day of AWS's last patch, where one is announced.
    """

    serving: Server
    python: str | None
    machine: str = "x86_64"
    cuda: tuple[int, int] | None = None
    ami: str | None = None
    patched_until: date | None = None

    @property
    def repository(self) -> str:
        """The repository of AWS's image with this server; components/images/ lists its packages in
        a file of that name."""
        return RAY_REPOSITORY if self.serving == "ray" else TORCHSERVE_REPOSITORY


def image_of(uri_or_tag: str) -> Image:
    """What a URI or tag says about its image."""
    ray = re.search(r"\bserve-ml-sagemaker-(cuda|cpu)\b", uri_or_tag)
    if ray is not None:
        on_gpu = ray[1] == "cuda"
        return Image(
            serving="ray",
            python="3.13",
            cuda=(12, 9) if on_gpu else None,
            ami=RAY_AMI if on_gpu else None,
        )
    python = re.search(r"\bpy3(\d+)\b", uri_or_tag)
    cuda = re.search(r"[:_-]cu(\d{2})(\d)(?:[-_.]|$)", uri_or_tag)
    of_aws = re.search(
        r"(?:^|/pytorch-inference(?:-arm64)?:)\d\.\d+(\.\d+)?-(gpu|cpu)-", uri_or_tag
    )
    return Image(
        serving="torchserve",
        python=f"3.{python[1]}" if python else None,
        machine="aarch64" if "arm64" in uri_or_tag else "x86_64",
        cuda=(int(cuda[1]), int(cuda[2])) if cuda else None,
        patched_until=TORCHSERVE_PATCHED_UNTIL if of_aws else None,
    )


GPUS = {
    "g4dn.12xlarge": 4,
    **{
        f"{family}.{size}": 4 for family in ("g5", "g6", "g6e") for size in ("12xlarge", "24xlarge")
    },
    **{f"{family}.48xlarge": 8 for family in ("g5", "g6", "g6e", "g7e")},
    "g7e.12xlarge": 2,
    "g7e.24xlarge": 4,
    "p2.8xlarge": 8,
    "p2.16xlarge": 16,
    "p3.8xlarge": 4,
    "p3.16xlarge": 8,
    "p4d.24xlarge": 8,
    "p4de.24xlarge": 8,
    **{f"{family}.48xlarge": 8 for family in ("p5", "p5e", "p5en", "p6-b200", "p6-b300")},
}
"""Instance types with several GPUs, and how many (EC2's pages of instance types, November 2026)."""


def gpu_count(instance_type: str) -> int:
    """How many GPUs an instance type has, if it is known to have several; 1 otherwise."""
    return GPUS.get(instance_type.removeprefix("ml."), 1)


def has_gpu(instance_type: str) -> bool:
    """Whether an instance type has NVIDIA GPUs."""
    return re.match(r"ml\.(g\d|p\d)", instance_type) is not None


def model_server_environment(
    image: Image,
    *,
    timeout_s: int,
    max_payload_bytes: int,
    startup_timeout_s: int,
    concurrency: int,
) -> dict[str, str]:
    """The variables that set the model server's limits.

    The default limits of TorchServe (TS) and Multi Model Server (MMS) are below those of
    asynchronous inference (DG async-inference-create-endpoint). The time to load the model has a
    separate limit; if it is too low, the server loads again and again
    (docs/aws-facts.md#torchserve). Ray Serve does not limit sizes, and its number of concurrent
    requests must be set; the timeout is that of the image's adapter (docs/ray, v1.4).

    Args:
        image: what is known of the image.
        timeout_s: for one inference.
        max_payload_bytes: largest request and response.
        startup_timeout_s: to load the model.
        concurrency: requests that one instance works on at the same time.
    """
    if image.serving == "ray":
        return {
            "RAYSERVE_BACKEND_TIMEOUT": str(timeout_s),
            "HANDLER_CONCURRENCY": str(concurrency),
        }
    limits = {
        "DEFAULT_RESPONSE_TIMEOUT": timeout_s,
        "MAX_REQUEST_SIZE": max_payload_bytes,
        "MAX_RESPONSE_SIZE": max_payload_bytes,
    }
    return {
        **{
            f"{server}_{limit}": str(value)
            for server in ("TS", "MMS")
            for limit, value in limits.items()
        },
        "TS_DEFAULT_STARTUP_TIMEOUT": str(startup_timeout_s),
    }


MODEL_SERVER_VARIABLES = frozenset(
    variable
    for serving in get_args(Server)
    for variable in model_server_environment(
        Image(serving=serving, python=None),
        timeout_s=1,
        max_payload_bytes=1,
        startup_timeout_s=1,
        concurrency=1,
    )
)
"""The variables of every server."""
