"""Figures for people: in units that fit, one unit for a whole column, and nothing that is there shown as 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

JOULES_PER_KWH, JOULES_PER_WH = 3.6e6, 3600.0
# The least that is shown in a unit, largest unit first. Kilowatt-hours are what bills are written in: they stay long.
ENERGY_UNITS = (
    (1e5 * JOULES_PER_KWH, 1e3 * JOULES_PER_KWH, "MWh"),
    (JOULES_PER_KWH, JOULES_PER_KWH, "kWh"),
    (JOULES_PER_WH, JOULES_PER_WH, "Wh"),
    (0.0, 1.0, "J"),
)
MASS_UNITS = ((1e7, 1e6, "t"), (1000.0, 1000.0, "kg"), (1.0, 1.0, "g"), (0.0, 0.001, "mg"))
KILOWATTS_FROM = 10_000.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The unit and the decimals that a column of figures shares."""

    size: float
    unit: str
    decimals: int

    def figure(self, value: float) -> str:
        """Return a figure without its unit; what is there but too small to be seen is not 0."""
        least = 10.0**-self.decimals
        if 0 < value / self.size < least / 2:
            return f"&lt; {least:.{self.decimals}f}"
        return f"{value / self.size:,.{self.decimals}f}"

    def __call__(self, value: float) -> str:
        """Return a figure with its unit, kept on one line."""
        return f"{self.figure(value)} {self.unit}"


def energy_scale(joules: float, finer: int = 0) -> Scale:
    """Return how joules are shown that are the largest of those that stand together, `finer` for parts of them."""
    return _scale(joules, ENERGY_UNITS, finer)


def mass_scale(grams: float, finer: int = 0) -> Scale:
    """Return how grams are shown that are the largest of those that stand together, `finer` for parts of them."""
    return _scale(grams, MASS_UNITS, finer)


def _scale(largest: float, units: Iterable[tuple[float, float, str]], finer: int) -> Scale:
    size, unit = next((size, unit) for least, size, unit in units if largest >= least)
    return Scale(size, unit, (2 if largest / size < 100 else 1) + finer)  # noqa: PLR2004 - three figures are enough


def watts(value: float) -> tuple[str, str]:
    """Return a power as figure and unit."""
    if value >= KILOWATTS_FROM:
        return f"{value / 1000:,.2f}", "kW"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}", "W"  # noqa: PLR2004


def percent(part: float) -> str:
    """Return a share of one in percent; what is there is not 0."""
    return "&lt; 1 %" if 0 < part < 0.005 else f"{part:.0%}".replace("%", " %")  # noqa: PLR2004


def mebibytes(count: float) -> str:
    """Return bytes as MiB or GiB."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def duration(seconds: float) -> str:
    """Return a length of time in the unit that fits."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
