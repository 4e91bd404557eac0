"""Budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_inference.aws_names import arn
from async_inference.local_aws.clients import ACCOUNT_ID
from async_inference.local_aws.provider.resources.kind import (
    Autoname,
    Kind,
    Parameters,
    Properties,
    tag_list,
    unless_gone,
)

if TYPE_CHECKING:
    from types_boto3_budgets import BudgetsClient


class Budget(Kind["BudgetsClient"]):
    type = "aws:budgets/budget:Budget"
    service = "budgets"
    replaces = frozenset({"name", "namePrefix", "accountId", "budgetType"})
    autoname = Autoname("name", 100)

    def create(self, aws: BudgetsClient, p: Properties) -> str:
        resource_tags: Parameters = {"ResourceTags": tag_list(p)} if tag_list(p) else {}
        aws.create_budget(
            AccountId=ACCOUNT_ID,
            Budget={
                "BudgetName": p["name"],
                "BudgetType": p["budgetType"],
                "TimeUnit": p["timeUnit"],
                "BudgetLimit": {"Amount": p["limitAmount"], "Unit": p["limitUnit"]},
                "CostFilters": {
                    each["name"]: each["values"] for each in p.get("costFilters") or []
                },
            },
            NotificationsWithSubscribers=[
                {
                    "Notification": {
                        "NotificationType": each["notificationType"],
                        "ComparisonOperator": each["comparisonOperator"],
                        "Threshold": float(each["threshold"]),
                        "ThresholdType": each["thresholdType"],
                    },
                    "Subscribers": [
                        {"SubscriptionType": "SNS", "Address": arn}
                        for arn in each.get("subscriberSnsTopicArns") or []
                    ],
                }
                for each in p.get("notifications") or []
            ],
            **resource_tags,
        )
        return f"{ACCOUNT_ID}:{p['name']}"

    def read(self, aws: BudgetsClient, identity: str, p: Properties) -> Properties | None:
        name = identity.partition(":")[2]
        found = unless_gone(aws.describe_budget, AccountId=ACCOUNT_ID, BudgetName=name)
        return found and {
            "name": name,
            "arn": arn("budgets", f"budget/{name}", account_id=ACCOUNT_ID),
        }

    def update(self, aws: BudgetsClient, identity: str, old: Properties, new: Properties) -> None:
        # moto has neither UpdateBudget nor changes of notifications.
        self.delete(aws, identity, old)
        self.create(aws, new)

    def delete(self, aws: BudgetsClient, identity: str, p: Properties) -> None:
        name = identity.partition(":")[2]
        unless_gone(aws.delete_budget, AccountId=ACCOUNT_ID, BudgetName=name)
