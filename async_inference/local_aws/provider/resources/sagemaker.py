"""Models, endpoint configurations and endpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from async_inference.aws_names import EndpointStatus, pascal
from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Properties,
    from_tag_list,
    given,
    retag,
    tag_list,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_sagemaker import SageMakerClient

WAIT_S = 3600.0
"""The provider waits at most 60 minutes for an endpoint to be in service."""


class Tagged(Kind["SageMakerClient"]):
    """A resource that SageMaker tags by its ARN.

    Attributes:
        description: the call that describes it, and the member of the answer with its ARN.
    """

    service = "sagemaker"
    replaces = None
    autoname = Autoname("name", 63)
    description: ClassVar[tuple[str, str]]

    def read(self, aws: SageMakerClient, identity: str, p: Properties) -> Properties | None:
        call, arn = self.description
        found = unless_gone(getattr(aws, call), **{self.deletion[1]: identity})
        if found is None:
            return None
        tags = from_tag_list(aws.list_tags(ResourceArn=found[arn])["Tags"])
        return {"name": identity, "arn": found[arn], "tags": tags, **self.described(found)}

    def described(self, found: Mapping[str, object]) -> Properties:
        """Other properties in the answer."""
        return {}

    def update(self, aws: SageMakerClient, identity: str, old: Properties, new: Properties) -> None:
        retag(
            old,
            new,
            lambda keys: aws.delete_tags(ResourceArn=old["arn"], TagKeys=keys),
            lambda _: aws.add_tags(ResourceArn=old["arn"], Tags=tag_list(new)),
        )


class Model(Tagged):
    type = "aws:sagemaker/model:Model"
    deletion = ("delete_model", "ModelName")
    description = ("describe_model", "ModelArn")

    def create(self, aws: SageMakerClient, p: Properties) -> str:
        container = dict(p["primaryContainer"])
        sources = [
            {
                "ChannelName": source["channelName"],
                "S3DataSource": pascal(source["s3DataSources"][0]),
            }
            for source in container.pop("additionalModelDataSources", None) or []
        ]
        variables = container.pop("environment", {})
        code = container.pop("modelDataSource", None)
        request = pascal(container) | {"Environment": variables}
        if code:
            request["ModelDataSource"] = {"S3DataSource": pascal(code["s3DataSources"][0])}
        if sources:
            request["AdditionalModelDataSources"] = sources
        aws.create_model(
            ModelName=p["name"],
            ExecutionRoleArn=p["executionRoleArn"],
            PrimaryContainer=request,
            Tags=tag_list(p),
            **pascal(given(p, VpcConfig="vpcConfig")),
            **given(p, EnableNetworkIsolation="enableNetworkIsolation"),
        )
        return p["name"]


class EndpointConfiguration(Tagged):
    type = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
    deletion = ("delete_endpoint_config", "EndpointConfigName")
    description = ("describe_endpoint_config", "EndpointConfigArn")

    def create(self, aws: SageMakerClient, p: Properties) -> str:
        asynchronous = pascal(p["asyncInferenceConfig"])
        output = asynchronous["OutputConfig"]
        asynchronous["OutputConfig"] = {key: value for key, value in output.items() if value != ""}
        aws.create_endpoint_config(
            EndpointConfigName=p["name"],
            ProductionVariants=pascal(p["productionVariants"]),
            AsyncInferenceConfig=asynchronous,
            Tags=tag_list(p),
            **given(p, KmsKeyId="kmsKeyArn"),
        )
        return p["name"]


class Endpoint(Tagged):
    type = "aws:sagemaker/endpoint:Endpoint"
    deletion = ("delete_endpoint", "EndpointName")
    description = ("describe_endpoint", "EndpointArn")
    # In the provider these are ForceNew.
    replaces = frozenset({"name", "deploymentConfig.autoRollbackConfiguration"})

    def create(self, aws: SageMakerClient, p: Properties) -> str:
        aws.create_endpoint(
            EndpointName=p["name"],
            EndpointConfigName=p["endpointConfigName"],
            Tags=tag_list(p),
            **pascal(given(p, DeploymentConfig="deploymentConfig")),
        )
        _wait_in_service(aws, p["name"])
        return p["name"]

    def described(self, found: Mapping[str, object]) -> Properties:
        return {"endpointConfigName": found["EndpointConfigName"]}

    def update(self, aws: SageMakerClient, identity: str, old: Properties, new: Properties) -> None:
        # In the provider too, a change of the deployment config alone is an update.
        if any(new.get(key) != old.get(key) for key in ("endpointConfigName", "deploymentConfig")):
            aws.update_endpoint(
                EndpointName=identity,
                EndpointConfigName=new["endpointConfigName"],
                **pascal(given(new, DeploymentConfig="deploymentConfig")),
            )
            _wait_in_service(aws, identity)
        super().update(aws, identity, old, new)


def _wait_in_service(aws: SageMakerClient, name: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        found = aws.describe_endpoint(EndpointName=name)
        if found["EndpointStatus"] == EndpointStatus.IN_SERVICE:
            # Also after a rollback, which the provider reports as success (TF #48997).
            return
        if found["EndpointStatus"] == EndpointStatus.FAILED:
            raise RuntimeError(f"endpoint {name} failed: {found.get('FailureReason')}")
        time.sleep(0.1)
    raise TimeoutError(f"endpoint {name} was not in service within {WAIT_S:.0f} s")
