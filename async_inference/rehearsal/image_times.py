"""How long one SDXL image takes, by GPU and steps: 1024 x 1024 pixels, fp16, one at a time."""

from dataclasses import dataclass

from async_inference.rehearsal.traffic import Traffic
from async_inference.validation import InvalidInputError


@dataclass(frozen=True)
class ImageTime:
    """A published time for 30 steps, without TensorRT or compilation."""

    gpu: str
    thirty_steps_s: float
    source: str


IMAGE_TIMES = {
    "g4dn": ImageTime("T4", 32.0, "docs/aws-facts.md#inference: 30 steps about 32 s"),
    # The similar A10 takes 9.4 s (model card of stabilityai/stable-diffusion-xl-1.0-tensorrt,
    # baseline). This is the pessimistic figure.
    "g5": ImageTime("A10G", 15.0, "docs/aws-facts.md#inference: about 15 s plain for 30 steps"),
    "p4d": ImageTime("A100", 3.704, "model card stabilityai/stable-diffusion-xl-1.0-tensorrt"),
    "p5": ImageTime("H100", 2.496, "model card stabilityai/stable-diffusion-xl-1.0-tensorrt"),
}
"""By instance family, as published in November 2026. `python -m bench.gpu` measures it on a GPU."""
FIXED_SHARE = 2.0 / 32.0
"""Fraction of the time for 30 steps that does not depend on the steps: encoding and decoding, which
take 2 of the T4's 32 s."""


def image_s(instance_type: str, steps: int) -> float:
    """Seconds for one image.

    Raises:
        InvalidInputError: there is no published time for the instance family.
    """
    known = IMAGE_TIMES.get(instance_type.split(".")[1])
    if known is None:
        raise InvalidInputError(
            [
                f"--steps: there is no published SDXL time for {instance_type}, only for "
                f"{', '.join(IMAGE_TIMES)}; use traffic with measured times instead"
            ]
        )
    share = FIXED_SHARE + (1 - FIXED_SHARE) * steps / 30
    return known.thirty_steps_s * share


def with_steps(traffic: Traffic, instance_type: str, steps: int) -> Traffic:
    """The same arrivals, with service times scaled to the mean of images of so many steps."""
    factor = image_s(instance_type, steps) / float(traffic.service_s.mean())
    return Traffic(traffic.arrivals_s, traffic.service_s * factor)
