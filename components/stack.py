"""A stack's settings as the arguments of its `AsyncEndpoint`."""

from dataclasses import replace
from pathlib import Path

from async_inference.stack.settings import Settings
from components.async_endpoint import AsyncEndpointArgs


def endpoint_args(stack: Settings, **instead: object) -> AsyncEndpointArgs:
    """What the settings ask for.

    Args:
        stack: the settings.
        instead: arguments that differ from what the settings say.
    """
    args = AsyncEndpointArgs(
        endpoint_name=stack.endpoint_name,
        region=stack.region,
        instance_type=stack.instance_type,
        plan=stack.plan,
        handler=Path(stack.handler),
        weights=stack.weights,
        image_uri=stack.image_uri,
        image_tag=stack.image_tag,
        inference_ami_version=stack.inference_ami_version,
        environment=stack.environment,
        max_concurrent_invocations_per_instance=stack.max_concurrent_invocations_per_instance,
        invocation_timeout_s=stack.invocation_timeout_s,
        max_payload_bytes=stack.max_payload_bytes,
        model_download_timeout_s=stack.model_download_timeout_s,
        startup_health_check_timeout_s=stack.startup_health_check_timeout_s,
        request_ttl_s=stack.request_ttl_s,
        setup=stack.setup,
        setup_s=stack.setup_s,
        output_path=stack.output_path,
        failure_path=stack.failure_path,
        listeners=stack.subscriptions,
        security=stack.security,
        retention=stack.retention,
        observability=stack.observability,
        updates=stack.updates,
        force_destroy_bucket=stack.force_destroy_bucket,
        tags=stack.tags,
    )
    return replace(args, **instead)
