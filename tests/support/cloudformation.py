"""What a program registers, as a CloudFormation template, for tools that read no Pulumi.

Left out: components, which are no resources; the code archive, which CloudFormation cannot upload;
and additional model data sources, which it does not know.
"""

import json
from collections.abc import Callable
from typing import Any

from async_inference.aws_names import pascal
from tests.support.registrations import Record, Registration

Properties = dict[str, Any]


def template(record: Record) -> dict[str, Any]:
    """The template of all that was registered.

    Raises:
        KeyError: a type that has no rendering yet.
    """
    resources: dict[str, object] = {}
    for entry in record.registrations:
        if entry.type.startswith("async-inference:") or entry.type in (*PARTS, *LEFT_OUT):
            continue
        kind, render = RENDERED[entry.type]
        properties = render(entry, record)
        tags = entry.inputs.get("tags")
        if tags:
            properties["ResourceTags" if kind == "AWS::Budgets::Budget" else "Tags"] = _tags(tags)
        logical = "".join(part.title() for part in entry.name.split("-"))
        resources[logical] = {"Type": kind, "Properties": _present(properties)}
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}


def _tags(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _present(value: object) -> Any:
    """Without what is absent, and whole numbers as such: mocks hand over floats."""
    if isinstance(value, dict):
        return {key: _present(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_present(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(*keys: str, **renamed: str) -> Callable[[Registration, Record], Properties]:
    """Inputs as they are, in CloudFormation's spelling."""

    def render(entry: Registration, record: Record) -> Properties:
        names = {key: key[0].upper() + key[1:] for key in keys} | renamed
        return {name: pascal(entry.inputs.get(key)) for key, name in names.items()}

    return render


def _part(record: Record, kind: str, bucket: str) -> Properties:
    for entry in record.registrations:
        if entry.type == kind and entry.inputs["bucket"] == bucket:
            return entry.inputs
    return {}


def _bucket(entry: Registration, record: Record) -> Properties:
    name = f"{entry.name}-1a2b3c4"  # as the mocks name it
    rule = _part(record, ENCRYPTION, name)["rules"][0]
    default = rule["applyServerSideEncryptionByDefault"]
    block = _part(record, PUBLIC_ACCESS, name)
    ownership = _part(record, OWNERSHIP, name)
    versioning = _part(record, VERSIONING, name)
    return {
        "BucketName": name,
        "BucketEncryption": {
            "ServerSideEncryptionConfiguration": [
                {
                    "BucketKeyEnabled": rule.get("bucketKeyEnabled"),
                    "ServerSideEncryptionByDefault": {
                        "SSEAlgorithm": default["sseAlgorithm"],
                        "KMSMasterKeyID": default.get("kmsMasterKeyId"),
                    },
                }
            ]
        },
        "PublicAccessBlockConfiguration": pascal(
            {key: value for key, value in block.items() if key != "bucket"}
        ),
        "OwnershipControls": {"Rules": [pascal(ownership["rule"])]},
        "VersioningConfiguration": pascal(versioning["versioningConfiguration"]),
        "LifecycleConfiguration": {
            "Rules": [_lifecycle(rule) for rule in _part(record, LIFECYCLE, name)["rules"]]
        },
    }


def _lifecycle(rule: Properties) -> Properties:
    expiration = rule["expiration"]
    noncurrent = rule.get("noncurrentVersionExpiration")
    abandoned = rule.get("abortIncompleteMultipartUpload")
    return {
        "Id": rule["id"],
        "Status": rule["status"],
        "Prefix": rule["filter"]["prefix"],
        "ExpirationInDays": expiration.get("days"),
        "ExpiredObjectDeleteMarker": expiration.get("expiredObjectDeleteMarker"),
        "NoncurrentVersionExpiration": noncurrent and pascal(noncurrent),
        "AbortIncompleteMultipartUpload": abandoned
        and {"DaysAfterInitiation": abandoned["daysAfterInitiation"]},
    }


def _document(key: str, **named: str) -> Callable[[Registration, Record], Properties]:
    """A policy document, with what it is attached to."""

    def render(entry: Registration, record: Record) -> Properties:
        attached: Properties = {
            name: [entry.inputs[of]] if name in ("Topics",) else entry.inputs[of]
            for of, name in named.items()
        }
        return {"PolicyDocument": json.loads(entry.inputs[key]), **attached}

    return render


def _role(entry: Registration, record: Record) -> Properties:
    return {"AssumeRolePolicyDocument": json.loads(entry.inputs["assumeRolePolicy"])}


def _role_policy(entry: Registration, record: Record) -> Properties:
    return {
        "PolicyName": entry.name,
        "RoleName": entry.inputs["role"],
        "PolicyDocument": json.loads(entry.inputs["policy"]),
    }


def _key(entry: Registration, record: Record) -> Properties:
    return {
        "Description": entry.inputs["description"],
        "EnableKeyRotation": entry.inputs["enableKeyRotation"],
        "PendingWindowInDays": entry.inputs["deletionWindowInDays"],
        "KeyPolicy": json.loads(entry.inputs["policy"]),
    }


def _model(entry: Registration, record: Record) -> Properties:
    container = dict(entry.inputs["primaryContainer"])
    container.pop("additionalModelDataSources", None)
    environment = container.pop("environment")
    source = container.pop("modelDataSource", None)
    if source is not None:
        container["modelDataSource"] = {"s3DataSource": source["s3DataSources"][0]}
    return {
        "ExecutionRoleArn": entry.inputs["executionRoleArn"],
        "EnableNetworkIsolation": entry.inputs.get("enableNetworkIsolation"),
        "VpcConfig": pascal(entry.inputs.get("vpcConfig")),
        "PrimaryContainer": pascal(container) | {"Environment": environment},
    }


def _alarm(entry: Registration, record: Record) -> Properties:
    inputs = entry.inputs
    direct = _plain(
        *("alarmDescription", "namespace", "metricName", "statistic", "comparisonOperator"),
        *("threshold", "period", "evaluationPeriods", "datapointsToAlarm", "treatMissingData"),
        "alarmActions",
        name="AlarmName",
        okActions="OKActions",
    )(entry, record)
    return direct | {
        "Dimensions": _dimensions(inputs["dimensions"]) if "dimensions" in inputs else None,
        "Metrics": [_query(query) for query in inputs["metricQueries"]]
        if "metricQueries" in inputs
        else None,
    }


def _dimensions(dimensions: dict[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in dimensions.items()]


def _query(query: Properties) -> Properties:
    metric = query.get("metric")
    return {
        "Id": query["id"],
        "Expression": query.get("expression"),
        "Label": query.get("label"),
        "ReturnData": query.get("returnData", False),
        "MetricStat": metric
        and {
            "Metric": {
                "Namespace": metric["namespace"],
                "MetricName": metric["metricName"],
                "Dimensions": _dimensions(metric["dimensions"]),
            },
            "Period": metric["period"],
            "Stat": metric["stat"],
        },
    }


def _target(entry: Registration, record: Record) -> Properties:
    schedules = [each.inputs for each in record.registrations if each.type == SCHEDULE]
    return _plain(
        "serviceNamespace", "scalableDimension", "resourceId", "minCapacity", "maxCapacity"
    )(entry, record) | {
        "ScheduledActions": [
            {
                "ScheduledActionName": action["name"],
                "Schedule": action["schedule"],
                "Timezone": action["timezone"],
                "ScalableTargetAction": pascal(action["scalableTargetAction"]),
            }
            for action in schedules
        ]
        or None
    }


def _scaling_policy(entry: Registration, record: Record) -> Properties:
    steps = entry.inputs.get("stepScalingPolicyConfiguration")
    if steps:
        steps = {
            **steps,
            "stepAdjustments": [
                {
                    key: float(value) if key.startswith("metric") else value
                    for key, value in step.items()
                }
                for step in steps["stepAdjustments"]
            ],
        }
    tracking = entry.inputs.get("targetTrackingScalingPolicyConfiguration")
    return _plain("policyType", "serviceNamespace", "scalableDimension", "resourceId")(
        entry, record
    ) | {
        "PolicyName": entry.inputs["name"],
        "StepScalingPolicyConfiguration": steps and pascal(steps),
        "TargetTrackingScalingPolicyConfiguration": tracking and pascal(tracking),
    }


def _budget(entry: Registration, record: Record) -> Properties:
    inputs = entry.inputs
    return {
        "Budget": {
            "BudgetType": inputs["budgetType"],
            "TimeUnit": inputs["timeUnit"],
            "BudgetLimit": {
                "Amount": float(inputs["limitAmount"]),
                "Unit": inputs["limitUnit"],
            },
            "CostFilters": {each["name"]: each["values"] for each in inputs["costFilters"]},
        },
        "NotificationsWithSubscribers": [
            {
                "Notification": {
                    key[0].upper() + key[1:]: value
                    for key, value in notification.items()
                    if not key.startswith("subscriber")
                },
                "Subscribers": [
                    {"SubscriptionType": "SNS", "Address": arn}
                    for arn in notification["subscriberSnsTopicArns"]
                ],
            }
            for notification in inputs["notifications"]
        ],
    }


ENCRYPTION = (
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
)
PUBLIC_ACCESS = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
OWNERSHIP = "aws:s3/bucketOwnershipControls:BucketOwnershipControls"
VERSIONING = "aws:s3/bucketVersioning:BucketVersioning"
LIFECYCLE = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
SCHEDULE = "aws:appautoscaling/scheduledAction:ScheduledAction"
PARTS = (ENCRYPTION, PUBLIC_ACCESS, OWNERSHIP, VERSIONING, LIFECYCLE, SCHEDULE)
"""Resources of Pulumi's that are properties of others in CloudFormation."""
LEFT_OUT = ("aws:s3/bucketObjectv2:BucketObjectv2",)
RENDERED: dict[str, tuple[str, Callable[[Registration, Record], Properties]]] = {
    "aws:s3/bucket:Bucket": ("AWS::S3::Bucket", _bucket),
    "aws:s3/bucketPolicy:BucketPolicy": (
        "AWS::S3::BucketPolicy",
        _document("policy", bucket="Bucket"),
    ),
    "aws:kms/key:Key": ("AWS::KMS::Key", _key),
    "aws:kms/alias:Alias": (
        "AWS::KMS::Alias",
        _plain(name="AliasName", targetKeyId="TargetKeyId"),
    ),
    "aws:sns/topic:Topic": ("AWS::SNS::Topic", _plain("kmsMasterKeyId")),
    "aws:sns/topicPolicy:TopicPolicy": (
        "AWS::SNS::TopicPolicy",
        _document("policy", arn="Topics"),
    ),
    "aws:sns/topicSubscription:TopicSubscription": (
        "AWS::SNS::Subscription",
        _plain("protocol", "endpoint", topic="TopicArn"),
    ),
    "aws:iam/role:Role": ("AWS::IAM::Role", _role),
    "aws:iam/rolePolicy:RolePolicy": ("AWS::IAM::RolePolicy", _role_policy),
    "aws:cloudwatch/logGroup:LogGroup": (
        "AWS::Logs::LogGroup",
        _plain("retentionInDays", "kmsKeyId", name="LogGroupName"),
    ),
    "aws:sagemaker/model:Model": ("AWS::SageMaker::Model", _model),
    "aws:sagemaker/endpointConfiguration:EndpointConfiguration": (
        "AWS::SageMaker::EndpointConfig",
        _plain("productionVariants", "asyncInferenceConfig", kmsKeyArn="KmsKeyId"),
    ),
    "aws:sagemaker/endpoint:Endpoint": (
        "AWS::SageMaker::Endpoint",
        _plain("endpointConfigName", "deploymentConfig", name="EndpointName"),
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": ("AWS::CloudWatch::Alarm", _alarm),
    "aws:cloudwatch/dashboard:Dashboard": (
        "AWS::CloudWatch::Dashboard",
        _plain("dashboardName", "dashboardBody"),
    ),
    "aws:appautoscaling/target:Target": ("AWS::ApplicationAutoScaling::ScalableTarget", _target),
    "aws:appautoscaling/policy:Policy": (
        "AWS::ApplicationAutoScaling::ScalingPolicy",
        _scaling_policy,
    ),
    "aws:budgets/budget:Budget": ("AWS::Budgets::Budget", _budget),
}
