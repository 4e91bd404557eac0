"""Datapoints are found again by the periods of alarms, whatever their resolution and order."""

from async_inference.aws_names import Series
from async_inference.local_aws.services.metrics import Datapoint, MetricStore

SERIES = Series.of("AsyncInference", "RequestsWithoutCapacity", {"EndpointName": "echo"})


def announced(*counts: tuple[int, float]) -> MetricStore:
    store = MetricStore()
    for at_s, count in counts:
        store.add(SERIES, Datapoint(at_s, count, 1, count, count))
    return store


def test_periods_of_10_seconds_are_told_apart_and_those_without_data_are_empty():
    store = announced((600, 1.0), (610, 2.0), (610, 3.0), (630, 4.0))

    assert store.periods(SERIES, "Sum", 10, 4, 645.0) == [1.0, 5.0, None, 4.0]
    assert store.periods(SERIES, "SampleCount", 10, 4, 645.0) == [1.0, 2.0, None, 1.0]


def test_a_period_counts_only_when_it_is_over():
    store = announced((600, 1.0), (610, 2.0))

    assert store.periods(SERIES, "Sum", 20, 1, 619.9) == [None]
    assert store.periods(SERIES, "Sum", 20, 1, 620.0) == [3.0]


def test_longer_periods_slide_by_a_minute():
    store = announced((600, 1.0), (670, 2.0), (725, 4.0))

    assert store.periods(SERIES, "Sum", 120, 1, 720.0) == [3.0]
    assert store.periods(SERIES, "Sum", 120, 1, 780.0) == [6.0]


def test_what_comes_late_goes_to_its_own_time():
    store = announced((620, 4.0), (600, 1.0), (610, 2.0))

    assert [point.at_s for point in store.between(SERIES, 600, 630)] == [600, 610, 620]
    assert store.periods(SERIES, "Sum", 30, 1, 630.0) == [7.0]


def test_what_sagemaker_publishes_is_in_a_short_period_only_where_the_minute_starts():
    store = MetricStore()
    store.put(SERIES, 630.0, [5.0])

    assert store.periods(SERIES, "Average", 10, 6, 660.0) == [5.0, *[None] * 5]
    assert store.periods(SERIES, "Average", 60, 1, 660.0) == [5.0]
