"""What the plugin takes is what a stack file says; the programs in examples/ keep its rules."""

import runpy
import sys
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from async_inference.scaling import plan
from async_inference.stack import groups, settings
from tests.support import ROOT

ENDPOINT = "aws:sagemaker/endpoint:Endpoint"


@pytest.fixture(scope="module")
def hosted() -> Any:
    sys.path.insert(0, str(ROOT / "plugin"))
    try:
        import hosted
    finally:
        sys.path.remove(str(ROOT / "plugin"))
    return hosted


def keys(typed: type) -> set[str]:
    return set(typed.__annotations__)


def fields(*models: type[BaseModel]) -> set[str]:
    return {name for model in models for name in model.model_fields}


def test_the_arguments_are_those_of_the_stack_config(hosted):
    """What a stack file can say, another language can say, in the same words."""
    # A stack's name makes the one; its own aws: config is the other.
    own = {"endpoint_name", "provider_config"}

    assert keys(hosted.AsyncEndpointArgs) - own == fields(settings.Settings) - {"stack"}
    for typed, models in (
        (hosted.Security, (groups.Security,)),
        (hosted.Retention, (groups.Retention,)),
        (hosted.Observability, (groups.Observability,)),
        (hosted.Updates, (groups.Updates,)),
        (hosted.Subscription, (groups.Subscription,)),
        (hosted.ScalingRules, (plan.ScalingRules,)),
        (hosted.ScalingPolicy, (plan.StepScalingPolicy, plan.TargetTrackingPolicy)),
        (hosted.MetricAlarm, (plan.MetricAlarm,)),
        (hosted.StepAdjustment, (plan.StepAdjustment,)),
        (hosted.ScheduledAction, (plan.ScheduledAction,)),
    ):
        assert keys(typed) == fields(*models), typed.__name__


def test_the_yaml_program_keeps_the_rules_of_the_config(hosted):
    program = yaml.safe_load((ROOT / "examples/yaml/Pulumi.yaml").read_text())
    given = dict(program["resources"]["images"]["properties"])
    given["handler"] = str(ROOT / "inference_code")
    region = given.pop("region")
    del given["endpointName"]

    checked = hosted.checked(given, region)

    assert checked.plan.max_capacity == 3


def test_the_python_program_registers_two_endpoints(register, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    record = register(lambda: runpy.run_path(str(ROOT / "examples/python/__main__.py")))

    endpoints = {r.inputs["name"] for r in record.registrations if r.type == ENDPOINT}
    assert endpoints == {"images", "transcripts"}
    schedules = [r for r in record.registrations if r.type.endswith(":ScheduledAction")]
    assert {r.inputs["name"] for r in schedules} == {"day", "night"}
