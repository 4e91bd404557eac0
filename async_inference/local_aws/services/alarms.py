"""Evaluates the alarms that moto stores, and runs their actions.

moto keeps alarms but never evaluates them. Each alarm is evaluated once a minute at its own phase,
one with a shorter period as often as that. Auto Scaling actions repeat once a minute while it stays
in ALARM; other actions run on a change of state.
"""

import json
import math
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NotRequired, TypedDict

from moto.cloudwatch.models import Alarm, MetricDataQuery

from async_inference.aws_names import snake
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.services import cloudwatch
from async_inference.local_aws.services.metrics import MINUTE_S, last_end_s
from async_inference.local_aws.services.moto_services import ACCOUNT_ID, MotoServices, publish
from async_inference.scaling import documents
from async_inference.scaling.alarms import (
    STATISTIC_CODES,
    AlarmState,
    evaluate,
    evaluated_every_s,
    evaluation_range,
    runs_action,
)
from async_inference.scaling.documents import Document, MetricStat
from async_inference.scaling.plan import AlarmRule, Comparison
from async_inference.scaling.unsettled import Unsettled

_SIGNS: dict[str, str] = {
    Comparison.GREATER_OR_EQUAL: ">=",
    Comparison.GREATER: ">",
    Comparison.LESS: "<",
    Comparison.LESS_OR_EQUAL: "<=",
}
_MEMBERS = (
    "Namespace",
    "MetricName",
    "Statistic",
    "ExtendedStatistic",
    "Period",
    "ComparisonOperator",
    "Threshold",
    "EvaluationPeriods",
    "DatapointsToAlarm",
    "TreatMissingData",
)
"""Members of an alarm that moto stores under the same name in snake_case."""


class Band(TypedDict):
    """A state that an alarm was in, from one second to another."""

    state: str
    from_s: float
    to_s: float


class AlarmReport(TypedDict):
    """An alarm as a status page shows it."""

    name: str
    endpoint: str | None
    condition: str
    state: str
    since_s: float
    reason: str
    bands: NotRequired[list[Band]]


class _Watched:
    """An alarm with what its evaluations need, which the alarm states in another form.

    Args:
        name: its name, which decides its phase.
        alarm: as moto stores it.
    """

    def __init__(self, name: str, alarm: Alarm) -> None:
        self.alarm = alarm
        self.rule: AlarmRule | None = None
        """None for a composite alarm, and for one with a band of expected values."""
        self.on: MetricStat | None = None
        self.every_s = evaluated_every_s(int(alarm.period or MINUTE_S))
        self.phase_s = phase_s(name, self.every_s)
        if alarm.rule is not None:
            return
        with suppress(ValueError):  # it has a band of expected values instead of a threshold
            self.rule, self.on = documents.alarm(_document(alarm))

    def next_s(self, after_s: float) -> float:
        times = (after_s - self.phase_s) // self.every_s + 1
        return times * self.every_s + self.phase_s


class Alarms:
    """One region's alarms.

    Args:
        region: the region.
        clock: the clock of the embedded AWS.
        services: stores the alarms and publishes to topics.
        unsettled: the reading of undocumented AWS behaviour.
        scale: runs a scaling policy, given its ARN, the alarm's name, the metric and the threshold,
            and returns the outcome.
    """

    def __init__(
        self,
        region: str,
        clock: Clock,
        services: MotoServices,
        unsettled: Unsettled,
        scale: Callable[[str, str, float, float], str],
    ) -> None:
        self._region = region
        self._clock = clock
        self._services = services
        self._unsettled = unsettled
        self._cloudwatch.clock = clock
        self._plus_third = unsettled.evaluation_range == "n_plus_third"
        self._scale = scale
        self._lock = threading.Lock()
        self._known: dict[str, _Watched] = {}
        self._ran_s: dict[str, float] = {}
        """When each alarm's Auto Scaling actions ran last."""

    @property
    def _cloudwatch(self) -> cloudwatch.CloudWatch:
        return cloudwatch.of_region(ACCOUNT_ID, self._region)

    def adopt(self) -> None:
        """Give alarms that were just put the state that CloudWatch would give them.

        A new one starts in INSUFFICIENT_DATA; one that was put again keeps its state.
        """
        with self._services.lock, self._lock:
            for name, alarm in self._cloudwatch.alarms.items():
                watched = self._known.get(name)
                before = watched.alarm if watched else None
                if alarm.state_updated_timestamp.tzinfo is None:
                    # moto has just set the state, by the wall clock.
                    alarm.state_updated_timestamp = self._clock.now()
                if before is alarm:
                    continue
                alarm.state_value = before.state_value if before else "INSUFFICIENT_DATA"
                alarm.configuration_updated_timestamp = self._clock.now()
                if before:
                    alarm.state_updated_timestamp = before.state_updated_timestamp
                self._known[name] = _Watched(name, alarm)
            for name in self._known.keys() - self._cloudwatch.alarms.keys():
                del self._known[name]

    def put(self, name: str, alarm: Document, policy_arn: str) -> None:
        """Create an alarm of target tracking; it lives as long as its policy."""
        with self._services.lock:
            self._cloudwatch.put_metric_alarm(
                name=name,
                description=f"DO NOT EDIT OR DELETE. For policy {policy_arn}.",
                alarm_actions=[policy_arn],
                **{snake(member): value for member, value in alarm.items()},
            )
        self.adopt()

    def delete(self, names: list[str]) -> None:
        """Delete alarms of target tracking."""
        with self._services.lock:
            for name in names:
                self._cloudwatch.alarms.pop(name, None)
        self.adopt()

    def next_evaluation_s(self, after_s: float) -> float | None:
        """When the next alarm is due, strictly after a time; None without alarms."""
        with self._lock:
            return min((each.next_s(after_s) for each in self._known.values()), default=None)

    def evaluate_due(self, after_s: float, until_s: float) -> None:
        """Evaluate the alarms whose moment lies in (after_s, until_s]."""
        with self._lock:
            due = sorted(
                (at_s, name)
                for name, watched in self._known.items()
                if (at_s := watched.next_s(after_s)) <= until_s
            )
        for at_s, name in due:
            self._evaluate(name, at_s)

    def states(self) -> list[AlarmReport]:
        """The alarms as a status page shows them."""
        with self._lock:
            return [
                {
                    "name": name,
                    "endpoint": next(
                        (
                            str(each.value)
                            for each in watched.alarm.dimensions
                            if each.name == "EndpointName"
                        ),
                        None,
                    ),
                    "condition": _condition(watched),
                    "state": watched.alarm.state_value,
                    "since_s": watched.alarm.state_updated_timestamp.timestamp(),
                    "reason": watched.alarm.state_reason,
                }
                for name, watched in self._known.items()
            ]

    def in_alarm(self, names: Sequence[str]) -> list[str]:
        """Those of the named alarms that are in ALARM."""
        with self._lock:
            return [
                name
                for name in names
                if name in self._known
                and self._known[name].alarm.state_value == AlarmState.ALARM.name
            ]

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of the named alarms that do not exist."""
        with self._lock:
            return [name for name in names if name not in self._known]

    def _evaluate(self, name: str, at_s: float) -> None:
        with self._lock:
            watched = self._known.get(name)
        if watched is None or watched.rule is None or watched.on is None:
            return
        alarm, rule, on = watched.alarm, watched.rule, watched.on
        if on.statistic not in STATISTIC_CODES:
            return  # a percentile needs every sample, and only their sum and extremes are kept
        points = self._points(on, evaluation_range(rule.evaluation_periods, self._plus_third), at_s)
        before = AlarmState[alarm.state_value]
        after = evaluate(rule, points, before)
        known = [point for point in points if point is not None]
        if after != before:
            old = {"stateValue": before.name, "stateReason": alarm.state_reason}
            reason, data = _reason(rule, known), self._reason_data(rule, on, points, at_s)
            new = {"stateValue": after.name, "stateReason": reason, "stateReasonData": data}
            with self._services.lock:
                alarm.update_state(reason, json.dumps(data), after.name)
                alarm.state_updated_timestamp = self._clock.now()
            self._note(
                name,
                "StateUpdate",
                f"Alarm updated from {before.name} to {after.name}",
                {"version": "1.0", "oldState": old, "newState": new},
            )
        if not alarm.actions_enabled:
            return
        actions = {
            AlarmState.OK: alarm.ok_actions,
            AlarmState.ALARM: alarm.alarm_actions,
            AlarmState.INSUFFICIENT_DATA: alarm.insufficient_data_actions,
        }[after]
        scales = bool(known) and runs_action(
            after != before, at_s, self._ran_s.get(name, -math.inf)
        )
        for action in actions:
            if ":scalingPolicy:" in action:
                if scales:
                    self._ran_s[name] = at_s
                    came = self._scale(action, name, known[-1], alarm.threshold)
                    self._note(name, "Action", came)
            elif after != before and ":sns:" in action:
                message = json.dumps(
                    {
                        "AlarmName": name,
                        "OldStateValue": before.name,
                        "NewStateValue": after.name,
                        "NewStateReason": alarm.state_reason,
                    }
                )
                self._services.perform(publish(action, message))
                self._note(name, "Action", f"Successfully executed action {action}")

    def _delay_s(self, on: MetricStat) -> float:
        """How long after a period's end its datapoint is visible."""
        if on.series.namespace in cloudwatch.PUBLISHED_NAMESPACES:
            return self._unsettled.metric_delay_s
        return self._unsettled.announcement_delay_s

    def _points(self, on: MetricStat, count: int, at_s: float) -> list[float | None]:
        """The newest visible periods, oldest first; a product has a value where both metrics do."""
        first, *second = (
            self._cloudwatch.metrics.periods(
                series, on.statistic, on.period_s, count, at_s - self._delay_s(on)
            )
            for series in (on.series, on.times)
            if series is not None
        )
        if not second:
            return first
        return [
            None if a is None or b is None else a * b for a, b in zip(first, second[0], strict=True)
        ]

    def _reason_data(
        self, rule: AlarmRule, on: MetricStat, points: Sequence[float | None], at_s: float
    ) -> dict[str, object]:
        """The data of an evaluation, as CloudWatch writes it (AWS CLI, describe-alarm-history).

        `evaluatedDatapoints` has the newest period first, and no value where there is no datapoint
        (public records of CloudWatch's events; the reference does not describe it).
        """
        end_s = last_end_s(on.period_s, at_s - self._delay_s(on))
        known = [point for point in points if point is not None]
        newest_first = list(reversed(points))[: rule.evaluation_periods]
        return {
            "version": "1.0",
            "queryDate": _iso(at_s),
            "startDate": _iso(end_s - rule.evaluation_periods * on.period_s),
            "statistic": on.statistic,
            "period": on.period_s,
            "recentDatapoints": known[-rule.evaluation_periods :],
            "threshold": rule.threshold,
            "evaluatedDatapoints": [
                {"timestamp": _iso(end_s - age * on.period_s)}
                | ({} if point is None else {"value": point})
                for age, point in enumerate(newest_first, start=1)
            ],
        }

    def _note(
        self, name: str, kind: str, summary: str, data: Mapping[str, object] | None = None
    ) -> None:
        with self._lock:
            self._cloudwatch.alarm_history.append(
                {
                    "AlarmName": name,
                    "AlarmType": "MetricAlarm",
                    "Timestamp": self._clock.now(),
                    "HistoryItemType": kind,
                    "HistorySummary": summary,
                    **({} if data is None else {"HistoryData": json.dumps(data)}),
                }
            )


def _iso(at_s: float) -> str:
    at = datetime.fromtimestamp(at_s, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "+0000")


def _document(alarm: Alarm) -> Document:
    """The members of DescribeAlarms that an evaluation needs."""
    named = [{"Name": str(each.name), "Value": str(each.value)} for each in alarm.dimensions]
    document = {member: getattr(alarm, snake(member)) for member in _MEMBERS}
    queries = [_query(query) for query in alarm.metric_data_queries or ()]
    return document | {"Dimensions": named, "Metrics": queries}


def _query(query: MetricDataQuery) -> Document:
    """One of an expression's queries, as DescribeAlarms gives it."""
    document = {"Id": query.id, "Expression": query.expression}
    if query.metric_stat is None:
        return document
    metric = query.metric_stat.metric
    series = {
        "Namespace": metric.namespace,
        "MetricName": metric.metric_name,
        "Dimensions": [{"Name": str(d.name), "Value": str(d.value)} for d in metric.dimensions],
    }
    stat = {"Period": query.metric_stat.period, "Stat": query.metric_stat.stat}
    return document | {"MetricStat": {"Metric": series, **stat}}


def _condition(watched: _Watched) -> str:
    """The condition on which it fires, in short."""
    alarm, on = watched.alarm, watched.on
    if alarm.rule is not None:
        return alarm.rule
    if alarm.metric_data_queries and (on is None or on.times is None):
        return "an expression"
    sign = _SIGNS.get(alarm.comparison_operator, alarm.comparison_operator)
    enough = alarm.datapoints_to_alarm or alarm.evaluation_periods
    name, period_s = alarm.metric_name, alarm.period
    if on is not None and on.times is not None:
        name, period_s = f"{on.series.name} * {on.times.name}", on.period_s
    return (
        f"{name} {sign} {alarm.threshold:g} in {enough} of "
        f"{alarm.evaluation_periods} x {period_s} s"
    )


def phase_s(name: str, every_s: int = MINUTE_S) -> int:
    """The second of its interval at which an alarm is evaluated; the same for the same name
    (docs/aws-facts.md#alarms).

    Args:
        name: the alarm's.
        every_s: how often it is evaluated.
    """
    return zlib.crc32(name.encode()) % every_s


def _reason(rule: AlarmRule, known: list[float]) -> str:
    if not known:
        return "Insufficient Data: no datapoints were received"
    shown = ", ".join(f"{value:g}" for value in known[-rule.evaluation_periods :])
    return (
        f"Threshold Crossed: {rule.datapoints_to_alarm} out of the last "
        f"{rule.evaluation_periods} datapoints [{shown}] against {rule.comparison} "
        f"{rule.threshold:g}"
    )
