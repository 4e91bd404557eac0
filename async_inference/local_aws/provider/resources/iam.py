"""Roles and their inline policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Properties,
    from_tag_list,
    retag,
    tag_list,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_iam import IAMClient


class Role(Kind["IAMClient"]):
    type = "aws:iam/role:Role"
    deletion = ("delete_role", "RoleName")
    service = "iam"
    replaces = frozenset({"name", "namePrefix", "path"})
    autoname = Autoname("name", 64)

    def create(self, aws: IAMClient, p: Properties) -> str:
        aws.create_role(
            RoleName=p["name"],
            AssumeRolePolicyDocument=p["assumeRolePolicy"],
            Tags=tag_list(p),
        )
        return p["name"]

    def read(self, aws: IAMClient, identity: str, p: Properties) -> Properties | None:
        found = unless_gone(aws.get_role, RoleName=identity)
        if found is None:
            return None
        role = found["Role"]
        return {"name": identity, "arn": role["Arn"], "tags": from_tag_list(role.get("Tags", []))}

    def update(self, aws: IAMClient, identity: str, old: Properties, new: Properties) -> None:
        aws.update_assume_role_policy(RoleName=identity, PolicyDocument=new["assumeRolePolicy"])
        retag(
            old,
            new,
            lambda keys: aws.untag_role(RoleName=identity, TagKeys=keys),
            lambda _: aws.tag_role(RoleName=identity, Tags=tag_list(new)),
        )


class RolePolicy(Kind["IAMClient"]):
    type = "aws:iam/rolePolicy:RolePolicy"
    service = "iam"
    replaces = frozenset({"name", "namePrefix", "role"})
    computed = frozenset()
    autoname = Autoname("name", 128)

    def create(self, aws: IAMClient, p: Properties) -> str:
        aws.put_role_policy(RoleName=p["role"], PolicyName=p["name"], PolicyDocument=p["policy"])
        return f"{p['role']}:{p['name']}"

    def read(self, aws: IAMClient, identity: str, p: Properties) -> Properties | None:
        role, _, name = identity.partition(":")
        found = unless_gone(aws.get_role_policy, RoleName=role, PolicyName=name)
        return None if found is None else {"role": role, "name": name}

    def delete(self, aws: IAMClient, identity: str, p: Properties) -> None:
        role, _, name = identity.partition(":")
        unless_gone(aws.delete_role_policy, RoleName=role, PolicyName=name)
