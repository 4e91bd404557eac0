"""What the plugin takes is what a stack file says; the programs in examples/ keep its rules."""

import runpy
import sys
from typing import Any

import pytest
import yaml

from tests.support import ROOT
from tools import configuration_reference

ENDPOINT = "aws:sagemaker/endpoint:Endpoint"


@pytest.fixture(scope="module")
def hosted() -> Any:
    sys.path.insert(0, str(ROOT / "plugin"))
    try:
        import hosted
    finally:
        sys.path.remove(str(ROOT / "plugin"))
    return hosted


def test_the_plugin_takes_what_a_stacks_config_has(hosted):
    """What a stack file can say, another language can say, under the same names."""
    endpoint = hosted.schema("0.1.0")["resources"]["async-inference:index:AsyncEndpoint"]
    config = set(configuration_reference.keys())

    assert endpoint["inputProperties"].keys() - config == {
        "endpointName",
        "region",
        "providerConfig",
    }
    assert config <= endpoint["inputProperties"].keys()


def test_whatever_the_plugin_takes_is_described(hosted):
    schema = hosted.schema("0.1.0")
    taken = [
        *(each["inputProperties"] for each in schema["resources"].values()),
        *(each["properties"] for each in schema["types"].values()),
    ]

    assert [key for group in taken for key in group if not group[key].get("description")] == []


def test_the_yaml_program_keeps_the_rules_of_the_config(hosted):
    program = yaml.safe_load((ROOT / "examples/yaml/Pulumi.yaml").read_text())
    given = dict(program["resources"]["images"]["properties"])
    given["handler"] = str(ROOT / "inference_code")

    checked = hosted.HOSTED["AsyncEndpoint"].arguments(given)

    assert checked.plan.max_capacity == 3


def test_the_python_program_registers_two_endpoints(register, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    record = register(lambda: runpy.run_path(str(ROOT / "examples/python/__main__.py")))

    endpoints = {r.inputs["name"] for r in record.registrations if r.type == ENDPOINT}
    assert endpoints == {"images", "transcripts"}
    schedules = [r for r in record.registrations if r.type.endswith(":ScheduledAction")]
    assert {r.inputs["name"] for r in schedules} == {"day", "night"}
