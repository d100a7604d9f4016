"""Great Britain by its system operator, without a key: half-hours with a forecast, or the mix of fuels now.

The operator's own figures are direct: what leaves the stack, imports and losses counted, nuclear and wind 0. A
lifecycle figure is computed here from the mix it publishes and the bundled factors of fuels. Imports have no factor
that would be true of every cable, so they are left out, as is `other`: the boundary is production, as if a kWh from
abroad were like one from at home. Northern Ireland belongs to another grid.

Data: National Energy System Operator, Carbon Intensity API, CC-BY-4.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from wattgram.model import Intensity
from wattgram.ports import Clock, NetworkOptions, Place, ReadFailed, Secret, Traits
from wattgram.tools.factors import mix_intensity
from wattgram.tools.replies import (
    basis_at,
    expect_list,
    expect_object,
    parse_grams,
    parse_number,
    parse_time,
    printable,
    refusal,
    refused,
)

if TYPE_CHECKING:
    from wattgram.tools.fetch import Fetcher, Reply

ZONE = "GB"
TRAITS = Traits(every=600.0, hold=7200.0, bases=("live", "estimated", "forecast", "held"), zones=(ZONE,))

SLOT_SECONDS = 1800.0
LONGEST_SECONDS = 3600.0
# What a slot really was is known half an hour after its end, at times later.
BACK_SECONDS = 7200.0
WHOLE_PERCENT = (95.0, 105.0)
LEAST_COVERED = 0.5
DIRECT = "NESO Carbon Intensity API, CC-BY-4.0"
LIFECYCLE = f"{DIRECT}: generation mix without imports, times lifecycle factors of IPCC AR5"


@dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """It has no key."""

    base_url: str = "https://api.carbonintensity.org.uk"


def open_provider(options: Options, place: Place, secret: Secret | None, clock: Clock) -> GreatBritain:
    """Return the provider; no credential is ever sent."""
    del secret
    # Imported here: a chain that never asks anybody does not carry an HTTP client.
    from wattgram.tools.fetch import Fetcher  # noqa: PLC0415

    fetcher = Fetcher(options.timeout, wall=lambda: clock.now().wall)
    return GreatBritain(options.base_url, place.factor, clock, fetcher)


class GreatBritain:
    """One grid's voice, in one request per turn."""

    def __init__(self, base_url: str, factor: str, clock: Clock, fetcher: Fetcher) -> None:
        self._base = base_url.rstrip("/")
        self._factor = factor
        self._clock = clock
        self._fetcher = fetcher

    def fetch(self) -> Sequence[Intensity]:
        """Return the slots from two hours ago to a day ahead, or the slot whose mix is known; raise ReadFailed."""
        direct = self._factor == "direct"
        now = self._clock.now().wall
        path = f"intensity/{_written(now - BACK_SECONDS)}/fw24h" if direct else "generation"
        reply = self._fetcher.get(f"{self._base}/{path}", {}, {})
        now = self._clock.now().wall
        failure = refused_by(reply, now)
        if failure is not None:
            raise failure
        return parse_intensities(reply.json(), now) if direct else parse_generation(reply.json(), now)

    def requests(self) -> int:
        """Return how many requests were sent so far."""
        return self._fetcher.requests

    def close(self) -> None:
        """Close kept connections."""
        self._fetcher.close()


def refused_by(reply: Reply, now: float) -> ReadFailed | None:
    """Return what an error means here, None when there is none: an unknown path is answered with 200 and an error."""
    try:
        body = reply.json()
    except ReadFailed:
        return refusal(reply, now)
    error = body.get("error") if isinstance(body, dict) else None
    if not error:
        return refusal(reply, now)
    told = error if isinstance(error, dict) else {"message": error}
    code, message = printable(told.get("code", "")), printable(told.get("message", ""))
    status = int(code[:3]) if reply.status == 200 and code[:3].isdecimal() else reply.status  # noqa: PLR2004
    return refused(status, f"NESO, HTTP {reply.status}: {code} {message}".strip(), reply.retry_after(now))


def parse_intensities(body: Any, now: float) -> tuple[Intensity, ...]:
    """Return what an `intensity` reply says, direct, oldest first; raise ReadFailed, `empty` when there is no figure.

    What was measured is live; the operator's own estimate for a slot that has begun is estimated; one for a slot still
    to come is a forecast.
    """
    found = []
    for slot in slots_of(body):
        start, end = _interval(slot)
        figures = expect_object(slot.get("intensity"), "NESO, intensity")
        measured = figures.get("actual") is not None
        value = figures.get("actual" if measured else "forecast")
        if value is None:
            continue
        basis = basis_at(start, now, "live" if measured else "estimated")
        grams = parse_grams(value, "NESO, intensity")
        found.append(_intensity((start, end), now, grams, basis, "direct"))
    return _in_order(found)


def parse_generation(body: Any, now: float) -> tuple[Intensity, ...]:
    """Return what the mix of a `generation` reply means, lifecycle, without imports; raise ReadFailed.

    It is computed, not published: estimated. A mix of which less than half has a factor says nothing of the whole.
    """
    found = []
    for slot in slots_of(body):
        mix = mix_intensity(parse_mix(slot))
        if mix is None:
            continue
        if mix.covered < LEAST_COVERED:
            raise ReadFailed(f"NESO, generation: only {mix.covered:.0%} of the mix has a factor", "shape")
        start, end = _interval(slot)
        grams = parse_grams(mix.grams_per_kwh, "NESO, generationmix")
        found.append(_intensity((start, end), now, grams, basis_at(start, now, "estimated"), "lifecycle"))
    return _in_order(found)


def parse_mix(slot: dict[str, Any]) -> dict[str, float]:
    """Return per cent by fuel, imports included; raise ReadFailed where they do not add up to a whole.

    `empty` when none of them is known yet.
    """
    where = "NESO, generationmix"
    mix: dict[str, float] = {}
    for row in (expect_object(part, where) for part in expect_list(slot.get("generationmix"), where)):
        percent = parse_number(row.get("perc"), where)
        if percent is not None:
            mix[str(row.get("fuel"))] = percent
    total = sum(mix.values())
    if total == 0:
        raise ReadFailed(f"{where}: no value yet", "empty")
    if not WHOLE_PERCENT[0] <= total <= WHOLE_PERCENT[1]:
        raise ReadFailed(f"{where}: adds up to {total:g} %", "shape")
    return mix


def slots_of(body: Any) -> list[dict[str, Any]]:
    """Return the slots of a reply, whose `data` is a list, or an object where it is one slot or one region's.

    Raise ReadFailed, `empty` when there are none: {} and [] have been seen.
    """
    data = expect_object(body, "NESO").get("data") or []
    slots: list[dict[str, Any]] = []
    for part in data if isinstance(data, list) else [data]:
        inner = expect_object(part, "NESO, data").get("data")
        slots += [part] if inner is None else [expect_object(slot, "NESO, data") for slot in expect_list(inner, "NESO")]
    if not slots:
        raise ReadFailed("NESO: no slots", "empty")
    return slots


def _interval(slot: dict[str, Any]) -> tuple[float, float]:
    start, end = parse_time(slot.get("from"), "NESO, from"), parse_time(slot.get("to"), "NESO, to")
    if not 0 < end - start <= LONGEST_SECONDS:
        raise ReadFailed(f"NESO: a slot of {end - start:g} s", "shape")
    return start, end


def _intensity(interval: tuple[float, float], now: float, grams: float, basis: str, factor: str) -> Intensity:
    direct = factor == "direct"
    return Intensity(
        zone=ZONE,
        provider="gb",
        start=interval[0],
        end=interval[1],
        grams_per_kwh=grams,
        basis=basis,
        factor=factor,
        boundary="consumption" if direct else "production",
        fetched=now,
        source=DIRECT if direct else LIFECYCLE,
    )


def _in_order(found: list[Intensity]) -> tuple[Intensity, ...]:
    if not found:
        raise ReadFailed("NESO: no value yet", "empty")
    return tuple(sorted(found, key=lambda i: i.start))


def _written(wall: float) -> str:
    """A slot's start as the API writes it: `2026-08-30T10:00Z`."""
    start = datetime.fromtimestamp(wall // SLOT_SECONDS * SLOT_SECONDS, timezone.utc)
    return f"{start:%Y-%m-%dT%H:%MZ}"
