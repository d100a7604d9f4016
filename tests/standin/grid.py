"""Electricity Maps on loopback: answers as documented, or fails in one of the ways real servers do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import final

from standin.web import HTML, Answer, Handler, MoodyServer, Recorder, Request, iso

__all__ = ["TOKEN", "ZONES", "GridApi", "Recorder", "Request", "iso"]

TOKEN = "standin-token-that-must-never-leak"
ENDPOINTS = ("latest", "history", "forecast", "zones")
ZONES: Mapping[str, tuple[str, str]] = {
    "DE": ("Germany", ""),
    "DK-DK2": ("East Denmark", "Denmark"),
    "FR": ("France", ""),
    "GB": ("Great Britain", ""),
    "US-CAL-CISO": ("California ISO", "USA"),
}

_MAX_ROWS = 289  # a day of 5 minutes and one: short test steps must not make megabytes
_GRANULARITIES = {300.0: "5_minutes", 900.0: "15_minutes", 3600.0: "hourly"}
_ODD_VALUES: Mapping[str, object] = {
    "nan": math.nan,
    "negative": -5.0,
    "boolean": True,
    "null": None,
    "garbage_string": "about average",
    "huge": 9999,
}
_NO_TOKEN = "Please provide a valid authentication header."
_BAD_TOKEN = "The provided token is invalid."
_NO_PLAN = "You do not have access to this specific endpoint for this specific zone."


@final
class GridApi(MoodyServer):
    """Electricity Maps v4 with a scripted grid and a scripted mood.

    `value` is constant unless `schedule` gives one per interval start (Unix seconds), every `step` seconds; `lag`
    seconds make `latest` answer an older interval.
    """

    endpoints = ENDPOINTS
    # Only for a caller who would have got a good answer.
    quirks = ("plan401", "empty", "wrong_zone", "missing_field", "string", "array", *_ODD_VALUES)

    def __init__(self, value: float = 75.0, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self.token = TOKEN
        self.value = value
        self.schedule: Callable[[float], float] | None = None
        self.forecast: Callable[[float], float] | None = None  # None: the forecast is right
        self.step = 3600.0
        self.lag = 0.0
        self.estimated = False
        self.estimation_method: str | None = None
        self.access: tuple[str, ...] = ("latest", "history", "forecast")
        self.caller_zone = "US-CAL-CISO"  # where the API takes a caller who names no zone to be

    # --- the script ---------------------------------------------------------------------------

    def value_at(self, wall: float) -> float:
        """The grid's g/kWh in the interval that starts at `wall`."""
        return self.value if self.schedule is None else self.schedule(wall)

    def start_of(self, wall: float) -> float:
        """The start of the interval that runs at `wall`, both Unix seconds."""
        return math.floor(wall / self.step) * self.step

    # --- answering ----------------------------------------------------------------------------

    def _answer(self, handler: Handler, request: Request) -> None:
        endpoint = request.path.rpartition("/")[2]
        known = {f"/v4/carbon-intensity/{name}" for name in ENDPOINTS[:3]} | {"/v4/zones"}
        if request.method != "GET" or request.path not in known:
            handler.reply(404, HTML, "text/html")
        elif self.fails(handler, endpoint):
            pass
        elif endpoint == "zones":
            handler.reply_json(200, self._zones(request.headers.get("auth-token") == self.token))
        else:
            handler.reply_json(*self._judged(endpoint, self.quirk(endpoint), request))

    def good(self) -> bytes:
        """France, now."""
        return json.dumps(self._latest("FR", {})).encode()

    def refused(self, status: int) -> object:
        """Refuse; 401 is a bad token."""
        return {"error": "Invalid auth-token", "message": _BAD_TOKEN} if status == 401 else super().refused(status)

    def _zones(self, known_caller: bool) -> Answer:  # noqa: FBT001
        access = {"access": [f"carbon-intensity/{name}" for name in self.access]} if known_caller else {}
        return {
            key: {"zoneName": name, "zoneKey": key, **({"countryName": country} if country else {}), **access}
            for key, (name, country) in ZONES.items()
        }

    def _judged(self, endpoint: str, mode: str, request: Request) -> tuple[int, object]:
        zone = self._zone(request.query)
        refusal = _bad_request(zone, request.query) or self._unauthorised(endpoint, mode, zone or "", request.headers)
        if refusal or zone is None:
            return refusal or (400, {})
        if mode == "empty" or (self.estimated and request.query.get("disableEstimations") == "true"):
            return 404, {"status": "error", "message": f'No recent data for zone "{zone}"'}
        return 200, self._distorted(mode, getattr(self, f"_{endpoint}")(zone, request.query))

    def _zone(self, query: Mapping[str, str]) -> str | None:
        """None: the caller named no place and forbade guessing it."""
        named = query.get("zone") or query.get("zoneKey")
        if named is None and query.get("disableCallerLookup") == "true":
            return None
        return named or self.caller_zone

    def _unauthorised(
        self, endpoint: str, mode: str, zone: str, headers: Mapping[str, str]
    ) -> tuple[int, Answer] | None:
        token = headers.get("auth-token")
        if token != self.token:
            return 401, {"error": "Invalid auth-token", "message": _BAD_TOKEN if token else _NO_TOKEN}
        if mode == "plan401" or endpoint not in self.access:
            error = f"Request unauthorized for zoneKey={zone},requestType={endpoint},dataType=carbon-intensity."
            return 401, {"error": error, "message": _NO_PLAN}
        return None

    def _latest(self, zone: str, query: Mapping[str, str]) -> Answer:
        row = self._row(zone, query, self.start_of(self.clock() - self.lag))
        return {**row, "flowTraced": query.get("flowTraced") != "false", "temporalGranularity": self._granularity}

    def _history(self, zone: str, query: Mapping[str, str]) -> Answer:
        newest = self.start_of(self.clock() - self.lag)
        rows = [self._row(zone, query, newest - back * self.step) for back in reversed(range(self._rows(24)))]
        return {"zone": zone, "history": rows, "temporalGranularity": self._granularity}

    def _forecast(self, zone: str, query: Mapping[str, str]) -> Answer:
        first = self.start_of(self.clock())
        says = self.forecast or self.value_at
        starts = [first + ahead * self.step for ahead in range(self._rows(int(query.get("horizonHours", "24"))) + 1)]
        rows = [{"carbonIntensity": says(start), "datetime": iso(start)} for start in starts]
        return {"zone": zone, "forecast": rows, "updatedAt": iso(first), "temporalGranularity": self._granularity}

    def _row(self, zone: str, query: Mapping[str, str], start: float) -> Answer:
        return {
            "zone": zone,
            "carbonIntensity": self.value_at(start),
            "datetime": iso(start),
            "updatedAt": iso(start),
            "createdAt": iso(start - 3 * 86_400),
            "emissionFactorType": query.get("emissionFactorType", "lifecycle"),
            "isEstimated": self.estimated,
            "estimationMethod": self.estimation_method,
        }

    @property
    def _granularity(self) -> str:
        return _GRANULARITIES.get(self.step, f"test_{self.step:g}s")

    def _rows(self, hours: int) -> int:
        return max(1, min(_MAX_ROWS, round(hours * 3600 / self.step)))

    def _distorted(self, mode: str, answer: Answer) -> object:
        if mode == "wrong_zone":
            return _with_rows(answer, lambda row: {**row, "zone": "GB" if row["zone"] != "GB" else "FR"}, field="zone")
        if mode == "missing_field":
            return _with_rows(answer, lambda row: {k: v for k, v in row.items() if k != "carbonIntensity"})
        if mode == "string":
            return _with_rows(answer, lambda row: {**row, "carbonIntensity": str(row["carbonIntensity"])})
        if mode in _ODD_VALUES:
            return _with_rows(answer, lambda row: {**row, "carbonIntensity": _ODD_VALUES[mode]})
        return [answer] if mode == "array" else answer


def _with_rows(answer: Answer, change: Callable[[Answer], Answer], field: str = "carbonIntensity") -> Answer:
    """Change whatever has the field: the object itself, and its rows."""
    lists = {key: [change(row) if field in row else row for row in v] for key, v in answer.items() if type(v) is list}
    return change({**answer, **lists}) if field in answer else {**answer, **lists}


def _bad_request(zone: str | None, query: Mapping[str, str]) -> tuple[int, Answer] | None:
    """Whatever is judged before the token is."""
    if zone is None:
        message = "No zone was given and caller lookup is disabled."
    elif zone not in ZONES:
        message = f"Zone '{zone}' does not exist."
    elif query.get("emissionFactorType", "lifecycle") not in {"lifecycle", "direct"}:
        message = "Invalid emissionFactorType."
    elif query.get("temporalGranularity", "hourly") not in _GRANULARITIES.values():
        message = "Invalid temporalGranularity."
    elif query.get("horizonHours", "24") not in {"6", "24", "48", "72"}:
        message = "Invalid horizonHours."
    else:
        return None
    return 400, {"status": "error", "message": message}
