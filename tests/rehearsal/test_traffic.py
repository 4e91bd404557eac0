"""Traffic files are read or refused line by line; generators repeat themselves by seed."""

import gzip

import numpy as np
import pytest

from async_inference.rehearsal.traffic import GENERATORS, generate, read
from async_inference.validation import InvalidInputError


def test_a_csv_is_read_plain_and_gzipped(tmp_path):
    text = "arrival_s,service_s\n0,25\n1.5,30\n1.5,1\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))

    plain, packed = read(tmp_path / "a.csv"), read(tmp_path / "a.csv.gz")

    assert plain.arrivals_s.tolist() == packed.arrivals_s.tolist() == [0, 1.5, 1.5]
    assert (plain.requests, plain.span_s, plain.work_s) == (3, 1.5, 56)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("5,1", "arrival_s = 5 comes after 10; sort the file"),
        ("-1,1", "arrival_s = -1 must not be negative"),
        ("11,0", "service_s = 0 must be positive"),
        ("11,", "service_s = '' is not a number"),
        ("11", "must have 2 values, it has 1"),
        ("nan,1", "arrival_s = 'nan' must be finite"),
        ("soon,1", "arrival_s = 'soon' is not a number"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path, line, sentence):
    path = tmp_path / "bad.csv"
    path.write_text(f"arrival_s,service_s\n10,1\n{line}\n12,1\n")

    with pytest.raises(InvalidInputError) as raised:
        read(path)

    assert raised.value.problems == (f"{path}:3: {sentence}",)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("1764288000", "1764288090.5", "arrivals are Unix times"),
        ("2025-11-28T00:00:00Z", "2025-11-28T01:01:30.5+01:00", "arrivals are dates"),
        ("2025-11-28 00:00:00", "2025-11-28 00:01:30.5", "arrivals are dates"),
    ],
)
def test_times_of_a_log_are_taken_relative_to_the_first_and_that_is_said(
    tmp_path, capsys, first, second, said
):
    (tmp_path / "log.csv").write_text(f"arrival_s,service_s\n{first},25\n{second},30\n")

    assert read(tmp_path / "log.csv").arrivals_s.tolist() == [0, 90.5]
    told = capsys.readouterr().err
    assert f"{said}; time 0 is the first one, 2025-11-28 00:00:00 UTC" in told


def test_seconds_since_the_start_stay_what_they_are(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("arrival_s,service_s\n3600,25\n7200,30\n")

    assert read(tmp_path / "a.csv").arrivals_s.tolist() == [3600, 7200]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("0,1\n1e308,1", "arrival_s = 1e308 must be seconds since the start or a Unix time"),
        ("1764288000000,1", "divide milliseconds by 1000"),
        ("0,1\n400000000,1", "the file spans more than ten years"),
        ("1400000000,1\n1764288000,1", "the file spans more than ten years"),
        ("2014-01-01,1\n2026-01-01,1", "the file spans more than ten years"),
        ("0,1e308", "service_s = 1e\\+308 must not be more than ten years"),
        ("0,1\n2026-01-01,1", "all must be numbers, or all ISO 8601"),
    ],
)
def test_impossible_times_are_refused_in_a_sentence(tmp_path, lines, sentence):
    (tmp_path / "bad.csv").write_text(f"arrival_s,service_s\n{lines}\n")

    with pytest.raises(InvalidInputError, match=sentence):
        read(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffarrival_s,service_s\r\n0,25\r\n1.5,30\r\n",
        "arrival_s;service_s\r\n0;25\r\n1,5;30\r\n",
        "\ufeffarrival_s;service_s\r\n0;25\r\n1.5;30\r\n;\r\n",
        "arrival_s\tservice_s\r\n0\t25\r\n1,5\t30\r\n",
    ],
    ids=["byte-order mark", "semicolons and decimal commas", "both, and an empty row", "tabs"],
)
def test_a_csv_as_excel_writes_it_is_read(tmp_path, text):
    (tmp_path / "excel.csv").write_bytes(text.encode())

    traffic = read(tmp_path / "excel.csv")

    assert (traffic.arrivals_s.tolist(), traffic.service_s.tolist()) == ([0, 1.5], [25, 30])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the first line must be arrival_s,service_s"),
        ("time,work\n1,2\n", "the first line must be arrival_s,service_s"),
        ("arrival_s,service_s\n", "holds no requests"),
    ],
)
def test_a_file_without_requests_says_so(tmp_path, text, sentence):
    (tmp_path / "empty.csv").write_text(text)

    with pytest.raises(InvalidInputError, match=sentence):
        read(tmp_path / "empty.csv")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    (tmp_path / "fake.csv.gz").write_text("arrival_s,service_s\n1,2\n")

    with pytest.raises(InvalidInputError, match="cannot be read as CSV"):
        read(tmp_path / "fake.csv.gz")


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_gives_sorted_arrivals_and_repeats_itself_by_seed(name):
    first, again, other = generate(name, 3), generate(name, 3), generate(name, 4)

    assert (np.diff(first.arrivals_s) >= 0).all()
    assert (first.service_s > 0).all()
    assert first.arrivals_s.tolist() == again.arrivals_s.tolist()
    assert first.arrivals_s.tolist() != other.arrivals_s.tolist()


def test_an_unknown_generator_names_those_that_exist():
    with pytest.raises(InvalidInputError, match="steady, diurnal, bursts, sparse, launch"):
        generate("hectic", 0)
