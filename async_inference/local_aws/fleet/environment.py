"""The services that the endpoints of one region share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from async_inference.local_aws.clock import Clock
from async_inference.local_aws.fleet.processes import ProcessTemplate
from async_inference.local_aws.journal import Journal
from async_inference.local_aws.services.metrics import MetricStore
from async_inference.local_aws.services.moto_services import MotoServices
from async_inference.scaling.unsettled import Unsettled


@dataclass(frozen=True)
class Environment:
    """The services that all endpoints of a region share.

    Args:
        folder: for logs and instances.
        setup_s: simulated seconds from asking for an instance until it serves, at least.
        in_alarm: returns those of the named alarms that are in ALARM.
    """

    clock: Clock
    journal: Journal
    services: MotoServices
    metrics: MetricStore
    processes: ProcessTemplate
    folder: Path
    setup_s: float
    unsettled: Unsettled
    in_alarm: Callable[[Sequence[str]], list[str]]
