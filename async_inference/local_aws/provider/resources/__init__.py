"""The resources of package `aws` that the program registers, as calls to the embedded AWS.

A class for each type: how it is created, read, updated and deleted, which outputs AWS computes, and
which properties replace it. Those follow the provider (pulumi-aws 7.51, bridged from
terraform-provider-aws 6): a preview is only true if they do.
"""

from typing import Any

from async_inference.local_aws.provider.resources import (
    autoscaling,
    budgets,
    cloudwatch,
    iam,
    kms,
    s3,
    sagemaker,
    sns,
)
from async_inference.local_aws.provider.resources.kind import Kind

KINDS: dict[str, Kind[Any]] = {
    kind.type: kind()
    for kind in (
        s3.Bucket,
        s3.BucketPublicAccessBlock,
        s3.BucketOwnershipControls,
        s3.BucketEncryption,
        s3.BucketVersioning,
        s3.BucketLifecycle,
        s3.BucketPolicy,
        s3.BucketObject,
        iam.Role,
        iam.RolePolicy,
        sagemaker.Model,
        sagemaker.EndpointConfiguration,
        sagemaker.Endpoint,
        autoscaling.Target,
        autoscaling.Policy,
        autoscaling.ScheduledAction,
        cloudwatch.MetricAlarm,
        cloudwatch.Dashboard,
        cloudwatch.LogGroup,
        kms.Key,
        kms.Alias,
        budgets.Budget,
        sns.Topic,
        sns.TopicPolicy,
        sns.TopicSubscription,
    )
}
