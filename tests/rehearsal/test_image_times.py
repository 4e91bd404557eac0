"""Service times by GPU and steps, from the table."""

import numpy as np
import pytest

from async_inference.rehearsal import image_times
from async_inference.rehearsal.traffic import MEAN_SERVICE_S, Traffic
from async_inference.validation import InvalidInputError


def test_thirty_steps_take_what_was_published_and_four_a_fifth_of_it():
    assert image_times.image_s("ml.g4dn.2xlarge", 30) == 32
    assert image_times.image_s("ml.g4dn.2xlarge", 4) == pytest.approx(6)
    assert image_times.image_s("ml.g5.2xlarge", 30) == 15


def test_generated_traffic_is_that_of_23_steps_on_a_t4():
    assert image_times.image_s("ml.g4dn.2xlarge", 23) == pytest.approx(MEAN_SERVICE_S)


def test_steps_scale_the_service_times_and_leave_the_arrivals():
    traffic = Traffic(np.array([0.0, 10.0]), np.array([20.0, 40.0]))

    scaled = image_times.with_steps(traffic, "ml.g4dn.xlarge", 4)

    assert scaled.service_s.mean() == pytest.approx(6)
    assert scaled.service_s[1] == 2 * scaled.service_s[0]
    assert scaled.arrivals_s is traffic.arrivals_s


def test_a_family_without_a_published_time_is_refused():
    with pytest.raises(InvalidInputError, match=r"no published SDXL time for ml\.g6"):
        image_times.image_s("ml.g6.xlarge", 4)
