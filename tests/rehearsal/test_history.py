"""Traffic reconstructed from CloudWatch's minutes is the traffic that there was, to the minute."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_inference.rehearsal.history import Minutes, fetch, reconstruct
from async_inference.rehearsal.traffic import Traffic, read, write
from async_inference.validation import InvalidInputError

MINUTE_S = 60
START_S = 1_700_000_040


def published(arrivals_s: np.ndarray, service_s: np.ndarray) -> Minutes:
    """What SageMaker publishes about one instance that serves these requests in order."""
    started_s = np.empty(len(arrivals_s))
    ended_s = np.empty(len(arrivals_s))
    free_s = 0.0
    for number, (arrival_s, need_s) in enumerate(zip(arrivals_s, service_s, strict=True)):
        started_s[number] = max(free_s, arrival_s)
        free_s = ended_s[number] = started_s[number] + need_s
    minutes = range(int(ended_s[-1] // MINUTE_S) + 1)
    ended, in_backlog, total, backlog = {}, {}, {}, {}
    for minute in minutes:
        key, end_s = START_S + minute * MINUTE_S, (minute + 1) * MINUTE_S
        mine = (ended_s >= end_s - MINUTE_S) & (ended_s < end_s)
        backlog[key] = float((arrivals_s < end_s).sum() - (ended_s < end_s).sum())
        if mine.any():
            ended[key] = float(mine.sum())
            in_backlog[key] = float((started_s - arrivals_s)[mine].sum() * 1000)
            total[key] = float((ended_s - arrivals_s)[mine].sum() * 1000)
    return Minutes(backlog, ended, in_backlog, total)


requests = st.lists(
    st.tuples(st.floats(0, 3600), st.floats(0.5, 400)), min_size=1, max_size=60
).map(lambda pairs: (np.sort([a for a, _ in pairs]), np.array([s for _, s in pairs])))


@given(requests)
def test_every_request_is_found_in_its_minute_and_all_the_work(given_requests):
    arrivals_s, service_s = given_requests

    found = reconstruct(published(arrivals_s, service_s))

    assert found.requests == len(arrivals_s)
    assert np.array_equal(found.arrivals_s // MINUTE_S, arrivals_s // MINUTE_S)
    assert found.work_s == pytest.approx(service_s.sum(), rel=1e-6)


def test_requests_that_still_wait_get_the_mean_service_of_the_others():
    minutes = Minutes(
        backlog={START_S: 2.0},
        ended={START_S: 2.0},
        in_backlog_ms={START_S: 10_000.0},
        total_ms={START_S: 40_000.0},
    )

    found = reconstruct(minutes)

    assert found.arrivals_s.tolist() == [7.5, 22.5, 37.5, 52.5]
    assert found.service_s.tolist() == [15.0] * 4


def test_a_wait_longer_than_the_whole_is_refused_since_units_must_differ():
    minutes = Minutes({}, {START_S: 2.0}, {START_S: 10_000_000.0}, {START_S: 40_000.0})

    with pytest.raises(InvalidInputError, match="less than TimeInBacklog in 1 of 1 minutes, by 99"):
        reconstruct(minutes)


class CloudWatch:
    """Publishes one minute, each metric in its own unit."""

    def list_metrics(self, **_: object) -> dict[str, object]:
        date = {"date": "Tue, 14 Nov 2023 23:00:00 GMT"}
        return {"Metrics": [{}], "ResponseMetadata": {"HTTPHeaders": date}}

    def get_metric_statistics(self, **asked: Any) -> dict[str, object]:
        (stat,) = asked["Statistics"]
        value, unit = {
            ("ApproximateBacklogSize", "Average"): (0.0, "None"),
            ("TotalProcessingTime", "SampleCount"): (2.0, "Seconds"),
            ("TotalProcessingTime", "Sum"): (40.0, "Seconds"),
            ("TimeInBacklog", "Sum"): (10_000_000.0, "Microseconds"),
        }[asked["MetricName"], stat]
        at = datetime.fromtimestamp(START_S, UTC)
        return {"Datapoints": [{"Timestamp": at, stat: value, "Unit": unit}]}


def test_durations_are_taken_in_the_unit_that_each_datapoint_tells():
    cloudwatch: Any = CloudWatch()

    found = fetch(cloudwatch, "sdxl", "AllTraffic", timedelta(hours=1))

    assert found.ended == {START_S: 2.0}, "a number of requests has no unit"
    assert found.in_backlog_ms == {START_S: 10_000.0}
    assert found.total_ms == {START_S: 40_000.0}


def test_an_endpoint_that_ended_nothing_has_no_history():
    with pytest.raises(InvalidInputError, match="no request ended"):
        reconstruct(Minutes({START_S: 4.0}, {}, {}, {}))


def test_what_is_written_is_what_is_read(tmp_path):
    traffic = Traffic(np.array([0.25, 3.5]), np.array([12.125, 0.5]))

    write(traffic, tmp_path / "traffic.csv")

    again = read(tmp_path / "traffic.csv")
    assert again.arrivals_s.tolist() == [0.25, 3.5]
    assert again.service_s.tolist() == [12.125, 0.5]
