"""What a turn does: one component has one meter at a time, a lost source is opened anew, a provider is heard once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.feed import Claims, ProviderFeed, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Cost, Counter, Device, Failure, Health, Instant, Intensity, Reading, Sample
from wattgram.poller import Poller
from wattgram.ports import ReadFailed, Source, Unavailable
from wattgram.tariff import Rung, Tariff

JOULE = 1_000_000
T0 = 1_700_000_000.0

CPU = Device("cpu", "package-0")
DRAM = Device("dram", "dram-0")
CPU_MODEL = Device("cpu", "estimated-cpu", quality="estimated")
DRAM_MODEL = Device("dram", "estimated-dram", quality="estimated")
GPU = Device("gpu", "GPU-1")


class Meters:
    """A source whose devices use 100 W each; `trouble` is raised instead of a reading, `silent` devices fail."""

    def __init__(self, clock: ManualClock, *devices: Device) -> None:
        self.clock = clock
        self.devices = devices
        self.silent: tuple[Device, ...] = ()
        self.trouble: Exception | None = None
        self.closed = 0

    def read(self) -> Sample:
        if self.trouble is not None:
            raise self.trouble
        now = self.clock.now()
        counter = Counter(round(100 * JOULE * now.mono))
        readings = tuple(Reading(d, now, counter=counter) for d in self.devices if d not in self.silent)
        return Sample(now, readings, failed=tuple(Failure(d, "no answer") for d in self.silent))

    def close(self) -> None:
        self.closed += 1


class Groups(Meters):
    """A source that says who was busy."""

    read_times = 0

    def read(self) -> Sample:
        self.read_times += 1
        return super().read()


class Child(Meters):
    """A source in a process of its own."""

    def cost(self) -> Cost | None:
        return Cost(1.0, 20_000_000)


@dataclass
class House:
    """The books, the claims on components, and the sources' feeds."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(1000.0, T0))
    claims: Claims = field(default_factory=lambda: Claims(["rapl", "estimate"]))

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.clock)

    def feed(self, name: str, opener: Callable[[], Source], *, meters: bool = True) -> SourceFeed:
        meter = Meter(max_gap=3.0)
        accountant = Accountant(name, 1.0, meter, None, self.ledger)
        return SourceFeed(name, opener, accountant, meter, self.claims, self.clock, meters=meters)

    def turn(self, *feeds: SourceFeed, seconds: float = 1.0) -> None:
        """Let time pass and every feed take a turn; what it brings of bad news is the poller's."""
        self.clock.advance(seconds)
        for feed in feeds:
            try:
                feed()
            except (ReadFailed, Unavailable):
                continue

    @property
    def joules(self) -> dict[Device, int]:
        return {d.device: d.microjoules // JOULE for d in self.ledger.snapshot().devices}

    @property
    def unmetered(self) -> dict[Device, float]:
        return {d.device: d.unmetered_seconds for d in self.ledger.snapshot().devices}


@pytest.fixture
def house() -> House:
    return House()


# --- whose component --------------------------------------------------------------------------------


def test_the_model_waits_until_the_meter_has_spoken(house: House) -> None:
    """It must not book a joule that a meter is about to."""
    estimate = house.feed("estimate", lambda: Meters(house.clock, CPU_MODEL))

    house.turn(estimate)
    house.turn(estimate)

    assert {} == house.joules


def test_the_model_stands_in_for_a_meter_that_is_not_there(house: House) -> None:
    """No RAPL in a virtual machine."""

    def no_zone() -> Source:
        raise Unavailable("no RAPL zone")

    rapl, estimate = house.feed("rapl", no_zone), house.feed("estimate", lambda: Meters(house.clock, CPU_MODEL))

    house.turn(rapl, estimate)
    house.turn(rapl, estimate)

    assert {CPU_MODEL: 100} == house.joules


def test_the_model_books_what_the_meter_does_not_deliver(house: House) -> None:
    """RAPL has the processor and no memory: the model keeps memory, and memory only."""
    rapl = house.feed("rapl", lambda: Meters(house.clock, CPU))
    estimate = house.feed("estimate", lambda: Meters(house.clock, CPU_MODEL, DRAM_MODEL))

    house.turn(rapl, estimate)
    house.turn(rapl, estimate)

    assert {CPU: 100, DRAM_MODEL: 100} == house.joules


def test_the_model_stops_when_the_meter_delivers(house: House) -> None:
    """No second is booked by both."""
    meters = Meters(house.clock, CPU, DRAM)
    meters.silent = (DRAM,)
    rapl = house.feed("rapl", lambda: meters)
    estimate = house.feed("estimate", lambda: Meters(house.clock, DRAM_MODEL))
    for _ in range(4):
        house.turn(rapl, estimate)

    meters.silent = ()
    for _ in range(4):
        house.turn(rapl, estimate)

    assert {CPU: 700, DRAM_MODEL: 300, DRAM: 300} == house.joules


def test_the_model_stays_away_when_a_delivered_component_fails_for_a_while(house: House) -> None:
    """The meter's counter will bridge it."""
    meters = Meters(house.clock, CPU, DRAM)
    rapl = house.feed("rapl", lambda: meters)
    estimate = house.feed("estimate", lambda: Meters(house.clock, DRAM_MODEL))
    house.turn(rapl, estimate)
    meters.silent = (DRAM,)
    house.turn(rapl, estimate)
    meters.silent = ()
    house.turn(rapl, estimate)

    assert {CPU: 200, DRAM: 200} == house.joules


def test_a_component_that_was_given_up_is_forgotten(house: House) -> None:
    """When the model takes over again, its counter must not book the time that the meter had."""
    meters = Meters(house.clock, CPU)
    meters.trouble = Unavailable("not loaded")
    rapl = house.feed("rapl", lambda: meters)
    estimate = house.feed("estimate", lambda: Meters(house.clock, CPU_MODEL))
    for _ in range(3):
        house.turn(rapl, estimate)
    meters.trouble = None
    for _ in range(5):
        house.turn(rapl, estimate)
    meters.trouble = Unavailable("unloaded")
    for _ in range(3):
        house.turn(rapl, estimate)

    assert {CPU_MODEL: 200 + 200, CPU: 400} == house.joules


def test_a_meter_that_returns_does_not_book_what_the_model_booked_meanwhile(house: House) -> None:
    """The meter's counter went on while the model stood in for it; no joule is posted twice."""
    meters = Meters(house.clock, CPU)
    rapl = house.feed("rapl", lambda: meters)
    estimate = house.feed("estimate", lambda: Meters(house.clock, CPU_MODEL))
    house.turn(rapl, estimate)
    meters.trouble = Unavailable("unloaded")
    for _ in range(10):
        house.turn(rapl, estimate)
    meters.trouble = None
    house.turn(rapl, estimate)
    house.turn(rapl, estimate)

    assert {CPU_MODEL: 900, CPU: 100} == house.joules


def test_a_source_that_contests_nothing_keeps_all_it_reads(house: House) -> None:
    """A GPU has one meter."""
    nvml = house.feed("nvml", lambda: Meters(house.clock, GPU))

    house.turn(nvml)
    house.turn(nvml)

    assert {GPU: 100} == house.joules


def reading(component: str) -> Reading:
    return Reading(Device(component, f"{component}-0"), Instant(0.0, 0.0), watts=1.0)


def test_a_source_that_contests_nothing_may_come_and_go(house: House) -> None:
    """Its claims decide for nobody else."""
    house.claims.outcome("nvml", [reading("cpu")])
    house.claims.withdraw("nvml")

    assert house.claims.keeps("nvml", "gpu")
    assert not house.claims.keeps("estimate", "cpu")


def test_who_is_busy_is_looked_at_seldom_where_nothing_is_to_be_shared_out(house: House) -> None:
    """In a virtual machine without a processor's meter, what a thousand processes do is nobody's business."""
    house.claims.reorder(["nvml", "rapl", "cgroups"])
    zones: list[Device] = []

    def open_rapl() -> Source:
        if not zones:
            raise Unavailable("no RAPL zone")
        return Meters(house.clock, *zones)

    opened: list[Groups] = []

    def open_groups() -> Source:
        opened.append(Groups(house.clock))
        return opened[-1]

    nvml = house.feed("nvml", lambda: Meters(house.clock, GPU))
    rapl = house.feed("rapl", open_rapl)
    groups = house.feed("cgroups", open_groups, meters=False)

    house.turn(groups)  # what the others deliver is not known yet
    house.turn(nvml, rapl, groups)
    house.turn(nvml, rapl, groups)
    assert 1 == opened[0].read_times

    for _ in range(10):  # an account whose container is there has not ended
        house.turn(nvml, rapl, groups)
    assert 2 == opened[0].read_times

    zones.append(CPU)
    for _ in range(3):
        house.turn(nvml, rapl, groups)
    assert [(5, 0)] == [(found.read_times, found.closed) for found in opened]


def test_a_turn_without_a_look_is_no_sample(house: House) -> None:
    """What the meter says of itself is as true as what it says of watts."""
    house.claims.reorder(["cgroups"])
    found = Groups(house.clock)
    groups = house.feed("cgroups", lambda: found, meters=False)
    health: list[Health] = []
    poller = Poller(Health("cgroups", "source", 1.0), groups, house.clock, health.append, observe=groups.observe)
    for _ in range(25):
        house.clock.advance(1.0)
        poller.turn()

    assert (25, 3, 10.0) == (health[-1].turns, health[-1].successes, health[-1].every)
    assert [1021.0] == sorted({one.last_success.mono for one in health[20:] if one.last_success})

    house.claims.reorder(["rapl", "cgroups"])  # which may meter
    house.clock.advance(1.0)
    poller.turn()
    assert (4, 1.0) == (health[-1].successes, health[-1].every)


def test_a_look_that_failed_is_tried_again_at_the_next_turn(house: House) -> None:
    """It is no rest to have seen nothing."""
    house.claims.reorder(["cgroups"])
    found = Groups(house.clock)
    groups = house.feed("cgroups", lambda: found, meters=False)
    found.trouble = ReadFailed("no such file", "server")
    house.turn(groups)
    house.turn(groups)

    assert 2 == found.read_times


def test_who_would_be_looked_at_in_vain_is_looked_for_all_the_same(house: House) -> None:
    """That there are no control groups is news also where nothing is to be shared out."""
    house.claims.reorder(["cgroups"])

    def no_groups() -> Source:
        raise Unavailable("no control groups")

    with pytest.raises(Unavailable, match="no control groups"):
        house.feed("cgroups", no_groups, meters=False)()


def test_the_first_in_order_that_delivers_keeps() -> None:
    """Of three, component by component."""
    claims = Claims(["rapl", "hwmon", "estimate"])
    claims.outcome("rapl", [reading("cpu")])
    claims.outcome("hwmon", [reading("cpu"), reading("dram")])

    kept = {(s, c) for s in ("rapl", "hwmon", "estimate") for c in ("cpu", "dram", "gpu") if claims.keeps(s, c)}

    assert {("rapl", "cpu"), ("rapl", "dram"), ("rapl", "gpu"), ("hwmon", "dram"), ("hwmon", "gpu")} <= kept
    assert {("estimate", "gpu")} == {k for k in kept if k[0] == "estimate"}


# --- opening, failing, closing ----------------------------------------------------------------------


def test_a_source_is_opened_once(house: House) -> None:
    """Its handles are kept from turn to turn."""
    opened: list[int] = []

    def opener() -> Source:
        opened.append(1)
        return Meters(house.clock, GPU)

    nvml = house.feed("nvml", opener)
    for _ in range(3):
        house.turn(nvml)

    assert [1] == opened


def test_bad_news_is_passed_on_to_the_poller(house: House) -> None:
    """The feed books what it means; when to try again is not its matter."""
    meters = Meters(house.clock, GPU)
    nvml = house.feed("nvml", lambda: meters)

    for trouble in (ReadFailed("no answer", "timeout"), Unavailable("no driver"), ZeroDivisionError("a bug")):
        meters.trouble = trouble
        with pytest.raises(type(trouble)) as caught:
            nvml()
        assert trouble is caught.value


def test_a_source_that_failed_to_read_stays_open(house: House) -> None:
    """Next time may work: handles are kept, and its counter bridges the turn."""
    meters = Meters(house.clock, GPU)
    nvml = house.feed("nvml", lambda: meters)
    house.turn(nvml)
    meters.trouble = ReadFailed("no answer", "timeout")
    house.turn(nvml)
    meters.trouble = None
    house.turn(nvml)

    assert ({GPU: 200}, 0) == (house.joules, meters.closed)


def test_a_source_that_failed_to_open_is_opened_at_the_next_turn(house: House) -> None:
    """Its first turn failed, its second works, and nothing is left half open."""
    answers: list[ReadFailed | None] = [ReadFailed("the driver is starting"), None]

    def opener() -> Source:
        trouble = answers.pop(0)
        if trouble is not None:
            raise trouble
        return Meters(house.clock, GPU)

    nvml = house.feed("nvml", opener)
    with pytest.raises(ReadFailed, match="the driver is starting"):
        nvml()
    half_open = nvml.source
    house.turn(nvml)
    house.turn(nvml)

    assert (None, {GPU: 100}) == (half_open, house.joules)


def test_a_source_that_cannot_be_opened_again_makes_its_devices_unmetered(house: House) -> None:
    """It was lost, and its opener fails ever since: the seconds are counted."""
    meters = Meters(house.clock, GPU)
    sources: list[Source] = [meters]

    def opener() -> Source:
        if not sources:
            raise ReadFailed("the driver is starting")
        return sources.pop()

    nvml = house.feed("nvml", opener)
    house.turn(nvml)
    meters.trouble = Unavailable("the driver was unloaded")
    house.turn(nvml)
    for _ in range(700):
        house.turn(nvml)

    assert 600.0 < house.unmetered[GPU] <= 701.0


def test_a_source_that_is_not_there_any_more_is_closed_and_opened_anew(house: House) -> None:
    """The driver was replaced: old handles are worth nothing."""
    old, new = Meters(house.clock, GPU), Meters(house.clock, GPU)
    sources = [new, old]
    nvml = house.feed("nvml", sources.pop)
    house.turn(nvml)
    old.trouble = Unavailable("the driver was unloaded")
    house.turn(nvml)
    house.turn(nvml)

    assert (1, 0, new) == (old.closed, new.closed, nvml.source)


def test_a_source_that_does_not_come_back_stays_unmetered(house: House) -> None:
    """It is asked for every ten minutes; all that time its devices are expected and not metered."""
    meters = Meters(house.clock, GPU)
    sources: list[Source] = [meters]

    def opener() -> Source:
        if not sources:
            raise Unavailable("no driver")
        return sources.pop()

    nvml = house.feed("nvml", opener)
    house.turn(nvml)
    meters.trouble = Unavailable("the driver was unloaded")
    house.turn(nvml)
    for _ in range(6):
        house.turn(nvml, seconds=600.0)

    assert 3601.0 == house.unmetered[GPU]


def test_closing_lets_go_of_what_is_open(house: House) -> None:
    """And of nothing, where nothing is."""
    meters = Meters(house.clock, GPU)
    nvml, never = house.feed("nvml", lambda: meters), house.feed("rapl", lambda: meters)
    house.turn(nvml)

    nvml.close()
    never.close()

    assert 1 == meters.closed


def test_the_cost_is_that_of_a_source_with_a_process_of_its_own(house: House) -> None:
    """The others cost what the house costs."""
    own, child = house.feed("rapl", lambda: Meters(house.clock)), house.feed("nvml", lambda: Child(house.clock))
    health = Health("a source", "source", 1.0)
    before = child.observe(health)
    house.turn(own, child)

    costs = [seen.child for seen in (before, own.observe(health), child.observe(health))]
    assert [None, None, Cost(1.0, 20_000_000)] == costs


# --- providers --------------------------------------------------------------------------------------


class Voice:
    """A provider that answers what it is told to."""

    def __init__(self, *answers: Sequence[Intensity] | ReadFailed) -> None:
        self.answers = list(answers)
        self.closed = 0

    def fetch(self) -> Sequence[Intensity]:
        answer = self.answers.pop(0)
        if isinstance(answer, ReadFailed):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


def value(start: float, end: float, grams_per_kwh: float = 50.0, basis: str = "live") -> Intensity:
    return Intensity("FR", "grid", T0 + start, T0 + end, grams_per_kwh, basis, "lifecycle", source="the operator")


@dataclass
class Desk:
    """A provider's feed, what it teaches, and what it keeps."""

    voice: Voice
    chance: float = 0.0

    def __post_init__(self) -> None:
        self.clock = ManualClock(1000.0, T0)
        self.tariff = Tariff("FR", "lifecycle", [Rung("grid", 50.0, ("live", "held"))])
        self.kept: list[tuple[str, Sequence[Intensity]]] = []
        self.feed = ProviderFeed(
            "grid", self.voice, self.tariff, self.clock, lambda *said: self.kept.append(said), lambda: self.chance
        )


def test_a_fetched_value_prices_and_is_kept() -> None:
    """One answer teaches the tariff and the cache."""
    said = (value(0, 3600),)
    desk = Desk(Voice(said))

    desk.feed()

    assert (value(0, 3600), [("grid", said)]) == (desk.tariff.at(T0 + 10), desk.kept)


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 105.0), (1.0, 110.0)])
def test_the_next_turn_is_wished_for_a_little_after_the_values_end(chance: float, expected: float) -> None:
    """5 to 10 seconds, by chance, so that a fleet does not ask in the same second."""
    desk = Desk(Voice((value(0, 100),)), chance)

    assert expected == desk.feed()


def test_a_value_that_has_ended_brings_no_wish() -> None:
    """The news is late: the next tick is soon enough."""
    desk = Desk(Voice((value(-200, -100),)))

    assert desk.feed() is None


def test_no_value_brings_no_wish() -> None:
    """And teaches nothing."""
    desk = Desk(Voice(()))

    assert (None, None) == (desk.feed(), desk.tariff.at(T0))


def test_a_forecast_does_not_put_off_the_news() -> None:
    """Two days of forecast came with the value of this quarter of an hour, and it is this one that ends."""
    desk = Desk(Voice((value(0, 900), value(900, 172_800, 60.0, "forecast"))))

    assert 905.0 == desk.feed()


def test_a_failed_fetch_teaches_and_keeps_nothing() -> None:
    """What was known before holds on."""
    desk = Desk(Voice((value(0, 100),), ReadFailed("503", "server")))
    desk.feed()
    before = desk.tariff.at(T0 + 10)
    with pytest.raises(ReadFailed, match="503"):
        desk.feed()

    assert (before, 1) == (desk.tariff.at(T0 + 10), len(desk.kept))


def test_what_a_providers_figures_are_is_said_once(lines: list[str]) -> None:
    """Zone, basis, factor, boundary and source; not every figure."""
    desk = Desk(Voice((value(0, 100, 50.0),), (value(100, 200, 70.0),)))
    desk.feed()
    desk.feed()

    assert ["INFO grid prices with 50 g/kWh: FR, live, lifecycle, unknown; the operator"] == lines


def test_a_change_of_basis_is_said(lines: list[str]) -> None:
    """Its figures are now estimates."""
    desk = Desk(Voice((value(0, 100),), (value(100, 200, 70.0, "estimated"),)))
    desk.feed()
    desk.feed()

    assert "INFO grid prices with 70 g/kWh: FR, estimated, lifecycle, unknown; the operator" == lines[-1]


def test_closing_a_providers_feed_closes_its_connections() -> None:
    """Once."""
    voice = Voice()
    Desk(voice).feed.close()

    assert 1 == voice.closed
