"""The component plugin through its gRPC service, and the YAML program that uses it."""

import json
from typing import Any

import grpc
import pytest
import yaml
from pulumi.runtime.proto import provider_pb2

from tests.support import ROOT

pytestmark = pytest.mark.local_aws

PACKAGE = "async-inference"
ENDPOINT = "aws:sagemaker/endpoint:Endpoint"
TARGET = "aws:appautoscaling/target:Target"
GIVEN = {
    "endpointName": "images",
    "region": "eu-west-1",
    "handler": str(ROOT / "inference_code"),
    # A custom image, whose tag names no Python: no packages are downloaded for it.
    "imageUri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/own:1",
    "instanceType": "ml.g5.2xlarge",
    "maxCapacity": 3,
    "weights": "tiny",
    "invocationTimeoutS": 600,
}


def schema_of(plugin: Any) -> dict[str, Any]:
    return json.loads(plugin.GetSchema(provider_pb2.GetSchemaRequest()).schema)


def test_the_schema_says_what_the_components_take_and_give(plugin):
    schema = schema_of(plugin)

    assert (schema["name"], schema["version"]) == (PACKAGE, "0.1.0")
    assert set(schema["resources"]) == {
        f"{PACKAGE}:index:AsyncEndpoint",
        f"{PACKAGE}:index:QueueScaling",
    }
    endpoint = schema["resources"][f"{PACKAGE}:index:AsyncEndpoint"]
    assert endpoint["isComponent"]
    assert set(endpoint["requiredInputs"]) == {"endpointName", "region", "handler"}
    most = endpoint["inputProperties"]["maxCapacity"]
    assert (most["type"], most["plain"]) == ("integer", True)
    assert most["description"].startswith("Most instances")
    assert "plain" not in endpoint["inputProperties"]["imageUri"], "may be another's output"
    assert {"endpointName", "endpointArn", "bucketName"} <= set(endpoint["properties"])
    policy = schema["types"][f"{PACKAGE}:index:ScalingPolicy"]
    assert policy["required"] == ["name", "type"]
    assert policy["properties"]["steps"]["items"]["$ref"].endswith(":StepAdjustment")


def test_a_constructed_endpoint_is_that_of_the_program(construct, record):
    outputs = construct("AsyncEndpoint", "pictures", GIVEN)

    assert outputs["endpointName"] == "images"
    assert outputs["scaling"].startswith("0..3 instances")
    endpoint = record[ENDPOINT, "pictures-endpoint"]
    assert endpoint.inputs["name"] == "images"
    assert (endpoint.parent, endpoint.before_update != ()) == ("pictures", True)
    (model,) = [r for r in record.registrations if r.type == "aws:sagemaker/model:Model"]
    environment = model.inputs["primaryContainer"]["environment"]
    assert environment["TS_DEFAULT_RESPONSE_TIMEOUT"] == "600", "a whole number stays one"
    assert record[TARGET, "pictures-target"].inputs["maxCapacity"] == 3


def test_the_scaling_of_an_endpoint_made_elsewhere_is_constructed(construct, record):
    example = yaml.safe_load((ROOT / "examples/yaml/Pulumi.yaml").read_text())
    given = example["resources"]["transcripts"]["properties"]

    outputs = construct("QueueScaling", "transcripts", given)

    assert outputs["resourceId"] == "endpoint/transcripts-dev/variant/AllTraffic"
    names = {r.inputs["name"] for r in record.registrations if r.type.endswith(":Policy")}
    assert names == {"wake", "sleep"}


def test_wrong_arguments_are_refused_together_before_anything_is_registered(construct, record):
    wrong = GIVEN | {"minCapacity": 7, "instanceType": "ml.t2.medium"}

    with pytest.raises(grpc.RpcError) as refused:
        construct("AsyncEndpoint", "pictures", wrong)

    assert "minCapacity = 7" in str(refused.value)
    assert "burstable t2 and t3" in str(refused.value)
    assert record.registrations == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"maxCapacty": 3}, "maxCapacty: no such key"),
        ({"handler": None}, "handler: is required"),
        ({"endpointName": None}, "endpointName: is required"),
        ({"security": {"networkIsolaton": True}}, "security.networkIsolaton: no such key"),
    ],
)
def test_a_slip_in_a_name_is_refused(construct, record, change, problem):
    given = {key: value for key, value in (GIVEN | change).items() if value is not None}

    with pytest.raises(grpc.RpcError) as refused:
        construct("AsyncEndpoint", "pictures", given)

    assert problem in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert "File " not in str(refused.value)
    assert record.registrations == []


def problems(schema: dict[str, Any], type_name: str, given: Any, path: str) -> list[str]:
    """How a value differs from what the schema allows."""
    definition = schema["types"].get(type_name) or schema["resources"][type_name]
    properties = definition.get("inputProperties") or definition["properties"]
    required = definition.get("requiredInputs", definition.get("required", []))
    found = [f"{path}.{key}: missing" for key in required if key not in given]
    for key, value in given.items():
        if key not in properties:
            found.append(f"{path}.{key}: no such property")
        else:
            found += _value_problems(schema, properties[key], value, f"{path}.{key}")
    return found


PYTHON_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool}


def _value_problems(schema: dict[str, object], spec: Any, value: Any, path: str) -> list[str]:
    if "$ref" in spec:
        return problems(schema, spec["$ref"].removeprefix("#/types/"), value, path)
    if spec["type"] == "array":
        return [
            problem
            for index, item in enumerate(value)
            for problem in _value_problems(schema, spec["items"], item, f"{path}[{index}]")
        ]
    if spec["type"] == "object":
        return [
            problem
            for key, item in value.items()
            for problem in _value_problems(
                schema, spec["additionalProperties"], item, f"{path}.{key}"
            )
        ]
    right = isinstance(value, PYTHON_TYPES[spec["type"]])
    return [] if right else [f"{path} = {value!r}: is no {spec['type']}"]


def test_the_yaml_program_is_one_that_the_schema_allows(plugin):
    schema = schema_of(plugin)
    program = yaml.safe_load((ROOT / "examples/yaml/Pulumi.yaml").read_text())

    for name, resource in program["resources"].items():
        package, _, kind = resource["type"].partition(":")
        assert package in program["packages"]
        token = f"{package}:index:{kind}"
        assert problems(schema, token, resource["properties"], name) == []
        for output in program["outputs"].values():
            owner, _, key = output.strip("${}").partition(".")
            if owner == name:
                assert key in schema["resources"][token]["properties"]
    slip = program["resources"]["images"]["properties"] | {"maxCapacty": 3, "region": 1}
    assert problems(schema, f"{PACKAGE}:index:AsyncEndpoint", slip, "images") == [
        "images.region = 1: is no string",
        "images.maxCapacty: no such property",
    ]
