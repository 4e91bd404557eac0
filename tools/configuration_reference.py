"""Writes docs/configuration.md from Pulumi.yaml's schema and the settings' types.

`make docs` runs it; a test holds page and schema together.
"""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from async_inference.stack.settings import PROJECT, Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
HEAD = f"""# Configuration

<!-- Made by `make docs` from Pulumi.yaml and async_inference/stack/settings.py; do not edit. -->

Every key of a stack, set with `pulumi config set KEY VALUE --stack STACK` or in `Pulumi.STACK.yaml`
under `config:` as `{PROJECT}:KEY`. Wrong values are refused before anything is registered, all of
them in one message. `aws:region` is required beside these.

Beside the limits in the tables below, these are checked:

- The stack's name: another stack could get the same endpoint name unless it is of letters, digits
  and single hyphens between them, at most 52 characters (EndpointName).
- `tags` and `aws:defaultTags`: characters and lengths, the prefix `aws:` in any case, at most 49
  together, keys that differ only by case, the program's own `endpoint` (TagList of SageMaker, and
  IAM, which ignores case). Archives on S3 bear no tags, since an object takes ten.
- `environment`: what the program sets from other keys, such as `SAGEMAKER_PROGRAM` and the server's
  limits.
- `imageUri` and `security.encryption`: an image or a key of another region than the stack's.

Where the AWS provider acts, its own configuration says: `aws:profile`, `aws:assumeRoles`,
`aws:accessKey`, `aws:sharedConfigFiles` (one), `aws:endpoints` and so on, in the stack's config
before this shell's variables. Commands that take `--stack` act there too, and so do the hooks. They
compare accounts and regions before they look at anything: where they would reach another account
than the provider, or none, they refuse, and nothing is deleted. `aws:noProxy` and
`aws:ec2MetadataServiceEndpoint` are obeyed by the provider alone; commands and hooks read the
variables of the same purpose.

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


def page() -> str:
    """The whole page."""
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text(encoding="utf-8"))["config"]
    schema = Settings.model_json_schema(by_alias=True)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, entry in declared.items():
        default = yaml.safe_dump(entry["default"], default_flow_style=True).split("\n")[0]
        default = "" if entry["default"] == "" else f"`{default}`"
        meaning = html.escape(entry["description"], quote=False)
        lines.append(f"| `{key}` | {entry['type']} | {default} | {meaning} |")
    lines += ["", "## Objects", ""]
    lines.append("What the keys of type object and array hold; a key in bold is required.")
    for name, definition in _objects(schema, declared):
        lines += ["", f"### {name}", "", *_fields(definition)]
    return HEAD + "\n".join(lines) + "\n"


def _objects(
    schema: dict[str, Any], keys: dict[str, object]
) -> Iterator[tuple[str, dict[str, Any]]]:
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


def _referred(entry: object) -> list[str]:
    if isinstance(entry, list):
        return [name for each in entry for name in _referred(each)]
    if not isinstance(entry, dict):
        return []
    own = [entry["$ref"].rpartition("/")[2]] if "$ref" in entry else []
    nested = ("items", "anyOf", "oneOf", "allOf", "additionalProperties")
    return own + [name for key in nested for name in _referred(entry.get(key))]


def _fields(definition: dict[str, Any]) -> Iterator[str]:
    yield definition.get("description", "").partition("\n\n")[0].replace("\n", " ")
    yield ""
    yield "| key | type | default |"
    yield "|---|---|---|"
    for key, entry in definition["properties"].items():
        name = f"**`{key}`**" if key in definition.get("required", ()) else f"`{key}`"
        known = "default" in entry and entry["default"] not in (None, [], {})
        default = f"`{json.dumps(entry['default'])}`".replace('"', "") if known else ""
        yield f"| {name} | {_type(entry)} | {default} |"


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
    definition = Settings.model_json_schema(by_alias=True)["$defs"][name]
    if "enum" in definition:
        return ", ".join(f"`{value}`" for value in definition["enum"])
    return f"[{name}](#{name.lower()})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
