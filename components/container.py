"""The model's container: its image, and its environment variables."""

import pulumi
import pulumi_aws as aws

from async_inference.stack.arguments import AsyncEndpointArgs
from async_inference.stack.images import TORCHSERVE_REPOSITORY, model_server_environment
from components.model_source import ModelSource


def image_uri(args: AsyncEndpointArgs, opts: pulumi.InvokeOutputOptions) -> pulumi.Output[str]:
    """The URI of the image: the given one, or AWS's with `image_tag` in the endpoint's region."""
    if args.image_uri is not None:
        return pulumi.Output.from_input(args.image_uri)
    # The provider knows the region's account of this repository, and not of `ray` (7.51); AWS
    # keeps both in the same one.
    torchserve = aws.sagemaker.get_prebuilt_ecr_image_output(
        repository_name=TORCHSERVE_REPOSITORY,
        image_tag=args.image_tag,
        region=args.region,
        opts=opts,
    ).registry_path
    repository = args.image.repository
    return torchserve.apply(
        lambda path: path.replace(f"/{TORCHSERVE_REPOSITORY}:", f"/{repository}:")
    )


def environment(args: AsyncEndpointArgs, source: ModelSource) -> dict[str, str]:
    """The container's variables: SageMaker's, the model server's, and those for the handler."""
    python_path = [source.packages_folder, args.environment.get("PYTHONPATH")]
    folders = ":".join(folder for folder in python_path if folder)
    return {
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_REGION": args.region,
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        **model_server_environment(
            args.image,
            timeout_s=args.invocation_timeout_s,
            max_payload_bytes=args.max_payload_bytes,
            startup_timeout_s=args.startup_health_check_timeout_s,
            concurrency=args.max_concurrent_invocations_per_instance,
        ),
        "MODEL_WEIGHTS": source.weights_location,
        **args.environment,
        **({"PYTHONPATH": folders} if folders else {}),
    }
