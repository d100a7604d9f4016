"""Measures the daemon, and nvitop-exporter beside it, and prints the tables of docs/performance.md.

    scripts/bench.sh [--rounds 2] [--cost 60] [--errors 90] [--alone 45]

The two take turns over the same cards: eight invented ones, behind a compiled stand-in of the driver's library that
answers at once. So what is measured is the programs, not the driver.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from scripts.bench.contestants import nvitop
from scripts.bench.contestants import wattgram as daemon
from scripts.bench.loads import LOADS
from scripts.bench.measure import Round, cost, whole

import wattgram

MIB = 2**20
VARIANTS = ((8, "1s"), (8, "100ms"), (16, "1s"), (16, "100ms"))


def main() -> None:
    """Measure, and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended all the same
    options = arguments()
    contestants = [daemon(), *([nvitop(options.nvitop)] if options.nvitop else [])]
    print(f"{time.strftime('%Y-%m-%d')}, {' and '.join(described(options))}, {machine()}\n", flush=True)
    rounds: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for _ in range(options.rounds):
        for contestant in contestants:
            rounds[contestant.name].append(whole(contestant, options.cost, options.errors))
    print(table(["", *rounds], costs(rounds)))
    print(table(["Load", *(f"{name}, {way}" for name, way in ways(rounds))], errors(rounds)))
    if options.alone:
        header = ["wattgram alone", "processor time", "of a core", "memory (PSS)", "scrape, median"]
        print(table(header, variants(options.alone)))
    print(f"Load of the machine at the end: {load()}")


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description="What the daemon costs, and how wrong it is.")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured, in turns")
    parser.add_argument("--cost", type=float, default=60.0, help="seconds of a round that processor time is measured")
    parser.add_argument("--errors", type=float, default=90.0, help="seconds of a round over which energy is compared")
    parser.add_argument("--alone", type=float, default=45.0, help="seconds per row of the last table; 0: without it")
    parser.add_argument("--nvitop", type=Path, help="the program nvitop-exporter; without it the daemon is alone")
    return parser.parse_args()


def described(options: argparse.Namespace) -> Iterable[str]:
    """Yield each contestant with its version."""
    yield f"wattgram {wattgram.__version__}"
    if options.nvitop:
        said = subprocess.run([options.nvitop, "--version"], capture_output=True, text=True, check=True)
        yield said.stdout.strip()


def machine() -> str:
    """Say what all this ran on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.machine()
    return (
        f"{os.cpu_count()} processors ({processor}), Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, prometheus_client {importlib.metadata.version('prometheus-client')}; "
        f"load before: {load()}"
    )


def load() -> str:
    """Return the machine's load averages."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def costs(rounds: dict[str, list[Round]]) -> list[list[str]]:
    """Return the rows of the first table: medians over the rounds, all answers of all rounds."""
    rows: list[tuple[str, Callable[[list[Round]], str]]] = [
        ("processor seconds per hour", lambda of: spread([r.cpu_per_hour for r in of], "{:.1f}")),
        ("memory, PSS of all processes", lambda of: f"{median(r.pss for r in of) / MIB:.1f} MiB"),
        ("memory, if nothing else ran Python", lambda of: f"{median(r.alone for r in of) / MIB:.1f} MiB"),
        ("processes", lambda of: str(of[0].processes)),
        ("scrape each second, p50", lambda of: milliseconds([t for r in of for t in r.fresh], 50)),
        ("scrape each second, p99", lambda of: milliseconds([t for r in of for t in r.fresh], 99)),
        ("200 scrapes in a row, p50", lambda of: milliseconds([t for r in of for t in r.burst], 50)),
        ("200 scrapes in a row, p99", lambda of: milliseconds([t for r in of for t in r.burst], 99)),
        ("page", lambda of: f"{median(r.page for r in of) / 1024:.1f} KiB"),
        ("shows all cards after", lambda of: f"{median(r.ready for r in of):.2f} s"),
    ]
    return [[name, *(figure(of) for of in rounds.values())] for name, figure in rows]


def ways(rounds: dict[str, list[Round]]) -> list[tuple[str, str]]:
    """Return each way in which somebody gets energy out of a contestant."""
    any_load = next(iter(LOADS))
    return [(name, way) for name, of in rounds.items() for way in of[0].errors[any_load]]


def errors(rounds: dict[str, list[Round]]) -> list[list[str]]:
    """Return the rows of the second table: the worst of the rounds."""
    return [
        [name, *(percent(max((r.errors[name][way] for r in rounds[who]), key=abs)) for who, way in ways(rounds))]
        for name in LOADS
    ]


def variants(seconds: float) -> list[list[str]]:
    """Return the rows of the third table."""
    rows = []
    for gpus, interval in VARIANTS:
        found = cost(daemon(interval), gpus, seconds)
        rows.append(
            [
                f"{gpus} GPUs every {interval}",
                f"{found.cpu_per_hour:.1f} s per hour",
                f"{found.cpu_per_hour / 36:.2f} %",
                f"{found.pss / MIB:.1f} MiB",
                milliseconds(found.quiet, 50),
            ]
        )
    return rows


def spread(values: Sequence[float], form: str) -> str:
    """Write a median, and the least and most where they differ."""
    low, mid, high = (form.format(v) for v in (min(values), median(values), max(values)))
    return mid if low == high else f"{mid} ({low} to {high})"


def milliseconds(times: Sequence[float], percentile: int) -> str:
    """Write a percentile of times."""
    ordered = sorted(times)
    return f"{1000 * ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)]:.1f} ms"


def percent(fraction: float) -> str:
    """Write an error."""
    return f"{100 * fraction:+.2f} %"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
