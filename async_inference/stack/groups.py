"""Groups of keys in a stack's config, which are the arguments of the components too.

Sources: botocore's service models (BC), SageMaker developer guide (DG).
"""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from async_inference.validation import StackValue

MAX_LIFECYCLE_DAYS = 3650
"""Ten years: S3 sets no limit, a longer one is a slip."""
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
"""Instance families with their own disks, which their hardware encrypts (EC2 user guide,
instance store volumes). With KmsKeyId CreateEndpointConfig fails for them, say older service
models; the newest says that the key does nothing there (BC 1.44, CreateEndpointConfig)."""

KMS_KEY = r"arn:aws[\w-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+"


def _whole(value: object) -> object:
    # pydantic reads true as 1; `minCapacity: true` is a slip, not a capacity.
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
    """aws for AWS's own keys, customer for a KMS key of the endpoint's own, or a KMS key's ARN"""
    other_key_arns: Annotated[
        tuple[Annotated[str, Field(pattern=rf"^{KMS_KEY}$")], ...], Field(max_length=10)
    ] = ()
    """KMS keys of weights and of output buckets that are elsewhere; the endpoint may use them"""
    network_isolation: bool = False
    """The container reaches no network; weights must be on S3"""
    subnet_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...],
        Field(max_length=16),
    ] = ()
    """Private subnets in which the model runs, at most 16; none is SageMaker's own network"""
    security_group_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")], ...], Field(max_length=5)
    ] = ()
    """Security groups of that VPC, at most 5"""

    @property
    def given_key_arn(self) -> str | None:
        """The key that was made elsewhere, None without one."""
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
    """After how many days what the endpoint keeps is deleted."""

    input_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 30
    """Requests in the stack's bucket"""
    output_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 90
    """Answers in the stack's bucket"""
    failure_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 90
    """Failures in the stack's bucket"""
    old_version_days: Annotated[Count, Field(ge=1, le=MAX_LIFECYCLE_DAYS)] = 7
    """Replaced and deleted objects, which can be brought back until then"""
    log_days: Count = 90
    """The container's log: one of CloudWatch Logs' steps, such as 7, 30, 90, 365"""

    @field_validator("log_days")
    @classmethod
    def _step(cls, value: int) -> int:
        if value not in LOG_RETENTION_DAYS:
            raise ValueError(f"must be one of {', '.join(map(str, LOG_RETENTION_DAYS))}")
        return value


class Setup(StackValue):
    """What passes from asking for an instance to its first request, in parts.

    The default parts add up to the medians of AWS's post on container image caching (June 2026):
    190 s with the image in the cache and 340 s without.
    """

    provision_s: Annotated[Seconds, Field(ge=0, le=3600)] = 94.0
    """Until the instance runs: what the published medians leave beside the other parts"""
    image_pull_s: Annotated[Seconds, Field(ge=0, le=3600)] = 150.0
    """Pulling the image where it is not cached: the difference of the published medians"""
    image_cached: bool = True
    """AWS caches an endpoint's image on GPU instances since June 2026; not for its first start"""
    download_gib: Annotated[Seconds, Field(ge=0, le=2000)] = 6.6
    """GiB of weights; SDXL's in half precision (7.1 GB), as they lie on the hub"""
    download_gib_per_s: Annotated[Seconds, Field(gt=0, le=100)] = 0.1
    """Rate of that download; AWS's example has 0.09 (15 GiB in 168 s)"""
    load_s: Annotated[Seconds, Field(ge=0, le=3600)] = 30.0
    """Imports and weights onto the GPU; an assumption of ours"""

    @property
    def first_s(self) -> float:
        """Of an endpoint's first start, whose image is in no cache."""
        download_s = self.download_gib / self.download_gib_per_s
        return self.provision_s + self.image_pull_s + download_s + self.load_s

    @property
    def usual_s(self) -> float:
        """Of every later start."""
        return self.first_s - (self.image_pull_s if self.image_cached else 0.0)


class Observability(StackValue):
    """Alarms, dashboard and budget."""

    enabled: bool = True
    """Topic, alarms and dashboard"""
    starved_after_min: Annotated[Count, Field(ge=5, le=1440)] = 30
    """Minutes of a backlog without any instance that alarm"""
    idle_after_h: Annotated[Count, Field(ge=1, le=24)] = 3
    """Hours with an empty queue and instances above the floor that alarm"""
    failures: Annotated[Count, Field(ge=1, le=1_000_000)] = 5
    """Failed requests within 15 minutes that alarm"""
    usd_per_instance_hour: Annotated[Dollars, Field(ge=0.01, le=1000)] | None = None
    """Price of an instance, for the dashboard's estimate; none draws none"""
    monthly_budget_usd: Annotated[Dollars, Field(ge=1, le=1e9)] | None = None
    """A budget that notifies at 80 % and when its forecast exceeds it; no budget if unset"""

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
    """Share of the fleet in a canary, linear step or rolling batch; the first two at least 10"""
    wait_s: Annotated[Count, Field(ge=0, le=3600)] = 0
    """Seconds that the rollback alarm watches the new fleet after each step"""
    termination_wait_s: Annotated[Count, Field(ge=0, le=3600)] = 0
    """Seconds that the old fleet stays after the last step"""
    rollback: bool = False
    """Roll back when the new fleet answers with errors; a change replaces the endpoint"""

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
        """How often `wait_s` passes."""
        match self.strategy:
            case "all_at_once":
                return 1
            case "canary":
                return 2
            case _:
                return math.ceil(100 / self.step_percent)


class Subscription(StackValue):
    """Who is told how requests end, and what alarms find."""

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
