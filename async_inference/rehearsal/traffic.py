"""Traffic: arrivals and service times, from a file or a seeded generator."""

import csv
import gzip
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from async_inference.validation import InvalidInputError

HEADER = ("arrival_s", "service_s")
SHOWN_PROBLEMS = 20
DAY_S = 86_400.0
LONGEST_S = 10 * 365.25 * DAY_S
"""Ten years. A first arrival later than that is a Unix time, in seconds since 1970."""
LAST_UNIX_S = 253_402_300_800.0
"""The year 10000; larger numbers are milliseconds or invalid."""
MEAN_SERVICE_S = 25.0
"""Seconds for one SDXL image: 23 steps on a T4 (image_times.py: 30 steps take it 32 s)."""


@dataclass(frozen=True)
class Traffic:
    """Requests in order of arrival.

    Args:
        arrivals_s: seconds since the start, not decreasing.
        service_s: each request's service time in seconds, positive.
        announces: how many requests the client announces with each. A batch announces all of them
            with the first, and none with the others.
    """

    arrivals_s: np.ndarray
    service_s: np.ndarray
    announces: np.ndarray | int = 1

    @property
    def requests(self) -> int:
        return len(self.arrivals_s)

    @property
    def span_s(self) -> float:
        """From the start to the last arrival."""
        return float(self.arrivals_s[-1])

    @property
    def work_s(self) -> float:
        """All service together."""
        return float(self.service_s.sum())


def read(path: Path) -> Traffic:
    """Read a CSV file with the header `arrival_s,service_s`, plain or gzipped, or saved by Excel.

    Arrivals are seconds since the start, Unix times, or ISO 8601 times (UTC unless they have an
    offset). The last two become relative to the first arrival, and stderr says so.

    Raises:
        InvalidInputError: each wrong line, and what is wrong with it.
    """
    try:
        with _opened(path) as file:
            return _parsed(path, file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError([f"{path}: cannot be read as CSV ({error})"]) from error


def write(traffic: Traffic, path: Path) -> None:
    """Write a CSV file that `read` reads."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        for arrival_s, service_s in zip(traffic.arrivals_s, traffic.service_s, strict=True):
            rows.writerow((f"{arrival_s:.3f}", f"{service_s:.3f}"))


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _parsed(path: Path, lines: Iterable[str]) -> Traffic:
    rows, decimal = _rows(iter(lines))
    header = tuple(cell.strip() for cell in next(rows, []))
    if header != HEADER:
        raise InvalidInputError(
            [f"{path}:1: the first line must be {','.join(HEADER)}, it is {','.join(header)!r}"]
        )
    arrivals: list[float] = []
    services: list[float] = []
    problems: list[str] = []
    dated: bool | None = None
    for line, row in enumerate(rows, start=2):
        if not any(map(str.strip, row)):
            continue
        try:
            arrival_s, service_s, is_date = _request(row, decimal)
            if dated is None:
                dated = is_date
            if is_date != dated:
                raise ValueError(f"arrival_s = {row[0]!r}: all must be numbers, or all ISO 8601")
            _refuse_disorder(arrival_s, arrivals, row[0])
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        arrivals.append(arrival_s)
        services.append(service_s)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS]
        raise InvalidInputError([*shown, f"{path}: and {more} more"] if more > 0 else shown)
    if not arrivals:
        raise InvalidInputError([f"{path}: holds no requests"])
    since_start_s = np.array(arrivals)
    if dated or arrivals[0] > LONGEST_S:
        first = datetime.fromtimestamp(arrivals[0], UTC)
        print(
            f"{path}: arrivals are {'dates' if dated else 'Unix times'}; time 0 is the first one, "
            f"{first:%Y-%m-%d %H:%M:%S} UTC",
            file=sys.stderr,
        )
        since_start_s -= arrivals[0]
    return Traffic(since_start_s, np.array(services))


def _rows(lines: Iterator[str]) -> tuple[Iterator[list[str]], str]:
    """The file's rows, and its decimal separator.

    In locales with a decimal comma, Excel separates values with semicolons.
    """
    first = next(lines, "")
    delimiter = next((mark for mark in ";\t" if mark in first), ",")
    rows = csv.reader(itertools.chain([first] if first else [], lines), delimiter=delimiter)
    return rows, "." if delimiter == "," else ","


def _request(row: list[str], decimal: str) -> tuple[float, float, bool]:
    """A line's arrival and service in seconds, and whether the arrival is a date."""
    if len(row) != len(HEADER):
        raise ValueError(f"must have 2 values, it has {len(row)}")
    date = _date(row[0])
    arrival_s = _number("arrival_s", row[0], decimal) if date is None else date.timestamp()
    service_s = _number("service_s", row[1], decimal)
    if arrival_s < 0:
        raise ValueError(f"arrival_s = {row[0].strip()} must not be negative")
    if arrival_s > LAST_UNIX_S:
        raise ValueError(
            f"arrival_s = {row[0].strip()} must be seconds since the start or a Unix time in "
            "seconds; divide milliseconds by 1000"
        )
    if service_s <= 0:
        raise ValueError(f"service_s = {service_s:g} must be positive")
    if service_s > LONGEST_S:
        raise ValueError(f"service_s = {service_s:g} must not be more than ten years")
    return arrival_s, service_s, date is not None


def _date(cell: str) -> datetime | None:
    try:
        float(cell)
    except ValueError:
        pass
    else:
        return None  # 20260105 is also valid ISO 8601; here it is a number
    try:
        date = datetime.fromisoformat(cell.strip())
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _number(name: str, cell: str, decimal: str) -> float:
    try:
        value = float(cell.replace(decimal, "."))
    except ValueError:
        raise ValueError(f"{name} = {cell!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} = {cell!r} must be finite")
    return value


def _refuse_disorder(arrival_s: float, before: list[float], cell: str) -> None:
    if not before:
        return
    if arrival_s < before[-1]:
        raise ValueError(f"arrival_s = {cell.strip()} comes after {before[-1]:g}; sort the file")
    start_s = before[0] if before[0] > LONGEST_S else 0.0
    if arrival_s - start_s > LONGEST_S:
        raise ValueError(
            f"arrival_s = {cell.strip()}: the file spans more than ten years; is it in seconds?"
        )


def steady(random: np.random.Generator) -> Traffic:
    """A day of Poisson arrivals, 90 an hour."""
    return _served(random, _poisson(random, lambda _: 90 / 3600, 90 / 3600, DAY_S))


def diurnal(random: np.random.Generator) -> Traffic:
    """Three days with busy afternoons and quiet nights, 0 to 200 an hour."""

    def rate(at_s: np.ndarray) -> np.ndarray:
        return 100 / 3600 * (1 - np.cos(2 * np.pi * at_s / DAY_S))

    return _served(random, _poisson(random, rate, 200 / 3600, 3 * DAY_S))


def bursts(random: np.random.Generator) -> Traffic:
    """Three days of bursts, 30 images each on average, every hour and a half on average."""
    arrivals: list[float] = []
    at_s = random.exponential(5400)
    while at_s < 3 * DAY_S:
        size = random.geometric(1 / 30)
        arrivals.extend(at_s + np.sort(random.uniform(0, 120, size)))
        at_s += random.exponential(5400)
    return _served(random, np.sort(np.array(arrivals)))


def sparse(random: np.random.Generator) -> Traffic:
    """A week of single requests, one every two hours on average."""
    return _served(random, _poisson(random, lambda _: 0.5 / 3600, 0.5 / 3600, 7 * DAY_S))


def launch(random: np.random.Generator) -> Traffic:
    """A day with a launch at noon: 20 an hour before, then 600 an hour, halving every hour."""
    noon_s = DAY_S / 2

    def rate(at_s: np.ndarray) -> np.ndarray:
        after = np.where(at_s >= noon_s, 600 * 0.5 ** ((at_s - noon_s) / 3600), 0)
        return (20 + after) / 3600

    return _served(random, _poisson(random, rate, 620 / 3600, DAY_S))


GENERATORS: dict[str, Callable[[np.random.Generator], Traffic]] = {
    generator.__name__: generator for generator in (steady, diurnal, bursts, sparse, launch)
}


def generate(name: str, seed: int) -> Traffic:
    """The traffic of a named generator with a seed.

    Raises:
        InvalidInputError: there is no such generator.
    """
    if name not in GENERATORS:
        raise InvalidInputError(
            [f"traffic {name!r}: must be a CSV file or one of {', '.join(GENERATORS)}"]
        )
    return GENERATORS[name](np.random.default_rng(seed))


def load(source: str, seed: int) -> Traffic:
    """The traffic of a CSV file or of a named generator.

    Raises:
        InvalidInputError: there is neither, or the file is wrong.
    """
    return read(Path(source)) if Path(source).is_file() else generate(source, seed)


def load_for_seeds(source: str, seeds: Iterable[int]) -> tuple[Traffic, ...]:
    """The traffic for each seed: different from a generator, the same from a file.

    Raises:
        InvalidInputError: there is neither, or the file is wrong.
    """
    if Path(source).is_file():
        return (read(Path(source)),) * len(tuple(seeds))
    return tuple(generate(source, seed) for seed in seeds)


def _poisson(
    random: np.random.Generator,
    rate: Callable[[np.ndarray], np.ndarray | float],
    most: float,
    span_s: float,
) -> np.ndarray:
    """Arrivals of a Poisson process whose rate never exceeds `most`, by thinning."""
    count = random.poisson(most * span_s)
    candidates = np.sort(random.uniform(0, span_s, count))
    return candidates[random.uniform(0, most, count) < rate(candidates)]


def _served(random: np.random.Generator, arrivals_s: np.ndarray) -> Traffic:
    if not len(arrivals_s):
        arrivals_s = np.array([0.0])
    return Traffic(arrivals_s, random.gamma(4.0, MEAN_SERVICE_S / 4.0, len(arrivals_s)))
