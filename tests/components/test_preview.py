"""What a preview says in words; that the engine asks for it, tests/engine shows."""

from typing import Any

import pulumi
import pytest

from components.preview import (
    Fleet,
    on_configuration_deleted,
    on_endpoint_created,
    on_endpoint_deleted,
    on_endpoint_updated,
)

FLEET = Fleet("async-prod", "ml.g5.2xlarge", 2)


def step(**known: Any) -> pulumi.ResourceHookArgs:
    return pulumi.ResourceHookArgs(urn="", id="", name="", type="", **known)


def configuration(instance_type: str) -> pulumi.ResourceHookArgs:
    variants = [{"instanceType": instance_type}]
    return step(old_inputs={"productionVariants": variants}, old_outputs={"name": "config-1"})


def test_a_new_endpoint_says_what_it_starts():
    assert "starts InitialInstanceCount = 2 x ml.g5.2xlarge" in on_endpoint_created(FLEET, step())


def test_a_new_configuration_updates_the_endpoint_in_place_and_starts_its_instances():
    said = on_endpoint_updated(
        FLEET,
        step(old_inputs={"endpointConfigName": "config-1"}, new_inputs={}),
    )

    assert said is not None
    assert "updated in place: it starts InitialInstanceCount = 2 x ml.g5.2xlarge" in said


def test_an_update_of_tags_alone_says_nothing():
    same = {"endpointConfigName": "config-1"}

    assert on_endpoint_updated(FLEET, step(old_inputs=same, new_inputs=same)) is None


def test_a_replaced_endpoint_loses_its_queue():
    assert "every request in its queue" in on_endpoint_deleted(FLEET, step())


@pytest.mark.parametrize(("before", "again"), [("ml.g4dn.xlarge", True), ("ml.g5.2xlarge", False)])
def test_a_changed_instance_type_registers_the_target_again(before, again):
    """A type cannot change while a target is registered (DG endpoint-scaling)."""
    said = on_configuration_deleted(FLEET, configuration(before))

    assert "The configuration config-1 is deleted" in said
    assert ("registered again" in said) == again
