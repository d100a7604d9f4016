"""Rows become metric families, sorted, with their unit."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

Row = tuple[tuple[str, ...], float]


def gauge(name: str, documentation: str, labels: Iterable[str], rows: Iterable[Row]) -> Metric:
    """Return the gauge of these rows."""
    family = GaugeMetricFamily(name, documentation, labels=tuple(labels), unit=_unit(name))
    for values, number in sorted(rows):
        family.add_metric(values, number)
    return family


def counter(name: str, documentation: str, labels: Iterable[str], rows: Iterable[Row]) -> Metric:
    """Return the counter of these rows; its name ends in `_total`."""
    base = name.removesuffix("_total")
    family = CounterMetricFamily(base, documentation, labels=tuple(labels), unit=_unit(base))
    for values, number in sorted(rows):
        family.add_metric(values, number)
    return family


def info(name: str, documentation: str, rows: Iterable[dict[str, str]]) -> Metric:
    """Return the info of these rows; its name ends in `_info`."""
    base = name.removesuffix("_info")
    family = InfoMetricFamily(base, documentation)
    for row in sorted(rows, key=lambda r: tuple(r.values())):
        family.add_metric((), row)
    return family


def _unit(name: str) -> str:
    """The unit that a name ends in, for `# UNIT`; rates have none that OpenMetrics would accept as a suffix."""
    last = name.rpartition("_")[2]
    return last if last in ("joules", "grams", "watts", "seconds", "bytes", "celsius", "ratio") else ""
