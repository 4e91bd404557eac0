"""Every stack under the real engine: each request is checked against botocore's service models.

That AWS itself accepts them, only a deployment to AWS can show.
"""

import json

import pytest

from tests.engine.conftest import changes

pytestmark = pytest.mark.engine

GUARDED = {
    "minCapacity": 2,
    "weights": "s3://weights/sdxl",
    "security": {
        "encryption": "customer",
        "networkIsolation": True,
        "subnetIds": ["subnet-0a1b2c3d"],
        "securityGroupIds": ["sg-0a1b2c3d"],
    },
    "observability": {"usdPerInstanceHour": 1.515, "monthlyBudgetUsd": 500},
    "updates": {"strategy": "canary", "rollback": True, "waitS": 60},
    "subscriptions": [
        {"topic": "operations", "protocol": "email", "address": "team@example.com"},
        {"topic": "error", "protocol": "https", "address": "https://example.com/hook"},
    ],
}
"""Everything that a stack can turn on, at once."""


def test_prod_is_accepted_and_finds_no_drift(another):
    """dev is deployed from the documentation's words (test_documented_commands.py)."""
    program = another("prod")

    program.up()

    assert program.endpoint()["EndpointStatus"] == "InService"
    assert changes(program.preview("--refresh")) == {}


def test_everything_turned_on_is_accepted_by_what_a_deployer_may_do_and_goes(another):
    """The published provider reads more than ours, above all of buckets; the document allows for
    what its source calls."""
    program = another("prod")
    program.configure(**GUARDED, forceDestroyBucket=True)
    program.client("s3").create_bucket(Bucket="weights")
    program.aws.actions.clear()

    program.up()
    allowed = {
        action
        for statement in json.loads(program.outputs()["deployer_policy"])["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    assert changes(program.preview("--refresh")) == {}, "a refresh finds no drift"
    program.destroy()

    assert program.aws.actions - allowed == set()
    assert len(program.aws.actions) > 40, "they were recorded"
    assert not program.client("sagemaker").list_endpoints()["Endpoints"]
    assert not program.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (key,) = program.client("kms").list_keys()["Keys"]
    state = program.client("kms").describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"]
    assert state == "PendingDeletion"
    assert not program.client("budgets").describe_budgets(AccountId="123456789012")["Budgets"]
