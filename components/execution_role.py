"""The role that the endpoint runs as: its own prefixes, image, topics, logs and metrics."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class ExecutionRoleArgs:
    """What an `ExecutionRole` may reach.

    Args:
        account_id: the account whose endpoints may assume the role.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        region: the endpoint's region.
        endpoint_name: whose log group it writes.
        image_uri: the ECR image that SageMaker pulls with it.
        readable: S3 URIs whose objects it reads (inputs, code, weights).
        writable: S3 URIs under which it writes (outputs, failures).
        topic_arns: SNS topics to which SageMaker publishes with it.
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
    tags: dict[str, str] = field(default_factory=dict)


def object_arn(s3_uri: str, partition: str) -> str:
    """The ARN of the objects that an S3 URI names: one archive, or all under a prefix."""
    path = s3_uri.removeprefix("s3://")
    return f"arn:{partition}:s3:::{path if path.endswith('.tar.gz') else path.rstrip('/') + '/*'}"


def bucket_arn(s3_uri: str, partition: str) -> str:
    """The ARN of the bucket that an S3 URI names."""
    return f"arn:{partition}:s3:::{s3_uri.removeprefix('s3://').partition('/')[0]}"


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
    return f"arn:{partition}:ecr:{region}:{account_id}:repository/{repository}"


def _permissions(
    args: ExecutionRoleArgs,
    account_id: str,
    partition: str,
    image_uri: str,
    readable: Sequence[str],
    writable: Sequence[str],
    topic_arns: Sequence[str],
) -> dict[str, object]:
    logs = f"arn:{partition}:logs:{args.region}:{account_id}:log-group"
    endpoint_logs = f"{logs}:/aws/sagemaker/Endpoints/{args.endpoint_name}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadInputsAndModel",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": sorted({object_arn(uri, partition) for uri in readable}),
            },
            {
                "Sid": "WriteOutputsAndFailures",
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
                "Resource": sorted({object_arn(uri, partition) for uri in writable}),
            },
            {
                "Sid": "FindObjects",
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
                "Resource": sorted({bucket_arn(uri, partition) for uri in [*readable, *writable]}),
            },
            {
                "Sid": "Notify",
                "Effect": "Allow",
                "Action": "sns:Publish",
                "Resource": list(topic_arns),
            },
            {
                # ECR knows no narrower resource for this one action.
                "Sid": "LogInToEcr",
                "Effect": "Allow",
                "Action": "ecr:GetAuthorizationToken",
                "Resource": "*",
            },
            {
                "Sid": "PullImage",
                "Effect": "Allow",
                "Action": [
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchGetImage",
                    "ecr:GetDownloadUrlForLayer",
                ],
                "Resource": repository_arn(image_uri, partition),
            },
            {
                "Sid": "WriteLogs",
                "Effect": "Allow",
                "Action": [
                    "logs:CreateLogGroup",
                    "logs:CreateLogStream",
                    "logs:DescribeLogStreams",
                    "logs:PutLogEvents",
                ],
                "Resource": [endpoint_logs, f"{endpoint_logs}:*"],
            },
            {
                # CloudWatch knows no resources for metrics; the namespace is the limit it offers.
                "Sid": "PublishMetrics",
                "Effect": "Allow",
                "Action": "cloudwatch:PutMetricData",
                "Resource": "*",
                "Condition": {
                    "StringEquals": {
                        "cloudwatch:namespace": ["/aws/sagemaker/Endpoints", "AWS/SageMaker"]
                    }
                },
            },
        ],
    }


class ExecutionRole(pulumi.ComponentResource):
    """The endpoint's execution role.

    - the role, assumed by SageMaker for this account only
    - one inline policy: its S3 prefixes, image repository, topics, log group and metrics
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
                ).apply(lambda known: _permissions(**known))
            ),
            opts=child,
        )
        self.arn = role.arn
        self.register_outputs({"arn": self.arn})
