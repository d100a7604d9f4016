"""The bundled yearly table: the rung that is always there, and says what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from wattgram.model import Intensity
from wattgram.ports import Clock, Place, ProviderOptions, ReadFailed, Secret, Traits
from wattgram.tools.factors import yearly

TRAITS = Traits(every=86_400.0, hold=0.0, bases=("annual",), network=False)


@dataclass(frozen=True, kw_only=True)
class Options(ProviderOptions):
    """Nothing of its own."""


def open_provider(options: Options, place: Place, secret: Secret | None, clock: Clock) -> AnnualProvider:
    """Return the provider."""
    del options, secret
    return AnnualProvider(place, clock)


class AnnualProvider:
    """A year's average, which hides a daily swing of two to five times on windy and sunny grids."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock

    def fetch(self) -> Sequence[Intensity]:
        """Return the zone's figure of the asked factor, or the ladder's; raise ReadFailed(zone) when there is none."""
        found = yearly(self._place.zone, self._place.factor)
        if found is None:
            raise ReadFailed(f"the yearly table has no {self._place.factor} figure for {self._place.zone}", "zone")
        row = found.row
        intensity = Intensity(
            zone=row.zone,
            provider="annual",
            start=datetime(row.year, 1, 1, tzinfo=timezone.utc).timestamp(),
            end=math.inf,
            grams_per_kwh=row.grams_per_kwh,
            basis="annual",
            factor=row.factor,
            boundary=row.boundary,
            fetched=self._clock.now().wall,
            edition=str(row.year),
            source="; ".join((f"{row.source}, {row.licence}", *found.steps)),
        )
        return (intensity,)

    def close(self) -> None:
        """Hold nothing, let go of nothing."""
