"""The status of an embedded AWS: what happens now, and the history for charts.

Backlog, age and answers are SageMaker's metrics. Capacity and alarm states are sampled here once a
simulated minute, since AWS publishes no metric of them.
"""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import NotRequired, TypedDict

from async_inference.aws_names import QUEUE_METRICS, EndpointStatus, Series
from async_inference.local_aws.clock import Clock
from async_inference.local_aws.fleet.endpoint import Endpoint, InstanceReport
from async_inference.local_aws.services.alarms import AlarmReport, Alarms, Band
from async_inference.local_aws.services.autoscaling import Activity, ApplicationAutoScaling
from async_inference.local_aws.services.metrics import (
    KEPT_MINUTES,
    MINUTE_S,
    Datapoint,
    MetricStore,
)
from async_inference.local_aws.services.sagemaker import SageMaker
from async_inference.scaling.alarms import AlarmState

HISTORY_POINTS = 360
"""The most columns of a chart; in a longer window each column covers several minutes."""
SHOWN_ACTIVITIES = 50

_CAPACITY = "capacity"
_ALARM = "alarm"


class Refusal(TypedDict):
    """A change that was not made, and why; repetitions extend it."""

    ResourceId: str
    Description: str
    Cause: str
    StartTime: float
    EndTime: float


class History(TypedDict):
    """An endpoint's charts: a value for each column, None where nothing was published."""

    start_s: float
    step_s: float
    backlog: list[float | None]
    oldest_age_s: list[float | None]
    asked_for: list[float | None]
    in_service: list[float | None]
    done: list[float | None]
    failed: list[float | None]


class EndpointReport(TypedDict):
    """An endpoint with its queue and instances; the summary is a sentence."""

    status: str
    in_progress_since_s: float | None
    failure_reason: str | None
    configuration: str
    desired: int
    in_service: int
    backlog: int
    busy: int
    oldest_age_s: float | None
    interruptions: int
    instances: list[InstanceReport]
    summary: NotRequired[str]
    history: NotRequired[History]


class RegionReport(TypedDict):
    """A region's endpoints by name, its alarms, and what was scaled and what was not."""

    endpoints: dict[str, EndpointReport]
    alarms: list[AlarmReport]
    activities: list[Activity]
    not_scaled: list[Refusal]


class StatusReport(TypedDict):
    """What `/_local/status` answers; regions by name."""

    now_s: float
    minute_s: float
    regions: dict[str, RegionReport]


class RegionStatus:
    """The status of one region.

    Args:
        clock: the clock of the embedded AWS.
        metrics: what SageMaker published.
        sagemaker, alarms, autoscaling: the region's services.
    """

    def __init__(
        self,
        clock: Clock,
        metrics: MetricStore,
        sagemaker: SageMaker,
        alarms: Alarms,
        autoscaling: ApplicationAutoScaling,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._sagemaker = sagemaker
        self._alarms = alarms
        self._autoscaling = autoscaling
        self._sampled = MetricStore()

    def sample(self) -> None:
        """Keep this minute's capacities and alarm states."""
        now_s = self._clock.now_s()
        for name, endpoint in self._sagemaker.running().items():
            for level, value in (
                ("asked_for", endpoint.desired),
                ("in_service", endpoint.in_service),
            ):
                self._sampled.put(_sampled(_CAPACITY, level, name), now_s, [value])
        for alarm in self._alarms.states():
            state = AlarmState[alarm["state"]].value
            self._sampled.put(_sampled(_ALARM, "state", alarm["name"]), now_s, [state])

    def now(self, minutes: int = 0) -> RegionReport:
        """Endpoints with queue and instances, alarms, and the last scaling activities.

        Args:
            minutes: how much history to add, 0 for none.
        """
        now_s = self._clock.now_s()
        endpoints = {
            name: self._endpoint(name, endpoint, now_s, minutes)
            for name, endpoint in self._sagemaker.running().items()
        }
        alarms = self._alarms.states()
        if minutes:
            for alarm in alarms:
                alarm["bands"] = self._bands(alarm, now_s, minutes)
        activities, refusals = self._activities()
        return {
            "endpoints": endpoints,
            "alarms": alarms,
            "activities": activities,
            "not_scaled": refusals,
        }

    def _activities(self) -> tuple[list[Activity], list[Refusal]]:
        """What was scaled, and what was not, newest first; a repeated refusal is one.

        An alarm runs its policy every minute, so the policy is refused every minute, by its
        cooldown or by SageMaker while another change is in progress.
        """
        found = sorted(self._autoscaling.activities(), key=lambda each: each["StartTime"])
        scaled: list[Activity] = []
        refusals: list[Refusal] = []
        told: dict[tuple[str, str, str], Refusal] = {}
        for activity in found:
            resource_id = activity["ResourceId"]
            failed = activity["StatusCode"] == "Failed"
            if not failed and "NotScaledReasons" not in activity:
                scaled.append(activity)
                told = {key: refusal for key, refusal in told.items() if key[0] != resource_id}
                continue
            why = activity.get("StatusMessage", "") if failed else activity["Description"]
            key = (resource_id, activity["Cause"], why)
            if key not in told:
                told[key] = {
                    "ResourceId": resource_id,
                    "Description": why,
                    "Cause": activity["Cause"],
                    "StartTime": activity["StartTime"],
                    "EndTime": activity["StartTime"],
                }
                refusals.append(told[key])
            told[key]["EndTime"] = activity.get("EndTime", activity["StartTime"])
        return scaled[: -SHOWN_ACTIVITIES - 1 : -1], refusals[: -SHOWN_ACTIVITIES - 1 : -1]

    def _endpoint(
        self, name: str, endpoint: Endpoint, now_s: float, minutes: int
    ) -> EndpointReport:
        instances = endpoint.instances()
        found: EndpointReport = {
            "status": endpoint.status,
            "in_progress_since_s": endpoint.in_progress_since_s,
            "failure_reason": endpoint.failure_reason,
            "configuration": endpoint.configuration,
            "desired": endpoint.desired,
            "in_service": endpoint.in_service,
            "backlog": endpoint.backlog,
            "busy": sum(instance["busy"] for instance in instances),
            "oldest_age_s": endpoint.requests.oldest_age_s,
            "interruptions": endpoint.requests.interruptions,
            "instances": instances,
        }
        found["summary"] = summary(found)
        if minutes:
            found["history"] = self._history(name, endpoint.plan.variant, now_s, minutes)
        return found

    def _history(self, name: str, variant: str, now_s: float, minutes: int) -> History:
        step, first, count = _window(now_s, minutes)
        mine = {"EndpointName": name}

        def column(
            store: MetricStore,
            series: Series,
            value: Callable[[Datapoint], float],
            joined: Callable[[Iterable[float]], float],
        ) -> list[float | None]:
            buckets: list[list[float]] = [[] for _ in range(count)]
            start_s, end_s = first * MINUTE_S, (first + count * step) * MINUTE_S
            for point in store.between(series, start_s, end_s):
                buckets[(point.minute - first) // step].append(value(point))
            return [joined(bucket) if bucket else None for bucket in buckets]

        def published(metric: str, dimensions: dict[str, str]) -> Series:
            return Series.of(QUEUE_METRICS, metric, dimensions)

        both = mine | {"VariantName": variant}

        def level(store: MetricStore, series: Series) -> list[float | None]:
            return column(store, series, lambda point: point.most, max)

        def count_of(metric: str) -> list[float | None]:
            return column(self._metrics, published(metric, both), lambda point: point.total, sum)

        return {
            "start_s": first * MINUTE_S,
            "step_s": step * MINUTE_S,
            "backlog": level(self._metrics, published("ApproximateBacklogSize", mine)),
            "oldest_age_s": level(self._metrics, published("ApproximateAgeOfOldestRequest", mine)),
            "asked_for": level(self._sampled, _sampled(_CAPACITY, "asked_for", name)),
            "in_service": level(self._sampled, _sampled(_CAPACITY, "in_service", name)),
            "done": count_of("InvocationsProcessed"),
            "failed": count_of("InvocationFailures"),
        }

    def _bands(self, alarm: AlarmReport, now_s: float, minutes: int) -> list[Band]:
        """The alarm's states in order; when the newest began, the alarm itself says."""
        _, first, _ = _window(now_s, minutes)
        bands: list[Band] = []
        series = _sampled(_ALARM, "state", alarm["name"])
        for point in self._sampled.between(series, first * MINUTE_S, math.inf):
            state = AlarmState(int(point.total / point.count)).name
            if not bands or bands[-1]["state"] != state:
                bands.append({"state": state, "from_s": point.minute * MINUTE_S, "to_s": now_s})
        if not bands or bands[-1]["state"] != alarm["state"]:
            bands.append({"state": alarm["state"], "from_s": alarm["since_s"], "to_s": now_s})
        for band, following in pairwise(bands):
            band["to_s"] = following["from_s"]
        return bands


def summary(endpoint: EndpointReport) -> str:
    """What happens at an endpoint, as one sentence.

    Args:
        endpoint: as `RegionStatus.now` shows it.
    """
    asked_for, in_service = endpoint["desired"], endpoint["in_service"]
    if endpoint["status"] == EndpointStatus.FAILED:
        return "Failed: it could not be created."
    if endpoint["status"] == EndpointStatus.CREATING:
        return f"Being created: {_count(asked_for, 'instance')} starting." + _blocked(
            endpoint["in_progress_since_s"]
        )
    said = _doing(endpoint["backlog"], endpoint["busy"], asked_for, in_service)
    if in_service and in_service != asked_for:
        said += f" Scaling {'out' if asked_for > in_service else 'in'} to {asked_for}."
    configurations = {instance["configuration"] for instance in endpoint["instances"]}
    arriving = configurations - {endpoint["configuration"]}
    if arriving and endpoint["status"] == EndpointStatus.UPDATING:
        said += f" An update to {', '.join(sorted(arriving))} is under way."
    if endpoint["status"] == EndpointStatus.UPDATING:
        said += _blocked(endpoint["in_progress_since_s"])
    return said


def _blocked(since_s: float | None) -> str:
    if since_s is None:
        return ""
    since = datetime.fromtimestamp(since_s, UTC)
    return f" In progress since {since:%H:%M} UTC; until it is done nothing else can be changed."


def _doing(backlog: int, busy: int, asked_for: int, in_service: int) -> str:
    match backlog > 0, in_service > 0, asked_for > 0:
        case False, False, False:
            return "Asleep: no instances, nothing queued."
        case False, False, True:
            return f"Starting {_count(asked_for, 'instance')}, though nothing is queued."
        case False, True, _:
            return f"Idle: {_count(in_service, 'instance')} in service, nothing queued."
        case True, False, False:
            return f"Starved: {_wait(backlog)}, and no instance is asked for yet."
        case True, False, True:
            return f"Waking up: {_wait(backlog)} for {_count(asked_for, 'instance')} to start."
    work = f"At work: {_count(in_service, 'instance')} on {_count(busy, 'request')}"
    waiting = backlog - busy
    return work + (f"; {waiting} more {_verb(waiting)}." if waiting > 0 else ".")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _wait(backlog: int) -> str:
    return f"{_count(backlog, 'request')} {_verb(backlog)}"


def _verb(requests: int) -> str:
    return "waits" if requests == 1 else "wait"


def _sampled(kind: str, name: str, of: str) -> Series:
    return Series.of(kind, name, {"Name": of})


def _window(now_s: float, minutes: int) -> tuple[int, int, int]:
    """Minutes for each column, the first column's minute, and how many columns up to now.

    Columns start at multiples of their width, so that a later look has the same columns.
    """
    minutes = min(minutes, KEPT_MINUTES)
    step = math.ceil(minutes / HISTORY_POINTS)
    last = int(now_s // MINUTE_S) // step
    count = math.ceil(minutes / step)
    return step, (last - count + 1) * step, count
