"""The resources of package `aws` that the program registers, as calls to the embedded AWS.

A table: for each type how it is created, read, updated and deleted, which outputs AWS computes, and
which properties replace it. Those follow the provider (pulumi-aws 7.51, bridged from
terraform-provider-aws 6): a preview is only true if they do.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from async_inference.local_aws.clients import ACCOUNT_ID

Properties = dict[str, Any]
Clients = Callable[[str], Any]

WAIT_S = 3600.0
"""The provider waits at most 60 minutes for an endpoint to be in service."""


@dataclass(frozen=True)
class Autoname:
    """How the provider names a resource that the program does not."""

    property: str
    most: int
    lower_case: bool = False


@dataclass(frozen=True)
class Kind:
    """One resource type.

    Args:
        create: makes the resource; returns its id.
        read: what AWS says of it now, as properties; None if it is gone.
        delete: removes it; one that is gone already is fine.
        update: applies new inputs; None where every change replaces.
        replaces: properties (or `property.member`) whose change makes a new resource; None for all
            but tags.
        computed: outputs that are no inputs, unknown until it exists.
        autoname: how it is named.
    """

    create: Callable[[Clients, Properties], str]
    read: Callable[[Clients, str, Properties], Properties | None]
    delete: Callable[[Clients, str, Properties], None]
    update: Callable[[Clients, str, Properties, Properties], None] | None = None
    replaces: frozenset[str] | None = frozenset()
    computed: frozenset[str] = frozenset({"arn", "tagsAll"})
    autoname: Autoname | None = None


def gone(error: ClientError) -> bool:
    """Whether an error says that the resource does not exist."""
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    return (
        "NotFound" in code
        or code.startswith("NoSuch")
        or "Could not find" in message
        or code in ("404", "NoSuchEntity")
    )


def unless_gone(call: Callable[..., Any], **arguments: Any) -> Any:
    """A call's answer, None if what it names does not exist."""
    try:
        return call(**arguments)
    except ClientError as error:
        if gone(error):
            return None
        raise


def tag_list(properties: Properties) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in (properties.get("tags") or {}).items()]


def from_tag_list(tags: Iterable[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


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


def camel(value: Any) -> Any:
    """AWS's keys as Pulumi writes them, all the way down."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: camel(item) for key, item in value.items()}
    return [camel(item) for item in value] if isinstance(value, list) else value


# S3


def _create_bucket(clients: Clients, p: Properties) -> str:
    s3 = clients("s3")
    region = s3.meta.region_name
    where = (
        {}
        if region == "us-east-1"
        else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    )
    s3.create_bucket(Bucket=p["bucket"], **where)
    _tag_bucket(clients, p["bucket"], p)
    return p["bucket"]


def _tag_bucket(clients: Clients, bucket: str, p: Properties) -> None:
    if tag_list(p):
        clients("s3").put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tag_list(p)})
    else:
        clients("s3").delete_bucket_tagging(Bucket=bucket)


def _read_bucket(clients: Clients, bucket: str, p: Properties) -> Properties | None:
    s3 = clients("s3")
    if unless_gone(s3.head_bucket, Bucket=bucket) is None:
        return None
    tags = unless_gone(s3.get_bucket_tagging, Bucket=bucket) or {"TagSet": []}
    return {
        "bucket": bucket,
        "arn": f"arn:aws:s3:::{bucket}",
        "tags": from_tag_list(tags["TagSet"]),
    }


def _delete_bucket(clients: Clients, bucket: str, p: Properties) -> None:
    s3 = clients("s3")
    if p.get("forceDestroy"):
        pages = s3.get_paginator("list_object_versions")
        try:
            for page in pages.paginate(Bucket=bucket):
                for version in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    s3.delete_object(
                        Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"]
                    )
        except ClientError as error:
            if not gone(error):
                raise
    unless_gone(s3.delete_bucket, Bucket=bucket)


def _bucket_setting(
    put: str,
    get: str,
    delete: str | None,
    request: Callable[[Properties], dict[str, Any]],
    answer: Callable[[dict[str, Any]], Properties],
) -> Kind:
    """A sub-resource of a bucket: put, got and deleted by the bucket's name; None: it stays."""

    def create(clients: Clients, p: Properties) -> str:
        getattr(clients("s3"), put)(Bucket=p["bucket"], **request(p))
        return p["bucket"]

    def read(clients: Clients, bucket: str, p: Properties) -> Properties | None:
        found = unless_gone(getattr(clients("s3"), get), Bucket=bucket)
        return None if found is None else {"bucket": bucket, **answer(found)}

    def remove(clients: Clients, bucket: str, p: Properties) -> None:
        if delete is not None:
            unless_gone(getattr(clients("s3"), delete), Bucket=bucket)

    return Kind(
        create=create,
        read=read,
        delete=remove,
        update=lambda clients, bucket, old, new: _discard(create(clients, new)),
        replaces=frozenset({"bucket"}),
        computed=frozenset(),
    )


def _discard(_: object) -> None:
    return None


def _encryption_rule(rule: Properties) -> dict[str, Any]:
    default = rule["applyServerSideEncryptionByDefault"]
    written = {"SSEAlgorithm": default["sseAlgorithm"]}
    if default.get("kmsMasterKeyId"):
        written["KMSMasterKeyID"] = default["kmsMasterKeyId"]
    whole: dict[str, Any] = {"ApplyServerSideEncryptionByDefault": written}
    if rule.get("bucketKeyEnabled") is not None:
        whole["BucketKeyEnabled"] = rule["bucketKeyEnabled"]
    return whole


def _encryption(found: dict[str, Any]) -> Properties:
    rules = []
    for rule in found["ServerSideEncryptionConfiguration"]["Rules"]:
        default = rule["ApplyServerSideEncryptionByDefault"]
        read = {"sseAlgorithm": default["SSEAlgorithm"]}
        if "KMSMasterKeyID" in default:
            read["kmsMasterKeyId"] = default["KMSMasterKeyID"]
        whole: Properties = {"applyServerSideEncryptionByDefault": read}
        if rule.get("BucketKeyEnabled"):
            whole["bucketKeyEnabled"] = True
        rules.append(whole)
    return {"rules": rules}


def _lifecycle_rule(rule: Properties) -> dict[str, Any]:
    written = pascal(rule)
    # AWS spells these two in capitals.
    written["ID"] = written.pop("Id")
    return written


def _lifecycle(found: dict[str, Any]) -> Properties:
    rules = camel(found["Rules"])
    return {"rules": [{"id": rule.pop("iD"), **rule} for rule in rules]}


_BLOCKS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


def _put_object(clients: Clients, p: Properties) -> str:
    with open(p["source"], "rb") as body:
        clients("s3").put_object(
            Bucket=p["bucket"],
            Key=p["key"],
            Body=body.read(),
            Tagging="&".join(f"{key}={value}" for key, value in (p.get("tags") or {}).items()),
        )
    return p["key"]


def _read_object(clients: Clients, key: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("s3").head_object, Bucket=p["bucket"], Key=key)
    return None if found is None else {"key": key, "etag": found["ETag"].strip('"')}


def _delete_object(clients: Clients, key: str, p: Properties) -> None:
    unless_gone(clients("s3").delete_object, Bucket=p["bucket"], Key=key)


# IAM


def _create_role(clients: Clients, p: Properties) -> str:
    clients("iam").create_role(
        RoleName=p["name"],
        AssumeRolePolicyDocument=p["assumeRolePolicy"],
        Tags=tag_list(p),
    )
    return p["name"]


def _read_role(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("iam").get_role, RoleName=name)
    if found is None:
        return None
    role = found["Role"]
    return {"name": name, "arn": role["Arn"], "tags": from_tag_list(role.get("Tags", []))}


def _update_role(clients: Clients, name: str, old: Properties, new: Properties) -> None:
    iam = clients("iam")
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=new["assumeRolePolicy"])
    iam.untag_role(RoleName=name, TagKeys=list(old.get("tags") or {}))
    iam.tag_role(RoleName=name, Tags=tag_list(new))


def _put_role_policy(clients: Clients, p: Properties) -> str:
    clients("iam").put_role_policy(
        RoleName=p["role"], PolicyName=p["name"], PolicyDocument=p["policy"]
    )
    return f"{p['role']}:{p['name']}"


def _read_role_policy(clients: Clients, identity: str, p: Properties) -> Properties | None:
    role, _, name = identity.partition(":")
    found = unless_gone(clients("iam").get_role_policy, RoleName=role, PolicyName=name)
    return None if found is None else {"role": role, "name": name}


def _delete_role_policy(clients: Clients, identity: str, p: Properties) -> None:
    role, _, name = identity.partition(":")
    unless_gone(clients("iam").delete_role_policy, RoleName=role, PolicyName=name)


# SageMaker


def _create_model(clients: Clients, p: Properties) -> str:
    container = dict(p["primaryContainer"])
    sources = [
        {
            "ChannelName": source["channelName"],
            "S3DataSource": pascal(source["s3DataSources"][0]),
        }
        for source in container.pop("additionalModelDataSources", None) or []
    ]
    variables = container.pop("environment", {})
    request = pascal(container) | {"Environment": variables}
    if sources:
        request["AdditionalModelDataSources"] = sources
    clients("sagemaker").create_model(
        ModelName=p["name"],
        ExecutionRoleArn=p["executionRoleArn"],
        PrimaryContainer=request,
        Tags=tag_list(p),
        **({"VpcConfig": pascal(p["vpcConfig"])} if p.get("vpcConfig") else {}),
        **({"EnableNetworkIsolation": True} if p.get("enableNetworkIsolation") else {}),
    )
    return p["name"]


def _sagemaker_tags(clients: Clients, arn: str) -> dict[str, str]:
    return from_tag_list(clients("sagemaker").list_tags(ResourceArn=arn)["Tags"])


def _read_model(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("sagemaker").describe_model, ModelName=name)
    if found is None:
        return None
    arn = found["ModelArn"]
    return {"name": name, "arn": arn, "tags": _sagemaker_tags(clients, arn)}


def _create_configuration(clients: Clients, p: Properties) -> str:
    variants = [
        {
            key.replace("TimeoutInSeconds", "TimeoutInSeconds"): value
            for key, value in pascal(variant).items()
        }
        for variant in p["productionVariants"]
    ]
    asynchronous = pascal(p["asyncInferenceConfig"])
    output = asynchronous["OutputConfig"]
    # S3 keeps its capitals in AWS's names: s3OutputPath becomes S3OutputPath.
    asynchronous["OutputConfig"] = {
        key: value for key, value in output.items() if value not in (None, "")
    }
    clients("sagemaker").create_endpoint_config(
        EndpointConfigName=p["name"],
        ProductionVariants=variants,
        AsyncInferenceConfig=asynchronous,
        Tags=tag_list(p),
        **({"KmsKeyId": p["kmsKeyArn"]} if p.get("kmsKeyArn") else {}),
    )
    return p["name"]


def _read_configuration(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("sagemaker").describe_endpoint_config, EndpointConfigName=name)
    if found is None:
        return None
    arn = found["EndpointConfigArn"]
    return {"name": name, "arn": arn, "tags": _sagemaker_tags(clients, arn)}


def _create_endpoint(clients: Clients, p: Properties) -> str:
    clients("sagemaker").create_endpoint(
        EndpointName=p["name"],
        EndpointConfigName=p["endpointConfigName"],
        Tags=tag_list(p),
        **_deployment(p),
    )
    _wait_in_service(clients, p["name"])
    return p["name"]


def _deployment(p: Properties) -> dict[str, Any]:
    config = p.get("deploymentConfig")
    return {"DeploymentConfig": pascal(config)} if config else {}


def _wait_in_service(clients: Clients, name: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        found = clients("sagemaker").describe_endpoint(EndpointName=name)
        if found["EndpointStatus"] == "InService":
            # Also after a rollback, which the provider reports as success (TF #48997).
            return
        if found["EndpointStatus"] == "Failed":
            raise RuntimeError(f"endpoint {name} failed: {found.get('FailureReason')}")
        time.sleep(0.1)
    raise TimeoutError(f"endpoint {name} was not in service within {WAIT_S:.0f} s")


def _read_endpoint(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("sagemaker").describe_endpoint, EndpointName=name)
    if found is None:
        return None
    return {
        "name": name,
        "arn": found["EndpointArn"],
        "endpointConfigName": found["EndpointConfigName"],
        "tags": _sagemaker_tags(clients, found["EndpointArn"]),
    }


def _update_endpoint(clients: Clients, name: str, old: Properties, new: Properties) -> None:
    sagemaker = clients("sagemaker")
    # As the provider does: a changed deployment config alone is an update too.
    if any(new.get(key) != old.get(key) for key in ("endpointConfigName", "deploymentConfig")):
        sagemaker.update_endpoint(
            EndpointName=name, EndpointConfigName=new["endpointConfigName"], **_deployment(new)
        )
        _wait_in_service(clients, name)
    _retag_sagemaker(clients, name, old, new)


def _retag_sagemaker(clients: Clients, name: str, old: Properties, new: Properties) -> None:
    sagemaker = clients("sagemaker")
    removed = (old.get("tags") or {}).keys() - (new.get("tags") or {}).keys()
    if removed:
        sagemaker.delete_tags(ResourceArn=old["arn"], TagKeys=sorted(removed))
    if tag_list(new):
        sagemaker.add_tags(ResourceArn=old["arn"], Tags=tag_list(new))


def _delete_endpoint(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(clients("sagemaker").delete_endpoint, EndpointName=name)


# Application Auto Scaling


def _scaled(p: Properties) -> dict[str, str]:
    return {
        "ServiceNamespace": p["serviceNamespace"],
        "ResourceId": p["resourceId"],
        "ScalableDimension": p["scalableDimension"],
    }


def _register_target(clients: Clients, p: Properties) -> str:
    tags = {"Tags": p["tags"]} if p.get("tags") else {}
    clients("application-autoscaling").register_scalable_target(
        **_scaled(p), MinCapacity=int(p["minCapacity"]), MaxCapacity=int(p["maxCapacity"]), **tags
    )
    return p["resourceId"]


def _read_target(clients: Clients, resource_id: str, p: Properties) -> Properties | None:
    scaling = clients("application-autoscaling")
    found = scaling.describe_scalable_targets(
        ServiceNamespace=p.get("serviceNamespace", "sagemaker"), ResourceIds=[resource_id]
    )["ScalableTargets"]
    if not found:
        return None
    arn = found[0]["ScalableTargetARN"]
    return {
        "arn": arn,
        "minCapacity": found[0]["MinCapacity"],
        "maxCapacity": found[0]["MaxCapacity"],
        "tags": scaling.list_tags_for_resource(ResourceARN=arn)["Tags"],
    }


def _update_target(clients: Clients, resource_id: str, old: Properties, new: Properties) -> None:
    scaling = clients("application-autoscaling")
    _register_target(clients, {**new, "tags": None})
    removed = (old.get("tags") or {}).keys() - (new.get("tags") or {}).keys()
    if removed:
        scaling.untag_resource(ResourceARN=old["arn"], TagKeys=sorted(removed))
    if new.get("tags"):
        scaling.tag_resource(ResourceARN=old["arn"], Tags=new["tags"])


def _deregister_target(clients: Clients, resource_id: str, p: Properties) -> None:
    unless_gone(clients("application-autoscaling").deregister_scalable_target, **_scaled(p))


def _put_policy(clients: Clients, p: Properties) -> str:
    request: dict[str, Any] = {}
    steps = p.get("stepScalingPolicyConfiguration")
    tracking = p.get("targetTrackingScalingPolicyConfiguration")
    if steps:
        adjustments = [
            {
                key: float(value) if key.startswith("Metric") else int(value)
                for key, value in pascal(step).items()
            }
            for step in steps.get("stepAdjustments") or []
        ]
        request["StepScalingPolicyConfiguration"] = pascal(
            {key: value for key, value in steps.items() if key != "stepAdjustments"}
        ) | {"StepAdjustments": adjustments}
    if tracking:
        request["TargetTrackingScalingPolicyConfiguration"] = pascal(tracking) | {
            "TargetValue": float(tracking["targetValue"])
        }
    clients("application-autoscaling").put_scaling_policy(
        **_scaled(p), PolicyName=p["name"], PolicyType=p.get("policyType", "StepScaling"), **request
    )
    return p["name"]


def _read_policy(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = unless_gone(
        clients("application-autoscaling").describe_scaling_policies,
        ServiceNamespace=p["serviceNamespace"],
        ResourceId=p["resourceId"],
        PolicyNames=[name],
    )
    if not found or not found["ScalingPolicies"]:
        return None
    policy = found["ScalingPolicies"][0]
    return {
        "name": name,
        "arn": policy["PolicyARN"],
        "alarmArns": [alarm["AlarmARN"] for alarm in policy.get("Alarms", [])],
    }


def _delete_policy(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(
        clients("application-autoscaling").delete_scaling_policy, **_scaled(p), PolicyName=name
    )


def _put_schedule(clients: Clients, p: Properties) -> str:
    clients("application-autoscaling").put_scheduled_action(
        **_scaled(p),
        ScheduledActionName=p["name"],
        Schedule=p["schedule"],
        Timezone=p.get("timezone", "UTC"),
        ScalableTargetAction={
            key: int(value) for key, value in pascal(p["scalableTargetAction"]).items()
        },
    )
    return p["name"]


def _read_schedule(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = clients("application-autoscaling").describe_scheduled_actions(
        ServiceNamespace=p["serviceNamespace"],
        ResourceId=p["resourceId"],
        ScheduledActionNames=[name],
    )["ScheduledActions"]
    return {"name": name, "arn": found[0]["ScheduledActionARN"]} if found else None


def _delete_schedule(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(
        clients("application-autoscaling").delete_scheduled_action,
        **_scaled(p),
        ScheduledActionName=name,
    )


# CloudWatch


_ALARM = {
    "alarmDescription": "AlarmDescription",
    "namespace": "Namespace",
    "metricName": "MetricName",
    "statistic": "Statistic",
    "comparisonOperator": "ComparisonOperator",
    "threshold": "Threshold",
    "period": "Period",
    "evaluationPeriods": "EvaluationPeriods",
    "datapointsToAlarm": "DatapointsToAlarm",
    "treatMissingData": "TreatMissingData",
    "alarmActions": "AlarmActions",
    "okActions": "OKActions",
}
_WHOLE_NUMBERS = ("Period", "EvaluationPeriods", "DatapointsToAlarm")


def _put_alarm(clients: Clients, p: Properties) -> str:
    request = {_ALARM[key]: p[key] for key in _ALARM if p.get(key) is not None}
    request |= {key: int(request[key]) for key in _WHOLE_NUMBERS if key in request}
    if p.get("metricQueries"):
        request["Metrics"] = [_metric_query(query) for query in p["metricQueries"]]
    else:
        request["Dimensions"] = _dimensions(p.get("dimensions") or {})
    clients("cloudwatch").put_metric_alarm(
        AlarmName=p["name"],
        Tags=tag_list(p),
        **request,
    )
    return p["name"]


def _dimensions(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in values.items()]


def _metric_query(query: Properties) -> dict[str, Any]:
    written = {
        key[0].upper() + key[1:]: value
        for key, value in query.items()
        if key != "metric" and value is not None
    }
    metric = query.get("metric")
    if metric is None:
        return written
    return written | {
        # An input of an expression, unless it says otherwise (TF aws_cloudwatch_metric_alarm).
        "ReturnData": query.get("returnData") or False,
        "MetricStat": {
            "Metric": {
                "Namespace": metric["namespace"],
                "MetricName": metric["metricName"],
                "Dimensions": _dimensions(metric["dimensions"]),
            },
            "Period": int(metric["period"]),
            "Stat": metric["stat"],
        },
    }


def _read_alarm(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = clients("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    if not found:
        return None
    alarm = found[0]
    read = {key: alarm[name] for key, name in _ALARM.items() if key in p and name in alarm}
    if "dimensions" in p:
        read["dimensions"] = {d["Name"]: d["Value"] for d in alarm["Dimensions"]}
    return {**read, "name": name, "arn": alarm["AlarmArn"]}


def _delete_alarm(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(clients("cloudwatch").delete_alarms, AlarmNames=[name])


def _put_dashboard(clients: Clients, p: Properties) -> str:
    clients("cloudwatch").put_dashboard(
        DashboardName=p["dashboardName"], DashboardBody=p["dashboardBody"]
    )
    return p["dashboardName"]


def _read_dashboard(clients: Clients, name: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("cloudwatch").get_dashboard, DashboardName=name)
    if found is None:
        return None
    return {
        "dashboardName": name,
        "dashboardBody": found["DashboardBody"],
        "dashboardArn": found["DashboardArn"],
    }


def _delete_dashboard(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(clients("cloudwatch").delete_dashboards, DashboardNames=[name])


# CloudWatch Logs


def _create_log_group(clients: Clients, p: Properties) -> str:
    logs = clients("logs")
    key = {"kmsKeyId": p["kmsKeyId"]} if p.get("kmsKeyId") else {}
    logs.create_log_group(logGroupName=p["name"], tags=p.get("tags") or {}, **key)
    _keep_log(clients, p)
    return p["name"]


def _keep_log(clients: Clients, p: Properties) -> None:
    logs, days = clients("logs"), p.get("retentionInDays")
    if days:
        logs.put_retention_policy(logGroupName=p["name"], retentionInDays=int(days))
    else:
        logs.delete_retention_policy(logGroupName=p["name"])


def _log_group(clients: Clients, name: str) -> dict[str, Any] | None:
    found = clients("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return next((group for group in found if group["logGroupName"] == name), None)


def _read_log_group(clients: Clients, name: str, p: Properties) -> Properties | None:
    group = _log_group(clients, name)
    if group is None:
        return None
    arn = group["arn"].removesuffix(":*")
    read = {
        "name": name,
        "arn": arn,
        "retentionInDays": group.get("retentionInDays"),
        "tags": clients("logs").list_tags_for_resource(resourceArn=arn)["tags"],
    }
    return read | ({"kmsKeyId": group["kmsKeyId"]} if "kmsKeyId" in group else {})


def _update_log_group(clients: Clients, name: str, old: Properties, new: Properties) -> None:
    logs = clients("logs")
    _keep_log(clients, new)
    if new.get("kmsKeyId") != old.get("kmsKeyId"):
        if new.get("kmsKeyId"):
            logs.associate_kms_key(logGroupName=name, kmsKeyId=new["kmsKeyId"])
        else:
            logs.disassociate_kms_key(logGroupName=name)
    removed = (old.get("tags") or {}).keys() - (new.get("tags") or {}).keys()
    if removed:
        logs.untag_resource(resourceArn=old["arn"], tagKeys=sorted(removed))
    if new.get("tags"):
        logs.tag_resource(resourceArn=old["arn"], tags=new["tags"])


def _delete_log_group(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(clients("logs").delete_log_group, logGroupName=name)


# KMS


def _create_key(clients: Clients, p: Properties) -> str:
    kms = clients("kms")
    created = kms.create_key(
        Description=p.get("description", ""),
        Policy=p["policy"],
        Tags=[{"TagKey": key, "TagValue": value} for key, value in (p.get("tags") or {}).items()],
    )["KeyMetadata"]
    if p.get("enableKeyRotation"):
        kms.enable_key_rotation(KeyId=created["KeyId"])
    return created["KeyId"]


def _key(clients: Clients, key_id: str) -> dict[str, Any] | None:
    found = unless_gone(clients("kms").describe_key, KeyId=key_id)
    if found is None or found["KeyMetadata"]["KeyState"] == "PendingDeletion":
        return None
    return found["KeyMetadata"]


def _read_key(clients: Clients, key_id: str, p: Properties) -> Properties | None:
    kms, key = clients("kms"), _key(clients, key_id)
    if key is None:
        return None
    tags = kms.list_resource_tags(KeyId=key_id)["Tags"]
    return {
        "arn": key["Arn"],
        "keyId": key_id,
        "description": key["Description"],
        "policy": kms.get_key_policy(KeyId=key_id, PolicyName="default")["Policy"],
        "enableKeyRotation": kms.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"],
        "tags": {tag["TagKey"]: tag["TagValue"] for tag in tags},
    }


def _update_key(clients: Clients, key_id: str, old: Properties, new: Properties) -> None:
    kms = clients("kms")
    kms.put_key_policy(KeyId=key_id, PolicyName="default", Policy=new["policy"])
    kms.update_key_description(KeyId=key_id, Description=new.get("description", ""))
    if new.get("enableKeyRotation"):
        kms.enable_key_rotation(KeyId=key_id)
    else:
        kms.disable_key_rotation(KeyId=key_id)
    removed = (old.get("tags") or {}).keys() - (new.get("tags") or {}).keys()
    if removed:
        kms.untag_resource(KeyId=key_id, TagKeys=sorted(removed))
    tags = [{"TagKey": key, "TagValue": value} for key, value in (new.get("tags") or {}).items()]
    if tags:
        kms.tag_resource(KeyId=key_id, Tags=tags)


def _delete_key(clients: Clients, key_id: str, p: Properties) -> None:
    if _key(clients, key_id) is not None:
        clients("kms").schedule_key_deletion(
            KeyId=key_id, PendingWindowInDays=int(p.get("deletionWindowInDays") or 30)
        )


def _create_alias(clients: Clients, p: Properties) -> str:
    clients("kms").create_alias(AliasName=p["name"], TargetKeyId=p["targetKeyId"])
    return p["name"]


def _read_alias(clients: Clients, name: str, p: Properties) -> Properties | None:
    for page in clients("kms").get_paginator("list_aliases").paginate():
        for alias in page["Aliases"]:
            if alias["AliasName"] == name:
                return {
                    "name": name,
                    "arn": alias["AliasArn"],
                    "targetKeyId": alias["TargetKeyId"],
                    "targetKeyArn": alias["AliasArn"].rpartition(":")[0]
                    + f":key/{alias['TargetKeyId']}",
                }
    return None


def _update_alias(clients: Clients, name: str, old: Properties, new: Properties) -> None:
    clients("kms").update_alias(AliasName=name, TargetKeyId=new["targetKeyId"])


def _delete_alias(clients: Clients, name: str, p: Properties) -> None:
    unless_gone(clients("kms").delete_alias, AliasName=name)


# Budgets


def _budget(p: Properties) -> dict[str, Any]:
    return {
        "BudgetName": p["name"],
        "BudgetType": p["budgetType"],
        "TimeUnit": p["timeUnit"],
        "BudgetLimit": {"Amount": p["limitAmount"], "Unit": p["limitUnit"]},
        "CostFilters": {each["name"]: each["values"] for each in p.get("costFilters") or []},
    }


def _create_budget(clients: Clients, p: Properties) -> str:
    tags = [{"Key": key, "Value": value} for key, value in (p.get("tags") or {}).items()]
    clients("budgets").create_budget(
        AccountId=ACCOUNT_ID,
        Budget=_budget(p),
        NotificationsWithSubscribers=[
            {
                "Notification": {
                    "NotificationType": each["notificationType"],
                    "ComparisonOperator": each["comparisonOperator"],
                    "Threshold": float(each["threshold"]),
                    "ThresholdType": each["thresholdType"],
                },
                "Subscribers": [
                    {"SubscriptionType": "SNS", "Address": arn}
                    for arn in each.get("subscriberSnsTopicArns") or []
                ],
            }
            for each in p.get("notifications") or []
        ],
        **({"ResourceTags": tags} if tags else {}),
    )
    return f"{ACCOUNT_ID}:{p['name']}"


def _read_budget(clients: Clients, identity: str, p: Properties) -> Properties | None:
    name = identity.partition(":")[2]
    found = unless_gone(clients("budgets").describe_budget, AccountId=ACCOUNT_ID, BudgetName=name)
    if found is None:
        return None
    return {"name": name, "arn": f"arn:aws:budgets::{ACCOUNT_ID}:budget/{name}"}


def _update_budget(clients: Clients, identity: str, old: Properties, new: Properties) -> None:
    # moto knows neither UpdateBudget nor changed notifications.
    _delete_budget(clients, identity, old)
    _create_budget(clients, new)


def _delete_budget(clients: Clients, identity: str, p: Properties) -> None:
    name = identity.partition(":")[2]
    unless_gone(clients("budgets").delete_budget, AccountId=ACCOUNT_ID, BudgetName=name)


# SNS


def _create_topic(clients: Clients, p: Properties) -> str:
    attributes = {"KmsMasterKeyId": p["kmsMasterKeyId"]} if p.get("kmsMasterKeyId") else {}
    return clients("sns").create_topic(Name=p["name"], Attributes=attributes, Tags=tag_list(p))[
        "TopicArn"
    ]


def _read_topic(clients: Clients, arn: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("sns").get_topic_attributes, TopicArn=arn)
    if found is None:
        return None
    tags = clients("sns").list_tags_for_resource(ResourceArn=arn)["Tags"]
    read = {"name": arn.rpartition(":")[2], "arn": arn, "tags": from_tag_list(tags)}
    key = found["Attributes"].get("KmsMasterKeyId")
    return read | ({"kmsMasterKeyId": key} if key else {})


def _update_topic(clients: Clients, arn: str, old: Properties, new: Properties) -> None:
    sns = clients("sns")
    sns.set_topic_attributes(
        TopicArn=arn,
        AttributeName="KmsMasterKeyId",
        AttributeValue=new.get("kmsMasterKeyId") or "",
    )
    sns.untag_resource(ResourceArn=arn, TagKeys=list(old.get("tags") or {}))
    sns.tag_resource(ResourceArn=arn, Tags=tag_list(new))


def _delete_topic(clients: Clients, arn: str, p: Properties) -> None:
    unless_gone(clients("sns").delete_topic, TopicArn=arn)


def _subscribe(clients: Clients, p: Properties) -> str:
    return clients("sns").subscribe(
        TopicArn=p["topic"],
        Protocol=p["protocol"],
        Endpoint=p["endpoint"],
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]


def _read_subscription(clients: Clients, arn: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("sns").get_subscription_attributes, SubscriptionArn=arn)
    return None if found is None else {"arn": arn}


def _unsubscribe(clients: Clients, arn: str, p: Properties) -> None:
    unless_gone(clients("sns").unsubscribe, SubscriptionArn=arn)


def _put_topic_policy(clients: Clients, p: Properties) -> str:
    clients("sns").set_topic_attributes(
        TopicArn=p["arn"], AttributeName="Policy", AttributeValue=p["policy"]
    )
    return p["arn"]


def _read_topic_policy(clients: Clients, arn: str, p: Properties) -> Properties | None:
    found = unless_gone(clients("sns").get_topic_attributes, TopicArn=arn)
    if found is None:
        return None
    return {"arn": arn, "policy": found["Attributes"]["Policy"], "owner": ACCOUNT_ID}


_SCALED = frozenset({"name", "resourceId", "scalableDimension", "serviceNamespace"})

KINDS: dict[str, Kind] = {
    "aws:s3/bucket:Bucket": Kind(
        create=_create_bucket,
        read=_read_bucket,
        delete=_delete_bucket,
        update=lambda clients, bucket, old, new: _tag_bucket(clients, bucket, new),
        replaces=frozenset({"bucket", "bucketPrefix"}),
        autoname=Autoname("bucket", 63, lower_case=True),
    ),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": _bucket_setting(
        "put_public_access_block",
        "get_public_access_block",
        "delete_public_access_block",
        lambda p: {"PublicAccessBlockConfiguration": pascal({key: p[key] for key in _BLOCKS})},
        lambda found: camel(found["PublicAccessBlockConfiguration"]),
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": _bucket_setting(
        "put_bucket_ownership_controls",
        "get_bucket_ownership_controls",
        "delete_bucket_ownership_controls",
        lambda p: {"OwnershipControls": {"Rules": [pascal(p["rule"])]}},
        lambda found: {"rule": camel(found["OwnershipControls"]["Rules"][0])},
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": (
        _bucket_setting(
            "put_bucket_encryption",
            "get_bucket_encryption",
            "delete_bucket_encryption",
            lambda p: {
                "ServerSideEncryptionConfiguration": {
                    "Rules": [_encryption_rule(rule) for rule in p["rules"]]
                }
            },
            _encryption,
        )
    ),
    "aws:s3/bucketVersioning:BucketVersioning": _bucket_setting(
        "put_bucket_versioning",
        "get_bucket_versioning",
        None,
        lambda p: {"VersioningConfiguration": pascal(p["versioningConfiguration"])},
        lambda found: {"versioningConfiguration": {"status": found.get("Status", "Disabled")}},
    ),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": _bucket_setting(
        "put_bucket_lifecycle_configuration",
        "get_bucket_lifecycle_configuration",
        "delete_bucket_lifecycle",
        lambda p: {
            "LifecycleConfiguration": {"Rules": [_lifecycle_rule(rule) for rule in p["rules"]]}
        },
        _lifecycle,
    ),
    "aws:s3/bucketPolicy:BucketPolicy": _bucket_setting(
        "put_bucket_policy",
        "get_bucket_policy",
        "delete_bucket_policy",
        lambda p: {"Policy": p["policy"]},
        lambda found: {"policy": found["Policy"]},
    ),
    "aws:s3/bucketObjectv2:BucketObjectv2": Kind(
        create=_put_object,
        read=_read_object,
        delete=_delete_object,
        update=lambda clients, key, old, new: _discard(_put_object(clients, new)),
        replaces=frozenset({"bucket", "key"}),
        computed=frozenset({"etag", "tagsAll"}),
    ),
    "aws:iam/role:Role": Kind(
        create=_create_role,
        read=_read_role,
        delete=lambda clients, name, p: _discard(
            unless_gone(clients("iam").delete_role, RoleName=name)
        ),
        update=_update_role,
        replaces=frozenset({"name", "namePrefix", "path"}),
        autoname=Autoname("name", 64),
    ),
    "aws:iam/rolePolicy:RolePolicy": Kind(
        create=_put_role_policy,
        read=_read_role_policy,
        delete=_delete_role_policy,
        update=lambda clients, identity, old, new: _discard(_put_role_policy(clients, new)),
        replaces=frozenset({"name", "namePrefix", "role"}),
        computed=frozenset(),
        autoname=Autoname("name", 128),
    ),
    "aws:sagemaker/model:Model": Kind(
        create=_create_model,
        read=_read_model,
        delete=lambda clients, name, p: _discard(
            unless_gone(clients("sagemaker").delete_model, ModelName=name)
        ),
        update=_retag_sagemaker,
        replaces=None,
        autoname=Autoname("name", 63),
    ),
    "aws:sagemaker/endpointConfiguration:EndpointConfiguration": Kind(
        create=_create_configuration,
        read=_read_configuration,
        delete=lambda clients, name, p: _discard(
            unless_gone(clients("sagemaker").delete_endpoint_config, EndpointConfigName=name)
        ),
        update=_retag_sagemaker,
        replaces=None,
        autoname=Autoname("name", 63),
    ),
    "aws:sagemaker/endpoint:Endpoint": Kind(
        create=_create_endpoint,
        read=_read_endpoint,
        delete=_delete_endpoint,
        update=_update_endpoint,
        # In the provider only deploymentConfig.autoRollbackConfiguration does (ForceNew).
        replaces=frozenset({"name", "deploymentConfig.autoRollbackConfiguration"}),
        autoname=Autoname("name", 63),
    ),
    "aws:appautoscaling/target:Target": Kind(
        create=_register_target,
        read=_read_target,
        delete=_deregister_target,
        update=_update_target,
        replaces=_SCALED - {"name"},
    ),
    "aws:appautoscaling/policy:Policy": Kind(
        create=_put_policy,
        read=_read_policy,
        delete=_delete_policy,
        update=lambda clients, name, old, new: _discard(_put_policy(clients, new)),
        replaces=_SCALED,
        computed=frozenset({"arn", "alarmArns"}),
        autoname=Autoname("name", 255),
    ),
    "aws:appautoscaling/scheduledAction:ScheduledAction": Kind(
        create=_put_schedule,
        read=_read_schedule,
        delete=_delete_schedule,
        update=lambda clients, name, old, new: _discard(_put_schedule(clients, new)),
        replaces=_SCALED,
        computed=frozenset({"arn"}),
        autoname=Autoname("name", 256),
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": Kind(
        create=_put_alarm,
        read=_read_alarm,
        delete=_delete_alarm,
        update=lambda clients, name, old, new: _discard(_put_alarm(clients, new)),
        replaces=frozenset({"name"}),
        autoname=Autoname("name", 255),
    ),
    "aws:sns/topic:Topic": Kind(
        create=_create_topic,
        read=_read_topic,
        delete=_delete_topic,
        update=_update_topic,
        replaces=frozenset({"name", "namePrefix", "fifoTopic"}),
        autoname=Autoname("name", 256),
    ),
    "aws:sns/topicPolicy:TopicPolicy": Kind(
        create=_put_topic_policy,
        read=_read_topic_policy,
        # It goes with its topic; the provider puts SNS's default back meanwhile.
        delete=lambda clients, arn, p: None,
        update=lambda clients, arn, old, new: _discard(_put_topic_policy(clients, new)),
        replaces=frozenset({"arn"}),
        computed=frozenset({"owner"}),
    ),
    "aws:cloudwatch/dashboard:Dashboard": Kind(
        create=_put_dashboard,
        read=_read_dashboard,
        delete=_delete_dashboard,
        update=lambda clients, name, old, new: _discard(_put_dashboard(clients, new)),
        replaces=frozenset({"dashboardName"}),
        computed=frozenset({"dashboardArn"}),
    ),
    "aws:cloudwatch/logGroup:LogGroup": Kind(
        create=_create_log_group,
        read=_read_log_group,
        delete=_delete_log_group,
        update=_update_log_group,
        replaces=frozenset({"name", "namePrefix", "logGroupClass"}),
    ),
    "aws:kms/key:Key": Kind(
        create=_create_key,
        read=_read_key,
        delete=_delete_key,
        update=_update_key,
        replaces=frozenset({"keyUsage", "customerMasterKeySpec", "multiRegion"}),
        computed=frozenset({"arn", "keyId", "tagsAll"}),
    ),
    "aws:kms/alias:Alias": Kind(
        create=_create_alias,
        read=_read_alias,
        delete=_delete_alias,
        update=_update_alias,
        replaces=frozenset({"name", "namePrefix"}),
        computed=frozenset({"arn", "targetKeyArn"}),
    ),
    "aws:budgets/budget:Budget": Kind(
        create=_create_budget,
        read=_read_budget,
        delete=_delete_budget,
        update=_update_budget,
        replaces=frozenset({"name", "namePrefix", "accountId", "budgetType"}),
        autoname=Autoname("name", 100),
    ),
    "aws:sns/topicSubscription:TopicSubscription": Kind(
        create=_subscribe,
        read=_read_subscription,
        delete=_unsubscribe,
        replaces=frozenset({"topic", "protocol", "endpoint"}),
        computed=frozenset({"arn"}),
    ),
}
