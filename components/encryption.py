"""A customer-managed KMS key for all data of an endpoint."""

from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

from async_inference.aws_names import arn
from async_inference.stack.groups import LOCAL_STORAGE
from components.provider_account import ProviderAccount
from components.resumption import clears_alias

DELETION_WINDOW_D = 30
"""Days in which a scheduled deletion can be cancelled, the most that KMS allows (BC): data that is
encrypted with a deleted key is lost."""


@dataclass(frozen=True, kw_only=True)
class EncryptionKeyArgs:
    """What an `EncryptionKey` is for.

    Args:
        account: where the provider acts, whose IAM policies govern the key.
        region: the key's region.
        log_group: name of the log group that CloudWatch Logs encrypts with it.
        alias: the key's name in the console, without `alias/`.
        tags: tags for the key.
    """

    account: ProviderAccount
    region: str
    log_group: str
    alias: str
    tags: dict[str, str] = field(default_factory=dict)


def volume_key(
    kms_key_arn: pulumi.Output[str] | None, instance_type: str
) -> pulumi.Output[str] | None:
    """The key of the instances' volumes; None where the instances' hardware encrypts them."""
    return None if instance_type.split(".")[1] in LOCAL_STORAGE else kms_key_arn


def key_policy(
    *, account_id: str, partition: str, region: str, log_group: str
) -> dict[str, object]:
    """Who may use the key: principals with IAM policies of this account, and three services.

    Alarms and budgets publish to a topic that is encrypted with this key. With AWS's key for SNS
    they could not, since nobody can change that key's policy (CW alarms and SNS).
    """
    from_here = {"StringEquals": {"aws:SourceAccount": account_id}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                # Without it, nobody could manage the key any more (KMS default key policy).
                "Sid": "LetIamPoliciesDecide",
                "Effect": "Allow",
                "Principal": {
                    "AWS": arn("iam", "root", account_id=account_id, partition=partition)
                },
                "Action": "kms:*",
                "Resource": "*",
            },
            {
                "Sid": "LetAlarmsAndBudgetsNotify",
                "Effect": "Allow",
                "Principal": {
                    "Service": ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"],
                },
                "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
                "Resource": "*",
                "Condition": from_here,
            },
            {
                "Sid": "LetLogsEncrypt",
                "Effect": "Allow",
                "Principal": {"Service": f"logs.{region}.amazonaws.com"},
                "Action": [
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:Encrypt",
                    "kms:GenerateDataKey",
                    "kms:GenerateDataKeyWithoutPlaintext",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ],
                "Resource": "*",
                "Condition": {
                    "ArnEquals": {
                        "kms:EncryptionContext:aws:logs:arn": (
                            arn(
                                "logs",
                                f"log-group:{log_group}",
                                region=region,
                                account_id=account_id,
                                partition=partition,
                            )
                        )
                    }
                },
            },
        ],
    }


class EncryptionKey(pulumi.ComponentResource):
    """The endpoint's KMS key.

    - the key, rotated every year, with a policy for this account, alarms, budgets and logs
    - an alias, by which people find it
    """

    arn: pulumi.Output[str]

    def __init__(
        self, name: str, args: EncryptionKeyArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("async-inference:index:EncryptionKey", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        key = aws.kms.Key(
            f"{name}-key",
            description=f"Requests, answers, volumes, topics and logs of {args.alias}.",
            deletion_window_in_days=DELETION_WINDOW_D,
            enable_key_rotation=True,
            policy=pulumi.Output.json_dumps(
                pulumi.Output.all(args.account.id, args.account.partition).apply(
                    lambda known: key_policy(
                        account_id=known[0],
                        partition=known[1],
                        region=args.region,
                        log_group=args.log_group,
                    )
                )
            ),
            tags=args.tags,
            opts=child,
        )
        aws.kms.Alias(
            f"{name}-key-alias",
            name=f"alias/{args.alias}",
            target_key_id=key.id,
            opts=pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(hooks=clears_alias(name, args.account))
            ),
        )
        self.arn = key.arn
        self.register_outputs({"arn": self.arn})
