"""An endpoint's arguments are checked when they are built, wherever that is."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pydantic import BaseModel

from async_inference.stack.arguments import AsyncEndpointArgs
from async_inference.stack.groups import Security
from async_inference.validation import InvalidInputError
from tests.support import ROOT

HANDLER = ROOT / "inference_code"


@pytest.fixture
def output() -> Iterator[pulumi.Output[str]]:
    """Another resource's output."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield pulumi.Output.from_input("anything")
    loop.close()


def problems(**given: Any) -> tuple[str, ...]:
    complete: dict[str, Any] = {
        "endpoint_name": "images",
        "region": "us-east-1",
        "handler": HANDLER,
    }
    with pytest.raises(InvalidInputError) as raised:
        AsyncEndpointArgs(**{**complete, **given})
    return raised.value.problems


def test_everything_wrong_is_said_at_once_in_the_names_of_python(tmp_path):
    found = problems(
        endpoint_name="two__hyphens",
        region="mars",
        instance_type="ml.t3.large",
        scaling_preset="custom",
        handler=tmp_path / "elsewhere",
        max_concurrent_invocations_per_instance=0,
        tags={"Endpoint": "mine"},
        colour="blue",
    )

    assert {problem.split(" ")[0].rstrip(":") for problem in found} == {
        "endpoint_name",
        "region",
        "instance_type",
        "max_concurrent_invocations_per_instance",
        "tags",
        "colour",
        "min_capacity",
        "handler",
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"min_capacity": 3, "max_capacity": 2},
            "min_capacity = 3: exceeds max_capacity = 2; lower min_capacity or raise max_capacity",
        ),
        (
            {"security": {"subnet_ids": ["vpc-1"], "security_group_ids": ["sg-00000001"]}},
            "security.subnet_ids[0] = 'vpc-1'",
        ),
        (
            {"security": Security(network_isolation=True)},
            "security.network_isolation = True: the container could not download the weights",
        ),
        ({"instance_type": "minCapacity"}, "instance_type = 'minCapacity': must look like"),
        ({"updates": {"strategy": "canary"}}, "updates.strategy = 'canary': an update starts with"),
    ],
)
def test_a_problem_names_every_key_as_python_does_and_leaves_values_as_they_are(given, sentence):
    (problem,) = problems(**given)

    assert problem.startswith(sentence)
    assert "Capacity =" not in problem


def test_a_problem_has_the_names_of_the_config_where_the_caller_used_those():
    with pytest.raises(InvalidInputError) as raised:
        AsyncEndpointArgs.model_validate({"minCapacity": 3, "maxCapacity": 2, "handler": HANDLER})

    assert raised.value.problems == (
        "endpointName: is required; add it",
        "region: is required; add it",
        "minCapacity = 3: exceeds maxCapacity = 2; lower minCapacity or raise maxCapacity",
    )


@pytest.mark.parametrize("name", ["image_uri", "output_path", "failure_path"])
def test_what_may_be_another_resources_output_is_left_to_aws(output, name):
    """Text is checked, an output is only known when it is deployed."""
    late: dict[str, Any] = {name: output}

    args = AsyncEndpointArgs(endpoint_name="images", region="us-east-1", handler=HANDLER, **late)

    assert getattr(args, name) is output
    assert problems(**{name: "anything"})[0].startswith(f"{name} = 'anything'")


def test_an_image_that_is_another_resources_output_is_unknown(output):
    args = AsyncEndpointArgs(
        endpoint_name="images",
        region="us-east-1",
        handler=HANDLER,
        image_uri=output,
        instance_type="ml.g5.12xlarge",
    )

    assert (args.known_image_uri, args.image.python) == (None, None)


def test_default_tags_of_an_explicit_provider_count_too():
    (problem,) = problems(provider_config={"defaultTags": {"tags": {"aws:team": "a"}}})

    assert problem.startswith("provider_config.defaultTags: key 'aws:team': aws: is reserved")


def fields_without_description(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if not field.description]


def test_every_argument_says_what_it_is():
    """Pulumi.yaml, the reference page and the plugin's schema have no other source."""
    assert fields_without_description(AsyncEndpointArgs) == []


def test_arguments_are_checked_without_pulumi():
    """The rehearsal and the commands run where it is not installed."""
    program = "import sys; import async_inference.stack.settings; print('pulumi' in sys.modules)"

    checked = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert checked.stdout.strip() == "False"
