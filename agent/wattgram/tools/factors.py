"""The bundled tables: yearly intensities of grids with their fallback ladder, and factors of fuels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class YearlyRow:
    """One zone's yearly average. `factor` is lifecycle or direct, `boundary` production or consumption."""

    zone: str
    name: str
    grams_per_kwh: float
    year: int
    source: str
    licence: str
    factor: str
    boundary: str


@dataclass(frozen=True, slots=True)
class Found:
    """The row that stands for a zone, and the steps of the ladder that led to it; empty: the zone's own row."""

    row: YearlyRow
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """What a mix of fuels emits, and which part of it (0 to 1) that was computed from."""

    grams_per_kwh: float
    covered: float


@cache
def yearly_rows() -> dict[str, YearlyRow]:
    """Return the table by zone."""
    return {
        row["zone"]: YearlyRow(
            row["zone"],
            row["name"],
            float(row["g_co2e_per_kwh"]),
            int(row["year"]),
            row["source"],
            row["licence"],
            row["method"],
            row["basis"],
        )
        for row in _table("grid_intensity_yearly.csv")
    }


@cache
def fallbacks() -> dict[str, tuple[str, str]]:
    """Return, for a zone without a row of its own, the zone that stands in and why."""
    return {row["zone"]: (row["fallback_zone"], row["note"]) for row in _table("zone_fallbacks.csv")}


def _table(name: str) -> Iterator[dict[str, str]]:
    text = files("wattgram").joinpath(f"data/{name}").read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())


def yearly(zone: str, factor: str) -> Found | None:
    """Return the row for a zone, of the asked factor only; None when no step of the ladder has one.

    The ladder: the zone itself, what stands in for it, its parent (US-CAL-CISO, US-CAL, US), the world. Lifecycle
    and direct are never mixed: a row of the other factor is passed over, and the step says so.
    """
    steps: list[str] = []
    for candidate, why in _ladder(zone):
        row = yearly_rows().get(candidate)
        if row is not None and row.factor == factor:
            return Found(row, tuple(steps + ([why] if why else [])))
        if row is not None:
            steps.append(f"{candidate} has only a {row.factor} figure")
    return None


def _ladder(zone: str) -> list[tuple[str, str]]:
    ladder = [(zone, "")]
    stand_in = fallbacks().get(zone)
    if stand_in is not None:
        ladder.append((stand_in[0], f"{stand_in[0]} stands in for {zone} ({stand_in[1]})"))
    parts = zone.split("-")
    for length in range(len(parts) - 1, 0, -1):
        parent = "-".join(parts[:length])
        ladder.append((parent, f"{parent} stands in for {zone} (it contains it)"))
        parent_stand_in = fallbacks().get(parent)
        if parent_stand_in is not None:
            ladder.append((parent_stand_in[0], f"{parent_stand_in[0]} stands in for {zone} ({parent_stand_in[1]})"))
    if zone != "WORLD":
        ladder.append(("WORLD", f"the world's average stands in for {zone}, of which nothing is known"))
    return ladder


@cache
def fuel_factors() -> dict[str, float]:
    """Return lifecycle grams per kWh by fuel."""
    return {row["fuel"]: float(row["g_co2e_per_kwh"]) for row in _table("fuel_factors.csv")}


def mix_intensity(amounts: Mapping[str, float]) -> Mix | None:
    """Return the lifecycle mean of what each fuel generates, in whatever unit, over the fuels that have a factor.

    None when these generate nothing. A negative amount is a plant's own use: it generates 0.
    """
    generated = {fuel: max(amount, 0.0) for fuel, amount in amounts.items()}
    known = {fuel: amount for fuel, amount in generated.items() if fuel in fuel_factors()}
    covered = sum(known.values())
    if covered <= 0:
        return None
    grams = sum(amount * fuel_factors()[fuel] for fuel, amount in known.items())
    return Mix(grams / covered, covered / sum(generated.values()))
