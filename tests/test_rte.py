"""France: what each answer of eco2mix means, from rows in its shape and from a server that misbehaves.

Data: RTE, eco2mix, through ODRE, Licence Ouverte 2.0; shapes and figures are those that the portal showed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from standin.grid_rte import BAD_QUERY, PATH, ROW, RteApi
from wattgram.clock import ManualClock
from wattgram.model import Intensity
from wattgram.ports import Place, ReadFailed, Seconds, Secret
from wattgram.providers.rte import (
    FUELS,
    TRAITS,
    France,
    Options,
    lifecycle_grams,
    open_provider,
    parse_records,
    question,
    refused_by,
)
from wattgram.tools.fetch import Reply

# 2026-08-30T10:05Z, and the newest quarter-hour half an hour before.
NOW = 1_788_084_300.0
NEWEST = 1_788_082_200.0

# Three quarter-hours of 2023-09-21: 00:45, 06:15 and 07:00 UTC.
NIGHT = {**ROW, "date_heure": "2023-09-21T00:45:00+00:00"}
MORNING = {
    "bioenergies": 676,
    "charbon": 11,
    "date_heure": "2023-09-21T06:15:00+00:00",
    "eolien": 5881,
    "fioul": 114,
    "gaz": 1546,
    "hydraulique": 5316,
    "nucleaire": 38767,
    "pompage": 0,
    "solaire": 580,
    "taux_co2": 21,
}
SEVEN = {
    "bioenergies": 673,
    "charbon": 11,
    "date_heure": "2023-09-21T07:00:00+00:00",
    "eolien": 5788,
    "fioul": 114,
    "gaz": 1640,
    "hydraulique": 5223,
    "nucleaire": 38770,
    "pompage": 0,
    "solaire": 1199,
    "taux_co2": 21,
}
NIGHT_START = 1_695_257_100.0
# What RTE counts at the stack, g/kWh.
STACK = {"charbon": 986, "fioul": 777, "gaz": 429, "bioenergies": 494}


def rows(*found: object) -> dict[str, Any]:
    return {"total_count": len(found), "results": list(found)}


def parsed(*found: object, factor: str = "direct") -> tuple[Intensity, ...]:
    return parse_records(rows(*found), factor, NOW)


# --- direct: the published rate -------------------------------------------------------------------


def test_the_published_rate_is_read() -> None:
    """53 g/kWh for the quarter-hour from 2023-09-12T17:00Z; direct, of what France generates."""
    (row,) = parsed({"taux_co2": 53, "date_heure": "2023-09-12T17:00:00+00:00"})

    expected = Intensity(
        zone="FR",
        provider="rte",
        start=1_694_538_000.0,
        end=1_694_538_900.0,
        grams_per_kwh=53.0,
        basis="live",
        factor="direct",
        boundary="production",
        fetched=NOW,
        source="RTE eco2mix (ODRE), Licence Ouverte 2.0",
    )
    assert expected == row


def test_rows_come_newest_first_and_are_put_in_order() -> None:
    assert [13.0, 21.0, 21.0] == [i.grams_per_kwh for i in parsed(SEVEN, MORNING, NIGHT)]


def test_a_time_of_paris_is_the_same_moment() -> None:
    (row,) = parsed({**NIGHT, "date_heure": "2023-09-21T02:45:00+02:00"})

    assert NIGHT_START == row.start


@pytest.mark.parametrize(("value", "grams"), [("13", 13.0), (0, 0.0), ("0", 0.0), (13.5, 13.5)])
def test_a_rate_may_be_written_in_several_ways(value: object, grams: float) -> None:
    assert grams == parsed({**NIGHT, "taux_co2": value})[0].grams_per_kwh


@pytest.mark.parametrize("nothing", [None, "ND", ""])
def test_a_row_without_a_rate_is_left_out(nothing: object) -> None:
    """Not yet is not 0."""
    assert [21.0] == [i.grams_per_kwh for i in parsed(MORNING, {**NIGHT, "taux_co2": nothing})]


def test_rows_of_the_time_to_come_are_empty_and_not_zero() -> None:
    """Only the load is forecast."""
    ahead = [
        {"date_heure": f"2023-09-21T21:{minute}:00+00:00", "taux_co2": None, "consommation": None, "prevision_j": 52100}
        for minute in ("45", "30")
    ]
    with pytest.raises(ReadFailed) as caught:
        parsed(*ahead)

    assert "empty" == caught.value.reason


@pytest.mark.parametrize(("ahead", "basis"), [(-900, "live"), (0, "live"), (300, "live"), (301, "forecast")])
def test_what_has_not_begun_is_no_measurement(ahead: float, basis: str) -> None:
    """But for the five minutes by which clocks may differ."""
    (row,) = parse_records(rows(NIGHT), "direct", NIGHT_START - ahead)

    assert basis == row.basis


# --- lifecycle: computed from the same row --------------------------------------------------------


@pytest.mark.parametrize(("row", "figure"), [(NIGHT, 12.86), (MORNING, 20.73), (SEVEN, 21.26)])
def test_the_published_formula_gives_the_published_rate(row: dict[str, Any], figure: float) -> None:
    """The cross-check of our reading of the columns: within 0.75 of the integer, pumps not counted."""
    formula = sum(row[c] * grams for c, grams in STACK.items()) / sum(row[column] for column in FUELS)

    assert figure == pytest.approx(formula, abs=0.005)
    assert row["taux_co2"] == pytest.approx(formula, abs=0.75)


def test_the_same_row_is_priced_with_lifecycle_factors() -> None:
    """1 051 817 kg/h over 48 307 MW: 21.77 g/kWh where the stack alone gives 13."""
    (row,) = parsed(NIGHT, factor="lifecycle")

    assert 1_051_817 / 48_307 == pytest.approx(row.grams_per_kwh)
    assert ("estimated", "lifecycle", "production", NIGHT_START, NIGHT_START + 900) == (
        row.basis,
        row.factor,
        row.boundary,
        row.start,
        row.end,
    )
    assert "IPCC" in row.source


def test_megawatts_in_strings_are_numbers() -> None:
    strings = {**NIGHT, "eolien": "9077", "solaire": "0"}

    assert lifecycle_grams(NIGHT) == lifecycle_grams(strings)


@pytest.mark.parametrize("nothing", [None, "ND", ""])
@pytest.mark.parametrize("column", FUELS)
def test_a_fuel_that_is_not_known_is_not_zero(column: str, nothing: object) -> None:
    """Without nuclear the rest of France would seem five times as dirty: that row is left out, its rate is not."""
    row = {**NIGHT, column: nothing}

    assert lifecycle_grams(row) is None
    assert [21.0] == [round(i.grams_per_kwh) for i in parsed(MORNING, row, factor="direct")][1:]
    assert 1 == len(parsed(MORNING, row, factor="lifecycle"))


def test_pumps_are_not_counted() -> None:
    """Negative, and not of what is generated."""
    assert lifecycle_grams(NIGHT) == lifecycle_grams({**NIGHT, "pompage": -9999})


def test_a_plants_own_use_is_no_negative_generation() -> None:
    assert lifecycle_grams({**NIGHT, "charbon": 0}) == lifecycle_grams({**NIGHT, "charbon": -16})


# --- what must not price --------------------------------------------------------------------------


@pytest.mark.parametrize("factor", ["direct", "lifecycle"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (rows(), "empty"),
        (rows({**NIGHT, "taux_co2": None}), "empty"),
        ({}, "shape"),
        ([], "shape"),
        (None, "shape"),
        ("13", "shape"),
        ({"results": {}}, "shape"),
        (rows(5), "shape"),
        (rows({**NIGHT, "date_heure": None}), "shape"),
        (rows({**NIGHT, "date_heure": "yesterday"}), "shape"),
        (rows({**NIGHT, "taux_co2": "about average"}), "shape"),
        (rows({**NIGHT, "taux_co2": True}), "shape"),
        (rows({**NIGHT, "taux_co2": [13]}), "shape"),
    ],
)
def test_a_body_that_must_not_price(body: object, reason: str, factor: str) -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_records(body, factor, NOW)

    assert reason == caught.value.reason


@pytest.mark.parametrize("rate", [-1, 9999, float("nan"), float("inf")])
def test_a_rate_that_is_no_intensity_does_not_price(rate: float) -> None:
    with pytest.raises(ReadFailed) as caught:
        parsed({**NIGHT, "taux_co2": rate})

    assert "shape" == caught.value.reason


@pytest.mark.parametrize("megawatts", ["a lot", True, [5], float("nan"), float("inf"), 1e308])
def test_megawatts_that_are_none_do_not_price(megawatts: object) -> None:
    with pytest.raises(ReadFailed) as caught:
        parsed({**NIGHT, "charbon": megawatts, "gaz": megawatts}, factor="lifecycle")

    assert "shape" == caught.value.reason


def test_a_plant_less_country_has_no_intensity() -> None:
    with pytest.raises(ReadFailed) as caught:
        parsed({**NIGHT, **dict.fromkeys(FUELS, 0)}, factor="lifecycle")

    assert "empty" == caught.value.reason


def test_the_twin_that_counts_imports_is_not_mistaken_for_it() -> None:
    """Another dataset of the same portal, 21.4 g/kWh of what is consumed: its factor is not known, it is not asked."""
    twin = {"date_heure_utc": "2026-08-30T10:00:00+00:00", "intensite_emissions_conso": 21.4, "part_enr_conso": 33.8}
    with pytest.raises(ReadFailed):
        parsed(twin)


# --- errors ---------------------------------------------------------------------------------------

HTML = b"<!doctype html><html><body><h1>It works!</h1></body></html>"
# An hour and a half from now.
QUOTA = {
    "errorcode": 10002,
    "reset_time": "2026-08-30T11:35:00Z",
    "limit_time_unit": "day",
    "call_limit": 50000,
    "error": "You have exceeded the requests limit for anonymous users.",
}


def reply(status: int, body: object, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, "https://odre/records")


@pytest.mark.parametrize(
    ("status", "body", "reason", "wait"),
    [
        pytest.param(200, rows(NIGHT), None, None, id="good"),
        pytest.param(401, {}, "auth", None, id="a portal that wants a key"),
        pytest.param(403, HTML, "auth", None, id="a proxy that refuses"),
        pytest.param(400, BAD_QUERY, "shape", None, id="a bad query"),
        pytest.param(404, {"error_code": "DatasetNotFoundError"}, "shape", None, id="the dataset is gone"),
        pytest.param(429, {}, "rate", 90.0, id="too often"),
        pytest.param(429, HTML, "rate", 90.0, id="too often, in HTML"),
        pytest.param(429, [], "rate", 90.0, id="too often, oddly"),
        pytest.param(429, QUOTA, "quota", 5400.0, id="the day's quota"),
        pytest.param(429, {**QUOTA, "reset_time": "2026-08-30T10:00:00Z"}, "quota", 90.0, id="a reset in the past"),
        pytest.param(429, {**QUOTA, "reset_time": "2099-01-01T00:00:00Z"}, "quota", 86_400.0, id="a day at most"),
        pytest.param(429, {**QUOTA, "reset_time": "soon"}, "quota", 90.0, id="a reset that is no time"),
        pytest.param(429, {"errorcode": 10002}, "quota", 90.0, id="a quota without a reset"),
        pytest.param(429, {"reset_time": QUOTA["reset_time"]}, "quota", 5400.0, id="a reset without a code"),
        pytest.param(500, HTML, "server", 90.0, id="a broken server"),
        pytest.param(503, b"", "server", 90.0, id="a busy server"),
    ],
)
def test_each_error_has_its_class(status: int, body: object, reason: str | None, wait: float | None) -> None:
    """And says how long to wait, if anybody does."""
    failure = refused_by(reply(status, body, Retry_After="90"), NOW)

    assert (reason, wait) == ((failure.reason, failure.retry_after) if failure else (None, None))


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_strangers_words_are_made_harmless(status: int) -> None:
    failure = refused_by(reply(status, {**QUOTA, "error": "\x1b[2J\nforged" + "x" * 10_000}), NOW)

    assert str(failure).isprintable()
    assert len(str(failure)) < 600


# --- over the wire --------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[RteApi]:
    with RteApi(clock=lambda: NOW) as running:
        yield running


def provider(api: RteApi, factor: str = "direct", timeout: float = 10.0) -> France:
    options = Options(base_url=f"{api.url}/", timeout=Seconds(timeout))
    secret = Secret("a test", lambda: "a-token-that-is-not-asked-for")
    return open_provider(options, Place("FR", factor), secret, ManualClock(wall=NOW))


def fetched(api: RteApi, factor: str = "direct", timeout: float = 10.0) -> list[Intensity]:
    asked = provider(api, factor, timeout)
    try:
        return list(asked.fetch())
    finally:
        assert 1 == asked.requests()
        asked.close()


@pytest.mark.parametrize(("factor", "grams", "basis"), [("direct", 13.0, "live"), ("lifecycle", 21.77, "estimated")])
def test_one_request_gives_the_last_hours(api: RteApi, factor: str, grams: float, basis: str) -> None:
    found = fetched(api, factor)

    assert 22 == len(found)
    assert (NEWEST, NEWEST + 900, basis) == (found[-1].start, found[-1].end, found[-1].basis)
    assert grams == pytest.approx(found[-1].grams_per_kwh, abs=0.005)


def test_the_question_asks_for_hours_and_not_for_a_day(api: RteApi) -> None:
    """A filter on today's date finds nothing after midnight. No credential is sent."""
    fetched(api)
    (request,) = api.requests

    assert PATH == request.path
    assert question(NOW) == request.query
    assert "taux_co2 is not null and date_heure >= date'2026-08-30T04:05:00Z'" == request.query["where"]
    assert ("date_heure desc", "24", "UTC") == tuple(request.query[key] for key in ("order_by", "limit", "timezone"))
    assert "a-token" not in repr(request)


def test_a_late_portal_is_taken_for_what_it_has(api: RteApi) -> None:
    """Hours late, at times: the value keeps its own time."""
    api.lag = 5 * 3600.0

    assert NEWEST - 4.5 * 3600 == fetched(api)[-1].start


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("empty", "empty"),
        ("null", "empty"),
        ("garbage", "shape"),
        ("quota", "quota"),
        ("status:401", "auth"),
        ("status:400", "shape"),
        ("status:404", "shape"),
        ("status:500", "server"),
        ("retry429:30", "rate"),
        ("retry429date:30", "rate"),
        ("html500", "server"),
        ("html", "shape"),
        ("not_json", "shape"),
        ("oversize", "shape"),
        ("redirect:http://127.0.0.1:9/", "shape"),
        ("truncated", "server"),
    ],
)
def test_each_mood_of_the_server_has_its_class(api: RteApi, mode: str, reason: str) -> None:
    api.mode = mode
    with pytest.raises(ReadFailed) as caught:
        fetched(api)

    assert reason == caught.value.reason


@pytest.mark.parametrize("mode", ["hang", "hang_after_headers", "drip"])
def test_a_server_that_keeps_us_waiting_is_left(api: RteApi, mode: str) -> None:
    api.mode, api.drip_every = mode, 0.02
    with pytest.raises(ReadFailed) as caught:
        fetched(api, timeout=0.3)

    assert "timeout" == caught.value.reason


def test_the_quota_is_waited_for(api: RteApi) -> None:
    """Until it begins anew: half a day from now."""
    api.mode, api.reset_time = "quota", "2026-08-30T22:05:00Z"
    with pytest.raises(ReadFailed, match="anonymous users") as caught:
        fetched(api)

    assert 43_200.0 == caught.value.retry_after


def test_what_the_house_is_told_of_it() -> None:
    """Every quarter of an hour, held for three hours, no token."""
    assert (900.0, 10_800.0, ("FR",), False) == (TRAITS.every, TRAITS.hold, TRAITS.zones, TRAITS.needs_token)
    assert {"live", "estimated", "held"} <= set(TRAITS.bases)
