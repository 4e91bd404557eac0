"""Writes the config of Pulumi.yaml and docs/configuration.md from the arguments' model.

`make docs` runs it; a test holds the three together.
"""

import html
import json
import math
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic.alias_generators import to_snake

from async_inference.stack.arguments import AsyncEndpointArgs
from async_inference.stack.settings import NO_KEYS, PROJECT

ROOT = Path(__file__).resolve().parents[1]
PROJECT_FILE = ROOT / "Pulumi.yaml"
PAGE = ROOT / "docs" / "configuration.md"
CONFIG_HEAD = """\
# Made by `make docs` from async_inference/stack/arguments.py; do not edit. Pulumi refuses a stack
# that lacks a declared key without a default, so these are not declared, and may be set:
# {undeclared}.
# docs/configuration.md describes every key.
config:
"""
HEAD = f"""# Configuration

<!-- Made by `make docs` from async_inference/stack/arguments.py; do not edit. -->

Every key of a stack, set with `pulumi config set KEY VALUE --stack STACK` or in `Pulumi.STACK.yaml`
under `config:` as `{PROJECT}:KEY`. `aws:region` is required, too. Wrong values are refused before
anything is registered, all of them in one message. To use a default, leave the key out.

These are also checked, beside the limits in the tables below:

- The stack's name: letters, digits and single hyphens between them, at most 52 characters.
  Otherwise another stack could get the same endpoint name (EndpointName).
- `tags` and `aws:defaultTags`: characters and lengths, the prefix `aws:` in any case, at most 49
  together, keys that differ only by case, and the program's key `endpoint` (TagList of SageMaker,
  and IAM, which ignores case). Archives on S3 have no tags, since an object takes only ten.
- `environment`: variables that the program sets from other keys, such as `SAGEMAKER_PROGRAM` and
  the server's limits.
- `imageUri` and `security.encryption`: an image or a key of another region than the stack's.

The AWS provider's configuration determines the account and region in which it acts: `aws:profile`,
`aws:assumeRoles`, `aws:accessKey`, `aws:sharedConfigFiles` (one), `aws:endpoints` and so on. The
stack's config overrides this shell's variables. Commands with `--stack`, and the hooks, act there
too. They compare accounts and regions first: where they would reach another account than the
provider, or none, they refuse, and nothing is deleted. Only the provider reads `aws:noProxy` and
`aws:ec2MetadataServiceEndpoint`; commands and hooks read the corresponding environment variables.

"""
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {} entries",
}


def keys() -> dict[str, dict[str, Any]]:
    """Each config key with its JSON schema."""
    schema = _schema()["properties"]
    return {key: entry for key, entry in schema.items() if to_snake(key) not in NO_KEYS}


def project_file(text: str) -> str:
    """The text of Pulumi.yaml with its config, which comes last, written again."""
    entries = keys()
    undeclared = ", ".join(key for key, entry in entries.items() if _default(entry) is None)
    declared = {
        key: _pulumi_type(entry)
        | {"default": _default(entry), "description": _meaning(entry) + _contents(entry)}
        for key, entry in entries.items()
        if _default(entry) is not None
    }
    config = yaml.safe_dump(declared, sort_keys=False, width=math.inf, allow_unicode=True)
    before = re.split(r"^(?:#|config:)", text, maxsplit=1, flags=re.MULTILINE)[0]
    return before + CONFIG_HEAD.format(undeclared=undeclared) + textwrap.indent(config, "  ")


def _default(entry: dict[str, Any]) -> Any:
    """A key's default, None without one; what an object leaves out has defaults in the model."""
    if "$ref" in entry or entry.get("type") == "object":
        return {}
    return entry.get("default")


def _pulumi_type(entry: dict[str, Any]) -> dict[str, Any]:
    """A key's type as Pulumi's project files have it."""
    if "$ref" in entry:
        return {"type": "object"}
    if entry["type"] == "array":
        return {"type": "array", "items": {"type": "object"}}
    return {"type": entry["type"]}


def _contents(entry: dict[str, Any]) -> str:
    """The keys of an object, with their defaults."""
    found = _referred(entry)
    if not found:
        return ""
    properties = _schema()["$defs"][found[0]]["properties"]
    listed = (f"{key} {_shown_default(inner)}".strip() for key, inner in properties.items())
    return f" ({', '.join(listed)})"


def page() -> str:
    """The whole page."""
    schema, declared = _schema(), keys()
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, entry in declared.items():
        kind = entry.get("type") or ("object" if "$ref" in entry else entry["anyOf"][0]["type"])
        default = json.dumps(_default(entry)).strip('"')
        shown = "" if _default(entry) is None else f"`{default}`"
        lines.append(f"| `{key}` | {kind} | {shown} | {_meaning(entry, escape=True)} |")
    lines += ["", "## Objects", ""]
    lines.append("What the keys of type object and array hold; a key in bold is required.")
    for name, definition in _objects(schema, declared):
        lines += ["", f"### {name}", "", *_fields(definition)]
    return HEAD + "\n".join(lines) + "\n"


@cache
def _schema() -> dict[str, Any]:
    return AsyncEndpointArgs.model_json_schema(by_alias=True)


def _meaning(entry: dict[str, Any], *, escape: bool = False) -> str:
    text = " ".join(entry.get("description", "").split())
    return html.escape(text, quote=False).replace("|", "\\|") if escape else text


def _shown_default(entry: dict[str, Any]) -> str:
    default = entry.get("default")
    return "" if default in (None, [], {}) else json.dumps(default).replace('"', "")


def _objects(schema: dict[str, Any], keys: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object type that a key leads to, outermost first, once."""
    seen: list[str] = []
    waiting = [name for key in keys for name in _referred(schema["properties"].get(key, {}))]
    while waiting:
        name = waiting.pop(0)
        definition = schema["$defs"][name]
        if name in seen or "properties" not in definition:
            continue
        seen.append(name)
        yield name, definition
        waiting += [
            inner for entry in definition["properties"].values() for inner in _referred(entry)
        ]


def _referred(entry: Any) -> list[str]:
    if isinstance(entry, list):
        return [name for each in entry for name in _referred(each)]
    if not isinstance(entry, dict):
        return []
    here = [entry["$ref"].rpartition("/")[2]] if "$ref" in entry else []
    nested = ("items", "anyOf", "oneOf", "allOf", "additionalProperties")
    return here + [name for key in nested for name in _referred(entry.get(key))]


def _fields(definition: dict[str, Any]) -> Iterator[str]:
    yield definition.get("description", "").partition("\n\n")[0].replace("\n", " ")
    yield ""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, entry in definition["properties"].items():
        name = f"**`{key}`**" if key in definition.get("required", ()) else f"`{key}`"
        default = f"`{_shown_default(entry)}`" if _shown_default(entry) else ""
        yield f"| {name} | {_type(entry)} | {default} | {_meaning(entry, escape=True)} |"


def _type(entry: dict[str, Any]) -> str:
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "$ref" in entry:
        return _linked(entry["$ref"].rpartition("/")[2])
    several = entry.get("anyOf") or entry.get("oneOf")
    if several:
        kinds = [_type(each) for each in several if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if entry.get("type") == "array":
        return f"list of {_type(entry.get('items', {}))}"
    limits = [text.format(entry[key]) for key, text in LIMITS.items() if key in entry]
    return ", ".join([entry.get("type", "any"), *limits])


def _linked(name: str) -> str:
    definition = _schema()["$defs"][name]
    if "enum" in definition:
        return ", ".join(f"`{value}`" for value in definition["enum"])
    return f"[{name}](#{name.lower()})"


if __name__ == "__main__":
    PROJECT_FILE.write_text(project_file(PROJECT_FILE.read_text("utf-8")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
