"""Reads what `verify` compares: Pulumi's state, and what AWS says runs."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict
from urllib.parse import unquote

from async_inference.aws_clients import Clients
from async_inference.aws_names import SERVICE_NAMESPACE, scalable_id
from async_inference.operations.verify import Asked, Live, bucket_names, topic_arns
from async_inference.operations.weights import MANIFEST, Manifest
from async_inference.stack.provider import pulumi_says
from async_inference.stack.settings import Settings
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    from types_boto3_application_autoscaling.type_defs import ScalingPolicyTypeDef
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.type_defs import MetricAlarmTypeDef
    from types_boto3_iam import IAMClient
    from types_boto3_iam.type_defs import PolicyDocumentTypeDef
    from types_boto3_s3 import S3Client
    from types_boto3_sagemaker import SageMakerClient
    from types_boto3_sagemaker.type_defs import (
        DescribeEndpointConfigOutputTypeDef,
        DescribeEndpointOutputTypeDef,
    )
    from types_boto3_sns import SNSClient

WEIGHTS_CHANNEL = "weights"
ENDPOINT = "aws:sagemaker/endpoint:Endpoint"
CONFIGURATION = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


class ResourceState(TypedDict):
    """A resource in Pulumi's state."""

    type: str
    id: NotRequired[str]
    parent: NotRequired[str]
    delete: NotRequired[bool]
    inputs: dict[str, Any]  # a property is of any type
    outputs: dict[str, Any]


class Deployment(TypedDict):
    """What Pulumi's state holds once anything was deployed."""

    resources: NotRequired[list[ResourceState] | None]


class StackState(TypedDict):
    """Pulumi's state of a stack."""

    deployment: NotRequired[Deployment | None]


def exported(stack: str, environment: Mapping[str, str] | None = None) -> StackState:
    """Pulumi's state of a stack, as `pulumi stack export` prints it.

    Args:
        stack: its name.
        environment: the CLI's variables; this process's if None.

    Raises:
        InvalidInputError: the CLI is missing, or knows no such stack.
    """
    return json.loads(pulumi_says("stack", "export", "--stack", stack, environment=environment))


def asked(settings: Settings, state: StackState) -> Asked:
    """What a stack should be, from its settings and Pulumi's state.

    Raises:
        InvalidInputError: the state holds no endpoint: nothing was deployed.
    """
    resources = (state.get("deployment") or {}).get("resources") or []
    # A failed update leaves resources to be deleted, which are no longer wanted.
    current = [each for each in resources if not each.get("delete")]
    name = settings.endpoint_name
    for endpoint in _of_type(current, ENDPOINT):
        if endpoint["outputs"].get("name") != name:
            continue
        # The configuration that the program registered: after a refresh, the endpoint's property
        # is the one to which SageMaker rolled back.
        for configuration in _of_type(current, CONFIGURATION):
            if configuration.get("parent") == endpoint.get("parent"):
                return Asked(
                    settings=settings,
                    configuration=configuration["outputs"]["name"],
                    variant=configuration["inputs"]["productionVariants"][0]["variantName"],
                    alarms={
                        alarm["outputs"]["name"]: alarm["inputs"]
                        for alarm in _of_type(current, ALARM)
                    },
                )
    raise InvalidInputError(
        [
            f"stack {settings.stack}: Pulumi's state holds no endpoint {name}; deploy it: "
            f"pulumi up --stack {settings.stack}"
        ]
    )


def _of_type(resources: Iterable[ResourceState], kind: str) -> list[ResourceState]:
    return [each for each in resources if each["type"] == kind]


def live(client: Clients, wanted: Asked) -> Live:
    """What AWS says runs of a stack."""
    name = wanted.settings.endpoint_name
    endpoint = _endpoint(client("sagemaker"), name)
    scaling = client("application-autoscaling")
    resource_id = scalable_id(name, wanted.variant)
    target_pages = scaling.get_paginator("describe_scalable_targets").paginate(
        ServiceNamespace=SERVICE_NAMESPACE
    )
    policy_pages = scaling.get_paginator("describe_scaling_policies").paginate(
        ServiceNamespace=SERVICE_NAMESPACE, ResourceId=resource_id
    )
    schedule_pages = scaling.get_paginator("describe_scheduled_actions").paginate(
        ServiceNamespace=SERVICE_NAMESPACE, ResourceId=resource_id
    )
    targets = [target for page in target_pages for target in page["ScalableTargets"]]
    policies = [policy for page in policy_pages for policy in page["ScalingPolicies"]]
    found = Live(
        endpoint=endpoint,
        targets=[each for each in targets if each["ResourceId"].startswith(scalable_id(name, ""))],
        policies=policies,
        schedules=[action for page in schedule_pages for action in page["ScheduledActions"]],
        alarms=_alarms(client("cloudwatch"), wanted, policies),
        topics={},
        buckets={},
    )
    if endpoint is None:
        return found
    configuration = client("sagemaker").describe_endpoint_config(
        EndpointConfigName=endpoint["EndpointConfigName"]
    )
    output = configuration.get("AsyncInferenceConfig", {}).get("OutputConfig", {})
    weights_uri = _weights_uri(client("sagemaker"), configuration)
    return replace(
        found,
        weights_uri=weights_uri,
        weights=_published(client("s3"), weights_uri) if weights_uri else None,
        configuration=configuration,
        topics={arn: _topic_policy(client("sns"), arn) for arn in topic_arns(output).values()},
        role_policies=_role_policies(client, configuration),
        buckets={name: _reached(client("s3"), name) for name in set(bucket_names(output).values())},
    )


def _weights_uri(
    sagemaker: "SageMakerClient", configuration: "DescribeEndpointConfigOutputTypeDef"
) -> str | None:
    """Where the weights of the first variant's model are mounted from."""
    name = configuration["ProductionVariants"][0]["ModelName"]
    try:
        model = sagemaker.describe_model(ModelName=name)
    except sagemaker.exceptions.ClientError:
        return None
    for source in model["PrimaryContainer"].get("AdditionalModelDataSources", ()):
        if source["ChannelName"] == WEIGHTS_CHANNEL:
            return source["S3DataSource"]["S3Uri"]
    return None


def _published(s3: "S3Client", uri: str) -> Manifest | None:
    """The manifest that `weights publish` wrote; None if it is missing or may not be read."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    try:
        found = s3.get_object(Bucket=bucket, Key=f"{prefix}{MANIFEST}")
    except s3.exceptions.ClientError:
        return None
    return json.loads(found["Body"].read())


def _endpoint(sagemaker: "SageMakerClient", name: str) -> "DescribeEndpointOutputTypeDef | None":
    try:
        return sagemaker.describe_endpoint(EndpointName=name)
    except sagemaker.exceptions.ClientError as error:
        if "Could not find endpoint" in str(error):
            return None
        raise


def _alarms(
    cloudwatch: "CloudWatchClient", wanted: Asked, policies: "Sequence[ScalingPolicyTypeDef]"
) -> "dict[str, MetricAlarmTypeDef]":
    """The alarms that Pulumi deployed, those of target tracking, and others that run a policy."""
    named = {*wanted.alarms, *(a["AlarmName"] for p in policies for a in p.get("Alarms", ()))}
    paginator = cloudwatch.get_paginator("describe_alarms")
    answers = [paginator.paginate(AlarmNames=sorted(named))] if named else []
    answers += [paginator.paginate(ActionPrefix=policy["PolicyARN"]) for policy in policies]
    return {
        alarm["AlarmName"]: alarm
        for pages in answers
        for page in pages
        for alarm in page["MetricAlarms"]
    }


def _topic_policy(sns: "SNSClient", arn: str) -> Mapping[str, object] | None:
    try:
        attributes = sns.get_topic_attributes(TopicArn=arn)["Attributes"]
    except sns.exceptions.NotFoundException:
        return None
    return json.loads(attributes.get("Policy") or "{}")


def _role_policies(
    client: Clients, configuration: "DescribeEndpointConfigOutputTypeDef"
) -> list[Mapping[str, object]]:
    """The policy documents of the role that the configuration's first model runs as."""
    iam = client("iam")
    model = configuration["ProductionVariants"][0]["ModelName"]
    arn = client("sagemaker").describe_model(ModelName=model)["ExecutionRoleArn"]
    role = arn.rpartition("/")[2]
    try:
        documents = list(_policy_documents(iam, role))
    except iam.exceptions.NoSuchEntityException:
        return []
    return [json.loads(unquote(d)) if isinstance(d, str) else d for d in documents]


def _policy_documents(iam: "IAMClient", role: str) -> "Iterator[PolicyDocumentTypeDef]":
    for inline in iam.get_paginator("list_role_policies").paginate(RoleName=role):
        for name in inline["PolicyNames"]:
            yield iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    for attached in iam.get_paginator("list_attached_role_policies").paginate(RoleName=role):
        for policy in attached["AttachedPolicies"]:
            arn = policy["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            found = iam.get_policy_version(PolicyArn=arn, VersionId=version)
            yield found["PolicyVersion"]["Document"]


def _reached(s3: "S3Client", bucket: str) -> bool:
    try:
        s3.head_bucket(Bucket=bucket)
    except s3.exceptions.ClientError:
        return False
    return True
