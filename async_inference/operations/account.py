"""Reads what `verify` compares: Pulumi's state, and what AWS says runs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from async_inference.aws_names import SERVICE_NAMESPACE, scalable_id
from async_inference.operations.verify import Asked, Live, bucket_names, topic_arns
from async_inference.operations.weights import MANIFEST
from async_inference.stack.provider import pulumi_says
from async_inference.stack.settings import Settings
from async_inference.validation import InvalidInputError

WEIGHTS_CHANNEL = "weights"
ENDPOINT = "aws:sagemaker/endpoint:Endpoint"
CONFIGURATION = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"

Clients = Callable[[str], Any]
"""A boto3 client of a service, in the stack's region."""


def exported(stack: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Pulumi's state of a stack, as `pulumi stack export` prints it.

    Args:
        stack: its name.
        environment: the CLI's variables; this process's if None.

    Raises:
        InvalidInputError: the CLI is missing, or knows no such stack.
    """
    return json.loads(pulumi_says("stack", "export", "--stack", stack, environment=environment))


def asked(settings: Settings, state: Mapping[str, Any]) -> Asked:
    """What a stack should be, from its settings and Pulumi's state.

    Raises:
        InvalidInputError: the state holds no endpoint: nothing was deployed.
    """
    resources = (state.get("deployment") or {}).get("resources") or []
    # What a failed update left to be deleted is no longer asked for.
    current = [each for each in resources if not each.get("delete")]
    name = settings.endpoint_name
    for endpoint in _of_type(current, ENDPOINT):
        if endpoint["outputs"].get("name") != name:
            continue
        # The one that the program registered: after a refresh, the endpoint's own property names
        # what SageMaker rolled back to.
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


def _of_type(resources: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in resources if each["type"] == kind]


def live(client: Clients, wanted: Asked) -> Live:
    """What AWS says runs of a stack."""
    name = wanted.settings.endpoint_name
    endpoint = _endpoint(client("sagemaker"), name)
    scaling = client("application-autoscaling")
    targets = [
        target
        for target in pages(
            scaling,
            "describe_scalable_targets",
            "ScalableTargets",
            ServiceNamespace=SERVICE_NAMESPACE,
        )
        if target["ResourceId"].startswith(scalable_id(name, ""))
    ]
    mine = {
        "ServiceNamespace": SERVICE_NAMESPACE,
        "ResourceId": scalable_id(name, wanted.variant),
    }
    policies = pages(scaling, "describe_scaling_policies", "ScalingPolicies", **mine)
    found = Live(
        endpoint=endpoint,
        targets=targets,
        policies=policies,
        schedules=pages(scaling, "describe_scheduled_actions", "ScheduledActions", **mine),
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


def _weights_uri(sagemaker: Any, configuration: Mapping[str, Any]) -> str | None:
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


def _published(s3: Any, uri: str) -> Mapping[str, Any] | None:
    """What `weights publish` wrote beside the weights; None where it, or the right, is missing."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    try:
        found = s3.get_object(Bucket=bucket, Key=f"{prefix}{MANIFEST}")
    except s3.exceptions.ClientError:
        return None
    return json.loads(found["Body"].read())


def _endpoint(sagemaker: Any, name: str) -> Mapping[str, Any] | None:
    try:
        return sagemaker.describe_endpoint(EndpointName=name)
    except sagemaker.exceptions.ClientError as error:
        if "Could not find endpoint" in str(error):
            return None
        raise


def pages(client: Any, operation: str, key: str, **request: Any) -> list[dict[str, Any]]:
    """All documents that a paginated operation gives under a key."""
    pages = client.get_paginator(operation).paginate(**request)
    return [document for page in pages for document in page[key]]


def _alarms(
    cloudwatch: Any, wanted: Asked, policies: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The alarms that Pulumi deployed, those of target tracking, and whatever runs a policy."""
    named = {*wanted.alarms, *(a["AlarmName"] for p in policies for a in p.get("Alarms", ()))}
    asks = [{"AlarmNames": sorted(named)}] if named else []
    asks += [{"ActionPrefix": policy["PolicyARN"]} for policy in policies]
    return {
        alarm["AlarmName"]: alarm
        for ask in asks
        for alarm in pages(cloudwatch, "describe_alarms", "MetricAlarms", **ask)
    }


def _topic_policy(sns: Any, arn: str) -> Mapping[str, Any] | None:
    try:
        attributes = sns.get_topic_attributes(TopicArn=arn)["Attributes"]
    except sns.exceptions.NotFoundException:
        return None
    return json.loads(attributes.get("Policy") or "{}")


def _role_policies(client: Clients, configuration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The policy documents of the role that the configuration's first model runs as."""
    iam = client("iam")
    model = configuration["ProductionVariants"][0]["ModelName"]
    arn = client("sagemaker").describe_model(ModelName=model)["ExecutionRoleArn"]
    role = arn.rpartition("/")[2]
    try:
        inline = pages(iam, "list_role_policies", "PolicyNames", RoleName=role)
        attached = pages(iam, "list_attached_role_policies", "AttachedPolicies", RoleName=role)
    except iam.exceptions.NoSuchEntityException:
        return []
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in inline
    ]
    for policy in attached:
        version = iam.get_policy(PolicyArn=policy["PolicyArn"])["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId=version)
        documents.append(found["PolicyVersion"]["Document"])
    return [json.loads(unquote(d)) if isinstance(d, str) else d for d in documents]


def _reached(s3: Any, bucket: str) -> bool:
    try:
        s3.head_bucket(Bucket=bucket)
    except s3.exceptions.ClientError:
        return False
    return True
