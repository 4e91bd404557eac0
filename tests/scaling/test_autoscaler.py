"""Application Auto Scaling's rules and worked examples (docs/aws-facts.md#scaling)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_inference.scaling.autoscaler import Autoscaler, Request, Verdict, tracking_alarms
from async_inference.scaling.plan import (
    DOCUMENTED,
    AdjustmentType,
    Comparison,
    Metric,
    MetricAlarm,
    StepAdjustment,
    StepScalingPolicy,
    TargetTrackingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

CHANGE = AdjustmentType.CHANGE_IN_CAPACITY
PERCENT = AdjustmentType.PERCENT_CHANGE_IN_CAPACITY
EXACT = AdjustmentType.EXACT_CAPACITY


def steps(
    *adjustments: StepAdjustment,
    kind: AdjustmentType = CHANGE,
    name: str = "steps",
    cooldown_s: int = 0,
    magnitude: int | None = None,
) -> StepScalingPolicy:
    return StepScalingPolicy(
        name=name,
        alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, threshold=60),
        adjustment_type=kind,
        steps=adjustments,
        cooldown_s=cooldown_s,
        min_adjustment_magnitude=magnitude,
    )


def add(count: int, kind: AdjustmentType = CHANGE, **more) -> StepScalingPolicy:
    return steps(StepAdjustment(lower_bound=0, adjustment=count), kind=kind, **more)


def remove(count: int, **more) -> StepScalingPolicy:
    return steps(StepAdjustment(upper_bound=0, adjustment=-count), **more)


def target(desired: int, minimum: int = 0, maximum: int = 100, **unsettled) -> Autoscaler:
    return Autoscaler(minimum, maximum, desired, Unsettled(**unsettled))


def ask(scaler: Autoscaler, policy: StepScalingPolicy, now_s: float = 0.0):
    """The policy's alarm is exactly at its threshold, which both directions hold."""
    (decision,) = scaler.decide([Request(policy, 60.0, 60.0)], now_s)
    return decision


def test_the_worked_example_of_percentages_goes_10_11_14_13_10():
    """AAS user guide: +10 %, +30 %, -10 %, -30 %, each rounded by its own rule."""
    capacities = [10]
    scaler = target(10)
    for percent in (10, 30, -10, -30):
        policy = steps(
            StepAdjustment(lower_bound=0, adjustment=percent), kind=PERCENT, name=f"{percent}%"
        )
        ask(scaler, policy, now_s=1000.0 * len(capacities))
        scaler.in_service(scaler.desired, 1000.0 * len(capacities))
        capacities.append(scaler.desired)

    assert capacities == [10, 11, 14, 13, 10]


@pytest.mark.parametrize(
    ("current", "percent", "after"),
    [(10, 25, 12), (3, 10, 4), (3, -10, 2), (10, -25, 8), (0, 50, 0)],
)
def test_fractions_round_towards_zero_above_one_and_away_from_it_below(current, percent, after):
    scaler = target(current)

    ask(scaler, add(percent, PERCENT))

    assert scaler.desired == after


def test_the_least_magnitude_applies_to_a_percentage_after_rounding():
    scaler = target(4)

    ask(scaler, add(25, PERCENT, magnitude=2))

    assert scaler.desired == 6


def test_exact_capacity_works_both_ways():
    """So that one meant for scale-in starts an instance (docs/aws-facts.md#step-scaling)."""
    for current in (0, 5):
        scaler = target(current)
        ask(scaler, add(1, EXACT))
        assert scaler.desired == 1


@pytest.mark.parametrize(("metric", "added"), [(60, 1), (69.9, 1), (70, 2), (80, 3), (500, 3)])
def test_above_the_threshold_a_step_holds_its_lower_bound_and_not_its_upper(metric, added):
    policy = steps(
        StepAdjustment(lower_bound=0, upper_bound=10, adjustment=1),
        StepAdjustment(lower_bound=10, upper_bound=20, adjustment=2),
        StepAdjustment(lower_bound=20, adjustment=3),
    )
    scaler = target(10)

    scaler.decide([Request(policy, metric, 60.0)], 0.0)

    assert scaler.desired == 10 + added


@pytest.mark.parametrize(("metric", "removed"), [(50, 2), (50.1, 1), (40, 2), (39, 2), (59, 1)])
def test_below_the_threshold_a_step_holds_its_upper_bound_and_not_its_lower(metric, removed):
    policy = steps(
        StepAdjustment(lower_bound=-10, upper_bound=0, adjustment=-1),
        StepAdjustment(upper_bound=-10, adjustment=-2),
    )
    scaler = target(10)

    scaler.decide([Request(policy, metric, 60.0)], 0.0)

    assert scaler.desired == 10 - removed


def test_a_breach_that_no_step_covers_changes_nothing_and_says_so():
    scaler = target(3)

    (decision,) = scaler.decide([Request(remove(1), 75.0, 60.0)], 0.0)

    assert decision.verdict == Verdict.NO_STEP_COVERS
    assert decision.reason == "policy steps has no step for a breach of 15"


def test_a_larger_scale_out_within_the_cooldown_adds_the_difference_only():
    """AAS user guide: +2 succeeded, then +3 within the cooldown adds one."""
    policy = steps(
        StepAdjustment(lower_bound=0, upper_bound=10, adjustment=2),
        StepAdjustment(lower_bound=10, adjustment=3),
        cooldown_s=300,
    )
    scaler = target(10)
    scaler.decide([Request(policy, 61.0, 60.0)], 0.0)
    scaler.in_service(12, 60.0)

    scaler.decide([Request(policy, 71.0, 60.0)], 120.0)

    assert scaler.desired == 13


def test_the_same_scale_out_within_the_cooldown_adds_nothing_and_after_it_adds_again():
    policy, scaler = add(2, cooldown_s=300), target(10)
    ask(scaler, policy, 0.0)
    scaler.in_service(12, 100.0)

    within = ask(scaler, policy, 399.0)
    after = ask(scaler, policy, 400.0)

    assert within.verdict == Verdict.SCALE_OUT_COOLDOWN
    assert within.reason == "policy steps is in cooldown for 1 s more"
    assert after.desired == 14


def test_a_scale_outs_cooldown_starts_when_its_instances_are_in_service():
    policy, scaler = add(1, cooldown_s=30), target(0)
    ask(scaler, policy, 0.0)

    still_starting = ask(scaler, policy, 600.0)
    scaler.in_service(1, 700.0)

    assert still_starting.reason == "the instances that policy steps added are still starting"
    assert ask(scaler, policy, 729.0).verdict == Verdict.SCALE_OUT_COOLDOWN
    assert ask(scaler, policy, 730.0).desired == 2


def test_a_scale_in_is_blocked_until_its_cooldown_ends():
    policy, scaler = remove(1, cooldown_s=300), target(5)
    ask(scaler, policy, 0.0)

    assert ask(scaler, policy, 299.0).verdict == Verdict.SCALE_IN_COOLDOWN
    assert ask(scaler, policy, 300.0).desired == 3


def test_a_scale_out_cancels_the_cooldown_of_a_scale_in():
    less, more, scaler = remove(1, name="less", cooldown_s=300), add(2, name="more"), target(5)
    ask(scaler, less, 0.0)

    assert ask(scaler, more, 60.0).desired == 6
    scaler.in_service(6, 65.0)
    assert ask(scaler, less, 70.0).desired == 5


def test_a_larger_scale_out_is_refused_while_instances_of_another_still_start():
    """SageMaker: "Cannot update in-progress endpoint" (docs/aws-facts.md#one-change-at-a-time)."""
    scaler = target(0)
    ask(scaler, add(1, name="few"), 0.0)

    refused = ask(scaler, add(4, name="many"), 240.0)
    scaler.in_service(1, 300.0)
    after = ask(scaler, add(4, name="many"), 300.0)

    assert (refused.verdict, refused.desired) == (Verdict.CHANGE_IN_PROGRESS, 1)
    assert refused.reason == (
        "Cannot update in-progress endpoint: the change to 1 instances is still in progress"
    )
    assert after.desired == 5


def test_a_refused_change_starts_no_cooldown():
    scaler, more = target(0), add(2, name="more", cooldown_s=300)
    ask(scaler, add(1, name="few"), 0.0)
    ask(scaler, more, 60.0)

    scaler.in_service(1, 120.0)

    assert ask(scaler, more, 120.0).desired == 3


def test_a_scale_in_keeps_the_endpoint_updating_for_as_long_as_the_reading_says():
    """scale_in_takes_s, UNSETTLED: the default is 60 s."""
    scaler = target(5, scale_in_takes_s=90)
    ask(scaler, remove(1, name="less"), 0.0)

    assert ask(scaler, add(1, name="more"), 89.0).verdict == Verdict.CHANGE_IN_PROGRESS
    assert ask(scaler, add(1, name="more"), 90.0).desired == 5


def test_a_scale_in_is_refused_while_instances_start():
    scaler = target(2)
    ask(scaler, add(1, name="more"), 0.0)

    assert ask(scaler, remove(1, name="less"), 60.0).verdict == Verdict.CHANGE_IN_PROGRESS


def test_whether_changes_in_progress_refuse_others_is_a_parameter():
    scaler = target(0, capacity_change_in_progress="allowed")
    ask(scaler, add(1, name="few"), 0.0)

    assert ask(scaler, add(4, name="many"), 60.0).desired == 5


def test_bounds_hold_at_once_and_the_capacity_follows_when_the_change_in_progress_is_done():
    scaler = target(0)
    ask(scaler, add(1), 0.0)

    assert not scaler.set_bounds(3, 5, 60.0)
    assert (scaler.minimum, scaler.desired) == (3, 1)
    assert not scaler.clamp(299.0)
    scaler.in_service(1, 300.0)
    assert scaler.clamp(300.0)
    assert scaler.desired == 3


def test_of_several_policies_the_largest_capacity_wins_for_out_and_for_in():
    few, many = add(1, name="few"), add(4, name="many")
    out = target(5)
    decisions = out.decide([Request(few, 60.0, 60.0), Request(many, 60.0, 60.0)], 0.0)
    assert out.desired == 9
    assert [decision.verdict for decision in decisions] == [Verdict.OUTBID, Verdict.SCALED]

    gentle, harsh = remove(1, name="gentle"), remove(3, name="harsh")
    into = target(5)
    into.decide([Request(harsh, 60.0, 60.0), Request(gentle, 60.0, 60.0)], 0.0)
    assert into.desired == 4


def test_a_scale_out_beats_a_scale_in():
    scaler = target(5)

    scaler.decide(
        [Request(remove(1, name="in"), 60.0, 60.0), Request(add(1, name="out"), 60.0, 60.0)], 0.0
    )

    assert scaler.desired == 6


@pytest.mark.parametrize(
    ("policy", "desired", "verdict", "reason"),
    [
        (add(1), 5, Verdict.AT_MAXIMUM, "the capacity is at its maximum of 5"),
        (remove(1), 1, Verdict.AT_MINIMUM, "the capacity is at its minimum of 1"),
    ],
)
def test_at_a_bound_nothing_changes_and_the_reason_says_so(policy, desired, verdict, reason):
    decision = ask(target(desired, 1, 5), policy)

    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_bounds_cut_what_a_policy_asks_for():
    scaler = target(4, 0, 5)

    ask(scaler, add(3))

    assert scaler.desired == 5


def test_new_bounds_clamp_the_capacity_at_once_and_know_no_cooldown():
    """Scheduled actions (docs/aws-facts.md#scheduled-actions)."""
    policy, scaler = remove(1, cooldown_s=300), target(5)
    ask(scaler, policy, 0.0)

    assert scaler.set_bounds(0, 2, 60.0)
    assert scaler.desired == 2
    assert scaler.set_bounds(3, 5, 120.0)
    assert scaler.desired == 3
    assert not scaler.set_bounds(0, 5, 180.0)


def tracking(**changes) -> TargetTrackingPolicy:
    return TargetTrackingPolicy(name="track", target=3.0).model_copy(update=changes)


def test_target_tracking_alarms_after_3_minutes_above_and_15_below_nine_tenths():
    high, low = tracking_alarms(tracking(), Unsettled())

    assert (high.comparison, high.threshold) == (Comparison.GREATER, 3.0)
    assert (high.datapoints_to_alarm, high.evaluation_periods) == (3, 3)
    assert low is not None
    assert (low.comparison, low.threshold) == (Comparison.LESS, pytest.approx(2.7))
    assert (low.datapoints_to_alarm, low.evaluation_periods) == (15, 15)


def test_where_the_low_alarm_lies_is_a_parameter():
    _, low = tracking_alarms(tracking(), Unsettled(scale_in_ratio=2.9 / 3))

    assert low is not None
    assert low.threshold == pytest.approx(2.9)


def test_scale_in_can_be_disabled():
    assert tracking_alarms(tracking(disable_scale_in=True), Unsettled())[1] is None


@pytest.mark.parametrize(("metric", "desired"), [(3.1, 3), (6.0, 4), (7.0, 5), (2.0, 2)])
def test_tracking_out_asks_for_the_capacity_in_proportion_rounded_up(metric, desired):
    scaler = target(2)

    scaler.decide([Request(tracking(), metric, 3.0)], 0.0)

    assert scaler.desired == desired


@pytest.mark.parametrize(("metric", "desired"), [(0.0, 0), (0.6, 1), (1.6, 3), (4.0, 5)])
def test_tracking_in_removes_in_proportion_and_never_adds(metric, desired):
    scaler = target(5)

    scaler.decide([Request(tracking(), metric, 2.7)], 0.0)

    assert scaler.desired == desired


def test_whether_target_tracking_leaves_zero_is_a_parameter():
    """target_tracking_from_zero, UNSETTLED: the default is the pessimistic reading."""
    never = target(0)
    (decision,) = never.decide([Request(tracking(), 7.0, 3.0)], 0.0)
    assert (never.desired, decision.verdict) == (0, Verdict.NEVER_FROM_ZERO)

    page = target(0, target_tracking_from_zero="async_page")
    page.decide([Request(tracking(), 7.0, 3.0)], 0.0)
    assert page.desired == 3


def test_a_restart_keeps_the_cooldowns():
    policy, before = remove(1, cooldown_s=300), target(5)
    ask(before, policy, 0.0)
    after = target(before.desired)

    after.restore([policy], before.cooldowns())

    assert ask(after, policy, 299.0).verdict == Verdict.SCALE_IN_COOLDOWN


POLICIES = (
    add(2, name="out", cooldown_s=60),
    remove(1, name="in", cooldown_s=120),
    add(30, PERCENT, name="percent", cooldown_s=30),
    *DOCUMENTED.policies,
)


@given(
    events=st.lists(
        st.tuples(
            st.lists(st.sampled_from(POLICIES), min_size=1, max_size=5, unique_by=lambda p: p.name),
            st.floats(0, 50),
            st.floats(0, 120),
            st.booleans(),
        ),
        max_size=40,
    ),
    minimum=st.integers(0, 3),
    width=st.integers(0, 6),
)
def test_the_capacity_stays_within_its_bounds_whatever_happens(events, minimum, width):
    scaler = target(minimum, minimum, minimum + width)
    now_s = 0.0
    for policies, metric, later_s, all_in_service in events:
        now_s += later_s
        decisions = scaler.decide([Request(p, metric, 3.0) for p in policies], now_s)
        assert minimum <= scaler.desired <= minimum + width
        assert sum(decision.verdict == Verdict.SCALED for decision in decisions) <= 1
        assert all(decision.reason for decision in decisions)
        if all_in_service:
            scaler.in_service(scaler.desired, now_s)
    assert not any(math.isnan(end_s) for _, *ends in scaler.cooldowns().values() for end_s in ends)
