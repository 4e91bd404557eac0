"""SageMaker's resources of one kind in one region: kept by name, tagged, listed page by page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, NotRequired, TypedDict, TypeVar

from async_inference.aws_names import arn
from async_inference.local_aws.clients import ACCOUNT_ID
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.journal import Journal
from async_inference.local_aws.services.constraints import Answer
from async_inference.local_aws.services.errors import validation_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from types_boto3_sagemaker.type_defs import TagTypeDef

MAX_TAGS = 50
DEFAULT_PAGE = 10


class Resource(TypedDict):
    """What the document of every kind holds beside the members of its creation."""

    CreationTime: float
    LastModifiedTime: float
    Tags: NotRequired[Sequence[TagTypeDef]]


class ListRequest(TypedDict, total=False):
    """The members that SageMaker's list operations share; times in seconds since the epoch."""

    NameContains: str
    StatusEquals: str
    CreationTimeAfter: float
    CreationTimeBefore: float
    LastModifiedTimeAfter: float
    LastModifiedTimeBefore: float
    SortBy: str
    SortOrder: str
    NextToken: str
    MaxResults: int


R = TypeVar("R", bound=Resource)


class Collection(Generic[R]):
    """The resources of one kind, by name.

    Args:
        journal: where they are kept.
        clock: the clock of the embedded AWS.
        region: their region.
        kind: as ARNs have it, such as `endpoint-config`.
        prefix: of the members that name one, such as `EndpointConfig`.
        noun: as SageMaker's messages have it, such as `endpoint configuration`.
    """

    def __init__(
        self, journal: Journal, clock: Clock, region: str, kind: str, prefix: str, noun: str
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._region = region
        self._kind = kind
        self._prefix = prefix
        self._noun = noun
        self._saved_as = f"{region}/{kind}"
        self.documents: dict[str, R] = journal.documents(self._saved_as)

    def arn(self, name: str) -> str:
        """The ARN of one of that name, whether it exists or not."""
        resource = f"{self._kind}/{name.lower()}"
        return arn("sagemaker", resource, region=self._region, account_id=ACCOUNT_ID)

    def __getitem__(self, name: str) -> R:
        """One of them.

        Raises:
            AwsError: it does not exist.
        """
        self.check_exists(name)
        return self.documents[name]

    def check_exists(self, name: str) -> None:
        """Refuse a name that does not exist.

        Raises:
            AwsError: it does not.
        """
        if name not in self.documents:
            raise validation_error(f'Could not find {self._noun} "{self.arn(name)}".')

    def check_new(self, name: str) -> None:
        """Refuse a name that exists.

        Raises:
            AwsError: it does.
        """
        if name in self.documents:
            raise validation_error(
                f'Cannot create already existing {self._noun} "{self.arn(name)}".'
            )

    def save(self, name: str, document: R) -> None:
        """Create or replace one."""
        self.documents[name] = document
        self._journal.save(self._saved_as, name, document)

    def delete(self, name: str) -> None:
        """Delete one.

        Raises:
            AwsError: it does not exist.
        """
        self.check_exists(name)
        del self.documents[name]
        self._journal.delete(self._saved_as, name)

    def describe(self, name: str) -> Answer:
        """One as it was created, without its tags.

        Raises:
            AwsError: it does not exist.
        """
        known = {key: value for key, value in self[name].items() if key != "Tags"}
        return known | {f"{self._prefix}Arn": self.arn(name)}

    def list(self, request: ListRequest, *members: str) -> Answer:
        """A page of those that a request asks for.

        Args:
            request: what to list.
            members: of the documents, that are shown beside names and ARNs.
        """
        found: list[tuple[str, Mapping[str, object]]] = []
        for name, document in self.documents.items():
            held: Mapping[str, object] = document
            if (
                request.get("NameContains", "").lower() in name.lower()
                and request.get("StatusEquals") in (None, held.get("EndpointStatus"))
                and request.get("CreationTimeAfter", -math.inf)
                <= document["CreationTime"]
                <= request.get("CreationTimeBefore", math.inf)
                and request.get("LastModifiedTimeAfter", -math.inf)
                <= document["LastModifiedTime"]
                <= request.get("LastModifiedTimeBefore", math.inf)
            ):
                found.append((name, held))
        descending = request.get("SortOrder") != "Ascending"
        match request.get("SortBy"):
            case "Name":
                found.sort(key=lambda each: each[0], reverse=descending)
            case "Status":
                found.sort(key=lambda each: str(each[1]["EndpointStatus"]), reverse=descending)
            case _:
                found.sort(
                    key=lambda each: self.documents[each[0]]["CreationTime"], reverse=descending
                )
        start = _offset(request.get("NextToken"))
        end = start + request.get("MaxResults", DEFAULT_PAGE)
        answer: Answer = {
            f"{self._prefix}s": [
                {
                    f"{self._prefix}Name": name,
                    f"{self._prefix}Arn": self.arn(name),
                    **{member: document[member] for member in members},
                }
                for name, document in found[start:end]
            ]
        }
        return answer | ({"NextToken": str(end)} if end < len(found) else {})

    def named(self, lower_case: str) -> str | None:
        """The name of one, from its ARN's, which is in lower case."""
        return next((name for name in self.documents if name.lower() == lower_case.lower()), None)

    def tags(self, name: str) -> dict[str, str]:
        """The tags of one."""
        return {tag["Key"]: tag["Value"] for tag in self[name].get("Tags", ())}

    def set_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of one.

        Raises:
            AwsError: there are too many.
        """
        if len(tags) > MAX_TAGS:
            raise validation_error(f"A resource can have at most {MAX_TAGS} tags.")
        document = self[name]
        document["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        self.save(name, document)


def _offset(token: str | None) -> int:
    if token is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}", token):
        raise validation_error("Invalid pagination token")
    return int(token)
