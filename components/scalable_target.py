"""What Application Auto Scaling calls an endpoint's variant."""

SERVICE_NAMESPACE = "sagemaker"
SCALABLE_DIMENSION = "sagemaker:variant:DesiredInstanceCount"


def scalable_id(endpoint_name: str, variant_name: str) -> str:
    """The resource id of a variant."""
    return f"endpoint/{endpoint_name}/variant/{variant_name}"
