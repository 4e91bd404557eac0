"""Runs all benchmarks and prints a table of measurements and targets."""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import client, handler, program, runtime, simulator

RUNS = 5
WEIGHTS_BYTES = 2_000_000_000


def median_s(work: Callable[[], object], runs: int = RUNS) -> float:
    """Median seconds of several runs, after one run that does not count."""
    work()
    took = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def main() -> None:
    console = Console()
    table = Table("what", "measured", "target", title="make bench", title_justify="left")
    with (
        console.status("pulumi preview"),
        tempfile.TemporaryDirectory() as folder,
        program.previews(Path(folder)) as (ours, empty),
    ):
        ours_s, empty_s = median_s(ours), median_s(empty)
    table.add_row("pulumi preview, stack local", f"{ours_s:.2f} s", "")
    table.add_row("pulumi preview, empty program", f"{empty_s:.2f} s", "")
    table.add_row("ratio", f"{ours_s / empty_s:.2f}", "<= 1.8")
    with console.status("the program under mocks"), tempfile.TemporaryDirectory() as folder:
        build_s = median_s(program.build_under_mocks(Path(folder)))
    table.add_row("program under mocks, after the first", f"{build_s * 1000:.0f} ms", "<= 100 ms")
    with console.status("the embedded endpoint"), tempfile.TemporaryDirectory() as folder:
        found = runtime.measure(Path(folder))
    table.add_row("requests/s, 5 instances, no-op handler", f"{found.requests_per_s:.0f}", ">= 200")
    table.add_row(
        "overhead of one request, median", f"{found.median_overhead_s * 1000:.1f} ms", "<= 15 ms"
    )
    table.add_row("idle CPU of the embedded AWS", f"{found.idle_cpu_percent:.1f} %", "< 2 %")
    with console.status("a batch of the client"), tempfile.TemporaryDirectory() as folder:
        client_s = client.overhead_s(Path(folder))
    table.add_row(
        "client: a request of a batch beyond plain boto3", f"{client_s * 1000:.1f} ms", "<= 10 ms"
    )
    with console.status("weights as they are and packed"), tempfile.TemporaryDirectory() as folder:
        plain_s, packed_s = handler.weights_ready_s(Path(folder), WEIGHTS_BYTES)
    table.add_row("2 GB of weights, uncompressed, until in service", f"{plain_s:.1f} s", "")
    table.add_row("2 GB of weights, tar.gz, until in service", f"{packed_s:.1f} s", "")
    table.add_row("ratio", f"{packed_s / plain_s:.1f}", ">= 2")
    with console.status("the handler beside bare diffusers"):
        image = handler.overhead()
        bare_s = median_s(lambda: handler.start_to_image_s(handler.BARE), runs=3)
        ours_s = median_s(lambda: handler.start_to_image_s(handler.HANDLER), runs=3)
    table.add_row(
        "handler beyond diffusers, 256 pixels, 20 steps",
        f"{image['overhead_s'] * 1000:.1f} ms of {image['bare_s'] * 1000:.0f} ms",
        "<= 3 % or 5 ms",
    )
    for step, seconds in image["start_s"].items():
        table.add_row(f"start of the handler: {step}", f"{seconds:.2f} s", "")
    table.add_row(
        "process start to first image, to the bare script's", f"{ours_s / bare_s:.2f}", "<= 1.15"
    )
    month = simulator.uniform(1_000_000, 30, 8.0)
    weeks = simulator.uniform(27_000, 23, 25.0)
    table.add_row("start of one instance, median", f"{found.median_start_s:.2f} s", "")
    table.add_row("memory of one instance alone", f"{found.instance_bytes / 2**20:.0f} MiB", "")
    with console.status("the simulator"):
        month_s = median_s(simulator.rehearse(month, max_capacity=10))
        weeks_s = median_s(simulator.rehearse(weeks, max_capacity=5))
    table.add_row("simulating 1,000,000 requests over 30 days", f"{month_s:.2f} s", "<= 0.25 s")
    table.add_row("simulating 27,000 requests over 23 days", f"{weeks_s:.3f} s", "<= 0.15 s")
    with console.status("the same month in SimPy, without scaling"):
        simpy_s = median_s(simulator.in_simpy(month, servers=10), runs=1)
    table.add_row("SimPy, the same million without scaling", f"{simpy_s:.1f} s", "")
    table.add_row("SimPy's time to ours", f"{simpy_s / month_s:.0f}", ">= 10")
    with console.status("tune"), tempfile.TemporaryDirectory() as folder:
        tune_s = median_s(simulator.tune(Path(folder)), runs=1)
    table.add_row("tune: 200 plans, 4 seeds, a week of 9,000", f"{tune_s:.1f} s", "<= 12 s")
    with console.status("rehearse"):
        rehearse_s = median_s(simulator.rehearse_bursts(), runs=3)
    table.add_row("rehearse: 2 plans, 8 seeds of 3 days of bursts", f"{rehearse_s:.1f} s", "<= 3 s")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
