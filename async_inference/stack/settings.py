"""A stack's config as one typed, checked value, from `pulumi.Config` and from a stack file alike.

Nothing else reads config. Wrong values are refused together, before any resource is registered.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic.alias_generators import to_camel

from async_inference.stack.arguments import AsyncEndpointArgs, EcrImage, S3Uri
from async_inference.validation import InvalidInputError, shown

PROJECT = "async-inference"
MAX_STACK_NAME = 52
"""What an endpoint's 63 characters (BC EndpointName) leave behind `async-sdxl-`."""
NO_KEYS = {
    "endpoint_name": "the endpoint is named after the stack",
    "region": "the region is aws:region",
    "provider_config": "the provider's configuration is aws:",
    "stack": "the stack's name is Pulumi's",
}
"""Arguments that are not keys of a stack's config, and where they come from."""


class Settings(AsyncEndpointArgs):
    """What one stack deploys: each argument but those in `NO_KEYS` is a config key in camelCase."""

    stack: str
    """The stack's name"""

    # What a config holds is text, never another resource's output.
    image_uri: EcrImage | None = None
    output_path: S3Uri | None = None
    failure_path: S3Uri | None = None


def load(values: Mapping[str, object], *, stack: str) -> Settings:
    """Check a stack's config.

    Args:
        values: fully qualified keys (`async-inference:minCapacity`, `aws:region`) to values, as
            text or as what YAML made of them.
        stack: the stack's name.

    Raises:
        InvalidInputError: with every problem, each naming its key, value, rule and remedy.
    """
    prefix = f"{PROJECT}:"
    given = {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }
    problems: list[str] = []
    for name, origin in NO_KEYS.items():
        for key in {name, to_camel(name)} & given.keys():
            del given[key]
            problems.append(f"{prefix}{key}: no such key; remove it ({origin})")
    for key in [key for key, value in given.items() if value == ""]:
        del given[key]
        problems.append(f"{prefix}{key} = '': is empty; remove the key")
    unique = is_unique_name(stack)
    if not unique:
        problems.append(
            f"stack = {stack!r}: the endpoint is named after the stack, and another stack could "
            "get the same name; use letters, digits and single hyphens between them, at most "
            f"{MAX_STACK_NAME} characters: pulumi stack rename NAME"
        )
    if "aws:region" not in values:
        problems.append(
            f"aws:region: is required; pulumi config set aws:region <region> -s {stack}"
        )
    given |= {
        "stack": stack,
        "endpointName": f"async-sdxl-{stack}" if unique else "async-sdxl",
        "region": values.get("aws:region", "us-east-1"),
        "providerConfig": provider_values(values),
    }
    try:
        settings = Settings.model_validate(given)
    except InvalidInputError as error:
        raise InvalidInputError([*problems, *map(_qualified, error.problems)]) from None
    if problems:
        raise InvalidInputError(problems)
    return settings


def is_unique_name(stack: str) -> bool:
    """Whether no other stack's name gives the same endpoint name, which has fewer characters (BC
    EndpointName) than a stack's."""
    return len(stack) <= MAX_STACK_NAME and bool(
        re.fullmatch(r"[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*", stack)
    )


def _qualified(problem: str) -> str:
    """A problem with its key as `pulumi config set` takes it."""
    of_provider = re.sub(r"^(providerConfig\.|(?=region\b))", "aws:", problem)
    return of_provider if of_provider != problem else f"{PROJECT}:{problem}"


def from_stack_file(path: Path) -> Settings:
    """The settings of `Pulumi.<stack>.yaml`.

    Raises:
        InvalidInputError: no such file, no YAML, or wrong values.
    """
    parts = re.fullmatch(r"Pulumi\.(.+)\.ya?ml", path.name)
    if parts is None:
        raise InvalidInputError([f"{path}: a stack file is called Pulumi.<stack>.yaml"])
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = sorted(file.name for file in path.parent.glob("Pulumi.*.yaml"))
        raise InvalidInputError(
            [f"{path}: cannot be read ({error.strerror}); stack files here: {', '.join(known)}"]
        ) from error
    return from_stack_text(text, stack=parts[1], origin=str(path))


def from_stack_text(text: str, *, stack: str, origin: str) -> Settings:
    """The settings of a stack file's text; `origin` names it in messages."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(
            [f"{origin}: is not valid YAML ({' '.join(str(error).split())})"]
        ) from error
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise InvalidInputError([f"{origin} = {shown(document)}: must hold a mapping `config`"])
    return load(config, stack=stack)


def provider_values(values: Mapping[str, object]) -> dict[str, object]:
    """The AWS provider's part of a stack's config, by its keys without `aws:`."""
    return {
        key.removeprefix("aws:"): value for key, value in values.items() if key.startswith("aws:")
    }


def pulumi_values() -> dict[str, Any]:
    """The config of the stack that Pulumi is running now, by fully qualified keys."""
    # Here, since the rehearsal reads stack files without loading Pulumi.
    from pulumi.runtime import config

    # pulumi.Config cannot list its keys, and unknown keys must be refused.
    return {**config.get_config_env(), **config.CONFIG.get()}


def from_pulumi() -> Settings:
    """The settings of the stack that Pulumi is running now."""
    import pulumi

    return load(pulumi_values(), stack=pulumi.get_stack())
