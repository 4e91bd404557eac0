"""IAM policy documents for the clients and deployers of an endpoint.

The program attaches them to no role: the deployer already has one, and clients' roles are others'.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from async_inference.aws_names import (
    ANNOUNCEMENTS,
    SCALING_SERVICE,
    SERVICE_NAMESPACE,
    arn,
    log_group,
)
from async_inference.stack.arguments import ENDPOINT_TAG
from components.execution_role import bucket_arn, object_arn
from components.statements import actions, allow, document


def invoker_policy(
    *,
    endpoint_arn: str,
    partition: str,
    writable: Sequence[str],
    readable: Sequence[str],
    kms_key_arn: str | None,
    other_key_arns: Sequence[str] = (),
    announces: bool = False,
) -> dict[str, object]:
    """Send requests, fetch answers, see whether the endpoint is cold, announce requests.

    Args:
        endpoint_arn: the endpoint.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        writable: S3 URIs under which inputs are put.
        readable: S3 URIs under which outputs and failures are found.
        kms_key_arn: the key of bucket and topics; None for AWS's keys.
        other_key_arns: keys of output buckets that are elsewhere.
        announces: whether a scaling policy uses what clients announce.
    """
    statements = [
        allow(
            "Invoke", ["sagemaker:DescribeEndpoint", "sagemaker:InvokeEndpointAsync"], endpoint_arn
        ),
        allow("PutInputs", "s3:PutObject", _sorted(object_arn(uri, partition) for uri in writable)),
        allow(
            "GetOutputsAndFailures",
            "s3:GetObject",
            _sorted(object_arn(uri, partition) for uri in readable),
        ),
        # Without it S3 answers 403, not 404, for an output that is not there yet.
        allow(
            "SeeWhatIsMissing",
            "s3:ListBucket",
            _sorted(bucket_arn(uri, partition) for uri in readable),
        ),
    ]
    if kms_key_arn is not None:
        statements.append(allow("UseKey", ["kms:Decrypt", "kms:GenerateDataKey"], kms_key_arn))
    if other_key_arns:
        statements.append(allow("ReadUnderOtherKeys", "kms:Decrypt", list(other_key_arns)))
    if announces:
        # A metric has no ARN: only its namespace limits it (service authorization reference).
        statements.append(
            allow(
                "Announce",
                "cloudwatch:PutMetricData",
                "*",
                {"StringEquals": {"cloudwatch:namespace": ANNOUNCEMENTS}},
            )
        )
    return document(statements)


def operator_policy(
    *, name: str, endpoint_name: str, account_id: str, partition: str, region: str
) -> dict[str, object]:
    """Read what `async-inference calibrate` and `history` read of one endpoint; change nothing.

    Args:
        name: the component's name, with which the names of resources begin.
        endpoint_name: the endpoint.
        account_id: where it is deployed.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        region: where it is deployed.
    """

    here = partial(arn, partition=partition, region=region, account_id=account_id)
    return document(
        [
            allow(
                "Endpoint",
                actions("sagemaker", "DescribeEndpoint DescribeEndpointConfig"),
                [
                    here("sagemaker", f"endpoint-config/{name.lower()}-config-*"),
                    here("sagemaker", f"endpoint/{endpoint_name.lower()}"),
                ],
            ),
            # Alarms are found by their metric, so all of them are listed.
            allow(
                "Alarms",
                actions("cloudwatch", "DescribeAlarmHistory DescribeAlarms"),
                here("cloudwatch", "alarm:*"),
            ),
            # These allow no narrower resource (their services' authorization references).
            allow(
                "Everywhere",
                [
                    "application-autoscaling:DescribeScalingActivities",
                    *actions("cloudwatch", "GetMetricData GetMetricStatistics ListMetrics"),
                ],
                "*",
            ),
            allow(
                "Logs",
                "logs:DescribeLogStreams",
                here("logs", f"log-group:{log_group(endpoint_name)}:*"),
            ),
        ]
    )


def deployer_policy(
    *,
    name: str,
    endpoint_name: str,
    account_id: str,
    partition: str,
    region: str,
    given_key_arn: str | None = None,
) -> dict[str, object]:
    """What `pulumi up`, `refresh` and `destroy` of one endpoint call, for a role that CI assumes.

    Pulumi derives a resource's name from its logical name, so most statements are limited by name.
    Keys have no names, so those are limited by the endpoint's tag.

    Args:
        name: the component's name, with which the names of resources begin.
        endpoint_name: the endpoint.
        account_id: where it is deployed.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        region: where it is deployed.
        given_key_arn: an existing key, not created by this stack.
    """

    here = partial(arn, partition=partition, region=region, account_id=account_id)
    everywhere = partial(arn, partition=partition, account_id=account_id)
    role = everywhere("iam", f"role/{name}-role-*")
    bucket = arn("s3", f"{name}-bucket-*", partition=partition)
    logs = here("logs", f"log-group:{log_group(endpoint_name)}")
    alarms = [
        here("cloudwatch", f"alarm:{name}-*-alarm-*"),
        here("cloudwatch", f"alarm:{endpoint_name}-rollback"),
        here("cloudwatch", f"alarm:TargetTracking-endpoint/{endpoint_name}/*"),
    ]
    keys = here("kms", "key/*")
    asked = {"StringEquals": {f"aws:RequestTag/{ENDPOINT_TAG}": endpoint_name}}
    use = "CreateGrant Decrypt DescribeKey GenerateDataKey"
    given = [allow("GivenKey", actions("kms", use), given_key_arn)] if given_key_arn else []
    scaled = {"StringEquals": {"application-autoscaling:service-namespace": SERVICE_NAMESPACE}}
    return document(
        [
            allow(
                "SageMaker",
                actions(
                    "sagemaker",
                    "AddTags CreateEndpoint CreateEndpointConfig CreateModel DeleteEndpoint "
                    "DeleteEndpointConfig DeleteModel DeleteTags DescribeEndpoint "
                    "DescribeEndpointConfig DescribeModel ListTags UpdateEndpoint "
                    "UpdateEndpointWeightsAndCapacities",
                ),
                [
                    here("sagemaker", f"model/{name.lower()}-model-*"),
                    here("sagemaker", f"endpoint-config/{name.lower()}-config-*"),
                    here("sagemaker", f"endpoint/{endpoint_name.lower()}"),
                ],
            ),
            allow(
                "Scaling",
                actions(
                    "application-autoscaling",
                    "DeleteScalingPolicy DeleteScheduledAction DeregisterScalableTarget "
                    "PutScalingPolicy PutScheduledAction RegisterScalableTarget",
                ),
                here("application-autoscaling", "scalable-target/*"),
                scaled,
            ),
            allow(
                "ScalingTags",
                actions("application-autoscaling", "ListTagsForResource TagResource UntagResource"),
                here("application-autoscaling", "scalable-target/*"),
            ),
            # These allow no narrower resource (their services' authorization references).
            allow(
                "Everywhere",
                [
                    *actions(
                        "application-autoscaling",
                        "DescribeScalableTargets DescribeScalingPolicies DescribeScheduledActions",
                    ),
                    "kms:ListAliases",
                    "logs:DescribeLogGroups",
                    *actions("sns", "GetSubscriptionAttributes Unsubscribe"),
                    "sts:GetCallerIdentity",
                ],
                "*",
            ),
            # Alarms are looked up by the policy that they run, too.
            allow("SeeAlarms", "cloudwatch:DescribeAlarms", here("cloudwatch", "alarm:*")),
            allow(
                "Alarms",
                actions(
                    "cloudwatch",
                    "DeleteAlarms ListTagsForResource PutMetricAlarm TagResource UntagResource",
                ),
                alarms,
            ),
            allow(
                "Dashboard",
                actions("cloudwatch", "DeleteDashboards GetDashboard PutDashboard"),
                everywhere("cloudwatch", f"dashboard/{endpoint_name}"),
            ),
            allow(
                "Logs",
                actions(
                    "logs",
                    "AssociateKmsKey CreateLogGroup DeleteLogGroup DescribeLogStreams "
                    "DisassociateKmsKey ListTagsForResource PutRetentionPolicy TagResource "
                    "UntagResource",
                ),
                [logs, f"{logs}:*"],
            ),
            allow(
                "Topics",
                actions(
                    "sns",
                    "CreateTopic DeleteTopic GetTopicAttributes ListTagsForResource "
                    "SetTopicAttributes Subscribe TagResource UntagResource",
                ),
                here("sns", f"{name}-*-topic-*"),
            ),
            allow(
                "Bucket",
                actions(
                    "s3",
                    "CreateBucket DeleteBucket DeleteBucketPolicy GetAccelerateConfiguration "
                    "GetBucketAcl GetBucketCORS GetBucketLocation GetBucketLogging "
                    "GetBucketObjectLockConfiguration GetBucketOwnershipControls GetBucketPolicy "
                    "GetBucketPublicAccessBlock GetBucketRequestPayment GetBucketTagging "
                    "GetBucketVersioning GetBucketWebsite GetEncryptionConfiguration "
                    "GetLifecycleConfiguration GetReplicationConfiguration ListBucket "
                    "ListBucketVersions PutBucketOwnershipControls PutBucketPolicy "
                    "PutBucketPublicAccessBlock PutBucketTagging PutBucketVersioning "
                    "PutEncryptionConfiguration PutLifecycleConfiguration",
                ),
                bucket,
            ),
            allow(
                "Objects",
                actions(
                    "s3",
                    "DeleteObject DeleteObjectVersion GetObject GetObjectTagging PutObject "
                    "PutObjectTagging",
                ),
                f"{bucket}/*",
            ),
            allow(
                "Role",
                actions(
                    "iam",
                    "CreateRole DeleteRole DeleteRolePolicy GetRole GetRolePolicy "
                    "ListAttachedRolePolicies ListInstanceProfilesForRole ListRolePolicies "
                    "PutRolePolicy TagRole UntagRole UpdateAssumeRolePolicy",
                ),
                role,
            ),
            allow(
                "PassRole",
                "iam:PassRole",
                role,
                {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            ),
            allow(
                "ScalingRole",
                "iam:CreateServiceLinkedRole",
                everywhere("iam", f"role/aws-service-role/{SCALING_SERVICE}/*"),
            ),
            # A new key has no tag yet, so the request's tag limits these.
            allow("NewKey", "kms:CreateKey", "*", asked),
            allow("TagNewKey", "kms:TagResource", keys, asked),
            allow(
                "Key",
                actions(
                    "kms",
                    f"{use} EnableKeyRotation GetKeyPolicy GetKeyRotationStatus ListResourceTags "
                    "PutKeyPolicy ScheduleKeyDeletion TagResource UntagResource "
                    "UpdateKeyDescription",
                ),
                keys,
                {"StringEquals": {f"aws:ResourceTag/{ENDPOINT_TAG}": endpoint_name}},
            ),
            allow(
                "KeyAlias",
                actions("kms", "CreateAlias DeleteAlias UpdateAlias"),
                [here("kms", f"alias/{endpoint_name}"), keys],
            ),
            allow(
                "Budget",
                actions(
                    "budgets",
                    "ListTagsForResource ModifyBudget TagResource UntagResource ViewBudget",
                ),
                everywhere("budgets", f"budget/{name}-budget-*"),
            ),
            *given,
        ]
    )


def _sorted(arns: Iterable[str]) -> list[str]:
    return sorted(set(arns))
