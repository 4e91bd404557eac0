"""The simulator agrees with queueing theory, with published runs, and with itself."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_inference.rehearsal.bound import clairvoyant_instance_hours
from async_inference.rehearsal.simulator import Assumptions, simulate
from async_inference.rehearsal.traffic import GENERATORS, Traffic, generate
from async_inference.scaling.autoscaler import Verdict
from async_inference.scaling.plan import (
    AWS,
    DOCUMENTED,
    Comparison,
    Metric,
    MetricAlarm,
    ScalingPlan,
    ScheduledAction,
    StepAdjustment,
    StepScalingPolicy,
)
from async_inference.scaling.unsettled import Unsettled

pytestmark = pytest.mark.rehearsal


def plan(rules=DOCUMENTED, minimum: int = 0, maximum: int = 5, schedules=()) -> ScalingPlan:
    policies = rules.policies if hasattr(rules, "policies") else rules
    return ScalingPlan(
        min_capacity=minimum, max_capacity=maximum, policies=policies, schedules=schedules
    )


def fixed(instances: int) -> ScalingPlan:
    return plan((), instances, instances)


def poisson(rate: float, mean_s: float, count: int, seed: int, constant: bool = False) -> Traffic:
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    service = np.full(count, mean_s) if constant else random.exponential(mean_s, count)
    return Traffic(arrivals, service)


def warm_wait(traffic: Traffic, instances: int) -> float:
    """Mean wait of the second half, on instances that start at once."""
    run = simulate(fixed(instances), traffic, Assumptions(setup_s=0, request_ttl_s=1e12), 0)
    waits = run.started_s - traffic.arrivals_s
    return float(waits[len(waits) // 2 :].mean())


def erlang_c_wait_s(rate: float, mean_s: float, servers: int) -> float:
    load = rate * mean_s
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last) * mean_s / (servers - load)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (3, 2.4), (5, 4.0)])
def test_waits_are_those_of_an_m_m_c_queue(servers, load):
    """Within 5 % over 400,000 requests, about three standard errors."""
    mean_s = 25.0
    traffic = poisson(load / mean_s, mean_s, 400_000, 1)

    assert warm_wait(traffic, servers) == pytest.approx(
        erlang_c_wait_s(load / mean_s, mean_s, servers), rel=0.05
    )


def test_waits_are_those_of_an_m_d_1_queue():
    """Pollaczek-Khinchine with constant service: rho s / (2 (1 - rho))."""
    traffic = poisson(0.7 / 25, 25.0, 400_000, 2, constant=True)

    assert warm_wait(traffic, 1) == pytest.approx(0.7 * 25 / (2 * 0.3), rel=0.05)


def wakes_and_sleeps(
    wake_minutes: int = 1, idle_minutes: int = 1, wake_cooldown_s: int = 0
) -> tuple[StepScalingPolicy, StepScalingPolicy]:
    return (
        StepScalingPolicy(
            name="wake",
            alarm=MetricAlarm(
                metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
                threshold=1,
                evaluation_periods=wake_minutes,
                datapoints_to_alarm=wake_minutes,
            ),
            steps=(StepAdjustment(lower_bound=0, adjustment=1),),
            cooldown_s=wake_cooldown_s,
        ),
        StepScalingPolicy(
            name="sleep",
            alarm=MetricAlarm(
                metric=Metric.BACKLOG_SIZE,
                comparison=Comparison.LESS,
                threshold=1,
                evaluation_periods=idle_minutes,
                datapoints_to_alarm=idle_minutes,
            ),
            steps=(StepAdjustment(upper_bound=0, adjustment=-1),),
            cooldown_s=0,
        ),
    )


def test_waits_on_an_instance_that_sleeps_when_idle_are_those_of_an_m_g_1_queue_with_setup():
    """lam E[s^2] / (2 (1 - rho)) + (2 E[D] + lam E[D^2]) / (2 (1 + lam E[D])): 196.4 s for 0.02
    requests a second of 25 s and D = 300 s (docs/aws-facts.md#queueing-formula); here a hundred
    times slower, so that the minutes of detection, which the formula does not know, count for less
    than 1 %."""
    slower = 100
    traffic = poisson(0.02 / slower, 25.0 * slower, 60_000, 4)
    run = simulate(
        plan(wakes_and_sleeps(), maximum=1),
        traffic,
        Assumptions(setup_s=300.0 * slower, request_ttl_s=1e12),
        0,
    )

    assert run.wait_s.mean / slower == pytest.approx(196.4, rel=0.04)


def test_littles_law_holds():
    traffic = poisson(2.4 / 25, 25.0, 200_000, 3)
    run = simulate(fixed(3), traffic, Assumptions(setup_s=0, request_ttl_s=1e12), 0)

    waits = run.started_s - traffic.arrivals_s
    span_s = traffic.span_s
    # Requests in the queue over time, as the area between arrivals and starts.
    waiting = (np.minimum(run.started_s, span_s) - traffic.arrivals_s).clip(0).sum() / span_s
    assert waiting == pytest.approx(traffic.requests / span_s * waits.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("service_s", "done_s", "billed_s", "tolerance_s"),
    [(396.0, 899.0, 920.0, 90.0), (239.5, 794.0, 822.0, 90.0)],
)
def test_the_published_runs_are_reproduced_within_their_ranges(
    service_s, done_s, billed_s, tolerance_s
):
    """Alarm 2 of 2 at >= 1, +1; idle 3 x 60 s, -1; setup 300 s
    (docs/aws-facts.md#published-runs)."""
    rules = wakes_and_sleeps(wake_minutes=2, idle_minutes=3, wake_cooldown_s=300)
    detections, dones, billed = [], [], []
    for seed in range(200):
        offset_s = np.random.default_rng(seed).uniform(0, 60)
        traffic = Traffic(np.array([600.0 + offset_s]), np.array([service_s]))
        run = simulate(plan(rules, maximum=1), traffic, Assumptions(setup_s=300), seed)
        started = next(action for action in run.actions if action.verdict == Verdict.SCALED)
        detections.append(started.at_s - traffic.arrivals_s[0])
        dones.append(run.finished_s[0] - traffic.arrivals_s[0])
        billed.append(run.instance_hours * 3600)

    assert np.mean(detections) == pytest.approx(210, abs=10)
    assert min(detections) >= 150
    assert max(detections) <= 270
    assert np.mean(dones) == pytest.approx(done_s, abs=tolerance_s)
    assert np.mean(billed) == pytest.approx(billed_s, abs=tolerance_s)


@pytest.mark.parametrize(("rules", "mean_s"), [(DOCUMENTED, 150), (AWS, 210)])
def test_the_wake_up_takes_as_long_as_was_published(rules, mean_s):
    """Means 150 s for 1 of 1 and 210 s for 2 of 2 (docs/aws-facts.md#wake-up)."""
    detections = []
    for seed in range(300):
        at_s = 600 + np.random.default_rng(seed).uniform(0, 60)
        run = simulate(
            plan(rules), Traffic(np.array([at_s]), np.array([10.0])), Assumptions(), seed
        )
        detections.append(next(a.at_s for a in run.actions if a.verdict == Verdict.SCALED) - at_s)

    assert np.mean(detections) == pytest.approx(mean_s, abs=10)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_gives_the_same_run(name):
    traffic = generate(name, 1)
    spread = Assumptions(setup_sigma=0.25)

    first, again = (simulate(plan(), traffic, spread, 5) for _ in range(2))

    assert first.actions == again.actions
    assert np.array_equal(first.finished_s, again.finished_s, equal_nan=True)


@settings(max_examples=60)
@given(
    gaps_s=st.lists(st.floats(0, 2000), min_size=1, max_size=60),
    service_s=st.floats(0.1, 600),
    minimum=st.integers(0, 2),
    width=st.integers(1, 4),
    concurrency=st.integers(1, 3),
    ttl_s=st.sampled_from([60.0, 600.0, 21_600.0]),
    inflight=st.sampled_from(["requeue", "drain"]),
    rules=st.sampled_from([DOCUMENTED, AWS]),
    seed=st.integers(0, 5),
)
def test_requests_are_conserved_and_the_capacity_keeps_its_bounds(
    gaps_s, service_s, minimum, width, concurrency, ttl_s, inflight, rules, seed
):
    arrivals = np.cumsum(gaps_s)
    traffic = Traffic(arrivals, np.full(len(arrivals), service_s))
    run = simulate(
        plan(rules, minimum, minimum + width),
        traffic,
        Assumptions(
            setup_s=200,
            concurrency=concurrency,
            request_ttl_s=ttl_s,
            unsettled=Unsettled(inflight_on_scale_in=inflight),
        ),
        seed,
    )

    assert run.completed + run.expired == len(arrivals)
    served = ~np.isnan(run.finished_s)
    assert (run.started_s[served] >= arrivals[served]).all(), "no start before arrival"
    assert np.allclose(run.finished_s[served] - run.started_s[served], service_s)
    # Only what lost its instance starts again so late.
    late = run.started_s[served] >= arrivals[served] + ttl_s
    assert late.sum() <= run.interrupted
    asked = run.capacity["desired"]
    assert ((minimum <= asked) & (asked <= minimum + width)).all()
    assert (np.diff(run.capacity["at_s"]) >= 0).all(), "time goes forward"
    assert (run.capacity["in_service"] <= minimum + width).all()
    if inflight == "drain":
        assert run.interrupted == 0


def test_every_ignored_action_is_recorded_with_its_reason():
    run = simulate(plan(), generate("bursts", 1), Assumptions(), 1)

    verdicts = {action.verdict for action in run.actions}
    assert Verdict.SCALE_OUT_COOLDOWN in verdicts
    assert all(
        (action.before != action.after) == (action.verdict == Verdict.SCALED)
        for action in run.actions
    )


def test_a_shortage_delays_the_instance_until_it_ends():
    traffic = Traffic(np.array([100.0]), np.array([10.0]))

    run = simulate(plan(), traffic, Assumptions(setup_s=300, shortages_s=((0.0, 5000.0),)), 0)

    assert run.started_s[0] == pytest.approx(5300)


def test_a_schedule_keeps_instances_warm():
    warm = ScheduledAction(name="warm", schedule="at(1970-01-01T00:10:00)", min_capacity=1)
    traffic = Traffic(np.array([5000.0]), np.array([10.0]))

    run = simulate(plan(schedules=(warm,)), traffic, Assumptions(setup_s=300), 0)

    assert run.wait_s.max == 0


def test_the_bound_is_below_every_run_that_keeps_its_age_limit():
    for name in GENERATORS:
        traffic = generate(name, 2)
        run = simulate(plan(), traffic, Assumptions(setup_s=300), 2)
        bound = clairvoyant_instance_hours(
            traffic,
            age_limit_s=run.wait_s.max,
            setup_billed_s=300,
            concurrency=1,
            max_capacity=5,
        )

        assert bound is not None
        assert bound <= run.instance_hours


def test_the_bound_of_one_request_spreads_its_work_until_its_deadline():
    """600 s of work by second 660, and a slot's grace: 600 / 720 of an instance, and of a setup."""
    hours = clairvoyant_instance_hours(
        Traffic(np.array([0.0]), np.array([600.0])),
        age_limit_s=60,
        setup_billed_s=300,
        concurrency=1,
        max_capacity=1,
    )

    assert hours == pytest.approx((600 + 300 * 600 / 720) / 3600)


def test_an_age_limit_that_nothing_could_keep_has_no_bound():
    burst = Traffic(np.zeros(100), np.full(100, 600.0))

    assert (
        clairvoyant_instance_hours(
            burst, age_limit_s=60, setup_billed_s=0, concurrency=1, max_capacity=1
        )
        is None
    )


def wakes_by_metric_math(*, samples_per_minute: int = 1) -> list[tuple[int, int]]:
    """How many instances a burst of ten asks for at first: 1, or 4 for eight requests or more."""
    wake = StepScalingPolicy(
        name="wake",
        alarm=MetricAlarm(metric=Metric.BACKLOG_WITHOUT_CAPACITY, threshold=0.5),
        steps=(
            StepAdjustment(lower_bound=0, upper_bound=7.5, adjustment=1),
            StepAdjustment(lower_bound=7.5, adjustment=4),
        ),
    )
    run = simulate(
        plan((wake,)),
        Traffic(np.full(10, 60.0), np.full(10, 25.0)),
        Assumptions(unsettled=Unsettled(samples_per_minute=samples_per_minute)),
        0,
    )
    return [(each.before, each.after) for each in run.actions if each.verdict == Verdict.SCALED]


def test_an_alarm_by_metric_math_lets_the_first_decision_ask_for_the_right_number():
    """The backlog while no instance exists, and 0 afterwards, so that it asks for no more."""
    assert wakes_by_metric_math() == [(0, 4)]
    assert wakes_by_metric_math(samples_per_minute=6) == [(0, 4)]


def test_the_command_warns_of_a_scale_in_that_also_starts_instances(tmp_path, command):
    fighting = tmp_path / "fighting.yaml"
    fighting.write_text(
        """
        policies:
          - type: StepScaling
            name: only-one
            adjustmentType: ExactCapacity
            alarm:
              metric: ApproximateBacklogSize
              comparison: LessThanThreshold
              threshold: 2
            steps: [{upperBound: 0, adjustment: 1}]
        """,
        encoding="utf-8",
    )

    done = command("rehearse", "--traffic", "sparse", "--policy", str(fighting))

    assert "policy only-one: ExactCapacity also raises the capacity" in " ".join(
        done.stdout.split()
    )


def test_the_command_warns_of_a_plan_that_never_leaves_zero(tmp_path, command):
    asleep = tmp_path / "asleep.yaml"
    asleep.write_text("policies: [{type: TargetTrackingScaling, name: track, target: 3}]")

    done = command("rehearse", "--traffic", "sparse", "--policy", str(asleep))

    assert "no policy scales out from zero for a single request" in " ".join(done.stdout.split())


def test_the_command_prints_json_alone_with_the_agreed_keys():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "async_inference", "rehearse", "--json"),
            *("--traffic", "sparse", "--against", "aws"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == {"traffic", "assumptions", "runs", "differences", "bound"}
    assert set(answer["traffic"]) == {"requests", "span_s", "work_s"}
    assert [run["policy"] for run in answer["runs"]] == ["dev", "aws"]
    assert set(answer["runs"][0]) == {
        "policy",
        "completed",
        "expired",
        "interrupted",
        "wait_s",
        "instance_hours",
        "cost_usd",
        "starts",
        "peak_instances",
        "over_seeds",
    }
    assert set(answer["runs"][0]["wait_s"]) == {"mean", "p50", "p95", "p99", "max"}
    assert set(answer["bound"]) == {"age_limit_s", "instance_hours"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--stack", "nowhere"), "stack files here: Pulumi.dev.yaml"),
        (("--traffic", "hectic"), "must be a CSV file or one of"),
        (("--against", "nothing"), "is not a preset (documented, aws, tuned, announced), a file"),
        (("--set", "setup=3", "--set", "setup_s=soon"), "must be name=value with one of the names"),
        (("--set", "setup_s=-1"), "must be a number, 0 or more"),
        (("--set", "scale_in_ratio=7"), "must be within (0, 1]"),
    ],
)
def test_a_wrong_option_is_a_sentence_and_exit_code_2(arguments, sentence, command):
    done = command("rehearse", *arguments)

    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
