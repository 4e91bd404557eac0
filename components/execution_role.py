"""The endpoint's execution role: access to its prefixes, image, topics, key, logs and metrics."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pulumi
import pulumi_aws as aws

from async_inference.aws_names import INSTANCE_METRICS, QUEUE_METRICS, arn, log_group, split_s3_uri
from async_inference.stack.groups import Security
from components.statements import Statement, actions, allow, document


@dataclass(frozen=True, kw_only=True)
class ExecutionRoleArgs:
    """What an `ExecutionRole` may reach.

    Args:
        account_id: the account whose endpoints may assume the role.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        region: the endpoint's region.
        endpoint_name: the endpoint, to whose log group it writes.
        image_uri: the ECR image that SageMaker pulls with it.
        readable: S3 URIs whose objects it reads (inputs, code, weights).
        writable: S3 URIs under which it writes (outputs, failures).
        topic_arns: SNS topics to which SageMaker publishes with it.
        kms_key_arn: the key of bucket, topics and volumes; None for AWS's keys.
        security: keys of weights and output buckets that are elsewhere, and the VPC in which it
            creates network interfaces.
        rollback_alarm: name of the alarm that SageMaker watches during an update; None without.
        tags: tags for the role.
    """

    account_id: pulumi.Input[str]
    partition: pulumi.Input[str]
    region: str
    endpoint_name: str
    image_uri: pulumi.Input[str]
    readable: Sequence[pulumi.Input[str]]
    writable: Sequence[pulumi.Input[str]]
    topic_arns: Sequence[pulumi.Input[str]]
    kms_key_arn: pulumi.Input[str] | None = None
    security: Security = field(default_factory=Security)
    rollback_alarm: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


def object_arn(s3_uri: str, partition: str) -> str:
    """The ARN of the objects that an S3 URI names: one archive, or all under a prefix."""
    bucket, key = split_s3_uri(s3_uri)
    path = f"{bucket}/{key}" if key.endswith(".tar.gz") else f"{bucket}/{key}".rstrip("/") + "/*"
    return arn("s3", path, partition=partition)


def bucket_arn(s3_uri: str, partition: str) -> str:
    """The ARN of the bucket that an S3 URI names."""
    return arn("s3", split_s3_uri(s3_uri)[0], partition=partition)


def repository_arn(image_uri: str, partition: str) -> str:
    """The ARN of the ECR repository of an image URI.

    Raises:
        ValueError: the URI is not one of ECR, the only registry SageMaker pulls from without a VPC.
    """
    parts = re.match(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.[^/]+/([^:@]+)", image_uri)
    if parts is None:
        raise ValueError(
            f"imageUri = {image_uri!r}: must be an ECR image, "
            "<account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag>"
        )
    account_id, region, repository = parts.groups()
    return arn(
        "ecr",
        f"repository/{repository}",
        partition=partition,
        region=region,
        account_id=account_id,
    )


def _permissions(
    args: ExecutionRoleArgs,
    account_id: str,
    partition: str,
    image_uri: str,
    readable: Sequence[str],
    writable: Sequence[str],
    topic_arns: Sequence[str],
    kms_key_arn: str | None,
) -> dict[str, object]:
    here = partial(arn, partition=partition, region=args.region, account_id=account_id)
    endpoint_logs = here("logs", f"log-group:{log_group(args.endpoint_name)}")
    optional: list[Statement] = []
    if kms_key_arn is not None:
        optional += _key_use(kms_key_arn)
    if args.security.other_key_arns:
        use = actions("kms", "Decrypt GenerateDataKey")
        optional.append(allow("UseOtherKeys", use, list(args.security.other_key_arns)))
    if args.security.subnet_ids:
        optional += _interfaces(args.security, partial(here, "ec2"))
    if args.rollback_alarm is not None:
        alarm = here("cloudwatch", f"alarm:{args.rollback_alarm}")
        # DG deployment-guardrails-configuration.
        optional.append(allow("WatchRollbackAlarm", "cloudwatch:DescribeAlarms", alarm))
    return document(
        [
            allow(
                "ReadInputsAndModel",
                "s3:GetObject",
                sorted({object_arn(uri, partition) for uri in readable}),
            ),
            allow(
                "WriteOutputsAndFailures",
                actions("s3", "PutObject AbortMultipartUpload"),
                sorted({object_arn(uri, partition) for uri in writable}),
            ),
            allow(
                "FindObjects",
                actions("s3", "ListBucket GetBucketLocation"),
                sorted({bucket_arn(uri, partition) for uri in [*readable, *writable]}),
            ),
            allow("Notify", "sns:Publish", list(topic_arns)),
            # This action allows no narrower resource.
            allow("LogInToEcr", "ecr:GetAuthorizationToken", "*"),
            allow(
                "PullImage",
                actions("ecr", "BatchCheckLayerAvailability BatchGetImage GetDownloadUrlForLayer"),
                repository_arn(image_uri, partition),
            ),
            # The program creates the group. A late line after a destroy must not create it again:
            # it would never expire, and would block the next creation.
            allow(
                "WriteLogs",
                actions("logs", "CreateLogStream DescribeLogStreams PutLogEvents"),
                [endpoint_logs, f"{endpoint_logs}:*"],
            ),
            # Metrics have no ARNs; their namespace is the only limit.
            allow(
                "PublishMetrics",
                "cloudwatch:PutMetricData",
                "*",
                {"StringEquals": {"cloudwatch:namespace": [INSTANCE_METRICS, QUEUE_METRICS]}},
            ),
            *optional,
        ]
    )


def _key_use(kms_key_arn: str) -> list[Statement]:
    return [
        # Read inputs, write outputs, publish to the topics: all under the one key.
        allow("UseKey", actions("kms", "Decrypt GenerateDataKey"), kms_key_arn),
        # For the volumes, which SageMaker attaches under a grant (BC KmsKeyId).
        allow(
            "EncryptVolumes",
            "kms:CreateGrant",
            kms_key_arn,
            {"Bool": {"kms:GrantIsForAWSResource": "true"}},
        ),
    ]


def _interfaces(vpc: Security, ec2: Callable[[str], str]) -> list[Statement]:
    """What the role of a model in a VPC needs (DG sagemaker-roles, CreateModel)."""
    return [
        allow(
            "AttachToVpc",
            "ec2:CreateNetworkInterface",
            [
                ec2("network-interface/*"),
                *(ec2(f"subnet/{each}") for each in vpc.subnet_ids),
                *(ec2(f"security-group/{each}") for each in vpc.security_group_ids),
            ],
        ),
        allow(
            "LendInterfaces",
            actions(
                "ec2",
                "CreateNetworkInterfacePermission DeleteNetworkInterface "
                "DeleteNetworkInterfacePermission",
            ),
            ec2("network-interface/*"),
        ),
        # These actions allow no narrower resource.
        allow(
            "LookAtVpc",
            actions(
                "ec2",
                "DescribeDhcpOptions DescribeNetworkInterfaces DescribeSecurityGroups "
                "DescribeSubnets DescribeVpcs",
            ),
            "*",
        ),
    ]


class ExecutionRole(pulumi.ComponentResource):
    """The endpoint's execution role.

    - the role, assumed by SageMaker for this account only
    - one inline policy: its S3 prefixes, image repository, topics, log group and metrics, and the
      customer's key, VPC and rollback alarm, if any
    """

    arn: pulumi.Output[str]
    policy: aws.iam.RolePolicy
    """What uses the role must depend on this: permissions race at creation
    (amazon-sagemaker-examples #4461)."""

    def __init__(
        self, name: str, args: ExecutionRoleArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:ExecutionRole", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-role",
            assume_role_policy=pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": {"Service": "sagemaker.amazonaws.com"},
                            "Action": "sts:AssumeRole",
                            "Condition": {"StringEquals": {"aws:SourceAccount": args.account_id}},
                        }
                    ],
                }
            ),
            tags=args.tags,
            opts=child,
        )
        self.policy = aws.iam.RolePolicy(
            f"{name}-role-policy",
            # With a random name, a policy left by an interrupted `up` would keep the role from
            # being deleted (IAM DeleteRole, DeleteConflict).
            name=f"{name}-role-policy",
            role=role.name,
            policy=pulumi.Output.json_dumps(
                pulumi.Output.all(
                    args=args,
                    account_id=args.account_id,
                    partition=args.partition,
                    image_uri=args.image_uri,
                    readable=args.readable,
                    writable=args.writable,
                    topic_arns=args.topic_arns,
                    kms_key_arn=args.kms_key_arn,
                ).apply(lambda known: _permissions(**known))
            ),
            opts=child,
        )
        self.arn = role.arn
        self.register_outputs({"arn": self.arn})
