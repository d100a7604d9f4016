"""An hour that never was: the daemon's own parts over a clock turned by hand, stored where Prometheus finds it.

Each server is what the daemon is from a sample to its metric families: source, meter, tariff, names, split, ledger,
families. Only the clock is ours, and the label that says how the invented joules were obtained. What was truly used is
known in closed form.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from standin import prometheus
from wattgram.accountant import Accountant, Desk
from wattgram.activity import Board
from wattgram.clock import ManualClock
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Cost, Health, Intensity, Reading, Sample
from wattgram.names import Names
from wattgram.poller import Poller
from wattgram.snapshot import Constants, Reload
from wattgram.sources.synthetic import SyntheticSource
from wattgram.tariff import Rung, Tariff
from wattgram.workloads.synthetic import SyntheticNamer
from wattgram_exporters.families import families

JOB = "wattgram"
SCRAPE = 15.0
ZONE = "FR"
HOUR = 3600.0

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """One server: its name, how its joules count, and what happens to it, in seconds from the beginning.

    `every` is its sampling interval; from `down` to `up` its daemon is not there, between the `hole`'s ends its source
    gives nothing; `blind` is a GPU without an energy counter, whose power is integrated.
    """

    instance: str
    quality: str = "measured"
    gpus: int = 4
    every: float = 5.0
    down: float = math.inf
    up: float = math.inf
    hole: tuple[float, float] = (math.inf, math.inf)
    blind: str = ""


@dataclass
class Column:
    """One series while it is written: times and values."""

    at: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def intensity(wall: float) -> float:
    """Grams per kWh of the invented grid, a new value every quarter of an hour."""
    return 50.0 + 10.0 * (int(wall // 900) % 4)


class Server:
    """One server's machine, which lasts, and its daemon, which may be begun anew."""

    def __init__(self, plan: Plan, begin: float) -> None:
        self.plan = plan
        self.clock = ManualClock(1000.0, begin)
        self.begin = begin
        self.source = SyntheticSource(plan.gpus, self.clock, plan.every)
        self._broken = False
        self._start()

    def _start(self) -> None:
        plan, clock = self.plan, self.clock
        self._tariff = Tariff(ZONE, "lifecycle", (Rung("electricitymaps", 7200.0, ("live", "forecast")),))
        self._learn()
        self._started = clock.now()
        self.ledger = Ledger(
            clock,
            self._tariff.view,
            self._cost,
            [("live", "lifecycle"), ("held", "lifecycle"), ("none", "lifecycle")],
            Constants(1.3, 20.0, 0.25, "EUR"),
            plan.instance,
        )
        names = Names({"synthetic": SyntheticNamer()}, clock, Path("/proc"))
        self.ledger.bound(self.ledger._roster.bounds, names.describe)
        floors = {f"GPU-00000000-0000-4000-8000-{n:012x}": 70.0 for n in range(plan.gpus)}
        desk = Desk(Board(), names, floors)
        self._accountant = Accountant("synthetic", plan.every, Meter(3.0 * plan.every), self._tariff, self.ledger, desk)
        self._poller = Poller(
            Health("synthetic", "source", plan.every, up=True),
            self._read,
            clock,
            self.ledger.report,
            observe=lambda health: replace(
                health, seconds=0.004 * health.turns, child=Cost(0.001 * self._up(), 21 << 20)
            ),
        )
        self.ledger.reloaded(Reload(successful=True, at=clock.now().wall))

    def _cost(self) -> Cost:
        return Cost(0.004 * self._up(), 52 << 20, 300 << 20, 14, 1024, self._started.wall)

    def _up(self) -> float:
        return self.clock.now().mono - self._started.mono

    def _learn(self) -> None:
        now = self.clock.now().wall
        first = now // 900 * 900
        known = [self._said(first, "live")]
        known += [self._said(first + 900 * n, "forecast") for n in range(1, 49 * 4)]
        self._tariff.learn("electricitymaps", known, now)

    @staticmethod
    def _said(start: float, basis: str) -> Intensity:
        grams = intensity(start) if basis == "live" else 60.0 - 25.0 * math.sin((start % 86400) / 86400 * 2 * math.pi)
        return Intensity(ZONE, "electricitymaps", start, start + 900, grams, basis, "lifecycle", published=start)

    def _read(self) -> None:
        sample = self.source.read()
        self._accountant.receive(
            Sample(sample.at, tuple(self._as(reading) for reading in sample.readings), sample.activities)
        )

    def _as(self, reading: Reading) -> Reading:
        uncertainty = (("counter", 0.05),) if reading.device.component == "gpu" else ()
        device = replace(reading.device, quality=self.plan.quality, uncertainty=uncertainty)
        is_blind = self.plan.blind == device.index and device.component == "gpu"
        return replace(reading, device=device, counter=None if is_blind else reading.counter)

    def turn(self) -> None:
        """Let one sampling interval pass."""
        plan = self.plan
        self.clock.advance(plan.every)
        now = self.clock.now()
        t = now.wall - self.begin
        if plan.down <= t < plan.up:
            self._broken = True
            return
        if self._broken:
            self._broken = False
            self._start()
        if now.wall % 900 < plan.every:
            self._learn()
        if plan.hole[0] <= t < plan.hole[1]:
            self._accountant.missed(now, "read")
            return
        self._poller.turn()
        failures = (("timeout", int(t / 1200)),)
        self.ledger.report(
            Health("electricitymaps", "provider", 300.0, up=True, failures=failures, requests=int(t / 300) + 1)
        )

    def scrape(self) -> Iterator[tuple[str, Labels, float]]:
        """What Prometheus stores of it now, its own series included; an empty label is no label."""
        own = (("instance", self.plan.instance), ("job", JOB))
        yield "up", own, float(not self._broken)
        if self._broken:
            return
        yield "scrape_duration_seconds", own, 0.006
        for family in families(self.ledger.snapshot()):
            for line in family.samples:
                labels = tuple(sorted((*own, *((k, v) for k, v in line.labels.items() if v))))
                yield line.name, labels, line.value

    def joules(self, start: float, end: float, *names: str) -> float:
        """What its devices, or those of a component or id that is named, truly used between two moments, in seconds
        from the beginning.
        """
        waves = (*self.source._gpus, *self.source._host)
        return math.fsum(
            wave.joules(end) - wave.joules(start)
            for device, wave in waves
            if not names or {device.component, device.id} & set(names)
        )


class Past:
    """Everything that was scraped, by series; becomes blocks of a Prometheus."""

    def __init__(self) -> None:
        self.series: dict[str, dict[Labels, Column]] = {}

    def add(self, at: float, lines: Iterable[tuple[str, Labels, float]]) -> None:
        """Store one scrape."""
        for name, labels, value in lines:
            column = self.series.setdefault(name, {}).setdefault(labels, Column())
            column.at.append(at)
            column.values.append(value)

    def write(self, path: Path) -> None:
        """As OpenMetrics with times: a text that promtool reads."""
        with path.open("w", encoding="utf-8") as file:
            for name, series in sorted(self.series.items()):
                # Of no type: a block holds none, and a counter's would have to be called otherwise.
                file.write(f"# TYPE {name} unknown\n")
                for labels, column in series.items():
                    head = name + "{" + ",".join(f'{k}="{_escaped(v)}"' for k, v in labels) + "} "
                    file.writelines(
                        f"{head}{value!r} {at:.3f}\n" for at, value in zip(column.at, column.values, strict=True)
                    )
            file.write("# EOF\n")

    def store(self, directory: Path) -> None:
        """Make blocks in `directory`/data, where a `Prometheus` of that directory looks."""
        directory.mkdir(parents=True, exist_ok=True)
        text = directory / "history.om"
        self.write(text)
        command = [str(prometheus.tools().promtool), "tsdb", "create-blocks-from", "openmetrics", "-q"]
        subprocess.run([*command, str(text), str(directory / "data")], check=True, capture_output=True, timeout=300)
        text.unlink()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def live(plans: Sequence[Plan], begin: float, seconds: float, scrape: float = SCRAPE) -> tuple[Past, list[Server]]:
    """Let servers live so long, scraped as Prometheus would: each at a moment of its own within the interval."""
    past = Past()
    servers = [Server(plan, begin) for plan in plans]
    for server in servers:
        turns, per_scrape = round(seconds / server.plan.every), round(scrape / server.plan.every)
        for turn in range(1, turns + 1):
            server.turn()
            if turn % per_scrape == 0:
                past.add(server.clock.now().wall, server.scrape())
    return past, servers
