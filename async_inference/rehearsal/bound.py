"""The lower bound (clairvoyant): the fewest instance hours that serve traffic within an age limit.

A linear program that knows all arrivals (docs/aws-facts.md#lower-bound). It may use fractions of an
instance, and a setup costs only its time, so no policy can need less.
"""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import diags, eye_array, hstack, vstack

from async_inference.rehearsal.traffic import Traffic

SLOT_S = 60.0


def clairvoyant_instance_hours(
    traffic: Traffic,
    *,
    age_limit_s: float,
    setup_billed_s: float,
    concurrency: int,
    max_capacity: int,
) -> float | None:
    """The lower bound in instance hours; None if even `max_capacity` cannot keep the age limit.

    Args:
        traffic: the arrivals and their service times.
        age_limit_s: longest allowed time from a request's arrival to the start of its service.
        setup_billed_s: billed seconds for each instance's setup.
        concurrency: requests that one instance works on at the same time.
        max_capacity: most instances at a time.
    """
    deadlines_s = traffic.arrivals_s + age_limit_s + traffic.service_s
    slots = int(deadlines_s.max() // SLOT_S) + 2
    ends_s = SLOT_S * np.arange(1, slots + 1)
    arrived = _work_until(traffic.arrivals_s, traffic.service_s, ends_s)
    order = np.argsort(deadlines_s)
    # Work whose deadline falls within a slot may be done until the slot's end.
    due = _work_until(deadlines_s[order], traffic.service_s[order], ends_s - SLOT_S)
    # Per slot: instances x, starts u, work done so far C.
    step = eye_array(slots) - diags([1.0], offsets=[-1], shape=(slots, slots))
    one, none = eye_array(slots), 0 * eye_array(slots)
    constraints = vstack(
        [
            hstack([step, -one, none]),  # x_t - x_(t-1) <= u_t
            hstack([-concurrency * SLOT_S * one, none, step]),  # done in a slot <= c delta x_t
            hstack([none, none, -step]),  # work done never decreases
        ],
        format="csr",
    )
    found = linprog(
        c=np.concatenate([np.full(slots, SLOT_S), np.full(slots, setup_billed_s), np.zeros(slots)]),
        A_ub=constraints,
        b_ub=np.zeros(3 * slots),
        bounds=np.column_stack(
            [
                np.concatenate([np.zeros(2 * slots), due]),
                np.concatenate([np.full(slots, max_capacity), np.full(slots, np.inf), arrived]),
            ]
        ),
        method="highs",
    )
    return float(found.fun) / 3600 if found.status == 0 else None


def _work_until(at_s: np.ndarray, work_s: np.ndarray, ends_s: np.ndarray) -> np.ndarray:
    """Total work up to each end, given the sorted moments at which work appears."""
    total = np.concatenate([[0.0], np.cumsum(work_s)])
    return total[np.searchsorted(at_s, ends_s, side="right")]
