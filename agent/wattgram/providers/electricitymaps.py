"""Electricity Maps, API version 4: the newest value for a zone, and hourly what it was and will be.

The newest value decides whether a turn succeeds. The day behind and the day ahead are asked for once an hour at most,
and only of a server that has just answered twice in a row: a daemon that restarts in a circle, or an API that limps,
gets one question per turn. With a fetch every five minutes that is at most 14 requests an hour.

Data: Electricity Maps, proprietary, attribution required ("Electricity Maps", with a link); a free plan is for
non-commercial use. Yearly averages of theirs are not used here.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, Any

from wattgram.model import Intensity
from wattgram.ports import Clock, Place, ReadFailed, Secret, TokenOptions, Traits
from wattgram.tools.replies import (
    basis_at,
    expect_list,
    expect_object,
    parse_grams,
    parse_time,
    printable,
    refusal,
)

if TYPE_CHECKING:
    from wattgram.tools.fetch import Fetcher, Reply

TRAITS = Traits(
    every=300.0,
    hold=7200.0,
    bases=("live", "estimated", "forecast", "held"),
    needs_token=True,
    token_help="get a token at https://portal.electricitymaps.com and name its file: "  # noqa: S106 - where, not what
    '[carbon.electricitymaps] token_file = "FILE"',
)

STEP_SECONDS = {"hourly": 3600.0, "15_minutes": 900.0, "5_minutes": 300.0}
SANDBOX = "SANDBOX"
EXTRA_SECONDS = 3600.0
# Where a list of rows is: it depends on the version and on the endpoint.
LISTS = ("data", "history", "forecast")
MOST_NEAR = 3

log = logging.getLogger("wattgram")


@dataclass(frozen=True, kw_only=True)
class Options(TokenOptions):
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
        self._base = f"{base_url.rstrip('/')}/v4"
        self._place = place
        self._secret = secret
        self._clock = clock
        self._fetcher = fetcher
        self._extras = (_Extra("forecast"), _Extra("history"))
        self._answered = False
        self._zones: tuple[str, ...] | None = None

    def fetch(self) -> Sequence[Intensity]:
        """Return the newest value, with the day behind and the day ahead when their hour has come, oldest first.

        Raise ReadFailed when there is no newest value; an extra that fails is logged, when that changes.
        """
        twice, self._answered = self._answered, False
        headers = {"auth-token": self._secret.reveal()} if self._secret else {}
        latest = self._latest(headers)
        self._answered = True
        extras = [i for extra in self._extras for i in self._extra(extra, headers)] if twice else []
        # Of several words on the same interval the last is the best: forecast, history, newest value.
        by_start = {i.start: i for i in (*extras, latest)}
        return [by_start[start] for start in sorted(by_start)]

    def requests(self) -> int:
        """Return how many requests were sent so far."""
        return self._fetcher.requests

    def close(self) -> None:
        """Close kept connections."""
        self._fetcher.close()

    def _latest(self, headers: Mapping[str, str]) -> Intensity:
        try:
            body = self._ask("latest", headers)
        except ReadFailed as failure:
            near = self._near() if failure.reason == "zone" else ()
            if not near:
                raise
            raise ReadFailed(f"{failure}; near it: {', '.join(near)}", "zone") from failure
        return parse_latest(body, self._place, self._clock.now().wall)

    def _extra(self, extra: _Extra, headers: Mapping[str, str]) -> Sequence[Intensity]:
        if not extra.is_due(self._clock.now().mono):
            return ()
        try:
            body = self._ask(extra.name, headers)
            rows = parse_rows(body, self._place, self._clock.now().wall, extra.name)
        except ReadFailed as failure:
            extra.failed(failure)
            return ()
        extra.answered()
        return rows

    def _ask(self, name: str, headers: Mapping[str, str]) -> Any:
        # Without a zone the API would geolocate the caller: a typo must fail instead.
        params = {
            "zone": self._place.zone,
            "emissionFactorType": self._place.factor,
            "disableCallerLookup": "true",
        }
        reply = self._fetcher.get(f"{self._base}/carbon-intensity/{name}", params, headers)
        refused = refused_by(reply, self._clock.now().wall)
        if refused is not None:
            raise refused
        return reply.json()

    def _near(self) -> Sequence[str]:
        """The zones that may have been meant; the list of all is asked for once, and needs no token."""
        if self._zones is None:
            self._zones = ()
            try:
                reply = self._fetcher.get(f"{self._base}/zones", {}, {})
                self._zones = () if refusal(reply, 0.0) else tuple(expect_object(reply.json(), "zones"))
            except ReadFailed:
                log.info("electricitymaps: which zones are near %s is not known", self._place.zone)
        return near(self._place.zone, self._zones)


class _Extra:
    """Something that is nice to have: asked for once an hour at most, and never again once the plan refused it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._due = -math.inf
        self._said = ""

    def is_due(self, now: float) -> bool:
        """Whether it is to be asked for at this monotonic time; then it is, and not again for an hour."""
        due = now >= self._due
        if due:
            self._due = now + EXTRA_SECONDS
        return due

    def failed(self, failure: ReadFailed) -> None:
        """Note that there was none."""
        if failure.reason == "plan":
            self._due = math.inf
            log.warning("electricitymaps: no %s, which is not asked for any more: %s", self.name, failure)
        elif failure.reason != self._said:  # the words may hold a piece of the answer, and differ each time
            log.info("electricitymaps: no %s: %s; asked again in an hour", self.name, failure)
        self._said = failure.reason

    def answered(self) -> None:
        """Note that it came."""
        if self._said:
            log.info("electricitymaps: %s is there again", self.name)
        self._said = ""


def near(zone: str, known: Iterable[str]) -> Sequence[str]:
    """Return at most three known zones that may have been meant: parts of the asked one, then similar names."""
    names = sorted(printable(name, 30) for name in known)
    parts = [name for name in names if name.startswith(f"{zone}-")]
    return tuple(dict.fromkeys([*parts, *difflib.get_close_matches(zone, names, MOST_NEAR)]))[:MOST_NEAR]


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
    row = expect_object(body, where)
    if row.get("status") == "no-data":
        raise ReadFailed(f"{where}: no data", "empty")
    return _intensity(row, place, now, where)


def parse_rows(body: Any, place: Place, now: float, name: str) -> Sequence[Intensity]:
    """Return the intensities of a `history` or `forecast` reply, oldest first; rows without a value are left out.

    How long each is for is told by the step between rows. Raise ReadFailed, also when it is for another zone.
    """
    where = f"Electricity Maps, {name}"
    outer = expect_object(body, where)
    listed = next((outer[key] for key in LISTS if key in outer), None)
    common = {key: value for key, value in outer.items() if key not in LISTS}
    found = {}
    for row in (expect_object(part, where) for part in expect_list(listed, where)):
        if row.get("carbonIntensity") is not None:
            intensity = _intensity({**common, **row}, place, now, where)
            found[intensity.start] = intensity
    if not found:
        raise ReadFailed(f"{where}: no value yet", "empty")
    starts = sorted(found)
    step = _step(starts, found[starts[0]].end - starts[0])
    rows = [replace(found[start], end=start + step) for start in starts]
    return [replace(row, basis="forecast") for row in rows] if name == "forecast" else rows


def _intensity(row: Mapping[str, Any], place: Place, now: float, where: str) -> Intensity:
    zone, factor = row.get("zone"), row.get("emissionFactorType", place.factor)
    if zone != place.zone:
        raise ReadFailed(f"{where}: asked for zone {place.zone}, answered for {str(zone)[:40]!r}", "zone")
    if factor != place.factor:
        raise ReadFailed(f"{where}: asked for {place.factor} factors, answered with {str(factor)[:40]!r}", "shape")
    if str(row.get("estimationMethod")).startswith(SANDBOX):
        raise ReadFailed(f"{where}: this token gives sandbox data, which are random numbers", "plan")
    if "carbonIntensity" not in row:
        raise ReadFailed(f"{where}: no carbonIntensity", "shape")
    start = parse_time(row.get("datetime"), f"{where}, datetime")
    published = row.get("updatedAt")
    return Intensity(
        zone=place.zone,
        provider="electricitymaps",
        start=start,
        end=start + STEP_SECONDS.get(str(row.get("temporalGranularity")), STEP_SECONDS["hourly"]),
        grams_per_kwh=parse_grams(row["carbonIntensity"], f"{where}, carbonIntensity"),
        basis=basis_at(start, now, "estimated" if row.get("isEstimated") else "live"),
        factor=factor,
        boundary="production" if row.get("flowTraced") is False else "consumption",
        published=parse_time(published, f"{where}, updatedAt") if published else None,
        fetched=now,
        source="Electricity Maps",
    )


def _step(starts: Sequence[float], granularity: float) -> float:
    """Seconds between rows, some of which may be missing; at most what the reply says, or an hour."""
    between = [later - earlier for earlier, later in pairwise(starts)]
    return min(median_low(between), granularity) if between else granularity


def _words(reply: Reply) -> tuple[str, str]:
    """The two places where the API says what is wrong, cut to size; empty for HTML and the like."""
    try:
        body = reply.json()
    except ReadFailed:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return printable(body.get("error", "")), printable(body.get("message", ""))
