"""The components for programs in any Pulumi language: their schema, and how they are constructed.

The schema follows from the models of the arguments, which also check what a program gives: all
errors in one message, before anything is registered. So arguments must be known at preview (the
schema calls them plain), but for those that may be another resource's output.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.errors import InputPropertiesError
from pulumi.provider import ConstructResult, Provider
from pulumi.provider.experimental.analyzer import (
    Analyzer,
    ComponentDefinition,
    PropertyDefinition,
    PropertyType,
    TypeDefinition,
)
from pulumi.provider.experimental.schema import generate_schema
from pydantic.alias_generators import to_camel

from async_inference.stack.arguments import (
    MAY_BE_OUTPUT,
    AsyncEndpointArgs,
    LateText,
    ScalingArgs,
)
from async_inference.validation import InvalidInputError
from components.async_endpoint import AsyncEndpoint
from components.queue_scaling import QueueScaling, QueueScalingArgs

PACKAGE = "async-inference"
SCALING_POLICY = "ScalingPolicy"
"""One type for both kinds of policy: not every language of Pulumi has unions of types."""


class ExistingEndpointArgs(ScalingArgs):
    """The scaling of an asynchronous endpoint that was created elsewhere."""

    endpoint_name: LateText
    """Name of the endpoint"""
    variant_name: str
    """Production variant whose instances are scaled"""


def queue_scaling(
    name: str, args: ExistingEndpointArgs, opts: pulumi.ResourceOptions | None
) -> QueueScaling:
    """The component on its own, with a target that follows the instance type."""
    wanted = QueueScalingArgs(
        endpoint_name=args.endpoint_name,
        variant_name=args.variant_name,
        registered_for=args.instance_type,
        plan=args.plan,
        tags=args.tags,
    )
    return QueueScaling(name, wanted, opts)


@dataclass(frozen=True)
class Hosted:
    """A component that the plugin offers.

    Args:
        component: its class, whose annotations are the outputs.
        args: the model of its arguments.
        create: registers it.
        required: arguments that have a default in the model, which would be a guess here.
    """

    component: type[pulumi.ComponentResource]
    args: type[ScalingArgs]
    create: Callable[[str, Any, pulumi.ResourceOptions | None], pulumi.ComponentResource]
    required: frozenset[str]

    def arguments(self, given: Mapping[str, Any]) -> ScalingArgs:
        """The checked arguments.

        Raises:
            InvalidInputError: with every problem, each naming its key, value, rule and remedy.
        """
        missing = [f"{key}: is required; add it" for key in self.required - given.keys()]
        try:
            args = self.args.model_validate(given)
        except InvalidInputError as error:
            raise InvalidInputError([*missing, *error.problems]) from None
        if missing:
            raise InvalidInputError(missing)
        return args


# The plugin runs in its own folder, where the default handler is not the program's.
HOSTED = {
    "AsyncEndpoint": Hosted(
        AsyncEndpoint, AsyncEndpointArgs, AsyncEndpoint, frozenset({"handler"})
    ),
    "QueueScaling": Hosted(
        QueueScaling, ExistingEndpointArgs, queue_scaling, frozenset({"instanceType"})
    ),
}


class Plugin(Provider):
    """Constructs the hosted components.

    Args:
        version: of the package.
    """

    def __init__(self, version: str) -> None:
        super().__init__(version, json.dumps(schema(version)))

    def construct(
        self,
        name: str,
        resource_type: str,
        inputs: Mapping[str, pulumi.Input[Any]],
        options: pulumi.ResourceOptions | None = None,
    ) -> ConstructResult:
        """Register a component.

        Raises:
            InputPropertiesError: arguments are wrong; nothing is registered.
        """
        hosted = HOSTED[resource_type.rpartition(":")[2]]
        try:
            args = hosted.arguments(inputs)
        except InvalidInputError as error:
            message = f"{name}: nothing was registered:\n{error}"
            # Without a list the SDK fails to answer (pulumi 3.272, provider/server.py).
            raise InputPropertiesError(message, errors=[]) from None
        made = hosted.create(name, args, options)
        outputs = hosted.component.__annotations__
        return ConstructResult(
            made.urn, {to_camel(output): getattr(made, output) for output in outputs}
        )


def schema(version: str) -> dict[str, Any]:
    """The package's schema."""
    types: dict[str, TypeDefinition] = {}
    components: dict[str, ComponentDefinition] = {}
    for name, hosted in HOSTED.items():
        outputs, mapping = Analyzer(PACKAGE).analyze_type(
            hosted.component, is_component_output=True
        )
        model = hosted.args.model_json_schema()
        components[name] = ComponentDefinition(
            name=name,
            description=inspect.getdoc(hosted.component),
            inputs=_properties(
                model, model["$defs"], types, {*model["required"], *hosted.required}
            ),
            inputs_mapping={},
            outputs=outputs,
            outputs_mapping=mapping,
            module=None,
        )
    return generate_schema(PACKAGE, version, None, components, types, []).to_json()


def _properties(
    model: dict[str, Any],
    definitions: dict[str, Any],
    types: dict[str, TypeDefinition],
    required: set[str],
) -> dict[str, PropertyDefinition]:
    """The properties of an object in JSON Schema; adds the types that they refer to."""
    found = {}
    for key, entry in model["properties"].items():
        definition = _property(entry, definitions, types)
        definition.optional = key not in required
        definition.description = _description(entry, definitions)
        found[key] = definition
    return found


def _property(
    entry: dict[str, Any], definitions: dict[str, Any], types: dict[str, TypeDefinition]
) -> PropertyDefinition:
    kinds = [each for each in entry.get("anyOf", [entry]) if each.get("type") != "null"]
    (kind,) = kinds
    plain = None if kind.get(MAY_BE_OUTPUT) else True
    if "oneOf" in kind:
        names = [each["$ref"].rpartition("/")[2] for each in kind["oneOf"]]
        return _reference(SCALING_POLICY, _merged(names, definitions), definitions, types)
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        if "enum" not in definitions[name]:
            return _reference(name, definitions[name], definitions, types)
        kind = definitions[name]
    match kind.get("type"):
        case "array":
            items = _property(kind["items"], definitions, types)
            return PropertyDefinition(type=PropertyType.ARRAY, items=items, plain=plain)
        case "object":
            # Keys that must match a pattern are in patternProperties.
            (values,) = kind.get(
                "patternProperties", {"": kind.get("additionalProperties")}
            ).values()
            inner = (
                PropertyDefinition(ref="pulumi.json#/Any", plain=True)
                if values is True
                else _property(values, definitions, types)
            )
            return PropertyDefinition(
                type=PropertyType.OBJECT, additional_properties=inner, plain=plain
            )
        case simple:
            return PropertyDefinition(type=PropertyType(simple), plain=plain)


def _reference(
    name: str,
    model: dict[str, Any],
    definitions: dict[str, Any],
    types: dict[str, TypeDefinition],
) -> PropertyDefinition:
    if name not in types:
        types[name] = TypeDefinition(
            name=name,
            type=PropertyType.OBJECT,
            properties=_properties(model, definitions, types, set(model.get("required", ()))),
            properties_mapping={},
            module="",
            python_type=dict,
            description=model.get("description"),
        )
    return PropertyDefinition(ref=f"#/types/{PACKAGE}:index:{name}", plain=True)


def _merged(names: list[str], definitions: dict[str, Any]) -> dict[str, Any]:
    """One object for several that their property `type` tells apart."""
    models = [definitions[name] for name in names]
    kinds = [model["properties"]["type"] for model in models]
    properties = {key: entry for model in models for key, entry in model["properties"].items()}
    values = [kind["const"] for kind in kinds]
    return {
        "description": " Or: ".join(model["description"].split("\n\n")[0] for model in models),
        "properties": properties | {"type": {**kinds[0], "enum": values}},
        "required": [*set.intersection(*(set(model["required"]) for model in models)), "type"],
    }


def _description(entry: dict[str, Any], definitions: dict[str, Any]) -> str | None:
    """What a property is, with the values that it takes."""
    name = entry.get("$ref", "").rpartition("/")[2]
    values = entry.get("enum") or definitions.get(name, {}).get("enum") or ()
    text = " ".join(entry.get("description", "").split())
    if not values or all(value in text for value in values):
        return text or None
    return f"{text}: {', '.join(values)}"
