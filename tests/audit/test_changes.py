"""What a change of the config touches of what serves (docs/upgrades.md has this as a table)."""

import json
from typing import Any

import pytest

from async_inference.stack.settings import PROJECT
from tests.support import ROOT
from tests.support.program import run

pytestmark = pytest.mark.audit

STACK = {"instanceType": "ml.g5.2xlarge", "minCapacity": 0, "maxCapacity": 5}
TORCHSERVE = "2.6.0-gpu-py312-cu124-ubuntu22.04-sagemaker"
QUEUE = {
    "topic": "error",
    "protocol": "sqs",
    "address": "arn:aws:sqs:us-east-1:123456789012:failures",
}
SERVES = {"Model", "EndpointConfiguration", "Endpoint"}
"""A new one of the first two means an update of the endpoint, which starts instances."""


def config_of(settings: dict[str, Any]) -> dict[str, str]:
    return {"aws:region": "us-east-1"} | {
        f"{PROJECT}:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
    }


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"environment": {"MODEL_REFINER": "refiner"}}, ["Model"]),
        ({"weights": "s3://weights/sdxl"}, ["Model"]),
        ({"instanceType": "ml.g5.xlarge"}, ["EndpointConfiguration"]),
        ({"imageTag": TORCHSERVE}, ["EndpointConfiguration", "Model"]),
        ({"inferenceAmiVersion": "al2-ami-sagemaker-inference-gpu-2"}, ["EndpointConfiguration"]),
        ({"security": {"encryption": "customer"}}, ["EndpointConfiguration"]),
        ({"minCapacity": 2}, ["EndpointConfiguration"]),
        ({"updates": {"rollback": True}}, ["Endpoint"]),
        ({"minCapacity": 1}, []),
        ({"maxCapacity": 7}, []),
        ({"scalingPreset": "tuned"}, []),
        ({"observability": {"monthlyBudgetUsd": 100}}, []),
        ({"retention": {"outputDays": 30}}, []),
        ({"subscriptions": [QUEUE]}, []),
    ],
    ids=str,
)
def test_a_change_touches_of_what_serves(register, monkeypatch, change, touched):
    monkeypatch.chdir(ROOT)

    before, after = (
        {
            (entry.type, entry.name): entry.inputs
            for entry in register(run, config=config_of(settings), stack="any").registrations
        }
        for settings in (STACK, STACK | change)
    )

    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert {name for _, name in differ} - {"sdxl-code"}, "the change reaches something"
    assert sorted({kind.rpartition(":")[2] for kind, _ in differ} & SERVES) == touched
