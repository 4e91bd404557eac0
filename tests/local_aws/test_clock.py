"""The clock of the embedded AWS."""

import threading

from async_inference.local_aws.clock import Clock


def test_a_threads_time_stands_still_while_it_does_what_was_due_and_only_its_own():
    clock = Clock(minute_s=0.001, origin_s=1000.0)
    elsewhere = []

    with clock.at(60.0):
        other = threading.Thread(target=lambda: elsewhere.append(clock.now_s()))
        other.start()
        other.join()
        during = [clock.now_s(), clock.now_s()]

    assert during == [60.0, 60.0]
    assert elsewhere[0] >= 1000.0
    assert clock.now_s() >= elsewhere[0], "it went on meanwhile"
