"""Electricity Maps: what each documented answer means, from bodies in its shape and from a server that misbehaves.

Data: Electricity Maps; the shapes and figures are those that its API showed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from standin.grid import GridApi, Recorder
from wattgram.clock import ManualClock
from wattgram.config import load
from wattgram.model import Intensity
from wattgram.ports import Place, ReadFailed, Seconds, Secret
from wattgram.providers.electricitymaps import (
    TRAITS,
    ElectricityMaps,
    Options,
    open_provider,
    parse_latest,
    parse_rows,
    refused_by,
)
from wattgram.tools.fetch import Reply

# 2026-08-22T17:05:37Z
NOW = 1_787_418_337.0
HOUR = 1_787_418_000.0
FR = Place("FR", "lifecycle")

# Duke Energy Carolinas in March 2024: an estimate published before its hour had begun.
V3 = {
    "zone": "US-CAR-DUK",
    "carbonIntensity": 216,
    "datetime": "2024-03-06T19:00:00.000Z",
    "updatedAt": "2024-03-06T18:48:27.926Z",
    "createdAt": "2024-03-03T19:47:16.265Z",
    "emissionFactorType": "lifecycle",
    "isEstimated": True,
    "estimationMethod": "TIME_SLICER_AVERAGE",
}
# East Denmark in the form of version 4.
V4 = {
    "zone": "DK-DK2",
    "carbonIntensity": 75,
    "datetime": "2026-08-22T17:00:00.000Z",
    "updatedAt": "2026-08-22T16:47:10.119Z",
    "createdAt": "2026-08-19T17:48:25.400Z",
    "emissionFactorType": "lifecycle",
    "isEstimated": True,
    "estimationMethod": "FORECASTS_HIERARCHY",
    "flowTraced": True,
    "temporalGranularity": "hourly",
}


def parsed(**changes: Any) -> Intensity:
    return parse_latest({**V4, **changes}, Place("DK-DK2", "lifecycle"), NOW)


def refused(**changes: Any) -> ReadFailed:
    with pytest.raises(ReadFailed) as caught:
        parsed(**changes)
    return caught.value


# --- good bodies ----------------------------------------------------------------------------------


def test_a_latest_of_version_3_is_read() -> None:
    """216 g/kWh, estimated, for the hour from 2024-03-06T19:00Z."""
    latest = parse_latest(V3, Place("US-CAR-DUK", "lifecycle"), NOW)

    assert (216.0, "estimated", 1_709_751_600.0, 1_709_755_200.0) == (
        latest.grams_per_kwh,
        latest.basis,
        latest.start,
        latest.end,
    )


def test_a_latest_of_version_4_is_read() -> None:
    """Everything that travels with the value."""
    assert (
        Intensity(
            zone="DK-DK2",
            provider="electricitymaps",
            start=HOUR,
            end=HOUR + 3600,
            grams_per_kwh=75.0,
            basis="estimated",
            factor="lifecycle",
            boundary="consumption",
            published=HOUR - 769.881,
            fetched=NOW,
            source="Electricity Maps",
        )
        == parsed()
    )


@pytest.mark.parametrize(
    ("granularity", "seconds"),
    [("hourly", 3600), ("15_minutes", 900), ("5_minutes", 300), (None, 3600), ("daily", 3600), (["hourly"], 3600)],
)
def test_the_granularity_says_how_long_a_value_is_for(granularity: object, seconds: int) -> None:
    """An hour where it says nothing that is known."""
    latest = parsed(temporalGranularity=granularity)

    assert seconds == latest.end - latest.start


@pytest.mark.parametrize(("estimated", "basis"), [(True, "estimated"), (False, "live"), (None, "live")])
def test_the_boolean_alone_says_whether_it_is_an_estimate(estimated: object, basis: str) -> None:
    """The documentation once showed a method beside `false`."""
    assert basis == parsed(isEstimated=estimated, estimationMethod="TIME_SLICER_AVERAGE").basis


@pytest.mark.parametrize(("flow", "boundary"), [(True, "consumption"), (False, "production"), (None, "consumption")])
def test_imports_are_counted_unless_it_says_otherwise(flow: object, boundary: str) -> None:
    assert boundary == parsed(flowTraced=flow).boundary


@pytest.mark.parametrize(("value", "number"), [(187.5, 187.5), ("30", 30.0), (0, 0.0)])
def test_a_number_is_kept_as_it_is(value: object, number: float) -> None:
    assert number == parsed(carbonIntensity=value).grams_per_kwh


def test_fields_that_are_not_known_do_no_harm() -> None:
    assert 75.0 == parsed(_disclaimer="random", nested={"a": [1]}).grams_per_kwh


@pytest.mark.parametrize("updated", ["", None])
def test_a_missing_date_of_publication_is_unknown(updated: object) -> None:
    assert parsed(updatedAt=updated).published is None


# --- bodies that must not price -------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["DE", "dk-dk2", "", None, ["DK-DK2"]])
def test_another_zone_than_the_one_asked_for_is_refused(zone: object) -> None:
    """The API places a caller by the address when it does not understand the zone: plausible, and wrong."""
    assert "zone" == refused(zone=zone).reason


def test_another_factor_than_the_one_asked_for_is_refused() -> None:
    """East Denmark in one hour: 75 lifecycle, 20 direct."""
    assert "shape" == refused(emissionFactorType="direct").reason


@pytest.mark.parametrize("method", ["SANDBOX_MODE_DATA", "SANDBOX"])
def test_random_numbers_of_a_sandbox_are_refused(method: str) -> None:
    failure = refused(estimationMethod=method)

    assert "plan" == failure.reason
    assert "random" in str(failure)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (True, "shape"),
        (False, "shape"),
        (-5, "shape"),
        (9999, "shape"),
        ("about average", "shape"),
        (float("nan"), "shape"),
        (float("inf"), "shape"),
        ([75], "shape"),
        ({}, "shape"),
    ],
)
def test_what_is_no_intensity_does_not_price(value: object, reason: str) -> None:
    """Null is `not yet`; the rest is a mistake. None of it is 0."""
    assert reason == refused(carbonIntensity=value).reason


@pytest.mark.parametrize("when", [None, "", "yesterday", 1_787_418_000, "2026-08-22"])
def test_a_value_for_no_known_time_does_not_price(when: object) -> None:
    assert "shape" == refused(datetime=when).reason


@pytest.mark.parametrize("body", [[V4], "75", 75, None, True])
def test_a_body_that_is_no_object_does_not_price(body: object) -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_latest(body, FR, NOW)

    assert "shape" == caught.value.reason


def test_the_old_home_assistant_wrapper_without_data_is_not_yet() -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_latest({"status": "no-data", "countryCode": "FR", "data": {}}, FR, NOW)

    assert "empty" == caught.value.reason


# --- lists of rows --------------------------------------------------------------------------------


def rows(*values: object, first: int = 18, key: str = "forecast", **outer: Any) -> dict[str, Any]:
    """Hourly rows from 2026-08-22T18:00Z on."""
    listed = [{"carbonIntensity": v, "datetime": f"2026-08-22T{first + n}:00:00.000Z"} for n, v in enumerate(values)]
    return {"zone": "FR", key: listed, "updatedAt": "2026-08-22T16:00:00.000Z", **outer}


def test_a_forecast_of_three_rows_is_three_forecasts() -> None:
    """Its rows say nothing of being estimated; a float is kept."""
    found = parse_rows(rows(75, 187.5, 80), FR, NOW, "forecast")

    assert [75.0, 187.5, 80.0] == [i.grams_per_kwh for i in found]
    assert [(HOUR + 3600 * n, HOUR + 3600 * (n + 1)) for n in (1, 2, 3)] == [(i.start, i.end) for i in found]
    assert {"forecast"} == {i.basis for i in found}


@pytest.mark.parametrize("key", ["history", "data", "forecast"])
def test_a_list_is_found_under_any_of_its_names(key: str) -> None:
    assert 2 == len(parse_rows(rows(75, 80, first=10, key=key), FR, NOW, "history"))


def test_rows_are_put_in_order_and_those_without_a_value_left_out() -> None:
    """Null is not 0; an hour that is missing does not make its neighbour longer."""
    body = rows(75, None, 80, 85, first=10, key="history")
    body["history"].reverse()

    found = parse_rows(body, FR, NOW, "history")

    assert [75.0, 80.0, 85.0] == [i.grams_per_kwh for i in found]
    assert {3600.0} == {i.end - i.start for i in found}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (rows(75, zone="DE"), "zone"),
        (rows("about average"), "shape"),
        (rows(9999), "shape"),
        (rows(None, None), "empty"),
        (rows(), "empty"),
        (rows(75, estimationMethod="SANDBOX_MODE_DATA"), "plan"),
        ({"zone": "FR"}, "shape"),
        ({"zone": "FR", "forecast": {}}, "shape"),
        ({"zone": "FR", "forecast": [75]}, "shape"),
        ([], "shape"),
    ],
)
def test_a_list_that_cannot_price_is_refused(body: object, reason: str) -> None:
    """One bad row is a mistake of the whole."""
    with pytest.raises(ReadFailed) as caught:
        parse_rows(body, FR, NOW, "forecast")

    assert reason == caught.value.reason


# --- refusals -------------------------------------------------------------------------------------

PLAN = {
    "error": "Request unauthorized for zoneKey=FR,requestType=past,dataType=carbon-intensity.",
    "message": "You do not have access to this specific endpoint for this specific zone.",
}
NO_TOKEN = {"error": "Invalid auth-token", "message": "Please provide a valid authentication header. See the docs."}
BAD_TOKEN = {"error": "Invalid auth-token", "message": "The provided token is invalid. See the docs."}
NO_ZONE = {"status": "error", "message": "Zone 'ZZ-NOTAZONE' does not exist."}
NO_DATA = {"status": "error", "message": 'No recent data for zone "FR"'}
BAD_STEP = {"status": "error", "message": "Invalid temporalGranularity."}
HTML = b"<!doctype html><html><body><h1>Not found</h1></body></html>"


def reply(status: int, body: object, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, "https://grid/latest")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        pytest.param(401, NO_TOKEN, "auth", id="no token"),
        pytest.param(401, BAD_TOKEN, "auth", id="a wrong or revoked token"),
        pytest.param(401, PLAN, "plan", id="the plan does not cover it: 401 and not 403"),
        pytest.param(401, HTML, "auth", id="401 in HTML"),
        pytest.param(403, b"Access denied", "auth", id="an old gateway"),
        pytest.param(400, NO_ZONE, "zone", id="an unknown zone"),
        pytest.param(400, BAD_STEP, "shape", id="a bad option"),
        pytest.param(404, NO_DATA, "empty", id="a known zone without recent data"),
        pytest.param(404, HTML, "shape", id="an unknown path"),
        pytest.param(429, {}, "rate", id="too often"),
        pytest.param(500, HTML, "server", id="a broken server"),
        pytest.param(503, b"", "server", id="a busy server"),
        pytest.param(302, b"", "shape", id="anything else"),
    ],
)
def test_each_refusal_has_its_class(status: int, body: object, reason: str) -> None:
    """What to do about it depends on it: 15 minutes' silence, the next provider, a warning once."""
    failure = refused_by(reply(status, body), NOW)

    assert failure is not None
    assert reason == failure.reason


def test_a_good_status_is_no_refusal() -> None:
    assert refused_by(reply(200, V4), NOW) is None


def test_the_wish_to_wait_travels_with_the_refusal() -> None:
    failure = refused_by(reply(429, {}, Retry_After="90"), NOW)

    assert failure is not None
    assert 90.0 == failure.retry_after


@pytest.mark.parametrize("body", [{"error": None}, {"error": {"a": 1}, "message": [1]}, [], "text", 5, None])
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_refusal_in_an_odd_shape_is_still_a_refusal(status: int, body: object) -> None:
    assert refused_by(reply(status, body), NOW) is not None


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_strangers_words_are_made_harmless(status: int) -> None:
    """They go to the log, the page and the terminal: no control characters, and not many of them."""
    body = {"error": "\x1b[2J\nlevel=error msg=forged", "message": "\x07" + "x" * 10_000}

    failure = refused_by(reply(status, body), NOW)

    assert str(failure).isprintable()
    assert len(str(failure)) < 600


# --- over the wire --------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[GridApi]:
    with GridApi(clock=lambda: NOW) as running:
        yield running


def provider(
    api: GridApi | Recorder, token: str | None = None, place: Place = FR, timeout: float = 10.0
) -> ElectricityMaps:
    secret = None if token is None else Secret("a test", lambda: token)
    options = Options(base_url=api.url, timeout=Seconds(timeout))
    return open_provider(options, place, secret, ManualClock(wall=NOW))


def fetched(api: GridApi, **options: Any) -> Intensity:
    asked = provider(api, api.token, **options)
    try:
        (intensity,) = asked.fetch()
    finally:
        asked.close()
    return intensity


def failed(api: GridApi, **options: Any) -> ReadFailed:
    with pytest.raises(ReadFailed) as caught:
        fetched(api, **options)
    assert api.token not in f"{caught.value!s} {caught.value!r}"
    return caught.value


def test_the_newest_value_is_fetched(api: GridApi) -> None:
    intensity = fetched(api)

    assert ("FR", 75.0, "live", HOUR, HOUR + 3600, NOW) == (
        intensity.zone,
        intensity.grams_per_kwh,
        intensity.basis,
        intensity.start,
        intensity.end,
        intensity.fetched,
    )


def test_the_question_names_zone_and_factor_and_forbids_guessing() -> None:
    """One GET; the token in its header and nowhere else."""
    with Recorder(json.dumps({**V4, "emissionFactorType": "direct"}).encode()) as server:
        asked = provider(server, "a-token", Place("DK-DK2", "direct"))
        asked.fetch()
        asked.close()
        (request,) = server.requests

    assert ("GET", "/v4/carbon-intensity/latest") == (request.method, request.path)
    assert {"zone": "DK-DK2", "emissionFactorType": "direct", "disableCallerLookup": "true"} == request.query
    assert "a-token" == request.headers["auth-token"]


def test_a_gateways_address_may_end_in_a_slash() -> None:
    with Recorder(json.dumps(V4).encode()) as server:
        options = Options(base_url=f"{server.url}/gateway/")
        asked = open_provider(options, Place("DK-DK2", "lifecycle"), None, ManualClock(wall=NOW))
        asked.fetch()
        asked.close()

        assert ["/gateway/v4/carbon-intensity/latest"] == [r.path for r in server.requests]
        assert "auth-token" not in server.requests[0].headers


@pytest.mark.parametrize("step", [3600.0, 900.0, 300.0])
def test_shorter_steps_are_followed(api: GridApi, step: float) -> None:
    """Five minutes, where the zone publishes them."""
    api.step = step

    intensity = fetched(api)

    assert (api.start_of(NOW), step) == (intensity.start, intensity.end - intensity.start)


def test_an_old_value_keeps_its_own_time(api: GridApi) -> None:
    """`latest` may be two hours behind: what it is for is said by its date, not by when it was fetched."""
    api.lag = 7200.0

    assert HOUR - 7200.0 == fetched(api).start


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("status:401", "auth"),
        ("plan401", "plan"),
        ("status:403", "auth"),
        ("empty", "empty"),
        ("retry429:30", "rate"),
        ("status:500", "server"),
        ("html500", "server"),
        ("html", "shape"),
        ("not_json", "shape"),
        ("oversize", "shape"),
        ("truncated", "server"),
        ("wrong_zone", "zone"),
        ("missing_field", "shape"),
        ("null", "empty"),
        ("nan", "shape"),
        ("negative", "shape"),
        ("boolean", "shape"),
        ("garbage_string", "shape"),
        ("huge", "shape"),
        ("array", "shape"),
    ],
)
def test_each_mood_of_the_server_has_its_class(api: GridApi, mode: str, reason: str) -> None:
    """And no failure tells the token."""
    api.mode = mode

    assert reason == failed(api).reason


@pytest.mark.parametrize("mode", ["hang", "hang_after_headers", "drip"])
def test_a_server_that_keeps_us_waiting_is_left(api: GridApi, mode: str) -> None:
    api.mode, api.drip_every = mode, 0.02

    assert "timeout" == failed(api, timeout=0.3).reason


def test_the_token_never_goes_where_a_redirect_points(api: GridApi) -> None:
    with Recorder() as other:
        api.mode = f"redirect:{other.url}/v4/carbon-intensity/latest"
        failure = failed(api)

        assert ("shape", []) == (failure.reason, other.requests)


def test_an_unknown_zone_is_said_to_be_one(api: GridApi) -> None:
    failure = failed(api, place=Place("ZZ-NOTAZONE", "lifecycle"))

    assert "zone" == failure.reason
    assert "does not exist" in str(failure)


def test_a_server_that_recovers_is_believed_again(api: GridApi) -> None:
    """Good, bad, good: the client keeps nothing of the failure."""
    asked = provider(api, api.token)
    outcomes = []
    for mode in ("ok", "status:503", "ok", "truncated", "ok"):
        api.mode = mode
        try:
            outcomes.append(asked.fetch()[0].grams_per_kwh)
        except ReadFailed as failure:
            outcomes.append(failure.reason)  # type: ignore[arg-type]
    asked.close()

    assert [75.0, "server", 75.0, "server", 75.0] == outcomes


# --- the token ------------------------------------------------------------------------------------


def from_file(api: GridApi, path: Path) -> ElectricityMaps:
    """The provider as the configuration makes it."""
    file = path.with_name("wattgram.toml")
    file.write_text(f'[carbon]\nzone = "FR"\n[carbon.electricitymaps]\nbase_url = "{api.url}"\ntoken_file = "{path}"\n')
    config = load(file, {}, {})
    options = config.providers["electricitymaps"]
    assert isinstance(options, Options)
    return open_provider(options, FR, config.secrets["electricitymaps"], ManualClock(wall=NOW))


def test_a_rotated_token_needs_no_restart(api: GridApi, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    asked = from_file(api, path)
    with pytest.raises(ReadFailed) as caught:
        asked.fetch()
    path.write_text(f"{api.token}\n")
    (intensity,) = asked.fetch()
    asked.close()

    assert ("auth", 75.0) == (caught.value.reason, intensity.grams_per_kwh)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"two words\n", b"\xff\xfe\n", b"nul\0\n"])
def test_a_file_that_holds_no_token_sends_nothing(api: GridApi, tmp_path: Path, content: bytes) -> None:
    """It is refused before anybody is asked, and what it holds is not told."""
    path = tmp_path / "token"
    path.write_bytes(content)
    asked = from_file(api, path)
    with pytest.raises(ReadFailed, match="token file") as caught:
        asked.fetch()
    asked.close()

    assert ("auth", []) == (caught.value.reason, api.requests)
    assert "two" not in str(caught.value)


def test_a_token_file_that_vanished_is_a_failure_of_that_reading(api: GridApi, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{api.token}\n")
    asked = from_file(api, path)
    asked.fetch()
    path.unlink()
    with pytest.raises(ReadFailed, match="No such file") as caught:
        asked.fetch()
    path.write_text(f"{api.token}\n")
    again = asked.fetch()
    asked.close()

    assert ("auth", 1) == (caught.value.reason, len(again))


def test_what_the_house_is_told_of_it() -> None:
    """Held for two hours after its end; without a token it is not asked."""
    assert (7200.0, True, True) == (TRAITS.hold, TRAITS.needs_token, TRAITS.network)
    assert {"live", "estimated", "held"} <= set(TRAITS.bases)


# --- the day behind and the day ahead -------------------------------------------------------------


def asked_for(api: GridApi) -> list[str]:
    return [request.path.rpartition("/")[2] for request in api.requests]


def turns(api: GridApi, count: int, every: float = 300.0) -> list[Sequence[Intensity]]:
    """So many fetches in succession; a failed one counts as nothing."""
    clock = ManualClock(wall=NOW)
    options = Options(base_url=api.url, timeout=Seconds(10.0))
    asked = open_provider(options, FR, Secret("a test", lambda: api.token), clock)
    found: list[Sequence[Intensity]] = []
    for _ in range(count):
        try:
            found.append(asked.fetch())
        except ReadFailed:
            found.append(())
        clock.advance(every)
    asked.close()
    return found


def test_a_first_question_is_one_request(api: GridApi) -> None:
    """A daemon that restarts in a circle must not multiply it."""
    turns(api, 1)

    assert ["latest"] == asked_for(api)


def test_history_and_forecast_are_asked_for_once_an_hour(api: GridApi) -> None:
    """Twelve questions in an hour, and two more: the free plan is said to allow fifty."""
    found = turns(api, 13)

    assert {"latest": 13, "history": 1, "forecast": 1} == Counter(asked_for(api))
    assert {"live", "forecast"} == {i.basis for i in found[1]}
    assert sorted(i.start for i in found[1]) == [i.start for i in found[1]]


def test_the_newest_value_goes_before_the_lists(api: GridApi) -> None:
    """For the hour now running all three speak."""
    api.forecast = lambda start: 300.0

    (now,) = [i for i in turns(api, 2)[1] if i.start <= NOW < i.end]

    assert (75.0, "live") == (now.grams_per_kwh, now.basis)


def test_what_the_plan_does_not_cover_is_never_asked_for_again(api: GridApi) -> None:
    """And costs the newest value nothing."""
    api.access = ("latest",)

    found = turns(api, 40)

    assert {"latest": 40, "history": 1, "forecast": 1} == Counter(asked_for(api))
    assert {75.0} == {i.grams_per_kwh for answer in found for i in answer}


@pytest.mark.parametrize("mode", ["status:500", "not_json", "empty", "wrong_zone", "array"])
def test_a_list_that_fails_does_not_fail_the_turn(api: GridApi, mode: str) -> None:
    api.misbehave("history", mode)
    api.misbehave("forecast", mode)

    assert [1, 1, 1] == [len(answer) for answer in turns(api, 3)]


def test_a_typing_error_in_the_zone_is_told_its_neighbours(api: GridApi) -> None:
    failure = failed(api, place=Place("DK", "lifecycle"))

    assert "zone" == failure.reason
    assert "DK-DK2" in str(failure)
