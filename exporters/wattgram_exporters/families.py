"""A snapshot becomes metric families: pure, afresh for every snapshot.

Four reading rules hold for whoever adds a family. A `_joules_total` or `_grams_total` may be summed over any of its
labels. Device, owner, workload and pricing count the same joules: no two are added. What is unknown is absent. A gauge
whose reading is older than three intervals is gone; a counter never is, but for a workload's a while after its end.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from wattgram.model import Intensity, grams, joules
from wattgram.snapshot import DeviceTotals, Snapshot
from wattgram_exporters.metrics import counter, gauge, info
from wattgram_exporters.workings import process, providers, sources

FRESH_INTERVALS = 3


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield every family that has something to say, in a fixed order."""
    for group in (
        _house,
        _devices,
        _meters,
        _gpus,
        _owners,
        _workloads,
        _pricing,
        _grid,
        _constants,
        providers,
        sources,
        process,
    ):
        for family in group(snapshot):
            if family.samples:
                yield family


def is_fresh(device: DeviceTotals, snapshot: Snapshot) -> bool:
    """Whether a device's newest reading is young enough to be shown."""
    if device.read_at is None:
        return False
    return snapshot.at.mono - device.read_at.mono <= FRESH_INTERVALS * device.every


def _house(snapshot: Snapshot) -> Iterator[Metric]:
    yield info(
        "wattgram_build_info",
        "Version of wattgram and of the Python that runs it.",
        [{"version": snapshot.version, "python": snapshot.python}],
    )
    yield gauge(
        "wattgram_config_last_reload_successful",
        "Whether the configuration was good when it was last read.",
        (),
        [((), float(snapshot.reload.successful))] if snapshot.reload else [],
    )


def _devices(snapshot: Snapshot) -> Iterator[Metric]:
    devices = snapshot.devices
    yield info(
        "wattgram_device_info",
        "Identity of each device that is metered: what does not change.",
        [
            {
                "component": d.device.component,
                "device": d.device.id,
                "index": d.device.index,
                "model": d.device.name,
                "pci_bus_id": d.device.pci_bus_id,
                "module": d.device.module,
            }
            for d in devices
        ],
    )
    yield info(
        "wattgram_device_meter_info",
        "How each device is metered now; this may change.",
        [
            {
                "component": d.device.component,
                "device": d.device.id,
                "method": d.method,
                "covers": d.device.covers,
                "calibration": d.device.calibration,
                "driver": d.driver,
            }
            for d in devices
        ],
    )
    labels = ("component", "device", "quality")
    yield gauge(
        "wattgram_device_power_watts",
        "Latest power, for display; absent when its reading is older than three intervals.",
        labels,
        [(_device_labels(d), d.watts) for d in devices if d.watts is not None and is_fresh(d, snapshot)],
    )
    yield counter(
        "wattgram_device_energy_joules_total",
        "Energy since the daemon started. Devices never overlap: they may be summed.",
        labels,
        [(_device_labels(d), joules(d.microjoules)) for d in devices],
    )
    if snapshot.grid is not None:
        yield counter(
            "wattgram_device_emissions_grams_total",
            "CO2-equivalent of each device's priced energy, each joule at the intensity of its own time. "
            "Location-based, average, without PUE and without embodied carbon.",
            labels,
            [(_device_labels(d), grams(d.carbon)) for d in devices],
        )


def _meters(snapshot: Snapshot) -> Iterator[Metric]:
    """How well each device is metered."""
    devices = snapshot.devices
    yield counter(
        "wattgram_device_unmetered_seconds_total",
        "Time in which a device should have been metered and was not.",
        ("component", "device"),
        [((d.device.component, d.device.id), d.unmetered_seconds) for d in devices],
    )
    yield counter(
        "wattgram_device_events_total",
        "Remarkable things that happened to a device's meter; only kinds that its method can have.",
        ("component", "device", "event"),
        [((d.device.component, d.device.id, kind), count) for d in devices for kind, count in d.events],
    )

    yield gauge(
        "wattgram_device_crosscheck_ratio",
        "What the energy counter showed per integrated power, over the last 5 minutes.",
        ("component", "device"),
        [
            ((d.device.component, d.device.id), d.crosscheck)
            for d in devices
            if d.crosscheck is not None and is_fresh(d, snapshot)
        ],
    )
    yield gauge(
        "wattgram_device_idle_power_watts",
        "The power it has when nobody uses it, as configured or learnt; absent until it is known.",
        ("component", "device"),
        [((d.device.component, d.device.id), d.idle_watts) for d in devices if d.idle_watts is not None],
    )
    yield gauge(
        "wattgram_device_uncertainty_ratio",
        "Stated 95 % half-width of the energy over 10 s and more, by the method in use; absent if not established.",
        ("component", "device"),
        [
            ((d.device.component, d.device.id), stated)
            for d in devices
            if is_fresh(d, snapshot) and (stated := dict(d.device.uncertainty).get(d.method)) is not None
        ],
    )


def _device_labels(device: DeviceTotals) -> tuple[str, ...]:
    return (device.device.component, device.device.id, device.device.quality)


def _gpus(snapshot: Snapshot) -> Iterator[Metric]:
    states = [
        (d.device.id, d.state)
        for d in snapshot.devices
        if d.device.component == "gpu" and d.state is not None and is_fresh(d, snapshot)
    ]
    gauges = (
        ("utilization_ratio", "Share of the sampling period in which a kernel ran; not occupancy.", "utilization"),
        ("memory_used_bytes", "Memory in use.", "memory_used_bytes"),
        ("memory_total_bytes", "Memory installed.", "memory_total_bytes"),
        ("temperature_celsius", "Core temperature.", "temperature_celsius"),
        ("power_limit_watts", "Power limit in force, the least of all limiters.", "power_limit_watts"),
    )
    for suffix, documentation, attribute in gauges:
        yield gauge(
            f"wattgram_gpu_{suffix}",
            documentation,
            ("device",),
            [((gpu,), float(value)) for gpu, state in states if (value := getattr(state, attribute)) is not None],
        )
    yield counter(
        "wattgram_gpu_throttled_seconds_total",
        "Time below the clocks asked for, by reason. Reasons overlap: do not sum them.",
        ("device", "reason"),
        [((d.device.id, reason), seconds) for d in snapshot.devices for reason, seconds in d.throttled],
    )


def _owners(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ("kind", "owner", "component", "activity", "quality")
    rows = [((k.kind, k.owner, k.component, k.activity, k.quality), totals) for k, totals in snapshot.owners]
    yield counter(
        "wattgram_owner_energy_joules_total",
        "Energy by owner, pools included: the same joules as the devices', to the microjoule. "
        "The division into active and idle is a model.",
        labels,
        [(values, joules(totals.microjoules)) for values, totals in rows],
    )
    if snapshot.grid is not None:
        yield counter(
            "wattgram_owner_emissions_grams_total",
            "CO2-equivalent of each owner's priced energy.",
            labels,
            [(values, grams(totals.carbon)) for values, totals in rows],
        )


def _workloads(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ("kind", "workload", "owner", "component", "device", "activity", "quality")
    rows = [
        ((w.workload.kind, w.workload.id, w.workload.owner, k.component, k.device, k.activity, k.quality), totals)
        for w in snapshot.workloads
        for k, totals in w.parts
    ]
    yield counter(
        "wattgram_workload_energy_joules_total",
        "Energy by workload and device, from its first joule; the last value is its whole life: read max_over_time.",
        labels,
        [(values, joules(totals.microjoules)) for values, totals in rows],
    )
    if snapshot.grid is not None:
        yield counter(
            "wattgram_workload_emissions_grams_total",
            "CO2-equivalent of each workload's priced energy.",
            labels,
            [(values, grams(totals.carbon)) for values, totals in rows],
        )
    yield info(
        "wattgram_workload_info",
        "What else is known of a workload; may be learnt late.",
        [
            {
                "kind": w.workload.kind,
                "workload": w.workload.id,
                "owner": w.workload.owner,
                "name": w.name,
                "account": w.account,
            }
            for w in snapshot.workloads
            if w.name or w.account
        ],
    )
    yield counter(
        "wattgram_workload_overflows_total",
        "Workloads that found no place of their own and are booked to the pool other.",
        (),
        [((), snapshot.overflows)] if snapshot.devices else [],
    )


def _pricing(snapshot: Snapshot) -> Iterator[Metric]:
    grid = snapshot.grid
    price = grid.price if grid else None
    yield gauge(
        "wattgram_pricing_intensity_grams_per_kwh",
        "The intensity that prices a joule now; absent while joules are unpriced.",
        ("grid_zone",),
        [((price.zone,), price.grams_per_kwh)] if price else [],
    )
    yield info(
        "wattgram_pricing_info",
        "Where the price of a joule comes from now.",
        [_pricing_info(price)] if price else [],
    )
    labels = ("quality", "basis", "factor")
    rows = [((k.quality, k.basis, k.factor), totals) for k, totals in snapshot.pricing]
    yield counter(
        "wattgram_pricing_energy_joules_total",
        'The devices\' joules by what is known of their price; basis="none" is unpriced, and stays so.',
        labels,
        [(values, joules(totals.microjoules)) for values, totals in rows],
    )
    if grid is not None:
        yield counter(
            "wattgram_pricing_emissions_grams_total",
            "The devices' grams by how the intensity was known.",
            labels,
            [(values, grams(totals.carbon)) for values, totals in rows],
        )


def _pricing_info(price: Intensity) -> dict[str, str]:
    return {
        "grid_zone": price.zone,
        "provider": price.provider,
        "basis": price.basis,
        "factor": price.factor,
        "boundary": price.boundary,
        "edition": price.edition,
    }


def _grid(snapshot: Snapshot) -> Iterator[Metric]:
    known = snapshot.grid.known if snapshot.grid else ()
    yield gauge(
        "wattgram_grid_intensity_grams_per_kwh",
        "What a provider says of the grid; not the price of a joule.",
        ("grid_zone", "provider", "signal", "factor", "basis"),
        [((i.zone, i.provider, i.signal, i.factor, i.basis), i.grams_per_kwh) for i in known],
    )
    yield gauge(
        "wattgram_grid_intensity_timestamp_seconds",
        "Start of the interval that value is for.",
        ("grid_zone", "provider", "signal"),
        [((i.zone, i.provider, i.signal), i.start) for i in known],
    )

    yield gauge(
        "wattgram_grid_forecast_grams_per_kwh",
        "What a provider foresees for so many whole hours from now.",
        ("grid_zone", "provider", "signal", "factor", "hours_ahead"),
        [
            ((i.zone, i.provider, i.signal, i.factor, f"{hours:02d}"), i.grams_per_kwh)
            for hours, i in (snapshot.grid.ahead if snapshot.grid else ())
        ],
    )


def _constants(snapshot: Snapshot) -> Iterator[Metric]:
    constants = snapshot.constants
    yield gauge(
        "wattgram_pue_ratio",
        "Power usage effectiveness as configured; nothing here is multiplied by it.",
        (),
        [((), constants.pue)] if constants.pue is not None else [],
    )
    yield gauge(
        "wattgram_market_intensity_grams_per_kwh",
        "Market-based intensity as configured; nothing here is priced with it.",
        (),
        [((), constants.market_grams_per_kwh)] if constants.market_grams_per_kwh is not None else [],
    )
    yield gauge(
        "wattgram_electricity_price_per_kwh",
        "Price of electricity as configured, in the currency of the label.",
        ("currency",),
        [((constants.currency,), constants.price_per_kwh)] if constants.price_per_kwh is not None else [],
    )
