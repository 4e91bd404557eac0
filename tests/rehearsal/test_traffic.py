"""Traffic files are read or refused line by line; generators repeat themselves by seed."""

import gzip

import numpy as np
import pytest

from async_inference.rehearsal.traffic import GENERATORS, generated, read
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
        ("11,", "service_s = '' is no number"),
        ("11", "must have 2 values, it has 1"),
        ("nan,1", "arrival_s = 'nan' must be finite"),
        ("soon,1", "arrival_s = 'soon' is no number"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path, line, sentence):
    path = tmp_path / "bad.csv"
    path.write_text(f"arrival_s,service_s\n10,1\n{line}\n12,1\n")

    with pytest.raises(InvalidInputError) as raised:
        read(path)

    assert raised.value.problems == (f"{path}:3: {sentence}",)


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
    first, again, other = generated(name, 3), generated(name, 3), generated(name, 4)

    assert (np.diff(first.arrivals_s) >= 0).all()
    assert (first.service_s > 0).all()
    assert first.arrivals_s.tolist() == again.arrivals_s.tolist()
    assert first.arrivals_s.tolist() != other.arrivals_s.tolist()


def test_an_unknown_generator_names_those_that_exist():
    with pytest.raises(InvalidInputError, match="steady, diurnal, bursts, sparse, launch"):
        generated("hectic", 0)
