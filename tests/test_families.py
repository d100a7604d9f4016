"""The contract of metrics: names, types, labels; nothing unknown shown as zero; sums that mean something."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.samples import Sample as Line

from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Cost, Counter, Device, Health, Instant, Intensity, Reading, Sample, State
from wattgram.poller import Poller
from wattgram.ports import REASONS, ReadFailed, Unavailable
from wattgram.snapshot import Constants, DeviceTotals, Grid, OwnerKey, PriceKey, Reload, Snapshot, Totals
from wattgram.sources.synthetic import SyntheticSource
from wattgram.tariff import Rung, Tariff
from wattgram_exporters.families import families, is_fresh

NOW = Instant(1000.0, 1_780_000_000.0)
EVERY = 2.0
GPU = Device(
    "gpu",
    "GPU-1",
    "H100",
    "0",
    "0000:10:00.0",
    "SXM-1",
    "board",
    events=("gap", "reset"),
    uncertainty=(("counter", 0.02),),
)
CPU = Device("cpu", "package-0", "Xeon", covers="package", events=("wrap",))
PRICE = Intensity(
    "FR", "annual", 0.0, math.inf, 44.0, "annual", "lifecycle", boundary="production", edition="2024", source="a table"
)
STATE = State(0.5, 10, 80, 60.0, 700.0)

INFO, GAUGE, COUNTER = "info", "gauge", "counter"
DEVICE = ("component", "device", "quality")
OWNER = ("kind", "owner", "component", "activity", "quality")
CONTRACT = {
    "wattgram_build_info": (INFO, ("version", "python")),
    "wattgram_config_last_reload_successful": (GAUGE, ()),
    "wattgram_device_info": (INFO, ("component", "device", "index", "model", "pci_bus_id", "module")),
    "wattgram_device_meter_info": (INFO, ("component", "device", "method", "covers", "calibration", "driver")),
    "wattgram_device_power_watts": (GAUGE, DEVICE),
    "wattgram_device_energy_joules_total": (COUNTER, DEVICE),
    "wattgram_device_emissions_grams_total": (COUNTER, DEVICE),
    "wattgram_device_unmetered_seconds_total": (COUNTER, ("component", "device")),
    "wattgram_device_events_total": (COUNTER, ("component", "device", "event")),
    "wattgram_device_crosscheck_ratio": (GAUGE, ("component", "device")),
    "wattgram_device_uncertainty_ratio": (GAUGE, ("component", "device")),
    "wattgram_gpu_utilization_ratio": (GAUGE, ("device",)),
    "wattgram_gpu_memory_used_bytes": (GAUGE, ("device",)),
    "wattgram_gpu_memory_total_bytes": (GAUGE, ("device",)),
    "wattgram_gpu_temperature_celsius": (GAUGE, ("device",)),
    "wattgram_gpu_power_limit_watts": (GAUGE, ("device",)),
    "wattgram_gpu_throttled_seconds_total": (COUNTER, ("device", "reason")),
    "wattgram_owner_energy_joules_total": (COUNTER, OWNER),
    "wattgram_owner_emissions_grams_total": (COUNTER, OWNER),
    "wattgram_pricing_intensity_grams_per_kwh": (GAUGE, ("grid_zone",)),
    "wattgram_pricing_info": (INFO, ("grid_zone", "provider", "basis", "factor", "boundary", "edition")),
    "wattgram_pricing_energy_joules_total": (COUNTER, ("quality", "basis", "factor")),
    "wattgram_pricing_emissions_grams_total": (COUNTER, ("quality", "basis", "factor")),
    "wattgram_grid_intensity_grams_per_kwh": (GAUGE, ("grid_zone", "provider", "signal", "factor", "basis")),
    "wattgram_grid_intensity_timestamp_seconds": (GAUGE, ("grid_zone", "provider", "signal")),
    "wattgram_pue_ratio": (GAUGE, ()),
    "wattgram_market_intensity_grams_per_kwh": (GAUGE, ()),
    "wattgram_electricity_price_per_kwh": (GAUGE, ("currency",)),
    "wattgram_provider_requests_total": (COUNTER, ("provider",)),
    "wattgram_provider_failures_total": (COUNTER, ("provider", "reason")),
    "wattgram_source_up": (GAUGE, ("source",)),
    "wattgram_source_samples_total": (COUNTER, ("source",)),
    "wattgram_source_failures_total": (COUNTER, ("source",)),
    "wattgram_source_last_success_timestamp_seconds": (GAUGE, ("source",)),
    "wattgram_source_read_seconds_total": (COUNTER, ("source",)),
    "wattgram_child_cpu_seconds_total": (COUNTER, ("source",)),
    "wattgram_child_resident_memory_bytes": (GAUGE, ("source",)),
    "process_cpu_seconds_total": (COUNTER, ()),
    "process_resident_memory_bytes": (GAUGE, ()),
    "process_virtual_memory_bytes": (GAUGE, ()),
    "process_start_time_seconds": (GAUGE, ()),
    "process_open_fds": (GAUGE, ()),
    "process_max_fds": (GAUGE, ()),
}
WHERE_THERE_IS = {
    "wattgram_device_idle_power_watts": (GAUGE, ("component", "device")),
    "wattgram_host_power_watts": (GAUGE, ("meter",)),
    "wattgram_host_energy_joules_total": (COUNTER, ("meter",)),
    "wattgram_workload_energy_joules_total": (
        COUNTER,
        ("kind", "workload", "owner", "component", "device", "activity", "quality"),
    ),
    "wattgram_workload_emissions_grams_total": (
        COUNTER,
        ("kind", "workload", "owner", "component", "device", "activity", "quality"),
    ),
    "wattgram_workload_info": (INFO, ("kind", "workload", "owner", "name", "account")),
    "wattgram_workload_overflows_total": (COUNTER, ()),
    "wattgram_grid_forecast_grams_per_kwh": (GAUGE, ("grid_zone", "provider", "signal", "factor", "hours_ahead")),
}
SCRAPERS_LABELS = {"pod", "namespace", "container", "node", "job", "instance", "service", "endpoint", "zone", "region"}
GRAM_FAMILIES = (
    "wattgram_device_emissions_grams_total",
    "wattgram_owner_emissions_grams_total",
    "wattgram_pricing_emissions_grams_total",
)
UNPRICED = ("none", "lifecycle")


# --- snapshots ------------------------------------------------------------------------------------


def account(device: Device = GPU) -> DeviceTotals:
    """A device that was read a moment ago."""
    return DeviceTotals(
        device=device,
        source="nvml",
        every=EVERY,
        method="counter",
        driver="570.1",
        read_at=NOW,
        watts=312.5,
        state=STATE,
        microjoules=2_500_000,
        carbon=44,
        unmetered_seconds=1.5,
        events=(("gap", 1),),
        throttled=(("cap", 2.0),),
        crosscheck=1.002,
    )


def full() -> Snapshot:
    """A snapshot in which everything is known."""
    return Snapshot(
        at=NOW,
        started=Instant(0.0, 1_779_999_000.0),
        version="1.2.3",
        python="3.12.0",
        devices=(account(), account(CPU)),
        owners=((OwnerKey("pool", "unattributed", "gpu", "active", "measured"), Totals(5_000_000, 88)),),
        pricing=((PriceKey("measured", "annual", "lifecycle"), Totals(5_000_000, 88)),),
        grid=Grid("FR", "lifecycle", PRICE, (PRICE,)),
        health=(
            Health(
                "nvml",
                "source",
                1.0,
                up=True,
                turns=3,
                successes=3,
                seconds=0.25,
                last_success=NOW,
                child=Cost(1.5, 4096),
            ),
            Health("em", "provider", 300.0, up=True, turns=2, requests=2, failures=(("rate", 1),)),
        ),
        constants=Constants(1.2, 10.0, 0.31, "EUR"),
        reload=Reload(successful=True, at=0.0),
        cost=Cost(2.5, 4096, 8192, 7, 1024, 1_779_999_000.0),
    )


def only(device: DeviceTotals) -> Snapshot:
    """A snapshot of one device."""
    return replace(full(), devices=(device,))


def lines(snapshot: Snapshot, name: str = "") -> list[Line]:
    """The sample lines of a snapshot, or those of one name."""
    found = [line for family in families(snapshot) for line in family.samples]
    return [line for line in found if line.name == name] if name else found


def names(snapshot: Snapshot) -> set[str]:
    """The names of all sample lines."""
    return {line.name for line in lines(snapshot)}


def values(snapshot: Snapshot, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """The values of one name by the given labels."""
    return {tuple(line.labels[label] for label in labels): line.value for line in lines(snapshot, name)}


class House:
    """Meter, tariff and ledger over the synthetic source, without threads."""

    def __init__(self, *rungs: Rung, gpus: int = 1, zone: str = "FR") -> None:
        self.clock = ManualClock(100.0, NOW.wall)
        self.tariff = Tariff(zone, "lifecycle", rungs) if zone else None
        bases = [(basis, "lifecycle") for rung in rungs for basis in rung.bases]
        self.ledger = Ledger(
            self.clock, view=self.tariff.view if self.tariff else None, provenances=(*bases, ("none", "lifecycle"))
        )
        self.accountant = Accountant("synthetic", 1.0, Meter(max_gap=3.0), self.tariff, self.ledger)
        self.source = SyntheticSource(gpus, self.clock)

    def read(self, turns: int = 1) -> Snapshot:
        """Take readings a second apart."""
        for _ in range(turns):
            self.accountant.receive(self.source.read())
            self.clock.advance(1.0)
        return self.ledger.snapshot()


# --- names, types, labels -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "promise"), CONTRACT.items(), ids=CONTRACT)
def test_each_family_has_the_promised_type_and_labels(name: str, promise: tuple[str, tuple[str, ...]]) -> None:
    """The table of the contract, row by row."""
    shown = {line.name: (family.type, set(line.labels)) for family in families(full()) for line in family.samples}

    assert (promise[0], set(promise[1])) == shown[name]


def test_nothing_is_shown_that_was_not_promised() -> None:
    """A family beside the table is a promise that nobody made."""
    assert names(full()) <= {*CONTRACT, *WHERE_THERE_IS}


def test_all_lines_of_a_family_have_the_same_labels() -> None:
    """A label that comes and goes makes two series of one."""
    for family in families(House(Rung("annual", 0.0, ("annual",))).read(3)):
        assert len({tuple(line.labels) for line in family.samples}) == 1, family.name


def test_no_series_is_shown_twice() -> None:
    """A scraper drops the whole scrape, or one of the two."""
    shown = [(line.name, tuple(sorted(line.labels.items()))) for line in lines(House().read(3))]

    assert len(set(shown)) == len(shown)


def test_no_label_is_one_that_scrapers_use() -> None:
    """It would become `exported_job` and break every join."""
    assert set() == {label for line in lines(full()) for label in line.labels} & SCRAPERS_LABELS


def test_no_label_is_a_process_id() -> None:
    """A PID grows without bound."""
    assert set() == {label for line in lines(full()) for label in line.labels} & {"pid", "process", "tid"}


def test_no_line_has_a_time_of_its_own() -> None:
    """An explicit timestamp would switch off the staleness that makes a lost target vanish."""
    assert {None} == {line.timestamp for line in lines(full())}


def test_no_start_timestamps_by_default() -> None:
    """Older servers store them as series of their own."""
    assert set() == {name for name in names(full()) if name.endswith("_created")}


def test_every_family_says_what_it_is() -> None:
    """HELP is where most people look first."""
    assert [] == [family.name for family in families(full()) if not family.documentation.strip()]


def test_the_division_into_active_and_idle_is_called_a_model() -> None:
    """Nobody may take it for a measurement."""
    helps = {family.name: family.documentation for family in families(full())}

    assert "model" in helps["wattgram_owner_energy_joules"]


def test_reasons_that_overlap_are_said_to_overlap() -> None:
    """The one counter family in seconds that must not be summed."""
    helps = {family.name: family.documentation for family in families(full())}

    assert "do not sum" in helps["wattgram_gpu_throttled_seconds"]


def test_the_order_of_devices_does_not_change_what_is_shown() -> None:
    """Enumeration order changes with every driver; the diff of two scrapes must not."""
    snapshot = full()

    turned = replace(snapshot, devices=snapshot.devices[::-1])

    assert lines(snapshot) == lines(turned)


# --- values ---------------------------------------------------------------------------------------


def test_energy_is_shown_in_joules() -> None:
    """Inside it is whole microjoules."""
    shown = values(full(), "wattgram_device_energy_joules_total", "component", "device", "quality")

    assert {("gpu", "GPU-1", "measured"): 2.5, ("cpu", "package-0", "measured"): 2.5} == shown


def test_identity_and_method_are_told_as_they_are() -> None:
    """What does not change is one family, what may is another."""
    (identity,) = lines(only(account()), "wattgram_device_info")
    (meter,) = lines(only(account()), "wattgram_device_meter_info")

    assert {
        "component": "gpu",
        "device": "GPU-1",
        "index": "0",
        "model": "H100",
        "pci_bus_id": "0000:10:00.0",
        "module": "SXM-1",
    } == identity.labels
    assert ("counter", "board", "570.1") == (meter.labels["method"], meter.labels["covers"], meter.labels["driver"])


def test_a_price_is_told_with_its_origin() -> None:
    """Zone, provider, basis, factor, boundary and edition."""
    (line,) = lines(full(), "wattgram_pricing_info")

    assert {
        "grid_zone": "FR",
        "provider": "annual",
        "basis": "annual",
        "factor": "lifecycle",
        "boundary": "production",
        "edition": "2024",
    } == line.labels
    assert {("FR",): 44.0} == values(full(), "wattgram_pricing_intensity_grams_per_kwh", "grid_zone")


def test_what_a_provider_says_is_shown_though_it_prices_nothing() -> None:
    """A provider's gauge is not a price."""
    other = replace(PRICE, provider="em", start=1_779_998_400.0, grams_per_kwh=51.0, basis="live")

    snapshot = replace(full(), grid=Grid("FR", "lifecycle", None, (other,)))

    assert {("em", "live"): 51.0} == values(snapshot, "wattgram_grid_intensity_grams_per_kwh", "provider", "basis")
    assert {("em",): 1_779_998_400.0} == values(snapshot, "wattgram_grid_intensity_timestamp_seconds", "provider")


@pytest.mark.parametrize(("successful", "shown"), [(True, 1.0), (False, 0.0)])
def test_a_bad_configuration_is_told(successful: bool, shown: float) -> None:  # noqa: FBT001
    """As Prometheus tells its own."""
    snapshot = replace(full(), reload=Reload(successful=successful, at=0.0))

    assert {(): shown} == values(snapshot, "wattgram_config_last_reload_successful")


def test_the_daemons_own_cost_goes_by_the_names_of_every_process() -> None:
    """Standard names, so that standard dashboards work."""
    shown = {line.name: line.value for line in lines(full()) if line.name.startswith("process_")}

    assert {
        "process_cpu_seconds_total": 2.5,
        "process_resident_memory_bytes": 4096.0,
        "process_virtual_memory_bytes": 8192.0,
        "process_open_fds": 7.0,
        "process_max_fds": 1024.0,
        "process_start_time_seconds": 1_779_999_000.0,
    } == shown


# --- unknown is absent ----------------------------------------------------------------------------


def test_unknown_power_is_absent() -> None:
    """0 W would be a measurement."""
    assert "wattgram_device_power_watts" not in names(only(replace(account(), watts=None)))


def test_power_of_zero_is_a_measurement() -> None:
    """A power-gated device draws nothing, and that is news."""
    shown = values(only(replace(account(), watts=0.0)), "wattgram_device_power_watts", "device")

    assert {("GPU-1",): 0.0} == shown


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("utilization", "wattgram_gpu_utilization_ratio"),
        ("memory_used_bytes", "wattgram_gpu_memory_used_bytes"),
        ("memory_total_bytes", "wattgram_gpu_memory_total_bytes"),
        ("temperature_celsius", "wattgram_gpu_temperature_celsius"),
        ("power_limit_watts", "wattgram_gpu_power_limit_watts"),
    ],
)
def test_each_unknown_of_a_gpu_is_absent_alone(attribute: str, name: str) -> None:
    """A consumer card without one query keeps the others."""
    before = names(full())

    known = {field.name: getattr(STATE, field.name) for field in fields(State)}
    after = names(only(replace(account(), state=State(**{**known, attribute: None}))))

    assert {name} == before - after


def test_a_gpu_that_says_nothing_of_itself_keeps_its_energy() -> None:
    """State is beside the point of a meter."""
    shown = names(only(replace(account(), state=None)))

    assert {name for name in CONTRACT if name.startswith("wattgram_gpu_") and name.endswith("_total")} == {
        name for name in shown if name.startswith("wattgram_gpu_")
    }
    assert "wattgram_device_energy_joules_total" in shown


def test_only_gpus_have_gpu_families() -> None:
    """A processor's state, should it have one, is not a GPU's."""
    assert set() == {
        line.name for line in lines(only(replace(account(CPU), throttled=()))) if line.name.startswith("wattgram_gpu_")
    }


def test_a_meter_that_was_not_checked_has_no_ratio() -> None:
    """1.0 would say that it was."""
    assert "wattgram_device_crosscheck_ratio" not in names(only(replace(account(), crosscheck=None)))


def test_uncertainty_is_that_of_the_method_in_use() -> None:
    """And absent where none is established: a figure for another method would be a false promise."""
    assert {("GPU-1",): 0.02} == values(only(account()), "wattgram_device_uncertainty_ratio", "device")
    assert "wattgram_device_uncertainty_ratio" not in names(only(replace(account(), method="power")))


def test_a_price_that_is_not_known_is_absent_and_the_books_stay() -> None:
    """Unpriced now does not undo the grams of an hour ago."""
    snapshot = replace(full(), grid=Grid("FR", "lifecycle", None, ()))

    assert {
        "wattgram_pricing_intensity_grams_per_kwh",
        "wattgram_pricing_info",
        "wattgram_grid_intensity_grams_per_kwh",
        "wattgram_grid_intensity_timestamp_seconds",
    } == names(full()) - names(snapshot)


def test_grams_exist_only_with_a_zone() -> None:
    """Without one there is nothing to price with, and 0 g would be a claim."""
    without = replace(full(), grid=None)

    assert set(GRAM_FAMILIES) <= names(full())
    assert not any("grams" in name for name in names(replace(without, constants=Constants())))


def test_without_a_zone_energy_is_told_as_unpriced() -> None:
    """Joules are counted all the same."""
    snapshot = replace(full(), grid=None, pricing=((PriceKey("measured", "none", "none"), Totals(7_000_000)),))

    assert {("none",): 7.0} == values(snapshot, "wattgram_pricing_energy_joules_total", "basis")


def test_factors_to_multiply_with_are_shown_only_when_configured() -> None:
    """A silent PUE of 1 would be a claim."""
    assert {
        "wattgram_pue_ratio",
        "wattgram_market_intensity_grams_per_kwh",
        "wattgram_electricity_price_per_kwh",
    } == names(full()) - names(replace(full(), constants=Constants()))


def test_a_free_kilowatt_hour_has_a_price_of_zero() -> None:
    """Configured as 0 is not unset."""
    snapshot = replace(full(), constants=Constants(price_per_kwh=0.0, currency="EUR"))

    assert {("EUR",): 0.0} == values(snapshot, "wattgram_electricity_price_per_kwh", "currency")


def test_an_unknown_cost_of_ours_is_absent() -> None:
    """No process family at all."""
    assert set() == {name for name in names(replace(full(), cost=None)) if name.startswith("process_")}


def test_a_source_that_never_succeeded_has_no_time_of_success() -> None:
    """1970 would look like fifty years of failure."""
    health = Health("nvml", "source", 1.0, up=False, turns=1)

    assert "wattgram_source_last_success_timestamp_seconds" not in names(replace(full(), health=(health,)))


def test_an_empty_snapshot_says_who_we_are_and_no_more() -> None:
    """Nothing metered yet is no series, not a row of zeros."""
    snapshot = Snapshot(NOW, NOW, "1.2.3", "3.12.0")

    assert {"wattgram_build_info"} == names(snapshot)


# --- gauges go, counters stay ---------------------------------------------------------------------


@pytest.mark.parametrize(("age", "fresh"), [(0.0, True), (3 * EVERY, True), (3 * EVERY + 0.001, False), (1e6, False)])
def test_a_gauge_lives_for_three_intervals(age: float, fresh: bool) -> None:  # noqa: FBT001
    """A frozen number is worse than none."""
    device = replace(account(), read_at=Instant(NOW.mono - age, NOW.wall - age))

    assert fresh == is_fresh(device, only(device))
    assert fresh == ("wattgram_device_power_watts" in names(only(device)))


def test_only_the_monotonic_clock_makes_a_gauge_old() -> None:
    """A wall clock that steps by an hour ages nothing."""
    device = replace(account(), read_at=Instant(NOW.mono - 1.0, NOW.wall - 3600.0))

    assert is_fresh(device, only(device))


def test_every_gauge_of_a_device_goes_with_its_reading() -> None:
    """Power, state, what is said of its meter: nothing of a device that is gone is as it was."""
    gone = replace(account(), read_at=Instant(NOW.mono - 3 * EVERY - 1.0, NOW.wall))

    gauges = {line.name for f in families(only(gone)) if f.type == GAUGE for line in f.samples}

    assert set() == {name for name in gauges if name.startswith(("wattgram_device_", "wattgram_gpu_"))}


def test_a_lost_device_keeps_its_counters_and_loses_its_gauges() -> None:
    """Its energy was used, whatever became of it."""
    house = House(Rung("annual", 0.0, ("annual",)))
    before = house.read(3)
    house.clock.advance(2.5)

    after = house.ledger.snapshot()

    def series(snapshot: Snapshot, kind: str) -> dict[tuple[str, str], float]:
        return {
            (line.name, str(sorted(line.labels.items()))): line.value
            for family in families(snapshot)
            for line in family.samples
            if family.type == kind and ("_device_" in family.name or "_gpu_" in family.name)
        }

    assert series(before, "counter") == series(after, "counter")
    assert series(before, "gauge")
    assert {} == series(after, "gauge")


def test_a_reading_that_failed_moves_no_counter_back() -> None:
    """Every counter at every turn, with every third reading missed."""
    house = House(Rung("annual", 0.0, ("annual",)))
    seen: dict[tuple[str, str], float] = {}
    for turn in range(9):
        if turn % 3 == 2:
            house.accountant.missed(house.clock.now(), "no answer")
            house.clock.advance(1.0)
        else:
            house.read()
        counters = (
            line for family in families(house.ledger.snapshot()) for line in family.samples if family.type == "counter"
        )
        for line in counters:
            key = (line.name, str(sorted(line.labels.items())))
            assert line.value >= seen.get(key, 0.0), key
            seen[key] = line.value


def test_a_device_without_a_wattmeter_shows_the_mean_of_its_last_interval() -> None:
    """RAPL counts energy only; its first reading says nothing of power."""
    house = House()
    device = Device("cpu", "package-0")
    for mono, microjoules, expected in ((100.0, 0, {}), (101.0, 90_000_000, {("package-0",): 90.0})):
        at = Instant(mono, NOW.wall + mono)
        house.accountant.receive(Sample(at, (Reading(device, at, counter=Counter(microjoules)),)))

        assert expected == values(house.ledger.snapshot(), "wattgram_device_power_watts", "device")


# --- closed sets begin at zero --------------------------------------------------------------------


def test_a_devices_events_begin_at_zero() -> None:
    """Else `increase()` never sees the first."""
    shown = values(House().read(), "wattgram_device_events_total", "component", "event")

    assert {
        (component, event): 0.0 for component in ("gpu", "cpu", "dram") for event in ("reset", "gap", "implausible")
    } == shown


def test_only_events_that_a_meter_can_have_are_announced() -> None:
    """A counter that cannot wrap never shows a wrap."""
    shown = values(House().read(), "wattgram_device_events_total", "event")

    assert ("wrap",) not in shown


def test_throttle_reasons_begin_at_zero() -> None:
    """A closed set like any other: `increase()` must see the first throttled second."""
    shown = values(House().read(), "wattgram_gpu_throttled_seconds_total", "reason")

    assert {("power_cap",): 0.0} == shown


def test_energy_and_unmetered_time_begin_at_zero() -> None:
    """From the first reading, which books nothing."""
    snapshot = House().read()

    assert {0.0} == set(values(snapshot, "wattgram_device_energy_joules_total", "device").values())
    assert {0.0} == set(values(snapshot, "wattgram_device_unmetered_seconds_total", "device").values())


def test_the_accounts_that_joules_flow_through_begin_at_zero() -> None:
    """The pool of each component, before its first joule."""
    shown = values(House().read(), "wattgram_owner_energy_joules_total", "component", "kind", "owner")

    assert {(component, "pool", "unattributed"): 0.0 for component in ("gpu", "cpu", "dram")} == shown


def test_every_basis_that_the_chain_can_give_begins_at_zero() -> None:
    """And `none`, which is always possible."""
    house = House(Rung("em", 7200.0, ("live", "estimated", "held")), Rung("annual", 0.0, ("annual",)))

    shown = values(house.read(), "wattgram_pricing_energy_joules_total", "basis")

    assert {(basis,): 0.0 for basis in ("live", "estimated", "held", "annual", "none")} == shown


def test_every_reason_for_a_providers_failure_begins_at_zero() -> None:
    """But `empty`, which delays and is no failure."""
    snapshot = replace(full(), health=(Health("em", "provider", 300.0),))

    shown = values(snapshot, "wattgram_provider_failures_total", "provider", "reason")

    assert {("em", reason): 0.0 for reason in REASONS if reason != "empty"} == shown


def test_a_providers_failures_are_counted_by_reason() -> None:
    """Two counters, attempts and failures, rather than one with a result."""
    shown = values(full(), "wattgram_provider_failures_total", "reason")

    assert {("rate",): 1.0} == {reason: value for reason, value in shown.items() if value}
    assert {("em",): 2.0} == values(full(), "wattgram_provider_requests_total", "provider")


# --- sources --------------------------------------------------------------------------------------


def sources(*health: Health) -> Snapshot:
    """A snapshot that knows nothing but how sources are doing."""
    return Snapshot(NOW, NOW, "1.2.3", "3.12.0", health=health)


def test_a_source_that_nobody_asked_for_and_never_was_there_is_not_down() -> None:
    """A host without a GPU must not alert for want of a driver."""
    assert {"wattgram_build_info"} == names(sources(Health("nvml", "source", 1.0, up=None, turns=3)))


@pytest.mark.parametrize(("up", "shown"), [(True, 1.0), (False, 0.0)])
def test_a_source_that_was_there_or_asked_for_is_up_or_down(up: bool, shown: float) -> None:  # noqa: FBT001
    """Absent is a third thing."""
    assert {("nvml",): shown} == values(sources(Health("nvml", "source", 1.0, up=up)), "wattgram_source_up", "source")


class Turn:
    """What a poller turns: raises what it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self) -> None:
        if self.error is not None:
            raise self.error


def polled(errors: Iterable[Exception | None], *, up: bool | None = None) -> Snapshot:
    """How a source is told of after such turns."""
    house, turn = House(), Turn()
    poller = Poller(Health("nvml", "source", 1.0, up=up), turn, house.clock, house.ledger.report)
    for turn.error in errors:
        poller.turn()
    return house.ledger.snapshot()


def test_samples_and_failures_are_counted_apart() -> None:
    """Attempts are their sum."""
    snapshot = polled([None, ReadFailed("no answer"), None])

    assert {("nvml",): 2.0} == values(snapshot, "wattgram_source_samples_total", "source")
    assert {("nvml",): 1.0} == values(snapshot, "wattgram_source_failures_total", "source")


def test_a_source_that_is_not_there_gave_no_sample() -> None:
    """Asked for by name, and found missing each time: a sample that never was must not be counted."""
    snapshot = polled([Unavailable("no driver"), Unavailable("no driver")], up=False)

    assert {("nvml",): 0.0} == values(snapshot, "wattgram_source_samples_total", "source")


def test_a_source_that_went_away_is_down() -> None:
    """It was opened once, so its absence is news."""
    assert {("nvml",): 0.0} == values(polled([None, Unavailable("driver unloaded")]), "wattgram_source_up", "source")


def test_a_source_that_came_back_is_up() -> None:
    """Without anybody's doing."""
    snapshot = polled([None, ReadFailed("no answer"), None])

    assert {("nvml",): 1.0} == values(snapshot, "wattgram_source_up", "source")


def test_only_a_source_with_a_process_of_its_own_has_a_childs_cost() -> None:
    """The others cost the daemon, and are in its own."""
    snapshot = sources(
        Health("nvml", "source", 1.0, up=True, child=Cost(1.5, 4096)), Health("rapl", "source", 1.0, up=True)
    )

    assert {("nvml",): 1.5} == values(snapshot, "wattgram_child_cpu_seconds_total", "source")
    assert {("nvml",): 4096.0} == values(snapshot, "wattgram_child_resident_memory_bytes", "source")


# --- sums -----------------------------------------------------------------------------------------


def microjoules(snapshot: Snapshot, name: str) -> int:
    """The sum of a family, each line rounded to the microjoule."""
    return sum(round(line.value * 1e6) for line in lines(snapshot, name))


STEPS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0.1, 2.0)), max_size=20)
CHAIN = (Rung("em", 1.0, ("live", "held")), Rung("annual", 0.0, ("annual",)))


def booked(steps: list[tuple[int, int, float]]) -> Snapshot:
    """Two counters read at such steps, under a price that comes, is held, and gives way to the table's."""
    house = House(*CHAIN)
    assert house.tariff is not None
    live = replace(PRICE, provider="em", start=NOW.wall + 2.0, end=NOW.wall + 4.0, grams_per_kwh=387.123457)
    house.tariff.learn("em", [replace(live, basis="live")], NOW.wall)
    house.tariff.learn("annual", [replace(PRICE, start=NOW.wall + 6.0)], NOW.wall)
    counters = {GPU: 0, CPU: 0}
    for gpu, cpu, seconds in [(0, 0, 0.0), *steps]:
        house.clock.advance(seconds)
        counters[GPU] += gpu
        counters[CPU] += cpu
        at = house.clock.now()
        readings = tuple(Reading(device, at, counter=Counter(value)) for device, value in counters.items())
        house.accountant.receive(Sample(at, readings))
    return house.ledger.snapshot()


@given(STEPS)
def test_owners_and_prices_hold_the_same_joules_as_the_devices(steps: list[tuple[int, int, float]]) -> None:
    """To the microjoule, whatever was used when, under whatever price."""
    snapshot = booked(steps)

    devices = microjoules(snapshot, "wattgram_device_energy_joules_total")

    assert sum(gpu + cpu for gpu, cpu, _ in steps) == devices
    assert devices == microjoules(snapshot, "wattgram_owner_energy_joules_total")
    assert devices == microjoules(snapshot, "wattgram_pricing_energy_joules_total")


@given(STEPS)
def test_owners_and_prices_hold_the_same_grams_as_the_devices(steps: list[tuple[int, int, float]]) -> None:
    """Exact in the ledger, to float precision in the exposition."""
    snapshot = booked(steps)

    devices, owners, prices = (math.fsum(line.value for line in lines(snapshot, name)) for name in GRAM_FAMILIES)

    assert math.isclose(devices, owners, rel_tol=1e-12)
    assert math.isclose(devices, prices, rel_tol=1e-12)


@given(STEPS)
def test_unpriced_joules_carry_no_grams(steps: list[tuple[int, int, float]]) -> None:
    """And no joule is both."""
    shown = values(booked(steps), "wattgram_pricing_emissions_grams_total", "basis")

    assert shown[("none",)] == 0.0


def test_no_device_is_a_total_of_others() -> None:
    """`sum()` over a label must mean something, so there is no row called all."""
    shown = values(House(gpus=2).read(2), "wattgram_device_energy_joules_total", "device")

    assert 6 == len(shown)
    assert set() == {device for (device,) in shown} & {"all", "total", "sum"}
