"""What each estimator needs, and what it says where the records do not tell."""

from dataclasses import replace
from typing import Any

import pytest

from async_inference.calibration.estimators import Start, estimate, lognormal
from async_inference.calibration.records import (
    Activity,
    Alarm,
    Minutes,
    Records,
    StateChange,
    activity,
    state_change,
)
from async_inference.scaling.plan import Metric

T0 = 1_790_000_040
HOUR_S = 3600
REFUSED = (
    "Failed to set desired instance count to 3. Reason: Cannot update in-progress endpoint "
    '"arn:aws:sagemaker:us-east-1:123456789012:endpoint/sdxl".'
)


def by_alarm(name: str) -> str:
    return f"monitor alarm {name} in state ALARM triggered policy {name}-policy"


def asked(at_s: float, took_s: float, desired: int, **more: Any) -> Activity:
    given: dict[str, Any] = {"status": "Successful", "cause": by_alarm("wake"), "message": ""}
    return Activity(
        started_s=T0 + at_s, ended_s=T0 + at_s + took_s, desired=desired, **given | more
    )


def cycles(count: int = 8, setup_s: float = 300.0) -> list[Activity]:
    """Out and in again, an hour each."""
    found = []
    for number in range(count):
        found.append(asked(number * HOUR_S, setup_s, 1))
        found.append(asked(number * HOUR_S + 1800, 60, 0))
    return found


def counted(activities: list[Activity], minutes: int = 8 * 60) -> Minutes:
    """The metrics of an endpoint whose instances these activities tell of, and that is idle."""
    every = [T0 + minute * 60 for minute in range(-60, minutes)]
    instances = {}
    for at in every:
        done = [each for each in activities if each.ended_s and each.ended_s <= at + 30]
        desired = done[-1].desired if done else 0
        if desired:
            instances[at] = float(desired)
    return Minutes(
        queue={Metric.BACKLOG_SIZE: dict.fromkeys(every, 0.0)},
        samples=dict.fromkeys(every, 1.0),
        instances=instances,
    )


def read(activities: list[Activity] | None = None, **more: Any) -> Records:
    own = cycles() if activities is None else activities
    given: dict[str, Any] = {
        "endpoint": "sdxl",
        "since_s": T0 - 3600,
        "read_s": T0 + 8 * HOUR_S,
        "created_s": T0 - 7200,
        "configuration": "sdxl-config-1",
        "configuration_created_s": T0 - 7300,
        "concurrency": 1,
        "activities": tuple(own),
        "minutes": counted(own),
    }
    return Records(**given | more)


def told(records: Records) -> str:
    return "\n".join(estimate(records).notes)


def test_eight_starts_tell_the_setup_time_and_eight_scale_ins_their_own():
    found = estimate(read())

    assert found["setup_s"].value == pytest.approx(300)
    assert found["setup_s"].observations == 8
    assert found["scale_in_takes_s"].value == 60


def test_a_scale_out_of_several_takes_as_long_as_its_slowest():
    """Of four, the slowest takes 1.1 times the median at a sigma of 0.1."""
    alone = [Start(0, took_s, (0.0,)) for took_s in (270, 285, 300, 315, 330)]
    several = [Start(0, took_s, (0.0,) * 4) for took_s in (310, 325, 335, 345)]

    median_s, sigma = lognormal([*alone, *several], [1.0] * 9)

    assert median_s == pytest.approx(300, rel=0.03)
    assert 0.05 < sigma < 0.12


def test_two_starts_are_not_enough():
    found = estimate(read(cycles(2)))

    assert found["setup_s"].value is None
    assert found["setup_s"].because == "there are 2 starts, and 3 are needed"


def test_a_start_that_waited_for_capacity_is_left_out_and_said():
    slow = [*cycles(7), asked(7 * HOUR_S, 2040, 1)]

    found = estimate(read(slow))

    assert found["setup_s"].value == pytest.approx(300)
    assert "1 start left out that took up to 2040 s: AWS was short of capacity" in found.notes


def test_an_endpoint_that_never_scaled_says_so_and_invents_nothing():
    found = estimate(read([], minutes=Minutes()))

    assert {each.value for each in found.findings} == {None}
    assert "AWS has no record that the endpoint ever scaled" in "\n".join(found.notes)
    assert "no datapoint of ApproximateBacklogSize" in "\n".join(found.notes)


def test_what_belongs_to_an_earlier_endpoint_of_the_name_is_left_out():
    records = read(created_s=T0 + 4 * HOUR_S - 60, configuration_created_s=T0 + 4 * HOUR_S - 90)

    found = estimate(records)

    assert found["setup_s"].observations == 4
    assert "8 activities belong to an earlier endpoint of this name" in told(records)


def test_starts_of_an_earlier_configuration_are_left_out():
    records = read(configuration_created_s=T0 + 4 * HOUR_S - 90)

    found = estimate(records)

    assert found["setup_s"].observations == 4
    assert "4 starts of an earlier configuration left out" in told(records)


def test_a_first_start_that_took_unlike_the_others_is_told_apart():
    """The image was not cached yet; its creation lies before the metrics that were read."""
    own = [asked(0, 540, 1), asked(1800, 60, 0), *cycles(8)[2:]]
    # The creation itself left no datapoint of an instance.
    records = read(own, created_s=T0 - 600, minutes=replace(counted(own), instances={}))

    found = estimate(records)

    assert found["first_setup_s"].value == 540
    assert found["setup_s"].value == pytest.approx(300)


def test_a_creation_whose_instance_went_before_it_was_counted_tells_no_first_start():
    own = [asked(-1500, 60, 0), *cycles()]
    minutes = replace(counted(own), instances={T0 + 1200: 1.0})

    assert estimate(read(own, created_s=T0 - 2400, minutes=minutes))["first_setup_s"].value is None


def test_a_refused_second_change_is_evidence_and_one_outside_a_change_is_none():
    during = asked(100, 0, 3, status="Failed", message=REFUSED)
    after = asked(1000, 0, 3, status="Failed", message=REFUSED)

    within = estimate(read([*cycles(), during]))["capacity_change_in_progress"]
    outside = estimate(read([*cycles(), after]))["capacity_change_in_progress"]

    assert (within.value, within.observations) == ("refused", 1)
    assert outside.value is None


def test_changes_that_overlapped_and_a_refusal_contradict_each_other():
    overlapping = [asked(0, 400, 1), asked(100, 300, 3), *cycles()[1:]]
    refused = asked(HOUR_S * 2 + 100, 0, 3, status="Failed", message=REFUSED)

    finding = estimate(read([*overlapping, refused]))["capacity_change_in_progress"]

    assert finding.value is None
    assert "contradict each other: 1 x refused, 1 x allowed" in finding.because


def test_an_end_that_was_noted_late_is_no_overlap():
    """The instance was in service when the second change began, as the metrics show."""
    own = [asked(0, 300, 1), asked(210, 300, 3), asked(1800, 60, 0), *cycles()[2:]]
    minutes = counted(own)
    early = {**minutes.instances, T0 + 180: 1.0, T0 + 240: 1.0}

    finding = estimate(read(own, minutes=replace(minutes, instances=early)))

    assert finding["capacity_change_in_progress"].value is None


def test_a_persons_own_change_is_told_and_the_next_change_counted_from_what_was_seen():
    """Nobody's activity tells of it: UpdateEndpointWeightsAndCapacities leaves none."""
    own = cycles(4)
    minutes = counted(own)
    by_hand = dict.fromkeys(range(T0 + 2400, T0 + 3600, 60), 2.0)
    records = read(own, minutes=replace(minutes, instances={**minutes.instances, **by_hand}))

    assert (
        "0 instances were requested and 2 in service without an activity, 7.3 hours before this "
        "was read: somebody changed the capacity by hand" in told(records)
    )
    # From two to one is no start.
    assert estimate(records)["setup_s"].observations == 3


def test_gaps_in_the_metrics_are_counted():
    records = read()
    backlog = dict(records.minutes.backlog)
    for minute in range(T0 + 600, T0 + 900, 60):
        del backlog[minute]
    gappy = replace(records.minutes, queue={Metric.BACKLOG_SIZE: backlog})

    assert "5 minutes without a datapoint of ApproximateBacklogSize" in told(
        replace(records, minutes=gappy)
    )


def test_a_wrong_clock_of_this_machine_is_told():
    assert "this machine's clock is 300 s ahead of AWS's" in told(read(skew_s=300.0))


def test_clocks_of_two_services_that_differ_are_told():
    rang = [StateChange("wake", T0 + n * HOUR_S + 40, "OK", "ALARM", None) for n in range(8)]

    assert "activities began up to 40 s before the alarm" in told(read(changes=tuple(rang)))


def test_what_could_not_be_read_is_told_first():
    records = read(unread=("cloudwatch:DescribeAlarmHistory: is not permitted",))

    assert estimate(records).notes[0].startswith("cloudwatch:DescribeAlarmHistory")


def test_samples_that_vary_or_are_means_already_are_no_evidence():
    records = read()
    varying = {minute: 1.0 + number % 3 for number, minute in enumerate(records.minutes.samples)}
    means = dict.fromkeys(records.minutes.backlog, 1.5)

    def finding(**changed: object):
        minutes = replace(records.minutes, **changed)
        return estimate(replace(records, minutes=minutes))["samples_per_minute"]

    assert finding().value == 1
    assert "SampleCount varies" in finding(samples=varying).because
    assert "means already" in finding(queue={Metric.BACKLOG_SIZE: means}).because


def test_several_alarms_narrow_the_delay_of_metrics_down():
    """Delay 70 s: an alarm at second 5 sees a minute 125 s old, one at second 20 one 80 s old."""
    alarms = tuple(Alarm(n, Metric.BACKLOG_SIZE, 1, 60, 1) for n in ("a", "b"))
    hour = range(T0, T0 + 8 * HOUR_S, HOUR_S)
    seen = [
        *(StateChange("a", at + 60 + 125, "OK", "ALARM", at) for at in hour),
        *(StateChange("b", at + 60 + 80, "OK", "ALARM", at) for at in hour),
    ]

    finding = estimate(read(alarms=alarms, changes=tuple(seen)))["metric_delay_s"]

    assert (finding.low, finding.high) == (65.0, 80.0)
    assert finding.value == 72


def test_thresholds_of_target_tracking_tell_its_ratio_and_unusual_periods_are_told():
    arn = "arn:aws:autoscaling:us-east-1:1:scalingPolicy:1:resource/sagemaker/x:policyName/t"
    high = Alarm("TargetTracking-x-AlarmHigh-1", "m", 3.0, 60, 3, (arn,))
    low = Alarm("TargetTracking-x-AlarmLow-1", "m", 2.9, 60, 15, (arn,))
    records = read(alarms=(high, low))

    assert estimate(records)["scale_in_ratio"].value == 0.9667
    assert "target tracking looks at 10 minutes" in told(
        replace(records, alarms=(high, replace(low, evaluation_periods=10)))
    )


TRACKING = Alarm("TargetTracking-x-AlarmHigh-1", "m", 3.0, 60, 3)


def rang(at_s: float, until_s: float) -> tuple[StateChange, StateChange]:
    name = TRACKING.name
    return (
        StateChange(name, T0 + at_s, "OK", "ALARM", None),
        StateChange(name, T0 + until_s, "ALARM", "OK", None),
    )


def test_target_tracking_that_rang_at_zero_and_did_nothing_never_leaves_it():
    records = read(alarms=(TRACKING,), changes=rang(3000, 3900))

    assert estimate(records)["target_tracking_from_zero"].value == "never"


def test_target_tracking_that_could_not_leave_zero_tells_nothing():
    """A schedule had closed the endpoint, the maximum was reached, or AWS was short of capacity."""
    own = cycles()
    closed = [*own[:1], replace(own[1], cause="maximum capacity was set to 0"), *own[2:]]
    at_maximum = [*own, asked(3100, 0, 0, not_scaled=("AlreadyAtMaxCapacity",))]
    failed = [*own, asked(3100, 0, 1, status="Failed", message="Insufficient capacity")]

    for activities in (closed, at_maximum, failed):
        records = read(activities, alarms=(TRACKING,), changes=rang(3000, 3900))
        assert estimate(records)["target_tracking_from_zero"].value is None


def test_containers_logs_part_a_start():
    began = tuple(T0 + n * HOUR_S + 120.0 for n in range(8))

    found = estimate(read(containers=(*began, T0 + 1000.0)))

    assert found["setup_until_container_s"].value == 120
    assert found["setup_in_container_s"].value == 180


def test_an_activity_and_a_state_change_are_read_as_aws_writes_them():
    """Activity: AAS API reference; history: as public records of CloudWatch have it."""
    document: Any = {
        "Description": "Setting desired instance count to 2.",
        "Cause": by_alarm("wake"),
        "StartTime": "2026-11-28T10:00:00+00:00",
        "EndTime": "2026-11-28T10:05:30+00:00",
        "StatusCode": "Successful",
    }
    read_activity = activity(document)
    change = state_change(
        {
            "AlarmName": "wake",
            "HistoryData": '{"version":"1.0","oldState":{"stateValue":"OK"},"newState":'
            '{"stateValue":"ALARM","stateReasonData":{"version":"1.0",'
            '"queryDate":"2026-11-28T10:02:44.984+0000","recentDatapoints":[1.0],'
            '"evaluatedDatapoints":[{"timestamp":"2026-11-28T10:01:00.000+0000"},'
            '{"timestamp":"2026-11-28T10:00:00.000+0000","sampleCount":1.0,"value":1.0}]}}}',
        }
    )

    assert (read_activity.desired, read_activity.alarm) == (2, "wake")
    assert read_activity.ended_s == read_activity.started_s + 330
    assert change is not None
    assert change.newest_s is not None
    assert change.at_s - change.newest_s == pytest.approx(164.984)
    assert state_change({"AlarmName": "wake", "HistoryData": "{}"}) is None, "set by hand"
