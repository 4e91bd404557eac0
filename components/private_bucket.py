"""The bucket for code, inputs, outputs and failures: private, encrypted, reached over TLS only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws

from components.provider_account import ProviderAccount

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ObjectIdentifierTypeDef

CODE_PREFIX = "code/"
"""The prefix of the program's archives."""
UPLOAD_ABANDONED_D = 7
"""Days after which the parts of an incomplete upload are deleted."""


@dataclass(frozen=True, kw_only=True)
class PrivateBucketArgs:
    """What a `PrivateBucket` needs.

    Args:
        account: where the provider acts.
        kms_key_arn: encrypts the objects; None is S3's key (SSE-S3).
        deleted_before: resources that are deleted after the bucket, such as its key.
        expires_d: prefix to days after which its objects are deleted.
        old_versions_d: days in which a replaced or deleted object can be restored.
        force_destroy: delete the objects with the bucket; without it, `pulumi destroy` fails where
            the bucket holds objects that the program did not put there.
        tags: tags for the bucket.
    """

    account: ProviderAccount
    kms_key_arn: pulumi.Input[str] | None = None
    deleted_before: Sequence[pulumi.Resource] = ()
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

    Its settings are deleted with it only: a bucket that is kept for its objects keeps them.
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
            opts=pulumi.ResourceOptions.merge(
                child,
                pulumi.ResourceOptions(
                    depends_on=list(args.deleted_before), hooks=_keeps_objects(name, args.account)
                ),
            ),
        )
        setting = pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(deleted_with=bucket))
        public_access_block = aws.s3.BucketPublicAccessBlock(
            f"{name}-bucket-public-access",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=setting,
        )
        aws.s3.BucketOwnershipControls(
            f"{name}-bucket-ownership",
            bucket=bucket.bucket,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=setting,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-bucket-encryption",
            bucket=bucket.bucket,
            rules=[_encryption_rule(args.kms_key_arn)],
            opts=setting,
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
                setting, pulumi.ResourceOptions(depends_on=[public_access_block])
            ),
        )
        versioning = aws.s3.BucketVersioning(
            f"{name}-bucket-versioning",
            bucket=bucket.bucket,
            versioning_configuration={"status": "Enabled"},
            opts=setting,
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-bucket-lifecycle",
            bucket=bucket.bucket,
            rules=_lifecycle(args),
            # A rule for old versions needs versions (TF aws_s3_bucket_lifecycle_configuration).
            opts=pulumi.ResourceOptions.merge(
                setting, pulumi.ResourceOptions(depends_on=[versioning])
            ),
        )
        self.bucket_name = bucket.bucket
        self.arn = bucket.arn
        self.register_outputs({"bucket_name": self.bucket_name, "arn": self.arn})


class BucketHoldsObjectsError(Exception):
    """The bucket that Pulumi was about to delete holds what requests made."""


def _keeps_objects(name: str, account: ProviderAccount) -> pulumi.ResourceHookBinding:
    """Before the bucket is deleted: the program's objects are deleted, all others are kept."""

    async def clear(args: pulumi.ResourceHookArgs) -> None:
        known = args.old_inputs or {}
        # With forceDestroy the provider itself deletes every object.
        if not known.get("forceDestroy"):
            empty(await account.client("s3"), args.id)

    return pulumi.ResourceHookBinding(
        before_delete=[pulumi.ResourceHook(f"{name}-keep-objects", clear)]
    )


def empty(s3: "S3Client", bucket: str) -> None:
    """Delete the program's objects in a bucket, and old versions of others.

    Args:
        s3: a boto3 S3 client.
        bucket: its name.

    Raises:
        BucketHoldsObjectsError: it holds objects that the program did not put there.
    """
    if not s3.list_objects_v2(Bucket=bucket, MaxKeys=1).get("KeyCount"):
        _delete_versions(s3, bucket, "")
        return
    _delete_versions(s3, bucket, CODE_PREFIX)
    held = s3.list_objects_v2(Bucket=bucket, MaxKeys=1000)
    keys = [each["Key"] for each in held.get("Contents", ())]
    if keys:
        number = f"{len(keys)}{'' if len(keys) < 1000 else ' or more'} object(s)"
        raise BucketHoldsObjectsError(
            f"bucket {bucket} holds {number} that requests made, such as {keys[0]}. They are kept, "
            "with the bucket, its settings and its key. Copy what you need (`aws s3 sync "
            f"s3://{bucket} FOLDER`), delete them (`aws s3 rm --recursive s3://{bucket}`), and run "
            "`pulumi destroy --run-program` again. To keep them, take the stack out of Pulumi: "
            "`pulumi stack rm --force`."
        )
    # Versions of deleted objects keep a bucket from being deleted, too.
    _delete_versions(s3, bucket, "")


def _delete_versions(s3: "S3Client", bucket: str, prefix: str) -> None:
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        versions = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        if versions:
            named: list[ObjectIdentifierTypeDef] = [
                {"Key": each["Key"], "VersionId": each["VersionId"]} for each in versions
            ]
            done = s3.delete_objects(Bucket=bucket, Delete={"Objects": named, "Quiet": True})
            if done.get("Errors"):
                first = done["Errors"][0]
                raise BucketHoldsObjectsError(
                    f"bucket {bucket}: {first['Key']} cannot be deleted: {first['Message']}"
                )


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
