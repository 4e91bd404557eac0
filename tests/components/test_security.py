"""Keys, network and permissions: who may do what, and what each permission is for."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from async_inference.stack.groups import Retention, Security, Updates
from components.access import deployer_policy
from tests.support.async_endpoint import (
    BUCKET,
    COMPONENT,
    CONFIGURATION,
    MODEL,
    ROLE_POLICY,
)
from tests.support.registrations import Record

KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/demo-key-1a2b3c4"
GUARDED = Security(
    encryption="customer", subnet_ids=("subnet-0a1b2c3d",), security_group_ids=("sg-0a1b2c3d",)
)
ENCRYPTION = (
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
)
NEEDED_BY = {
    "s3:GetObject": "SageMaker reads inputs, the code archive and weights as the role (DG)",
    "s3:PutObject": "SageMaker writes outputs and failures as the role (DG)",
    "s3:AbortMultipartUpload": "an output of gigabytes is a multipart upload",
    "s3:ListBucket": "a model data source that is a prefix is listed (DG)",
    "s3:GetBucketLocation": "SageMaker looks where the output's bucket is (DG)",
    "sns:Publish": "SageMaker tells how a request ended (DG async-inference-check-predictions)",
    "ecr:GetAuthorizationToken": "SageMaker logs in to the registry",
    "ecr:BatchCheckLayerAvailability": "SageMaker pulls the image",
    "ecr:BatchGetImage": "SageMaker pulls the image",
    "ecr:GetDownloadUrlForLayer": "SageMaker pulls the image",
    "logs:CreateLogStream": "a stream an instance",
    "logs:DescribeLogStreams": "SageMaker looks for its stream",
    "logs:PutLogEvents": "SageMaker writes the container's log",
    "cloudwatch:PutMetricData": "instances publish their metrics (DG sagemaker-roles)",
    "kms:Decrypt": "inputs, and the topics' data keys, are under the key",
    "kms:GenerateDataKey": "outputs and messages are encrypted with data keys of the key",
    "kms:CreateGrant": "volumes are attached under a grant (BC KmsKeyId)",
    "ec2:CreateNetworkInterface": "the model's instances get interfaces in the VPC",
    "ec2:CreateNetworkInterfacePermission": "SageMaker's account attaches them",
    "ec2:DeleteNetworkInterface": "they go with the instance",
    "ec2:DeleteNetworkInterfacePermission": "they go with the instance",
    "ec2:DescribeDhcpOptions": "DG sagemaker-roles, CreateModel with a VPC",
    "ec2:DescribeNetworkInterfaces": "DG sagemaker-roles, CreateModel with a VPC",
    "ec2:DescribeSecurityGroups": "DG sagemaker-roles, CreateModel with a VPC",
    "ec2:DescribeSubnets": "DG sagemaker-roles, CreateModel with a VPC",
    "ec2:DescribeVpcs": "DG sagemaker-roles, CreateModel with a VPC",
    "cloudwatch:DescribeAlarms": "SageMaker watches the rollback alarm (DG deployment-guardrails)",
}
"""Each permission of the role, and what would fail without it."""
ONLY_WITH = {
    "kms": {"security": Security(encryption="customer")},
    "ec2": {
        "security": Security(subnet_ids=("subnet-00000001",), security_group_ids=("sg-00000001",))
    },
    "cloudwatch:DescribeAlarms": {"updates": Updates(rollback=True)},
}


def statements(record: Any) -> list[dict[str, object]]:
    return json.loads(record[ROLE_POLICY, "demo-role-policy"].inputs["policy"])["Statement"]


def actions(document: list[dict[str, Any]]) -> Iterator[str]:
    for statement in document:
        listed = statement["Action"]
        yield from [listed] if isinstance(listed, str) else listed


def test_everything_that_is_kept_is_under_one_key_of_the_endpoints_own(register, endpoint):
    record = register(
        lambda: endpoint(security=Security(encryption="customer"), instance_type="ml.m5.xlarge")
    )

    (rule,) = record[ENCRYPTION, "demo-bucket-encryption"].inputs["rules"]
    assert rule == {
        "applyServerSideEncryptionByDefault": {
            "sseAlgorithm": "aws:kms",
            "kmsMasterKeyId": KEY_ARN,
        },
        "bucketKeyEnabled": True,
    }
    configuration = record[CONFIGURATION, "demo-config"].inputs
    assert configuration["kmsKeyArn"] == KEY_ARN, "volumes"
    assert configuration["asyncInferenceConfig"]["outputConfig"]["kmsKeyId"] == KEY_ARN, "outputs"
    assert record["aws:cloudwatch/logGroup:LogGroup", "demo-logs"].inputs["kmsKeyId"] == KEY_ARN
    for topic in ("success", "error", "operations"):
        inputs = record["aws:sns/topic:Topic", f"demo-{topic}-topic"].inputs
        assert inputs["kmsMasterKeyId"] == KEY_ARN
    key = record["aws:kms/key:Key", "demo-key"].inputs
    assert key["enableKeyRotation"] is True


def test_alarms_may_use_the_key_of_the_topic_that_they_publish_to(register, endpoint):
    """Under AWS's own key for SNS alarms cannot publish, so without a key there is none (CW)."""
    own = register(lambda: endpoint(security=Security(encryption="customer")))
    policy = json.loads(own["aws:kms/key:Key", "demo-key"].inputs["policy"])
    (alarms,) = [each for each in policy["Statement"] if each["Sid"] == "LetAlarmsAndBudgetsNotify"]
    assert "cloudwatch.amazonaws.com" in alarms["Principal"]["Service"]
    assert alarms["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}

    topic = register(endpoint)["aws:sns/topic:Topic", "demo-operations-topic"]
    assert "kmsMasterKeyId" not in topic.inputs


def test_a_key_that_was_made_elsewhere_is_used_and_none_is_made(register, endpoint):
    arn = "arn:aws:kms:us-east-1:123456789012:key/1a2b"

    record = register(
        lambda: endpoint(security=Security(encryption=arn), instance_type="ml.m5.xlarge")
    )

    assert record[CONFIGURATION, "demo-config"].inputs["kmsKeyArn"] == arn
    assert "aws:kms/key:Key" not in {kind for kind, _ in record.keys}


@pytest.mark.parametrize("instance_type", ["ml.g4dn.2xlarge", "ml.g5.2xlarge"])
def test_the_key_is_not_asked_for_volumes_that_the_hardware_encrypts(
    register, endpoint, instance_type
):
    """CreateEndpointConfig failed for them, says the service model of not long ago."""
    wanted = Security(encryption="customer")
    record = register(lambda: endpoint(security=wanted, instance_type=instance_type))

    configuration = record[CONFIGURATION, "demo-config"].inputs
    assert "kmsKeyArn" not in configuration
    assert configuration["asyncInferenceConfig"]["outputConfig"]["kmsKeyId"] == KEY_ARN, "outputs"


def test_keys_of_weights_and_outputs_elsewhere_may_be_used(register, endpoint):
    theirs = "arn:aws:kms:us-east-1:210987654321:key/9f8e"

    record = register(lambda: endpoint(security=Security(other_key_arns=(theirs,))))

    (use,) = [each for each in statements(record) if each["Sid"] == "UseOtherKeys"]
    assert (use["Action"], use["Resource"]) == (["kms:Decrypt", "kms:GenerateDataKey"], [theirs])
    invoker = json.loads(record.outputs[COMPONENT, "demo"]["invoker_policy"])["Statement"]
    (reads,) = [each for each in invoker if each["Sid"] == "ReadUnderOtherKeys"]
    assert (reads["Action"], reads["Resource"]) == ("kms:Decrypt", [theirs])


def test_without_a_key_or_a_network_the_inputs_do_not_even_name_them(register, endpoint):
    record = register(endpoint)

    assert "kmsKeyArn" not in record[CONFIGURATION, "demo-config"].inputs
    assert not {"vpcConfig", "enableNetworkIsolation"} & record[MODEL, "demo-model"].inputs.keys()


def test_the_model_runs_in_the_subnets_that_are_named_and_reaches_no_network(register, endpoint):
    security = Security(
        network_isolation=True, subnet_ids=("subnet-00000001",), security_group_ids=("sg-00000001",)
    )

    model = register(lambda: endpoint(security=security))[MODEL, "demo-model"].inputs

    assert model["vpcConfig"] == {
        "subnets": ["subnet-00000001"],
        "securityGroupIds": ["sg-00000001"],
    }
    assert model["enableNetworkIsolation"] is True


def test_inputs_outputs_and_failures_expire_and_old_versions_go(register, endpoint):
    retention = Retention(input_days=1, output_days=2, failure_days=3, old_version_days=4)

    record = register(lambda: endpoint(retention=retention))

    rules = record[
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration", "demo-bucket-lifecycle"
    ].inputs["rules"]
    assert {
        rule["filter"]["prefix"]: rule["expiration"]["days"]
        for rule in rules
        if "days" in rule["expiration"]
    } == {"async_sdxl/input/": 1, "async_sdxl/output/": 2, "async_sdxl/failure/": 3}
    assert rules[-1]["noncurrentVersionExpiration"] == {"noncurrentDays": 4}
    versioning = record["aws:s3/bucketVersioning:BucketVersioning", "demo-bucket-versioning"]
    assert versioning.inputs["versioningConfiguration"] == {"status": "Enabled"}


@pytest.fixture
def everything(once, register, endpoint) -> Record:
    """An endpoint with all that adds a permission."""
    return once(
        lambda: register(lambda: endpoint(security=GUARDED, updates=Updates(rollback=True)))
    )


def test_each_permission_of_the_role_is_one_that_something_needs(everything):
    assert set(actions(statements(everything))) == NEEDED_BY.keys()


@pytest.mark.parametrize("prefix", ONLY_WITH)
def test_what_is_not_turned_on_is_not_permitted(register, endpoint, prefix):
    def permitted(record: object) -> bool:
        return any(action.startswith(prefix) for action in actions(statements(record)))

    assert permitted(register(lambda: endpoint(**ONLY_WITH[prefix])))
    assert not permitted(register(endpoint))


def test_the_role_makes_interfaces_in_its_own_subnets_and_groups_only(everything):
    (made,) = [
        each for each in statements(everything) if each["Action"] == "ec2:CreateNetworkInterface"
    ]
    ec2 = "arn:aws:ec2:us-east-1:123456789012"
    assert made["Resource"] == [
        f"{ec2}:network-interface/*",
        f"{ec2}:subnet/subnet-0a1b2c3d",
        f"{ec2}:security-group/sg-0a1b2c3d",
    ]


def test_clients_may_send_and_fetch_and_no_more(everything):
    document = json.loads(everything.outputs[COMPONENT, "demo"]["invoker_policy"])

    granted = {each["Sid"]: each["Resource"] for each in document["Statement"]}
    assert granted == {
        "Invoke": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/async-demo",
        "PutInputs": [f"arn:aws:s3:::{BUCKET}/async_sdxl/input/*"],
        "GetOutputsAndFailures": [
            f"arn:aws:s3:::{BUCKET}/async_sdxl/failure/*",
            f"arn:aws:s3:::{BUCKET}/async_sdxl/output/*",
        ],
        "SeeWhatIsMissing": [f"arn:aws:s3:::{BUCKET}"],
        "UseKey": KEY_ARN,
    }
    assert "sagemaker:InvokeEndpointAsync" in set(actions(document["Statement"]))


def test_an_operator_may_read_what_calibrates_and_change_nothing(everything):
    """The calls of async_inference/calibration/reading.py and rehearsal/history.py."""
    document = json.loads(everything.outputs[COMPONENT, "demo"]["operator_policy"])

    assert set(actions(document["Statement"])) == {
        "application-autoscaling:DescribeScalingActivities",
        "cloudwatch:DescribeAlarmHistory",
        "cloudwatch:DescribeAlarms",
        "cloudwatch:GetMetricData",
        "cloudwatch:GetMetricStatistics",
        "cloudwatch:ListMetrics",
        "logs:DescribeLogStreams",
        "sagemaker:DescribeEndpoint",
        "sagemaker:DescribeEndpointConfig",
    }


def test_clients_may_announce_in_one_namespace_where_policies_listen_and_nowhere_else(
    register, endpoint
):
    def announces(preset: str) -> list[dict[str, object]]:
        record = register(lambda: endpoint(scaling_preset=preset))
        document = json.loads(record.outputs[COMPONENT, "demo"]["invoker_policy"])
        return [each for each in document["Statement"] if "cloudwatch" in str(each["Action"])]

    (allowed,) = announces("announced")
    assert allowed["Action"] == "cloudwatch:PutMetricData"
    assert allowed["Condition"] == {"StringEquals": {"cloudwatch:namespace": "AsyncInference"}}
    assert announces("tuned") == []


def test_the_deployer_passes_the_endpoints_role_to_sagemaker_only(everything):
    document = json.loads(everything.outputs[COMPONENT, "demo"]["deployer_policy"])

    (passing,) = [each for each in document["Statement"] if each["Action"] == "iam:PassRole"]
    assert passing["Resource"] == "arn:aws:iam::123456789012:role/demo-role-*"
    assert passing["Condition"] == {
        "StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}
    }
    assert not [action for action in actions(document["Statement"]) if "*" in action]


def test_the_deployer_reaches_this_region_and_account_alone(everything):
    document = json.loads(everything.outputs[COMPONENT, "demo"]["deployer_policy"])

    regional = {"sagemaker", "application-autoscaling", "cloudwatch", "logs", "sns", "kms"}
    for statement in document["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            _, _, service, region, account, *name = (resource + ":::::").split(":")
            if service in regional and not name[0].startswith("dashboard/"):
                assert (region, account) == ("us-east-1", "123456789012"), resource


def test_the_deployers_document_fits_an_inline_policy_of_a_role_with_the_longest_names():
    """IAM takes 10,240 characters of inline policies in a role, white space not counted."""
    document = deployer_policy(
        name="sdxl",
        endpoint_name="e" * 63,
        account_id="123456789012",
        partition="aws-us-gov",
        region="us-gov-west-1",
        given_key_arn=KEY_ARN,
    )

    assert len(json.dumps(document, separators=(",", ":"))) <= 10_240
