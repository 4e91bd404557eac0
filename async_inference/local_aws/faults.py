"""Fault injection for an embedded AWS."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """What goes wrong on purpose, so that one can see what then happens.

    Args:
        s3_write_failure_rate: the part of all writes of S3 objects, by clients and by endpoints,
            that is answered with 503 SlowDown.
        seed: of the dice.
    """

    s3_write_failure_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.s3_write_failure_rate < 1:
            raise ValueError(
                f"s3_write_failure_rate {self.s3_write_failure_rate} must be within [0, 1)"
            )
