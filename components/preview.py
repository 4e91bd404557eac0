"""Messages in a preview: what an update will do to the endpoint.

A diff names properties; people want to know what starts, what is replaced and what it interrupts.
The hooks run in previews only and read nothing but the state, so a preview with read-only
credentials, or none, shows the same messages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pulumi


@dataclass(frozen=True)
class Fleet:
    """What a deployment starts.

    Args:
        endpoint_name: the endpoint.
        instance_type: of each instance.
        instances: InitialInstanceCount.
    """

    endpoint_name: str
    instance_type: str
    instances: int

    def __str__(self) -> str:
        return f"InitialInstanceCount = {self.instances} x {self.instance_type}"


class PreviewMessages:
    """The hooks of one endpoint.

    Args:
        name: prefix of the hooks' names, unique in a program.
        fleet: what a deployment starts.
    """

    configuration: pulumi.ResourceHookBinding
    """For the endpoint configuration."""
    endpoint: pulumi.ResourceHookBinding
    """For the endpoint."""

    def __init__(self, name: str, fleet: Fleet) -> None:
        def hook(
            step: str, message: Callable[[Fleet, pulumi.ResourceHookArgs], str | None]
        ) -> pulumi.ResourceHook:
            def show(args: pulumi.ResourceHookArgs) -> None:
                text = message(fleet, args) if pulumi.runtime.is_dry_run() else None
                if text:
                    pulumi.log.info(text)

            return pulumi.ResourceHook(
                f"{name}-say-{step}", show, pulumi.ResourceHookOptions(on_dry_run=True)
            )

        self.configuration = pulumi.ResourceHookBinding(
            before_delete=[hook("configuration-delete", on_configuration_deleted)]
        )
        self.endpoint = pulumi.ResourceHookBinding(
            before_create=[hook("endpoint-create", on_endpoint_created)],
            before_update=[hook("endpoint-update", on_endpoint_updated)],
            before_delete=[hook("endpoint-delete", on_endpoint_deleted)],
        )


def on_endpoint_created(fleet: Fleet, args: pulumi.ResourceHookArgs) -> str:
    """The message for a new endpoint."""
    return f"{fleet.endpoint_name} is created: it starts {fleet}, which is billed from then on."


def on_endpoint_updated(fleet: Fleet, args: pulumi.ResourceHookArgs) -> str | None:
    """The message for an update; None where only tags change."""
    before, after = args.old_inputs or {}, args.new_inputs or {}
    if all(before.get(key) == after.get(key) for key in ("endpointConfigName", "deploymentConfig")):
        return None
    return (
        f"{fleet.endpoint_name} is updated in place: it starts {fleet} for the new configuration, "
        "beside what runs now until that is healthy; requests wait in the meantime, none is lost."
    )


def on_endpoint_deleted(fleet: Fleet, args: pulumi.ResourceHookArgs) -> str:
    """The message for a deleted or replaced endpoint."""
    return f"{fleet.endpoint_name} is deleted, and with it every request in its queue."


def on_configuration_deleted(fleet: Fleet, args: pulumi.ResourceHookArgs) -> str:
    """The message for a replaced configuration; a new instance type also replaces the target."""
    name = (args.old_outputs or {}).get("name")
    message = f"The configuration {name} is deleted once {fleet.endpoint_name} no longer runs it."
    types = instance_types(args.old_inputs or {})
    if types and types != {fleet.instance_type}:
        message += (
            f" The instance type changes from {', '.join(sorted(types))} to {fleet.instance_type}: "
            "the scalable target is deregistered before the update and registered again after it."
        )
    return message


def instance_types(configuration: Mapping[str, Any]) -> set[str]:
    """The instance types in the inputs of an endpoint configuration."""
    return {variant["instanceType"] for variant in configuration.get("productionVariants") or []}
