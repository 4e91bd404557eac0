"""The real engine on the embedded AWS: what previews say, updates do, and destroys leave."""

import pytest

from async_inference.stack.images import DEFAULT_TAG
from async_inference.stack.provider import of_stack
from tests.support.engine import HANDLER, answered, ask, changes, submit

pytestmark = pytest.mark.engine

REGISTERED = {
    "Bucket sdxl-bucket",
    "BucketOwnershipControls sdxl-bucket-ownership",
    "BucketPolicy sdxl-bucket-tls",
    "BucketPublicAccessBlock sdxl-bucket-public-access",
    "BucketServerSideEncryptionConfiguration sdxl-bucket-encryption",
    "BucketVersioning sdxl-bucket-versioning",
    "BucketLifecycleConfiguration sdxl-bucket-lifecycle",
    "BucketObjectv2 sdxl-code",
    "LogGroup sdxl-logs",
    "Topic sdxl-success-topic",
    "Topic sdxl-error-topic",
    "Role sdxl-role",
    "RolePolicy sdxl-role-policy",
    "Model sdxl-model",
    "EndpointConfiguration sdxl-config",
    "Endpoint sdxl-endpoint",
    "Target sdxl-target",
    "Policy sdxl-invocations-policy",
    "Policy sdxl-hasbacklogwithoutcapacity-policy",
    "MetricAlarm sdxl-hasbacklogwithoutcapacity-alarm",
    "AsyncEndpoint sdxl",
    "PrivateBucket sdxl",
    "ModelSource sdxl",
    "Notifications sdxl",
    "ExecutionRole sdxl",
    "QueueScaling sdxl",
    "Stack async-inference-local",
}


def test_a_preview_lists_every_resource_and_creates_none(program):
    preview = program.preview()

    assert "is created: it starts InitialInstanceCount = 1 x ml.g4dn.2xlarge" in preview.said
    assert preview.steps == {name: ["create"] for name in REGISTERED}
    assert not program.client("s3").list_buckets()["Buckets"]


def test_up_deploys_a_second_up_changes_nothing_and_destroy_leaves_nothing(program):
    program.up()
    assert program.endpoint()["EndpointStatus"] == "InService"
    assert set(program.outputs()) >= {"endpoint_name", "endpoint_arn", "bucket", "scaling"}

    assert "27 unchanged" in program.up()
    assert changes(program.preview("--refresh")) == {}, "a refresh finds no drift"

    program.destroy()
    sagemaker = program.client("sagemaker")
    left = [
        sagemaker.list_endpoints()["Endpoints"],
        sagemaker.list_endpoint_configs()["EndpointConfigs"],
        sagemaker.list_models()["Models"],
        program.client("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker"
        )["ScalableTargets"],
        program.client("cloudwatch").describe_alarms()["MetricAlarms"],
        program.client("iam").list_roles()["Roles"],
        program.client("s3").list_buckets()["Buckets"],
        program.client("sns").list_topics()["Topics"],
        program.client("logs").describe_log_groups()["logGroups"],
    ]
    assert left == [[]] * 9


def test_another_instance_type_replaces_the_configuration_and_updates_the_endpoint(program):
    """The target is deregistered before and registered after (DG endpoint-scaling)."""
    program.up()
    before = program.endpoint()
    program.configure(instanceType="ml.g5.2xlarge")

    preview = program.preview()
    assert "updated in place: it starts InitialInstanceCount = 1 x ml.g5.2xlarge" in preview.said
    assert "The instance type changes from ml.g4dn.2xlarge to ml.g5.2xlarge: the" in preview.said
    steps = changes(preview)
    assert steps["EndpointConfiguration sdxl-config"] == ["replace"]
    assert steps["Endpoint sdxl-endpoint"] == ["update"]
    assert steps["Target sdxl-target"] == ["replace"]

    program.aws.operations.clear()
    program.up()
    after = program.endpoint()
    assert after["EndpointArn"] == before["EndpointArn"]
    assert after["EndpointConfigName"] != before["EndpointConfigName"]
    order = program.aws.operations
    deregistered = order.index("DeregisterScalableTarget")
    registered = len(order) - 1 - order[::-1].index("RegisterScalableTarget")
    policies = len(order) - 1 - order[::-1].index("PutScalingPolicy")
    assert deregistered < order.index("UpdateEndpoint") < registered < policies
    (alarm,) = [
        alarm
        for alarm in program.client("cloudwatch").describe_alarms()["MetricAlarms"]
        if alarm["MetricName"] == "HasBacklogWithoutCapacity"
    ]
    known = program.client("application-autoscaling").describe_scaling_policies(
        ServiceNamespace="sagemaker"
    )["ScalingPolicies"]
    assert alarm["AlarmActions"][0] in {policy["PolicyARN"] for policy in known}
    assert changes(program.preview()) == {}


def test_turning_the_rollback_on_later_says_that_it_replaces_the_endpoint(program):
    """auto_rollback_configuration is ForceNew (docs/aws-facts.md#replacement)."""
    program.configure(updates={"terminationWaitS": 60})
    program.up()
    program.configure(updates={"terminationWaitS": 60, "rollback": True})

    preview = program.preview()

    assert "is deleted, and with it every request in its queue" in preview.said
    assert changes(preview)["Endpoint sdxl-endpoint"] == ["replace"]
    program.up()
    (target,) = program.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker"
    )["ScalableTargets"]
    assert target["ResourceId"] == "endpoint/async-sdxl-local/variant/AllTraffic"
    assert changes(program.preview("--refresh")) == {}


def test_a_changed_line_of_code_reaches_the_endpoint_in_the_providers_account_only(program):
    """The config's secrets are the CLI's to tell; here they name nobody's account."""
    program.configure(minCapacity=1)
    program.up()
    assert ask(program, "hello") == "1: hello"
    handler = program.folder / "inference_code" / "inference.py"

    program.write_handler(handler.read_text().replace("VERSION = 1", "VERSION = 2"))
    program.pulumi("config", "set", "--secret", "aws:profile", "nobody", "-s", program.stack)
    told = of_stack(program.folder / "Pulumi.local.yaml", program.environment)
    assert told == {"region": "us-east-1", "profile": "nobody"}
    assert "this hook reached none: aws:profile = '[secret]'" in program.up(succeeds=False)
    assert ask(program, "hello") == "1: hello"
    assert len(program.client("sagemaker").list_endpoint_configs()["EndpointConfigs"]) == 2

    program.pulumi("config", "rm", "aws:profile", "-s", program.stack)
    program.up()

    assert ask(program, "hello") == "2: hello"
    assert len(program.client("sagemaker").list_endpoint_configs()["EndpointConfigs"]) == 1


def test_an_upgrade_from_torchserve_to_ray_serve_loses_no_request(program):
    """The queue outlives the fleets: what the old one did not answer, the new one does."""
    torchserve = "2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker"
    program.pulumi("config", "rm", "imageUri", "-s", program.stack)
    program.configure(minCapacity=1, imageTag=torchserve)
    program.write_handler(HANDLER.replace("return f", "__import__('time').sleep(0.3); return f"))
    program.up()
    before = program.model_image()
    asked = [submit(program, f"request {number}") for number in range(40)]

    program.configure(imageTag=DEFAULT_TAG)
    program.up()

    assert [answered(program, each) for each in asked] == [f"1: request {n}" for n in range(40)]
    assert "/pytorch-inference:" in before
    assert program.model_image().endswith(f"/ray:{DEFAULT_TAG}")


def test_a_silent_rollback_fails_the_update_and_keeps_what_is_live(program):
    """The provider reports the rollback as success (TF #48997); the guard does not."""
    program.configure(minCapacity=1)
    program.up()
    live = program.endpoint()["EndpointConfigName"]
    handler = program.folder / "inference_code" / "inference.py"
    good = handler.read_text()

    program.write_handler(good.replace("def model_fn(model_dir): return None", "raise SystemExit"))
    said = program.up(succeeds=False)

    assert "still runs the configuration" in said
    assert "SageMaker rolled the last update back" in said
    assert program.endpoint()["EndpointConfigName"] == live
    assert ask(program, "still here") == "1: still here"

    program.write_handler(good)
    program.up()
    assert ask(program, "again") == "1: again"


def test_a_refresh_shows_what_somebody_changed_behind_the_program(program):
    program.up()
    program.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/async-sdxl-local/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=2,
        MaxCapacity=9,
    )

    assert changes(program.preview("--refresh"))["Target sdxl-target"] == ["update"]


def test_two_stacks_live_side_by_side(program, another):
    other = another("second")
    program.up()
    other.up()

    names = program.client("sagemaker").list_endpoints()["Endpoints"]
    assert {each["EndpointName"] for each in names} == {"async-sdxl-local", "async-sdxl-second"}
    other.destroy()
    assert program.endpoint()["EndpointStatus"] == "InService"


def test_a_wrong_config_registers_nothing_and_names_every_problem(program):
    program.configure(minCapacity=6, instanceType="ml.t3.large", requestTtlS=30, colour="blue")

    said = program.up(succeeds=False)

    for sentence in (
        "minCapacity = 6: exceeds maxCapacity = 5",
        "burstable t2 and t3 instances cannot be scaled",
        "requestTtlS",
        "colour: no such key",
    ):
        assert sentence in said
    assert "Traceback" not in said
    assert not program.client("s3").list_buckets()["Buckets"]
