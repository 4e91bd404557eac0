"""The interface of a resource type, and functions that several types use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

from botocore.exceptions import ClientError

Properties = dict[str, Any]
"""A resource's properties: plain values of any type, by the names of Pulumi's package `aws`."""
Parameters = dict[str, Any]
"""Parameters of a call to AWS that are made from properties."""
Client = TypeVar("Client")
Answer = TypeVar("Answer")


class Tag(TypedDict):
    """A tag as most services write it."""

    Key: str
    Value: str


@dataclass(frozen=True)
class Autoname:
    """How the provider names a resource that the program does not name."""

    property: str
    most: int
    lower_case: bool = False


class Kind(ABC, Generic[Client]):
    """One resource type; `aws` is a client of its service.

    Attributes:
        type: as Pulumi names it.
        service: as boto3 names it.
        replaces: properties (or `property.member`) whose change makes a new resource; None for all
            but tags.
        computed: outputs that are not inputs, unknown until it exists.
        autoname: how it is named.
        deletion: the call that removes it, and the parameter that takes its id.
    """

    type: ClassVar[str]
    service: ClassVar[str]
    replaces: ClassVar[frozenset[str] | None]
    computed: ClassVar[frozenset[str]] = frozenset({"arn", "tagsAll"})
    autoname: ClassVar[Autoname | None] = None
    deletion: ClassVar[tuple[str, str]]

    @abstractmethod
    def create(self, aws: Client, p: Properties) -> str:
        """Make the resource; returns its id."""

    @abstractmethod
    def read(self, aws: Client, identity: str, p: Properties) -> Properties | None:
        """Its properties in AWS now; None if it does not exist."""

    def update(self, aws: Client, identity: str, old: Properties, new: Properties) -> None:
        """Apply new inputs; most of AWS's calls that create also overwrite."""
        self.create(aws, new)

    def delete(self, aws: Client, identity: str, p: Properties) -> None:
        """Delete it, if it still exists."""
        call, parameter = self.deletion
        unless_gone(getattr(aws, call), **{parameter: identity})


def gone(error: ClientError) -> bool:
    """Whether an error says that the resource does not exist."""
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    return (
        "NotFound" in code
        or code.startswith("NoSuch")
        or "Could not find" in message
        or code == "404"
    )


def unless_gone(call: Callable[..., Answer], **arguments: object) -> Answer | None:
    """A call's answer, None if the resource does not exist."""
    try:
        return call(**arguments)
    except ClientError as error:
        if gone(error):
            return None
        raise


def tags_of(properties: Properties) -> dict[str, str]:
    return properties.get("tags") or {}


def tag_list(properties: Properties) -> list[Tag]:
    return [{"Key": key, "Value": value} for key, value in tags_of(properties).items()]


def from_tag_list(tags: Iterable[Tag]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def retag(
    old: Properties,
    new: Properties,
    untag: Callable[[list[str]], object],
    tag: Callable[[dict[str, str]], object],
) -> None:
    """Remove the tags that are no longer wanted, and set the others."""
    removed = sorted(tags_of(old).keys() - tags_of(new).keys())
    if removed:
        untag(removed)
    if tags_of(new):
        tag(tags_of(new))


def given(p: Mapping[str, Any], **parameters: str) -> Parameters:
    """Parameters of a call, of those properties that are set: `given(p, KmsKeyId="kmsKeyArn")`."""
    return {name: p[key] for name, key in parameters.items() if p.get(key)}


def camel(value: Any) -> Any:
    """A document of AWS with Pulumi's names of keys, at every level."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: camel(item) for key, item in value.items()}
    return [camel(item) for item in value] if isinstance(value, list) else value
