"""Every stack under the real engine: each request is checked against botocore's service models.

That AWS itself accepts them, only a deployment to AWS can show.
"""

import pytest

from tests.engine.conftest import Program
from tests.engine.test_deployment import changes

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


def deploy_and_destroy(program: Program) -> None:
    program.up()
    assert program.endpoint()["EndpointStatus"] == "InService"
    assert changes(program.preview("--refresh")) == {}, "a refresh finds no drift"
    program.configure(forceDestroyBucket=True)
    program.up()
    program.destroy()
    assert not program.client("sagemaker").list_endpoints()["Endpoints"]
    assert not program.client("cloudwatch").describe_alarms()["MetricAlarms"]


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_a_stack_is_accepted_finds_no_drift_and_goes(another, stack):
    deploy_and_destroy(another(stack))


def test_everything_turned_on_is_accepted_and_goes(another):
    program = another("prod")
    program.configure(**GUARDED)
    program.client("s3").create_bucket(Bucket="weights")

    deploy_and_destroy(program)

    (key,) = program.client("kms").list_keys()["Keys"]
    state = program.client("kms").describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"]
    assert state == "PendingDeletion"
    assert not program.client("budgets").describe_budgets(AccountId="123456789012")["Budgets"]
