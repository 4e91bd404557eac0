"""SageMaker's control plane: names, references, lists and tags as boto3 sees them."""

import pytest

from tests.support.embedded_aws import ROLE
from tests.support.waiting import eventually

pytestmark = pytest.mark.local_aws


@pytest.fixture
def account(start):
    return start()


def model(account, name: str, **more) -> None:
    image = {"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1"}
    account.sagemaker.create_model(
        **{"ModelName": name, "ExecutionRoleArn": ROLE, "PrimaryContainer": image} | more
    )


def variant(name: str = "AllTraffic", **more) -> dict:
    return {
        "VariantName": name,
        "ModelName": "m",
        "InstanceType": "ml.g5.xlarge",
        "InitialInstanceCount": 1,
    } | more


def configuration(account, *variants: dict, name: str = "c", **more) -> None:
    account.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=list(variants),
        AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://bucket/out"}},
        **more,
    )


def refused(account, sentence: str):
    return pytest.raises(account.sagemaker.exceptions.ClientError, match=sentence)


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        ((variant("a"), variant("b")), "single, instance-based production variant"),
        ((variant(InitialInstanceCount=0),), "greater than or equal to 1"),
        ((variant(VolumeSizeInGB=513),), "less than or equal to 512"),
        ((variant(ContainerStartupHealthCheckTimeoutInSeconds=59),), "or equal to 60"),
        ((variant(InstanceType="ml.g99.xlarge"),), "enum value set"),
        ((variant("-a"),), "regular expression pattern"),
        ((variant(ModelName="nobody"),), "Could not find model"),
        (({"VariantName": "a", "ModelName": "m"},), "needs InstanceType, InitialInstanceCount"),
    ],
)
def test_a_configuration_outside_sagemakers_rules_is_refused(account, variants, sentence):
    model(account, "m")

    with refused(account, sentence):
        configuration(account, *variants)

    assert account.sagemaker.list_endpoint_configs()["EndpointConfigs"] == []


def test_a_key_for_volumes_is_refused_where_the_instances_have_their_own(account):
    """So say service models of not long ago; the newest says that the key does nothing."""
    model(account, "m")

    with refused(account, "KmsKeyId cannot be used with ml.g5.xlarge, which has local storage"):
        configuration(account, variant(), KmsKeyId="alias/own")
    configuration(account, variant(InstanceType="ml.m5.xlarge"), KmsKeyId="alias/own")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"ModelName": "-m"}, "regular expression pattern"),
        ({"ModelName": "m" * 64}, "less than or equal to 63"),
        ({"PrimaryContainer": {"Image": "i" * 256}}, "less than or equal to 255"),
        ({"Containers": [{"Image": "i"}]}, "Exactly one of PrimaryContainer and Containers"),
        ({"Tags": [{"Key": f"k{n}", "Value": "v"} for n in range(51)]}, "or equal to 50"),
        ({"PrimaryContainer": {"Environment": {f"K{n}": "" for n in range(101)}}}, "equal to 100"),
        ({"PrimaryContainer": {"Environment": {"K": "v" * 1025}}}, "less than or equal to 1024"),
        ({"ExecutionRoleArn": "nobody"}, "regular expression pattern"),
    ],
)
def test_a_model_outside_awss_limits_is_refused(account, more, sentence):
    """docs/aws-facts.md#limits."""
    with refused(account, sentence):
        model(account, **{"name": "m"} | more)


def test_names_are_taken_once(account):
    model(account, "m")
    configuration(account, variant())

    with refused(account, "Cannot create already existing model"):
        model(account, "m")
    with refused(account, "Cannot create already existing endpoint configuration"):
        configuration(account, variant())


@pytest.mark.parametrize("kind", ["model", "endpoint_config", "endpoint"])
def test_what_does_not_exist_could_not_be_found(account, kind):
    name = {
        "model": {"ModelName": "nobody"},
        "endpoint_config": {"EndpointConfigName": "nobody"},
        "endpoint": {"EndpointName": "nobody"},
    }[kind]

    for verb in ("describe", "delete"):
        with refused(account, "Could not find"):
            getattr(account.sagemaker, f"{verb}_{kind}")(**name)


def test_lists_are_paged_sorted_and_filtered(account):
    for number in range(25):
        model(account, f"m{number:02}")

    pages = list(account.sagemaker.get_paginator("list_models").paginate())
    names = [each["ModelName"] for page in pages for each in page["Models"]]
    assert [len(page["Models"]) for page in pages] == [10, 10, 5]
    assert names == sorted(names, reverse=True), "the newest first"
    (second,) = account.sagemaker.list_models(NameContains="m02")["Models"]
    earlier = account.sagemaker.list_models(
        CreationTimeBefore=second["CreationTime"], SortBy="Name", SortOrder="Ascending"
    )["Models"]
    assert [each["ModelName"] for each in earlier][:2] == ["m00", "m01"]
    assert account.sagemaker.list_endpoints(StatusEquals="InService")["Endpoints"] == []


def test_tags_are_added_changed_and_removed(account):
    model(account, "m", Tags=[{"Key": "a", "Value": "1"}])
    arn = account.sagemaker.describe_model(ModelName="m")["ModelArn"]

    account.sagemaker.add_tags(
        ResourceArn=arn, Tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}]
    )
    account.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["b"])

    assert account.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "2"}]


def test_an_endpoint_that_is_being_changed_takes_no_update_and_one_that_failed_says_why(account):
    account.deploy(code="raise ValueError('no such weights')")

    with refused(account, "Cannot update in-progress endpoint"):
        account.sagemaker.update_endpoint(EndpointName="echo", EndpointConfigName="echo-1")
    eventually(lambda: account.status() == "Failed", "a failed endpoint")

    found = account.sagemaker.describe_endpoint(EndpointName="echo")
    assert "no such weights" in found["FailureReason"]
    (listed,) = account.sagemaker.list_endpoints(StatusEquals="Failed")["Endpoints"]
    assert listed["EndpointName"] == "echo"
    account.sagemaker.delete_endpoint(EndpointName="echo")
    account.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="echo")
