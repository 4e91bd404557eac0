"""The scaling of one endpoint variant as one value, and its presets.

A `ScalingPlan` is read from the stack's config. `QueueScaling` renders it into AWS resources, the
rehearsal simulates it, and the local AWS reads the deployed resources back into one and runs that.

Sources: Application Auto Scaling (AAS) and CloudWatch (CW) API references, SageMaker developer
guide (DG).
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

MAX_STEP_ADJUSTMENTS = 20
"""Step adjustments in one policy (AAS quotas)."""


class Metric(StrEnum):
    """What SageMaker publishes for an asynchronous endpoint under the one dimension EndpointName.

    InvocationsPerInstance and the predefined SageMaker metric are missing on purpose: they are
    never published for asynchronous endpoints, so that a policy on them never fires.
    """

    BACKLOG_SIZE = "ApproximateBacklogSize"
    BACKLOG_SIZE_PER_INSTANCE = "ApproximateBacklogSizePerInstance"
    AGE_OF_OLDEST_REQUEST = "ApproximateAgeOfOldestRequest"
    HAS_BACKLOG_WITHOUT_CAPACITY = "HasBacklogWithoutCapacity"


class Comparison(StrEnum):
    """CloudWatch's comparison operators for a static threshold."""

    GREATER_OR_EQUAL = "GreaterThanOrEqualToThreshold"
    GREATER = "GreaterThanThreshold"
    LESS = "LessThanThreshold"
    LESS_OR_EQUAL = "LessThanOrEqualToThreshold"


class MissingData(StrEnum):
    """How an alarm treats minutes without data (CW alarm evaluation)."""

    MISSING = "missing"
    IGNORE = "ignore"
    BREACHING = "breaching"
    NOT_BREACHING = "notBreaching"


class AdjustmentType(StrEnum):
    """How a step changes the capacity (AAS StepScalingPolicyConfiguration)."""

    CHANGE_IN_CAPACITY = "ChangeInCapacity"
    PERCENT_CHANGE_IN_CAPACITY = "PercentChangeInCapacity"
    EXACT_CAPACITY = "ExactCapacity"


Statistic = Literal["Average", "Maximum", "Minimum", "Sum", "SampleCount"]
PolicyName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^\P{C}+$")]
CooldownSeconds = Annotated[int, Field(ge=0)]


class _Value(BaseModel):
    """Frozen, closed to unknown keys, camelCase in stack files and snake_case in Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
    )


class StepAdjustment(_Value):
    """One step of a step policy; bounds are relative to the alarm's threshold.

    Above the threshold the lower bound is inclusive and the upper exclusive; below it the other
    way round; an absent bound is infinite (AAS StepAdjustment).
    """

    lower_bound: float | None = None
    upper_bound: float | None = None
    adjustment: int

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        lower, upper = self.lower_bound, self.upper_bound
        if lower is not None and upper is not None and lower >= upper:
            raise ValueError(f"lowerBound {lower:g} must be below upperBound {upper:g}")
        return self


class MetricAlarm(_Value):
    """A CloudWatch alarm on one queue metric: M of N datapoints against a threshold."""

    metric: Metric
    statistic: Statistic = "Average"
    comparison: Comparison = Comparison.GREATER_OR_EQUAL
    threshold: float
    period_s: int = 60
    evaluation_periods: int = Field(default=1, ge=1)
    datapoints_to_alarm: int = Field(default=1, ge=1)
    treat_missing_data: MissingData = MissingData.MISSING

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.period_s not in (10, 20, 30) and (self.period_s <= 0 or self.period_s % 60):
            raise ValueError(f"periodS {self.period_s} must be 10, 20, 30 or a multiple of 60")
        if self.datapoints_to_alarm > self.evaluation_periods:
            raise ValueError(
                f"datapointsToAlarm {self.datapoints_to_alarm} exceeds "
                f"evaluationPeriods {self.evaluation_periods}"
            )
        if self.evaluation_periods * self.period_s > 86_400:
            raise ValueError("evaluationPeriods x periodS must not exceed one day (86400 s)")
        return self


class StepScalingPolicy(_Value):
    """A step policy and the alarm that runs it."""

    type: Literal["StepScaling"] = "StepScaling"
    name: PolicyName
    alarm: MetricAlarm
    adjustment_type: AdjustmentType = AdjustmentType.CHANGE_IN_CAPACITY
    steps: tuple[StepAdjustment, ...] = Field(min_length=1, max_length=MAX_STEP_ADJUSTMENTS)
    min_adjustment_magnitude: int | None = Field(default=None, ge=1)
    metric_aggregation_type: Literal["Average", "Minimum", "Maximum"] = "Average"
    cooldown_s: CooldownSeconds = 300


class TargetTrackingPolicy(_Value):
    """A target-tracking policy on a queue metric; its two alarms are AWS's own."""

    type: Literal["TargetTrackingScaling"] = "TargetTrackingScaling"
    name: PolicyName
    metric: Metric = Metric.BACKLOG_SIZE_PER_INSTANCE
    statistic: Statistic = "Average"
    target: float = Field(gt=0)
    scale_out_cooldown_s: CooldownSeconds = 300
    scale_in_cooldown_s: CooldownSeconds = 300
    disable_scale_in: bool = False


ScalingPolicy = Annotated[StepScalingPolicy | TargetTrackingPolicy, Field(discriminator="type")]


class ScheduledAction(_Value):
    """New capacity bounds at a time: `at(...)`, `rate(...)` or `cron(...)` in an IANA time zone."""

    name: PolicyName
    schedule: str
    timezone: str = "UTC"
    min_capacity: int | None = Field(default=None, ge=0)
    max_capacity: int | None = Field(default=None, ge=0)


class ScalingRules(_Value):
    """The policies and schedules of a plan, without its capacity bounds."""

    policies: tuple[ScalingPolicy, ...] = ()
    schedules: tuple[ScheduledAction, ...] = ()


class ScalingPlan(ScalingRules):
    """All that decides how many instances a variant has."""

    min_capacity: int = Field(ge=0)
    max_capacity: int = Field(ge=0)


DOCUMENTED = ScalingRules(
    policies=(
        TargetTrackingPolicy(
            name="Invocations-ScalingPolicy",
            target=3.0,
            scale_out_cooldown_s=30,
            scale_in_cooldown_s=30,
        ),
        StepScalingPolicy(
            name="HasBacklogWithoutCapacity-ScalingPolicy",
            alarm=MetricAlarm(metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY, threshold=0.5),
            steps=(StepAdjustment(lower_bound=0, adjustment=1),),
            cooldown_s=30,
        ),
    )
)
"""The reference system's policies, number for number."""

AWS = ScalingRules(
    policies=(
        TargetTrackingPolicy(
            name="Invocations-ScalingPolicy",
            target=5.0,
            scale_out_cooldown_s=300,
            scale_in_cooldown_s=600,
        ),
        StepScalingPolicy(
            name="HasBacklogWithoutCapacity-ScalingPolicy",
            alarm=MetricAlarm(
                metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
                threshold=1,
                evaluation_periods=2,
                datapoints_to_alarm=2,
            ),
            steps=(StepAdjustment(lower_bound=0, adjustment=1),),
            cooldown_s=300,
        ),
    )
)
"""The example of AWS's own page (DG async-inference-autoscale)."""

PRESETS = {"documented": DOCUMENTED, "aws": AWS}
