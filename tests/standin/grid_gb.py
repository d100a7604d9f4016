"""The Carbon Intensity API of Great Britain on loopback: half-hours, one mix of fuels, and errors with status 200.

Shapes and figures: National Energy System Operator, Carbon Intensity API, CC-BY-4.0.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import final

from standin.web import Answer, Handler, MoodyServer, Request

SLOT = 1800.0
MIX = {
    "biomass": 12.9,
    "coal": 0,
    "imports": 22.7,
    "gas": 10.2,
    "nuclear": 19.1,
    "other": 0,
    "hydro": 0,
    "solar": 22.5,
    "wind": 12.6,
}
BAD_PATH = {"error": {"code": "400 Bad Request", "message": "Please enter a valid path e.g. /intensity/"}}
_AHEAD = re.compile(r"/intensity/(\d{4}-\d\d-\d\dT\d\d:\d\dZ)/fw24h")


def written(wall: float) -> str:
    """Unix seconds as the API writes them: `2026-08-30T10:00Z`."""
    return f"{datetime.fromtimestamp(wall, timezone.utc):%Y-%m-%dT%H:%MZ}"


@final
class GbApi(MoodyServer):
    """`schedule` gives g/kWh per slot start; what a slot really was is known half an hour after its end."""

    endpoints = ("intensity", "generation")
    quirks = ("empty", "nothing", "outage200", "null", "garbage", "shortened")

    def __init__(self, value: float = 79.0, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self.schedule: Callable[[float], float] = lambda start: value
        self.bias = 5.0  # how much the forecast is above
        self.mix: dict[str, object] = dict(MIX)

    def good(self) -> bytes:
        """The mix of the running slot."""
        return json.dumps({"data": self._mix()}).encode()

    def refused(self, status: int) -> object:
        """Refuse as during the outages of 2023 to 2025."""
        return {"error": {"code": f"{status} Something", "message": "Requested resource not found."}}

    def _answer(self, handler: Handler, request: Request) -> None:
        endpoint = request.path.split("/")[1]
        if self.fails(handler, endpoint):
            return
        ahead = _AHEAD.fullmatch(request.path)
        if request.path == "/generation":
            body: Answer = {"data": self._mix()}
        elif ahead:
            since = datetime.strptime(ahead[1], "%Y-%m-%dT%H:%MZ").replace(tzinfo=timezone.utc).timestamp()
            body = {"data": [self._slot(since + number * SLOT) for number in range(48)]}
        else:
            body = BAD_PATH
        handler.reply_json(200, self._distorted(self.quirk(endpoint), body))

    def _distorted(self, quirk: str, body: Answer) -> Answer:
        if quirk == "shortened":
            return {"data": body["data"][:5]}
        spoilt: dict[str, Answer] = {
            "empty": {"data": []},
            "nothing": {},
            "outage200": {"error": {"code": "500 Internal Server Error", "message": "Requested resource not found."}},
            "null": {"data": [{**self._slot(0.0), "intensity": {"forecast": None, "actual": None}, **_mixed(None)}]},
            "garbage": {"data": [{**self._slot(0.0), "intensity": "low", **_mixed("a lot")}]},
        }
        return spoilt.get(quirk, body)

    def _slot(self, start: float) -> Answer:
        value = self.schedule(start)
        actual = value if start + 2 * SLOT <= self.clock() else None
        figures = {"forecast": value + self.bias, "actual": actual, "index": "low"}
        return {"from": written(start), "to": written(start + SLOT), "intensity": figures}

    def _mix(self) -> Answer:
        start = math.floor(self.clock() / SLOT) * SLOT
        mix = [{"fuel": fuel, "perc": percent} for fuel, percent in self.mix.items()]
        return {"from": written(start), "to": written(start + SLOT), "generationmix": mix}


def _mixed(percent: object) -> Answer:
    return {"generationmix": [{"fuel": "gas", "perc": percent}]}
