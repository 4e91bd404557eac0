"""Fault injection for an embedded AWS."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """What fails on purpose, to show what happens then.

    Args:
        s3_write_failure_rate: the fraction of writes to S3, by clients and by endpoints, that is
            answered with 503 SlowDown.
        seed: of the random choice of these writes.
    """

    s3_write_failure_rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.s3_write_failure_rate < 1:
            raise ValueError(
                f"s3_write_failure_rate {self.s3_write_failure_rate} must be within [0, 1)"
            )
