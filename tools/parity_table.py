"""Writes docs/parity.md: which AWS operations the embedded AWS serves, and what differs.

The operations come from the classes that the server dispatches to and from moto's; only the
differences are written here. `make docs` runs it; a test holds page and server together.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from botocore import xform_name
from botocore.loaders import Loader
from moto.core.responses import BaseResponse
from moto.core.utils import camelcase_to_underscores

from async_inference.local_aws.provider.resources import KINDS
from async_inference.local_aws.services import moto_patches
from async_inference.local_aws.services.autoscaling import ApplicationAutoScaling
from async_inference.local_aws.services.sagemaker import SageMaker

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parity.md"
HEAD = """# Embedded AWS: parity by operation

<!-- Made by `make docs` from what async_inference/local_aws/ registers; do not edit. -->

An operation that is not served fails with `UnknownOperationException`. *Served* means
that requests are checked against AWS's service model and the state changes as it does on AWS;
*partly* means that the column on the right says what differs. Differences that belong to no single
operation, such as fast time, are listed in [The local stack](local-stack.md#what-differs-from-aws).
"""
OWN = {
    "sagemaker": ("SageMaker", SageMaker),
    "sagemaker-runtime": ("SageMaker Runtime", SageMaker),
    "application-autoscaling": ("Application Auto Scaling", ApplicationAutoScaling),
}
MOTO = {
    "s3": "S3",
    "iam": "IAM",
    "sns": "SNS",
    "sqs": "SQS",
    "cloudwatch": "CloudWatch",
    "kms": "KMS",
    "logs": "CloudWatch Logs",
    "sts": "STS",
    "budgets": "Budgets",
}
DIFFERS = {
    ("sagemaker", "CreateModel"): (
        "The image is not pulled: an instance is a process that runs the model's code. "
        "Of several containers only the first one runs. VPC settings and the role have no effect."
    ),
    ("sagemaker", "CreateEndpointConfig"): (
        "One instance-based variant. Data capture, explainers, shadow variants and serverless "
        "settings have no effect or are refused."
    ),
    ("sagemaker", "CreateEndpoint"): (
        "The configuration must have an AsyncInferenceConfig. A handler that does not load fails "
        "the endpoint at once; there is no instance quota and no start-up timeout."
    ),
    ("sagemaker", "UpdateEndpoint"): "An update that a restart interrupts starts over.",
    ("sagemaker", "UpdateEndpointWeightsAndCapacities"): (
        "Weights have no effect, since an asynchronous endpoint has one variant."
    ),
    ("sagemaker-runtime", "InvokeEndpoint"): (
        "Always refused, as AWS refuses it for an asynchronous endpoint."
    ),
    ("application-autoscaling", "RegisterScalableTarget"): "Variants of SageMaker endpoints only.",
    ("application-autoscaling", "PutScalingPolicy"): (
        "Step scaling and target tracking on one metric. Target tracking on an expression and "
        "predictive scaling are refused."
    ),
    ("application-autoscaling", "PutScheduledAction"): "StartTime and EndTime have no effect.",
}
"""How a served operation differs from AWS."""
SERVICE_DIFFERS = {
    "s3": "Loopback counts as TLS in bucket policies. Lifecycle rules are kept and never applied.",
    "iam": "Policies are kept and not enforced.",
    "sns": "Topics deliver to queues and HTTP; e-mail subscriptions are kept and send nothing.",
    "sqs": "None known.",
    "cloudwatch": (
        "Alarms are evaluated every simulated minute. Those on an expression or a percentile are "
        "kept and never fire. Metrics of SageMaker come from the endpoints here."
    ),
    "kms": "S3 objects and volumes are stored as they are, whatever key is named.",
    "logs": "An event's time is when it was first read.",
    "sts": "object credentials are accepted.",
    "budgets": "Budgets are kept; nothing is counted against them.",
}
"""How a service of moto differs from AWS."""


@cache
def _operations(service: str) -> list[str]:
    return sorted(Loader().load_service_model(service, "service-2")["operations"])


def served(service: str) -> list[str]:
    """The operations of one of the project's own services, as AWS names them."""
    api = OWN[service][1]
    return [name for name in _operations(service) if hasattr(api, xform_name(name))]


def served_by_moto(service: str) -> list[str]:
    """The operations that moto or one of the project's patches has a method for."""
    module = import_module(f"moto.{service}.responses")
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, BaseResponse)
        and each.__module__ == module.__name__
    ]
    methods = {method for api in found for method in dir(api)}
    # The patches are not installed here: they would reach every other user of moto.
    methods |= {name.removeprefix("_") for name in vars(moto_patches)}
    return [name for name in _operations(service) if camelcase_to_underscores(name) in methods]


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for service in OWN:
        lines += [*_own(service), ""]
    lines += [*_moto(), "", *_pulumi()]
    return "\n".join(lines) + "\n"


def _own(service: str) -> Iterator[str]:
    yield f"## {OWN[service][0]}"
    yield ""
    yield "| operation | here | what differs |"
    yield "|---|---|---|"
    for name in served(service):
        differs = DIFFERS.get((service, name), "")
        yield f"| {name} | {'partly' if differs else 'served'} | {differs} |"
    missing = [name for name in _operations(service) if name not in served(service)]
    if len(missing) > 20:
        yield f"| the other {len(missing)} | not | Training, pipelines, Studio and so on. |"
    else:
        for name in missing:
            yield f"| {name} | not |  |"


def _moto() -> Iterator[str]:
    yield "## Services of moto"
    yield ""
    yield "[moto](https://docs.getmoto.org) serves these in the same process. Changes survive a"
    yield "restart. S3 dispatches by URL, so its operations are not counted here; moto's"
    yield "documentation lists them. Other services that moto knows answer too, untested."
    yield ""
    yield "| service | operations with an implementation | what differs |"
    yield "|---|---|---|"
    for service, title in MOTO.items():
        counted = f"{len(served_by_moto(service))} of {len(_operations(service))}"
        counted = "not counted" if service == "s3" else counted
        yield f"| {title} | {counted} | {SERVICE_DIFFERS[service]} |"
    for service, title in MOTO.items():
        if service == "s3":
            continue
        yield ""
        yield f"### {title}"
        yield ""
        yield ", ".join(served_by_moto(service)) + "."


def _pulumi() -> Iterator[str]:
    yield "## Pulumi resource types"
    yield ""
    yield "The provider plugin of stack `local` knows these types of package `aws`. A program that"
    yield "registers another type fails at its preview."
    yield ""
    for token in KINDS:
        yield f"- `{token}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
