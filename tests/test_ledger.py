"""The books balance at every moment: by device, by owner and by price they hold the same joules and grams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Barrier, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Cost, Counter, Device, Failure, Health, Instant, Intensity, Reading, Sample, State
from wattgram.snapshot import Constants, DeviceTotals, OwnerKey, PriceKey, Reload, Snapshot, Totals
from wattgram.tariff import Rung, Tariff

JOULE = 1_000_000
T0 = 1_700_000_000.0

GPU = Device("gpu", "GPU-1", max_watts=700.0, events=("reset", "gap", "lost"))
OTHER = Device("gpu", "GPU-2", max_watts=700.0)
CPU = Device("cpu", "package-0", max_watts=1000.0)
MODEL = Device("cpu", "estimated-cpu", quality="estimated")


def grid(start: float, end: float, grams_per_kwh: float) -> Intensity:
    return Intensity("FR", "grid", T0 + start, T0 + end, grams_per_kwh, "live", "lifecycle")


@dataclass
class House:
    """A ledger, what fills it, and the clock by which it lives."""

    clock: ManualClock
    tariff: Tariff
    ledger: Ledger
    accountant: Accountant

    def give(self, *readings: Reading) -> None:
        self.accountant.receive(Sample(self.clock.now(), readings))

    def fail(self, device: Device, event: str = "") -> None:
        self.accountant.receive(Sample(self.clock.now(), failed=(Failure(device, "no answer", event),)))

    def read(self, joules: float | None = None, watts: float | None = None, device: Device = GPU) -> Reading:
        counter = None if joules is None else Counter(round(joules * JOULE))
        return Reading(device, self.clock.now(), watts=watts, counter=counter)

    def run(self, *joules: float, device: Device = GPU) -> None:
        """Give these values of a counter, a second apart."""
        for value in joules:
            self.give(self.read(value, device=device))
            self.clock.advance(1.0)

    def device(self, device: Device = GPU) -> DeviceTotals:
        (found,) = (totals for totals in self.ledger.snapshot().devices if totals.device == device)
        return found


@pytest.fixture
def house() -> House:
    return build()


def build() -> House:
    clock = ManualClock(mono=1000.0, wall=T0)
    tariff = Tariff("FR", "lifecycle", [Rung("grid", 50.0, ("live", "held"))])
    ledger = Ledger(
        clock, view=tariff.view, provenances=[("live", "lifecycle"), ("held", "lifecycle"), ("none", "lifecycle")]
    )
    return House(clock, tariff, ledger, Accountant("nvml", 1.0, Meter(max_gap=3.0), tariff, ledger))


def sums(snapshot: Snapshot) -> tuple[Totals, Totals, Totals]:
    """Return the whole house's energy and carbon three times: by device, by owner, by price."""
    by_device = [Totals(d.microjoules, d.carbon) for d in snapshot.devices]
    by_owner = [totals for _, totals in snapshot.owners]
    by_price = [totals for _, totals in snapshot.pricing]
    one, two, three = (
        Totals(sum(t.microjoules for t in book), sum(t.carbon for t in book))
        for book in (by_device, by_owner, by_price)
    )
    return one, two, three


# --- accounts ---------------------------------------------------------------------------------------


def test_a_ledger_begins_empty(house: House) -> None:
    """Before the first reading there is nothing to show."""
    snapshot = house.ledger.snapshot()

    assert ((), (), ()) == (snapshot.devices, snapshot.owners, snapshot.pricing)


def test_the_first_reading_opens_every_account_at_zero(house: House) -> None:
    """So that the first joule is an increase and not the birth of a series."""
    house.give(house.read(5e6))

    snapshot = house.ledger.snapshot()

    owner = OwnerKey("pool", "unattributed", "gpu", "active", "measured")
    prices = [PriceKey("measured", basis, "lifecycle") for basis in ("live", "held", "none")]
    assert ((owner, Totals()),) == snapshot.owners
    assert tuple((price, Totals()) for price in prices) == snapshot.pricing
    assert (0, 0, 0.0) == (
        snapshot.devices[0].microjoules,
        snapshot.devices[0].carbon,
        snapshot.devices[0].unmetered_seconds,
    )


def test_events_that_a_device_can_have_are_shown_at_zero(house: House) -> None:
    """A reset that never happened is a 0, not an absence."""
    house.give(house.read(5e6))

    assert (("gap", 0), ("lost", 0), ("reset", 0)) == house.device().events


def test_energy_is_added_to_device_owner_and_price(house: House) -> None:
    """One joule, three views of it."""
    house.tariff.learn("grid", [grid(0, 3600, 100.0)], T0)
    house.run(0.0, 250.0)

    snapshot = house.ledger.snapshot()

    booked = Totals(250 * JOULE, 250 * JOULE * 100 * 1_000_000)
    assert (booked, booked, booked) == sums(snapshot)
    assert booked == dict(snapshot.pricing)[PriceKey("measured", "live", "lifecycle")]


def test_unpriced_energy_is_counted_and_has_no_carbon(house: House) -> None:
    """The provider is down: joules go on, grams do not."""
    house.run(0.0, 250.0)

    prices = dict(house.ledger.snapshot().pricing)

    assert Totals(250 * JOULE, 0) == prices[PriceKey("measured", "none", "lifecycle")]


def test_what_was_posted_is_never_priced_again(house: House) -> None:
    """A value that arrives later prices what comes later."""
    house.run(0.0, 100.0)
    house.tariff.learn("grid", [grid(-3600, 3600, 100.0)], T0)
    house.run(200.0)

    prices = dict(house.ledger.snapshot().pricing)

    assert 100 * JOULE == prices[PriceKey("measured", "none", "lifecycle")].microjoules
    assert 100 * JOULE == prices[PriceKey("measured", "live", "lifecycle")].microjoules


def test_a_revised_value_does_not_change_posted_carbon(house: House) -> None:
    """A counter is never re-priced."""
    house.tariff.learn("grid", [grid(0, 3600, 100.0)], T0)
    house.run(0.0, 100.0)
    before = house.device().carbon
    house.tariff.learn("grid", [grid(0, 3600, 900.0)], T0)

    assert before == house.device().carbon


def test_estimated_energy_is_kept_apart(house: House) -> None:
    """A model's joules have accounts of their own, with owners and with prices."""
    house.give(house.read(0.0), house.read(0.0, device=MODEL))
    house.clock.advance(1.0)
    house.give(house.read(30.0), house.read(7.0, device=MODEL))

    snapshot = house.ledger.snapshot()

    owners = {(key.component, key.quality): totals.microjoules for key, totals in snapshot.owners}
    assert {("gpu", "measured"): 30 * JOULE, ("cpu", "estimated"): 7 * JOULE} == owners
    assert 7 * JOULE == dict(snapshot.pricing)[PriceKey("estimated", "none", "lifecycle")].microjoules


def test_a_failed_device_keeps_its_totals(house: House) -> None:
    """One turn without it, and one after: nothing restarts."""
    house.give(house.read(0.0), house.read(0.0, device=OTHER))
    house.clock.advance(1.0)
    house.give(house.read(10.0), house.read(20.0, device=OTHER))
    house.clock.advance(1.0)
    house.accountant.receive(
        Sample(house.clock.now(), (house.read(20.0),), failed=(Failure(OTHER, "no answer"),)),
    )

    assert (20 * JOULE, 20 * JOULE) == (house.device().microjoules, house.device(OTHER).microjoules)


def test_unmetered_seconds_and_events_are_counted(house: House) -> None:
    """Time without a reading is said, not hidden."""
    house.give(house.read(watts=100.0))
    for _ in range(10):
        house.clock.advance(1.0)
        house.fail(GPU, "lost")

    totals = house.device()

    assert (10.0, {"gap": 0, "lost": 1, "reset": 0}) == (totals.unmetered_seconds, dict(totals.events))


def test_a_source_that_gives_nothing_makes_its_devices_unmetered(house: House) -> None:
    """Every device of it, though none was named."""
    house.give(house.read(watts=100.0), house.read(watts=100.0, device=OTHER))
    house.clock.advance(10.0)
    house.accountant.missed(house.clock.now(), "no answer")

    assert [10.0, 10.0] == [totals.unmetered_seconds for totals in house.ledger.snapshot().devices]


def test_throttled_seconds_add_up_over_a_restart_of_the_driver(house: House) -> None:
    """A total never falls, though the driver's own did."""
    for seconds in (100.0, 103.0, 0.0, 2.0):
        house.give(replace(house.read(0.0), state=State(throttled=(("power", seconds),))))
        house.clock.advance(1.0)

    assert (("power", 5.0),) == house.device().throttled


# --- gauges -----------------------------------------------------------------------------------------


def test_power_is_what_the_device_says(house: House) -> None:
    """Also where its counter says otherwise: it is for display."""
    house.give(house.read(0.0, 111.0))
    house.clock.advance(1.0)
    house.give(house.read(250.0, 222.0))

    assert 222.0 == house.device().watts


def test_power_is_derived_from_energy_where_a_reading_has_none(house: House) -> None:
    """RAPL tells joules only."""
    house.give(house.read(0.0))
    house.clock.advance(2.0)
    house.give(house.read(250.0))

    assert 125.0 == house.device().watts


def test_the_first_counter_has_no_power(house: House) -> None:
    """One value of a counter is no power, and certainly not 0."""
    house.give(house.read(5e6))

    assert house.device().watts is None


def test_energy_of_a_long_interval_is_no_power_of_now(house: House) -> None:
    """An hour's mean is not what the device draws."""
    house.give(house.read(0.0))
    house.clock.advance(3600.0)
    house.give(house.read(360_000.0))

    assert house.device().watts is None


def test_the_newest_facts_are_shown(house: House) -> None:
    """Method, driver, state and time of the last reading."""
    house.give(house.read(0.0))
    house.clock.advance(1.0)
    house.give(replace(house.read(watts=5.0), driver="570.1", state=State(temperature_celsius=40.0)))

    totals = house.device()

    assert ("power", "570.1", State(temperature_celsius=40.0)) == (totals.method, totals.driver, totals.state)
    assert house.clock.now() == totals.read_at


def test_a_late_reading_does_not_turn_the_gauges_back(house: House) -> None:
    """It was overtaken: what it shows is older than what is shown."""
    late = house.read(0.0, 111.0)
    house.clock.advance(1.0)
    house.give(house.read(0.0, 222.0))
    house.give(late)

    assert (222.0, house.clock.now()) == (house.device().watts, house.device().read_at)


# --- snapshots --------------------------------------------------------------------------------------


def test_another_interval_or_source_of_a_device_is_taken_up(house: House) -> None:
    """By a reload: else a gauge would be called old after three of the intervals of before, or fresh for too long."""
    house.run(1.0, 2.0)
    later = Accountant("hwmon", 30.0, Meter(max_gap=90.0), house.tariff, house.ledger)
    later.receive(Sample(house.clock.now(), (house.read(3.0),)))

    assert ("hwmon", 30.0) == (house.device().source, house.device().every)


def test_a_snapshot_has_no_effect(house: House) -> None:
    """However often it is taken, the books are those of a house that nobody looked at."""
    watched, alone = house, build()
    for joules in (0.0, 10.0, 30.0):
        for each in (watched, alone):
            each.run(joules)
        for _ in range(5):
            watched.ledger.snapshot()

    assert alone.ledger.snapshot() == watched.ledger.snapshot()


def test_of_two_readers_the_slower_does_not_show_less_than_the_quicker() -> None:
    """What this process used is asked for outside the lock: the quicker one's answer stands."""
    clock = ManualClock(1000.0, T0)
    inner: list[Snapshot] = []
    used = iter((Cost(100.0, 1), Cost(200.0, 1)))

    def cost() -> Cost:
        mine = next(used)
        if not inner:  # while the first reader asks, a second one comes and goes
            inner.append(Snapshot(Instant(0.0, 0.0), Instant(0.0, 0.0), "", ""))
            clock.advance(0.5)
            inner[0] = ledger.snapshot()
        return mine

    ledger = Ledger(clock, cost=cost)
    outer = ledger.snapshot()

    assert (200.0, 200.0) == tuple(s.cost.cpu_seconds for s in (inner[0], outer) if s.cost)


def test_a_snapshot_does_not_change_afterwards(house: House) -> None:
    """Whoever holds one may read it at leisure."""
    house.run(0.0, 10.0)
    held = house.ledger.snapshot()
    house.run(500.0)

    assert 10 * JOULE == held.devices[0].microjoules


def test_readers_within_a_second_share_a_snapshot(house: House) -> None:
    """Two scrapers cost as much as one."""
    house.run(0.0, 10.0)
    first = house.ledger.snapshot()
    house.clock.advance(0.9)

    assert first is house.ledger.snapshot()


def test_a_snapshot_is_not_shared_once_a_second_has_passed(house: House) -> None:
    """Gauges expire, the price changes: the next reader gets the time of now."""
    first = house.ledger.snapshot()
    house.clock.advance(1.0)

    assert first.at.mono + 1.0 == house.ledger.snapshot().at.mono


@pytest.mark.parametrize(
    "news",
    [
        lambda house: house.give(house.read(5.0)),
        lambda house: house.ledger.report(Health("nvml", "source", 1.0, up=True)),
        lambda house: house.ledger.reloaded(Reload(successful=False, at=5.0)),
        lambda house: house.ledger.note(("no grams",)),
    ],
    ids=["sample", "health", "reload", "note"],
)
def test_a_snapshot_is_not_shared_when_there_is_news(house: House, news: Callable[[House], None]) -> None:
    """What was posted is seen by the next reader, at once."""
    first = house.ledger.snapshot()

    news(house)

    assert first != house.ledger.snapshot()


def test_the_newest_health_of_each_is_shown(house: House) -> None:
    """A source and a provider of one name are two."""
    house.ledger.report(Health("file", "source", 1.0))
    house.ledger.report(Health("file", "provider", 60.0))
    house.ledger.report(Health("file", "source", 1.0, up=True))

    assert {("source", True), ("provider", None)} == {(h.kind, h.up) for h in house.ledger.snapshot().health}


def test_what_surrounds_the_books_is_shown_as_it_is() -> None:
    """The house's own cost, constants, remarks, the last reload; without a zone, no grid."""
    cost = Cost(1.5, 30_000_000)
    ledger = Ledger(ManualClock(5.0, 6.0), cost=lambda: cost, constants=Constants(pue=1.2))
    ledger.note(("no grams",))
    ledger.reloaded(Reload(successful=True, at=6.0))

    snapshot = ledger.snapshot()

    assert (cost, Constants(pue=1.2), ("no grams",), None) == (
        snapshot.cost,
        snapshot.constants,
        snapshot.notes,
        snapshot.grid,
    )
    assert (Instant(5.0, 6.0), Reload(successful=True, at=6.0)) == (snapshot.started, snapshot.reload)


def test_the_grid_is_shown_as_of_the_snapshots_date(house: House) -> None:
    """At 10 s it is live, at 120 s of a value of 100 s held."""
    house.tariff.learn("grid", [grid(0, 100, 50.0)], T0)
    house.clock.advance(120.0)

    shown = house.ledger.snapshot().grid

    assert shown is not None
    assert shown.price is not None
    assert "held" == shown.price.basis


# --- properties -------------------------------------------------------------------------------------

PRICES = st.tuples(st.integers(-100, 100), st.integers(1, 60), st.integers(0, 900))
TURNS = st.tuples(
    st.sampled_from([GPU, OTHER, CPU, MODEL]),
    st.sampled_from(["counter", "power", "both", "failed", "restart"]),
    st.integers(1, 9),
    st.integers(0, 600),
    st.sampled_from([0.0, 0.0, -40.0, 40.0]),
    st.none() | PRICES,
)


@settings(deadline=None, max_examples=200)
@given(turns=st.lists(TURNS, max_size=30))
def test_the_books_balance_and_never_fall_at_every_snapshot(
    turns: list[tuple[Device, str, int, int, float, tuple[int, int, int] | None]],
) -> None:
    """Σ devices = Σ owners = Σ prices in microjoules and in carbon, whatever happens to meters, prices and clocks."""
    house = build()
    shown: dict[Device, int] = {}
    before: dict[object, Totals] = {}
    for device, what, seconds, watts, wall_step, price in turns:
        if price is not None:
            house.tariff.learn("grid", [grid(price[0], price[0] + price[1], price[2])], house.clock.now().wall)
        house.clock.advance(seconds, wall_step)
        shown[device] = 0 if what == "restart" else shown.get(device, 10**9) + watts * seconds * JOULE
        if what == "failed":
            house.fail(device)
        else:
            reading = house.read(None, float(watts) if what in {"power", "both"} else None, device)
            counter = Counter(shown[device]) if what != "power" else None
            house.give(replace(reading, counter=counter))

        snapshot = house.ledger.snapshot()

        devices, owners, prices = sums(snapshot)
        assert devices == owners == prices
        now: dict[object, Totals] = dict([*snapshot.owners, *snapshot.pricing])
        now |= {d.device: Totals(d.microjoules, d.carbon) for d in snapshot.devices}
        for account, totals in before.items():
            assert totals.microjoules <= now[account].microjoules
            assert totals.carbon <= now[account].carbon
        before = now


def test_the_books_balance_while_several_sources_post(house: House) -> None:
    """Four threads post at once, a fifth looks: no snapshot shows half an entry, and none is lost."""
    house.tariff.learn("grid", [grid(0, 3600, 100.0)], T0)
    turns, sources = 300, 4
    gate = Barrier(sources + 1)

    def meter(number: int) -> None:
        device = Device("gpu", f"GPU-{number}")
        accountant = Accountant(f"source-{number}", 1.0, Meter(max_gap=3.0), house.tariff, house.ledger)
        gate.wait()
        for turn in range(turns + 1):
            at = Instant(1000.0 + turn, T0 + turn)
            accountant.receive(Sample(at, (Reading(device, at, counter=Counter(turn * 7 * JOULE)),)))

    threads = [Thread(target=meter, args=(number,), daemon=True) for number in range(sources)]
    for thread in threads:
        thread.start()
    gate.wait()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(sums(house.ledger.snapshot()))
    for thread in threads:
        thread.join()
    seen.append(sums(house.ledger.snapshot()))

    assert [] == [books for books in seen if len(set(books)) != 1]
    assert sources * turns * 7 * JOULE == seen[-1][0].microjoules
