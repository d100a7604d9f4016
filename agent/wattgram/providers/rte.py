"""France by its system operator, without a key: quarter-hours, a quarter to three quarters of an hour late.

The published rate is direct: four fuels at the stack, nuclear and renewables 0. A lifecycle figure is computed here
from the same row's megawatts and the bundled factors of fuels. Both are of what mainland France generates, without
imports; what pumps draw is in neither, what they give back is hydro.

Data: RTE, eco2mix, through the ODRE portal, Licence Ouverte 2.0.
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
)

if TYPE_CHECKING:
    from wattgram.tools.fetch import Fetcher, Reply

ZONE = "FR"
TRAITS = Traits(every=900.0, hold=10_800.0, bases=("live", "estimated", "forecast", "held"), zones=(ZONE,))

PATH = "api/explore/v2.1/catalog/datasets/eco2mix-national-tr/records"
STEP_SECONDS = 900.0
# A day's rows begin anew after midnight, local time: what is asked for is a stretch of hours, never a date.
BACK_SECONDS = 6 * 3600.0
ROWS = 24
LONGEST_WAIT = 86_400.0
QUOTA_CODE = 10002
FUELS = {
    "nucleaire": "nuclear",
    "hydraulique": "hydro",
    "eolien": "wind",
    "solaire": "solar",
    "bioenergies": "biomass",
    "gaz": "gas",
    "fioul": "oil",
    "charbon": "coal",
}
DIRECT = "RTE eco2mix (ODRE), Licence Ouverte 2.0"
LIFECYCLE = f"{DIRECT}: generation by fuel, times lifecycle factors of IPCC AR5"


@dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """It has no key; `base_url` may be a mirror's."""

    base_url: str = "https://odre.opendatasoft.com"


def open_provider(options: Options, place: Place, secret: Secret | None, clock: Clock) -> France:
    """Return the provider; no credential is ever sent."""
    del secret
    # Imported here: a chain that never asks anybody does not carry an HTTP client.
    from wattgram.tools.fetch import Fetcher  # noqa: PLC0415

    fetcher = Fetcher(options.timeout, wall=lambda: clock.now().wall)
    return France(options.base_url, place.factor, clock, fetcher)


class France:
    """One grid's voice, in one request per turn."""

    def __init__(self, base_url: str, factor: str, clock: Clock, fetcher: Fetcher) -> None:
        self._url = f"{base_url.rstrip('/')}/{PATH}"
        self._factor = factor
        self._clock = clock
        self._fetcher = fetcher

    def fetch(self) -> Sequence[Intensity]:
        """Return the quarter-hours of the last six hours that have a figure, oldest first; raise ReadFailed."""
        reply = self._fetcher.get(self._url, question(self._clock.now().wall), {})
        now = self._clock.now().wall
        failure = refused_by(reply, now)
        if failure is not None:
            raise failure
        return parse_records(reply.json(), self._factor, now)

    def requests(self) -> int:
        """Return how many requests were sent so far."""
        return self._fetcher.requests

    def close(self) -> None:
        """Close kept connections."""
        self._fetcher.close()


def question(now: float) -> dict[str, str]:
    """Return the query: rows for the rest of today and for tomorrow exist already, without a rate."""
    since = datetime.fromtimestamp(now - BACK_SECONDS, timezone.utc)
    return {
        "select": ",".join(("date_heure", "taux_co2", *FUELS)),
        "where": f"taux_co2 is not null and date_heure >= date'{since:%Y-%m-%dT%H:%M:%SZ}'",
        "order_by": "date_heure desc",
        "limit": str(ROWS),
        "timezone": "UTC",
    }


def refused_by(reply: Reply, now: float) -> ReadFailed | None:
    """Return what a bad status means here: a daily quota names the time at which it begins anew."""
    failure = refusal(reply, now)
    if failure is None or failure.reason != "rate":
        return failure
    try:
        body = expect_object(reply.json(), "ODRE")
    except ReadFailed:
        return failure
    if body.get("errorcode") != QUOTA_CODE and "reset_time" not in body:
        return failure
    text = f"ODRE, HTTP {reply.status}: {printable(body.get('error', ''))}"
    return ReadFailed(text, "quota", _seconds_until(body.get("reset_time"), now) or failure.retry_after)


def parse_records(body: Any, factor: str, now: float) -> tuple[Intensity, ...]:
    """Return the intensities of a reply, oldest first; raise ReadFailed, `empty` when no row has a figure yet."""
    rows = expect_list(expect_object(body, "ODRE").get("results"), "ODRE, results")
    found = [_intensity(expect_object(row, "ODRE, row"), factor, now) for row in rows]
    known = sorted((i for i in found if i is not None), key=lambda i: i.start)
    if not known:
        raise ReadFailed("ODRE: no value yet", "empty")
    return tuple(known)


def lifecycle_grams(row: dict[str, Any]) -> float | None:
    """Return lifecycle grams per kWh of a row's generation; None while a fuel is not known: it is not 0."""
    megawatts = {fuel: parse_number(row.get(column), f"ODRE, {column}") for column, fuel in FUELS.items()}
    known = {fuel: amount for fuel, amount in megawatts.items() if amount is not None}
    mix = mix_intensity(known) if len(known) == len(FUELS) else None
    return mix.grams_per_kwh if mix else None


def _seconds_until(reset: object, now: float) -> float | None:
    """Seconds to wait, a day at most; None: it does not say."""
    try:
        return min(max(parse_time(reset, "ODRE, reset_time") - now, 0.0), LONGEST_WAIT)
    except ReadFailed:
        return None


def _intensity(row: dict[str, Any], factor: str, now: float) -> Intensity | None:
    direct = factor == "direct"
    start = parse_time(row.get("date_heure"), "ODRE, date_heure")
    rate = parse_number(row.get("taux_co2"), "ODRE, taux_co2")
    grams = rate if direct else lifecycle_grams(row)
    if rate is None or grams is None:
        return None
    return Intensity(
        zone=ZONE,
        provider="rte",
        start=start,
        end=start + STEP_SECONDS,
        grams_per_kwh=parse_grams(grams, "ODRE, taux_co2"),
        basis=basis_at(start, now, "live" if direct else "estimated"),
        factor=factor,
        boundary="production",
        fetched=now,
        source=DIRECT if direct else LIFECYCLE,
    )
