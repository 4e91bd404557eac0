"""What clients announce starts instances at once; a wrong announcement costs what is bounded."""

import numpy as np
import pytest

from async_inference.rehearsal.simulator import Assumptions, Run, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import (
    ANNOUNCED,
    Comparison,
    Metric,
    MetricAlarm,
    MissingData,
    ScalingPlan,
    ScalingRules,
    StepAdjustment,
    StepScalingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

pytestmark = pytest.mark.rehearsal
SETUP_S = 300.0
SEEDS = range(12)
ASSUMED = Unsettled()


def announced(period_s: int = 10) -> MetricAlarm:
    return MetricAlarm(
        metric=Metric.REQUESTS_WITHOUT_CAPACITY,
        statistic="Sum",
        threshold=0.5,
        period_s=period_s,
        treat_missing_data=MissingData.NOT_BREACHING,
    )


WAKES = StepScalingPolicy(
    name="wake",
    alarm=MetricAlarm(metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY, threshold=0.5),
    more_alarms=(announced(),),
    steps=(
        StepAdjustment(lower_bound=0, upper_bound=5, adjustment=1),
        StepAdjustment(lower_bound=5, upper_bound=40, adjustment=2),
        StepAdjustment(lower_bound=40, adjustment=5),
    ),
    cooldown_s=300,
)
SLEEPS = StepScalingPolicy(
    name="sleep",
    alarm=MetricAlarm(metric=Metric.BACKLOG_SIZE, comparison=Comparison.LESS, threshold=0.5),
    steps=(StepAdjustment(upper_bound=0, adjustment=-5),),
    cooldown_s=0,
)
PLAN = ScalingRules(policies=(WAKES, SLEEPS)).within(0, 5)
DEAF = ScalingRules(policies=(WAKES.model_copy(update={"more_alarms": ()}), SLEEPS)).within(0, 5)


def ran(
    plan: ScalingPlan,
    arrivals_s: list[float],
    seed: int,
    announces: int | list[int] = 1,
    unsettled: Unsettled = ASSUMED,
) -> Run:
    traffic = Traffic(np.array(arrivals_s), np.full(len(arrivals_s), 25.0), np.asarray(announces))
    return simulate(plan, traffic, Assumptions(setup_s=SETUP_S, unsettled=unsettled), seed)


def first_ask(run: Run) -> tuple[float, int]:
    at_s, desired, _ = next(each for each in run.capacity.tolist() if each[1] > 0)
    return at_s, desired


def test_an_instance_is_asked_for_within_30_s_and_without_the_announcement_within_60_to_210():
    heard = [first_ask(ran(PLAN, [607.0], seed))[0] - 607 for seed in SEEDS]
    deaf = [first_ask(ran(DEAF, [607.0], seed))[0] - 607 for seed in SEEDS]

    assert max(heard) <= 30
    assert min(deaf) >= 60
    assert max(deaf) <= 210


@pytest.mark.parametrize("period_s", [10, 20, 30])
def test_an_alarm_of_a_shorter_period_is_evaluated_as_often(period_s):
    wakes = WAKES.model_copy(update={"more_alarms": (announced(period_s),)})
    plan = ScalingRules(policies=(wakes, SLEEPS)).within(0, 5)

    asked = [first_ask(ran(plan, [607.0], seed))[0] - 607 for seed in SEEDS]

    assert max(asked) <= 2 * period_s + ASSUMED.announcement_delay_s


def test_the_delay_of_announcements_is_a_reading():
    late = Unsettled(announcement_delay_s=30.0)

    asked = [first_ask(ran(PLAN, [607.0], seed, unsettled=late))[0] - 607 for seed in SEEDS]

    assert 30 < max(asked) <= 10 + 30 + 10


def test_a_batch_of_200_asks_for_the_right_number_in_the_first_change():
    arrivals_s = [607.0 + number / 4 for number in range(200)]
    run = ran(PLAN, arrivals_s, 0, announces=[200, *[0] * 199])

    assert first_ask(run)[1] == 5
    assert run.starts == 5


@pytest.mark.parametrize("reading", ["refused", "allowed"])
def test_the_slower_alarm_starts_no_second_instance(reading):
    plan = ScalingRules(policies=(WAKES,)).within(0, 5)
    unsettled = Unsettled(capacity_change_in_progress=reading)

    for seed in SEEDS:
        assert ran(plan, [607.0], seed, unsettled=unsettled).starts == 1


def test_where_changes_overlap_sleep_may_take_the_instance_back_and_the_wait_is_the_usual_one():
    """Its newest point is from before the announcement; the slower alarm then asks again."""
    overlap = Unsettled(capacity_change_in_progress="allowed")

    for seed in SEEDS:
        heard, deaf = (ran(plan, [607.0], seed, unsettled=overlap) for plan in (PLAN, DEAF))
        assert heard.wait_s.max <= deaf.wait_s.max + 60
        assert heard.instance_hours <= deaf.instance_hours + 2 * 60 / 3600


def test_nothing_is_removed_while_what_was_announced_starts():
    """The queue looks empty to Sleep until the request is counted, and the change refuses it."""
    run = ran(PLAN, [607.0], 0, announces=[3])

    serving_s = next(at_s for at_s, _, serving in run.capacity.tolist() if serving)
    assert [desired for at_s, desired, _ in run.capacity.tolist() if at_s < serving_s] == [1]


@pytest.mark.parametrize(("reading", "setups"), [("refused", 5), ("allowed", 5)])
def test_a_wrong_announcement_costs_at_most_the_maximum_until_it_sleeps(reading, setups):
    """A request that says 10,000: all five start, serve nothing more, and are removed."""
    unsettled = Unsettled(capacity_change_in_progress=reading)

    run = ran(PLAN, [607.0], 0, announces=[10_000], unsettled=unsettled)

    assert run.peak_instances == setups
    assert run.capacity.tolist()[-1][1:] == (0, 0)
    assert run.instance_hours <= 5 * (SETUP_S + 25 + 180) / 3600


@pytest.mark.parametrize(
    ("quiet_s", "within_s", "most_hours"), [(10_800, 1300, 1.2), (600, 4600, 3.8)]
)
def test_the_preset_sends_home_what_a_wrong_announcement_started(quiet_s, within_s, most_hours):
    """After a quiet spell in 20 minutes; Sleep needs 84 minutes of metrics (docs/security.md)."""
    plan = ANNOUNCED.within(0, 5)

    for seed in SEEDS:
        run = ran(plan, [quiet_s + 7.0], seed, announces=[10_000])

        assert run.peak_instances == 5
        assert run.capacity[-1]["at_s"] - quiet_s <= within_s
        assert run.capacity[-1]["desired"] == 0
        assert run.instance_hours <= most_hours


def test_nobody_announces_while_an_instance_serves():
    """A second request after a minute of service adds nothing, whatever the cooldown."""
    quick = WAKES.model_copy(update={"alarm": announced(), "more_alarms": (), "cooldown_s": 0})
    plan = ScalingRules(policies=(quick, SLEEPS)).within(0, 5)
    first = ran(plan, [607.0], 0)
    serving_s = first.started_s[0]

    run = ran(plan, [607.0, serving_s + 1, serving_s + 2], 0)

    assert run.starts == 1


def test_a_plan_that_does_not_listen_runs_as_if_nobody_announced():
    loud, silent = (ran(DEAF, [607.0, 700.0], 3, announces=each) for each in (5, 0))

    assert np.array_equal(loud.capacity, silent.capacity)
    assert loud.wait_s == silent.wait_s
