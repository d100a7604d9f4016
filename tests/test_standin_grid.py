"""The grid's stand-in must answer, and fail, as the documented servers do."""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from standin.grid import GridApi, Recorder, iso

WALL = 1_787_418_337.25  # 2026-08-22T17:05:37.250Z
LATEST = "/v4/carbon-intensity/latest"


@pytest.fixture
def api() -> Iterator[GridApi]:
    with GridApi(clock=lambda: WALL) as running:
        yield running


def asked(api: GridApi, path: str = LATEST, token: str | None = None, **query: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"auth-token": api.token if token is None else token}
        return session.get(
            api.url + path,
            params=query,
            headers={k: v for k, v in headers.items() if v},
            timeout=20,
            allow_redirects=False,
        )


def latest(api: GridApi, **query: str) -> Any:
    reply = asked(api, zone="FR", **query)
    assert 200 == reply.status_code
    return reply.json()


# --- good answers -------------------------------------------------------------------------------


def test_latest_answers_the_interval_now_running(api: GridApi) -> None:
    """All fields of the v4 form, with the start of the hour as its date."""
    assert {
        "zone": "FR",
        "carbonIntensity": 75.0,
        "datetime": "2026-08-22T17:00:00.000Z",
        "updatedAt": "2026-08-22T17:00:00.000Z",
        "createdAt": "2026-08-19T17:00:00.000Z",
        "emissionFactorType": "direct",
        "flowTraced": False,
        "isEstimated": False,
        "estimationMethod": None,
        "temporalGranularity": "hourly",
    } == latest(api, emissionFactorType="direct", flowTraced="false")


@pytest.mark.parametrize(
    ("step", "start", "granularity"),
    [
        (3600.0, "2026-08-22T17:00:00.000Z", "hourly"),
        (900.0, "2026-08-22T17:00:00.000Z", "15_minutes"),
        (300.0, "2026-08-22T17:05:00.000Z", "5_minutes"),
        (5.0, "2026-08-22T17:05:35.000Z", "test_5s"),
        (0.5, "2026-08-22T17:05:37.000Z", "test_0.5s"),
        (0.125, "2026-08-22T17:05:37.250Z", "test_0.125s"),
    ],
)
def test_the_step_decides_where_intervals_start(api: GridApi, step: float, start: str, granularity: str) -> None:
    """Below a second with true milliseconds."""
    api.step = step

    answer = latest(api)

    assert (start, granularity) == (answer["datetime"], answer["temporalGranularity"])


def test_a_schedule_is_asked_with_the_start(api: GridApi) -> None:
    """So that whoever wrote it knows exactly which value held when."""
    api.step = 5.0
    api.schedule = lambda start: start % 1000

    assert 335.0 == latest(api)["carbonIntensity"]


def test_a_lagging_api_answers_an_older_interval(api: GridApi) -> None:
    """As when a zone stops publishing."""
    api.lag = 7200.0

    assert "2026-08-22T15:00:00.000Z" == latest(api)["datetime"]


def test_history_ends_with_the_interval_now_running(api: GridApi) -> None:
    """A day of hours, oldest first."""
    api.schedule = lambda start: start / 3600 % 24

    rows = asked(api, "/v4/carbon-intensity/history", zone="FR").json()["history"]

    assert 24 == len(rows)
    assert [(18 + hour) % 24 for hour in range(24)] == [row["carbonIntensity"] for row in rows]
    assert "2026-08-22T17:00:00.000Z" == rows[-1]["datetime"]


def test_forecast_begins_with_the_interval_now_running(api: GridApi) -> None:
    """One row more than the horizon has hours; rows say nothing of estimates."""
    api.forecast = lambda start: 10.0

    answer = asked(api, "/v4/carbon-intensity/forecast", zone="FR", horizonHours="72").json()

    assert 73 == len(answer["forecast"])
    assert {"carbonIntensity": 10.0, "datetime": "2026-08-22T17:00:00.000Z"} == answer["forecast"][0]


def test_zones_say_what_the_token_may_do(api: GridApi) -> None:
    """And nothing of it to a stranger."""
    mine, theirs = asked(api, "/v4/zones").json(), asked(api, "/v4/zones", token="").json()

    assert [f"carbon-intensity/{name}" for name in ("latest", "history", "forecast")] == mine["FR"]["access"]
    assert {"zoneName": "France", "zoneKey": "FR"} == theirs["FR"]


def test_every_request_is_kept(api: GridApi) -> None:
    """With what a test would want to know of it."""
    latest(api, flowTraced="true")

    (request,) = api.requests
    assert ("GET", LATEST) == (request.method, request.path)
    assert {"zone": "FR", "flowTraced": "true"} == request.query
    assert request.headers["auth-token"] == api.token


def test_the_moment_is_written_as_the_api_writes_it() -> None:
    """Rounding to milliseconds never makes a thousand of them."""
    assert "2026-08-22T17:05:38.000Z" == iso(1_787_418_337.9996)


# --- refusals -----------------------------------------------------------------------------------


def test_a_missing_and_a_wrong_token_are_told_apart(api: GridApi) -> None:
    """By the message alone, as documented."""
    missing, wrong = asked(api, zone="FR", token=""), asked(api, zone="FR", token="wrong")

    assert (401, 401) == (missing.status_code, wrong.status_code)
    assert missing.json()["error"] == wrong.json()["error"] == "Invalid auth-token"
    assert missing.json()["message"].startswith("Please provide a valid")
    assert wrong.json()["message"].startswith("The provided token is invalid")


def test_an_unknown_zone_is_refused_before_the_token_is_looked_at(api: GridApi) -> None:
    """A typo is a typo, with any token."""
    reply = asked(api, zone="ZZ-NOTAZONE", token="wrong")

    assert (400, "Zone 'ZZ-NOTAZONE' does not exist.") == (reply.status_code, reply.json()["message"])


def test_without_a_zone_the_caller_is_located_unless_forbidden(api: GridApi) -> None:
    """The silent wrong zone is the API's worst habit."""
    assert "US-CAL-CISO" == asked(api).json()["zone"]
    assert 400 == asked(api, disableCallerLookup="true").status_code


def test_the_plan_refuses_an_endpoint_with_401(api: GridApi) -> None:
    """Told from a bad token by its text only."""
    api.misbehave("forecast", "plan401")

    refused = asked(api, "/v4/carbon-intensity/forecast", zone="FR")

    assert 401 == refused.status_code
    assert refused.json()["error"].startswith("Request unauthorized for zoneKey=FR,requestType=forecast")
    assert 200 == asked(api, zone="FR").status_code


def test_estimates_can_be_refused(api: GridApi) -> None:
    """Then there is no recent data."""
    api.estimated, api.estimation_method = True, "TIME_SLICER_AVERAGE"

    assert "TIME_SLICER_AVERAGE" == latest(api)["estimationMethod"]
    assert 404 == asked(api, zone="FR", disableEstimations="true").status_code


def test_an_unknown_path_answers_in_html(api: GridApi) -> None:
    """As the real server does."""
    reply = asked(api, "/v3/carbon-intensity/latest", zone="FR")

    assert (404, "text/html") == (reply.status_code, reply.headers["Content-Type"])


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "status", "kind"),
    [
        ("status:503", 503, "application/json; charset=utf-8"),
        ("status:401", 401, "application/json; charset=utf-8"),
        ("retry429:7", 429, "application/json; charset=utf-8"),
        ("html", 200, "text/html"),
        ("html500", 500, "text/html"),
        ("not_json", 200, "application/json"),
        ("empty", 404, "application/json; charset=utf-8"),
    ],
)
def test_a_mode_answers_with_its_status(api: GridApi, mode: str, status: int, kind: str) -> None:
    """And with the content type that comes along."""
    api.mode = mode

    reply = asked(api, zone="FR")

    assert (status, kind) == (reply.status_code, reply.headers["Content-Type"])


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("negative", -5.0),
        ("boolean", True),
        ("null", None),
        ("string", "75.0"),
        ("garbage_string", "about average"),
        ("huge", 9999),
    ],
)
def test_an_odd_value_comes_in_an_otherwise_good_answer(api: GridApi, mode: str, value: object) -> None:
    """Alone and in rows."""
    api.mode = mode

    assert latest(api)["carbonIntensity"] == value
    assert asked(api, "/v4/carbon-intensity/history", zone="FR").json()["history"][0]["carbonIntensity"] == value
    assert asked(api, "/v4/carbon-intensity/forecast", zone="FR").json()["forecast"][0]["carbonIntensity"] == value


def test_further_odd_answers(api: GridApi) -> None:
    """Those that need a look of their own."""
    api.mode = "nan"
    assert math.isnan(latest(api)["carbonIntensity"])
    api.mode = "wrong_zone"
    assert "GB" == latest(api)["zone"]
    api.mode = "missing_field"
    assert "carbonIntensity" not in latest(api)
    api.mode = "array"
    assert isinstance(latest(api), list)


def test_an_unknown_mode_is_a_mistake_in_the_test(api: GridApi) -> None:
    """Said at once, not by a strange answer."""
    with pytest.raises(AssertionError, match="no such mode"):
        api.mode = "brokn"


def test_waiting_times_come_as_seconds_or_as_a_date(api: GridApi) -> None:
    """Both are legal in HTTP."""
    api.mode = "retry429:7"
    assert "7" == asked(api, zone="FR").headers["Retry-After"]

    api.mode = "retry429date:90"
    assert parsedate_to_datetime(asked(api, zone="FR").headers["Retry-After"]).timestamp() == int(WALL + 90)


def test_an_oversize_answer_is_valid(api: GridApi) -> None:
    """Only its size is wrong."""
    api.mode = "oversize"

    reply = asked(api, zone="FR")

    assert len(reply.content) > 2 << 20
    assert 75.0 == reply.json()["carbonIntensity"]


def test_a_redirect_leads_to_the_recorder(api: GridApi) -> None:
    """Which shows whether a token came along."""
    with Recorder() as recorder:
        api.mode = f"redirect:{recorder.url}/elsewhere"
        there = asked(api, zone="FR").headers["Location"]
        with requests.Session() as session:
            session.trust_env = False
            before = recorder.saw(api.token)
            session.post(there, data=b"and " + api.token.encode(), timeout=20)

        assert there == f"{recorder.url}/elsewhere"
        assert (False, True) == (before, recorder.saw(api.token))
        assert ["/elsewhere"] == [request.path for request in recorder.requests]


def test_a_truncated_answer_looks_whole_but_for_its_length(api: GridApi) -> None:
    """A client that does not count takes it."""
    api.mode = "truncated"
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    try:
        connection.request("GET", f"{LATEST}?zone=FR", headers={"auth-token": api.token})
        with pytest.raises(http.client.IncompleteRead) as caught:
            connection.getresponse().read()
    finally:
        connection.close()

    assert 75.0 == json.loads(caught.value.partial)["carbonIntensity"]


@pytest.mark.parametrize("mode", ["hang", "hang_after_headers", "drip", "drip_headers"])
def test_a_slow_server_lets_nobody_wait_for_its_end(api: GridApi, mode: str) -> None:
    """Whoever waits is let go by `stop`, at once."""
    api.mode = mode
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    try:
        connection.request("GET", f"{LATEST}?zone=FR", headers={"auth-token": api.token})
        api.wait_for_requests(1)
        started = time.monotonic()
        api.stop()

        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse().read()
        assert time.monotonic() - started < 10
    finally:
        connection.close()


@pytest.mark.parametrize("mode", ["drip", "drip_headers"])
def test_a_dripping_answer_is_good_in_the_end(api: GridApi, mode: str) -> None:
    """Every read succeeds: only a total deadline helps."""
    api.mode, api.drip_every = mode, 0.0005

    assert 75.0 == latest(api)["carbonIntensity"]


def test_a_stopped_server_refuses_and_returns_on_the_same_port(api: GridApi) -> None:
    """Also when a client keeps its connection."""
    with requests.Session() as session:
        session.trust_env = False
        url = f"{api.url}{LATEST}?zone=FR"
        first = session.get(url, headers={"auth-token": api.token}, timeout=20)
        api.stop()
        with pytest.raises(requests.ConnectionError):
            session.get(url, headers={"auth-token": api.token}, timeout=20)
        api.start()

        assert (200, "FR") == (first.status_code, latest(api)["zone"])
