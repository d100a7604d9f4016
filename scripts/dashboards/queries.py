"""The queries that several dashboards share, and the sentences about their errors."""

from __future__ import annotations

from scripts.dashboards.parts import WHAT, WHERE

KWH, KG = "/ 3.6e6", "/ 1000"
# What is said of every figure that comes from these.
METERED = (
    "The error is the sensor's: about ±5 % for data-centre GPUs from Turing on except GA100, elsewhere "
    "not established; "
    "our own arithmetic adds less than 0.2 %. What was not metered is missing here and counted in seconds in "
    "*Health of the meter*."
)
COURSE = (
    "After a hole that a counter bridged, all that was used meanwhile stands in one peak: true energy, no true power."
)
INCREASED = (
    "increase() over the time shown: it misses up to one scrape at a restart of wattgram and rounds at the edges, "
    "so it differs from the ledger by about a scrape."
)
GRAMS = (
    "Every joule at the intensity the grid had when it was used: location-based, average, CO₂-equivalent, without PUE "
    "and without embodied carbon. Joules without a known price are not in it."
)
OWNED = (
    "Owner accounts add up to the devices, pools included. The division into active and idle is a model; where "
    "several shared a device the division between them is one too (quality apportioned)."
)
LIFE = (
    "A whole life: the last value of its own account (max_over_time); where wattgram restarted meanwhile, what was "
    "counted before and after, less what was used around the restart (about a scrape)."
)
SYNTHETIC = "nothing metered; invented hardware? choose quality: synthetic"

ENERGY = f"wattgram_device_energy_joules_total{{{WHAT}}}"
EMISSIONS = f"wattgram_device_emissions_grams_total{{{WHAT}}}"
OWNER = f"wattgram_owner_energy_joules_total{{{WHAT}}}"
OWNER_GRAMS = f"wattgram_owner_emissions_grams_total{{{WHAT}}}"
SERVER = "job, instance"


def rate(series: str, *by: str) -> str:
    """The sum of rates, by labels."""
    return f"sum{_by(by)} (rate({series}[$__rate_interval]))"


def gained(series: str, *by: str) -> str:
    """What was added in the time shown, by labels."""
    return f"sum{_by(by)} (increase({series}[$__range]))"


def owner(*matchers: str, grams: bool = False) -> str:
    """The owners' accounts, some of them."""
    name = "wattgram_owner_emissions_grams_total" if grams else "wattgram_owner_energy_joules_total"
    return f"{name}{{{','.join((WHAT, *matchers))}}}"


def largest(expr: str, by: str, series: str, count: int = 10) -> str:
    """Only the largest over the time shown: the same ones at every moment of it."""
    return f"{expr} and topk({count}, sum by ({by}) (increase({series}[$__range] @ end())))"


def price_now(where: str = WHERE) -> str:
    """The price of a joule, by zone: servers of a zone agree but for the moment at which each asked."""
    return f"avg by (grid_zone) (wattgram_pricing_intensity_grams_per_kwh{{{where}}})"


def life(series: str, *by: str) -> str:
    """What counters that begin with something and vanish after it came to, restarts of the daemon included."""
    whole = f"max_over_time({series}[$__range])"
    pieces = f"increase({series}[$__range]) + min_over_time({series}[$__range])"
    return f"sum{_by(by)} (({pieces} and resets({series}[$__range]) > 0) or {whole})"


# Recorded once a minute, without invented hardware: cheap over weeks. deploy/prometheus/wattgram.rules.yml.
RECORDED = "Prometheus has not taken up deploy/prometheus/wattgram.rules.yml"
POWER = f"instance_component:wattgram_device_energy_joules:rate5m{{{WHERE}}}"
PACE = f"instance_component:wattgram_device_emissions_grams:rate5m{{{WHERE}}}"
OWNER_POWER = f"instance_owner_activity:wattgram_owner_energy_joules:rate5m{{{WHERE}}}"
OWNER_PACE = f"instance_owner_activity:wattgram_owner_emissions_grams:rate5m{{{WHERE}}}"


def summed(series: str, *by: str) -> str:
    """What a power, recorded once a minute, came to in the time shown; a minute without a record counts nothing."""
    return f"sum{_by(by)} (sum_over_time({series}[$__range])) * 60"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
