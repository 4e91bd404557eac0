"""The stack: settings -> AsyncEndpoint -> exports."""

from pathlib import Path

import pulumi

from async_inference import settings
from async_inference.validation import InvalidInputError
from components.async_endpoint import AsyncEndpoint, AsyncEndpointArgs, Retention, Security
from components.notifications import Listener
from components.observability import Observability
from components.rollout import Updates

try:
    stack = settings.from_pulumi()
except InvalidInputError as error:
    raise pulumi.RunError(f"nothing was deployed:\n{error}") from None

endpoint = AsyncEndpoint(
    "sdxl",
    AsyncEndpointArgs(
        endpoint_name=stack.endpoint_name,
        region=stack.region,
        instance_type=stack.instance_type,
        plan=stack.plan,
        handler=Path(stack.handler),
        weights=stack.weights,
        image_uri=stack.image_uri,
        image_tag=stack.image_tag,
        environment=stack.environment,
        max_concurrent_invocations_per_instance=stack.max_concurrent_invocations_per_instance,
        invocation_timeout_s=stack.invocation_timeout_s,
        max_payload_bytes=stack.max_payload_bytes,
        model_download_timeout_s=stack.model_download_timeout_s,
        startup_health_check_timeout_s=stack.startup_health_check_timeout_s,
        request_ttl_s=stack.request_ttl_s,
        output_path=stack.output_path,
        failure_path=stack.failure_path,
        listeners=[Listener(**vars(subscription)) for subscription in stack.subscriptions],
        security=Security(**vars(stack.security)),
        retention=Retention(**vars(stack.retention)),
        observability=Observability(**vars(stack.observability)),
        updates=Updates(**vars(stack.updates)),
        force_destroy_bucket=stack.force_destroy_bucket,
        tags=stack.tags,
    ),
)

pulumi.export("endpoint_name", endpoint.endpoint_name)
pulumi.export("endpoint_arn", endpoint.endpoint_arn)
pulumi.export("bucket", endpoint.bucket_name)
pulumi.export("input_path", endpoint.input_path)
pulumi.export("output_path", endpoint.output_path)
pulumi.export("failure_path", endpoint.failure_path)
pulumi.export("success_topic_arn", endpoint.success_topic_arn)
pulumi.export("error_topic_arn", endpoint.error_topic_arn)
pulumi.export("operations_topic_arn", endpoint.operations_topic_arn)
pulumi.export("kms_key_arn", endpoint.kms_key_arn)
pulumi.export("role_arn", endpoint.role_arn)
pulumi.export("scaling", endpoint.scaling)
pulumi.export("deployer_policy", endpoint.deployer_policy)
pulumi.export("invoker_policy", endpoint.invoker_policy)
