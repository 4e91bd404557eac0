"""Plans and tags, drawn at random, are refused exactly where AWS's models and guides forbid them.

The rules are written here a second time, from their sources: botocore's service models (BC), the
Application Auto Scaling user guide (AAS), the IAM user guide.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import botocore.session
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from async_inference.local_aws.services.constraints import check_request
from async_inference.local_aws.services.errors import AwsError
from async_inference.scaling.plan import ScalingRules
from async_inference.stack.settings import load
from async_inference.validation import InvalidInputError
from tests.support.settings import config

BOTOCORE = botocore.session.get_session()
OFTEN = settings(max_examples=400, deadline=None)
TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/sdxl/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def model_refuses(service: str, operation: str, request: dict[str, object]) -> bool:
    """Whether a service's own model forbids a request."""
    shape = BOTOCORE.get_service_model(service).operation_model(operation).input_shape
    assert shape is not None
    try:
        check_request(shape, request)
    except AwsError:
        return True
    return False


# Plans

Step = tuple[int | None, int | None, int]


def steps_forbidden(steps: list[Step], kind: str) -> bool:
    """AAS user guide, "Step adjustments": the list of what must hold for a policy's steps."""
    spans = sorted(
        (-math.inf if low is None else low, math.inf if high is None else high)
        for low, high, _ in steps
    )
    lows, highs = [low for low, _, _ in steps], [high for _, high, _ in steps]
    return (
        any(low is None and high is None for low, high, _ in steps)
        or any(low >= high for low, high in spans)
        or any(high != low for (_, high), (low, _) in pairwise(spans))
        or (any(low is not None and low < 0 for low in lows) and None not in lows)
        or (any(high is not None and high > 0 for high in highs) and None not in highs)
        or (kind == "ExactCapacity" and any(adjustment < 0 for _, _, adjustment in steps))
    )


@st.composite
def tilings(draw: st.DrawFn) -> list[tuple[int | None, int | None]]:
    """Spans that begin where the last one ends, open at some of their ends."""
    cuts = sorted(draw(st.sets(st.integers(-3, 3), min_size=1, max_size=4)))
    below: list[int | None] = draw(st.sampled_from([[], [None], [None]]))
    above: list[int | None] = draw(st.sampled_from([[], [None], [None]]))
    ends = [*below, *cuts, *above]
    return list(pairwise(ends)) or [(cuts[0], None)]


BOUND = st.one_of(st.none(), st.integers(-3, 3))
STEPS = st.one_of(
    tilings(), tilings(), tilings(), st.lists(st.tuples(BOUND, BOUND), min_size=1, max_size=3)
).flatmap(
    lambda spans: st.tuples(
        *(st.tuples(st.just(a), st.just(b), st.integers(-2, 3)) for a, b in spans)
    )
)
NAME = st.one_of(
    st.just("wake"),
    st.just("night 1"),
    st.sampled_from(["wake", "Wake up", "wake-up", "night:shift", "a/b", " led", "größer", "-"]),
    st.text("aB1 -_:|é", min_size=0, max_size=6),
    st.integers(250, 260).map(lambda length: "n" * length),
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, object]:
    return {
        "type": "StepScaling",
        "name": draw(NAME),
        "adjustmentType": draw(
            st.sampled_from(["ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity"])
        ),
        "cooldownS": draw(st.sampled_from([0, 300, 30, 2**31 - 1, 2**31])),
        "steps": [
            {"lowerBound": low, "upperBound": high, "adjustment": adjustment}
            for low, high, adjustment in draw(STEPS)
        ],
        "alarm": {
            "metric": "ApproximateBacklogSize",
            "threshold": draw(st.integers(-2, 5)),
            "periodS": draw(st.sampled_from([60] * 12 + [10, 20, 30, 45, 120, 300])),
        },
    }


def policy_forbidden(policy: Mapping[str, Any]) -> bool:
    steps = [(s["lowerBound"], s["upperBound"], s["adjustment"]) for s in policy["steps"]]
    adjustments = [
        {"ScalingAdjustment": adjustment}
        | ({} if low is None else {"MetricIntervalLowerBound": float(low)})
        | ({} if high is None else {"MetricIntervalUpperBound": float(high)})
        for low, high, adjustment in steps
    ]
    put = {
        **TARGET,
        "PolicyName": policy["name"],
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": policy["adjustmentType"],
            "StepAdjustments": adjustments,
            "Cooldown": policy["cooldownS"],
        },
    }
    period_s = policy["alarm"]["periodS"]
    # CW: 10, 20, 30 or a multiple of 60; SageMaker publishes a point a minute (DG).
    return (
        model_refuses("application-autoscaling", "PutScalingPolicy", put)
        or steps_forbidden(steps, policy["adjustmentType"])
        or period_s % 60 != 0
    )


def refused(document: dict[str, object], minimum: int, maximum: int) -> bool:
    try:
        ScalingRules.model_validate(document).within(minimum, maximum)
    except ValidationError:
        return True
    return False


@OFTEN
@given(policy=policies())
def test_a_step_policy_is_refused_where_aws_forbids_it(policy):
    # A resource is named after a policy, which needs a letter or a digit.
    assume(any(c.isascii() and c.isalnum() for c in policy["name"]))

    event("forbidden" if policy_forbidden(policy) else "allowed")
    assert refused({"policies": [policy]}, 0, 5) == policy_forbidden(policy)


CAPACITY = st.one_of(st.none(), st.sampled_from([0, 1, 3, 5, 6, 2**31]))


@OFTEN
@given(name=NAME, low=CAPACITY, high=CAPACITY, minimum=st.integers(0, 3), maximum=st.integers(3, 6))
def test_a_schedule_is_refused_where_aws_forbids_it(name, low, high, minimum, maximum):
    assume(any(c.isascii() and c.isalnum() for c in name))
    action = {"MinCapacity": low, "MaxCapacity": high}
    put = {
        **TARGET,
        "ScheduledActionName": name,
        "Schedule": "rate(1 day)",
        "ScalableTargetAction": {key: value for key, value in action.items() if value is not None},
    }
    # A bound that is not given stays what it was (AAS PutScheduledAction).
    lowest = minimum if low is None else low
    highest = maximum if high is None else high
    forbidden = (
        model_refuses("application-autoscaling", "PutScheduledAction", put)
        or (low is None and high is None)
        or lowest > highest
    )

    schedule = {"name": name, "schedule": "rate(1 day)", "minCapacity": low, "maxCapacity": high}
    event("forbidden" if forbidden else "allowed")
    assert refused({"schedules": [schedule]}, minimum, maximum) == forbidden


# Tags

LETTERS = "aEz é½ 1_.:/=+-@&*#\U0001f600"
TAGS = st.dictionaries(
    st.one_of(
        st.sampled_from(
            ["endpoint", "Endpoint", "team", "Team", "aws:team", "AWS:team", "awsteam"]
        ),
        st.text(LETTERS, max_size=4),
        st.integers(126, 130).map(lambda length: "k" * length),
    ),
    st.one_of(st.text(LETTERS, max_size=4), st.integers(254, 258).map(lambda n: "v" * n)),
    max_size=4,
)


def tag_requests(tags: dict[str, str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """How the tags of a stack reach the services, by the fewest parameters that each takes."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    arn = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/sdxl"
    yield "sagemaker", "AddTags", {"ResourceArn": arn, "Tags": listed}
    role = {"RoleName": "sdxl", "AssumeRolePolicyDocument": "{}", "Tags": listed}
    yield "iam", "CreateRole", role
    keyed = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
    yield "kms", "TagResource", {"KeyId": "1a2b", "Tags": keyed}
    yield "sns", "TagResource", {"ResourceArn": "arn:aws:sns:us-east-1:1:t", "Tags": listed}
    yield "cloudwatch", "TagResource", {"ResourceARN": "arn:aws:cloudwatch:a", "Tags": listed}
    yield "logs", "CreateLogGroup", {"logGroupName": "sdxl", "tags": tags}
    bounds = {"MinCapacity": 0, "MaxCapacity": 5}
    yield "application-autoscaling", "RegisterScalableTarget", TARGET | bounds | {"Tags": tags}


def tags_forbidden(own: dict[str, str]) -> bool:
    tags = own | {"endpoint": "async-sdxl-dev"}
    lower = [key.lower() for key in [*own, "endpoint"]]
    return (
        any(model_refuses(*request) for request in tag_requests(tags))
        # IAM user guide, tags: keys are compared without case, aws: is reserved in any case.
        or len(set(lower)) < len(lower)
        or any(key.startswith("aws:") for key in lower)
    )


@OFTEN
@given(own=TAGS)
def test_tags_are_refused_where_one_of_the_services_forbids_them(own):
    problems: tuple[str, ...] = ()
    try:
        load(config(tags=own), stack="dev")
    except InvalidInputError as error:
        problems = error.problems

    event("forbidden" if tags_forbidden(own) else "allowed")
    assert bool(problems) == tags_forbidden(own)
    assert all("tags" in problem for problem in problems)
