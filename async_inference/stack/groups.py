"""The arguments that are objects: groups of keys in a stack's config.

Sources: botocore's service models (BC), SageMaker developer guide (DG).
"""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from async_inference.validation import StackValue

MAX_LIFECYCLE_DAYS = 3650
"""Ten years. S3 sets no limit; more is probably a typing error."""
LOG_RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557),
    *(2922, 3288, 3653),
)
"""What PutRetentionPolicy takes (BC logs RetentionInDays)."""

LOCAL_STORAGE = frozenset(
    {
        *(
            "c5d",
            "c6gd",
            "dl1",
            "g4dn",
            "g5",
            "g6",
            "g6e",
            "g7",
            "g7e",
            "m5d",
            "m6gd",
            "p4d",
            "p4de",
        ),
        *("p5", "p5e", "p5en", "p6-b200", "p6-b300", "p6e-gb200", "r5d", "r6gd", "r7gd", "trn1"),
        *("trn1n", "trn2"),
    }
)
"""Instance families with local disks, which the hardware encrypts (EC2 user guide, instance store
volumes). According to older service models, CreateEndpointConfig fails for them with a KmsKeyId;
according to the newest, it ignores the key (BC 1.44, CreateEndpointConfig)."""

KMS_KEY = r"arn:aws[\w-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+"


def _whole(value: object) -> object:
    # pydantic reads true as 1; `minCapacity: true` is a mistake.
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Count = Annotated[int, BeforeValidator(_whole)]
Dollars = Annotated[float, BeforeValidator(_number)]
Seconds = Annotated[float, BeforeValidator(_number)]


class Security(StackValue):
    """Keys and network of the endpoint."""

    encryption: str = "aws"
    """aws for AWS's keys, customer for a new KMS key, or the ARN of an existing KMS key"""
    other_key_arns: Annotated[
        tuple[Annotated[str, Field(pattern=rf"^{KMS_KEY}$")], ...], Field(max_length=10)
    ] = ()
    """KMS keys of weights and output buckets elsewhere, which the endpoint may use"""
    network_isolation: bool = False
    """Cut the container off from every network; weights must be on S3"""
    subnet_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...],
        Field(max_length=16),
    ] = ()
    """Private subnets in which the model runs, at most 16; by default, SageMaker's network"""
    security_group_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")], ...], Field(max_length=5)
    ] = ()
    """Security groups of that VPC, at most 5"""

    @property
    def given_key_arn(self) -> str | None:
        """The ARN of an existing key, None without one."""
        return None if self.encryption in ("aws", "customer") else self.encryption

    @field_validator("encryption")
    @classmethod
    def _key(cls, value: str) -> str:
        if value in ("aws", "customer") or re.fullmatch(KMS_KEY, value):
            return value
        raise ValueError("must be aws, customer or the ARN of a KMS key")

    @model_validator(mode="after")
    def _whole_network(self) -> Self:
        # BC VpcConfig requires both.
        if bool(self.subnet_ids) != bool(self.security_group_ids):
            raise ValueError("a VPC needs both subnetIds and securityGroupIds; set both or none")
        return self


class Retention(StackValue):
    """Days until deletion, for everything that an endpoint stores."""

    input_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 30
    """Inputs in the endpoint's bucket"""
    output_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 90
    """Outputs in the endpoint's bucket"""
    failure_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 90
    """Failures in the endpoint's bucket"""
    old_version_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 7
    """Replaced and deleted objects, which can be restored until then"""
    log_days: Count = 90
    """The container's log: a retention that CloudWatch Logs takes, such as 7, 30, 90 or 365"""

    @field_validator("log_days")
    @classmethod
    def _step(cls, value: int) -> int:
        if value not in LOG_RETENTION_DAYS:
            raise ValueError(f"must be one of {', '.join(map(str, LOG_RETENTION_DAYS))}")
        return value


class Setup(StackValue):
    """The time from requesting an instance to its first request, in parts.

    The default parts add up to the medians of AWS's post on container image caching (June 2026):
    190 s with the image in the cache and 340 s without.
    """

    provision_s: Annotated[Seconds, Field(ge=0, le=3600)] = 94.0
    """Seconds until the instance runs: the published medians less the other parts"""
    image_pull_s: Annotated[Seconds, Field(ge=0, le=3600)] = 150.0
    """Seconds to pull an image that is not cached: the difference of the published medians"""
    image_cached: bool = True
    """Since June 2026 AWS caches an endpoint's image on GPU instances, after its first start"""
    download_gib: Annotated[Seconds, Field(ge=0, le=2000)] = 6.6
    """GiB of weights to download; SDXL in half precision has 7.1 GB on the hub"""
    download_gib_per_s: Annotated[Seconds, Field(gt=0, le=100)] = 0.1
    """Rate of the download; AWS's example has 0.09 (15 GiB in 168 s)"""
    load_s: Annotated[Seconds, Field(ge=0, le=3600)] = 30.0
    """Seconds to import packages and load weights onto the GPU; our assumption"""

    @property
    def first_s(self) -> float:
        """Seconds of an endpoint's first start, when its image is in no cache."""
        download_s = self.download_gib / self.download_gib_per_s
        return self.provision_s + self.image_pull_s + download_s + self.load_s

    @property
    def usual_s(self) -> float:
        """Seconds of every later start."""
        return self.first_s - (self.image_pull_s if self.image_cached else 0.0)


class Observability(StackValue):
    """Alarms, dashboard and budget."""

    enabled: bool = True
    """Topic, alarms and dashboard"""
    starved_after_min: Annotated[Count, Field(ge=5, le=1440)] = 30
    """Minutes of a backlog without an instance, after which an alarm fires"""
    idle_after_h: Annotated[Count, Field(ge=1, le=24)] = 3
    """Hours of an empty queue and more instances than the minimum, after which an alarm fires"""
    failures: Annotated[Count, Field(ge=1, le=1_000_000)] = 5
    """Failed requests within 15 minutes at which an alarm fires"""
    usd_per_instance_hour: Annotated[Dollars, Field(ge=0.01, le=1000)] | None = None
    """Price of an instance hour, for a cost estimate on the dashboard; without it, none"""
    monthly_budget_usd: Annotated[Dollars, Field(ge=1, le=1e9)] | None = None
    """Budget that notifies at 80 % and when the forecast exceeds it; without it, none"""

    @model_validator(mode="after")
    def _budget_has_a_topic(self) -> Self:
        if self.monthly_budget_usd is not None and not self.enabled:
            raise ValueError("monthlyBudgetUsd needs enabled: its alerts go to the same topic")
        return self


class Updates(StackValue):
    """How an update shifts traffic to the new fleet, and what rolls it back."""

    strategy: Literal["all_at_once", "canary", "linear", "rolling"] = "all_at_once"
    """all_at_once, canary (a part first), linear (equal parts) or rolling (no second fleet)"""
    step_percent: Annotated[Count, Field(ge=5, le=50)] = 50
    """Percentage of the fleet in a canary or linear step, 10..50, or a rolling batch, 5..50"""
    wait_s: Annotated[Count, Field(ge=0, le=3600)] = 0
    """Seconds that the rollback alarm watches the new fleet after each step"""
    termination_wait_s: Annotated[Count, Field(ge=0, le=3600)] = 0
    """Seconds that the old fleet is kept after the last step"""
    rollback: bool = False
    """Roll back when the new fleet returns errors; changing this key replaces the endpoint"""

    @model_validator(mode="after")
    def _fits_strategy(self) -> Self:
        # DG deployment-guardrails: canary <= 50 %, linear 10-50 %, rolling 5-50 %; without an
        # alarm no baking period ends in a rollback.
        if self.strategy == "linear" and self.step_percent < 10:
            raise ValueError(f"stepPercent {self.step_percent}: linear steps are 10-50 %")
        if self.strategy == "rolling" and self.termination_wait_s:
            raise ValueError("terminationWaitS: a rolling update has no old fleet to keep")
        if self.wait_s and not self.rollback:
            raise ValueError("waitS: waiting is of no use unless rollback is true")
        return self

    @property
    def steps(self) -> int:
        """How many steps an update has, each followed by `wait_s`."""
        match self.strategy:
            case "all_at_once":
                return 1
            case "canary":
                return 2
            case _:
                return math.ceil(100 / self.step_percent)


class Subscription(StackValue):
    """A subscriber to how requests end, or to alarms."""

    topic: Literal["success", "error", "operations"]
    """Requests that succeeded, requests that failed, or alarms"""
    protocol: Literal["email", "sqs", "https"]
    """How messages are delivered"""
    address: str
    """E-mail address, ARN of the queue, or URL"""

    @model_validator(mode="after")
    def _address_fits(self) -> Self:
        pattern, example = _ADDRESSES[self.protocol]
        if not re.fullmatch(pattern, self.address):
            raise ValueError(f"{self.protocol} needs an address like {example}")
        return self


_ADDRESSES = {
    "email": (r"[^@\s]+@[^@\s]+\.[^@\s]+", "team@example.com"),
    "sqs": (
        r"arn:aws[\w-]*:sqs:[a-z0-9-]+:\d{12}:\S+",
        "arn:aws:sqs:us-east-1:123456789012:results",
    ),
    "https": (r"https://\S+", "https://example.com/hook"),
}
