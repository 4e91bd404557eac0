"""A trial starts nothing, tells nobody, and says of each part whether AWS takes it.

That it deploys and goes, tests/engine shows.
"""

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from async_inference.cli import app
from async_inference.operations import probe
from async_inference.operations.probe import Trial
from async_inference.validation import InvalidInputError
from tests.support import ROOT
from tests.support.settings import stack

PROD = (ROOT / "Pulumi.prod.yaml").read_text()
TRIAL = Trial("prod-probe", "ml.p5.48xlarge", "")
SAID = """Updating (prod-probe):
Diagnostics:
  aws:sagemaker:Endpoint (sdxl-endpoint):
    error: creating SageMaker Endpoint: ResourceLimitExceeded: The account-level service limit
  aws:sagemaker:Model (sdxl-model):
    error: creating SageMaker Model: ValidationException: no such thing
  pulumi:pulumi:Stack (async-inference-prod-probe):
    error: update failed
"""


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ({"ml.g5.2xlarge": 0, "ml.g5.xlarge": 0, "ml.m5.large": 0}, "ml.g5.2xlarge"),
        ({"ml.g5.2xlarge": 4, "ml.g5.xlarge": 0, "ml.m5.large": 0}, "ml.g5.xlarge"),
        ({"ml.g5.2xlarge": 4, "ml.m5.large": 0, "ml.p5.48xlarge": 0}, "ml.p5.48xlarge"),
        ({"ml.g5.2xlarge": 4, "ml.t2.medium": 0}, None),
    ],
    ids=["its own", "of its family", "with local storage too", "none that scales"],
)
def test_the_trial_has_the_instance_type_without_quota_that_is_most_like_the_stacks(known, chosen):
    assert probe.without_quota(stack(instanceType="ml.g5.2xlarge"), known) == chosen


def test_an_accounts_own_quota_counts_before_the_default():
    class Quotas:
        def of(self, service: str, /) -> Any:
            return self

        def get_paginator(self, operation: str) -> Any:
            self.value = 4.0 if operation == "list_service_quotas" else 0.0
            return self

        def paginate(self, ServiceCode: str) -> list[dict[str, object]]:  # noqa: N803
            names = ["ml.g5.2xlarge for endpoint usage", "ml.g5.2xlarge for training job usage"]
            return [{"Quotas": [{"QuotaName": name, "Value": self.value} for name in names]}]

    assert probe.quotas(Quotas().of) == {"ml.g5.2xlarge": 4.0}


def test_a_trial_is_the_stack_with_a_bucket_that_goes_and_nobody_told():
    text = PROD + "  async-inference:subscriptions: [{topic: operations}]\nencryptionsalt: v1\n"

    wanted = probe.trial(text, "prod", "ml.p5.48xlarge")

    document = yaml.safe_load(wanted.file)
    before = yaml.safe_load(PROD)["config"]
    assert wanted.name == "prod-probe"
    assert document == {
        "config": before
        | {
            "async-inference:instanceType": "ml.p5.48xlarge",
            "async-inference:forceDestroyBucket": True,
        }
    }
    assert probe.trial(PROD, "s" * 52, "ml.p5.48xlarge").name == "s" * 46 + "-probe"


def test_a_stack_with_secrets_is_not_copied():
    with pytest.raises(InvalidInputError, match="async-inference:weights: is a secret"):
        probe.trial("config:\n  async-inference:weights:\n    secure: v1", "dev", "ml.p5.48xlarge")


def test_what_aws_took_and_what_it_refused_is_told_one_by_one():
    resources: Any = [
        {"type": "aws:s3/bucket:Bucket", "id": "b"},
        {"type": "aws:sns/topic:Topic", "id": "t1"},
        {"type": "aws:sns/topic:Topic", "id": "t2"},
        {"type": "async-inference:index:AsyncEndpoint"},
    ]

    found = list(probe.checks(TRIAL, SAID, {"deployment": {"resources": resources}}))

    assert [(check.what, check.found, check.verdict) for check in found] == [
        ("Bucket", "1 created", "ok"),
        ("Topic", "2 created", "ok"),
        (
            "sdxl-model",
            "creating SageMaker Model: ValidationException: no such thing",
            "differs",
        ),
        ("Endpoint", "ResourceLimitExceeded", "ok"),
        ("scaling", "needs an endpoint", "not checked"),
    ]


@pytest.mark.parametrize(
    ("said", "kinds", "found"),
    [
        (SAID.replace("ResourceLimitExceeded", "ValidationException"), [], "ValidationException"),
        ("", ["aws:sagemaker/endpoint:Endpoint"], "created"),
        ("", [], "it did not come to that"),
    ],
)
def test_an_endpoint_that_was_not_refused_for_its_quota_is_a_difference(said, kinds, found):
    state: Any = {"deployment": {"resources": [{"type": kind, "id": "x"} for kind in kinds]}}

    (check,) = [each for each in probe.checks(TRIAL, said, state) if each.what == "Endpoint"]

    assert (check.verdict, found in check.found) == ("differs", True)


def test_nothing_is_deployed_unless_somebody_agrees(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("async_inference.operations.preflight.preflight", lambda *_: [])
    monkeypatch.setattr(probe, "quotas", lambda client: {"ml.p5.48xlarge": 0.0})
    deployed = []
    monkeypatch.setattr(probe, "probe", lambda *given: deployed.append(given) or [])
    command = ["preflight", "--stack", "prod", "--probe"]

    asked = CliRunner().invoke(app, command, input="n\n")
    assert "no instance starts" in " ".join(asked.output.split())
    assert (asked.exit_code, deployed) == (1, [])

    assert CliRunner().invoke(app, [*command, "--yes"]).exit_code == 0
    assert [each[0].name for each in deployed] == ["prod-probe"]
