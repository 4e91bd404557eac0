"""AsyncEndpoint registers what the reference system has; that AWS accepts it, a deploy proves."""

import json
import tarfile

import botocore.session
import pulumi
import pytest

from async_inference.stack.arguments import COMPONENT_VARIABLES
from async_inference.stack.groups import Subscription
from async_inference.stack.images import image_of, model_server_environment
from tests.support.async_endpoint import (
    BUCKET,
    COMPONENT,
    CONFIGURATION,
    ENDPOINT,
    MODEL,
    OBJECT,
    ROLE,
    ROLE_POLICY,
    TARGET,
    TOPICS,
)

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-gpu"


def test_the_model_has_the_reference_systems_container(register, endpoint):
    model = register(endpoint)[MODEL, "demo-model"]

    container = model.inputs["primaryContainer"]
    assert container["image"] == IMAGE, "looked up in the region, not hard-coded by account"
    (code,) = container["modelDataSource"]["s3DataSources"]
    assert code["s3Uri"].startswith(f"s3://{BUCKET}/code/")
    assert (code["s3DataType"], code["compressionType"]) == ("S3Object", "Gzip")
    assert "modelDataUrl" not in container, "BC: additional sources are beside ModelDataSource"
    assert container["environment"] == {
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_REGION": "us-east-1",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "TS_DEFAULT_RESPONSE_TIMEOUT": "3600",
        "TS_MAX_RESPONSE_SIZE": "2000000000",
        "TS_MAX_REQUEST_SIZE": "2000000000",
        "MMS_DEFAULT_RESPONSE_TIMEOUT": "3600",
        "MMS_MAX_RESPONSE_SIZE": "2000000000",
        "MMS_MAX_REQUEST_SIZE": "2000000000",
        "TS_DEFAULT_STARTUP_TIMEOUT": "1800",
        "MODEL_WEIGHTS": "tiny",
    }


def test_the_configuration_is_asynchronous_and_sets_the_concurrency(register, endpoint):
    """Without it nothing may scale (docs/aws-facts.md#concurrency)."""
    configuration = register(endpoint)[CONFIGURATION, "demo-config"]

    assert configuration.inputs == {
        "productionVariants": [
            {
                "variantName": "AllTraffic",
                "modelName": "demo-model-1a2b3c4",
                "instanceType": "ml.g4dn.2xlarge",
                "initialInstanceCount": 1,
                "modelDataDownloadTimeoutInSeconds": 1800,
                "containerStartupHealthCheckTimeoutInSeconds": 1800,
            }
        ],
        "asyncInferenceConfig": {
            "outputConfig": {
                "s3OutputPath": f"s3://{BUCKET}/async_sdxl/output",
                "s3FailurePath": f"s3://{BUCKET}/async_sdxl/failure",
                "notificationConfig": {
                    "successTopic": f"{TOPICS}:demo-success-topic-1a2b3c4",
                    "errorTopic": f"{TOPICS}:demo-error-topic-1a2b3c4",
                },
            },
            "clientConfig": {"maxConcurrentInvocationsPerInstance": 1},
        },
        "tags": {"endpoint": "async-demo"},
    }


RAY = "serve-ml-sagemaker-cuda-v1.4"


def test_the_ray_serve_image_is_in_the_same_account_and_has_its_own_variables(
    register, endpoint, tmp_path
):
    record = register(lambda: endpoint(image_tag=RAY, invocation_timeout_s=900))

    container = record[MODEL, "demo-model"].inputs["primaryContainer"]
    assert container["image"] == f"763104351884.dkr.ecr.us-east-1.amazonaws.com/ray:{RAY}"
    assert container["environment"] == {
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_REGION": "us-east-1",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "RAYSERVE_BACKEND_TIMEOUT": "900",
        "HANDLER_CONCURRENCY": "1",
        "MODEL_WEIGHTS": "tiny",
    }
    (archive,) = (tmp_path / ".local" / "build").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["code/inference.py", "ray_application.py", "config.yaml"]


@pytest.mark.parametrize(
    ("changes", "ami"),
    [
        ({"image_tag": RAY}, "al2-ami-sagemaker-inference-gpu-3-1"),
        ({"image_tag": RAY, "instance_type": "ml.m5.xlarge"}, None),
        ({"image_tag": "2.6.0-gpu-py312"}, None),
        ({"image_tag": RAY, "inference_ami_version": "own"}, "own"),
    ],
)
def test_the_host_gets_the_drivers_that_the_image_asks_for(register, endpoint, changes, ami):
    configuration = register(lambda: endpoint(**changes))[CONFIGURATION, "demo-config"]

    (variant,) = configuration.inputs["productionVariants"]
    assert variant.get("inferenceAmiVersion") == ami


def test_a_queue_belongs_to_the_endpoint_and_so_there_is_one_variant(register, endpoint):
    """No request names a variant (BC), and queue metrics have none (docs/aws-facts.md#metrics)."""
    runtime = botocore.session.get_session().get_service_model("sagemaker-runtime")
    request = runtime.operation_model("InvokeEndpointAsync").input_shape
    assert request is not None
    assert "TargetVariant" not in request.members

    variants = register(endpoint)[CONFIGURATION, "demo-config"].inputs["productionVariants"]
    assert [variant["variantName"] for variant in variants] == ["AllTraffic"]


@pytest.mark.parametrize(("minimum", "initial"), [(0, 1), (1, 1), (3, 3)])
def test_a_deployment_starts_the_floor_but_at_least_one_instance(
    register, endpoint, minimum, initial
):
    """InitialInstanceCount >= 1 (BC)."""
    record = register(lambda: endpoint(min_capacity=minimum))

    (variant,) = record[CONFIGURATION, "demo-config"].inputs["productionVariants"]
    assert variant["initialInstanceCount"] == initial


def test_what_every_change_replaces_is_auto_named_and_the_endpoint_is_not(register, endpoint):
    """A fixed name fails or the endpoint never sees the change (TF #14337, #21811, #40080)."""
    record = register(endpoint)

    assert "name" not in record[MODEL, "demo-model"].inputs
    assert "name" not in record[CONFIGURATION, "demo-config"].inputs
    assert record[ENDPOINT, "demo-endpoint"].inputs["name"] == "async-demo"


def test_whatever_uses_the_role_waits_for_its_permissions(register, endpoint):
    """SNS and S3 permissions race at creation (amazon-sagemaker-examples #4461)."""
    record = register(endpoint)

    for key in [(MODEL, "demo-model"), (CONFIGURATION, "demo-config"), (ENDPOINT, "demo-endpoint")]:
        assert "demo-role-policy" in record[key].depends_on


def test_the_target_is_registered_after_the_endpoint_and_so_deleted_before_it(register, endpoint):
    target = register(endpoint)[TARGET, "demo-target"]

    assert target.input_dependencies["resourceId"] == {"demo-endpoint"}
    assert target.inputs["resourceId"] == "endpoint/async-demo/variant/AllTraffic"


def test_nothing_that_the_live_endpoint_runs_is_deleted_unasked(register, endpoint):
    record = register(endpoint)

    for key in [(MODEL, "demo-model"), (CONFIGURATION, "demo-config")]:
        assert "demo-keep-live" in record[key].before_delete
    assert record[OBJECT, "demo-code"].retain_on_delete
    assert "demo-release-target" in record[ENDPOINT, "demo-endpoint"].before_update


def test_what_an_interruption_left_is_settled_before_anything_else_looks(register, endpoint):
    record = register(endpoint)

    made = record[ENDPOINT, "demo-endpoint"]
    assert made.before_create[0] == "demo-clear-name"
    assert made.before_update[0] == made.before_delete[0] == "demo-settle"
    assert record[CONFIGURATION, "demo-config"].before_delete[0] == "demo-clear-creation"


def test_every_resource_has_the_component_above_it(register, endpoint):
    record = register(endpoint)

    tops = [entry for entry in record.registrations if entry.type.endswith(":AsyncEndpoint")]
    assert [entry.name for entry in tops] == ["demo"]
    parts = {
        "PrivateBucket",
        "ModelSource",
        "Notifications",
        "ExecutionRole",
        "QueueScaling",
        "EndpointWatch",
    }
    assert {
        entry.type.rsplit(":", 1)[1]
        for entry in record.registrations
        if entry.parent == "demo" and entry.type.startswith("async-inference:")
    } == parts
    assert all(entry.parent == "demo" for entry in record.registrations if entry not in tops)


def test_two_endpoints_in_one_stack_do_not_collide(register, endpoint):
    record = register(lambda: (endpoint("one"), endpoint("two")))

    names = [(entry.type, entry.name) for entry in record.registrations]
    assert len(names) == len(set(names))
    assert {entry.inputs["name"] for entry in record.registrations if entry.type == ENDPOINT} == {
        "async-one",
        "async-two",
    }


def test_the_outputs_are_what_a_caller_needs(register, endpoint):
    outputs = register(endpoint).outputs[COMPONENT, "demo"]

    assert set(outputs) == {
        "endpoint_name",
        "endpoint_arn",
        "bucket_name",
        "input_path",
        "output_path",
        "failure_path",
        "success_topic_arn",
        "error_topic_arn",
        "operations_topic_arn",
        "role_arn",
        "scaling",
        "deployer_policy",
        "invoker_policy",
        "operator_policy",
    }
    assert outputs["input_path"] == f"s3://{BUCKET}/async_sdxl/input"


def test_the_bucket_is_private_encrypted_and_refuses_plain_http(register, endpoint):
    record = register(endpoint)

    block = record[
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", "demo-bucket-public-access"
    ]
    assert {block.inputs[key] for key in block.inputs if key != "bucket"} == {True}
    encryption = record[
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        "demo-bucket-encryption",
    ]
    assert encryption.inputs["rules"] == [
        {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}
    ]
    policy = record["aws:s3/bucketPolicy:BucketPolicy", "demo-bucket-tls"]
    (statement,) = json.loads(policy.inputs["policy"])["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_role_reaches_its_own_prefixes_image_and_logs_only(register, endpoint):
    record = register(endpoint)

    assert "managedPolicyArns" not in record[ROLE, "demo-role"].inputs
    statements = {
        statement["Sid"]: statement
        for statement in json.loads(record[ROLE_POLICY, "demo-role-policy"].inputs["policy"])[
            "Statement"
        ]
    }
    assert statements["ReadInputsAndModel"]["Resource"] == [
        f"arn:aws:s3:::{BUCKET}/async_sdxl/input/*",
        f"arn:aws:s3:::{BUCKET}/code/*",
    ]
    assert statements["WriteOutputsAndFailures"]["Resource"] == [
        f"arn:aws:s3:::{BUCKET}/async_sdxl/failure/*",
        f"arn:aws:s3:::{BUCKET}/async_sdxl/output/*",
    ]
    assert statements["PullImage"]["Resource"] == (
        "arn:aws:ecr:us-east-1:763104351884:repository/pytorch-inference"
    )
    assert statements["WriteLogs"]["Resource"][0] == (
        "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/async-demo"
    )
    assert statements["Notify"]["Resource"] == [
        f"{TOPICS}:demo-success-topic-1a2b3c4",
        f"{TOPICS}:demo-error-topic-1a2b3c4",
    ]
    everywhere = {sid for sid, statement in statements.items() if statement["Resource"] == "*"}
    assert everywhere == {"LogInToEcr", "PublishMetrics"}, "actions without narrower resources"
    actions = [
        action
        for statement in statements.values()
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    ]
    assert not [action for action in actions if "*" in action]


def test_only_sagemaker_of_this_account_assumes_the_role(register, endpoint):
    document = json.loads(register(endpoint)[ROLE, "demo-role"].inputs["assumeRolePolicy"])

    (statement,) = document["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


@pytest.mark.parametrize(
    ("weights", "source", "readable"),
    [
        (
            "s3://models/sdxl",
            {"s3Uri": "s3://models/sdxl/", "s3DataType": "S3Prefix", "compressionType": "None"},
            "arn:aws:s3:::models/sdxl/*",
        ),
        (
            "s3://models/sdxl.tar.gz",
            {
                "s3Uri": "s3://models/sdxl.tar.gz",
                "s3DataType": "S3Object",
                "compressionType": "Gzip",
            },
            "arn:aws:s3:::models/sdxl.tar.gz",
        ),
    ],
)
def test_weights_on_s3_are_mounted_beside_the_code(register, endpoint, weights, source, readable):
    """Big weights come uncompressed, under a prefix (docs/aws-facts.md#model-artifacts)."""
    record = register(lambda: endpoint(weights=weights))

    container = record[MODEL, "demo-model"].inputs["primaryContainer"]
    assert container["additionalModelDataSources"] == [
        {"channelName": "weights", "s3DataSources": [source]}
    ]
    assert container["environment"]["MODEL_WEIGHTS"] == (
        "/opt/ml/additional-model-data-sources/weights"
    )
    policy = json.loads(record[ROLE_POLICY, "demo-role-policy"].inputs["policy"])
    assert readable in policy["Statement"][0]["Resource"]


PACKAGES = "/opt/ml/additional-model-data-sources/packages"


@pytest.mark.parametrize(
    ("image", "folders"),
    [
        pytest.param({"image_tag": "2.6.0-gpu-py312"}, PACKAGES, id="AWS's image"),
        pytest.param(
            {"image_tag": "2.6.0-gpu-py312", "environment": {"PYTHONPATH": "/opt/mine"}},
            f"{PACKAGES}:/opt/mine",
            id="beside the user's own folder",
        ),
        pytest.param(
            {"image_uri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/own:py311-2"},
            PACKAGES,
            id="an own image whose tag tells its Python",
        ),
    ],
)
def test_the_handlers_packages_come_beside_the_code_and_nothing_is_installed_at_a_cold_start(
    register, endpoint, handler, tmp_path, image, folders
):
    """The toolkit runs pip on code/requirements.txt before it answers (its model_server.py)."""
    (handler / "requirements.txt").write_text("diffusers\n")

    record = register(lambda: endpoint(weights="s3://models/sdxl", **image))

    container = record[MODEL, "demo-model"].inputs["primaryContainer"]
    assert container["environment"]["PYTHONPATH"] == folders
    packages, weights = container["additionalModelDataSources"]
    key = record[OBJECT, "demo-packages"].inputs["key"]
    assert packages == {
        "channelName": "packages",
        "s3DataSources": [
            {
                "s3Uri": f"s3://{BUCKET}/{key}",
                "s3DataType": "S3Object",
                "compressionType": "Gzip",
            }
        ],
    }
    assert weights["channelName"] == "weights"
    (archive,) = (tmp_path / ".local" / "build").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["code/inference.py"]


@pytest.mark.parametrize("tag", ["1", "latest", "2.6.0-gpu"])
def test_an_image_that_does_not_tell_its_python_installs_what_the_handler_asks_for(
    register, endpoint, handler, tmp_path, tag
):
    (handler / "requirements.txt").write_text("diffusers\n")

    record = register(
        lambda: endpoint(image_uri=f"123456789012.dkr.ecr.us-east-1.amazonaws.com/own:{tag}")
    )

    container = record[MODEL, "demo-model"].inputs["primaryContainer"]
    assert "PYTHONPATH" not in container["environment"]
    assert "additionalModelDataSources" not in container
    (archive,) = (tmp_path / ".local" / "build").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["code/inference.py", "code/requirements.txt"]


def test_a_changed_line_of_code_is_another_object_and_model(register, endpoint, handler):
    before = register(endpoint)
    (handler / "inference.py").write_text("def model_fn(folder): return 2\n")
    after = register(endpoint)

    assert before[OBJECT, "demo-code"].inputs["key"] != after[OBJECT, "demo-code"].inputs["key"]
    assert (
        before[MODEL, "demo-model"].inputs["primaryContainer"]["modelDataSource"]
        != after[MODEL, "demo-model"].inputs["primaryContainer"]["modelDataSource"]
    )


def test_the_same_code_is_the_same_archive_whatever_the_files_dates(register, endpoint, handler):
    before = register(endpoint)
    (handler / "inference.py").touch()
    (handler / "__pycache__").mkdir()
    (handler / "__pycache__" / "inference.pyc").write_bytes(b"\0")

    assert (
        register(endpoint)[OBJECT, "demo-code"].inputs["key"]
        == (before[OBJECT, "demo-code"].inputs["key"])
    )


def test_the_archive_holds_the_code_folder_and_no_symlinks(register, endpoint, handler, tmp_path):
    """model.tar.gz must hold no symlinks (docs/aws-facts.md#model-artifacts)."""
    (handler / "linked.py").symlink_to(handler / "inference.py")
    register(endpoint)

    (archive,) = (tmp_path / ".local" / "build").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == ["code/inference.py", "code/linked.py"]
        assert all(member.isreg() for member in tar.getmembers())


def test_every_model_server_limit_follows_from_one_timeout_and_one_size():
    asked: dict[str, object] = {
        "timeout_s": 120,
        "max_payload_bytes": 5000,
        "startup_timeout_s": 90,
        "concurrency": 4,
    }

    assert model_server_environment(image_of(RAY), **asked) == {
        "RAYSERVE_BACKEND_TIMEOUT": "120",
        "HANDLER_CONCURRENCY": "4",
    }
    assert model_server_environment(image_of("2.6.0-gpu"), **asked) == {
        "TS_DEFAULT_RESPONSE_TIMEOUT": "120",
        "TS_MAX_REQUEST_SIZE": "5000",
        "TS_MAX_RESPONSE_SIZE": "5000",
        "MMS_DEFAULT_RESPONSE_TIMEOUT": "120",
        "MMS_MAX_REQUEST_SIZE": "5000",
        "MMS_MAX_RESPONSE_SIZE": "5000",
        "TS_DEFAULT_STARTUP_TIMEOUT": "90",
    }


def test_topics_are_encrypted_and_have_their_subscriptions(register, endpoint):
    given = [
        Subscription(topic="error", protocol="email", address="team@example.com"),
        Subscription(topic="error", protocol="email", address="boss@example.com"),
    ]

    record = register(lambda: endpoint(subscriptions=given))

    for topic in ("success", "error"):
        inputs = record["aws:sns/topic:Topic", f"demo-{topic}-topic"].inputs
        assert inputs["kmsMasterKeyId"] == "alias/aws/sns"
    subscriptions = [
        entry.inputs
        for entry in record.registrations
        if entry.type == "aws:sns/topicSubscription:TopicSubscription"
    ]
    assert {subscription["endpoint"] for subscription in subscriptions} == {
        "team@example.com",
        "boss@example.com",
    }
    assert all("demo-error-topic" in subscription["topic"] for subscription in subscriptions)


def test_archives_bear_no_tags_since_an_s3_object_takes_ten(register, endpoint):
    many = {f"key-{number}": "value" for number in range(49)}

    record = register(lambda: endpoint(tags=many))

    code = record[OBJECT, "demo-code"].inputs
    assert "tags" not in code
    assert code["overrideProvider"] == {"defaultTags": {"tags": {}}}
    assert len(record[ENDPOINT, "demo-endpoint"].inputs["tags"]) == 50


def test_every_variable_that_the_component_sets_is_refused_in_a_stacks_environment(
    register, endpoint
):
    found: set[str] = set()
    for tag in (RAY, "2.6.0-gpu"):
        model = register(lambda tag=tag: endpoint(image_tag=tag))[MODEL, "demo-model"]
        found |= model.inputs["primaryContainer"]["environment"].keys()

    free = {"SAGEMAKER_CONTAINER_LOG_LEVEL", "PYTHONPATH"}
    assert found - free == COMPONENT_VARIABLES


def test_a_path_may_be_another_resources_output(register, endpoint):
    later = pulumi.Output.from_input("s3://theirs/out")

    configuration = register(lambda: endpoint(output_path=later))[CONFIGURATION, "demo-config"]

    output = configuration.inputs["asyncInferenceConfig"]["outputConfig"]
    assert output["s3OutputPath"] == "s3://theirs/out"
