"""Great Britain: what each answer of its operator means, from bodies in its shape and from a server that misbehaves.

Data: National Energy System Operator, Carbon Intensity API, CC-BY-4.0; shapes and figures are those that it showed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest

from standin.grid_gb import BAD_PATH, MIX, GbApi
from standin.web import Recorder
from wattgram.clock import ManualClock
from wattgram.model import Intensity
from wattgram.ports import Place, ReadFailed, Seconds, Secret
from wattgram.providers.gb import (
    TRAITS,
    GreatBritain,
    Options,
    open_provider,
    parse_generation,
    parse_intensities,
    parse_mix,
    refused_by,
    slots_of,
)
from wattgram.registry import PROVIDERS
from wattgram.tools.fetch import Reply

# 2026-08-30T10:00Z, where the recorded slot begins, and some minutes after its end.
TEN = 1_788_084_000.0
NOW = TEN + 2400.0
SLOT = {
    "from": "2026-08-30T10:00Z",
    "to": "2026-08-30T10:30Z",
    "intensity": {"forecast": 84, "actual": 79, "index": "low"},
}
LATER = {
    "from": "2026-08-30T11:00Z",
    "to": "2026-08-30T11:30Z",
    "intensity": {"forecast": 90, "actual": None, "index": "low"},
}
REGION = {
    "regionid": 12,
    "dnoregion": "SSE South",
    "shortname": "South England",
    "postcode": "RG10",
    "data": [{**SLOT, "intensity": {"forecast": 266, "index": "moderate"}}],
}


def generation(mix: Mapping[str, object]) -> dict[str, Any]:
    rows = [{"fuel": fuel, "perc": percent} for fuel, percent in mix.items()]
    return {"data": {"from": "2026-08-30T10:00Z", "to": "2026-08-30T10:30Z", "generationmix": rows}}


def figures(value: object) -> dict[str, Any]:
    return {"data": [{**SLOT, "intensity": value}]}


# --- direct: the operator's own figures -----------------------------------------------------------


def test_what_was_measured_is_live() -> None:
    """79 g/kWh from ten to half past, direct, imports and losses counted."""
    expected = Intensity(
        zone="GB",
        provider="gb",
        start=TEN,
        end=TEN + 1800,
        grams_per_kwh=79.0,
        basis="live",
        factor="direct",
        boundary="consumption",
        fetched=NOW,
        source="NESO Carbon Intensity API, CC-BY-4.0",
    )

    assert (expected,) == parse_intensities({"data": [SLOT]}, NOW)


def test_what_is_not_measured_yet_is_the_operators_estimate() -> None:
    """84 for the running slot: null is not 0."""
    (slot,) = parse_intensities(figures({"forecast": 84, "actual": None, "index": "low"}), NOW)

    assert (84.0, "estimated") == (slot.grams_per_kwh, slot.basis)


def test_a_measured_zero_is_one() -> None:
    assert [0.0] == [i.grams_per_kwh for i in parse_intensities(figures({"forecast": 3, "actual": 0}), NOW)]


@pytest.mark.parametrize(
    ("ahead", "basis"), [(-1800.0, "estimated"), (0.0, "estimated"), (300.0, "estimated"), (301.0, "forecast")]
)
def test_what_has_not_begun_is_a_forecast(ahead: float, basis: str) -> None:
    """But for the five minutes by which clocks may differ."""
    (slot,) = parse_intensities({"data": [LATER]}, TEN + 3600 - ahead)

    assert basis == slot.basis


def test_a_measurement_of_the_future_is_none() -> None:
    """Whatever it is called: our clock or theirs is wrong."""
    (slot,) = parse_intensities({"data": [SLOT]}, TEN - 3600)

    assert "forecast" == slot.basis


def test_slots_come_in_order_and_those_without_a_figure_are_left_out() -> None:
    nothing = {**LATER, "intensity": {"forecast": None, "actual": None}}

    assert [79.0, 90.0] == [i.grams_per_kwh for i in parse_intensities({"data": [LATER, nothing, SLOT]}, NOW)]


def test_four_half_hours_without_a_measurement() -> None:
    """An evening in May 2020: all four are estimates."""
    forecasts = {"20:30": 146, "21:00": 148, "21:30": 148, "22:00": 144}
    slots = [
        {
            "from": f"2020-05-24T{begin}Z",
            "to": f"2020-05-24T{end}Z",
            "intensity": {"forecast": forecasts[begin], "actual": None, "index": "low"},
        }
        for begin, end in (("20:30", "21:00"), ("21:00", "21:30"), ("21:30", "22:00"), ("22:00", "22:30"))
    ]

    found = parse_intensities({"data": slots}, NOW)

    assert [(146.0, "estimated"), (148.0, "estimated"), (148.0, "estimated"), (144.0, "estimated")] == [
        (i.grams_per_kwh, i.basis) for i in found
    ]


@pytest.mark.parametrize(
    "data", [[SLOT], SLOT, [REGION], REGION], ids=["list", "object", "region in a list", "region as an object"]
)
def test_lists_and_objects_are_both_accepted(data: object) -> None:
    """National lists, single slots, regions of either form."""
    assert ["2026-08-30T10:00Z"] == [slot["from"] for slot in slots_of({"data": data})]


def test_a_region_has_only_a_forecast() -> None:
    assert [266.0] == [i.grams_per_kwh for i in parse_intensities({"data": [REGION]}, NOW)]


# --- lifecycle: computed from the mix -------------------------------------------------------------


def test_the_recorded_mix_is_a_whole() -> None:
    """The percentages sum to 100.0, imports among them."""
    mix = parse_mix(generation(MIX)["data"])

    assert 100.0 == pytest.approx(sum(mix.values()))
    assert 22.7 == mix["imports"]


def test_the_mix_is_priced_with_lifecycle_factors_without_imports() -> None:
    """(12.9·230 + 10.2·490 + 19.1·12 + 22.5·48 + 12.6·11) / 77.3 = 121.77 g/kWh; the same slot was 79 direct."""
    (slot,) = parse_generation(generation(MIX), NOW)

    assert 121.77 == pytest.approx(slot.grams_per_kwh, abs=0.005)
    assert ("estimated", "lifecycle", "production", TEN, TEN + 1800) == (
        slot.basis,
        slot.factor,
        slot.boundary,
        slot.start,
        slot.end,
    )
    assert "without imports" in slot.source


def test_a_fuel_without_a_factor_is_left_out_like_imports() -> None:
    """Half gas, half nuclear among what is known."""
    mix = {"gas": 35.0, "nuclear": 35.0, "other": 10.0, "something new": 5.0, "imports": 15.0}
    (slot,) = parse_generation(generation(mix), NOW)

    assert 251.0 == pytest.approx(slot.grams_per_kwh)


def test_a_mix_that_is_mostly_unknown_says_nothing() -> None:
    with pytest.raises(ReadFailed, match="only 40% of the mix") as caught:
        parse_generation(generation({"gas": 40.0, "imports": 60.0}), NOW)

    assert "shape" == caught.value.reason


def test_numbers_in_strings_are_numbers() -> None:
    (slot,) = parse_generation(generation({"gas": "50", "nuclear": "50.0"}), NOW)

    assert 251.0 == slot.grams_per_kwh


def test_ranges_give_a_list() -> None:
    body = generation(MIX)

    assert parse_generation(body, NOW) == parse_generation({"data": [body["data"]]}, NOW)


# --- what must not price --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "empty"),
        ({"data": []}, "empty"),
        ({"data": {}}, "empty"),
        ({"data": None}, "empty"),
        ({"data": [{**REGION, "data": []}]}, "empty"),
        (figures({"forecast": None, "actual": None}), "empty"),
        ([SLOT], "shape"),
        ("low", "shape"),
        (None, "shape"),
        ({"data": "low"}, "shape"),
        ({"data": [5]}, "shape"),
        ({"data": [{**REGION, "data": "low"}]}, "shape"),
        (figures("low"), "shape"),
        (figures({"actual": True}), "shape"),
        (figures({"actual": -5}), "shape"),
        (figures({"actual": 9999}), "shape"),
        (figures({"actual": "low"}), "shape"),
        ({"data": [{**SLOT, "from": None}]}, "shape"),
        ({"data": [{**SLOT, "to": "2026-08-30T10:00Z"}]}, "shape"),
        ({"data": [{**SLOT, "to": "2027-08-30T10:00Z"}]}, "shape"),
    ],
)
def test_an_intensity_that_must_not_price(body: object, reason: str) -> None:
    """Nothing yet is `empty`, a mistake is `shape`; none of it is 0."""
    with pytest.raises(ReadFailed) as caught:
        parse_intensities(body, NOW)

    assert reason == caught.value.reason


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        ({}, "empty"),
        ({"gas": 0, "nuclear": 0}, "empty"),
        ({"gas": None, "nuclear": None}, "empty"),
        ({"gas": 60.0}, "shape"),
        ({"gas": 60.0, "nuclear": None}, "shape"),
        ({"gas": 6000.0, "nuclear": 4000.0}, "shape"),
        ({"gas": "a lot"}, "shape"),
        ({"gas": True}, "shape"),
        ({"gas": float("nan")}, "shape"),
        ({"gas": [100]}, "shape"),
        ({"gas": 1e308, "nuclear": -1e308, "coal": 1e308, "wind": -1e308, "hydro": 100}, "shape"),
    ],
)
def test_a_mix_that_must_not_price(mix: dict[str, object], reason: str) -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_generation(generation(mix), NOW)

    assert reason == caught.value.reason


# --- errors ---------------------------------------------------------------------------------------

HTML = b"<!doctype html><html><body><h1>It works!</h1></body></html>"
OUTAGE = {"error": {"code": "500 Internal Server Error", "message": "Requested resource not found."}}


def reply(status: int, body: object, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, "https://grid/intensity")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        pytest.param(200, BAD_PATH, "shape", id="a bad path, with status 200"),
        pytest.param(200, OUTAGE, "server", id="an outage, with status 200"),
        pytest.param(200, {"error": "no"}, "shape", id="an error without a code"),
        pytest.param(200, {"error": {}, "data": []}, None, id="an empty error is none"),
        pytest.param(400, BAD_PATH, "shape", id="a bad date"),
        pytest.param(500, OUTAGE, "server", id="the outages of 2023 to 2025"),
        pytest.param(503, HTML, "server", id="a gateway's page"),
        pytest.param(429, {}, "rate", id="too often"),
        pytest.param(403, HTML, "auth", id="a proxy that refuses"),
        pytest.param(404, HTML, "shape", id="an unknown path at a gateway"),
        pytest.param(200, {"data": [SLOT]}, None, id="good"),
        pytest.param(200, [], None, id="odd, but no error"),
    ],
)
def test_each_error_has_its_class(status: int, body: object, reason: str | None) -> None:
    """The `error` is looked for before the status is."""
    failure = refused_by(reply(status, body), NOW)

    assert reason == (failure.reason if failure else None)


def test_the_wish_to_wait_travels_with_the_refusal() -> None:
    failure = refused_by(reply(429, {"error": {"code": "429", "message": "slower"}}, Retry_After="90"), NOW)

    assert failure is not None
    assert ("rate", 90.0) == (failure.reason, failure.retry_after)


def test_a_strangers_words_are_made_harmless() -> None:
    told = {"error": {"code": "400\x1b[2J\n", "message": "\x07" + "x" * 10_000}}

    failure = refused_by(reply(200, told), NOW)

    assert str(failure).isprintable()
    assert len(str(failure)) < 600


# --- over the wire --------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[GbApi]:
    with GbApi(clock=lambda: NOW) as running:
        yield running


def provider(api: GbApi | Recorder, factor: str, timeout: float = 10.0) -> GreatBritain:
    options = Options(base_url=f"{api.url}/", timeout=Seconds(timeout))
    secret = Secret("a test", lambda: "a-token-that-is-not-asked-for")
    return open_provider(options, Place("GB", factor), secret, ManualClock(wall=NOW))


def fetched(api: GbApi, factor: str, timeout: float = 10.0) -> list[Intensity]:
    asked = provider(api, factor, timeout)
    try:
        return list(asked.fetch())
    finally:
        assert 1 == asked.requests()
        asked.close()


def test_one_request_gives_what_was_is_and_will_be(api: GbApi) -> None:
    """Two hours back, a day ahead; what really was is known half an hour after a slot's end."""
    found = fetched(api, "direct")

    assert 48 == len(found)
    assert TEN - 5400 == found[0].start
    assert ["live"] * 3 + ["estimated"] * 2 + ["forecast"] * 43 == [i.basis for i in found]
    assert [79.0] * 3 + [84.0] * 45 == [i.grams_per_kwh for i in found]
    assert all(later.start == earlier.end for earlier, later in pairwise(found))


def test_the_question_names_no_place_and_carries_nothing(api: GbApi) -> None:
    fetched(api, "direct")
    fetched(api, "lifecycle")

    assert ["/intensity/2026-08-30T08:30Z/fw24h", "/generation"] == [r.path for r in api.requests]
    assert not any("a-token" in repr(request) for request in api.requests)


def test_lifecycle_is_the_mix_of_the_running_slot(api: GbApi) -> None:
    (slot,) = fetched(api, "lifecycle")

    assert (TEN + 1800, "estimated", "lifecycle") == (slot.start, slot.basis, slot.factor)


def test_a_short_answer_is_taken_for_what_it_has(api: GbApi) -> None:
    """29 to 31 of 96 rows on a bad day."""
    api.mode = "shortened"

    assert 5 == len(fetched(api, "direct"))


@pytest.mark.parametrize("factor", ["direct", "lifecycle"])
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("empty", "empty"),
        ("nothing", "empty"),
        ("null", "empty"),
        ("garbage", "shape"),
        ("outage200", "server"),
        ("status:500", "server"),
        ("status:400", "shape"),
        ("retry429:30", "rate"),
        ("html500", "server"),
        ("html", "shape"),
        ("not_json", "shape"),
        ("oversize", "shape"),
        ("redirect:http://127.0.0.1:9/", "shape"),
        ("truncated", "server"),
    ],
)
def test_each_mood_of_the_server_has_its_class(api: GbApi, mode: str, reason: str, factor: str) -> None:
    api.mode = mode
    with pytest.raises(ReadFailed) as caught:
        fetched(api, factor)

    assert reason == caught.value.reason


@pytest.mark.parametrize("mode", ["hang", "hang_after_headers", "drip"])
def test_a_server_that_keeps_us_waiting_is_left(api: GbApi, mode: str) -> None:
    api.mode, api.drip_every = mode, 0.02
    with pytest.raises(ReadFailed) as caught:
        fetched(api, "lifecycle", timeout=0.3)

    assert "timeout" == caught.value.reason


def test_a_server_that_recovers_is_believed_again(api: GbApi) -> None:
    asked = provider(api, "direct")
    outcomes: list[object] = []
    for mode in ("ok", "status:503", "ok", "empty", "ok"):
        api.mode = mode
        try:
            outcomes.append(len(asked.fetch()))
        except ReadFailed as failure:
            outcomes.append(failure.reason)
    asked.close()

    assert ([48, "server", 48, "empty", 48], 5) == (outcomes, asked.requests())


def test_a_path_that_is_not_known_is_an_error_in_spite_of_its_status() -> None:
    with Recorder(json.dumps(BAD_PATH).encode()) as server:
        asked = provider(server, "direct")
        with pytest.raises(ReadFailed, match="valid path"):
            asked.fetch()
        asked.close()


def test_what_the_house_is_told_of_it() -> None:
    """Every ten minutes, held for two hours, no token, before `annual`."""
    assert (600.0, 7200.0, ("GB",), False) == (TRAITS.every, TRAITS.hold, TRAITS.zones, TRAITS.needs_token)
    assert {"live", "estimated", "forecast", "held"} == set(TRAITS.bases)
    assert ["electricitymaps", "gb", "rte", "annual"] == list(PROVIDERS)
