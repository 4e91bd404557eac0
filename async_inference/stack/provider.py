"""AWS sessions that act where a stack's AWS provider acts: by its configuration, `aws:profile` and
the like.

The only place that creates a stack's sessions. pulumi-aws defines what a key means, and that the
configuration overrides the shell's variables (its provider configuration page). Keys that neither
name an account nor say how to reach it, such as `defaultTags`, concern the provider alone. boto3
has no options like `noProxy` and `ec2MetadataServiceEndpoint`, so these are ignored; their
environment variables apply to both.
"""

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import boto3
import botocore.session
import yaml
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    AssumeRoleWithWebIdentityCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import ProfileNotFound
from pydantic import BeforeValidator, Field, ValidationError

from async_inference.stack.settings import provider_values
from async_inference.validation import InvalidInputError, StackValue, problems_of

ENDPOINT_KEYS = {
    "application-autoscaling": ("appautoscaling", "applicationautoscaling"),
    "logs": ("logs", "cloudwatchlogs", "cloudwatchlog"),
    "s3": ("s3", "s3api"),
    "service-quotas": ("servicequotas",),
}
"""Services with other names in `aws:endpoints` than in boto3."""


def _decoded(value: object) -> object:
    # Pulumi hands object values to a program as JSON text.
    return json.loads(value) if isinstance(value, str) else value


def _duration_s(value: object) -> object:
    """Seconds of a duration as Go writes it, such as 1h30m."""
    if not isinstance(value, str):
        return value
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value)
    if parts is None or not value:
        raise ValueError("must be a duration such as 1h or 15m")
    hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds


class _Role(StackValue, extra="ignore"):
    role_arn: str
    session_name: str | None = None
    duration: Annotated[int | None, BeforeValidator(_duration_s)] = None
    policy: str | None = None
    policy_arns: tuple[str, ...] = ()

    def request(self) -> dict[str, Any]:
        """Parameters of the STS request, beside the role's ARN and the caller's identity."""
        asked = {
            "RoleSessionName": self.session_name,
            "DurationSeconds": self.duration,
            "Policy": self.policy,
            "PolicyArns": [{"arn": arn} for arn in self.policy_arns],
        }
        return {key: value for key, value in asked.items() if value}


class AssumeRole(_Role):
    external_id: str | None = None
    source_identity: str | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)
    transitive_tag_keys: tuple[str, ...] = ()

    def request(self) -> dict[str, Any]:
        asked = {
            "ExternalId": self.external_id,
            "SourceIdentity": self.source_identity,
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags.items()],
            "TransitiveTagKeys": list(self.transitive_tag_keys),
        }
        return super().request() | {key: value for key, value in asked.items() if value}


class AssumeRoleWithWebIdentity(_Role):
    web_identity_token: str | None = None
    web_identity_token_file: str | None = None

    def token(self) -> str:
        if self.web_identity_token is not None:
            return self.web_identity_token
        return Path(self.web_identity_token_file or "").read_text(encoding="utf-8")


_OneFile = Annotated[
    tuple[str, ...],
    BeforeValidator(_decoded),
    # The provider reads several; boto3 one.
    Field(max_length=1),
]


class ProviderConfig(StackValue, extra="ignore"):
    """The part of the provider's configuration that says which account is reached, and how."""

    access_key: str | None = None
    secret_key: str | None = None
    token: str | None = None
    profile: str | None = None
    shared_config_files: _OneFile = ()
    shared_credentials_files: _OneFile = ()
    assume_roles: Annotated[tuple[AssumeRole, ...], BeforeValidator(_decoded)] = ()
    assume_role_with_web_identity: Annotated[
        AssumeRoleWithWebIdentity | None, BeforeValidator(_decoded)
    ] = None
    sts_region: str | None = None
    endpoints: Annotated[tuple[Mapping[str, str], ...], BeforeValidator(_decoded)] = ()
    use_fips_endpoint: bool | None = None
    use_dualstack_endpoint: bool | None = None
    http_proxy: str | None = None
    https_proxy: str | None = None
    custom_ca_bundle: str | None = None
    insecure: bool = False

    def endpoint(self, service: str) -> str | None:
        """The configured URL of a service, by boto3's name."""
        names = ENDPOINT_KEYS.get(service, (service.replace("-", ""),))
        given = (each.get(name) for each in self.endpoints for name in names)
        return next(filter(None, given), None)


class Session(boto3.Session):
    """A session whose clients take the provider's endpoints and certificates too.

    Args:
        config: the provider's configuration.
        core: has the credentials.
        region: of its clients.
    """

    def __init__(self, config: ProviderConfig, core: botocore.session.Session, region: str) -> None:
        self._config = config
        super().__init__(botocore_session=core, region_name=region)

    def client(self, service_name: str, **options: Any) -> Any:  # ty: ignore[incompatible-method-override]
        """A client of one service; options override the configuration."""
        given = {key: value for key, value in options.items() if value is not None}
        configured = _connection(self._config, service_name, self.region_name)
        return super().client(service_name, **configured | given)  # ty: ignore[no-matching-overload]


def session(values: Mapping[str, object], region: str) -> Session:
    """The session of a provider.

    Args:
        values: its configuration, by the keys of stack config without `aws:`; as text, or as parsed
            from YAML or JSON. Keys that are not `ProviderConfig`'s are ignored.
        region: of the session's clients.

    Raises:
        InvalidInputError: a value cannot be used, or there is no such profile.
    """
    try:
        config = ProviderConfig.model_validate(
            {key: value for key, value in values.items() if value not in (None, "")}
        )
        core = _core(config)
    except ValidationError as error:
        raise InvalidInputError(f"aws:{problem}" for problem in problems_of(error)) from error
    except ProfileNotFound as error:
        raise InvalidInputError([f"aws:profile = {config.profile!r}: {error}"]) from error
    if (config.access_key is None) != (config.secret_key is None):
        raise InvalidInputError(
            ["aws:accessKey and aws:secretKey: are needed together; set both or neither"]
        )
    if config.access_key is not None and config.secret_key is not None:
        core.set_credentials(config.access_key, config.secret_key, config.token)
    sts = _connection(config, "sts", region)
    identity = config.assume_role_with_web_identity
    if identity is not None:
        core = _assumed(
            config,
            AssumeRoleWithWebIdentityCredentialFetcher(
                partial(core.create_client, **sts),
                identity.token,
                identity.role_arn,
                extra_args=identity.request(),
            ),
        )
    for role in config.assume_roles:
        source = core.get_credentials()
        if source is None:
            raise InvalidInputError(
                [f"aws:assumeRoles: no credentials to assume {role.role_arn} with were found"]
            )
        core = _assumed(
            config,
            AssumeRoleCredentialFetcher(
                partial(core.create_client, **sts),
                source,
                role.role_arn,
                extra_args=role.request(),
            ),
        )
    return Session(config, core, region)


def _connection(config: ProviderConfig, service: str, region: str) -> dict[str, Any]:
    """The options of a client that say how its service is reached."""
    return {
        "region_name": (config.sts_region if service == "sts" else None) or region,
        "endpoint_url": config.endpoint(service),
        "verify": False if config.insecure else None,
    }


def _core(config: ProviderConfig) -> botocore.session.Session:
    core = botocore.session.Session(profile=config.profile)
    for variable, files in (
        ("config_file", config.shared_config_files),
        ("credentials_file", config.shared_credentials_files),
    ):
        for file in files:
            core.set_config_variable(variable, file)
    if config.custom_ca_bundle is not None:
        core.set_config_variable("ca_bundle", config.custom_ca_bundle)
    proxies = {"http": config.http_proxy, "https": config.https_proxy or config.http_proxy}
    core.set_default_client_config(
        Config(
            proxies={kind: url for kind, url in proxies.items() if url} or None,
            use_fips_endpoint=config.use_fips_endpoint,
            use_dualstack_endpoint=config.use_dualstack_endpoint,
        )
    )
    core.get_scoped_config()  # raises where the profile does not exist
    return core


class _Fetched(CredentialProvider):
    """Credentials that are fetched when they are needed, and again before they expire."""

    METHOD = "assume-role"

    def __init__(self, fetch: Callable[[], object]) -> None:
        super().__init__()
        self._fetch = fetch

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(self._fetch, self.METHOD)


def _assumed(config: ProviderConfig, fetcher: Any) -> botocore.session.Session:
    core = _core(config)
    core.register_component(
        "credential_provider", CredentialResolver([_Fetched(fetcher.fetch_credentials)])
    )
    return core


def of_stack(file: Path, environment: Mapping[str, str] | None = None) -> dict[str, object]:
    """The provider's configuration of a stack.

    Args:
        file: its `Pulumi.<stack>.yaml`. The Pulumi CLI is asked for secrets, and for values from an
            environment that it imports.
        environment: the CLI's variables; this process's if None.

    Raises:
        InvalidInputError: the CLI is needed and is missing, or does not know the stack or its
            secrets.
    """
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    config = provider_values(document["config"])
    if not _secret(config) and "environment" not in document:
        return config
    stack = file.name.removeprefix("Pulumi.").removesuffix(file.suffix)
    shown = pulumi_says(
        "config",
        "--show-secrets",
        "--json",
        "--stack",
        stack,
        "--cwd",
        str(file.parent),
        environment=environment,
    )
    return provider_values(
        {key: each.get("objectValue", each.get("value")) for key, each in json.loads(shown).items()}
    )


def _secret(value: object) -> bool:
    """Whether a value of a stack file is encrypted, or holds one that is."""
    if isinstance(value, dict):
        return "secure" in value or any(map(_secret, value.values()))
    return isinstance(value, list) and any(map(_secret, value))


def pulumi_says(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """The output of the Pulumi CLI.

    Args:
        arguments: of the CLI.
        environment: its variables; this process's if None.

    Raises:
        InvalidInputError: it is missing, or refuses.
    """
    try:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise InvalidInputError(
            [
                "pulumi: is not on PATH; install the Pulumi CLI, or make install and "
                "export PATH=.local/bin:$PATH"
            ]
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split()).removeprefix("error: ")
        raise InvalidInputError([f"pulumi {' '.join(arguments)}: {said}"])
    return done.stdout
