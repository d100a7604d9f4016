"""A snapshot becomes metric families: pure, afresh for every snapshot.

Four reading rules hold for whoever adds a family. A `_joules_total` or `_grams_total` may be summed over any of its
labels. Device, owner and pricing count the same joules: no two are added. What is unknown is absent. A gauge whose
reading is older than three intervals is gone, a counter never is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from wattgram.model import Health, Intensity, grams, joules
from wattgram.ports import REASONS
from wattgram.snapshot import DeviceTotals, Snapshot

FRESH_INTERVALS = 3
Row = tuple[tuple[str, ...], float]


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield every family that has something to say, in a fixed order."""
    for group in (
        _house,
        _devices,
        _meters,
        _gpus,
        _owners,
        _pricing,
        _grid,
        _constants,
        _providers,
        _sources,
        _process,
    ):
        for family in group(snapshot):
            if family.samples:
                yield family


def is_fresh(device: DeviceTotals, snapshot: Snapshot) -> bool:
    """Whether a device's newest reading is young enough to be shown."""
    if device.read_at is None:
        return False
    return snapshot.at.mono - device.read_at.mono <= FRESH_INTERVALS * device.every


def _gauge(name: str, documentation: str, labels: Iterable[str], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=tuple(labels), unit=_unit(name))
    for values, number in sorted(rows):
        family.add_metric(values, number)
    return family


def _counter(name: str, documentation: str, labels: Iterable[str], rows: Iterable[Row]) -> Metric:
    base = name.removesuffix("_total")
    family = CounterMetricFamily(base, documentation, labels=tuple(labels), unit=_unit(base))
    for values, number in sorted(rows):
        family.add_metric(values, number)
    return family


def _info(name: str, documentation: str, rows: Iterable[dict[str, str]]) -> Metric:
    base = name.removesuffix("_info")
    family = InfoMetricFamily(base, documentation)
    for row in sorted(rows, key=lambda r: tuple(r.values())):
        family.add_metric((), row)
    return family


def _unit(name: str) -> str:
    """The unit that a name ends in, for `# UNIT`; rates have none that OpenMetrics would accept as a suffix."""
    last = name.rpartition("_")[2]
    return last if last in ("joules", "grams", "watts", "seconds", "bytes", "celsius", "ratio") else ""


def _house(snapshot: Snapshot) -> Iterator[Metric]:
    yield _info(
        "wattgram_build_info",
        "Version of wattgram and of the Python that runs it.",
        [{"version": snapshot.version, "python": snapshot.python}],
    )
    yield _gauge(
        "wattgram_config_last_reload_successful",
        "Whether the configuration was good when it was last read.",
        (),
        [((), float(snapshot.reload.successful))] if snapshot.reload else [],
    )


def _devices(snapshot: Snapshot) -> Iterator[Metric]:
    devices = snapshot.devices
    yield _info(
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
    yield _info(
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
    yield _gauge(
        "wattgram_device_power_watts",
        "Latest power, for display; absent when its reading is older than three intervals.",
        labels,
        [(_device_labels(d), d.watts) for d in devices if d.watts is not None and is_fresh(d, snapshot)],
    )
    yield _counter(
        "wattgram_device_energy_joules_total",
        "Energy since the daemon started. Devices never overlap: they may be summed.",
        labels,
        [(_device_labels(d), joules(d.microjoules)) for d in devices],
    )
    if snapshot.grid is not None:
        yield _counter(
            "wattgram_device_emissions_grams_total",
            "CO2-equivalent of each device's priced energy, each joule at the intensity of its own time. "
            "Location-based, average, without PUE and without embodied carbon.",
            labels,
            [(_device_labels(d), grams(d.carbon)) for d in devices],
        )


def _meters(snapshot: Snapshot) -> Iterator[Metric]:
    """How well each device is metered."""
    devices = snapshot.devices
    yield _counter(
        "wattgram_device_unmetered_seconds_total",
        "Time in which a device should have been metered and was not.",
        ("component", "device"),
        [((d.device.component, d.device.id), d.unmetered_seconds) for d in devices],
    )
    yield _counter(
        "wattgram_device_events_total",
        "Remarkable things that happened to a device's meter; only kinds that its method can have.",
        ("component", "device", "event"),
        [((d.device.component, d.device.id, kind), count) for d in devices for kind, count in d.events],
    )

    yield _gauge(
        "wattgram_device_crosscheck_ratio",
        "What the energy counter showed per integrated power, over the last 5 minutes.",
        ("component", "device"),
        [
            ((d.device.component, d.device.id), d.crosscheck)
            for d in devices
            if d.crosscheck is not None and is_fresh(d, snapshot)
        ],
    )
    yield _gauge(
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
        yield _gauge(
            f"wattgram_gpu_{suffix}",
            documentation,
            ("device",),
            [((gpu,), float(value)) for gpu, state in states if (value := getattr(state, attribute)) is not None],
        )
    yield _counter(
        "wattgram_gpu_throttled_seconds_total",
        "Time below the clocks asked for, by reason. Reasons overlap: do not sum them.",
        ("device", "reason"),
        [((d.device.id, reason), seconds) for d in snapshot.devices for reason, seconds in d.throttled],
    )


def _owners(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ("kind", "owner", "component", "activity", "quality")
    rows = [((k.kind, k.owner, k.component, k.activity, k.quality), totals) for k, totals in snapshot.owners]
    yield _counter(
        "wattgram_owner_energy_joules_total",
        "Energy by owner, pools included: the same joules as the devices', to the microjoule. "
        "The division into active and idle is a model.",
        labels,
        [(values, joules(totals.microjoules)) for values, totals in rows],
    )
    if snapshot.grid is not None:
        yield _counter(
            "wattgram_owner_emissions_grams_total",
            "CO2-equivalent of each owner's priced energy.",
            labels,
            [(values, grams(totals.carbon)) for values, totals in rows],
        )


def _pricing(snapshot: Snapshot) -> Iterator[Metric]:
    grid = snapshot.grid
    price = grid.price if grid else None
    yield _gauge(
        "wattgram_pricing_intensity_grams_per_kwh",
        "The intensity that prices a joule now; absent while joules are unpriced.",
        ("grid_zone",),
        [((price.zone,), price.grams_per_kwh)] if price else [],
    )
    yield _info(
        "wattgram_pricing_info",
        "Where the price of a joule comes from now.",
        [_pricing_info(price)] if price else [],
    )
    labels = ("quality", "basis", "factor")
    rows = [((k.quality, k.basis, k.factor), totals) for k, totals in snapshot.pricing]
    yield _counter(
        "wattgram_pricing_energy_joules_total",
        'The devices\' joules by what is known of their price; basis="none" is unpriced, and stays so.',
        labels,
        [(values, joules(totals.microjoules)) for values, totals in rows],
    )
    if grid is not None:
        yield _counter(
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
    yield _gauge(
        "wattgram_grid_intensity_grams_per_kwh",
        "What a provider says of the grid; not the price of a joule.",
        ("grid_zone", "provider", "signal", "factor", "basis"),
        [((i.zone, i.provider, i.signal, i.factor, i.basis), i.grams_per_kwh) for i in known],
    )
    yield _gauge(
        "wattgram_grid_intensity_timestamp_seconds",
        "Start of the interval that value is for.",
        ("grid_zone", "provider", "signal"),
        [((i.zone, i.provider, i.signal), i.start) for i in known],
    )

    yield _gauge(
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
    yield _gauge(
        "wattgram_pue_ratio",
        "Power usage effectiveness as configured; nothing here is multiplied by it.",
        (),
        [((), constants.pue)] if constants.pue is not None else [],
    )
    yield _gauge(
        "wattgram_market_intensity_grams_per_kwh",
        "Market-based intensity as configured; nothing here is priced with it.",
        (),
        [((), constants.market_grams_per_kwh)] if constants.market_grams_per_kwh is not None else [],
    )
    yield _gauge(
        "wattgram_electricity_price_per_kwh",
        "Price of electricity as configured, in the currency of the label.",
        ("currency",),
        [((constants.currency,), constants.price_per_kwh)] if constants.price_per_kwh is not None else [],
    )


def _providers(snapshot: Snapshot) -> Iterator[Metric]:
    providers = [h for h in snapshot.health if h.kind == "provider"]
    yield _counter(
        "wattgram_provider_requests_total",
        "Questions put to a carbon provider.",
        ("provider",),
        [((h.name,), h.requests) for h in providers],
    )
    yield _counter(
        "wattgram_provider_failures_total",
        "Turns that brought no value, by reason; an answer without a value yet is not counted.",
        ("provider", "reason"),
        [
            ((h.name, reason), dict(h.failures).get(reason, 0))
            for h in providers
            for reason in REASONS
            if reason != "empty"
        ],
    )


def _sources(snapshot: Snapshot) -> Iterator[Metric]:
    known = [h for h in snapshot.health if h.kind == "source" and (h.up is not None or h.successes)]
    sources = [h for h in known if h.up is not None]  # not those that a reload switched off
    yield _gauge(
        "wattgram_source_up",
        "Whether the source's last reading succeeded.",
        ("source",),
        [((h.name,), float(bool(h.up))) for h in sources],
    )
    counters = (
        ("samples_total", "Samples that a source gave.", lambda h: h.successes),
        ("failures_total", "Readings that gave nothing.", _failures),
        ("read_seconds_total", "Time spent reading.", lambda h: h.seconds),
    )
    for suffix, documentation, number in counters:
        yield _counter(f"wattgram_source_{suffix}", documentation, ("source",), [((h.name,), number(h)) for h in known])
    yield _gauge(
        "wattgram_source_last_success_timestamp_seconds",
        "When the source last gave a sample.",
        ("source",),
        [((h.name,), h.last_success.wall) for h in sources if h.last_success is not None],
    )
    children = [(h.name, h.child) for h in known if h.child is not None]
    yield _counter(
        "wattgram_child_cpu_seconds_total",
        "Processor time of sources that run in a process of their own.",
        ("source",),
        [((name,), cost.cpu_seconds) for name, cost in children],
    )
    yield _gauge(
        "wattgram_child_resident_memory_bytes",
        "Memory of sources that run in a process of their own.",
        ("source",),
        [((name,), cost.resident_bytes) for name, cost in children],
    )


def _failures(health: Health) -> int:
    return sum(count for _, count in health.failures)


def _process(snapshot: Snapshot) -> Iterator[Metric]:
    cost = snapshot.cost
    if cost is None:
        return
    yield _counter("process_cpu_seconds_total", "Processor time of the daemon itself.", (), [((), cost.cpu_seconds)])
    gauges = (
        ("resident_memory_bytes", "Resident memory of the daemon itself.", cost.resident_bytes),
        ("virtual_memory_bytes", "Virtual memory of the daemon itself.", cost.virtual_bytes),
        ("start_time_seconds", "When the daemon started, Unix seconds.", cost.start_time),
        ("open_fds", "Open file descriptors.", cost.open_fds),
        ("max_fds", "Most file descriptors it may open.", cost.max_fds),
    )
    for suffix, documentation, value in gauges:
        yield _gauge(f"process_{suffix}", documentation, (), [((), value)])
