"""AWS's records of one endpoint, as frozen values: activities, alarms, alarm history, datapoints.

All times are seconds since the epoch, by AWS's clocks.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from async_inference.scaling.autoscaler import CHANGE_REFUSED
from async_inference.scaling.plan import Metric

if TYPE_CHECKING:
    from types_boto3_application_autoscaling.type_defs import ScalingActivityTypeDef
    from types_boto3_cloudwatch.type_defs import AlarmHistoryItemTypeDef, MetricAlarmTypeDef

MINUTE_S = 60
SETTLED_S = 120
"""Seconds after a change until a minute's count of instances must be the new one."""

_DESIRED = re.compile(r"desired instance count to (\d+)")
_CAUSE = re.compile(r"monitor alarm (\S+) in state ALARM triggered policy (.+)")


@dataclass(frozen=True)
class Activity:
    """A scaling activity (AAS ScalingActivity).

    Args:
        desired: the requested instance count, from the description; None if that has no count.
        ended_s: None while the activity is in progress.
        not_scaled: AWS's codes for why the capacity did not change.
    """

    started_s: float
    ended_s: float | None
    status: str
    desired: int | None
    cause: str
    message: str = ""
    not_scaled: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the activity changed the capacity, or is changing it."""
        accepted = self.status in ("Pending", "InProgress", "Successful", "Unfulfilled")
        return accepted and self.desired is not None and not self.not_scaled

    @property
    def refused(self) -> bool:
        """Whether SageMaker refused the activity because another change was in progress."""
        return self.status == "Failed" and CHANGE_REFUSED.lower() in self.message.lower()

    @property
    def alarm(self) -> str | None:
        """The alarm that caused it; None for a schedule or a person."""
        found = _CAUSE.search(self.cause)
        return found[1] if found else None


@dataclass(frozen=True)
class Alarm:
    """An alarm of the endpoint, as it is now (CW MetricAlarm)."""

    name: str
    metric: str
    threshold: float
    period_s: int
    evaluation_periods: int
    policies: tuple[str, ...] = ()
    """The ARNs of the scaling policies that it invokes."""

    @property
    def tracks(self) -> bool:
        """Whether target tracking created the alarm."""
        return self.name.startswith("TargetTracking-")

    @property
    def is_low(self) -> bool:
        """Whether it is target tracking's low alarm, which scales in."""
        return self.tracks and "-AlarmLow-" in self.name


@dataclass(frozen=True)
class StateChange:
    """A change of an alarm's state.

    Args:
        at_s: when the alarm was evaluated.
        newest_s: the start of the newest minute with a datapoint; None if there was none.
    """

    alarm: str
    at_s: float
    before: str
    after: str
    newest_s: float | None


@dataclass(frozen=True)
class Minutes:
    """Metrics by minute; keys are the minutes' starts.

    Args:
        queue: the averages of the metrics of `Metric`, by metric name.
        samples: sample counts of ApproximateBacklogSize.
        instances: sample counts of CPUUtilization, one per instance in service; absent at zero.
        ended: requests that ended.
        in_backlog_ms, total_ms: sums of TimeInBacklog and TotalProcessingTime.
    """

    queue: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    samples: Mapping[int, float] = field(default_factory=dict)
    instances: Mapping[int, float] = field(default_factory=dict)
    ended: Mapping[int, float] = field(default_factory=dict)
    in_backlog_ms: Mapping[int, float] = field(default_factory=dict)
    total_ms: Mapping[int, float] = field(default_factory=dict)

    @property
    def backlog(self) -> Mapping[int, float]:
        """ApproximateBacklogSize."""
        return self.queue.get(Metric.BACKLOG_SIZE, {})

    def serving(self, minute: int) -> int | None:
        """Instances in service; None if no metrics were published for the minute."""
        if minute in self.instances:
            return round(self.instances[minute])
        return 0 if minute in self.backlog else None

    def work_s(self, minute: int) -> float:
        """Total service time of the requests that ended in a minute."""
        return (self.total_ms.get(minute, 0.0) - self.in_backlog_ms.get(minute, 0.0)) / 1000


@dataclass(frozen=True)
class Records:
    """Everything that was read about one endpoint.

    Args:
        since_s, read_s: the span that was read; it ends at the time of reading.
        created_s: when this endpoint was created; an earlier one may have had the same name.
        configuration, configuration_created_s: the live endpoint configuration.
        concurrency: requests that one instance works on at the same time.
        containers: when each container wrote its first log line.
        unread: what could not be read and why, a sentence each.
        skew_s: this machine's clock minus AWS's.
    """

    endpoint: str
    since_s: float
    read_s: float
    created_s: float
    configuration: str
    configuration_created_s: float
    concurrency: int
    activities: tuple[Activity, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    changes: tuple[StateChange, ...] = ()
    minutes: Minutes = field(default_factory=Minutes)
    containers: tuple[float, ...] = ()
    unread: tuple[str, ...] = ()
    skew_s: float = 0.0


@dataclass(frozen=True)
class CapacityChange:
    """A capacity change that is done or in progress.

    Args:
        alone: whether no other change overlapped with it.
    """

    started_s: float
    ended_s: float | None
    before: int
    after: int
    alarm: str | None
    alone: bool


def capacity_changes(records: Records) -> tuple[CapacityChange, ...]:
    """The capacity changes since this endpoint's creation, oldest first.

    The number of instances before a change is what the previous change requested, unless the
    metrics show that somebody has changed it since. A change is left out if that number is unknown.
    """
    asked = sorted(
        (a for a in records.activities if a.changed and a.started_s >= records.created_s),
        key=lambda each: each.started_s,
    )
    found: list[CapacityChange] = []
    known: int | None = None
    for number, activity in enumerate(asked):
        assert activity.desired is not None
        last = asked[number - 1] if number else None
        following = asked[number + 1] if number + 1 < len(asked) else None
        minute = int(activity.started_s // MINUTE_S - 1) * MINUTE_S
        settled = last is None or (
            last.ended_s is not None and minute >= last.ended_s + SETTLED_S - MINUTE_S
        )
        seen = records.minutes.serving(minute) if settled else None
        before = known if seen is None else seen
        alone = not (last and overlap(last, activity)) and not (
            following and overlap(activity, following)
        )
        if before is not None and before != activity.desired:
            found.append(
                CapacityChange(
                    activity.started_s,
                    activity.ended_s,
                    before,
                    activity.desired,
                    activity.alarm,
                    alone,
                )
            )
        known = activity.desired
    return tuple(found)


def overlap(first: Activity, second: Activity) -> bool:
    """Whether the second began while the first was in progress, by more than a second."""
    return first.ended_s is None or second.started_s < first.ended_s - 1


def foreign_changes(records: Records) -> tuple[tuple[float, int, int], ...]:
    """(time, instances requested, instances seen) where the two differ without an activity.

    Somebody changed the capacity by hand, or an instance failed.
    """
    changes = capacity_changes(records)
    found = []
    for change, following in pairwise([*changes, None]):
        assert change is not None
        if change.ended_s is None:
            continue
        until_s = following.started_s if following else records.read_s
        first = int((change.ended_s + SETTLED_S) // MINUTE_S + 1) * MINUTE_S
        apart = 0
        for minute in range(first, int(until_s) - MINUTE_S, MINUTE_S):
            seen = records.minutes.serving(minute)
            apart = apart + 1 if seen is not None and seen != change.after else 0
            if apart == 2 and seen is not None:
                found.append((float(minute - MINUTE_S), change.after, seen))
                break
    return tuple(found)


# From AWS's responses


def activity(document: "ScalingActivityTypeDef") -> Activity:
    """An activity from an item of DescribeScalingActivities."""
    asked = _DESIRED.search(document.get("Description", ""))
    return Activity(
        started_s=seconds(document["StartTime"]),
        ended_s=None if document.get("EndTime") is None else seconds(document["EndTime"]),
        status=document["StatusCode"],
        desired=int(asked[1]) if asked else None,
        cause=document.get("Cause", ""),
        message=document.get("StatusMessage", ""),
        not_scaled=tuple(reason["Code"] for reason in document.get("NotScaledReasons", ())),
    )


def alarm(document: "MetricAlarmTypeDef") -> Alarm | None:
    """An alarm from an item of DescribeAlarms; None for an alarm on several metrics."""
    if "MetricName" not in document or "Threshold" not in document:
        return None
    return Alarm(
        name=document["AlarmName"],
        metric=document["MetricName"],
        threshold=document["Threshold"],
        period_s=document["Period"],
        evaluation_periods=document["EvaluationPeriods"],
        policies=tuple(a for a in document.get("AlarmActions", ()) if ":scalingPolicy:" in a),
    )


def state_change(document: "AlarmHistoryItemTypeDef") -> StateChange | None:
    """A state change from a StateUpdate of DescribeAlarmHistory; None if no evaluation caused it.

    HistoryData holds `queryDate` and `evaluatedDatapoints`, newest first; those without data have
    a timestamp only. (Seen in public records; the API reference does not describe it.)
    """
    try:
        data = json.loads(document["HistoryData"])
        new = data["newState"]
        reason = new["stateReasonData"]
        before, after = data["oldState"]["stateValue"], new["stateValue"]
        at_s = seconds(reason["queryDate"])
        with_data = [
            seconds(point["timestamp"])
            for point in reason.get("evaluatedDatapoints", ())
            if point.get("value") is not None
        ]
    except (KeyError, TypeError, ValueError):
        return None
    return StateChange(document["AlarmName"], at_s, before, after, max(with_data, default=None))


def seconds(moment: datetime | str | float) -> float:
    """Seconds since the epoch, from any of AWS's formats."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)
