"""Figures as a terminal shows them: one unit for a column, what is unknown a dash, what is there never 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ENERGY_UNITS = ((3.6e9, 3.6e9, "MWh"), (3.6e5, 3.6e6, "kWh"), (36.0, 3600.0, "Wh"), (0.0, 1.0, "J"))
MASS_UNITS = ((1e7, 1e6, "t"), (1e4, 1000.0, "kg"), (1.0, 1.0, "g"), (0.0, 0.001, "mg"))
# From here on digits say nothing more, and would push other columns out.
LARGEST = 1e7
LEAST = 0.001


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit that a column shares: figures are divided by its size."""

    size: float
    name: str

    def figure(self, value: float) -> str:
        """Return a figure without its unit, in three digits or more."""
        return number(value / self.size)


def energy_unit(joules: Iterable[float]) -> Unit:
    """Return the unit for joules that stand together."""
    return _unit(joules, ENERGY_UNITS)


def mass_unit(grams: Iterable[float]) -> Unit:
    """Return the unit for grams that stand together."""
    return _unit(grams, MASS_UNITS)


def _unit(values: Iterable[float], units: tuple[tuple[float, float, str], ...]) -> Unit:
    largest = max(values, default=0.0)
    return next(Unit(size, name) for least, size, name in units if largest >= least)


def number(value: float) -> str:
    """Return a number that is not negative in three digits or more; what is there but too small to be seen is not 0."""
    if value >= LARGEST:
        return f"{value:.2e}"
    if 0 < value < LEAST / 2:
        return f"<{LEAST}"
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 10 else 3}f}"  # noqa: PLR2004 - digits


def watts(value: float) -> str:
    """Return a power in whole watts, small ones in tenths."""
    if value >= LARGEST:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.05 else "<0.1"  # noqa: PLR2004


def percent(part: float, whole: float) -> str:
    """Return a share in percent; what is there is not 0."""
    if whole <= 0:
        return ""
    share = part / whole
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}" if share <= 10 else ">999%"  # noqa: PLR2004 - a rounding


def duration(seconds: float) -> str:
    """Return a length of time in the unit that fits."""
    for size, unit in ((365 * 86_400, "years"), (86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{number(seconds / size) if seconds / size >= 1000 else f'{seconds / size:.1f}'} {unit}"  # noqa: PLR2004
    return f"{seconds:.0f} s"
