"""Faults read in the code of other meters, each as a check that ours passes and the other's way of doing it does not.

Each test holds the peer's behaviour in small, so that the check is known to be able to fail. A check takes what a
reader of the exposition would see, or what was booked. What is tested elsewhere, or cannot be yet:

| Fault | Here | The rest |
|---|---|---|
| F7 a timeout that waits | one hung card of four | children that hang: `test_isolated`, `test_nvml` |
| F11 idle power of a GPU never seen idle is 0 | no idle account yet | a changing MIG layout: with the workloads |
| F17 gram and joule split differently | every account there is | dashboards' rules: with the dashboards |
| F20 a counter ahead of its file | it begins at 0 | totals that survive a restart: not before they are kept |
| F22 `delta()` over a gauge of energy | types and rises | each panel's query: `test_queries` |
| F23 labels empty, series deleted | as scraped | pushing to a gateway: we are pulled |
| F24 the board's energy once per MIG instance | shares of a board | slices: with the workloads |
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.sysfs import RaplTree, Zone
from wattgram import attribution
from wattgram.accountant import Accountant
from wattgram.clock import ManualClock, SystemClock
from wattgram.feed import ProviderFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import (
    UNATTRIBUTED,
    Activity,
    Counter,
    Device,
    EnergyDelta,
    Failure,
    Health,
    Instant,
    Intensity,
    Part,
    Reading,
    Sample,
    Share,
    State,
)
from wattgram.poller import Poller
from wattgram.ports import ReadFailed
from wattgram.providers.gb import GreatBritain
from wattgram.sources.nvml.binding import Power
from wattgram.sources.nvml.source import NvmlSource
from wattgram.sources.rapl import Options, open_source
from wattgram.tariff import Rung, Tariff
from wattgram.tools.fetch import Fetcher
from wattgram.tools.replies import parse_time
from wattgram_exporters.families import families

JOULE = 1_000_000
T0 = 1_700_000_000.0
PACKAGE_RANGE, DRAM_RANGE = 262_143_328_850, 65_532_610_987

GPU = Device("gpu", "GPU-1", name="H100", index="0", max_watts=700.0, events=("reset", "gap", "lost"))
OTHER = replace(GPU, id="GPU-2", index="1")
PACKAGE = Device("cpu", "package-0", max_watts=1000.0, events=("wrap", "reset", "gap"))
SECOND = replace(PACKAGE, id="package-1")
DRAM = Device("dram", "dram-0", max_watts=1000.0, events=("wrap", "reset", "gap"))

ENERGY, GRAMS, POWER = (
    f"wattgram_device_{name}" for name in ("energy_joules_total", "emissions_grams_total", "power_watts")
)


@dataclass(frozen=True)
class Line:
    """One line of a scrape."""

    name: str
    labels: Mapping[str, str]
    value: float


class House:
    """Meter, tariff, ledger and exposition, and the clock by which they live."""

    def __init__(self, *prices: Intensity, hold: float = 0.0, every: float = 1.0) -> None:
        self.clock = ManualClock(mono=1000.0, wall=T0)
        self.tariff = Tariff(
            "FR", "lifecycle", [Rung("grid", hold, ("live", "held")), Rung("annual", 0.0, ("annual",))]
        )
        for price in prices:
            self.tariff.learn(price.provider, [price], T0)
        self.ledger = Ledger(self.clock, view=self.tariff.view)
        self.accountant = Accountant("source", every, Meter(max_gap=3 * every), self.tariff, self.ledger)

    def give(self, *readings: Reading, failed: Iterable[Device] = ()) -> None:
        failures = tuple(Failure(device, "no answer") for device in failed)
        self.accountant.receive(Sample(self.clock.now(), readings, failed=failures))

    def read(
        self,
        joules: float | None = None,
        watts: float | None = None,
        device: Device = GPU,
        *,
        wraps_at: int | None = None,
    ) -> Reading:
        counter = None if joules is None else Counter(round(joules * JOULE), wraps_at)
        return Reading(device, self.clock.now(), watts=watts, counter=counter)

    def scrape(self, name: str = "") -> list[Line]:
        found = [Line(s.name, s.labels, s.value) for f in families(self.ledger.snapshot()) for s in f.samples]
        return [line for line in found if line.name == name] if name else found

    def total(self, name: str = ENERGY, **labels: str) -> float:
        return sum(line.value for line in self.scrape(name) if labels.items() <= dict(line.labels).items())

    def series(self, shown: Iterable[int | None], device: Device = GPU, wraps_at: int | None = None) -> list[float]:
        """The exposed joules after each value of a counter, a second apart; None: it could not be read."""
        exposed = []
        for value in shown:
            if value is None:
                self.give(failed=[device])
            else:
                reading = self.read(device=device)
                self.give(replace(reading, counter=Counter(value, wraps_at)))
            exposed.append(self.total(device=device.id))
            self.clock.advance(1.0)
        return exposed


def increase(scraped: Sequence[float]) -> float:
    """What Prometheus makes of a counter: a fall is a restart from 0."""
    return sum(new - old if new >= old else new for old, new in pairwise(scraped))


def exactly(expected: float, found: float) -> bool:
    """To the microjoule."""
    return abs(expected - found) < 1e-6


def live(start: float, end: float, grams_per_kwh: float) -> Intensity:
    return Intensity("FR", "grid", T0 + start, T0 + end, grams_per_kwh, "live", "lifecycle")


def yearly(grams_per_kwh: float) -> Intensity:
    return Intensity("FR", "annual", T0 - 1e7, T0 + 1e7, grams_per_kwh, "annual", "lifecycle", edition="2025")


# --- counters that wrap, restart, or cannot be read -------------------------------------------------


def test_f01_a_wrap_between_scrapes_adds_exactly_the_true_delta() -> None:
    """node_exporter and CEEMS expose the raw counter: at each wrap `increase()` loses what was left of the range."""
    shown = [PACKAGE_RANGE - 30 * JOULE, 20 * JOULE, 70 * JOULE]

    def check(exposed: Sequence[float]) -> bool:
        return exactly(100.0, increase(exposed))

    def peer_exposes(counter: Sequence[int]) -> list[float]:
        return [value / JOULE for value in counter]

    assert check(House().series(shown, PACKAGE, PACKAGE_RANGE))
    assert not check(peer_exposes(shown))


class Cards:
    """An NVML binding of four cards; those in `hung` do not return before `go_on`."""

    def __init__(self, *, hung: Sequence[int] = ()) -> None:
        self.millijoules = [9_000_000_000_000] * 4
        self.hung = set(hung)
        self.go_on = threading.Event()

    def open(self) -> None: ...

    def close(self) -> None: ...

    def driver(self) -> str:
        return "570.86.15"

    def count(self) -> int:
        return 4

    def handle(self, index: int) -> int:
        return index

    def uuid(self, handle: int) -> str:
        return f"GPU-{handle}"

    def device(self, handle: int, index: int) -> Device:
        return replace(GPU, id=self.uuid(handle), index=str(index))

    def serial(self, handle: int) -> str:
        return ""

    def power(self, handle: int) -> Power:
        if handle in self.hung:
            self.go_on.wait(60.0)
        return Power(self.millijoules[handle] * 1000, None)

    def samples(self, handle: int, last: int) -> list[tuple[int, float]]:
        return []

    def state(self, handle: int) -> State:
        return State()


def test_f02_a_reloaded_driver_is_a_reset_and_no_wrap_of_64_bits() -> None:
    """Alumet unwraps NVML's counter at 2^64: a driver that begins anew at 0 yields 1.8e16 J in a second."""
    house, cards = House(), Cards()
    source = NvmlSource(cards, house.clock, every=60.0, state_every=5.0)
    source.open()
    house.accountant.receive(source.read())
    house.clock.advance(1.0)
    before, cards.millijoules = list(cards.millijoules), [50_000] * 4
    house.accountant.receive(source.read())

    def check(joules: float) -> bool:
        return exactly(50.0, joules)

    def peer_diff(old: int, new: int) -> float:
        return (new - old) % 2**64 / 1000

    assert check(house.total(device="GPU-0"))
    assert not check(peer_diff(before[0], cards.millijoules[0]))


def test_f03_a_slow_scraper_loses_nothing() -> None:
    """Alumet sets each difference on a gauge: of fifteen points between two scrapes it shows the last."""
    shown = [100 * JOULE * n + n * n for n in range(61)]
    scraped = slice(None, None, 15)

    def check(what_the_scraper_adds_up: float) -> bool:
        return exactly((shown[-1] - shown[0]) / JOULE, what_the_scraper_adds_up)

    def peer_gauge(counter: Sequence[int]) -> list[float]:
        return [0.0, *((new - old) / JOULE for old, new in pairwise(counter))]

    assert check(increase(House().series(shown)[scraped]))
    assert not check(sum(peer_gauge(shown)[scraped]))


def one_package(tmp_path: Path, *, start: int = 1_000 * JOULE) -> RaplTree:
    return RaplTree(tmp_path, [Zone("intel-rapl:0", "package-0", start=start)])


def rapl_totals(tree: RaplTree, turns: Sequence[Callable[[], None]], device: str = "package-0") -> float:
    """Joules exposed after so many turns of the source over this tree; before each something happens."""
    house = House()
    source = open_source(Options(path=str(tree.sys), proc=str(tree.proc)), house.clock, 1.0)
    for happen in turns:
        happen()
        try:
            house.accountant.receive(source.read())
        except ReadFailed as failure:
            house.accountant.missed(house.clock.now(), str(failure))
        house.clock.advance(1.0)
    return house.total(device=device)


def peer_reads_zero(path: Path) -> int:
    """An unreadable file is 0."""
    try:
        return int(path.read_bytes())
    except OSError:
        return 0


class PeerRapl:
    """A reader to whom every fall is a wrap of this range."""

    def __init__(self, path: Path, wraps_at: int) -> None:
        self.path, self.wraps_at = path, wraps_at
        self.last = peer_reads_zero(path)
        self.microjoules = 0

    def turn(self) -> None:
        new = peer_reads_zero(self.path)
        self.microjoules += new - self.last if new >= self.last else new - self.last + self.wraps_at
        self.last = new


def test_f04_one_input_output_error_adds_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """CodeCarbon up to 3.2.9 reads 0 from an unreadable file: a wrap of +262 kJ, and then the whole counter again."""
    tree = one_package(tmp_path)
    zone = "intel-rapl:0"
    steps: Sequence[Callable[[], None]] = (
        lambda: tree.set_raw(zone, f"{1_000 * JOULE}\n"),
        lambda: tree.set_raw(zone, f"{1_100 * JOULE}\n"),
        lambda: tree.deny(zone),
        lambda: tree.set_raw(zone, f"{1_300 * JOULE}\n"),
    )
    peer = PeerRapl(tree.file(zone), PACKAGE_RANGE)

    def check(joules: float) -> bool:
        return exactly(300.0, joules)

    assert check(rapl_totals(tree, steps))
    for happen in steps:
        happen()
        peer.turn()
    assert not check(peer.microjoules / JOULE)


def test_f05_a_gpu_without_a_counter_is_integrated_and_says_so() -> None:
    """CodeCarbon up to 3.2.9 books 0 J without a word where a card has no counter."""
    house = House()
    for watts in (100.0, 300.0, 300.0):
        house.give(house.read(watts=watts))
        house.clock.advance(1.0)
    methods = [line.labels["method"] for line in house.scrape("wattgram_device_meter_info")]

    def check(joules: float, method: Sequence[str]) -> bool:
        return exactly(500.0, joules) and list(method) == ["power"]

    def peer_energy(counter: int | None) -> float:
        return 0.0 if counter is None else counter / JOULE

    assert check(house.total(), methods)
    assert not check(peer_energy(None), ["counter"])


def test_f05_a_reset_is_never_negative_energy() -> None:
    """CodeCarbon up to 3.2.9 subtracts, and takes the amount of the difference for power."""
    shown = [9_000_000 * JOULE, 9_000_100 * JOULE, 40 * JOULE, 140 * JOULE]

    def check(exposed: Sequence[float]) -> bool:
        steps = [new - old for old, new in pairwise(exposed)]
        return min(steps) >= 0 and max(steps) <= 840.0

    def peer_exposes(counter: Sequence[int]) -> list[float]:
        return [(value - counter[0]) / JOULE for value in counter]

    assert check(House().series(shown))
    assert not check(peer_exposes(shown))


def test_f06_memory_wraps_at_its_own_range(tmp_path: Path) -> None:
    """AluminatiAI wraps the memory zone with its package's range: four times too far."""
    dram = Zone("intel-rapl:0:0", "dram", wraps_at=DRAM_RANGE, start=DRAM_RANGE - 10 * JOULE)
    tree = RaplTree(tmp_path, [Zone("intel-rapl:0", "package-0"), dram])
    peer = PeerRapl(tree.file(dram.path), PACKAGE_RANGE)
    joules = rapl_totals(tree, [lambda: None, lambda: tree.set_raw(dram.path, f"{30 * JOULE}\n")], "dram-0")
    peer.turn()

    def check(joules: float) -> bool:
        return exactly(40.0, joules)

    assert check(joules)
    assert not check(peer.microjoules / JOULE)


def test_f07_a_hung_card_does_not_delay_the_others() -> None:
    """AluminatiAI gives each card a pool whose exit waits for the very call that timed out."""
    cards = Cards(hung=[3])
    done = threading.Event()
    source = NvmlSource(cards, SystemClock(), every=0.2, state_every=5.0)
    cards.hung.clear()
    source.open()
    cards.hung.add(3)

    def ours() -> list[str]:
        return [reading.device.id for reading in source.read().readings]

    def peer_turn() -> list[str]:
        def one(index: int, found: list[str]) -> None:
            cards.power(index)
            found.append(f"GPU-{index}")

        found: list[str] = []
        for index in range(4):
            thread = threading.Thread(target=one, args=(index, found), daemon=True)
            thread.start()
            thread.join(0.1)  # the limit, which is kept
            thread.join()  # and the exit of the pool's context, which is not
        return found

    def check(turn: Callable[[], list[str]]) -> bool:
        """Whether the other three are there while the fourth still hangs."""
        found: list[list[str]] = []
        done.clear()

        def take() -> None:
            found.append(turn())
            done.set()

        threading.Thread(target=take, daemon=True).start()
        return done.wait(1.0) and found == [["GPU-0", "GPU-1", "GPU-2"]]

    try:
        assert check(ours)
        assert not check(peer_turn)
    finally:
        cards.go_on.set()


@pytest.mark.parametrize("step", [-3600.0, 86_400.0])
def test_f08_a_step_of_the_wall_clock_changes_no_energy(step: float) -> None:
    """AluminatiAI takes the time between samples from the wall clock: energy below zero, or a day's worth of it."""
    house = House()
    house.give(house.read(watts=200.0))
    before = house.clock.now()
    house.clock.advance(1.0, wall_step=step)
    house.give(house.read(watts=200.0))

    def check(joules: float) -> bool:
        return exactly(200.0, joules)

    def peer_trapezoid(old: Instant, new: Instant) -> float:
        return (200.0 + 200.0) / 2 * (new.wall - old.wall)

    assert check(house.total())
    assert not check(peer_trapezoid(before, house.clock.now()))


def test_f08_an_hour_without_a_reading_is_unmetered() -> None:
    """AluminatiAI draws one line from the last power to the next, however long ago that was."""
    house = House()
    house.give(house.read(watts=200.0))
    house.clock.advance(3600.0)
    house.give(house.read(watts=200.0))

    def check(joules: float, unmetered: float) -> bool:
        return (joules, unmetered) == (0.0, 3600.0)

    def peer_trapezoid(seconds: float) -> float:
        return 200.0 * seconds

    assert check(house.total(), house.total("wattgram_device_unmetered_seconds_total"))
    assert not check(peer_trapezoid(3600.0), 0.0)


def test_f09_a_gpu_that_misses_a_turn_keeps_its_total() -> None:
    """Kepler builds each snapshot from the one before: who is not in one begins at 0 in the next."""
    shown = [1_000 * JOULE, 1_100 * JOULE, None, 1_300 * JOULE, 1_400 * JOULE]

    def check(exposed: Sequence[float]) -> bool:
        rises = all(new >= old for old, new in pairwise(exposed))
        return rises and exactly(400.0, exposed[-1])

    def peer_totals(counter: Sequence[int | None]) -> list[float]:
        totals: list[float] = []
        snapshot: dict[str, float] = {}
        for old, new in pairwise([counter[0], *counter]):
            if new is None:
                snapshot = {}
            else:
                snapshot = {"gpu": snapshot.get("gpu", 0.0) + (new - (new if old is None else old)) / JOULE}
            totals.append(snapshot.get("gpu", 0.0))
        return totals

    assert check(House().series(shown))
    assert not check(peer_totals(shown))


def test_f10_what_a_counter_gathered_since_boot_is_nobodys() -> None:
    """Kepler's first snapshot books the whole counter, times how busy the host is now."""
    shown = [80_000_000 * JOULE]

    def check(exposed: Sequence[float]) -> bool:
        return exposed == [0.0]

    def peer_first(counter: Sequence[int], busy: float) -> list[float]:
        return [counter[0] / JOULE * busy]

    assert check(House().series(shown))
    assert not check(peer_first(shown, 0.25))


def test_f11_idle_power_that_was_never_seen_is_not_shown_as_zero() -> None:
    """Kepler shows 0 W of idle for a GPU that was never seen idle."""
    house = House()
    house.series([0, 100 * JOULE])

    def check(rows: Iterable[Line]) -> bool:
        return not any("idle" in (line.labels.get("activity", ""), line.labels.get("mode", "")) for line in rows)

    def peer_rows(idle: float | None) -> list[Line]:
        return [Line("gpu_watts", {"mode": "idle"}, idle or 0.0)]

    assert check(house.scrape())
    assert not check(peer_rows(None))


class PeerUnwrapper:
    """Adds ranges to a counter as another process, which looks once in a while, counts its wraps."""

    def __init__(self, wraps_at: int, *, looks_every: int) -> None:
        self.wraps_at, self.looks_every = wraps_at, looks_every
        self.wraps, self.seen = 0, 0

    def read(self, turn: int, raw: int) -> float:
        if turn % self.looks_every == 0:
            self.wraps += raw < self.seen
            self.seen = raw
        return (raw + self.wraps * self.wraps_at) / JOULE


def test_f12_a_read_right_after_a_wrap_does_not_go_back() -> None:
    """Zeus counts wraps in a process of its own: a read between the wrap and its next look goes back by a range."""
    wraps_at = 2_500 * JOULE
    shown = [(n * 300 * JOULE) % wraps_at for n in range(60)]
    peer = PeerUnwrapper(wraps_at, looks_every=4)

    def check(exposed: Sequence[float]) -> bool:
        return all(exactly(300.0, new - old) for old, new in pairwise(exposed))

    assert check(House().series(shown, PACKAGE, wraps_at))
    assert not check([peer.read(turn, raw) for turn, raw in enumerate(shown)])


def test_f14_a_wrap_gives_no_negative_watts() -> None:
    """In carbontracker power is the raw difference by time: minus a quarter of a megawatt. Its retry gives 0 W."""
    house = House()
    shown = [PACKAGE_RANGE - 30 * JOULE, 20 * JOULE]
    house.series(shown, PACKAGE, PACKAGE_RANGE)

    def check(watts: Iterable[float]) -> bool:
        return all(exactly(50.0, value) for value in watts)

    def peer_watts(old: int, new: int) -> float:
        return (new - old) / JOULE

    assert check(line.value for line in house.scrape(POWER))
    assert not check([peer_watts(shown[0], shown[1])])
    assert not check([peer_watts(shown[1], shown[1])])


def test_f25_two_packages_wrap_by_themselves_before_they_are_added() -> None:
    """Scaphandre adds counters that wrap at different times and shows the sum as one counter."""
    one = [PACKAGE_RANGE - 30 * JOULE, 20 * JOULE, 70 * JOULE]
    two = [1_000 * JOULE, 1_040 * JOULE, 1_080 * JOULE]
    house = House()
    exposed = []
    for left, right in zip(one, two, strict=True):
        pairs = ((PACKAGE, left), (SECOND, right))
        house.give(*(replace(house.read(device=d), counter=Counter(c, PACKAGE_RANGE)) for d, c in pairs))
        exposed.append(house.total())
        house.clock.advance(1.0)

    def check(host: Sequence[float]) -> bool:
        return exactly(180.0, increase(host))

    def peer_host(*zones: Sequence[int]) -> list[float]:
        return [sum(values) / JOULE for values in zip(*zones, strict=True)]

    assert check(exposed)
    assert not check(peer_host(one, two))


# --- prices -----------------------------------------------------------------------------------------


class Voice:
    """A provider that says these values, or fails while there are none."""

    def __init__(self) -> None:
        self.values: list[Intensity] = []

    def fetch(self) -> Sequence[Intensity]:
        if not self.values:
            raise ReadFailed("no answer within 15 s", "timeout")
        return self.values

    def close(self) -> None: ...


def test_f13_a_provider_that_is_down_for_hours_costs_no_energy_and_invents_no_grams() -> None:
    """Zeus's child dies of the missing hour and its parent waits for it for ever.

    What is used meanwhile is counted as unpriced and stays so; with the first answer the grams go on.
    """
    house, voice = House(), Voice()
    turn = ProviderFeed("grid", voice, house.tariff, house.clock, keep=lambda name, values: None)
    provider = Poller(Health("grid", "provider", 300.0), turn, house.clock, report=house.ledger.report)

    def live_through(hours: range) -> None:
        for hour in hours:
            if hour == 3:
                voice.values = [live(3 * 3600.0, 5 * 3600.0, 50.0)]
            provider.turn()
            house.give(house.read(360_000.0 * hour))
            house.clock.advance(3600.0)

    live_through(range(5))
    unpriced = house.total("wattgram_pricing_energy_joules_total", basis="none")

    def check(joules: float, unpriced: float, grams: float) -> bool:
        return (joules, unpriced) == (4 * 360_000.0, 3 * 360_000.0) and grams == pytest.approx(5.0)

    def peer_measures(hours: int) -> float:
        voice.values = []
        counted = 0.0
        try:
            for _ in range(hours):
                voice.fetch()
                counted += 360_000.0
        except ReadFailed:
            return counted  # and the parent waits for the child that is no more
        return counted

    assert check(house.total(), unpriced, house.total(GRAMS))
    assert not check(peer_measures(4), 0.0, 0.0)


def test_f15_power_that_falls_when_the_grid_is_dirty_is_priced_by_its_own_hours() -> None:
    """In carbontracker the grams are all energy times the plain mean of the intensities."""
    grams_per_kwh = [20.0, 480.0] * 4
    watts = [600.0, 100.0] * 4
    house = House(*(live(n * 3600.0, (n + 1) * 3600.0, g) for n, g in enumerate(grams_per_kwh)))
    counted = 0.0
    house.give(house.read(0.0))
    for power in watts:
        house.clock.advance(3600.0)
        counted += power * 3600.0
        house.give(house.read(counted))
    truth = sum(w / 1000 * g for w, g in zip(watts, grams_per_kwh, strict=True))

    def check(grams: float) -> bool:
        return grams == pytest.approx(truth, rel=1e-12)

    def peer_grams(joules: float) -> float:
        return joules / 3.6e6 * sum(grams_per_kwh) / len(grams_per_kwh)

    assert check(house.total(GRAMS))
    assert not check(peer_grams(house.total()))


class Asked(Fetcher):
    """A fetcher that notes the addresses and asks nobody."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Any:
        self.urls.append(url)
        raise ReadFailed("nobody was asked", "timeout")


@pytest.fixture
def host_zone() -> Iterator[Callable[[int], None]]:
    """Set the host's own offset from UTC, in hours east; afterwards it is what it was."""
    before = os.environ.get("TZ")

    def set_to(hours: int) -> None:
        os.environ["TZ"] = f"X{-hours:+d}"  # POSIX counts hours west
        time.tzset()

    yield set_to
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_f16_the_window_asked_for_does_not_depend_on_where_the_host_stands(
    host_zone: Callable[[int], None],
) -> None:
    """CEEMS ends its layout of a time in a literal +07:00: local hours are sent as those of Jakarta."""
    fetcher = Asked()
    provider = GreatBritain("http://grid", "direct", ManualClock(wall=T0), fetcher)

    def ours() -> float:
        with pytest.raises(ReadFailed, match="nobody was asked"):
            provider.fetch()
        return parse_time(fetcher.urls[-1].split("/")[-2], "the address")

    def peer_window() -> float:
        return parse_time(datetime.fromtimestamp(T0 - 7200.0).strftime("%Y-%m-%dT%H:%M:%S+07:00"), "the address")  # noqa: DTZ006 - the fault

    def check(window: Callable[[], float]) -> bool:
        """Whether at most two and a half hours back are asked for, wherever the host stands."""
        begun = []
        for hours in range(-11, 13):
            host_zone(hours)
            begun.append(T0 - window())
        return all(7200.0 <= back < 7200.0 + 1800.0 for back in begun)

    assert check(ours)
    assert not check(peer_window)


def peer_parse(text: str) -> float:
    """Everything after the seconds is taken for a letter of the layout."""
    return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()


def same_moment(parse: Callable[[str], float], moment: int, minutes_east: int) -> bool:
    """Whether a moment is the same moment by every clock of the world."""
    zone = timezone(timedelta(minutes=minutes_east))
    return moment == parse(datetime.fromtimestamp(moment, zone).isoformat())


@given(st.integers(0, 2**32), st.integers(-12 * 4, 14 * 4))
def test_f16_a_time_means_the_same_by_every_offset(moment: int, quarters_east: int) -> None:
    """CEEMS reads and writes one fixed offset."""
    minutes = 15 * quarters_east

    assert same_moment(lambda text: parse_time(text, "grid"), moment, minutes)
    assert minutes == 0 or not same_moment(peer_parse, moment, minutes)


def test_f16_an_old_intensity_does_not_price_for_ever_and_shows_its_age() -> None:
    """CEEMS keeps the last factor for as long as its provider fails, without a mark."""
    house = House(live(0.0, 300.0, 50.0), hold=3600.0)
    factors = []
    for seconds in (100.0, 1000.0, 4000.0):
        house.clock.advance(T0 + seconds - house.clock.now().wall)
        price = house.tariff.at(T0 + seconds)
        factors.append((price.grams_per_kwh, price.basis) if price else None)
        if seconds < 4000.0:
            assert [T0] == [line.value for line in house.scrape("wattgram_grid_intensity_timestamp_seconds")]

    def check(factors: Sequence[tuple[float, str] | None]) -> bool:
        return list(factors) == [(50.0, "live"), (50.0, "held"), None]

    class PeerFactor:
        def __init__(self) -> None:
            self.last = (50.0, "live")

        def at(self, fetched: tuple[float, str] | None) -> tuple[float, str]:
            self.last = fetched or self.last
            return self.last

    peer = PeerFactor()
    assert check(factors)
    assert not check([peer.at(fetched) for fetched in ((50.0, "live"), None, None)])


def test_f17_grams_by_joules_is_the_intensity_in_every_account() -> None:
    """CEEMS splits power by MIG share and takes the emissions from the unsplit board."""
    house = House(live(-10.0, 100.0, 387.123457))
    for joules in (0.0, 123.456789, 5000.000001):
        house.give(house.read(joules), house.read(joules / 3, device=OTHER), house.read(joules / 7, device=PACKAGE))
        house.clock.advance(7.0)
    accounts = [
        (
            house.total(f"wattgram_{family}_energy_joules_total", **labels),
            house.total(f"wattgram_{family}_emissions_grams_total", **labels),
        )
        for family, key in (("device", "device"), ("owner", "component"), ("pricing", "basis"))
        for line in house.scrape(f"wattgram_{family}_energy_joules_total")
        for labels in [{key: line.labels[key]}]
        if line.value > 0
    ]

    def check(accounts: Iterable[tuple[float, float]]) -> bool:
        return all(grams / joules * 3.6e6 == pytest.approx(387.123457, rel=1e-9) for joules, grams in accounts)

    def peer_slices(joules: float, shares: Sequence[float]) -> list[tuple[float, float]]:
        return [(joules * share, joules * 387.123457 / 3.6e6) for share in shares]

    assert len(accounts) == 3 + 2 + 1
    assert check(accounts)
    assert not check(peer_slices(700.0, (3 / 7, 4 / 7)))


def test_f18_an_intensity_that_is_not_known_is_absent_and_never_0() -> None:
    """carbon-aware-sdk shows 0 g/kWh when its source fails: a coal grid turns clean."""
    house = House()
    house.series([0, 100 * JOULE])

    def check(rows: Iterable[Line]) -> bool:
        return not [line for line in rows if line.name.endswith("intensity_grams_per_kwh")]

    def peer_rows(fetched: float | None) -> list[Line]:
        return [Line("carbon_intensity_grams_per_kwh", {}, fetched or 0.0)]

    assert check(house.scrape())
    assert not check(peer_rows(None))


def test_f19_every_gram_says_how_its_intensity_was_known() -> None:
    """AluminatiAI adds the grams of a fallback average to the same counter as those of a live value."""
    house = House(live(0.0, 3600.0, 50.0), yearly(394.0))
    for joules in (0.0, 1.8e6, 3.6e6):  # half a kilowatt-hour in each hour
        house.give(house.read(joules))
        house.clock.advance(3600.0)
    house_rows = house.scrape("wattgram_pricing_emissions_grams_total")

    def check(rows: Iterable[Line]) -> bool:
        by_basis = {line.labels.get("basis"): line.value for line in rows if line.value}
        return by_basis == {"live": pytest.approx(25.0), "annual": pytest.approx(197.0)}

    def peer_rows(fetched: Sequence[float | None]) -> list[Line]:
        return [Line("emissions_grams_total", {}, sum(197.0 if g is None else g / 2 for g in fetched))]

    assert check(house_rows)
    assert not check(peer_rows([50.0, None]))


# --- what is exposed --------------------------------------------------------------------------------


def test_f20_a_restart_never_shows_less_than_before_and_more_than_nothing() -> None:
    """all-smi's file is up to a minute behind: after a crash its counter begins a little lower, and a scraper that
    takes the fall for a restart adds the lifetime once more.
    """
    shown = [0, 900 * JOULE, 1_800 * JOULE]

    def ours() -> list[float]:
        return [*House().series([*shown]), *House().series([1_800 * JOULE, 2_500 * JOULE])]

    def peer_counter() -> list[float]:
        written = shown[1] / JOULE  # the last that reached the disk
        return [value / JOULE for value in shown] + [written, written + 700.0]

    def check(scraped: Sequence[float]) -> bool:
        return increase(scraped) <= 2500.0

    assert check(ours())
    assert not check(peer_counter())


def test_f21_the_energy_family_may_be_added_up() -> None:
    """all-smi puts the chassis beside the GPUs, in one family: on Linux it is their sum."""
    house = House()
    for joules in (0.0, 100.0):
        house.give(house.read(joules), house.read(2 * joules, device=OTHER), house.read(joules, device=PACKAGE))
        house.clock.advance(1.0)

    def check(rows: Iterable[Line]) -> bool:
        return exactly(400.0, sum(line.value for line in rows))

    def peer_rows(rows: Sequence[Line]) -> list[Line]:
        gpus = sum(line.value for line in rows if line.labels["component"] == "gpu")
        return [*rows, Line(ENERGY, {"component": "chassis"}, gpus)]

    assert check(house.scrape(ENERGY))
    assert not check(peer_rows(house.scrape(ENERGY)))


def test_f22_energy_is_a_counter_and_a_reset_of_the_hardware_is_no_negative_bar() -> None:
    """ROCm's dashboards take `delta()` of a gauge in microjoules: a bar below zero at each reset."""
    shown = [5_000 * JOULE, 5_100 * JOULE, 0, 100 * JOULE]
    house = House()
    bars = [new - old for old, new in pairwise(house.series(shown))]
    types = {family.name: family.type for family in families(house.ledger.snapshot())}

    def check(bars: Iterable[float], kind: str) -> bool:
        return kind == "counter" and min(bars) >= 0

    def peer_bars(gauge: Sequence[int]) -> list[float]:
        return [new - old for old, new in pairwise(gauge)]

    assert check(bars, types[ENERGY.removesuffix("_total")])
    assert not check(peer_bars(shown), "gauge")


def test_f23_a_series_keeps_its_labels_and_outlives_its_device() -> None:
    """CodeCarbon's gauges have empty labels and are deleted when it ends."""
    house = House()
    house.series([0, 100 * JOULE, *[None] * 700])

    def check(rows: Sequence[Line]) -> bool:
        return [line.value for line in rows] == [100.0] and all(all(line.labels.values()) for line in rows)

    def peer_rows(joules: float | None) -> list[Line]:
        return [] if joules is None else [Line("energy_consumed", {"project_name": "", "country_iso_code": ""}, joules)]

    assert check(house.scrape(ENERGY))
    assert not check(peer_rows(100.0))
    assert not check(peer_rows(None))


@given(st.integers(0, 10**12), st.lists(st.floats(0.0, 1.0), max_size=7))
def test_f24_the_parts_of_a_board_are_the_board(microjoules: int, weights: list[float]) -> None:
    """dcgm-exporter repeats the board's energy for each MIG instance and each pod that shares it."""
    delta = EnergyDelta(GPU, Instant(0.0, T0), Instant(1.0, T0 + 1.0), microjoules, "counter")
    parts = tuple(Part(f"MIG-{number}", weight) for number, weight in enumerate(weights))
    activity = Activity("gpu", GPU.id, delta.start, delta.end, 1.0, parts=parts)

    def check(shares: Iterable[Share]) -> bool:
        return microjoules == sum(share.microjoules for share in shares)

    def peer_split(delta: EnergyDelta, instances: int) -> list[Share]:
        return [Share(UNATTRIBUTED, "active", "measured", delta, delta.microjoules)] * instances

    assert check(attribution.split(delta, activity, lambda actor: None))
    assert microjoules == 0 or not check(peer_split(delta, 7))


@dataclass
class Screen:
    """A device's power over time, and what else a scraper can see."""

    watts: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    unmetered: float = 0.0


def test_f26_when_the_loop_stops_the_gauges_go_and_the_time_of_success_stays() -> None:
    """nvitop-exporter shows the last values for as long as its process lives, whether its loop does or not."""
    house = House()
    turn = Poller(
        Health("source", "source", 1.0),
        lambda: house.give(house.read(watts=300.0)),
        house.clock,
        report=house.ledger.report,
    )
    turn.turn()
    alive = house.clock.now().wall
    house.clock.advance(60.0)
    successes = house.scrape("wattgram_source_last_success_timestamp_seconds")

    def check(watts: Iterable[float], last_success: Iterable[float]) -> bool:
        return not list(watts) and list(last_success) == [alive]

    def peer_gauges(last: float) -> list[float]:
        return [last]

    assert check((line.value for line in house.scrape(POWER)), [line.value for line in successes])
    assert not check(peer_gauges(300.0), [])


def test_f27_a_command_that_failed_shows_no_watts_from_before() -> None:
    """CEEMS answers a failed IPMI command with the watts it remembers, without a mark."""
    house = House()
    answers: list[float | None] = [300.0, 310.0, None, None, None, None, None]
    screen, peer = Screen(), Screen()

    def read() -> None:
        watts = answers.pop(0)
        if watts is None:
            house.accountant.missed(house.clock.now(), "no answer")
            raise ReadFailed("no answer", "timeout")
        house.give(house.read(watts=watts))

    poller = Poller(Health("bmc", "source", 1.0, up=True), read, house.clock, report=house.ledger.report)
    remembered = 0.0
    while answers:
        remembered = answers[0] or remembered
        poller.turn()
        house.clock.advance(1.0)
        screen.watts = [line.value for line in house.scrape(POWER)]
        screen.up = [line.value for line in house.scrape("wattgram_source_up")]
        peer.watts = [remembered]
    screen.unmetered = house.total("wattgram_device_unmetered_seconds_total")
    peer.up = [1.0]

    def check(screen: Screen) -> bool:
        return (screen.watts, screen.up) == ([], [0.0]) and screen.unmetered == 5.0

    assert check(screen)
    assert not check(peer)
