"""The scaling plan of an endpoint variant as one value, and the presets.

A `ScalingPlan` is read from the stack's config. `QueueScaling` renders it into AWS resources, the
rehearsal simulates it, and the embedded AWS parses the deployed resources back into a plan and
executes it.

Sources: Application Auto Scaling (AAS) and CloudWatch (CW) API references, SageMaker developer
guide (DG).
"""

import math
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import pairwise, product
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from async_inference.aws_names import ANNOUNCEMENTS, QUEUE_METRICS
from async_inference.scaling import schedules
from async_inference.validation import StackValue

MAX_SLUG = 128
"""An alarm's name may have 255 characters (BC AlarmName), and the slug is part of it."""
MAX_STEP_ADJUSTMENTS = 20
"""Most step adjustments in one policy (AAS quotas)."""

PUBLISHED_EVERY_S = 60
"""SageMaker publishes a datapoint of each metric once a minute (DG async-inference-monitor)."""


class Metric(StrEnum):
    """A metric that a plan's alarm may watch, under the single dimension EndpointName.

    SageMaker publishes most of them once a minute. InvocationsPerInstance and the predefined
    SageMaker metric are missing on purpose: asynchronous endpoints never publish them, so a policy
    on them never scales. Nobody publishes the metrics in `FACTORS`: an alarm computes them with
    metric math.

    Clients publish REQUESTS_WITHOUT_CAPACITY when they submit requests while no instance serves:
    how many, with a resolution of one second (CW PutMetricData).
    """

    BACKLOG_SIZE = "ApproximateBacklogSize"
    BACKLOG_SIZE_PER_INSTANCE = "ApproximateBacklogSizePerInstance"
    AGE_OF_OLDEST_REQUEST = "ApproximateAgeOfOldestRequest"
    HAS_BACKLOG_WITHOUT_CAPACITY = "HasBacklogWithoutCapacity"
    BACKLOG_WITHOUT_CAPACITY = "BacklogWithoutCapacity"
    REQUESTS_WITHOUT_CAPACITY = "RequestsWithoutCapacity"

    @property
    def namespace(self) -> str:
        """The CloudWatch namespace of the metric, or of its factors."""
        announced = self == Metric.REQUESTS_WITHOUT_CAPACITY
        return ANNOUNCEMENTS if announced else QUEUE_METRICS


FACTORS = {
    Metric.BACKLOG_WITHOUT_CAPACITY: (Metric.BACKLOG_SIZE, Metric.HAS_BACKLOG_WITHOUT_CAPACITY)
}
"""Metrics that an alarm computes as a product of two, period by period (CW, metric math).
BACKLOG_WITHOUT_CAPACITY is the backlog while no instance exists and 0 otherwise, so that the first
scale-out can ask for the right number of instances."""


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
PolicyName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[ -~]+$")]
"""BC application-autoscaling PolicyName: Java's `\\p{Print}`, which is ASCII."""
_INNER, _OUTER = r"[^\x00-\x1f\x7f-\x9f:/|]", r"[^\x00-\x20\x7f-\x9f:/|]"
ScheduleName = Annotated[
    str, Field(min_length=1, max_length=256, pattern=rf"^{_OUTER}({_INNER}*{_OUTER})?$")
]
"""BC application-autoscaling ScheduledActionName: no `:`, `/` or `|`, no space at either end."""
MAX_INTEGER = 2**31 - 1
"""AWS's integers have 32 bits."""
CooldownSeconds = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Capacity = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class StepAdjustment(StackValue):
    """One step of a step policy; bounds are relative to the alarm's threshold.

    Above the threshold the lower bound is inclusive and the upper one exclusive; below the
    threshold it is the reverse. A missing bound is infinite (AAS StepAdjustment).
    """

    lower_bound: float | None = None
    """Distance from the alarm's threshold at which the step begins; none is minus infinity"""
    upper_bound: float | None = None
    """Distance from the alarm's threshold at which the step ends; none is infinity"""
    adjustment: Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    """Instances to add, negative to remove, or what the adjustment type makes of it"""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        lower, upper = self.lower_bound, self.upper_bound
        if lower is None and upper is None:
            raise ValueError("needs a lowerBound or an upperBound; AWS rejects a step with neither")
        if lower is not None and upper is not None and lower >= upper:
            raise ValueError(f"lowerBound {lower:g} must be below upperBound {upper:g}")
        return self


class AlarmRule(StackValue):
    """When an alarm fires: M of N datapoints breach a threshold, for any metric."""

    comparison: Comparison = Comparison.GREATER_OR_EQUAL
    """How a datapoint is compared with the threshold"""
    threshold: float
    """Value that a datapoint is compared with"""
    evaluation_periods: int = Field(default=1, ge=1)
    """Datapoints that the alarm looks at (N)"""
    datapoints_to_alarm: int = Field(default=1, ge=1)
    """How many of them must breach the threshold (M)"""
    treat_missing_data: MissingData = MissingData.MISSING
    """What periods without data count as"""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.datapoints_to_alarm > self.evaluation_periods:
            raise ValueError(
                f"datapointsToAlarm {self.datapoints_to_alarm} exceeds "
                f"evaluationPeriods {self.evaluation_periods}"
            )
        return self

    @property
    def fires_when_high(self) -> bool:
        """Whether the alarm fires when its metric is high, not when it is low."""
        return self.comparison in (Comparison.GREATER, Comparison.GREATER_OR_EQUAL)

    def breached_by(self, value: float) -> bool:
        """Whether a datapoint breaches the threshold."""
        return {
            Comparison.GREATER_OR_EQUAL: value >= self.threshold,
            Comparison.GREATER: value > self.threshold,
            Comparison.LESS: value < self.threshold,
            Comparison.LESS_OR_EQUAL: value <= self.threshold,
        }[self.comparison]


class MetricAlarm(AlarmRule):
    """A CloudWatch alarm on one metric: M of N datapoints breach a threshold."""

    metric: Metric
    """A metric of the endpoint's queue, or RequestsWithoutCapacity, which clients publish"""
    statistic: Statistic = "Average"
    """How CloudWatch aggregates a period"""
    period_s: int = 60
    """Seconds of a period: 10, 20, 30 or a multiple of 60"""

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.period_s not in (10, 20, 30) and (self.period_s <= 0 or self.period_s % 60):
            raise ValueError(f"periodS {self.period_s} must be 10, 20, 30 or a multiple of 60")
        if self.evaluation_periods * self.period_s > 86_400:
            raise ValueError("evaluationPeriods x periodS must not exceed one day (86400 s)")
        if self.metric == Metric.REQUESTS_WITHOUT_CAPACITY and self.statistic != "Sum":
            raise ValueError(
                f"statistic {self.statistic} of {self.metric}: clients publish counts, which must "
                "be added up; use Sum"
            )
        return self


class StepScaling(StackValue):
    """A step policy as Application Auto Scaling stores it, without the alarms that invoke it."""

    type: Literal["StepScaling"] = "StepScaling"
    """Kind of policy"""
    name: PolicyName
    """Name of the policy"""
    adjustment_type: AdjustmentType = AdjustmentType.CHANGE_IN_CAPACITY
    """What the steps' adjustments are"""
    steps: tuple[StepAdjustment, ...] = Field(min_length=1, max_length=MAX_STEP_ADJUSTMENTS)
    """What happens at which distance from the threshold"""
    min_adjustment_magnitude: int | None = Field(default=None, ge=1, le=MAX_INTEGER)
    """Fewest instances that a percentage adds or removes"""
    metric_aggregation_type: Literal["Average", "Minimum", "Maximum"] = "Average"
    """How Application Auto Scaling aggregates the metric's datapoints"""
    cooldown_s: CooldownSeconds = 300
    """Seconds after a scaling activity in which the policy does not scale again"""

    @model_validator(mode="after")
    def _capacity_exists(self) -> Self:
        """An exact capacity cannot be negative (AAS StepScalingPolicyConfiguration)."""
        for step in self.steps:
            if self.adjustment_type == AdjustmentType.EXACT_CAPACITY and step.adjustment < 0:
                raise ValueError(
                    f"policy {self.name}: adjustment {step.adjustment} is not a capacity; with "
                    "ExactCapacity use 0 or more, or use ChangeInCapacity"
                )
        return self

    @model_validator(mode="after")
    def _steps_tile(self) -> Self:
        """Steps must not overlap or leave gaps, and must cover every breach (AAS user guide, step
        adjustments)."""
        spans = sorted(
            (
                -math.inf if step.lower_bound is None else step.lower_bound,
                math.inf if step.upper_bound is None else step.upper_bound,
            )
            for step in self.steps
        )
        for (_, upper), (lower, _) in pairwise(spans):
            if lower < upper:
                raise ValueError(
                    f"policy {self.name}: steps overlap between {lower:g} and {upper:g}; "
                    "let one end where the next begins"
                )
            if lower > upper:
                raise ValueError(
                    f"policy {self.name}: no step covers {upper:g} to {lower:g}; "
                    "let one end where the next begins"
                )
        lowest, highest = spans[0][0], spans[-1][1]
        if 0 < highest < math.inf:
            raise ValueError(
                f"policy {self.name}: no step covers {highest:g} and more; "
                "let the highest have no upperBound"
            )
        if -math.inf < lowest < 0:
            raise ValueError(
                f"policy {self.name}: no step covers less than {lowest:g}; "
                "let the lowest have no lowerBound"
            )
        return self


class StepScalingPolicy(StepScaling):
    """A step policy and the alarms that invoke it.

    The alarms share the policy's cooldown: once one of them has added instances, another that sees
    the same requests later adds no more (AAS, cooldown of step policies).
    """

    alarm: MetricAlarm
    """Runs the policy"""
    more_alarms: tuple[MetricAlarm, ...] = Field(default=(), max_length=5)
    """Run it too, under the same cooldown"""

    @model_validator(mode="after")
    def _points_in_each_period(self) -> Self:
        """Without a datapoint in each period, the alarm would go to INSUFFICIENT_DATA."""
        for alarm in self.alarms:
            published = alarm.metric != Metric.REQUESTS_WITHOUT_CAPACITY
            if published and alarm.period_s < PUBLISHED_EVERY_S:
                raise ValueError(
                    f"policy {self.name}: periodS {alarm.period_s} is too short, because SageMaker "
                    f"publishes {alarm.metric} once a minute; use a multiple of 60"
                )
        return self

    @property
    def alarms(self) -> tuple[MetricAlarm, ...]:
        """All alarms that invoke the policy."""
        return (self.alarm, *self.more_alarms)


class TargetTracking(StackValue):
    """A target-tracking policy on any metric; AWS creates its two alarms."""

    type: Literal["TargetTrackingScaling"] = "TargetTrackingScaling"
    """Kind of policy"""
    name: PolicyName
    """Name of the policy"""
    target: float = Field(gt=0)
    """Value at which the metric is kept"""
    scale_out_cooldown_s: CooldownSeconds = 300
    """Seconds after a scale-out in which the policy does not scale out again"""
    scale_in_cooldown_s: CooldownSeconds = 300
    """Seconds after a scale-in in which the policy does not scale in again"""
    disable_scale_in: bool = False
    """Only scale out"""


class TargetTrackingPolicy(TargetTracking):
    """A target-tracking policy on a queue metric; AWS creates its two alarms."""

    metric: Metric = Metric.BACKLOG_SIZE_PER_INSTANCE
    """The metric that is tracked"""
    statistic: Statistic = "Average"
    """How CloudWatch aggregates a minute"""

    @field_validator("metric")
    @classmethod
    def _published(cls, value: Metric) -> Metric:
        if value in FACTORS:
            raise ValueError("exists only in alarms; track a metric that SageMaker publishes")
        if value == Metric.REQUESTS_WITHOUT_CAPACITY:
            raise ValueError(
                "counts submitted requests, which capacity does not influence; track a queue metric"
            )
        return value


ScalingPolicy = Annotated[StepScalingPolicy | TargetTrackingPolicy, Field(discriminator="type")]
DeployedPolicy = StepScaling | TargetTracking
"""A policy as Application Auto Scaling stores it."""


class ScheduledAction(StackValue):
    """New capacity bounds at a time: `at(...)`, `rate(...)` or `cron(...)` in an IANA time zone."""

    name: ScheduleName
    """Name of the scheduled action"""
    schedule: Annotated[str, Field(max_length=1600)]
    """When: at(...), rate(...) or cron(...)"""
    timezone: str = "UTC"
    """Time zone of the schedule, by its IANA name"""
    min_capacity: Capacity | None = None
    """New minimum; none leaves it"""
    max_capacity: Capacity | None = None
    """New maximum; none leaves it"""

    @model_validator(mode="after")
    def _due_and_useful(self) -> Self:
        schedules.check(self.schedule, self.timezone)
        low, high = self.min_capacity, self.max_capacity
        if low is None and high is None:
            raise ValueError(f"schedule {self.name}: set minCapacity, maxCapacity or both")
        if low is not None and high is not None and low > high:
            raise ValueError(f"schedule {self.name}: minCapacity {low} exceeds maxCapacity {high}")
        return self


def slug(name: str) -> str:
    """A name as it appears in resource names: `Invocations-ScalingPolicy` -> `invocations`."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (words.removesuffix("-scalingpolicy") or words)[:MAX_SLUG].rstrip("-")


class ScalingRules(StackValue):
    """The policies and schedules of a plan, without its capacity bounds."""

    policies: tuple[ScalingPolicy, ...] = ()
    """Step policies and target-tracking policies"""
    schedules: tuple[ScheduledAction, ...] = ()
    """Capacity bounds at certain times"""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for kind, named in (("policy", self.policies), ("schedule", self.schedules)):
            known: dict[str, str] = {}
            for name in (each.name for each in named):
                short = slug(name)
                if not short:
                    raise ValueError(f"{kind} name {name!r}: needs a letter or a digit")
                if known.get(short) == name:
                    raise ValueError(f"{kind} name {name!r} is used twice; names must differ")
                if short in known:
                    raise ValueError(
                        f"{kind} names {known[short]!r} and {name!r} must differ by more than case "
                        "and punctuation: resources are named after them"
                    )
                known[short] = name
        return self

    @property
    def uses_announcements(self) -> bool:
        """Whether an alarm watches the metric that clients publish when they submit requests."""
        return any(
            alarm.metric == Metric.REQUESTS_WITHOUT_CAPACITY
            for policy in self.policies
            if isinstance(policy, StepScalingPolicy)
            for alarm in policy.alarms
        )

    def within(self, min_capacity: int, max_capacity: int) -> "ScalingPlan":
        """A plan with these rules and the given bounds."""
        return ScalingPlan(
            min_capacity=min_capacity,
            max_capacity=max_capacity,
            policies=self.policies,
            schedules=self.schedules,
        )


class ScalingPlan(ScalingRules):
    """Everything that decides how many instances a variant has."""

    min_capacity: Capacity
    max_capacity: Capacity

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_capacity > self.max_capacity:
            raise ValueError(
                f"minCapacity {self.min_capacity} exceeds maxCapacity {self.max_capacity}"
            )
        for action in self.schedules:
            low = self.min_capacity if action.min_capacity is None else action.min_capacity
            high = self.max_capacity if action.max_capacity is None else action.max_capacity
            if low > high:
                raise ValueError(
                    f"schedule {action.name}: "
                    + (
                        f"minCapacity {low} exceeds the plan's maxCapacity {high}; "
                        "set its maxCapacity too"
                        if action.max_capacity is None
                        else f"maxCapacity {high} is below the plan's minCapacity {low}; "
                        "set its minCapacity too"
                    )
                )
        return self

    def warnings(self) -> Iterator[str]:
        """Warnings about what AWS accepts but is probably a mistake, a sentence each."""
        steps = [policy for policy in self.policies if isinstance(policy, StepScalingPolicy)]
        for policy in steps:
            exact = policy.adjustment_type == AdjustmentType.EXACT_CAPACITY
            starts = any(step.adjustment > self.min_capacity for step in policy.steps)
            if exact and starts and not policy.alarm.fires_when_high:
                yield (
                    f"policy {policy.name}: ExactCapacity also raises the capacity, so this "
                    f"scale-in starts instances from {self.min_capacity} again and again; use "
                    "ChangeInCapacity"
                )
        yield from _fights(steps)


def _fights(policies: Sequence[StepScalingPolicy]) -> Iterator[str]:
    """Warnings about a scale-out and a scale-in on one metric that fire at the same values."""
    changing = [p for p in policies if p.adjustment_type != AdjustmentType.EXACT_CAPACITY]
    growing = [
        p for p in changing if p.alarm.fires_when_high and any(s.adjustment > 0 for s in p.steps)
    ]
    shrinking = [
        p
        for p in changing
        if not p.alarm.fires_when_high and any(s.adjustment < 0 for s in p.steps)
    ]
    for out, into in product(growing, shrinking):
        if out.alarm.metric != into.alarm.metric:
            continue
        both = [
            value
            for value in (out.alarm.threshold, into.alarm.threshold)
            if out.alarm.breached_by(value) and into.alarm.breached_by(value)
        ]
        if both or out.alarm.threshold < into.alarm.threshold:
            yield (
                f"policies {out.name} and {into.name} conflict: both fire while "
                f"{out.alarm.metric} is between {out.alarm.threshold:g} and "
                f"{into.alarm.threshold:g}; let the first threshold exceed the second"
            )


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
"""The example in AWS's documentation (DG async-inference-autoscale)."""

TUNED = ScalingRules(
    policies=(
        StepScalingPolicy(
            name="WakeUp-ScalingPolicy",
            alarm=MetricAlarm(metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY, threshold=0.5),
            steps=(StepAdjustment(lower_bound=0, adjustment=1),),
            cooldown_s=300,
        ),
        StepScalingPolicy(
            name="Flood-ScalingPolicy",
            alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=15),
            steps=(
                StepAdjustment(lower_bound=0, upper_bound=10, adjustment=1),
                StepAdjustment(lower_bound=10, adjustment=4),
            ),
            cooldown_s=600,
        ),
        StepScalingPolicy(
            name="Thinning-ScalingPolicy",
            alarm=MetricAlarm(
                metric=Metric.BACKLOG_SIZE_PER_INSTANCE,
                comparison=Comparison.LESS,
                threshold=1,
                evaluation_periods=8,
                datapoints_to_alarm=8,
            ),
            adjustment_type=AdjustmentType.PERCENT_CHANGE_IN_CAPACITY,
            steps=(StepAdjustment(upper_bound=0, adjustment=-25),),
            cooldown_s=900,
        ),
        StepScalingPolicy(
            name="Sleep-ScalingPolicy",
            alarm=MetricAlarm(
                metric=Metric.BACKLOG_SIZE,
                comparison=Comparison.LESS,
                threshold=0.5,
                evaluation_periods=120,
                datapoints_to_alarm=84,
            ),
            adjustment_type=AdjustmentType.PERCENT_CHANGE_IN_CAPACITY,
            steps=(StepAdjustment(upper_bound=0, adjustment=-50),),
            cooldown_s=300,
        ),
    )
)
"""Found by search over steady, daily, bursty, sparse and launch traffic (docs/scaling.md).

The alarm of `Sleep` remembers two hours, because it needs M of N datapoints. After quiet hours it
is already in ALARM, so instances leave in the first minute with an empty queue. In busy hours it is
not, so they stay through gaps. A percentage takes any number of instances to one and one to none.
"""

ANNOUNCED = ScalingRules(
    policies=(
        StepScalingPolicy(
            name="WakeUp-ScalingPolicy",
            alarm=MetricAlarm(metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY, threshold=0.5),
            more_alarms=(
                MetricAlarm(
                    metric=Metric.REQUESTS_WITHOUT_CAPACITY,
                    statistic="Sum",
                    threshold=0.5,
                    period_s=10,
                    treat_missing_data=MissingData.NOT_BREACHING,
                ),
            ),
            steps=(
                StepAdjustment(lower_bound=0, upper_bound=4, adjustment=1),
                StepAdjustment(lower_bound=4, upper_bound=9, adjustment=2),
                StepAdjustment(lower_bound=9, upper_bound=19, adjustment=4),
                StepAdjustment(lower_bound=19, upper_bound=39, adjustment=8),
                StepAdjustment(lower_bound=39, adjustment=16),
            ),
            cooldown_s=300,
        ),
        *TUNED.policies[1:],
    )
)
"""`TUNED`, woken by its clients (docs/scaling.md).

The alarm on HasBacklogWithoutCapacity, which is 0 or 1, adds one instance. The alarm on the
announcements adds more for more requests: one instance, two from 5 requests on, and so on.
The search found these steps; it also tried changes to the other policies and found nothing better.
"""

PRESETS = {"documented": DOCUMENTED, "aws": AWS, "tuned": TUNED, "announced": ANNOUNCED}
