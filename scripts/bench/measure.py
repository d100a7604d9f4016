"""One contestant through one round: what it costs while it is scraped quietly, how wrong it is, how fast it answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.bench.contestants import Contestant, Running, running
from scripts.bench.cost import alone_bytes, cpu_seconds, family, pss_bytes
from scripts.bench.loads import LOADS, cards

from standin.nvml import NvmlStandin

SCRAPE_SECONDS = 15.0  # as Prometheus is mostly told
OWN_SECONDS = 1.0  # the interval that both are told to read at
SETTLING_SECONDS = 3.0
BURST = 200


@dataclass
class Round:
    """What was found. Errors are fractions of the truth, by load; times in seconds."""

    ready: float = 0.0
    cpu_per_hour: float = 0.0
    pss: int = 0
    alone: int = 0
    processes: int = 0
    page: int = 0
    quiet: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)


def cost(contestant: Contestant, gpus: int, seconds: float) -> Round:
    """Measure only what it costs."""
    with _at_work(contestant, gpus) as (_, program, found):
        _cost(program, seconds, found)
    return found


def whole(contestant: Contestant, cost_seconds: float, error_seconds: float) -> Round:
    """Measure everything, over the cards of all loads."""
    with _at_work(contestant, len(LOADS)) as (standin, program, found):
        _cost(program, cost_seconds, found)
        _errors(program, standin, error_seconds, found)
        found.burst = [_timed(program) for _ in range(BURST)]
    return found


@contextmanager
def _at_work(contestant: Contestant, gpus: int) -> Iterator[tuple[NvmlStandin, Running, Round]]:
    """A contestant that shows all its cards and has settled."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        standin = cards(directory / "cards", gpus)
        with running(contestant, {**os.environ, **standin.env}, directory) as program:
            found = Round(ready=program.wait(gpus))
            time.sleep(SETTLING_SECONDS)
            yield standin, program, found


def _cost(program: Running, seconds: float, found: Round) -> None:
    cpu, start = cpu_seconds(program.pid), time.monotonic()
    quiet = [_timed(program) for _ in _every(SCRAPE_SECONDS, seconds)]
    found.cpu_per_hour = 3600 * (cpu_seconds(program.pid) - cpu) / (time.monotonic() - start)
    found.pss, found.alone = pss_bytes(program.pid), alone_bytes(program.pid)
    found.processes, found.page, found.quiet = len(family(program.pid)), len(program.get()), quiet


def _errors(program: Running, standin: NvmlStandin, seconds: float, found: Round) -> None:
    """Scrape at the program's own interval; every fifteenth of these is what Prometheus would have got."""
    scraped: list[tuple[float, dict[str, float]]] = []
    first = program.readings() if program.contestant.is_counter else {}
    for _ in _every(OWN_SECONDS, seconds):
        before = time.monotonic()
        samples = program.samples()
        found.fresh.append(time.monotonic() - before)
        scraped.append((before, samples))
    last = program.readings() if program.contestant.is_counter else {}
    for index, load in enumerate(LOADS):
        uuid = standin.gpus[index].uuid
        values = [(at, samples[uuid]) for at, samples in scraped]
        if program.contestant.is_counter:
            joules, (start, end) = last[uuid][0] - first[uuid][0], (first[uuid][1], last[uuid][1])
            ways = {"between its readings": joules / standin.joules(index, start, end) - 1}
            ways |= {"as scraped": _counted(values) / standin.joules(index, values[0][0], values[-1][0]) - 1}
        else:
            slow = values[:: round(SCRAPE_SECONDS / OWN_SECONDS)]
            ways = {"every second": _integrated(values, standin, index, OWN_SECONDS)}
            ways |= {"every 15 s": _integrated(slow, standin, index, SCRAPE_SECONDS)}
        found.errors[load] = ways


def _counted(values: list[tuple[float, float]]) -> float:
    return values[-1][1] - values[0][1]


def _integrated(values: list[tuple[float, float]], standin: NvmlStandin, index: int, every: float) -> float:
    """What `sum_over_time(watts[…]) * interval` is wrong by: a value holds until the next scrape."""
    start = values[0][0]
    joules = sum(watts for _, watts in values) * every
    return joules / standin.joules(index, start, start + len(values) * every) - 1


def _timed(program: Running) -> float:
    before = time.monotonic()
    program.get()
    return time.monotonic() - before


def _every(interval: float, seconds: float) -> Iterator[float]:
    """Yield at the start of each interval, without drift, until so many seconds are over."""
    start = time.monotonic()
    for count in range(round(seconds / interval)):
        time.sleep(max(0.0, start + count * interval - time.monotonic()))
        yield start + count * interval
    time.sleep(max(0.0, start + seconds - time.monotonic()))
