"""What AWS calls the things of an asynchronous endpoint, each spelled once.

`client/`, `inference_code/` and `policies/` stand alone and do not know this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

QUEUE_METRICS = "AWS/SageMaker"
"""The namespace of metrics of queues and requests (docs/aws-facts.md#metrics)."""
ANNOUNCEMENTS = "AsyncInference"
"""The namespace of what clients publish about the requests that they hand in."""
INSTANCE_METRICS = "/aws/sagemaker/Endpoints"
"""The namespace of what instances use, and the folder of their log groups."""

SERVICE_NAMESPACE = "sagemaker"
"""SageMaker's name in Application Auto Scaling."""
SCALING_SERVICE = "sagemaker.application-autoscaling.amazonaws.com"
"""Whose service-linked role scales variants."""
SCALABLE_DIMENSION = "sagemaker:variant:DesiredInstanceCount"


def scalable_id(endpoint_name: str, variant_name: str) -> str:
    """What Application Auto Scaling calls an endpoint's variant."""
    return f"endpoint/{endpoint_name}/variant/{variant_name}"


def scaled_variant(resource_id: str) -> tuple[str, str]:
    """Endpoint and variant of a scalable target's id.

    Raises:
        ValueError: it is not a variant's.
    """
    parts = resource_id.split("/")
    if len(parts) != 4 or parts[::2] != ["endpoint", "variant"] or not all(parts):
        raise ValueError(f"{resource_id!r} must look like endpoint/NAME/variant/NAME")
    return parts[1], parts[3]


def log_group(endpoint_name: str) -> str:
    """Where an endpoint's instances write."""
    return f"{INSTANCE_METRICS}/{endpoint_name}"


class EndpointStatus(StrEnum):
    """What DescribeEndpoint says of an endpoint (BC EndpointStatus)."""

    CREATING = "Creating"
    UPDATING = "Updating"
    SYSTEM_UPDATING = "SystemUpdating"
    ROLLING_BACK = "RollingBack"
    IN_SERVICE = "InService"
    OUT_OF_SERVICE = "OutOfService"
    DELETING = "Deleting"
    FAILED = "Failed"
    UPDATE_ROLLBACK_FAILED = "UpdateRollbackFailed"


IN_PROGRESS = frozenset(
    {
        EndpointStatus.CREATING,
        EndpointStatus.UPDATING,
        EndpointStatus.SYSTEM_UPDATING,
        EndpointStatus.ROLLING_BACK,
        EndpointStatus.DELETING,
    }
)
"""States in which SageMaker refuses to update or delete (API reference, EndpointSummary)."""


def arn(
    service: str, resource: str, *, region: str = "", account_id: str = "", partition: str = "aws"
) -> str:
    """An ARN; S3 and IAM leave the region out, S3 the account too."""
    return f"arn:{partition}:{service}:{region}:{account_id}:{resource}"


def region_of(arn: str) -> str:
    """An ARN's region."""
    return arn.split(":")[3]


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI; the key is empty where it names a bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@dataclass(frozen=True)
class Series:
    """A metric's identity: namespace, name, and dimensions as sorted pairs."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, namespace: str, name: str, dimensions: Mapping[str, Any]) -> Self:
        """The series with these dimensions, in any order."""
        return cls(namespace, name, tuple(sorted(dimensions.items())))


def pascal(value: Any) -> Any:
    """camelCase keys as AWS writes them, all the way down; absent values left out."""
    if isinstance(value, dict):
        return {
            key[0].upper() + key[1:]: pascal(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [pascal(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def snake(member: str) -> str:
    """A member of AWS's documents as Python writes it: `MetricName` is `metric_name`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", member).lower()
