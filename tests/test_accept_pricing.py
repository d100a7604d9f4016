"""Three simulated days of pricing: a late, revised, silent grid, and every gram at the price that was known then.

The house is the real one from the source's reading to the books; only the clock, the meter's figures and the grid's
words are scripted. What a joule should have cost is said again here, slowly, in whole numbers: energies are whole
microjoules and every instant falls on a quarter of a second, so nothing is allowed to differ at all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from wattgram.accountant import Accountant
from wattgram.cache import Cache
from wattgram.clock import ManualClock
from wattgram.feed import Claims, ProviderFeed, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import CARBON_PER_GRAM, Counter, Device, Health, Intensity, Reading, Sample, grams
from wattgram.poller import Poller
from wattgram.ports import Place, ReadFailed
from wattgram.tariff import Rung, Tariff

Report = Callable[[str], None]

pytestmark = [pytest.mark.apart, pytest.mark.busy]

MICRO = 1_000_000
MINUTE, QUARTER, HOUR, DAY = 60.0, 900.0, 3600.0, 86_400.0
MIDNIGHT = 1_750_032_000.0  # a Monday's, UTC
BEGIN = MIDNIGHT + 17.25  # no reading falls on an edge of the grid's
DAYS = 3
ASK_SECONDS = 300.0
HOLD = 7 * QUARTER
ANNUAL_MILLIGRAMS, STACK_MILLIGRAMS = 250_125, 55_500

GPU = Device("gpu", "GPU-1")
CPU = Device("cpu", "package-0")
DRAM = Device("dram", "dram-0")
WRAPS_AT = 262_143_328_850

Words = list[Intensity]
Key = tuple[str, str]  # basis, factor


def hours(wall: float) -> int:
    """Whole hours since the first midnight."""
    return math.floor((wall - MIDNIGHT) / HOUR)


def dirty_at_night(wall: float) -> int:
    """What the grid emits in the hour that holds this moment, in milligrams per kWh: 400 g in the mean, ±65 %."""
    return round(400_000 * (1 + 0.65 * math.cos(hours(wall) * math.tau / 24)))


def moody(wall: float) -> int:
    """The same grid with weather: no two of its hours are alike."""
    return dirty_at_night(wall) + hours(wall) * 137 % 20_011


def said(
    milligrams: int,
    hour: int,
    basis: str = "live",
    *,
    provider: str = "grid",
    factor: str = "lifecycle",
    signal: str = "average",
) -> Intensity:
    """One hour's value, as a provider says it."""
    start = MIDNIGHT + hour * HOUR
    return Intensity("FR", provider, start, start + HOUR, milligrams / 1000, basis, factor, signal)


# --- what is scripted -----------------------------------------------------------------------------


class Machine:
    """Two counters, one of which wraps, and a power without a counter."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.watts = 0
        self.microjoules = 123_456_789
        self.silent = False

    def draw(self, watts: int, seconds: float) -> None:
        """Use energy at constant power."""
        self.watts = watts
        self.microjoules += round(watts * seconds * MICRO)

    def read(self) -> Sample:
        if self.silent:
            raise ReadFailed("the driver does not answer", "timeout")
        now = self._clock.now()
        return Sample(
            now,
            (
                Reading(GPU, now, watts=float(self.watts), counter=Counter(self.microjoules)),
                Reading(CPU, now, counter=Counter(self.microjoules // 4 % WRAPS_AT, WRAPS_AT)),
                Reading(DRAM, now, watts=self.watts / 8),
            ),
        )

    def close(self) -> None:
        pass


class Grid:
    """A provider by script: `answers` says what it answers at a true time, None: it is down."""

    def __init__(self, clock: ManualClock, answers: Callable[[float], Words | None]) -> None:
        self._clock = clock
        self._answers = answers
        self.heard: Words = []

    def fetch(self) -> Sequence[Intensity]:
        # Its own clock is never stepped.
        words = self._answers(BEGIN + self._clock.now().mono)
        if words is None:
            raise ReadFailed("HTTP 503", "server")
        self.heard = words
        return words

    def close(self) -> None:
        pass


def script(now: float) -> Words | None:
    """Three days of a grid that is on time but unsure, then late, then gone for nine hours, then back.

    A marginal figure of 900 g stands beside every value and is never a price.
    """
    hour, into = hours(now), (now - MIDNIGHT) % HOUR
    if 40 <= hour < 49 or 60 <= hour < 62:
        return None
    if 24 <= hour < 40:
        # The hour before comes 40 minutes late; six hours ahead are forecast, but every fifth is not.
        newest = hour - 1 if into >= 40 * MINUTE else hour - 2
        words = [said(moody(MIDNIGHT + h * HOUR), h) for h in range(newest - 3, newest + 1)]
        ahead = [h for h in range(hour, hour + 7) if h % 5]
        words += [said(moody(MIDNIGHT + h * HOUR) * 9 // 10, h, "forecast") for h in ahead]
    else:
        # At first an estimate; half an hour later what was measured; the day after, the operator's last word.
        estimate = said(moody(now) * 6 // 5, hour, "estimated")
        words = [estimate if into < 30 * MINUTE else said(moody(now), hour)]
        words += [said(moody(MIDNIGHT + h * HOUR) + 7000 * (hour - h >= 2), h) for h in range(hour - 4, hour)]
    return words + [replace(word, grams_per_kwh=900.0, signal="marginal") for word in words]


def stack(now: float) -> Words:
    """A provider of direct figures, whose hour is there within five minutes: held until then."""
    return [said(STACK_MILLIGRAMS, hours(now), provider="stack", factor="direct")]


def table(now: float) -> Words:
    """The yearly table."""
    del now
    year = said(ANNUAL_MILLIGRAMS, 0, "annual", provider="annual")
    return [replace(year, start=MIDNIGHT - 500 * DAY, end=math.inf)]


ANSWERS = {"grid": script, "stack": stack, "annual": table}
GRID = Rung("grid", HOLD, ("live", "estimated", "forecast", "held"))
STACK = Rung("stack", HOLD, ("live", "held"))
ANNUAL = Rung("annual", 0.0, ("annual",))


# --- what a joule should have cost, said again ----------------------------------------------------


@dataclass
class Truth:
    """Who said what so far, and what each joule cost when it was booked. `wanted`: rungs that price, with factors."""

    wanted: Sequence[tuple[str, float, str]]
    known: dict[str, dict[tuple[float, float], Intensity]] = field(default_factory=lambda: defaultdict(dict))
    ahead: dict[str, dict[tuple[float, float], Intensity]] = field(default_factory=lambda: defaultdict(dict))
    energy: dict[Key, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    carbon: dict[Key, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    cut: int = 0  # pieces that are not whole microjoules: each may be off by less than one

    def hear(self, provider: str, words: Iterable[Intensity]) -> None:
        for word in words:
            if word.signal == "average":
                book = self.ahead if word.basis == "forecast" else self.known
                book[provider][word.start, word.end] = word

    def price(self, wall: float) -> tuple[Intensity, str] | None:
        for provider, hold, factor in self.wanted:
            known, ahead = (
                [w for w in book[provider].values() if w.factor == factor and w.start <= wall]
                for book in (self.known, self.ahead)
            )
            for word in (*known, *ahead):
                if wall < word.end:
                    return word, word.basis
            newest = max(known, key=lambda w: w.end, default=None)
            if newest is not None and wall < newest.end + hold:
                return newest, "held"
        return None

    def book(self, microjoules: int, start: float, end: float) -> None:
        """Cut at every quarter of an hour, since whatever changes in the script changes there."""
        edges = [start, *(q * QUARTER for q in range(math.floor(start / QUARTER) + 1, math.ceil(end / QUARTER))), end]
        for left, right in pairwise(edges):
            part = Fraction(microjoules) * Fraction(right - left) / Fraction(end - start)
            self.cut += part.denominator != 1
            found = self.price(left)
            key = (found[1], found[0].factor) if found else ("none", "lifecycle")
            self.energy[key] += part
            if found:
                self.carbon[key] += part * round(Fraction(found[0].grams_per_kwh) * 1000) * 1000


# --- the house ------------------------------------------------------------------------------------


class House:
    """Everything between the hardware and the books, turned by hand, and the truth beside it."""

    def __init__(
        self,
        rungs: Sequence[Rung],
        truth: Truth,
        answers: dict[str, Callable[[float], Words | None]] | None = None,
        cache: Cache | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock(0.0, BEGIN)
        self.truth = truth
        self.tariff = Tariff("FR", "lifecycle", rungs)
        pairs = [(b, "direct" if r.provider == "stack" else "lifecycle") for r in rungs for b in r.bases]
        self.ledger = Ledger(self.clock, view=self.tariff.view, provenances=[*pairs, ("none", "lifecycle")])
        self.machine = Machine(self.clock)
        self.source = self._source()
        self.grids = {r.provider: Grid(self.clock, {**ANSWERS, **(answers or {})}[r.provider]) for r in rungs}
        self.providers = {name: self._provider(name, grid, cache) for name, grid in self.grids.items()}
        self.booked = 0
        self.steps = 0
        self.seen: dict[Key, tuple[int, int]] = {}
        self._begun: dict[Device, tuple[float, int]] = {}
        self._power: tuple[float, float] | None = None
        self._asked = -math.inf
        self.unmetered = 0.0

    def _source(self) -> Poller:
        meter = Meter(max_gap=3 * MINUTE)
        accountant = Accountant("rapl", MINUTE, meter, self.tariff, self.ledger)
        feed = SourceFeed("rapl", lambda: self.machine, accountant, meter, Claims(["rapl"]), self.clock, MINUTE)
        return Poller(Health("rapl", "source", MINUTE), feed, self.clock, self.ledger.report)

    def _provider(self, name: str, grid: Grid, cache: Cache | None) -> Poller:
        keep: Callable[[str, Sequence[Intensity]], None] = cache.keep if cache else lambda _, __: None
        feed = ProviderFeed(name, grid, self.tariff, self.clock, keep)
        return Poller(Health(name, "provider", ASK_SECONDS), feed, self.clock, self.ledger.report)

    def step(self, watts: int, seconds: float, *, silent: bool = False, wall_step: float = 0.0) -> None:
        """Let time pass at constant power; ask who is to be asked; read, book, and hold the books against the truth."""
        self.machine.draw(watts, seconds)
        self.machine.silent = silent
        self.clock.advance(seconds, wall_step)
        now = self.clock.now()
        if now.mono - self._asked >= ASK_SECONDS:
            self._asked = now.mono
            self.ask()
        self.source.turn()
        if not silent:
            self._book_truth()
        self.check()

    def ask(self) -> None:
        """Turn every provider; what they say changes nothing that is booked."""
        before = self.ledger.snapshot()
        for name, poller in self.providers.items():
            self.grids[name].heard = []
            poller.turn()
            self.truth.hear(name, self.grids[name].heard)
        after = self.ledger.snapshot()
        assert (before.pricing, before.owners) == (after.pricing, after.owners)

    def _book_truth(self) -> None:
        """What each device used since it was last read, told from what the script drew."""
        now = self.clock.now()
        counters = {GPU: self.machine.microjoules, CPU: self.machine.microjoules // 4}
        for device, value in counters.items():
            if device in self._begun:
                mono, before = self._begun[device]
                self._post(value - before, now.mono - mono)
            self._begun[device] = (now.mono, value)
        watts = self.machine.watts / 8
        if self._power is not None:
            seconds = now.mono - self._power[0]
            if seconds <= 3 * MINUTE:
                self._post(round((watts + self._power[1]) / 2 * seconds * MICRO), seconds)
            else:
                self.unmetered += seconds
        self._power = (now.mono, watts)

    def _post(self, microjoules: int, seconds: float) -> None:
        end = self.clock.now().wall
        self.truth.book(microjoules, end - seconds, end)
        self.booked += microjoules

    def check(self) -> None:
        """Three views of the same joules and of the same grams; nothing ever shrinks; nothing is left out."""
        self.steps += 1
        books = self.ledger.snapshot()
        views = [
            (sum(a.microjoules for a in accounts), sum(a.carbon for a in accounts))
            for accounts in (books.devices, [t for _, t in books.owners], [t for _, t in books.pricing])
        ]
        assert views[0] == views[1] == views[2]
        assert self.booked == views[0][0]
        totals = {(k.basis, k.factor): (t.microjoules, t.carbon) for k, t in books.pricing}
        for key, (energy, carbon) in self.seen.items():
            assert totals[key][0] >= energy
            assert totals[key][1] >= carbon
        self.seen = totals

    def judge(self) -> None:
        """Hold what was booked by basis against the truth: exact but for pieces of a microjoule."""
        expected = {
            key: (self.truth.energy.get(key, Fraction()), self.truth.carbon.get(key, Fraction()))
            for key in self.seen.keys() | self.truth.energy.keys()
        }
        off = {
            key: (float(self.seen.get(key, (0, 0))[0] - e), float(self.seen.get(key, (0, 0))[1] - c) / CARBON_PER_GRAM)
            for key, (e, c) in expected.items()
        }
        cut = self.truth.cut
        assert {} == {
            k: v for k, v in off.items() if abs(v[0]) > cut or abs(v[1]) * CARBON_PER_GRAM > cut * 900 * MICRO
        }


def truth(*rungs: Rung) -> Truth:
    """A truth for these rungs: one of direct figures prices only where it is named."""
    kinds = [(r, "direct" if r.provider == "stack" else "lifecycle") for r in rungs]
    return Truth([(r.provider, r.hold, f) for r, f in kinds if r.named or f == "lifecycle"])


def load(wall: float, sign: int) -> int:
    """Watts, a multiple of 16, by the hour: a machine that works at night (+1) or by day (-1), ±80 %."""
    return 16 * round(50 * (1 + sign * 0.8 * math.cos(hours(wall) * math.tau / 24)))


# --- 3.4 ------------------------------------------------------------------------------------------

CHAINS = {
    "then annual": (GRID, ANNUAL),
    "then nothing": (GRID,),
    "direct unnamed": (GRID, STACK, ANNUAL),
    "direct named": (GRID, replace(STACK, named=True), ANNUAL),
}
FROM_GRID: set[Key] = {(basis, "lifecycle") for basis in ("live", "estimated", "forecast", "held")}
EXPECTED_KEYS: dict[str, set[Key]] = {
    "then annual": FROM_GRID | {("annual", "lifecycle")},
    "then nothing": FROM_GRID | {("none", "lifecycle")},
    "direct unnamed": FROM_GRID | {("annual", "lifecycle")},
    "direct named": FROM_GRID | {("live", "direct"), ("held", "direct")},
}


def seconds_of_step(into: float) -> float:
    """A minute; a second for the hour in which the price is held, then the next rung's, then forecast."""
    return 1.0 if 40.4 <= into / HOUR < 41.4 else MINUTE


@pytest.mark.accept(
    "3.4", "72 h of a late, revised, silent grid: grams by basis are the exact integral of what was known"
)
@pytest.mark.parametrize("chain", CHAINS)
def test_three_days_are_priced_to_the_last_unit(chain: str, report: Report) -> None:
    """Estimates, revisions, forecasts with holes, nine hours of silence, steps of the clock, readings that fail."""
    house = House(CHAINS[chain], truth(*CHAINS[chain]))
    stepped = {1: 0.0, -1: 0.0}

    into = 0.0
    while into < DAYS * DAY:
        seconds = seconds_of_step(into)
        into += seconds
        wall_step = 0.0
        for sign, hour in ((1, 10.5), (-1, 20.5)):
            if into >= hour * HOUR and not stepped[sign]:
                wall_step = stepped[sign] = sign * HOUR
        # Eight minutes without an answer, over an edge of the grid's hours, with and without a grid.
        silent = any(abs(into - hour * HOUR) < 4 * MINUTE for hour in (31, 47))
        house.step(load(BEGIN + into, 1), seconds, silent=silent, wall_step=wall_step)

    house.judge()
    used = {key for key, (energy, _) in house.seen.items() if energy}
    books = house.ledger.snapshot()
    assert EXPECTED_KEYS[chain] == used
    assert house.truth.cut <= 8  # the two long deltas of two counters, cut where the hour or its price ends
    assert house.unmetered == sum(d.unmetered_seconds for d in books.devices)
    failures = dict(next(h for h in books.health if h.name == "grid").failures)
    assert {"server": 11 * HOUR / ASK_SECONDS} == failures
    total = grams(sum(t.carbon for _, t in books.pricing))
    report(
        f"{house.steps} steps, {house.booked / MICRO / 3.6e6:.1f} kWh, {total:.0f} g: Σ owner = Σ device = Σ pricing"
    )


def ahead(lag: float, now: float) -> Words:
    """A grid without error: the next hours are known before they come; or, `lag` s late, only what has begun."""
    if not lag:
        return [said(dirty_at_night(MIDNIGHT + h * HOUR), h, "live") for h in (hours(now), hours(now) + 1)]
    return [said(dirty_at_night(now - lag), hours(now - lag))]


@pytest.mark.accept(
    "3.4", "load and grid move together or against each other: no bias, where mean intensity is off by 26 %"
)
@pytest.mark.parametrize("sign", [1, -1], ids=["works at night", "works by day"])
def test_load_that_moves_with_the_grid_is_priced_without_bias(sign: int, report: Report) -> None:
    """Energy times mean intensity is what naive tools say: with a grid dirty at night it is off by a quarter."""
    house = House((GRID, ANNUAL), truth(GRID, ANNUAL), {"grid": partial(ahead, 0.0)})
    late = House((GRID, ANNUAL), truth(GRID, ANNUAL), {"grid": partial(ahead, 40 * MINUTE)})
    true = Fraction()  # watts times the grid's own figures, without a word of any provider

    house.step(16, 0.25)  # opens the accounts; the late one starts with them
    late.step(16, 0.25)
    for minute in range(DAYS * 24 * 60):
        start = house.clock.now().wall
        watts = load(MIDNIGHT + minute * MINUTE, sign)
        edge = min(max(math.ceil(start / HOUR) * HOUR, start), start + MINUTE)
        for left, right in ((start, edge), (edge, start + MINUTE)):
            true += Fraction(right - left) * watts * dirty_at_night((left + right) / 2) * 1000 * MICRO
        house.step(watts, MINUTE)
        late.step(watts, MINUTE)

    books, behind = house.ledger.snapshot(), late.ledger.snapshot()
    gpu, gpu_late = (next(d for d in b.devices if d.device == GPU) for b in (books, behind))
    mean = Fraction(sum(dirty_at_night(MIDNIGHT + h * HOUR) for h in range(24)), 24) * 1000
    naive = gpu.microjoules * mean
    house.judge()
    late.judge()
    error = float(naive / true) - 1
    held = float(gpu_late.carbon / true) - 1
    report(f"ours exact, 40 min late {held:+.2%}, energy by mean intensity {error:+.1%}")
    assert true == gpu.carbon
    assert abs(float(gpu.carbon / naive) - (1 + sign * 0.26)) < 0.002
    assert abs(held) < 0.01


# --- restart and change of place ------------------------------------------------------------------


def healthy(now: float) -> Words:
    """The hour before, as measured, and this hour, as estimated."""
    hour = hours(now)
    return [said(moody(now - HOUR), hour - 1), said(moody(now) * 6 // 5, hour, "estimated")]


@pytest.mark.accept("3.4", "a restart prices on from the cache: the hour's value, then held, then the next rung")
def test_a_restart_prices_with_what_was_known(tmp_path: Path) -> None:
    """The grid is silent from the moment of the restart; the books begin at 0."""
    place, path = Place("FR", "lifecycle"), tmp_path / "kept.json"
    before = House((GRID, ANNUAL), truth(GRID, ANNUAL), {"grid": healthy}, Cache(path, place))
    while before.clock.now().mono < 5.4 * HOUR:
        before.step(480, MINUTE)

    cache = Cache(path, place)
    kept = cache.load()
    after = House((GRID, ANNUAL), truth(GRID, ANNUAL), {"grid": lambda _: None}, cache, before.clock)
    after.tariff.learn("grid", kept["grid"], after.clock.now().wall)
    after.truth.hear("grid", before.grids["grid"].heard)
    while after.clock.now().mono < 9 * HOUR:
        after.step(480, MINUTE)

    before.judge()
    after.judge()
    used = {basis for (basis, _), (energy, _) in after.seen.items() if energy}
    assert {"estimated", "held", "annual"} == used
    # Of each hour the last word: what was measured has replaced the estimate, but for the hour that was running.
    assert ["live"] * 6 + ["estimated"] == [i.basis for i in kept["grid"]]


@pytest.mark.accept("3.4", "another zone or another factor never prices with what was kept")
def test_another_place_begins_without_a_price(tmp_path: Path) -> None:
    """And coming back, too: what is kept is kept of one place."""
    path = tmp_path / "kept.json"
    Cache(path, Place("FR", "lifecycle")).keep("grid", [said(50_000, 0)])
    house = House((GRID,), truth(GRID), {"grid": lambda _: None})

    moved = Cache(path, Place("DE", "lifecycle"))
    for _ in range(3):
        house.step(480, MINUTE)

    assert {} == moved.load()
    assert {} == Cache(path, Place("FR", "direct")).load()
    assert {("none", "lifecycle")} == {key for key, (energy, _) in house.seen.items() if energy}
    house.judge()
    moved.keep("grid", [replace(said(60_000, 0), zone="DE")])
    assert {} == Cache(path, Place("FR", "lifecycle")).load()


@pytest.mark.accept("3.4", "what prices before a restart prices after it, also from a provider of two signals")
def test_the_cache_keeps_a_price_beside_another_signal_of_the_same_hour(tmp_path: Path) -> None:
    """The tariff tells average from marginal, and a long interval from a short one: so must the file."""
    place, path = Place("FR", "lifecycle"), tmp_path / "kept.json"
    average = said(50_000, 0)
    marginal = replace(average, grams_per_kwh=900.0, signal="marginal")
    quarter = replace(average, end=average.start + QUARTER, grams_per_kwh=70.0)
    noon = average.start + HOUR / 2
    prices = []
    for words in ([average, marginal], [average, quarter]):
        Cache(path, place).keep("grid", words)
        for known in (words, Cache(path, place).load()["grid"]):
            tariff = Tariff("FR", "lifecycle", (GRID,))
            tariff.learn("grid", known, noon)
            found = tariff.at(noon)
            prices.append(found.grams_per_kwh if found else None)

    assert [50.0] * 4 == prices
