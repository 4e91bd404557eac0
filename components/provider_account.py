"""AWS clients for hooks, in the account and region of the component's provider only.

With the shell's credentials, a hook could look for the endpoint in another account, find none, and
let the live configuration of this one be deleted.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, overload

import pulumi
import pulumi_aws as aws

from async_inference.stack.settings import provider_values, pulumi_values
from async_inference.validation import InvalidInputError

if TYPE_CHECKING:
    import boto3
    from types_boto3_application_autoscaling import ApplicationAutoScalingClient
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_kms import KMSClient
    from types_boto3_logs import CloudWatchLogsClient
    from types_boto3_s3 import S3Client
    from types_boto3_sagemaker import SageMakerClient
    from types_boto3_sts import STSClient


REMEDY = (
    "Nothing was looked at and nothing deleted. A component with an explicit provider needs that "
    "provider's configuration as provider_config (profile, assumeRoles, ...); otherwise the "
    "stack's aws: config and this shell must lead to the account that the provider acts in"
)


class WrongAccountError(Exception):
    """A hook would reach another account or region than its provider, or cannot tell."""


def refuse_elsewhere(acts_in: tuple[str | None, str | None], reached: tuple[str, str]) -> None:
    """Refuse to act in another account or region than the provider.

    Args:
        acts_in: the provider's account and region, None for what is unknown.
        reached: the account and region that a hook reached.

    Raises:
        WrongAccountError: they differ.
    """
    if acts_in != reached:
        provider, hook = (
            " in ".join(str(each or "unknown") for each in at) for at in (acts_in, reached)
        )
        raise WrongAccountError(
            f"the provider acts in account {provider}, and this hook reached account {hook}. "
            f"{REMEDY}."
        )


class ProviderAccount:
    """The account and region in which the provider of a component acts.

    Args:
        region: where the component's resources are; None is the provider's.
        config: the configuration of an explicit provider, by the keys of `aws:` config without
            that prefix; None is the stack's.
        opts: determine which provider is asked.
    """

    id: pulumi.Output[str]
    partition: pulumi.Output[str]

    def __init__(
        self,
        region: str | None,
        config: Mapping[str, object] | None,
        opts: pulumi.InvokeOutputOptions,
    ) -> None:
        self._region = region
        self._config = provider_values(pulumi_values()) if config is None else config
        self._session: boto3.Session | None = None
        self.id = aws.get_caller_identity_output(opts=opts).account_id
        self.partition = aws.get_partition_output(opts=opts).partition
        self._provider_region = aws.get_region_output(opts=opts).region

    @overload
    async def client(
        self, service: Literal["application-autoscaling"]
    ) -> "ApplicationAutoScalingClient": ...
    @overload
    async def client(self, service: Literal["cloudwatch"]) -> "CloudWatchClient": ...
    @overload
    async def client(self, service: Literal["kms"]) -> "KMSClient": ...
    @overload
    async def client(self, service: Literal["logs"]) -> "CloudWatchLogsClient": ...
    @overload
    async def client(self, service: Literal["s3"]) -> "S3Client": ...
    @overload
    async def client(self, service: Literal["sagemaker"]) -> "SageMakerClient": ...
    @overload
    async def client(self, service: Literal["sts"]) -> "STSClient": ...

    async def client(self, service: str) -> object:
        """A boto3 client of one service, for a hook.

        Raises:
            WrongAccountError: the configuration leads to another account than the provider's, or
                to none.
        """
        if self._session is None:
            acts_in = (await self.id.future(), await self._provider_region.future())
            # Only a deployment needs boto3, and a preview should not wait for it.
            from botocore.exceptions import BotoCoreError, ClientError

            from async_inference.stack import provider

            try:
                region = self._region or acts_in[1] or ""
                found = provider.session(self._config, region)
                account = found.client("sts").get_caller_identity()["Account"]
            except (BotoCoreError, ClientError, InvalidInputError) as error:
                raise WrongAccountError(
                    f"the provider acts in account {acts_in[0]}, and this hook reached none: "
                    f"{error}. {REMEDY}."
                ) from error
            refuse_elsewhere(acts_in, (account, region))
            self._session = found
        return self._session.client(service)  # ty: ignore[no-matching-overload] any of them
