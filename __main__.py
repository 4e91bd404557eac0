"""The stack: settings -> AsyncEndpoint -> exports."""

import gc

gc.disable()  # a program ends in seconds, and collecting while it imports takes a sixth of them

import pulumi

from async_inference.stack import settings
from async_inference.validation import InvalidInputError
from components.async_endpoint import AsyncEndpoint

try:
    stack = settings.from_pulumi()
except InvalidInputError as error:
    raise pulumi.RunError(f"nothing was deployed:\n{error}") from None

endpoint = AsyncEndpoint("sdxl", stack)

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
pulumi.export("operator_policy", endpoint.operator_policy)
