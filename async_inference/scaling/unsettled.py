"""What AWS's documentation leaves open about scaling, as parameters with stated defaults."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """One reading of what the sources disagree on or are silent about (aws-facts.md).

    Args:
        backlog_counts_inflight: ApproximateBacklogSize counts requests being processed; the
            documentation says so, one team saw otherwise.
        backlog_per_instance_at_zero: what ApproximateBacklogSizePerInstance is at 0 instances.
        scale_in_ratio: target tracking's low alarm fires below this part of the target; 0.9 was
            observed for large targets, one report has 2.9 for a target of 3.0.
        target_tracking_from_zero: `async_page`: target tracking leaves 0 once the backlog exceeds
            the target (SageMaker's page on asynchronous endpoints); `never`: it does not (its page
            on scaling policies).
        inflight_on_scale_in: `requeue`: an instance that goes loses its requests, which start
            again; `drain`: it finishes them first.
        metric_delay_s: seconds from a minute's end until its datapoint is visible; published runs
            fit 60-90.
        setup_is_billed: an instance costs from the moment it is asked for, not only in service.
    """

    backlog_counts_inflight: bool = True
    backlog_per_instance_at_zero: Literal["backlog", "no_data"] = "backlog"
    scale_in_ratio: float = 0.9
    target_tracking_from_zero: Literal["async_page", "never"] = "never"
    inflight_on_scale_in: Literal["requeue", "drain"] = "requeue"
    metric_delay_s: float = 60.0
    setup_is_billed: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale_in_ratio <= 1:
            raise ValueError(f"scale_in_ratio {self.scale_in_ratio} must be within (0, 1]")
        if self.metric_delay_s < 0:
            raise ValueError(f"metric_delay_s {self.metric_delay_s} must not be negative")
