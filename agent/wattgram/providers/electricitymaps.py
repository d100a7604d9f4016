"""Electricity Maps, API version 4: the newest value for a zone.

Data: Electricity Maps, proprietary, attribution required ("Electricity Maps", with a link); a free plan is for
non-commercial use. Yearly averages of theirs are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wattgram.model import Intensity
from wattgram.ports import Clock, NetworkOptions, Place, ReadFailed, Secret, Traits
from wattgram.tools.replies import parse_grams, parse_time, refusal

if TYPE_CHECKING:
    from wattgram.tools.fetch import Fetcher, Reply

TRAITS = Traits(
    every=300.0,
    hold=7200.0,
    bases=("live", "estimated", "held"),
    needs_token=True,
    token_help="get a token at https://portal.electricitymaps.com and name its file: "  # noqa: S106 - where, not what
    '[carbon.electricitymaps] token_file = "FILE"',
)

STEP_SECONDS = {"hourly": 3600.0, "15_minutes": 900.0, "5_minutes": 300.0}
SANDBOX = "SANDBOX"


@dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """`base_url` may be a gateway's."""

    base_url: str = "https://api.electricitymaps.com"


def open_provider(options: Options, place: Place, secret: Secret | None, clock: Clock) -> ElectricityMaps:
    """Return the provider; `secret` None: it is asked without a token, and will refuse."""
    # Imported here: a chain that never asks anybody does not carry an HTTP client.
    from wattgram.tools.fetch import Fetcher  # noqa: PLC0415

    fetcher = Fetcher(options.timeout, wall=lambda: clock.now().wall)
    return ElectricityMaps(options.base_url, place, secret, clock, fetcher)


class ElectricityMaps:
    """One zone's voice."""

    def __init__(self, base_url: str, place: Place, secret: Secret | None, clock: Clock, fetcher: Fetcher) -> None:
        self._url = f"{base_url.rstrip('/')}/v4/carbon-intensity/latest"
        self._place = place
        self._secret = secret
        self._clock = clock
        self._fetcher = fetcher

    def fetch(self) -> Sequence[Intensity]:
        """Return the newest value; raise ReadFailed."""
        # Without a zone the API would geolocate the caller: a typo must fail instead.
        params = {
            "zone": self._place.zone,
            "emissionFactorType": self._place.factor,
            "disableCallerLookup": "true",
        }
        headers = {"auth-token": self._secret.reveal()} if self._secret else {}
        reply = self._fetcher.get(self._url, params, headers)
        now = self._clock.now().wall
        refused = refused_by(reply, now)
        if refused is not None:
            raise refused
        return (parse_latest(reply.json(), self._place, now),)

    def close(self) -> None:
        """Close kept connections."""
        self._fetcher.close()


def refused_by(reply: Reply, now: float) -> ReadFailed | None:
    """Return what a bad status means here: 401 is also the answer where a plan does not cover the question."""
    refused = refusal(reply, now)
    if refused is None:
        return None
    error, message = _words(reply)
    text = f"Electricity Maps, HTTP {reply.status}: {error} {message}".strip()
    special: dict[int, Callable[[], ReadFailed]] = {
        400: lambda: ReadFailed(text, "zone" if "Zone" in message else "shape"),
        401: lambda: ReadFailed(text, "plan" if error.startswith("Request unauthorized") else "auth"),
        404: lambda: ReadFailed(text, "empty" if message else "shape"),
    }
    return special[reply.status]() if reply.status in special else refused


def parse_latest(body: Any, place: Place, now: float) -> Intensity:
    """Return the intensity in a `latest` reply; raise ReadFailed, also when it is for another zone than asked."""
    where = "Electricity Maps, latest"
    if not isinstance(body, dict):
        raise ReadFailed(f"{where}: expected an object, got {type(body).__name__}", "shape")
    zone, factor = body.get("zone"), body.get("emissionFactorType", place.factor)
    if zone != place.zone:
        raise ReadFailed(f"{where}: asked for zone {place.zone}, answered for {str(zone)[:40]!r}", "zone")
    if factor != place.factor:
        raise ReadFailed(f"{where}: asked for {place.factor} factors, answered with {str(factor)[:40]!r}", "shape")
    if str(body.get("estimationMethod")).startswith(SANDBOX):
        raise ReadFailed(f"{where}: this token gives sandbox data, which are random numbers", "plan")
    start = parse_time(body.get("datetime"), f"{where}, datetime")
    published = body.get("updatedAt")
    return Intensity(
        zone=place.zone,
        provider="electricitymaps",
        start=start,
        end=start + STEP_SECONDS.get(str(body.get("temporalGranularity")), STEP_SECONDS["hourly"]),
        grams_per_kwh=parse_grams(body.get("carbonIntensity"), f"{where}, carbonIntensity"),
        basis="estimated" if body.get("isEstimated") else "live",
        factor=factor,
        boundary="production" if body.get("flowTraced") is False else "consumption",
        published=parse_time(published, f"{where}, updatedAt") if published else None,
        fetched=now,
        source="Electricity Maps",
    )


def _words(reply: Reply) -> tuple[str, str]:
    """The two places where the API says what is wrong, cut to size; empty for HTML and the like."""
    try:
        body = reply.json()
    except ReadFailed:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return str(body.get("error", ""))[:200], str(body.get("message", ""))[:200]
