"""Topics, their policies and their subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_inference.local_aws.clients import ACCOUNT_ID
from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Properties,
    from_tag_list,
    given,
    retag,
    tag_list,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient


class Topic(Kind["SNSClient"]):
    type = "aws:sns/topic:Topic"
    deletion = ("delete_topic", "TopicArn")
    service = "sns"
    replaces = frozenset({"name", "namePrefix", "fifoTopic"})
    autoname = Autoname("name", 256)

    def create(self, aws: SNSClient, p: Properties) -> str:
        attributes = given(p, KmsMasterKeyId="kmsMasterKeyId")
        return aws.create_topic(Name=p["name"], Attributes=attributes, Tags=tag_list(p))["TopicArn"]

    def read(self, aws: SNSClient, identity: str, p: Properties) -> Properties | None:
        found = unless_gone(aws.get_topic_attributes, TopicArn=identity)
        return found and {
            "name": identity.rpartition(":")[2],
            "arn": identity,
            "tags": from_tag_list(aws.list_tags_for_resource(ResourceArn=identity)["Tags"]),
            **given(found["Attributes"], kmsMasterKeyId="KmsMasterKeyId"),
        }

    def update(self, aws: SNSClient, identity: str, old: Properties, new: Properties) -> None:
        aws.set_topic_attributes(
            TopicArn=identity,
            AttributeName="KmsMasterKeyId",
            AttributeValue=new.get("kmsMasterKeyId") or "",
        )
        retag(
            old,
            new,
            lambda keys: aws.untag_resource(ResourceArn=identity, TagKeys=keys),
            lambda _: aws.tag_resource(ResourceArn=identity, Tags=tag_list(new)),
        )


class TopicPolicy(Kind["SNSClient"]):
    type = "aws:sns/topicPolicy:TopicPolicy"
    service = "sns"
    replaces = frozenset({"arn"})
    computed = frozenset({"owner"})

    def create(self, aws: SNSClient, p: Properties) -> str:
        aws.set_topic_attributes(
            TopicArn=p["arn"], AttributeName="Policy", AttributeValue=p["policy"]
        )
        return p["arn"]

    def read(self, aws: SNSClient, identity: str, p: Properties) -> Properties | None:
        found = unless_gone(aws.get_topic_attributes, TopicArn=identity)
        return found and {
            "arn": identity,
            "policy": found["Attributes"]["Policy"],
            "owner": ACCOUNT_ID,
        }

    def delete(self, aws: SNSClient, identity: str, p: Properties) -> None:
        """Nothing: it is deleted with its topic. (The provider puts SNS's default back.)"""


class TopicSubscription(Kind["SNSClient"]):
    type = "aws:sns/topicSubscription:TopicSubscription"
    deletion = ("unsubscribe", "SubscriptionArn")
    service = "sns"
    replaces = frozenset({"topic", "protocol", "endpoint"})
    computed = frozenset({"arn"})

    def create(self, aws: SNSClient, p: Properties) -> str:
        return aws.subscribe(
            TopicArn=p["topic"],
            Protocol=p["protocol"],
            Endpoint=p["endpoint"],
            ReturnSubscriptionArn=True,
        )["SubscriptionArn"]

    def read(self, aws: SNSClient, identity: str, p: Properties) -> Properties | None:
        found = unless_gone(aws.get_subscription_attributes, SubscriptionArn=identity)
        return None if found is None else {"arn": identity}
