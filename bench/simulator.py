"""Duration of a rehearsal with all scaling, and of the same queue in SimPy without scaling."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simpy

from async_inference.rehearsal import traffic as traffics
from async_inference.rehearsal.simulator import Assumptions, simulate
from async_inference.rehearsal.traffic import Traffic
from async_inference.scaling.plan import DOCUMENTED, ScalingPlan


def uniform(requests: int, days: int, mean_service_s: float) -> Traffic:
    """Uniform arrivals with exponential service."""
    random = np.random.default_rng(0)
    return Traffic(
        np.sort(random.uniform(0, days * 86_400, requests)),
        random.exponential(mean_service_s, requests),
    )


def rehearse(traffic: Traffic, max_capacity: int) -> Callable[[], object]:
    """The documented plan over the traffic."""
    plan = ScalingPlan(min_capacity=0, max_capacity=max_capacity, policies=DOCUMENTED.policies)
    return lambda: simulate(plan, traffic, Assumptions(setup_s=300), 1)


def in_simpy(traffic: Traffic, servers: int) -> Callable[[], object]:
    """The same queue with a fixed number of servers, without scaling or metrics."""

    def run() -> None:
        environment = simpy.Environment()
        resource = simpy.Resource(environment, servers)

        def request(service_s):
            with resource.request() as slot:
                yield slot
                yield environment.timeout(service_s)

        def arrive():
            for gap_s, service_s in zip(
                np.diff(traffic.arrivals_s, prepend=0.0).tolist(),
                traffic.service_s.tolist(),
                strict=True,
            ):
                yield environment.timeout(gap_s)
                environment.process(request(service_s))

        environment.process(arrive())
        environment.run()

    return run


def tune(folder: Path) -> Callable[[], object]:
    """The command: 200 plans over a week of 9,000 requests."""
    traces = folder / "week.csv"
    traffics.write(uniform(9_000, 7, 25.0), traces)

    def run() -> None:
        with tempfile.TemporaryDirectory() as output:
            _command(
                *("tune", "--traffic", str(traces), "--plans", "200"),
                *("--output", f"{output}/Pulumi.tuned.yaml"),
            )

    return run


def rehearse_bursts() -> Callable[[], object]:
    """The command: two plans over eight seeds of three days of bursts."""
    return lambda: _command("rehearse", "--traffic", "bursts", "--against", "tuned")


def _command(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "async_inference", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
