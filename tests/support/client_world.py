"""AWS as far as the protocol sees it, in memory and in its own time: no sleeps, no sockets."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from async_inference.client.protocol import (
    Call,
    Effect,
    Fetch,
    Protocol,
    Result,
    Rule,
    Sleep,
    split,
)

T = TypeVar("T")


def refused(code: str, message: str = "", status: int = 400) -> ClientError:
    """What botocore raises for an AWS error."""
    answer: Any = {  # the part of an answer that the client looks at
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "Operation")


@dataclass
class World:
    """An endpoint with S3 paths `s3://bucket/out` and `s3://bucket/fail`.

    `appearing` holds when an object comes to be; `troubles` is raised, call by call, before the
    world answers at all; `performed` is what was asked of it.
    """

    now_s: float = 0.0
    failure_path: bool = True
    objects: dict[str, bytes] = field(default_factory=dict)
    appearing: list[tuple[float, str, bytes]] = field(default_factory=list)
    troubles: list[Exception] = field(default_factory=list)
    answers: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    performed: list[Effect] = field(default_factory=list)
    slept_s: list[float] = field(default_factory=list)

    def protocol(self, **more: Any) -> Protocol:
        return Protocol("echo", lambda: self.now_s, lambda: 1.0, **more)

    def run(self, rule: Rule[T]) -> T:
        """Perform a rule to its end."""
        try:
            effect = next(rule)
            while True:
                try:
                    answer = self._perform(effect)
                except Exception as error:
                    effect = rule.throw(error)
                else:
                    effect = rule.send(answer)
        except StopIteration as end:
            return end.value

    def calls(self, operation: str) -> list[dict[str, Any]]:
        """The parameters of each call of an operation."""
        return [
            dict(effect.parameters)
            for effect in self.performed
            if isinstance(effect, Call) and effect.operation == operation
        ]

    def _perform(self, effect: Effect) -> Any:
        self.performed.append(effect)
        if isinstance(effect, Sleep):
            assert effect.seconds >= 0
            self.slept_s.append(effect.seconds)
            self.now_s += effect.seconds
            return None
        if self.troubles:
            raise self.troubles.pop(0)
        for at_s, location, body in self.appearing:
            if at_s <= self.now_s:
                self.objects.setdefault(location, body)
        if isinstance(effect, Fetch):
            if effect.location not in self.objects:
                raise refused("NoSuchKey", status=404)
            body = self.objects[effect.location]
            return Result("text/plain", len(body), hashlib.sha256(body).hexdigest(), body)
        if effect.operation in self.answers:
            return self.answers[effect.operation](dict(effect.parameters))
        return getattr(self, f"_{effect.operation}")(effect.parameters)

    def _invoke_endpoint_async(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = {
            "InferenceId": asked["InferenceId"],
            "OutputLocation": f"s3://bucket/out/{asked['Filename']}.out",
        }
        if self.failure_path:
            answer["FailureLocation"] = f"s3://bucket/fail/{asked['Filename']}-error.out"
        return answer

    def _describe_endpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "EndpointStatus": "InService",
            "ProductionVariants": [{"CurrentInstanceCount": 0}],
            "AsyncInferenceConfig": {
                "OutputConfig": {
                    "S3OutputPath": "s3://bucket/some/output",
                    "NotificationConfig": {"SuccessTopic": "arn:topic", "ErrorTopic": "arn:topic"},
                }
            },
        }

    def _put_object(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.objects[f"s3://{asked['Bucket']}/{asked['Key']}"] = asked["Body"]
        return {}

    def _list_objects_v2(self, asked: dict[str, Any]) -> dict[str, Any]:
        size = 2  # a page
        inside = sorted(
            key
            for bucket, key in map(split, self.objects)
            if bucket == asked["Bucket"]
            and key.startswith(asked["Prefix"])
            and key > asked.get("ContinuationToken", "")
        )
        page = {"Contents": [{"Key": key} for key in inside[:size]], "IsTruncated": False}
        if len(inside) > size:
            page |= {"IsTruncated": True, "NextContinuationToken": inside[size - 1]}
        return page
