"""The bucket for code, inputs, outputs and failures: private, encrypted, reached over TLS only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

UPLOAD_ABANDONED_D = 7
"""Days after which the parts of an upload that was never completed go."""


@dataclass(frozen=True, kw_only=True)
class PrivateBucketArgs:
    """What a `PrivateBucket` needs.

    Args:
        kms_key_arn: encrypts the objects; None is S3's own key (SSE-S3).
        expires_d: prefix to days after which its objects are deleted.
        old_versions_d: days that a replaced or deleted object can be brought back.
        force_destroy: delete the objects with the bucket; without it a bucket that holds objects
            makes `pulumi destroy` fail.
        tags: tags for the bucket.
    """

    kms_key_arn: pulumi.Input[str] | None = None
    expires_d: Mapping[str, int] = field(default_factory=dict)
    old_versions_d: int = 7
    force_destroy: bool = False
    tags: dict[str, str] = field(default_factory=dict)


class PrivateBucket(pulumi.ComponentResource):
    """An S3 bucket that nobody outside the account reaches.

    - the bucket, with server-side encryption and object ownership enforced
    - a public-access block
    - a bucket policy that refuses requests without TLS
    - versioning
    - a lifecycle: objects under the given prefixes expire, so do old versions and abandoned uploads
    """

    bucket_name: pulumi.Output[str]
    arn: pulumi.Output[str]

    def __init__(
        self, name: str, args: PrivateBucketArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:PrivateBucket", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        bucket = aws.s3.Bucket(
            f"{name}-bucket",
            force_destroy=args.force_destroy,
            tags=args.tags,
            opts=child,
        )
        public_access_block = aws.s3.BucketPublicAccessBlock(
            f"{name}-bucket-public-access",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketOwnershipControls(
            f"{name}-bucket-ownership",
            bucket=bucket.bucket,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=child,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-bucket-encryption",
            bucket=bucket.bucket,
            rules=[_encryption_rule(args.kms_key_arn)],
            opts=child,
        )
        aws.s3.BucketPolicy(
            f"{name}-bucket-tls",
            bucket=bucket.bucket,
            policy=pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "RefuseWithoutTls",
                            "Effect": "Deny",
                            "Principal": "*",
                            "Action": "s3:*",
                            "Resource": [bucket.arn, pulumi.Output.concat(bucket.arn, "/*")],
                            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                        }
                    ],
                }
            ),
            # S3 answers 409 when both are set at the same moment.
            opts=pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(depends_on=[public_access_block])
            ),
        )
        versioning = aws.s3.BucketVersioning(
            f"{name}-bucket-versioning",
            bucket=bucket.bucket,
            versioning_configuration={"status": "Enabled"},
            opts=child,
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-bucket-lifecycle",
            bucket=bucket.bucket,
            rules=_lifecycle(args),
            # A rule for old versions needs versions (TF aws_s3_bucket_lifecycle_configuration).
            opts=pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(depends_on=[versioning])
            ),
        )
        self.bucket_name = bucket.bucket
        self.arn = bucket.arn
        self.register_outputs({"bucket_name": self.bucket_name, "arn": self.arn})


def _encryption_rule(
    kms_key_arn: pulumi.Input[str] | None,
) -> aws.s3.BucketServerSideEncryptionConfigurationRuleArgsDict:
    if kms_key_arn is None:
        return {"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}
    return {
        "apply_server_side_encryption_by_default": {
            "sse_algorithm": "aws:kms",
            "kms_master_key_id": kms_key_arn,
        },
        # One data key for many objects: fewer, cheaper calls to KMS.
        "bucket_key_enabled": True,
    }


def _lifecycle(
    args: PrivateBucketArgs,
) -> list[aws.s3.BucketLifecycleConfigurationRuleArgsDict]:
    rules: list[aws.s3.BucketLifecycleConfigurationRuleArgsDict] = [
        {
            "id": f"expire {prefix}",
            "status": "Enabled",
            "filter": {"prefix": prefix},
            "expiration": {"days": days},
        }
        for prefix, days in args.expires_d.items()
    ]
    return [
        *rules,
        {
            "id": "forget old versions and abandoned uploads",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "expiration": {"expired_object_delete_marker": True},
            "noncurrent_version_expiration": {"noncurrent_days": args.old_versions_d},
            "abort_incomplete_multipart_upload": {"days_after_initiation": UPLOAD_ABANDONED_D},
        },
    ]
