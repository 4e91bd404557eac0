"""Buckets, their settings and their objects."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from async_inference.aws_names import arn, pascal
from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Parameters,
    Properties,
    camel,
    from_tag_list,
    gone,
    tag_list,
    tags_of,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MAX_OBJECT_TAGS = 10
"""S3 user guide, object tagging; moto accepts any number."""
_BLOCKS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


class Bucket(Kind["S3Client"]):
    type = "aws:s3/bucket:Bucket"
    service = "s3"
    replaces = frozenset({"bucket", "bucketPrefix"})
    autoname = Autoname("bucket", 63, lower_case=True)

    def create(self, aws: S3Client, p: Properties) -> str:
        region = aws.meta.region_name
        where: Parameters = (
            {}
            if region == "us-east-1"
            else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        aws.create_bucket(Bucket=p["bucket"], **where)
        self.update(aws, p["bucket"], {}, p)
        return p["bucket"]

    def read(self, aws: S3Client, identity: str, p: Properties) -> Properties | None:
        if unless_gone(aws.head_bucket, Bucket=identity) is None:
            return None
        tags = unless_gone(aws.get_bucket_tagging, Bucket=identity) or {"TagSet": []}
        return {
            "bucket": identity,
            "arn": arn("s3", identity),
            "tags": from_tag_list(tags["TagSet"]),
        }

    def update(self, aws: S3Client, identity: str, old: Properties, new: Properties) -> None:
        if tags_of(new):
            aws.put_bucket_tagging(Bucket=identity, Tagging={"TagSet": tag_list(new)})
        else:
            aws.delete_bucket_tagging(Bucket=identity)

    def delete(self, aws: S3Client, identity: str, p: Properties) -> None:
        if p.get("forceDestroy"):
            pages = aws.get_paginator("list_object_versions")
            try:
                for page in pages.paginate(Bucket=identity):
                    for version in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                        aws.delete_object(
                            Bucket=identity, Key=version["Key"], VersionId=version["VersionId"]
                        )
            except ClientError as error:
                if not gone(error):
                    raise
        unless_gone(aws.delete_bucket, Bucket=identity)


class BucketSetting(Kind["S3Client"]):
    """A setting of a bucket, named by the bucket.

    Attributes:
        calls: those that put, get and delete it; None if it stays as long as its bucket.
    """

    service = "s3"
    replaces = frozenset({"bucket"})
    computed = frozenset()
    calls: ClassVar[tuple[str, str, str | None]]

    @abstractmethod
    def written(self, p: Properties) -> Parameters:
        """The parameters of the call that puts it."""

    @abstractmethod
    def found(self, answer: Parameters) -> Properties:
        """The properties in the answer of the call that gets it."""

    def create(self, aws: S3Client, p: Properties) -> str:
        getattr(aws, self.calls[0])(Bucket=p["bucket"], **self.written(p))
        return p["bucket"]

    def read(self, aws: S3Client, identity: str, p: Properties) -> Properties | None:
        answer = unless_gone(getattr(aws, self.calls[1]), Bucket=identity)
        return None if answer is None else {"bucket": identity, **self.found(answer)}

    def delete(self, aws: S3Client, identity: str, p: Properties) -> None:
        if self.calls[2] is not None:
            unless_gone(getattr(aws, self.calls[2]), Bucket=identity)


class BucketPublicAccessBlock(BucketSetting):
    type = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    calls = ("put_public_access_block", "get_public_access_block", "delete_public_access_block")

    def written(self, p: Properties) -> Parameters:
        return {"PublicAccessBlockConfiguration": pascal({key: p[key] for key in _BLOCKS})}

    def found(self, answer: Parameters) -> Properties:
        return camel(answer["PublicAccessBlockConfiguration"])


class BucketOwnershipControls(BucketSetting):
    type = "aws:s3/bucketOwnershipControls:BucketOwnershipControls"
    calls = (
        "put_bucket_ownership_controls",
        "get_bucket_ownership_controls",
        "delete_bucket_ownership_controls",
    )

    def written(self, p: Properties) -> Parameters:
        return {"OwnershipControls": {"Rules": [pascal(p["rule"])]}}

    def found(self, answer: Parameters) -> Properties:
        return {"rule": camel(answer["OwnershipControls"]["Rules"][0])}


class BucketEncryption(BucketSetting):
    type = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    calls = ("put_bucket_encryption", "get_bucket_encryption", "delete_bucket_encryption")

    def written(self, p: Properties) -> Parameters:
        rules = []
        for rule in p["rules"]:
            default = rule["applyServerSideEncryptionByDefault"]
            written = {"SSEAlgorithm": default["sseAlgorithm"]}
            if default.get("kmsMasterKeyId"):
                written["KMSMasterKeyID"] = default["kmsMasterKeyId"]
            whole: Parameters = {"ApplyServerSideEncryptionByDefault": written}
            if rule.get("bucketKeyEnabled") is not None:
                whole["BucketKeyEnabled"] = rule["bucketKeyEnabled"]
            rules.append(whole)
        return {"ServerSideEncryptionConfiguration": {"Rules": rules}}

    def found(self, answer: Parameters) -> Properties:
        rules = []
        for rule in answer["ServerSideEncryptionConfiguration"]["Rules"]:
            default = rule["ApplyServerSideEncryptionByDefault"]
            read = {"sseAlgorithm": default["SSEAlgorithm"]}
            if "KMSMasterKeyID" in default:
                read["kmsMasterKeyId"] = default["KMSMasterKeyID"]
            whole: Properties = {"applyServerSideEncryptionByDefault": read}
            if rule.get("BucketKeyEnabled"):
                whole["bucketKeyEnabled"] = True
            rules.append(whole)
        return {"rules": rules}


class BucketVersioning(BucketSetting):
    type = "aws:s3/bucketVersioning:BucketVersioning"
    calls = ("put_bucket_versioning", "get_bucket_versioning", None)

    def written(self, p: Properties) -> Parameters:
        return {"VersioningConfiguration": pascal(p["versioningConfiguration"])}

    def found(self, answer: Parameters) -> Properties:
        return {"versioningConfiguration": {"status": answer.get("Status", "Disabled")}}


class BucketLifecycle(BucketSetting):
    type = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
    calls = (
        "put_bucket_lifecycle_configuration",
        "get_bucket_lifecycle_configuration",
        "delete_bucket_lifecycle",
    )

    def written(self, p: Properties) -> Parameters:
        # AWS writes a rule's ID in capitals.
        rules = [{"ID": rule.pop("Id"), **rule} for rule in pascal(p["rules"])]
        return {"LifecycleConfiguration": {"Rules": rules}}

    def found(self, answer: Parameters) -> Properties:
        return {"rules": [{"id": rule.pop("iD"), **rule} for rule in camel(answer["Rules"])]}


class BucketPolicy(BucketSetting):
    type = "aws:s3/bucketPolicy:BucketPolicy"
    calls = ("put_bucket_policy", "get_bucket_policy", "delete_bucket_policy")

    def written(self, p: Properties) -> Parameters:
        return {"Policy": p["policy"]}

    def found(self, answer: Parameters) -> Properties:
        return {"policy": answer["Policy"]}


class BucketObject(Kind["S3Client"]):
    type = "aws:s3/bucketObjectv2:BucketObjectv2"
    service = "s3"
    replaces = frozenset({"bucket", "key"})
    computed = frozenset({"etag", "tagsAll"})

    def create(self, aws: S3Client, p: Properties) -> str:
        tags = tags_of(p)
        if len(tags) > MAX_OBJECT_TAGS:
            raise RuntimeError(
                f"S3 takes at most {MAX_OBJECT_TAGS} tags for an object, not {len(tags)}"
            )
        with open(p["source"], "rb") as body:
            aws.put_object(
                Bucket=p["bucket"],
                Key=p["key"],
                Body=body.read(),
                Tagging=urlencode(tags),
            )
        return p["key"]

    def read(self, aws: S3Client, identity: str, p: Properties) -> Properties | None:
        found = unless_gone(aws.head_object, Bucket=p["bucket"], Key=identity)
        return None if found is None else {"key": identity, "etag": found["ETag"].strip('"')}

    def delete(self, aws: S3Client, identity: str, p: Properties) -> None:
        unless_gone(aws.delete_object, Bucket=p["bucket"], Key=identity)
