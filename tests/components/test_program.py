"""The program registers what each stack file asks for, and refuses a wrong one before anything."""

import pulumi
import pytest

from tests.support import ROOT
from tests.support.async_endpoint import CONFIGURATION, ENDPOINT, TARGET
from tests.support.program import config_of, run


@pytest.mark.parametrize(
    ("stack", "instance_type", "most"),
    [("dev", "ml.g4dn.2xlarge", 5), ("prod", "ml.g5.2xlarge", 10), ("local", "ml.g4dn.2xlarge", 5)],
)
def test_each_stack_deploys_its_instance_type_and_bounds(
    register, monkeypatch, stack, instance_type, most
):
    monkeypatch.chdir(ROOT)

    record = register(run, config=config_of(stack), stack=stack)

    assert record[ENDPOINT, "sdxl-endpoint"].inputs["name"] == f"async-sdxl-{stack}"
    (variant,) = record[CONFIGURATION, "sdxl-config"].inputs["productionVariants"]
    assert variant["instanceType"] == instance_type
    target = record[TARGET, "sdxl-target"].inputs
    assert (target["minCapacity"], target["maxCapacity"]) == (0, most)


def test_a_wrong_config_ends_the_program_before_anything_is_registered(register, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = config_of("dev") | {
        "async-inference:minCapacity": "7",
        "async-inference:instanceType": "ml.t2.medium",
    }
    registered: list = []

    def attempt() -> None:
        with pytest.raises(pulumi.RunError) as raised:
            run()
        registered.append(str(raised.value))

    record = register(attempt, config=wrong, stack="dev")

    assert record.registrations == []
    assert "minCapacity = 7: exceeds maxCapacity = 5" in registered[0]
    assert "burstable t2 and t3" in registered[0]
