"""Keys and their aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_inference.local_aws.provider.resources.kind import (
    Kind,
    Properties,
    retag,
    tags_of,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient
    from types_boto3_kms.type_defs import KeyMetadataTypeDef, TagTypeDef


class Key(Kind["KMSClient"]):
    type = "aws:kms/key:Key"
    service = "kms"
    replaces = frozenset({"keyUsage", "customerMasterKeySpec", "multiRegion"})
    computed = frozenset({"arn", "keyId", "tagsAll"})

    def create(self, aws: KMSClient, p: Properties) -> str:
        created = aws.create_key(
            Description=p.get("description", ""), Policy=p["policy"], Tags=_tags(tags_of(p))
        )["KeyMetadata"]
        if p.get("enableKeyRotation"):
            aws.enable_key_rotation(KeyId=created["KeyId"])
        return created["KeyId"]

    def read(self, aws: KMSClient, identity: str, p: Properties) -> Properties | None:
        key = _key(aws, identity)
        return key and {
            "arn": key["Arn"],
            "keyId": identity,
            "description": key["Description"],
            "policy": aws.get_key_policy(KeyId=identity, PolicyName="default")["Policy"],
            "enableKeyRotation": aws.get_key_rotation_status(KeyId=identity)["KeyRotationEnabled"],
            "tags": {
                tag["TagKey"]: tag["TagValue"]
                for tag in aws.list_resource_tags(KeyId=identity)["Tags"]
            },
        }

    def update(self, aws: KMSClient, identity: str, old: Properties, new: Properties) -> None:
        aws.put_key_policy(KeyId=identity, PolicyName="default", Policy=new["policy"])
        aws.update_key_description(KeyId=identity, Description=new.get("description", ""))
        if new.get("enableKeyRotation"):
            aws.enable_key_rotation(KeyId=identity)
        else:
            aws.disable_key_rotation(KeyId=identity)
        retag(
            old,
            new,
            lambda keys: aws.untag_resource(KeyId=identity, TagKeys=keys),
            lambda tags: aws.tag_resource(KeyId=identity, Tags=_tags(tags)),
        )

    def delete(self, aws: KMSClient, identity: str, p: Properties) -> None:
        if _key(aws, identity) is not None:
            aws.schedule_key_deletion(
                KeyId=identity, PendingWindowInDays=int(p.get("deletionWindowInDays") or 30)
            )


def _key(aws: KMSClient, key_id: str) -> KeyMetadataTypeDef | None:
    found = unless_gone(aws.describe_key, KeyId=key_id)
    if found is None or found["KeyMetadata"]["KeyState"] == "PendingDeletion":
        return None
    return found["KeyMetadata"]


def _tags(tags: dict[str, str]) -> list[TagTypeDef]:
    return [{"TagKey": key, "TagValue": value} for key, value in tags.items()]


class Alias(Kind["KMSClient"]):
    type = "aws:kms/alias:Alias"
    deletion = ("delete_alias", "AliasName")
    service = "kms"
    replaces = frozenset({"name", "namePrefix"})
    computed = frozenset({"arn", "targetKeyArn"})

    def create(self, aws: KMSClient, p: Properties) -> str:
        aws.create_alias(AliasName=p["name"], TargetKeyId=p["targetKeyId"])
        return p["name"]

    def read(self, aws: KMSClient, identity: str, p: Properties) -> Properties | None:
        for page in aws.get_paginator("list_aliases").paginate():
            for alias in page["Aliases"]:
                if alias["AliasName"] == identity:
                    arn, key_id = alias["AliasArn"], alias["TargetKeyId"]
                    return {
                        "name": identity,
                        "arn": arn,
                        "targetKeyId": key_id,
                        "targetKeyArn": f"{arn.rpartition(':')[0]}:key/{key_id}",
                    }
        return None

    def update(self, aws: KMSClient, identity: str, old: Properties, new: Properties) -> None:
        aws.update_alias(AliasName=identity, TargetKeyId=new["targetKeyId"])
