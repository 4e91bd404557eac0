"""A stack's AWS sessions act where its provider acts, whatever the shell's credentials are.

That the provider itself reads these keys so, its documentation says.
"""

import json

import pytest
import yaml

from async_inference.cli.target import reached_by, target_of
from async_inference.stack import provider
from async_inference.validation import InvalidInputError
from tests.support import ROOT
from tests.support.accounts import REGION, ROLE, SHELLS, STACKS, Accounts, accounts

__all__ = ["accounts"]  # a fixture


def reached(**values: object) -> str:
    """The account that the session of a configuration reaches."""
    return provider.session(values, REGION).client("sts").get_caller_identity()["Account"]


def test_without_a_configuration_the_shells_credentials_count(accounts):
    assert reached() == SHELLS
    assert reached(profile="", region=REGION, defaultTags={"tags": {}}) == SHELLS


def test_what_the_configuration_names_comes_before_the_shells_variables(
    accounts: Accounts, monkeypatch
):
    assert reached(profile=accounts.profile) == STACKS
    assert reached(accessKey=accounts.access_key, secretKey=accounts.secret_key) == STACKS

    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    file = str(accounts.shared_credentials_file)
    assert reached(profile=accounts.profile, sharedCredentialsFiles=[file]) == STACKS


def test_roles_are_assumed_one_after_the_other(accounts: Accounts):
    """As text, Pulumi hands objects to a program."""
    roles = [
        {"roleArn": ROLE.format(SHELLS)},
        {"roleArn": ROLE.format("333333333333"), "sessionName": "up", "duration": "1h"},
    ]

    assert reached(assumeRoles=[{"roleArn": ROLE.format(STACKS)}]) == STACKS
    values = {"profile": accounts.profile, "assumeRoles": json.dumps(roles)}
    session = provider.session(values, REGION)
    assert session.client("sts").get_caller_identity()["Arn"] == (
        "arn:aws:sts::333333333333:assumed-role/deploy/up"
    )


def test_a_web_identity_is_exchanged_for_a_role(accounts: Accounts, tmp_path):
    token = tmp_path / "token"
    token.write_text("signed")
    role = {"roleArn": ROLE.format(STACKS), "webIdentityTokenFile": str(token)}

    assert reached(assumeRoleWithWebIdentity=role) == STACKS


def test_a_role_is_asked_for_with_all_that_the_configuration_says_of_it():
    role = provider.AssumeRole.model_validate(
        {
            "roleArn": ROLE.format(STACKS),
            "sessionName": "up",
            "duration": "1h30m",
            "externalId": "shared",
            "policy": "{}",
            "policyArns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
            "sourceIdentity": "ci",
            "tags": {"team": "images"},
            "transitiveTagKeys": ["team"],
        }
    )

    assert role.request() == {
        "RoleSessionName": "up",
        "DurationSeconds": 5400,
        "ExternalId": "shared",
        "Policy": "{}",
        "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
        "SourceIdentity": "ci",
        "Tags": [{"Key": "team", "Value": "images"}],
        "TransitiveTagKeys": ["team"],
    }


@pytest.mark.parametrize(
    ("service", "url"),
    [
        ("application-autoscaling", "http://scaling.test"),
        ("logs", "http://logs.test"),
        ("sagemaker", "http://sagemaker.test"),
        ("kms", "https://kms.us-east-1.amazonaws.com"),
    ],
)
def test_endpoints_are_those_of_the_configuration(accounts, service, url):
    endpoints = [
        {"appautoscaling": "http://scaling.test", "cloudwatchlogs": "http://logs.test"},
        {"sagemaker": "http://sagemaker.test"},
    ]
    session = provider.session({"endpoints": endpoints}, REGION)

    assert session.client(service).meta.endpoint_url == url
    given = session.client(service, endpoint_url="http://given.test")
    assert given.meta.endpoint_url == "http://given.test"


def test_the_way_to_aws_is_that_of_the_configuration(accounts, tmp_path):
    session = provider.session(
        {
            "httpProxy": "http://proxy.test:3128",
            "useFipsEndpoint": "true",
            "stsRegion": "eu-west-1",
            "customCaBundle": str(tmp_path / "ca.pem"),
        },
        REGION,
    )
    kms, sts = session.client("kms"), session.client("sts")

    assert kms.meta.config.proxies == dict.fromkeys(("http", "https"), "http://proxy.test:3128")
    assert kms.meta.endpoint_url == "https://kms-fips.us-east-1.amazonaws.com"
    assert sts.meta.region_name == "eu-west-1"


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({"profile": "nobody"}, ["aws:profile = 'nobody': The config profile (nobody) could"]),
        (
            {
                "assumeRoles": [{"sessionName": "up", "duration": "long"}],
                "sharedConfigFiles": ["a", "b"],
            },
            [
                "aws:sharedConfigFiles = ['a', 'b']: ",
                "aws:assumeRoles[0].roleArn: is required; add it",
                "aws:assumeRoles[0].duration = 'long': must be a duration such as 1h or 15m",
            ],
        ),
        ({"accessKey": "key"}, ["aws:accessKey and aws:secretKey: are needed together"]),
    ],
)
def test_what_cannot_be_obeyed_is_told_all_at_once(accounts, values, problems):
    with pytest.raises(InvalidInputError) as raised:
        provider.session(values, REGION)

    told = raised.value.problems
    assert [text[: len(start)] for text, start in zip(told, problems, strict=True)] == problems


@pytest.fixture
def stack(accounts: Accounts, tmp_path, monkeypatch) -> str:
    """A stack whose config names the profile of another account than the shell's."""
    config = {"aws:region": REGION, "aws:profile": accounts.profile}
    own = {"async-inference:handler": str(ROOT / "inference_code")}
    (tmp_path / "Pulumi.theirs.yaml").write_text(yaml.safe_dump({"config": config | own}))
    monkeypatch.chdir(tmp_path)
    return "theirs"


def test_commands_act_in_the_stacks_account(stack):
    reached = reached_by(stack, REGION)
    sends_to = target_of(None, stack)
    goes_on = target_of("async-sdxl-theirs", stack, begun_at=REGION)

    for session in (reached.session, sends_to.session, goes_on.session):
        assert session.client("sts").get_caller_identity()["Account"] == STACKS


def test_an_endpoint_that_is_named_alone_is_the_shells(stack, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)

    session = target_of("async-sdxl-theirs", None).session

    assert session.client("sts").get_caller_identity()["Account"] == SHELLS
