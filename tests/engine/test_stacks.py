"""Every stack under the real engine: each request is checked against botocore's service models.

That AWS itself accepts them, only a deployment to AWS can show.
"""

import json

import pytest

from async_inference.local_aws.services.errors import AwsError
from async_inference.operations import probe
from tests.support.engine import HANDLER, Program, ask, changes
from tests.support.program import GUARDED
from tests.support.waiting import eventually

pytestmark = pytest.mark.engine


def test_prod_is_accepted_and_finds_no_drift(another):
    """dev is deployed from the documentation's words (test_documented_commands.py)."""
    program = another("prod")

    program.up()

    # Its policies may scale it in meanwhile, which is no drift.
    eventually(lambda: program.endpoint()["EndpointStatus"] == "InService", "in service")
    assert changes(program.preview("--refresh")) == {}


def test_a_destroy_of_prod_keeps_only_what_requests_made_and_says_how_to_end_it(another):
    program = another("prod")
    program.up()
    program.write_handler(HANDLER.replace("VERSION = 1", "VERSION = 2"))
    program.up()
    assert ask(program, "an image") == "2: an image"
    (bucket,) = program.client("s3").list_buckets()["Buckets"]
    name, s3 = bucket["Name"], program.client("s3")

    destroy = ("destroy", "--yes", "--skip-preview", "--run-program", "-s", "prod")
    said = program.pulumi(*destroy, succeeds=False)

    assert f"bucket {name} holds" in said
    assert f"aws s3 rm --recursive s3://{name}" in said
    assert not program.client("sagemaker").list_endpoints()["Endpoints"]
    left = [each["Key"] for each in s3.list_objects_v2(Bucket=name)["Contents"]]
    assert left
    assert all(key.startswith("async_sdxl/") for key in left)
    assert s3.get_public_access_block(Bucket=name), "it is still private"
    assert s3.get_bucket_encryption(Bucket=name)
    assert key_state(program) == "Enabled", "the objects can be read"

    for each in left:
        s3.delete_object(Bucket=name, Key=each)
    program.destroy()

    assert not s3.list_buckets()["Buckets"]
    assert key_state(program) == "PendingDeletion"


def test_a_trial_says_what_is_taken_up_to_the_quota_and_leaves_nothing(program):
    program.aws.refused["CreateEndpoint"] = AwsError("ResourceLimitExceeded", "is 0 Instances.")
    file = program.folder / "Pulumi.local.yaml"
    wanted = probe.trial(file.read_text(), "local", "ml.g5.2xlarge")

    found = probe.probe(wanted, program.folder, program.environment)

    rows = {check.what: (check.verdict, check.found) for check in found}
    assert rows["Endpoint"] == ("ok", "ResourceLimitExceeded")
    assert rows["EndpointConfiguration"] == ("ok", "1 created")
    assert rows["taken down"] == ("ok", "nothing left")
    assert all(check.passed for check in found), rows
    assert not program.client("s3").list_buckets()["Buckets"]
    assert not program.client("sagemaker").list_models()["Models"]
    assert not (program.folder / "Pulumi.local-probe.yaml").exists()
    assert "local-probe" not in program.pulumi("stack", "ls")


def key_state(program: Program) -> str:
    (key,) = program.client("kms").list_keys()["Keys"]
    return program.client("kms").describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"]


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
    assert key_state(program) == "PendingDeletion"
    assert not program.client("budgets").describe_budgets(AccountId="123456789012")["Budgets"]
