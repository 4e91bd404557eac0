"""How long a rehearsal takes, all scaling on."""

from collections.abc import Callable

import numpy as np

from async_inference.rehearsal.simulator import Assumptions, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import DOCUMENTED, ScalingPlan


def rehearse(
    requests: int, days: int, mean_service_s: float, max_capacity: int
) -> Callable[[], object]:
    """The documented plan over uniform arrivals with exponential service."""
    random = np.random.default_rng(0)
    traffic = Traffic(
        np.sort(random.uniform(0, days * 86_400, requests)),
        random.exponential(mean_service_s, requests),
    )
    plan = ScalingPlan(min_capacity=0, max_capacity=max_capacity, policies=DOCUMENTED.policies)
    return lambda: simulate(plan, traffic, Assumptions(setup_s=300), 1)
