"""Settings take a stack's config or refuse all that is wrong with it in one message."""

import json
import re
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore.model import StringShape, StructureShape
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from async_inference.scaling.plan import AWS, DOCUMENTED, PRESETS, TUNED
from async_inference.stack import groups, settings
from async_inference.stack.arguments import INSTANCE_FAMILIES, AsyncEndpointArgs
from async_inference.stack.settings import NO_KEYS, PROJECT, load
from async_inference.validation import InvalidInputError
from tests.support import ROOT
from tests.support.plans import EVERYTHING
from tests.support.settings import config
from tools import configuration_reference


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def problems(values: dict[str, object]) -> tuple[str, ...]:
    with pytest.raises(InvalidInputError) as raised:
        load(values, stack="test")
    return raised.value.problems


def test_the_defaults_are_a_complete_stack():
    stack = load(config(), stack="test")

    assert stack.plan.policies == DOCUMENTED.policies
    assert (stack.plan.min_capacity, stack.plan.max_capacity) == (0, 5)


def test_a_floor_of_zero_stays_zero():
    assert load(config(minCapacity="0"), stack="test").min_capacity == 0


@pytest.mark.parametrize("name", ["dev", "prod", "local"])
def test_the_stack_files_are_valid(name):
    stack = settings.from_stack_file(Path(f"Pulumi.{name}.yaml"))

    assert stack.stack == name
    assert stack.endpoint_name == f"async-sdxl-{name}"


def test_dev_is_the_documented_policy_number_for_number():
    dev = settings.from_stack_file(Path("Pulumi.dev.yaml"))

    assert dev.plan.policies == DOCUMENTED.policies
    assert (dev.min_capacity, dev.max_capacity, dev.instance_type) == (0, 5, "ml.g4dn.2xlarge")


def test_prod_sets_its_own_instance_type_and_bounds():
    dev = settings.from_stack_file(Path("Pulumi.dev.yaml"))
    prod = settings.from_stack_file(Path("Pulumi.prod.yaml"))

    assert prod.instance_type != dev.instance_type
    assert prod.max_capacity != dev.max_capacity
    assert prod.plan.policies == TUNED.policies


def test_pulumi_yamls_config_is_made_from_the_arguments():
    written = configuration_reference.PROJECT_FILE.read_text(encoding="utf-8")

    assert written == configuration_reference.project_file(written), "run `make docs`, commit it"


def test_pulumi_yaml_declares_each_key_that_has_a_default():
    """Pulumi refuses a stack that lacks a declared key without one."""
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    defaults = {
        to_camel(name): field.get_default(call_default_factory=True)
        for name, field in AsyncEndpointArgs.model_fields.items()
        if name not in NO_KEYS
    }

    assert declared.keys() == {key for key, default in defaults.items() if default is not None}
    assert all("default" in schema and schema["description"] for schema in declared.values())


def test_pulumi_yamls_defaults_are_the_arguments_defaults():
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    explicit = {f"{PROJECT}:{key}": schema["default"] for key, schema in declared.items()}

    assert load(config() | explicit, stack="test") == load(config(), stack="test")


@pytest.mark.parametrize("key", ["imageUri", "inferenceAmiVersion", "outputPath", "handler"])
def test_a_key_is_left_out_and_not_set_to_empty_text(key):
    (problem,) = problems(config(**{key: ""}))

    assert problem == f"{PROJECT}:{key} = '': is empty; remove the key"


@pytest.mark.parametrize("key", ["endpointName", "providerConfig", "provider_config", "region"])
def test_what_a_config_has_elsewhere_is_no_key(key):
    (problem,) = problems(config(**{key: "mine"}))

    assert problem.startswith(f"{PROJECT}:{key}: no such key; remove it (")


def test_object_values_may_be_json_text_as_pulumi_hands_them_over():
    text = json.dumps(DOCUMENTED.model_dump(mode="json", by_alias=True))

    stack = load(config(scalingPreset="custom", scalingPlan=text), stack="test")

    assert stack.plan.policies == DOCUMENTED.policies


def test_every_problem_is_in_one_message():
    found = problems(
        config(
            minCapacity=-1,
            maxCapacity=2.5,
            instanceType="ml.t3.large",
            maxConcurrentInvocationsPerInstance=1001,
            invocationTimeoutS=3601,
            requestTtlS=30,
            outputPath="http://bucket/out",
            colour="blue",
        )
    )

    assert {problem.split(" ")[0].rstrip(":") for problem in found} == {
        f"{PROJECT}:{key}"
        for key in (
            "minCapacity",
            "maxCapacity",
            "instanceType",
            "maxConcurrentInvocationsPerInstance",
            "invocationTimeoutS",
            "requestTtlS",
            "outputPath",
            "colour",
        )
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"minCapacity": 3, "maxCapacity": 2}, "minCapacity = 3: exceeds maxCapacity = 2"),
        ({"maxCapacity": "2.5"}, "maxCapacity = '2.5'"),
        ({"minCapacity": True}, "must be a whole number"),
        ({"instanceType": "ml.t2.medium"}, "burstable t2 and t3 instances cannot be scaled"),
        ({"instanceType": "ml.zz9.xlarge"}, "hosts no family 'zz9'"),
        ({"instanceType": "g5.xlarge"}, "must look like ml.<family>.<size>"),
        ({"maxConcurrentInvocationsPerInstance": 0}, "greater than or equal to 1"),
        ({"invocationTimeoutS": 0}, "greater than or equal to 1"),
        ({"requestTtlS": 21601}, "less than or equal to 21600"),
        ({"requestTtlS": 300}, "a request to an idle endpoint expires before any instance exists"),
        ({"failurePath": "s3:/bucket"}, "failurePath = 's3:/bucket'"),
        ({"weights": "not a place"}, "must be an S3 URI"),
        ({"imageUri": "pytorch:latest"}, "imageUri = 'pytorch:latest'"),
        ({"minCapcity": 0}, "minCapcity: no such key"),
        ({"stack": "prod"}, "stack: no such key"),
        ({"regional": 1}, f"{PROJECT}:regional: no such key"),
        ({"tags": "nonsense"}, "must be an object"),
        ({"handler": "no_such_folder"}, "holds no inference.py"),
        ({"scalingPreset": "custom"}, "no policy ever leaves zero"),
        ({"security": {"encryption": "mine"}}, "must be aws, customer or the ARN of a KMS key"),
        ({"security": {"subnetIds": ["subnet-0a1b2c3d"]}}, "needs both subnetIds and security"),
        ({"security": {"subnetIds": ["vpc-1"]}}, "security.subnetIds[0] = 'vpc-1'"),
        ({"security": {"networkIsolation": True}}, "could not download the weights"),
        (
            {"security": {"encryption": "arn:aws:kms:eu-west-1:123456789012:key/1a2b"}},
            "is a key of another region than us-east-1",
        ),
        ({"security": {"color": 1}}, "security.color: no such key"),
        ({"retention": {"logDays": 31}}, "must be one of 1, 3, 5, 7"),
        ({"retention": {"inputDays": 0}}, "retention.inputDays = 0"),
        ({"observability": {"idleAfterH": 25}}, "observability.idleAfterH = 25"),
        (
            {"observability": {"enabled": False, "monthlyBudgetUsd": 9}},
            "monthlyBudgetUsd needs enabled",
        ),
        (
            {
                "observability": {"enabled": False},
                "subscriptions": [
                    {"topic": "operations", "protocol": "email", "address": "a@example.com"}
                ],
            },
            "one is of topic operations, to which nothing publishes",
        ),
        ({"setup": {"bootS": 3}}, "setup.bootS: no such key"),
        ({"setup": {"loadS": -1}}, "setup.loadS = -1"),
        ({"setup": {"downloadGibPerS": 0}}, "setup.downloadGibPerS = 0"),
        ({"setup": {"loadS": 20}, "setupS": 300}, "setup gives the same time in parts"),
        ({"updates": {"strategy": "blue"}}, "updates.strategy = 'blue'"),
        ({"updates": {"waitS": 60}}, "waiting is of no use unless rollback is true"),
        (
            {"minCapacity": 4, "updates": {"strategy": "linear", "stepPercent": 9}},
            "linear steps are 10-50 %",
        ),
        (
            {"minCapacity": 2, "updates": {"strategy": "rolling", "terminationWaitS": 60}},
            "a rolling update has no old fleet to keep",
        ),
        (
            {"minCapacity": 2, "updates": {"rollback": True, "waitS": 3600}},
            "the provider gives up after 3600 s",
        ),
        (
            {"scalingPlan": DOCUMENTED.model_dump(mode="json", by_alias=True)},
            "scalingPlan is set too and would be ignored",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(changes, sentence):
    found = problems(config(**changes))

    assert len(found) == 1
    assert sentence in found[0]


@pytest.mark.parametrize(
    ("minimum", "step_percent", "refused"),
    [(0, 50, True), (1, 50, True), (2, 50, False), (2, 40, True), (3, 34, False), (10, 10, False)],
)
@pytest.mark.parametrize("strategy", ["canary", "linear", "rolling"])
def test_a_step_of_an_update_must_hold_an_instance(strategy, minimum, step_percent, refused):
    """With one instance only all at once fits (docs/aws-facts.md#guardrails)."""
    updates = {"strategy": strategy, "stepPercent": step_percent}
    values = config(minCapacity=minimum, maxCapacity=10, updates=updates)

    if refused:
        (problem,) = problems(values)
        assert "all_at_once" in problem
    else:
        assert load(values, stack="test").updates.strategy == strategy


def test_any_plan_can_be_said_in_a_stacks_config():
    """Each field, by its YAML key; what is registered for it, test_parity reads back."""
    values = EVERYTHING.model_dump(mode="json", by_alias=True)
    rules = {key: values[key] for key in ("policies", "schedules")}
    bounds = {key: values[key] for key in ("minCapacity", "maxCapacity")}

    stack = load(config(scalingPreset="custom", scalingPlan=rules, **bounds), stack="test")

    assert stack.plan == EVERYTHING


def test_log_retention_takes_what_cloudwatch_logs_takes():
    """The service's model says so in words only (BC logs RetentionInDays)."""
    model = botocore.session.get_session().get_service_model("logs")
    shape = model.shape_for("PutRetentionPolicyRequest")
    assert isinstance(shape, StructureShape)
    said = shape.members["retentionInDays"].documentation

    listed = said.partition("are: ")[2].partition(".")[0]
    assert tuple(map(int, re.findall(r"\d+", listed))) == groups.LOG_RETENTION_DAYS


def test_a_missing_region_says_how_to_set_it():
    (problem,) = problems({})

    assert problem == "aws:region: is required; pulumi config set aws:region <region> -s test"


def test_a_plan_that_only_tracks_never_leaves_zero_by_the_pessimistic_reading():
    """Whether it does is not settled (docs/aws-facts.md#target-tracking)."""
    rules = {"policies": [AWS.model_dump(mode="json", by_alias=True)["policies"][0]]}

    (problem,) = problems(config(scalingPreset="custom", scalingPlan=rules))
    assert "HasBacklogWithoutCapacity" in problem
    assert load(
        config(scalingPreset="custom", scalingPlan=rules, minCapacity=1), stack="test"
    ).plan.policies


def test_the_families_are_those_that_sagemaker_hosts_without_the_burstable_ones():
    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.shape_for("ProductionVariantInstanceType")
    assert isinstance(shape, StringShape)
    known = {instance_type.split(".")[1] for instance_type in shape.enum}

    assert known - {"t2", "t3"} == INSTANCE_FAMILIES


@given(
    minimum=st.integers(0, 20),
    above=st.integers(0, 20),
    concurrency=st.integers(1, 1000),
    timeout_s=st.integers(1, 3600),
    ttl_s=st.integers(1200, 21_600),
    preset=st.sampled_from(sorted(PRESETS)),
)
def test_any_value_within_the_documented_ranges_is_taken(
    minimum, above, concurrency, timeout_s, ttl_s, preset
):
    stack = load(
        config(
            minCapacity=minimum,
            maxCapacity=max(1, minimum + above),
            maxConcurrentInvocationsPerInstance=concurrency,
            invocationTimeoutS=timeout_s,
            requestTtlS=ttl_s,
            scalingPreset=preset,
        ),
        stack="test",
    )

    assert stack.plan.min_capacity == minimum


@given(
    key=st.sampled_from(["minCapacity", "requestTtlS", "invocationTimeoutS", "setupS"]),
    value=st.one_of(
        st.integers(max_value=-1), st.integers(min_value=10**6), st.text(max_size=8).filter(bool)
    ),
)
def test_any_value_outside_is_refused_with_its_key(key, value):
    try:
        refused = not 0 <= int(value) < 10**6
    except ValueError:
        refused = True
    if refused:
        assert any(key in problem for problem in problems(config(**{key: value})))


def test_a_stack_file_that_is_no_yaml_says_so(tmp_path):
    path = tmp_path / "Pulumi.broken.yaml"
    path.write_text("config: [unclosed")

    with pytest.raises(InvalidInputError, match="is not valid YAML"):
        settings.from_stack_file(path)


def test_a_missing_stack_file_names_those_that_exist():
    with pytest.raises(InvalidInputError, match=r"Pulumi\.dev\.yaml"):
        settings.from_stack_file(Path("Pulumi.nowhere.yaml"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tags": {"aws:team": "a"}}, "aws: is reserved"),
        ({"tags": {"AWS:team": "a"}}, "aws: is reserved"),
        ({"tags": {"team": "a & b"}}, "letters, digits, spaces"),
        ({"tags": {"te#am": "a"}}, "letters, digits, spaces"),
        ({"tags": {"Endpoint": "mine"}}, "is the program's own tag"),
        ({"tags": {"Team": "a", "team": "b"}}, "is the same as 'Team', since IAM ignores case"),
        ({"environment": {"SAGEMAKER_PROGRAM": "mine.py"}}, "program sets SAGEMAKER_PROGRAM"),
        ({"environment": {"TS_MAX_REQUEST_SIZE": "1"}}, "program sets TS_MAX_REQUEST_SIZE"),
        (
            {"imageUri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/image:py312"},
            "is in eu-west-1, the endpoint in us-east-1",
        ),
    ],
)
def test_what_aws_would_refuse_later_is_refused_now(changes, words):
    (problem,) = problems(config(**changes))

    assert words in problem


def test_its_right_neighbours_are_taken():
    stack = load(
        config(
            tags={"team:größe 1": "a+b=c@d/e_f.g-h", "Cost": ""},
            environment={"SAGEMAKER_CONTAINER_LOG_LEVEL": "10", "TS_NUMBER_OF_GPU": "1"},
            imageUri="123456789012.dkr.ecr.us-east-1.amazonaws.com/image:py312",
        ),
        stack="feature-x",
    )

    assert stack.endpoint_name == "async-sdxl-feature-x"


def test_all_that_is_wrong_is_said_in_one_message():
    found = problems(
        config(
            tags={"aws:a": "1", "B": "2", "b": "3"},
            environment={"MODEL_WEIGHTS": "mine"},
            imageUri="123456789012.dkr.ecr.eu-west-1.amazonaws.com/image:1",
        )
    )

    text = "\n".join(found)
    assert all(each in text for each in ("'aws:a'", "'b'", "MODEL_WEIGHTS", "eu-west-1"))


@pytest.mark.parametrize(
    ("default_tags", "words"),
    [
        ({"tags": {f"k{i}": "v" for i in range(49)}}, "50 tags together with those of tags"),
        ('{"tags": {"TEAM": "a"}}', "'TEAM': is the same as 'team' of tags"),
        ({"tags": {"aws:a": "b"}}, "aws: is reserved"),
        ("nonsense", "must be an object"),
    ],
)
def test_the_providers_default_tags_count_too(default_tags, words):
    values = config(tags={"team": "a"}) | {"aws:defaultTags": default_tags}

    (problem,) = problems(values)

    assert problem.startswith("aws:defaultTags: ")
    assert words in problem


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3))
def test_tags_are_taken_exactly_if_sagemaker_and_iam_take_them(tags):
    import regex

    model = botocore.session.get_session().get_service_model("iam")
    key, value = (
        regex.compile(model.shape_for(f"tag{part}Type").metadata["pattern"])
        for part in ("Key", "Value")
    )
    folded = [each.lower() for each in tags]
    allowed = (
        all(key.fullmatch(k) and value.fullmatch(v) for k, v in tags.items())
        and len({*folded, "endpoint"}) == len(folded) + 1
        and not any(each.startswith("aws:") for each in folded)
    )

    try:
        load(config(tags=tags), stack="test")
    except InvalidInputError:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize("stack", ["feature.x", "feature_x", "---", "a--b", "-a", "a" * 53])
def test_a_stack_whose_endpoint_could_be_anothers_is_refused(stack):
    with pytest.raises(InvalidInputError, match="another stack could get the same name"):
        load(config(), stack=stack)


TORCHSERVE_TAG = "2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker"
ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    "image", [{"imageTag": TORCHSERVE_TAG}, {"imageUri": f"{ECR}/pytorch-inference:mine-py312"}]
)
def test_an_image_that_uses_one_gpu_of_several_is_refused(image):
    """TorchServe gives each copy of the model its GPU's number where model_fn does not see it."""
    (problem,) = problems(config(instanceType="ml.g5.12xlarge", **image))

    assert "instanceType = 'ml.g5.12xlarge': has 4 GPUs" in problem
    assert "use imageTag serve-ml-sagemaker-cuda" in problem


@pytest.mark.parametrize(
    ("instance_type", "image"),
    [
        ("ml.g5.12xlarge", {}),
        ("ml.g5.12xlarge", {"imageUri": f"{ECR}/mine:1"}),
        ("ml.g5.16xlarge", {"imageTag": TORCHSERVE_TAG}),
    ],
)
def test_an_image_that_uses_all_gpus_is_taken(instance_type, image):
    stack = load(config(instanceType=instance_type, **image), stack="test")

    assert stack.instance_type == instance_type


def test_weights_may_name_a_revision():
    assert load(config(weights="org/sdxl@v1.0"), stack="test").weights == "org/sdxl@v1.0"
    assert "@revision" in problems(config(weights="org/sdxl@"))[0]
