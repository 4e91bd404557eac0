"""`calibration.<stack>.yaml`: looks add up, older ones count less, rehearsals take the result."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from async_inference.calibration import file
from async_inference.calibration.estimators import Estimate, Finding, Start
from async_inference.calibration.records import Records
from async_inference.rehearsal.simulator import Assumptions
from async_inference.validation import InvalidInputError

DAY_S = 86_400.0
T0 = 1_790_000_000.0


def look(day: float, days: float = 14, configuration: str = "one") -> Records:
    """What was read on a day, so many days back."""
    return Records(
        endpoint="sdxl",
        since_s=T0 + (day - days) * DAY_S,
        read_s=T0 + day * DAY_S,
        created_s=T0 - 300 * DAY_S,
        configuration=configuration,
        configuration_created_s=T0 - 300 * DAY_S,
        concurrency=1,
    )


def found(
    *findings: Finding, starts: tuple[Start, ...] = (), phases_s: dict[str, Any] | None = None
) -> Estimate:
    return Estimate(findings, starts, phases_s or {}, ())


def reading(value: Any, odds: float | None = 49.0, observations: int = 1, **more: Any) -> Finding:
    name = more.pop("name", "capacity_change_in_progress")
    return Finding(name, value, observations, "as seen", odds=odds, **more)


def starts(day: float, took_s: float, count: int = 4) -> tuple[Start, ...]:
    return tuple(
        Start(T0 + day * DAY_S - number * 3600, took_s, (0.0,)) for number in range(1, count + 1)
    )


def test_what_is_written_is_what_is_read_and_a_person_can_read_it(tmp_path):
    path = tmp_path / "calibration.prod.yaml"
    merged = file.merge(
        None,
        look(0),
        found(reading("refused"), starts=starts(0, 300), phases_s={"wake": (12.0,)}),
    )

    file.write(merged.calibration, path)

    assert file.read(path) == merged.calibration
    text = path.read_text()
    assert text.startswith("# Readings of AWS that were measured on the endpoint")
    assert "capacity_change_in_progress: refused" in text
    assert "setup_s: 300.0" in text


def test_a_rehearsal_takes_readings_setup_and_phases_and_says_from_where():
    estimate = found(reading("allowed"), starts=starts(0, 300), phases_s={"wake": (12.0,)})
    calibration = file.merge(None, look(0), estimate).calibration

    taken = file.apply_calibration(Assumptions(), calibration)

    assert (taken.setup_s, taken.unsettled.capacity_change_in_progress) == (300, "allowed")
    assert dict(taken.phases_s) == {"wake": (12.0,)}
    assert taken.calibrated == "calibrated from 4 starts of sdxl, read 2026-09-21"
    assert taken.unsettled.metric_delay_s == 60, "what was not found is assumed as before"


def test_what_is_set_by_hand_stays_and_is_not_called_calibrated():
    calibration = file.merge(None, look(0), found(starts=starts(0, 300))).calibration

    taken = file.apply_calibration(Assumptions(setup_s=99), calibration, besides={"setup_s": 99})

    assert taken.setup_s == 99
    assert taken.calibrated == "calibrated by sdxl, read 2026-09-21, but for the setup time"


def test_older_starts_count_less():
    """Half as much after 90 days: the median lies at two thirds of the way, on a log scale."""
    before = file.merge(None, look(0), found(starts=starts(0, 200))).calibration

    after = file.merge(before, look(90), found(starts=starts(90, 400))).calibration

    assert after.readings["setup_s"] == pytest.approx(200 * 2 ** (2 / 3), rel=0.01)
    assert len(after.looks) == 2, "nothing is lost"


def test_starts_of_another_configuration_give_way_once_there_are_enough():
    before = file.merge(None, look(0), found(starts=starts(0, 200))).calibration

    few = file.merge(before, look(30, configuration="two"), found(starts=starts(30, 400, 2)))
    enough = file.merge(before, look(30, configuration="two"), found(starts=starts(30, 400)))

    assert float(few.calibration.readings["setup_s"]) < 400
    assert enough.calibration.readings["setup_s"] == pytest.approx(400)


def test_two_looks_at_the_same_days_count_these_days_once():
    first = file.merge(None, look(0), found(reading("refused"), starts=starts(0, 300))).calibration

    again = file.merge(first, look(0.5), found(reading("refused"), starts=starts(0, 300)))

    assert again.calibration.starts == 4


def test_what_a_later_look_did_not_see_is_kept():
    before = file.merge(None, look(0), found(reading("refused"), starts=starts(0, 300)))

    counts = reading(True, name="backlog_counts_inflight")
    after = file.merge(before.calibration, look(60), found(counts))

    assert after.calibration.readings["capacity_change_in_progress"] == "refused"
    assert after.calibration.readings["backlog_counts_inflight"] is True
    assert after.calibration.readings["setup_s"] == 300


def test_looks_that_contradict_each_other_are_told():
    before = file.merge(None, look(0), found(reading("refused", 49.0))).calibration

    after = file.merge(before, look(60), found(reading("allowed", 49.0)))

    assert after.calibration.readings["capacity_change_in_progress"] == "allowed"
    assert "looks contradict each other; allowed is used, not refused" in after.notes[0]


def test_much_evidence_outweighs_a_little_that_is_newer():
    before = file.merge(None, look(0), found(reading("refused", 1e6))).calibration

    after = file.merge(before, look(30), found(reading("allowed", 49.0)))

    assert after.calibration.readings["capacity_change_in_progress"] == "refused"
    assert after.notes


def test_a_number_that_left_its_interval_has_changed():
    def delay(value: float) -> Finding:
        return reading(value, None, 20, name="metric_delay_s", low=value - 10, high=value + 10)

    before = file.merge(None, look(0), found(delay(60))).calibration

    close = file.merge(before, look(30), found(delay(70)))
    gone = file.merge(before, look(30), found(delay(120)))

    assert 65 < float(close.calibration.readings["metric_delay_s"]) < 70
    assert gone.calibration.readings["metric_delay_s"] == 120
    assert "it has changed" in gone.notes[0]


def test_another_endpoints_looks_are_not_mixed_in():
    before = file.merge(None, look(0), found(reading("refused"))).calibration

    with pytest.raises(InvalidInputError, match="is of endpoint sdxl, not other"):
        file.merge(before, replace(look(1), endpoint="other"), found(reading("refused")))


def test_a_calibration_is_old_after_a_quarter_of_a_year():
    calibration = file.merge(None, look(0), found(reading("refused"))).calibration
    (only,) = calibration.looks

    def read(days: float) -> file.Calibration:
        until = datetime.now(UTC) - timedelta(days=days)
        return calibration.model_copy(update={"looks": (only.model_copy(update={"until": until}),)})

    assert not read(89).old
    assert read(91).old


def test_without_a_file_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert file.apply(Assumptions(), "prod") == Assumptions()


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ("{metric_delay: 60}", "metric_delay: no such reading"),
        ("{metric_delay_s: soon}", "metric_delay_s = 'soon' must be a number"),
        ("{capacity_change_in_progress: maybe}", "must be one of refused, allowed"),
        ("{setup_s: -1}", "setup_s = -1"),
        ("{backlog_counts_inflight: 1}", "must be true or false"),
        ("[", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_what_to_do(tmp_path, monkeypatch, readings, said):
    monkeypatch.chdir(tmp_path)
    text = (
        f"endpoint: sdxl\nreadings: {readings}\nlooks:\n- since: 2026-01-01T00:00:00Z\n"
        "  until: 2026-01-14T00:00:00Z\n  configuration: one\n"
    )
    file.path_of("prod").write_text(text)

    with pytest.raises(InvalidInputError) as refused:
        file.apply(Assumptions(), "prod")

    assert said in str(refused.value)
    assert "calibration.prod.yaml" in str(refused.value)
