"""Any config within the documented ranges gives a program that deploys, any outside is refused.

Under mocks: that the engine and AWS take what is registered, tests/engine and a deploy show.
"""

import json
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from async_inference.stack.arguments import INSTANCE_FAMILIES
from async_inference.stack.groups import LOG_RETENTION_DAYS, MAX_LIFECYCLE_DAYS
from async_inference.stack.settings import PROJECT, load
from async_inference.validation import InvalidInputError
from tests.support import ROOT
from tests.support.program import run

pytestmark = pytest.mark.audit

CASES = 500
EACH = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PRESETS = ["documented", "aws", "tuned", "announced"]
DAYS = st.integers(1, MAX_LIFECYCLE_DAYS)
HEX = "0123456789abcdef"


def identifiers(prefix: str, most: int) -> st.SearchStrategy[list[str]]:
    one = st.text(HEX, min_size=8, max_size=17).map(lambda digits: f"{prefix}-{digits}")
    return st.lists(one, min_size=1, max_size=most)


def keys(**values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Some of these keys."""
    return st.fixed_dictionaries({}, optional=values)


SECURITY = st.builds(
    lambda one, network: one | network,
    keys(
        encryption=st.sampled_from(["aws", "customer", "arn:aws:kms:us-east-1:123456789012:key/1"]),
        networkIsolation=st.booleans(),
    ),
    st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {"subnetIds": identifiers("subnet", 16), "securityGroupIds": identifiers("sg", 5)}
        ),
    ),
)
OBSERVABILITY = st.one_of(
    st.just({"enabled": False}),
    keys(
        starvedAfterMin=st.integers(5, 1440),
        idleAfterH=st.integers(1, 24),
        failures=st.integers(1, 1_000_000),
        usdPerInstanceHour=st.floats(0.01, 1000),
        monthlyBudgetUsd=st.floats(1, 1e9),
    ),
)
RETENTION = keys(
    inputDays=DAYS,
    outputDays=DAYS,
    failureDays=DAYS,
    oldVersionDays=DAYS,
    logDays=st.sampled_from(LOG_RETENTION_DAYS),
)


@st.composite
def updates(draw: st.DrawFn, fleet: int) -> dict[str, object]:
    """Guardrails that this many instances carry within the provider's hour."""
    possible = ["all_at_once", *(["canary", "linear", "rolling"] if fleet > 1 else [])]
    strategy = draw(st.sampled_from(possible))
    least = max(10, math.ceil(100 / fleet))
    percent = 50 if strategy == "all_at_once" else draw(st.integers(least, 50))
    steps = {"all_at_once": 1, "canary": 2}.get(strategy, math.ceil(100 / percent))
    left_s = 3600 - 340
    rollback = draw(st.booleans())
    wait_s = draw(st.integers(0, left_s // steps)) if rollback else 0
    rest_s = 0 if strategy == "rolling" else left_s - steps * wait_s
    return {
        "strategy": strategy,
        "stepPercent": percent,
        "waitS": wait_s,
        "terminationWaitS": draw(st.integers(0, rest_s)),
        "rollback": rollback,
    }


@st.composite
def configs(draw: st.DrawFn, preset: str) -> dict[str, object]:
    minimum = draw(st.integers(0, 12))
    return {
        "instanceType": f"ml.{draw(st.sampled_from(sorted(INSTANCE_FAMILIES)))}.2xlarge",
        "minCapacity": minimum,
        "maxCapacity": max(1, minimum + draw(st.integers(0, 20))),
        "scalingPreset": preset,
        "weights": draw(st.sampled_from(["tiny", "s3://weights/sdxl", "s3://weights/a.tar.gz"])),
        "maxConcurrentInvocationsPerInstance": draw(st.integers(1, 1000)),
        "invocationTimeoutS": draw(st.integers(1, 3600)),
        # From 610 s on a request outlives detection and a cold start, whatever the preset.
        "requestTtlS": draw(st.integers(610, 21_600)),
        "maxPayloadBytes": draw(st.integers(1, 2_000_000_000)),
        "modelDownloadTimeoutS": draw(st.integers(60, 3600)),
        "startupHealthCheckTimeoutS": draw(st.integers(60, 3600)),
        "forceDestroyBucket": draw(st.booleans()),
        "tags": draw(
            st.dictionaries(st.text("abc", min_size=1), st.text("abc", max_size=256), max_size=5)
        ),
        "security": draw(SECURITY),
        "retention": draw(RETENTION),
        "observability": draw(OBSERVABILITY),
        "updates": draw(updates(max(1, minimum))),
        **draw(keys(outputPath=st.just("s3://elsewhere/out"), setupS=st.integers(1, 340))),
    }


def as_pulumi_gives_it(config: dict[str, object]) -> dict[str, str]:
    return {"aws:region": "us-east-1"} | {
        f"{PROJECT}:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in config.items()
    }


@pytest.mark.parametrize("preset", PRESETS)
@settings(EACH, max_examples=math.ceil(CASES / len(PRESETS)))
@given(data=st.data())
def test_any_config_within_the_ranges_deploys(register, monkeypatch, preset, data):
    monkeypatch.chdir(ROOT)
    config = data.draw(configs(preset))

    record = register(run, config=as_pulumi_gives_it(config), stack="any")

    kinds = [entry.type.rpartition(":")[2] for entry in record.registrations]
    assert kinds.count("Endpoint") == kinds.count("Target") == 1
    assert ("async-inference:index:AsyncEndpoint", "sdxl") in record.outputs


BOUNDS = {
    "minCapacity": (0, None),
    "maxCapacity": (1, None),
    "setupS": (1, 3600),
    "maxConcurrentInvocationsPerInstance": (1, 1000),
    "invocationTimeoutS": (1, 3600),
    "requestTtlS": (60, 21_600),
    "maxPayloadBytes": (1, 2_000_000_000),
    "modelDownloadTimeoutS": (60, 3600),
    "startupHealthCheckTimeoutS": (60, 3600),
    "retention.inputDays": (1, MAX_LIFECYCLE_DAYS),
    "retention.outputDays": (1, MAX_LIFECYCLE_DAYS),
    "retention.failureDays": (1, MAX_LIFECYCLE_DAYS),
    "retention.oldVersionDays": (1, MAX_LIFECYCLE_DAYS),
    "observability.starvedAfterMin": (5, 1440),
    "observability.idleAfterH": (1, 24),
    "observability.failures": (1, 1_000_000),
    "observability.usdPerInstanceHour": (0.01, 1000),
    "observability.monthlyBudgetUsd": (1, 1e9),
    "updates.stepPercent": (5, 50),
    "updates.waitS": (0, 3600),
    "updates.terminationWaitS": (0, 3600),
}
"""The documented range of each number, ends included."""
WORDS = {
    "instanceType": r"[a-z0-9.]{1,20}",
    "scalingPreset": r"[a-z]{1,12}",
    "imageUri": r"[a-z/:]{1,30}",
    "weights": r"[a-z ]{1,20}",
    "outputPath": r"[a-z:/]{1,20}",
    "failurePath": r"[a-z:/]{1,20}",
    "security.encryption": r"[a-z:]{1,20}",
    "security.subnetIds": r"[a-z]{1,20}",
    "retention.logDays": r"[a-z]{1,9}",
    "updates.strategy": r"[a-z_]{1,12}",
    "security.networkIsolation": r"[a-z]{3,9}",
}
"""Keys that take certain words only, and a pattern of texts of which none is one but by chance."""
RIGHT = {
    "tiny",
    "aws",
    "customer",
    "tuned",
    "announced",
    "custom",
    "canary",
    "linear",
    "true",
    "false",
    "off",
    "yes",
}


def at(key: str, value: object) -> dict[str, object]:
    """A config in which one key, perhaps within a group, has a value."""
    outer, _, inner = key.partition(".")
    return {f"{PROJECT}:{outer}": {inner: value} if inner else value}


@st.composite
def wrong(draw: st.DrawFn) -> tuple[str, object]:
    key = draw(st.sampled_from(sorted(BOUNDS.keys() | WORDS.keys())))
    if key in WORDS:
        text = draw(st.from_regex(WORDS[key], fullmatch=True))
        assume(text not in RIGHT and text.strip())
        return key, text
    low, high = BOUNDS[key]
    below = st.floats(max_value=low, exclude_max=True, allow_infinity=False)
    whole = st.integers(max_value=math.ceil(low) - 1)
    choices: list[st.SearchStrategy[object]] = [
        below,
        whole,
        st.sampled_from([True, "many", "1.5x"]),
    ]
    if high is not None:
        choices.append(st.integers(min_value=math.floor(high) + 1))
    return key, draw(st.one_of(choices))


@EACH
@given(found=wrong())
def test_any_config_outside_is_refused_with_its_key_named(monkeypatch, found):
    monkeypatch.chdir(ROOT)
    key, value = found

    with pytest.raises(InvalidInputError) as raised:
        load({"aws:region": "us-east-1"} | at(key, value), stack="any")

    assert any(problem.startswith(f"{PROJECT}:{key}") for problem in raised.value.problems)
    assert len(raised.value.problems) == 1, "and nothing else"
