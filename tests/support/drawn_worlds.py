"""Worlds for calibration, drawn by number: every reading of AWS equally often.

The worlds are those of `calibration_world.py`. Half of them run the documented plan, which hides
two readings. The other half run a plan that shows them: a slow wake-up lets target tracking try to
leave zero, and a schedule closes the endpoint while an instance works.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import (
    DOCUMENTED,
    Metric,
    MetricAlarm,
    ScalingRules,
    ScheduledAction,
    StepAdjustment,
    StepScalingPolicy,
)
from async_inference.scaling.unsettled import Unsettled
from tests.support.calibration_world import World, began_s

READINGS = {
    "backlog_counts_inflight": (True, False),
    "backlog_per_instance_at_zero": ("backlog", "no_data"),
    "scale_in_ratio": (0.9, 0.9667, 0.8),
    "target_tracking_from_zero": ("never", "async_page"),
    "inflight_on_scale_in": ("requeue", "drain"),
    "capacity_change_in_progress": ("refused", "allowed"),
    "scale_in_takes_s": (60.0, 20.0, 240.0),
    "samples_per_minute": (1, 2, 6),
    "evaluation_range": ("n_plus_third", "n_plus_2"),
    "metric_delay_s": (60.0, 30.0, 90.0, 120.0),
}
SETUPS_S = (190.0, 340.0, 600.0)
SIGMAS = (0.05, 0.1, 0.25)
TRACKING, WAKE_UP = DOCUMENTED.policies
SLOW_WAKE_UP = StepScalingPolicy(
    name="SlowWakeUp",
    alarm=MetricAlarm(
        metric=Metric.HAS_BACKLOG_WITHOUT_CAPACITY,
        threshold=0.5,
        evaluation_periods=6,
        datapoints_to_alarm=6,
    ),
    steps=(StepAdjustment(lower_bound=0, adjustment=1),),
    cooldown_s=300,
)
CYCLE_S = 6600.0
CYCLES = 6
SHORT_S, LONG_S = 25.0, 800.0


def bursts(seed: int) -> Traffic:
    """Bursts and single requests, an hour or more apart, so that each finds the endpoint asleep."""
    random = np.random.default_rng(seed)
    arrivals: list[float] = []
    at_s = 0.0
    for turn in range(12):
        size = int(random.integers(12, 30)) if turn % 2 else 1
        arrivals.extend(at_s + np.sort(random.uniform(0, 120, size)))
        at_s += 4000 * random.uniform(1.0, 1.3)
    return Traffic(np.array(arrivals), random.gamma(4.0, 25 / 4, len(arrivals)))


def long_jobs(seed: int) -> Traffic:
    """Eight short requests and a long one; an hour later eight more."""
    random = np.random.default_rng(seed)
    arrivals: list[float] = []
    services: list[float] = []
    for turn in range(CYCLES):
        for at_s, own in ((0.0, [SHORT_S] * 8 + [LONG_S]), (3300.0, [SHORT_S] * 8)):
            begin_s = turn * CYCLE_S + at_s + random.uniform(0, 60)
            arrivals += [begin_s + number for number in range(len(own))]
            services += [each * random.uniform(0.9, 1.1) for each in own]
    return Traffic(np.array(arrivals), np.array(services))


def closing(first_setup_s: float, setup_s: float) -> list[ScheduledAction]:
    """The endpoint is closed for some minutes while the long request is served."""
    found = []
    for turn in range(CYCLES):
        served_s = 8 * 60 + setup_s + 8 * SHORT_S + 0.35 * LONG_S
        at_s = began_s(first_setup_s) + turn * CYCLE_S + served_s
        for name, later_s, most in (("close", 0, 0), ("open", 180, 5)):
            at = datetime.fromtimestamp(at_s + later_s, UTC)
            found.append(
                ScheduledAction(
                    name=f"{name}-{turn}", schedule=f"at({at:%Y-%m-%dT%H:%M:%S})", max_capacity=most
                )
            )
    return found


def world(number: int) -> World:
    """World number so-and-so: every reading by the dice, every value equally often."""
    random = np.random.default_rng((21, number))
    drawn: dict[str, Any] = {
        name: values[random.integers(len(values))] for name, values in READINGS.items()
    }
    shows_all = number % 2 == 1
    setup_s = SETUPS_S[random.integers(3)]
    first_setup_s = setup_s * (1.8 if random.integers(2) else 1.0)
    rules = DOCUMENTED
    if shows_all:
        rules = ScalingRules(
            policies=(TRACKING, SLOW_WAKE_UP),
            schedules=tuple(closing(first_setup_s, setup_s)),
        )
    return World(
        plan=rules.within(0, 5),
        traffic=long_jobs(number) if shows_all else bursts(number),
        unsettled=Unsettled(**drawn),
        setup_s=setup_s,
        setup_sigma=SIGMAS[random.integers(3)],
        first_setup_s=first_setup_s,
        seed=number,
    )
