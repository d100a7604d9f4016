"""The families that say how the meter itself is doing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from wattgram.model import Health
from wattgram.ports import REASONS
from wattgram.snapshot import Snapshot
from wattgram_exporters.metrics import counter, gauge


def providers(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield how carbon providers are doing."""
    known = [h for h in snapshot.health if h.kind == "provider"]
    yield counter(
        "wattgram_provider_requests_total",
        "Questions put to a carbon provider.",
        ("provider",),
        [((h.name,), h.requests) for h in known],
    )
    yield counter(
        "wattgram_provider_failures_total",
        "Turns that brought no value, by reason; an answer without a value yet is not counted.",
        ("provider", "reason"),
        [((h.name, reason), dict(h.failures).get(reason, 0)) for h in known for reason in REASONS if reason != "empty"],
    )


def sources(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield how sources are doing, and what their own processes use."""
    known = [h for h in snapshot.health if h.kind == "source" and (h.up is not None or h.successes)]
    up = [h for h in known if h.up is not None]  # not those that a reload switched off
    yield gauge(
        "wattgram_source_up",
        "Whether the source's last reading succeeded.",
        ("source",),
        [((h.name,), float(bool(h.up))) for h in up],
    )
    counters = (
        ("samples_total", "Samples that a source gave.", lambda h: h.successes),
        ("failures_total", "Readings that gave nothing.", _failures),
        ("read_seconds_total", "Time spent reading.", lambda h: h.seconds),
    )
    for suffix, documentation, number in counters:
        yield counter(f"wattgram_source_{suffix}", documentation, ("source",), [((h.name,), number(h)) for h in known])
    yield gauge(
        "wattgram_source_last_success_timestamp_seconds",
        "When the source last gave a sample.",
        ("source",),
        [((h.name,), h.last_success.wall) for h in up if h.last_success is not None],
    )
    children = [(h.name, h.child) for h in known if h.child is not None]
    yield counter(
        "wattgram_child_cpu_seconds_total",
        "Processor time of sources that run in a process of their own.",
        ("source",),
        [((name,), cost.cpu_seconds) for name, cost in children],
    )
    yield gauge(
        "wattgram_child_resident_memory_bytes",
        "Memory of sources that run in a process of their own.",
        ("source",),
        [((name,), cost.resident_bytes) for name, cost in children],
    )


def _failures(health: Health) -> int:
    return sum(count for _, count in health.failures)


def process(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what the daemon itself uses."""
    cost = snapshot.cost
    if cost is None:
        return
    yield counter("process_cpu_seconds_total", "Processor time of the daemon itself.", (), [((), cost.cpu_seconds)])
    gauges = (
        ("resident_memory_bytes", "Resident memory of the daemon itself.", cost.resident_bytes),
        ("virtual_memory_bytes", "Virtual memory of the daemon itself.", cost.virtual_bytes),
        ("start_time_seconds", "When the daemon started, Unix seconds.", cost.start_time),
        ("open_fds", "Open file descriptors.", cost.open_fds),
        ("max_fds", "Most file descriptors it may open.", cost.max_fds),
    )
    for suffix, documentation, value in gauges:
        yield gauge(f"process_{suffix}", documentation, (), [((), value)])
