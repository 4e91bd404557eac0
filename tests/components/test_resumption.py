"""Which endpoint of the same name is removed, kept or waited for; that the engine asks,
tests/engine/test_interruptions.py shows."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence

import pulumi
import pytest
from botocore.exceptions import ClientError

from components import resumption
from components.provider_account import ProviderAccount
from components.resumption import (
    ExistingEndpoint,
    NameTakenError,
    Resumption,
    clears_alias,
    clears_log_group,
    clears_target,
    import_command,
    refuse_unless_stranded,
)
from tests.support.registrations import Reached

NAME = "async-demo"
COMPONENT = "async-inference:index:AsyncEndpoint"
URN = f"urn:pulumi:prod::demo::{COMPONENT}$aws:sagemaker/endpoint:Endpoint::sdxl-endpoint"
OWN, THEIRS = "arn:aws:iam::123456789012:role/own", "arn:aws:iam::123456789012:role/theirs"


def test_what_an_interrupted_creation_left_may_be_removed():
    refuse_unless_stranded(ExistingEndpoint(role=OWN, scaled=False, tags={}), NAME, OWN, URN)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            ExistingEndpoint(role=THEIRS, scaled=False, tags={"endpoint": NAME}),
            "exists that this stack did not make: it runs as "
            "arn:aws:iam::123456789012:role/theirs, tags: endpoint=async-demo. It is kept.",
        ),
        (
            ExistingEndpoint(role=None, scaled=False, tags={}),
            "it runs as a role that cannot be looked up, tags: none. It is kept.",
        ),
        (
            ExistingEndpoint(role=OWN, scaled=True, tags={"b": "2", "a": "1"}),
            "tags: a=1, b=2; Pulumi's state does not hold it, but it scales and may have requests.",
        ),
    ],
    ids=["another's", "nobody knows whose", "deployed to the end"],
)
def test_any_other_endpoint_is_kept_and_the_way_out_said(found, sentence):
    """Tags alone say nothing: a copy of this project has the same ones."""
    with pytest.raises(NameTakenError, match=re.escape(sentence)) as raised:
        refuse_unless_stranded(found, NAME, OWN, URN)

    assert f"aws sagemaker delete-endpoint --endpoint-name {NAME}" in str(raised.value)


def test_an_endpoint_that_the_state_lost_is_taken_back_under_its_component():
    assert import_command(URN, NAME) == (
        "pulumi import aws:sagemaker/endpoint:Endpoint sdxl-endpoint async-demo "
        f"--parent 'sdxl=urn:pulumi:prod::demo::{COMPONENT}::sdxl' --protect=false"
    )


class Leftovers:
    """CloudWatch Logs with one group, and KMS with an alias."""

    exceptions = type("exceptions", (), {"ResourceNotFoundException": KeyError})

    def __init__(self, streams: Sequence[str] | None = None) -> None:
        self.streams = streams
        self.deleted: list[str] = []

    def describe_log_streams(self, **_: object) -> dict[str, object]:
        if self.streams is None:
            raise KeyError
        return {"logStreams": self.streams}

    def delete_log_group(self, logGroupName: str) -> None:  # noqa: N803 AWS's name
        self.deleted.append(logGroupName)

    def get_paginator(self, operation: str) -> "Leftovers":
        return self

    def paginate(self) -> list[dict[str, object]]:
        return [
            {"Aliases": [{"AliasName": "alias/aws/s3"}]},
            {"Aliases": [{"AliasName": "alias/demo", "TargetKeyId": "own"}]},
        ]

    def delete_alias(self, AliasName: str) -> None:  # noqa: N803 AWS's name
        self.deleted.append(AliasName)


@pytest.fixture
def before_creation(register) -> Callable[..., None]:
    """Run the hook of a resource that is about to be created."""

    def run(
        binding: Callable[[str, ProviderAccount], pulumi.ResourceHookBinding],
        aws: Leftovers | Scaling,
        **inputs: str,
    ) -> None:
        made: list[pulumi.ResourceHookBinding] = []
        register(lambda: made.append(binding("demo", Reached(aws))))
        (hook,) = made[0].before_create or [None]
        assert isinstance(hook, pulumi.ResourceHook)
        args = pulumi.ResourceHookArgs(urn="", id="", name="", type="", new_inputs=inputs)
        waits = hook.callback(args)
        assert isinstance(waits, Coroutine)
        asyncio.run(waits)

    return run


@pytest.mark.parametrize(("streams", "deleted"), [(None, []), ([], ["logs"])])
def test_an_empty_log_group_makes_room_for_the_one_to_be_created(before_creation, streams, deleted):
    aws = Leftovers(streams)

    before_creation(clears_log_group, aws, name="logs")

    assert aws.deleted == deleted


def test_a_log_that_somebody_may_want_to_read_is_kept_and_the_way_out_said(before_creation):
    aws = Leftovers(["AllTraffic/i-1"])

    with pytest.raises(NameTakenError, match="aws logs delete-log-group --log-group-name logs"):
        before_creation(clears_log_group, aws, name="logs")

    assert aws.deleted == []


@pytest.mark.parametrize(("key", "deleted"), [("own", ["alias/demo"]), ("another", [])])
def test_only_an_alias_of_the_same_key_makes_room(before_creation, key, deleted):
    aws = Leftovers()

    before_creation(clears_alias, aws, name="alias/demo", targetKeyId=key)

    assert aws.deleted == deleted


class Scaling:
    """Application Auto Scaling with a target and what was put on it."""

    def __init__(self, targets: Sequence[str], policies: Sequence[str] = ()) -> None:
        self.targets, self.policies = targets, policies
        self.deleted: list[str] = []

    def describe_scalable_targets(self, **_: object) -> dict[str, object]:
        return {"ScalableTargets": self.targets}

    def describe_scaling_policies(self, **_: object) -> dict[str, object]:
        return {"ScalingPolicies": self.policies}

    def describe_scheduled_actions(self, **_: object) -> dict[str, object]:
        return {"ScheduledActions": []}

    def deregister_scalable_target(self, **asked: str) -> None:
        self.deleted.append(asked["ResourceId"])


VARIANT = {
    "serviceNamespace": "sagemaker",
    "scalableDimension": "sagemaker:variant:DesiredInstanceCount",
    "resourceId": f"endpoint/{NAME}/variant/AllTraffic",
}


@pytest.mark.parametrize(
    ("targets", "deleted"), [([], []), (["a target"], [VARIANT["resourceId"]])]
)
def test_a_bare_scalable_target_makes_room_for_the_one_to_be_registered(
    before_creation, targets, deleted
):
    """AWS takes no tags for a target that exists."""
    aws = Scaling(targets)

    before_creation(clears_target, aws, **VARIANT)

    assert aws.deleted == deleted


def test_a_scalable_target_with_policies_is_kept_and_the_way_out_said(before_creation):
    aws = Scaling(["a target"], ["a policy"])

    with pytest.raises(NameTakenError, match=r"deregister-scalable-target .* --resource-id"):
        before_creation(clears_target, aws, **VARIANT)

    assert aws.deleted == []


class Aws:
    """SageMaker and Application Auto Scaling with one endpoint, whose states come in turn."""

    exceptions = type("exceptions", (), {"ClientError": ClientError})

    def __init__(
        self, states: Sequence[str], role: str | None = OWN, targets: Sequence[str] = ()
    ) -> None:
        self.states, self.role, self.targets = list(states), role, targets
        self.deleted_while: list[str] = []

    def describe_endpoint(self, **_: object) -> dict[str, object]:
        if not self.states:
            raise _refused("DescribeEndpoint", "Could not find endpoint")
        state = self.states[0]
        if state in resumption.IN_PROGRESS:
            self.states.pop(0)
        return {"EndpointStatus": state, "EndpointConfigName": "left", "EndpointArn": "arn"}

    def describe_endpoint_config(self, **asked: str) -> dict[str, object]:
        return {"ProductionVariants": [{"ModelName": asked["EndpointConfigName"]}]}

    def describe_model(self, ModelName: str) -> dict[str, object]:  # noqa: N803 AWS's name
        if ModelName == "left" and self.role is None:
            raise _refused("DescribeModel", "Could not find model")
        return {"ExecutionRoleArn": self.role if ModelName == "left" else OWN}

    def describe_scalable_targets(self, **_: object) -> dict[str, object]:
        return {"ScalableTargets": self.targets}

    def list_tags(self, **_: object) -> dict[str, object]:
        return {"Tags": []}

    def delete_endpoint(self, **_: object) -> None:
        self.deleted_while.append(self.states[0])
        self.states = ["Deleting"]


def _refused(operation: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationException", "Message": message}}, operation)


@pytest.fixture
def ask(register, monkeypatch) -> Callable[[Aws, str], None]:
    """Run the hooks of one kind against an AWS, without waiting and without an engine."""
    made: list[Resumption] = []
    account = Reached(None)
    register(lambda: made.append(Resumption("demo", NAME, "AllTraffic", account)))
    (hooks,) = made

    async def at_once(seconds: float) -> None:
        assert 0 < seconds <= resumption.ASKED_AT_LEAST_EVERY_S

    monkeypatch.setattr(resumption.asyncio, "sleep", at_once)
    monkeypatch.setattr(pulumi.log, "info", lambda message: None)

    def run(aws: Aws, kind: str) -> None:
        account.aws = aws
        binding, moment = {
            "create": (hooks.endpoint, "before_create"),
            "update": (hooks.endpoint, "before_update"),
            "delete": (hooks.endpoint, "before_delete"),
            "delete configuration": (hooks.configuration, "before_delete"),
        }[kind]
        args = pulumi.ResourceHookArgs(
            urn=URN,
            id="",
            name="",
            type="",
            new_inputs={"endpointConfigName": "asked"},
            old_outputs={"name": "left"},
        )
        for hook in getattr(binding, moment):
            asyncio.run(hook.callback(args))

    return run


@pytest.mark.parametrize(
    ("states", "deleted_while"),
    [
        ([], []),
        (["Creating", "Creating", "InService"], ["InService"]),
        (["Creating", "Failed"], ["Failed"]),
        (["InService"], ["InService"]),
        (["Deleting", "Deleting"], []),
    ],
)
def test_before_a_creation_the_name_is_cleared_as_soon_as_sagemaker_allows_it(
    ask, states, deleted_while
):
    aws = Aws(states)

    ask(aws, "create")

    assert aws.deleted_while == deleted_while
    assert aws.states == [], "the name is free"


@pytest.mark.parametrize(
    "aws",
    [
        Aws(["InService"], role=THEIRS),
        Aws(["Failed"], role=None),
        Aws(["InService"], targets=["a target"]),
    ],
    ids=["another's", "nobody knows whose", "deployed to the end"],
)
def test_before_a_creation_what_is_not_a_leftover_is_kept(ask, aws):
    with pytest.raises(NameTakenError):
        ask(aws, "create")

    assert aws.deleted_while == []


@pytest.mark.parametrize("kind", ["update", "delete"])
@pytest.mark.parametrize(
    "states", [["Updating", "InService"], ["SystemUpdating", "InService"], ["Deleting"], []]
)
def test_before_an_update_or_deletion_what_is_in_progress_is_waited_for(ask, kind, states):
    aws = Aws(states)

    ask(aws, kind)

    assert not resumption.IN_PROGRESS.intersection(aws.states)
    assert aws.deleted_while == []


@pytest.mark.parametrize(
    ("states", "deleted_while"),
    [
        (["Creating", "InService"], ["InService"]),
        (["Failed"], ["Failed"]),
        (["InService"], []),
        (["Updating", "InService"], []),
        ([], []),
    ],
)
def test_with_its_configuration_goes_an_endpoint_that_never_served(ask, states, deleted_while):
    """One in service may be live: the rollback guard keeps it."""
    aws = Aws(states)

    ask(aws, "delete configuration")

    assert aws.deleted_while == deleted_while


def test_what_stays_in_progress_is_given_up_by_name(ask, monkeypatch):
    monkeypatch.setattr(resumption, "SETTLED_WITHIN_S", 0.0)

    with pytest.raises(TimeoutError, match=f"endpoint {NAME} was still"):
        ask(Aws(["Updating"]), "update")
