"""The CLI ends in the middle, or a creation fails, and the same command continues from there.

A command that was killed leaves a lock, which `pulumi cancel` takes away, as the CLI says.
"""

import re
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_inference.local_aws.server import Options
from tests.support.engine import HANDLER, Program, RecordingAws, ask, changes
from tests.support.waiting import eventually

pytestmark = pytest.mark.engine

NAME = "async-sdxl-local"


class Gate:
    """Handlers that do not finish loading until it opens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def behind(self, handler: str) -> str:
        waits = f"""
import os, time
while os.path.exists({str(self._path)!r}):
    time.sleep(0.05)
"""
        return waits + handler

    def open(self) -> None:
        self._path.unlink(missing_ok=True)

    def open_at(self, condition: Callable[[], object], what: str) -> threading.Thread:
        """Open once a condition holds, while something else runs."""

        def wait() -> None:
            eventually(condition, what, 120)
            self.open()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@pytest.fixture
def gate(tmp_path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "closed")
    yield gate
    gate.open()


def everything(program: Program, leftovers: Collection[str] = ()) -> dict[str, Any]:
    """What AWS has, from any deployment, except leftovers by name; without what differs from one
    deployment to the next: names and ids that are drawn at random, times, sizes, and how far the
    endpoint has scaled."""
    sagemaker, scaling = program.client("sagemaker"), program.client("application-autoscaling")
    ours = {"ServiceNamespace": "sagemaker"}
    found = {
        "endpoints": [
            sagemaker.describe_endpoint(EndpointName=each["EndpointName"])
            for each in sagemaker.list_endpoints()["Endpoints"]
        ],
        "configurations": [
            sagemaker.describe_endpoint_config(EndpointConfigName=each["EndpointConfigName"])
            for each in sagemaker.list_endpoint_configs()["EndpointConfigs"]
        ],
        "models": [
            sagemaker.describe_model(ModelName=each["ModelName"])
            for each in sagemaker.list_models()["Models"]
        ],
        "targets": scaling.describe_scalable_targets(**ours)["ScalableTargets"],
        "policies": scaling.describe_scaling_policies(**ours)["ScalingPolicies"],
        "alarms": program.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "roles": program.client("iam").list_roles()["Roles"],
        "buckets": program.client("s3").list_buckets()["Buckets"],
        "topics": program.client("sns").list_topics()["Topics"],
        "logs": program.client("logs").describe_log_groups()["logGroups"],
    }
    return {
        kind: sorted(
            (_lasting(one) for one in each if not any(name in str(one) for name in leftovers)),
            key=str,
        )
        for kind, each in found.items()
    }


def _lasting(value: object) -> Any:
    if isinstance(value, dict):
        passing = re.compile(
            r".*(Time|Timestamp|Date|Id)$|State.*|EndpointStatus|ResponseMetadata|"
            r"\w+InstanceCount|storedBytes",
            re.IGNORECASE,
        )
        return {key: _lasting(each) for key, each in value.items() if not passing.fullmatch(key)}
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    if isinstance(value, str):
        drawn = r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=-)[0-9a-f]{7}\b|[0-9a-f]{16,}"
        return re.sub(drawn, "...", value)
    return value


@pytest.fixture(scope="module")
def uninterrupted(cli, processes, providers, virtualenv, tmp_path_factory) -> dict[str, Any]:
    """What an `up` that nobody interrupts makes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    aws = RecordingAws(Options(folder=folder / "aws", minute_s=1.0), processes, providers)
    aws.start()
    try:
        (folder / "program").mkdir()
        program = Program(folder / "program", aws, virtualenv)
        program.up()
        return everything(program)
    finally:
        aws.stop()


def test_an_up_that_was_killed_while_the_endpoint_was_created_is_finished_by_the_next(
    program, gate, uninterrupted
):
    """The state does not hold the endpoint, and SageMaker deletes none that is in progress."""
    program.write_handler(gate.behind(HANDLER))
    program.interrupt("up", at=["sagemaker:CreateEndpoint"])
    assert program.endpoint()["EndpointStatus"] == "Creating"
    program.write_handler(HANDLER)
    program.pulumi("cancel", "--yes", program.stack)
    program.aws.operations.clear()
    asked = program.aws.operations
    opened = gate.open_at(
        lambda: (
            "DescribeScalableTargets" in asked
            and "DescribeEndpoint" in asked[asked.index("DescribeScalableTargets") :]
        ),
        "the hook waits",
    )

    said = program.up()
    opened.join()

    assert f"{NAME} was left by a creation that was interrupted or failed" in said
    assert f"waiting while {NAME} is Creating" in said
    assert everything(program) == uninterrupted
    assert "1 pending operations" in said, "of which Pulumi warns until a refresh clears them"
    clear = ("--run-program", "--clear-pending-creates")
    program.pulumi("refresh", "--yes", "--skip-preview", *clear, "-s", program.stack)
    assert not program.state().get("pending_operations")
    assert changes(program.preview()) == {}


def test_an_up_whose_model_failed_to_load_is_finished_once_that_is_corrected(
    program, uninterrupted
):
    """The published provider records no endpoint whose creation failed, and AWS keeps it."""
    program.write_handler("raise SystemExit")
    assert "failed" in program.up(succeeds=False)
    assert program.endpoint()["EndpointStatus"] == "Failed"
    program.write_handler(HANDLER)

    program.up()

    assert everything(program) == uninterrupted


EVERYTHING = {
    "security": {"encryption": "customer"},
    "observability": {"monthlyBudgetUsd": 500},
    "updates": {"rollback": True},
    "subscriptions": [
        {"topic": "operations", "protocol": "email", "address": "team@example.com"},
    ],
    "scalingPreset": "custom",
    "scalingPlan": {
        "policies": [
            {
                "name": "Wake",
                "type": "StepScaling",
                "steps": [{"lowerBound": 0, "adjustment": 1}],
                "alarm": {"metric": "HasBacklogWithoutCapacity", "threshold": 0.5},
            }
        ],
        "schedules": [{"name": "day", "schedule": "cron(0 7 1 1 ? 2099)", "minCapacity": 1}],
    },
}
"""A stack with every type of resource that the program knows; its schedule is never due here."""
IN_TURN = (
    "kms:CreateKey iam:CreateRole cloudwatch:PutDashboard",
    "kms:CreateAlias logs:CreateLogGroup sns:CreateTopic",
    "s3:PUT:bucket sns:SetTopicAttributes cloudwatch:PutMetricAlarm",
    "s3:PUT:object s3:PUT:encryption s3:PUT:versioning s3:PUT:publicAccessBlock "
    "s3:PUT:ownershipControls budgets:CreateBudget iam:PutRolePolicy",
    "s3:PUT:policy s3:PUT:lifecycle sagemaker:CreateModel",
    "sagemaker:CreateEndpointConfig",
    "sagemaker:CreateEndpoint",
    "application-autoscaling:RegisterScalableTarget sns:Subscribe",
    "application-autoscaling:PutScalingPolicy",
    "application-autoscaling:PutScheduledAction",
)
"""The calls that create them. Those of one entry wait for none of each other, and each is in the
first entry in which it can come: else it may have come before, and comes no more."""


def names(resources: list[dict[str, Any]]) -> set[str]:
    """What AWS calls them; a setting or an object is called like its bucket."""
    inputs = [each.get("inputs", {}) for each in resources]
    return {name for own in inputs if (name := own.get("name") or own.get("bucket"))}


def test_an_up_that_was_killed_after_each_call_that_creates_anything_is_finished_by_the_next(
    program,
):
    """What an `up` that was killed had just made under a random name is left over, nothing else."""
    program.configure(**EVERYTHING)
    program.up()
    whole = everything(program)
    kinds = {each["type"] for each in program.state()["resources"]}
    program.destroy()
    assert not any(everything(program).values())

    pending: list[dict[str, object]] = []
    for calls in IN_TURN:
        program.interrupt("up", at=calls.split())
        pending += [each["resource"] for each in program.state()["pending_operations"]]
        program.pulumi("cancel", "--yes", program.stack)
    program.up()

    assert {each["type"] for each in pending} >= {kind for kind in kinds if kind[:4] == "aws:"}
    leftovers = names(pending) - names(program.state()["resources"])
    assert everything(program, leftovers) == whole
    assert changes(program.preview("--refresh")) == {}
    program.destroy()
    assert not any(everything(program, leftovers).values())


def test_an_up_that_was_killed_during_an_update_goes_on(program, gate):
    """SageMaker takes no update while one is in progress."""
    program.configure(minCapacity=1)
    program.up()
    second = HANDLER.replace("VERSION = 1", "VERSION = 2")
    program.write_handler(gate.behind(second))
    program.interrupt("up", at=["sagemaker:UpdateEndpoint"])
    assert program.endpoint()["EndpointStatus"] == "Updating"
    program.pulumi("cancel", "--yes", program.stack)
    program.aws.operations.clear()
    opened = gate.open_at(lambda: "DescribeEndpoint" in program.aws.operations, "the hook looks")

    program.up()
    opened.join()

    assert ask(program, "hello") == "2: hello"
    assert changes(program.preview()) == {}
    (configuration,) = program.client("sagemaker").list_endpoint_configs()["EndpointConfigs"]
    assert program.endpoint()["EndpointConfigName"] == configuration["EndpointConfigName"]


def test_a_destroy_after_an_up_that_was_killed_leaves_nothing(program, gate):
    """The endpoint is not in the state, so the engine alone would leave a GPU that costs money."""
    program.write_handler(gate.behind(HANDLER))
    program.interrupt("up", at=["sagemaker:CreateEndpoint"])
    program.pulumi("cancel", "--yes", program.stack)
    program.aws.operations.clear()
    opened = gate.open_at(lambda: "DescribeEndpoint" in program.aws.operations, "the hook looks")

    program.destroy()
    opened.join()

    assert not any(everything(program).values())


def test_a_destroy_that_was_killed_is_finished_by_the_next(program):
    program.up()
    program.interrupt("destroy", "--run-program", at=["sagemaker:DeleteEndpoint"])
    program.pulumi("cancel", "--yes", program.stack)

    program.destroy()

    assert not any(everything(program).values())


def test_an_endpoint_of_somebody_else_under_that_name_is_kept_and_named(program):
    program.interrupt("up", at=["sagemaker:CreateEndpointConfig"])
    program.pulumi("cancel", "--yes", program.stack)
    sagemaker = program.client("sagemaker")
    sagemaker.create_model(
        ModelName="theirs",
        ExecutionRoleArn="arn:aws:iam::123456789012:role/theirs",
        PrimaryContainer={"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/theirs:1"},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName="theirs",
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": "theirs",
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://theirs/output"}},
    )
    sagemaker.create_endpoint(
        EndpointName=NAME, EndpointConfigName="theirs", Tags=[{"Key": "team", "Value": "theirs"}]
    )

    said = program.up(succeeds=False)

    assert f"an endpoint {NAME} exists that this stack did not make" in said
    assert "role/theirs, tags: team=theirs" in said
    assert "DeleteEndpoint" not in program.aws.operations
