"""SNS topics for finished requests, and their subscriptions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

from async_inference.stack.groups import Subscription

AWS_MANAGED_KEY = "alias/aws/sns"


@dataclass(frozen=True, kw_only=True)
class NotificationsArgs:
    """What `Notifications` needs.

    Args:
        subscriptions: who is told; those to the topic `operations` are `EndpointWatch`'s.
        kms_key_arn: encrypts the topics; None is AWS's key for SNS.
        tags: tags for the topics.
    """

    subscriptions: Sequence[Subscription] = ()
    kms_key_arn: pulumi.Input[str] | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Notifications(pulumi.ComponentResource):
    """Success and error topics of an asynchronous endpoint.

    - the two topics, encrypted
    - the subscriptions; e-mail addresses confirm theirs by a link
    """

    success_topic_arn: pulumi.Output[str]
    error_topic_arn: pulumi.Output[str]

    def __init__(
        self, name: str, args: NotificationsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:Notifications", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        arns = {
            topic: aws.sns.Topic(
                f"{name}-{topic}-topic",
                kms_master_key_id=args.kms_key_arn or AWS_MANAGED_KEY,
                tags=args.tags,
                opts=child,
            ).arn
            for topic in ("success", "error")
        }
        for subscription in args.subscriptions:
            if subscription.topic in arns:
                subscribe(name, arns[subscription.topic], subscription, child)
        self.success_topic_arn = arns["success"]
        self.error_topic_arn = arns["error"]
        self.register_outputs(
            {
                "success_topic_arn": self.success_topic_arn,
                "error_topic_arn": self.error_topic_arn,
            }
        )


def subscribe(
    name: str,
    topic_arn: pulumi.Input[str],
    subscription: Subscription,
    opts: pulumi.ResourceOptions,
) -> None:
    """Register a subscription to a topic."""
    # The address is part of the name, so that a changed list changes no other subscription.
    address = hashlib.sha256(subscription.address.encode()).hexdigest()[:8]
    aws.sns.TopicSubscription(
        f"{name}-{subscription.topic}-{subscription.protocol}-{address}",
        topic=topic_arn,
        protocol=subscription.protocol,
        endpoint=subscription.address,
        opts=opts,
    )
