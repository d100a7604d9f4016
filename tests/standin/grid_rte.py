"""The ODRE portal with eco2mix on loopback: quarter-hours with a rate and megawatts, nulls for the time to come.

Shapes and figures: RTE, eco2mix, through ODRE, Licence Ouverte 2.0.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import final

from standin.web import Answer, Handler, MoodyServer, Request

PATH = "/api/explore/v2.1/catalog/datasets/eco2mix-national-tr/records"
STEP = 900.0
# 2023-09-21, 00:45 UTC.
ROW: Mapping[str, object] = {
    "bioenergies": 677,
    "charbon": 7,
    "consommation": 35683,
    "eolien": 9077,
    "eolien_terrestre": "8588",
    "fioul": 114,
    "gaz": 446,
    "hydraulique": 3504,
    "nature": "Données temps réel",
    "nucleaire": 34482,
    "perimetre": "France",
    "pompage": -1420,
    "solaire": 0,
    "stockage_batterie": "0",
    "taux_co2": 13,
}
BAD_QUERY = {"error_code": "ODSQLSyntaxError", "message": "ODSQL query is malformed: invalid_filter"}
_SINCE = re.compile(r"taux_co2 is not null and date_heure >= date'([\dT:-]+)Z'")


def written(wall: float) -> str:
    """Unix seconds as the portal writes them with `timezone=UTC`."""
    return f"{datetime.fromtimestamp(wall, timezone.utc):%Y-%m-%dT%H:%M:%S}+00:00"


@final
class RteApi(MoodyServer):
    """`row` is every quarter-hour's content; the newest is `lag` seconds old."""

    endpoints = ("records",)
    quirks = ("empty", "null", "garbage", "quota")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self.row: dict[str, object] = dict(ROW)
        self.lag = 1800.0
        self.reset_time = "2026-09-02T00:00:00Z"

    def good(self) -> bytes:
        """One row."""
        return json.dumps({"total_count": 1, "results": [self._row(self.newest)]}).encode()

    @property
    def newest(self) -> float:
        """The start of the newest quarter-hour with a rate."""
        return math.floor((self.clock() - self.lag) / STEP) * STEP

    def _answer(self, handler: Handler, request: Request) -> None:
        if self.fails(handler, "records"):
            return
        since = _SINCE.fullmatch(request.query.get("where", ""))
        quirk = self.quirk("records")
        if quirk == "quota":
            handler.reply_json(429, self._quota())
        elif request.path != PATH:
            handler.reply_json(404, {"error_code": "DatasetNotFoundError", "message": "The dataset does not exist."})
        elif since is None or request.query.get("order_by") != "date_heure desc":
            handler.reply_json(400, BAD_QUERY)
        else:
            rows = self._rows(datetime.fromisoformat(f"{since[1]}+00:00").timestamp(), request.query)
            handler.reply_json(200, {"total_count": len(rows), "results": _distorted(quirk, rows)})

    def _rows(self, since: float, query: Mapping[str, str]) -> list[Answer]:
        columns = query["select"].split(",")
        count = min(int(query["limit"]), 1 + int((self.newest - since) // STEP))
        rows = [self._row(self.newest - back * STEP) for back in range(count)]
        return [{column: row[column] for column in columns} for row in rows]

    def _row(self, start: float) -> Answer:
        return {**self.row, "date_heure": written(start)}

    def _quota(self) -> Answer:
        return {
            "errorcode": 10002,
            "reset_time": self.reset_time,
            "limit_time_unit": "day",
            "call_limit": 50000,
            "error": "You have exceeded the requests limit for anonymous users.",
        }


def _distorted(quirk: str, rows: list[Answer]) -> list[Answer]:
    if quirk == "empty":
        return []
    spoilt: dict[str, object] = {"null": None, "garbage": "about average"}
    return [{**row, "taux_co2": spoilt[quirk]} for row in rows] if quirk in spoilt else rows
