"""Readings: undocumented AWS scaling behaviour as parameters, with defaults."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """One reading of the points on which sources disagree or are silent (docs/aws-facts.md).

    Args:
        backlog_counts_inflight: whether ApproximateBacklogSize counts requests being processed. The
            documentation says it does; one team saw that it did not.
        backlog_per_instance_at_zero: the value of ApproximateBacklogSizePerInstance at 0 instances.
        scale_in_ratio: target tracking's low alarm fires below this fraction of the target. 0.9 was
            observed for large targets; one report has 2.9 for a target of 3.0.
        target_tracking_from_zero: `async_page`: target tracking scales out from 0 once the backlog
            exceeds the target (SageMaker's page on asynchronous endpoints); `never`: it does not
            (SageMaker's page on scaling policies).
        inflight_on_scale_in: `requeue`: an instance that is removed drops its requests, which start
            again; `drain`: it finishes them first.
        capacity_change_in_progress: `refused`: during a scale-out or scale-in the endpoint is
            Updating, and SageMaker refuses every other capacity change ("Cannot update in-progress
            endpoint"; API reference, UpdateEndpointWeightsAndCapacities, and public live runs);
            `allowed`: changes may overlap.
        scale_in_takes_s: how many seconds a scale-in keeps the endpoint Updating.
        samples_per_minute: how many evenly spread samples make up a minute's datapoint.
        evaluation_range: how many periods CloudWatch looks back for N evaluation periods.
            Documented for N = 3 only, where both readings give 5. `n_plus_third`:
            N + max(N // 3, 2); `n_plus_2`: N + 2.
        metric_delay_s: seconds from a minute's end until its datapoint is visible. Published runs
            fit 60-90.
        announcement_delay_s: seconds from a period's end until an alarm of 10, 20 or 30 s sees what
            clients published in it. AWS says "seconds" (AWS News Blog, high-resolution metrics).
        setup_is_billed: whether an instance is billed from the moment it is requested, not only
            once it is in service.
    """

    backlog_counts_inflight: bool = True
    backlog_per_instance_at_zero: Literal["backlog", "no_data"] = "backlog"
    scale_in_ratio: float = 0.9
    target_tracking_from_zero: Literal["async_page", "never"] = "never"
    inflight_on_scale_in: Literal["requeue", "drain"] = "requeue"
    capacity_change_in_progress: Literal["refused", "allowed"] = "refused"
    scale_in_takes_s: float = 60.0
    samples_per_minute: int = 1
    evaluation_range: Literal["n_plus_third", "n_plus_2"] = "n_plus_third"
    metric_delay_s: float = 60.0
    announcement_delay_s: float = 5.0
    setup_is_billed: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale_in_ratio <= 1:
            raise ValueError(f"scale_in_ratio {self.scale_in_ratio} must be within (0, 1]")
        for name in ("metric_delay_s", "announcement_delay_s", "scale_in_takes_s"):
            seconds = getattr(self, name)
            if not 0 <= seconds <= 86_400:
                raise ValueError(f"{name} {seconds:g} must be within 0..86400 seconds")
        if not 1 <= self.samples_per_minute <= 60:
            raise ValueError(f"samples_per_minute {self.samples_per_minute} must be within 1..60")

    @property
    def sample_times_s(self) -> tuple[float, ...]:
        """When SageMaker samples the queue, in seconds after the start of each minute.

        AWS does not publish it. One sample in the middle reproduces the published detection times
        (mean 150 s, range 151-269 s with 2 of 2 periods). Several are spread evenly.
        """
        looks = self.samples_per_minute
        return tuple(60.0 * (look + 0.5) / looks for look in range(looks))


READINGS: dict[str, tuple[object, ...]] = {
    "backlog_counts_inflight": (True, False),
    "backlog_per_instance_at_zero": ("backlog", "no_data"),
    "scale_in_ratio": (0.9, 0.97),
    "target_tracking_from_zero": ("never", "async_page"),
    "inflight_on_scale_in": ("requeue", "drain"),
    "capacity_change_in_progress": ("refused", "allowed"),
    "scale_in_takes_s": (60.0, 180.0),
    "samples_per_minute": (1, 6),
    "evaluation_range": ("n_plus_third", "n_plus_2"),
    "metric_delay_s": (60.0, 90.0),
    "announcement_delay_s": (5.0, 30.0),
    "setup_is_billed": (True, False),
}
"""Values that a source or an observation supports, the default first. A `scale_in_ratio` of 0.97 is
2.9 for a target of 3.0. Nothing is published about how long a scale-in takes."""
assert set(READINGS) == {field.name for field in fields(Unsettled)}


def other_readings(assumed: Unsettled) -> Iterator[Unsettled]:
    """Every reading that differs from the assumed one in exactly one point."""
    for name, values in READINGS.items():
        for value in values:
            if value != getattr(assumed, name):
                yield replace(assumed, **{name: value})
