"""The type of a function that makes boto3's clients."""

from typing import TYPE_CHECKING, Literal, Protocol, overload

if TYPE_CHECKING:
    from types_boto3_application_autoscaling import ApplicationAutoScalingClient
    from types_boto3_budgets import BudgetsClient
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_ecr import ECRClient
    from types_boto3_iam import IAMClient
    from types_boto3_kms import KMSClient
    from types_boto3_logs import CloudWatchLogsClient
    from types_boto3_s3 import S3Client
    from types_boto3_sagemaker import SageMakerClient
    from types_boto3_sagemaker_runtime import SageMakerRuntimeClient
    from types_boto3_service_quotas import ServiceQuotasClient
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient
    from types_boto3_sts import STSClient


class Clients(Protocol):
    """Makes the client of a service, in one account and region."""

    @overload
    def __call__(self, service: Literal["sagemaker"], /) -> "SageMakerClient": ...
    @overload
    def __call__(
        self, service: Literal["application-autoscaling"], /
    ) -> "ApplicationAutoScalingClient": ...
    @overload
    def __call__(self, service: Literal["budgets"], /) -> "BudgetsClient": ...
    @overload
    def __call__(self, service: Literal["cloudwatch"], /) -> "CloudWatchClient": ...
    @overload
    def __call__(self, service: Literal["ecr"], /) -> "ECRClient": ...
    @overload
    def __call__(self, service: Literal["iam"], /) -> "IAMClient": ...
    @overload
    def __call__(self, service: Literal["kms"], /) -> "KMSClient": ...
    @overload
    def __call__(self, service: Literal["logs"], /) -> "CloudWatchLogsClient": ...
    @overload
    def __call__(self, service: Literal["s3"], /) -> "S3Client": ...
    @overload
    def __call__(self, service: Literal["sagemaker-runtime"], /) -> "SageMakerRuntimeClient": ...
    @overload
    def __call__(self, service: Literal["service-quotas"], /) -> "ServiceQuotasClient": ...
    @overload
    def __call__(self, service: Literal["sns"], /) -> "SNSClient": ...
    @overload
    def __call__(self, service: Literal["sqs"], /) -> "SQSClient": ...
    @overload
    def __call__(self, service: Literal["sts"], /) -> "STSClient": ...
