"""Hooks look at AWS where their provider acts, or nowhere."""

import asyncio
import os
from collections.abc import Callable

import pulumi
import pytest

from components.provider_account import ProviderAccount, WrongAccountError, refuse_elsewhere
from tests.support.accounts import REGION, SHELLS, STACKS, Accounts, accounts
from tests.support.registrations import ACCOUNT_ID

__all__ = ["accounts"]  # a fixture


def test_the_same_account_and_region_are_looked_at():
    refuse_elsewhere((STACKS, REGION), (STACKS, REGION))


@pytest.mark.parametrize(
    ("acts_in", "told"),
    [
        ((SHELLS, REGION), f"acts in account {SHELLS} in us-east-1"),
        ((STACKS, "eu-west-1"), f"acts in account {STACKS} in eu-west-1"),
        ((None, None), "acts in account unknown in unknown"),
    ],
    ids=["another account", "another region", "not told"],
)
def test_elsewhere_nothing_is_looked_at_and_the_way_out_said(acts_in, told):
    with pytest.raises(WrongAccountError, match=told) as raised:
        refuse_elsewhere(acts_in, (STACKS, REGION))

    assert f"this hook reached account {STACKS} in us-east-1. Nothing was" in str(raised.value)
    assert "provider_config" in str(raised.value)


@pytest.fixture
def reached(register) -> Callable[..., str]:
    """The account that a hook looks at while its provider acts in the shell's account."""

    def reached(stack: dict[str, str], explicit: dict[str, str] | None = None) -> str:
        made: list[ProviderAccount] = []
        opts = pulumi.InvokeOutputOptions()
        register(lambda: made.append(ProviderAccount(REGION, explicit, opts)), config=stack)
        sts = asyncio.run(made[0].client("sts"))
        return sts.get_caller_identity()["Account"]

    return reached


@pytest.fixture
def others_shell(accounts: Accounts, monkeypatch) -> Accounts:
    """A shell with the credentials of another account; `profile` is the provider's."""
    assert ACCOUNT_ID == SHELLS, "where the mocks' provider acts"
    own = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    accounts.shared_credentials_file.write_text(
        f"[stacks]\naws_access_key_id = {own['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {own['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", accounts.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", accounts.secret_key)
    return accounts


def test_a_hook_acts_in_the_stacks_account_whatever_the_shells_is(reached, others_shell):
    assert reached({"aws:profile": others_shell.profile}) == ACCOUNT_ID


def test_a_hook_acts_where_the_configuration_of_an_explicit_provider_says(reached, others_shell):
    assert reached({}, {"profile": others_shell.profile}) == ACCOUNT_ID
    with pytest.raises(WrongAccountError):
        reached({"aws:profile": others_shell.profile}, {})


def test_a_hook_refuses_the_shells_account_where_it_is_not_the_providers(reached, others_shell):
    told = f"acts in account {ACCOUNT_ID} in us-east-1, and this hook reached account {STACKS}"
    with pytest.raises(WrongAccountError, match=told):
        reached({})


def test_a_hook_refuses_where_no_account_can_be_reached(reached, accounts, monkeypatch):
    with pytest.raises(WrongAccountError, match="reached none: aws:profile = 'nobody'"):
        reached({"aws:profile": "nobody"})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(WrongAccountError, match="reached none: Unable to locate credentials"):
        reached({})
