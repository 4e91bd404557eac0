"""AWS's names for the parts of an asynchronous endpoint, each spelled once.

`client/`, `inference_code/` and `policies/` stand alone and do not import this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

QUEUE_METRICS = "AWS/SageMaker"
"""CloudWatch namespace of queue and request metrics (docs/aws-facts.md#metrics)."""
ANNOUNCEMENTS = "AsyncInference"
"""CloudWatch namespace in which clients announce the requests that they submit."""
INSTANCE_METRICS = "/aws/sagemaker/Endpoints"
"""CloudWatch namespace of instance metrics, and prefix of the log groups."""

SERVICE_NAMESPACE = "sagemaker"
"""SageMaker's name in Application Auto Scaling."""
SCALING_SERVICE = "sagemaker.application-autoscaling.amazonaws.com"
"""The service whose service-linked role scales variants."""
SCALABLE_DIMENSION = "sagemaker:variant:DesiredInstanceCount"


def scalable_id(endpoint_name: str, variant_name: str) -> str:
    """Application Auto Scaling's resource id of an endpoint's variant."""
    return f"endpoint/{endpoint_name}/variant/{variant_name}"


def scaled_variant(resource_id: str) -> tuple[str, str]:
    """Endpoint name and variant name in a scalable target's resource id.

    Raises:
        ValueError: it is not the id of a variant.
    """
    parts = resource_id.split("/")
    if len(parts) != 4 or parts[::2] != ["endpoint", "variant"] or not all(parts):
        raise ValueError(f"{resource_id!r} must look like endpoint/NAME/variant/NAME")
    return parts[1], parts[3]


def log_group(endpoint_name: str) -> str:
    """Name of the log group of an endpoint's instances."""
    return f"{INSTANCE_METRICS}/{endpoint_name}"


class EndpointStatus(StrEnum):
    """The status of an endpoint in DescribeEndpoint (BC EndpointStatus)."""

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
"""States in which SageMaker refuses to update or delete an endpoint (API reference,
EndpointSummary)."""


def arn(
    service: str, resource: str, *, region: str = "", account_id: str = "", partition: str = "aws"
) -> str:
    """An ARN. Those of S3 and IAM have no region, and those of S3 no account."""
    return f"arn:{partition}:{service}:{region}:{account_id}:{resource}"


def region_of(arn: str) -> str:
    """An ARN's region."""
    return arn.split(":")[3]


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` URI; the key of a bucket's URI is empty."""
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


def pascal(value: object) -> Any:
    """A value with camelCase keys turned into PascalCase, recursively, without None values."""
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
    """The snake_case form of a member's name: `MetricName` becomes `metric_name`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", member).lower()
