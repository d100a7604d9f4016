"""Electricity Maps beyond the newest value: the day behind, the day ahead, near names, and how often it is asked.

Data: Electricity Maps; the shapes and figures are those that its API showed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from standin.grid import GridApi
from wattgram.clock import ManualClock
from wattgram.model import Intensity
from wattgram.ports import Place, ReadFailed, Seconds, Secret
from wattgram.providers.electricitymaps import TRAITS, ElectricityMaps, Options, near, open_provider, parse_latest
from wattgram.providers.electricitymaps import parse_rows as parsed_rows

# 2026-08-22T17:05:37Z
NOW = 1_787_418_337.0
HOUR = 1_787_418_000.0
DE = Place("DE", "lifecycle")

# Germany, 2025-09-22, from 08:00Z.
EIGHT = 1_758_528_000.0
FORECAST = {
    "zone": "DE",
    "forecast": [
        {"carbonIntensity": 228, "datetime": "2025-09-22T08:00:00.000Z"},
        {"carbonIntensity": 205, "datetime": "2025-09-22T09:00:00.000Z"},
        {"carbonIntensity": 187.5, "datetime": "2025-09-22T10:00:00.000Z"},
    ],
    "updatedAt": "2025-09-22T07:52:01.000Z",
    "temporalGranularity": "hourly",
}


def row(hour: int, value: object = 599, **changes: Any) -> dict[str, Any]:
    return {
        "zone": "DE",
        "carbonIntensity": value,
        "datetime": f"2024-03-06T{hour:02}:00:00.000Z",
        "updatedAt": "2024-03-06T18:48:07.043Z",
        "createdAt": "2024-03-03T18:47:52.886Z",
        "emissionFactorType": "lifecycle",
        "isEstimated": False,
        "estimationMethod": None,
        **changes,
    }


# --- lists of rows --------------------------------------------------------------------------------


def test_a_forecast_is_read() -> None:
    """Three hours, the half gram kept, when it was made, and that it is one."""
    found = parsed_rows(FORECAST, DE, EIGHT, "forecast")

    assert [228.0, 205.0, 187.5] == [i.grams_per_kwh for i in found]
    assert [EIGHT, EIGHT + 3600, EIGHT + 7200] == [i.start for i in found]
    assert {(3600.0, "forecast", EIGHT - 479.0)} == {(i.end - i.start, i.basis, i.published) for i in found}


@pytest.mark.parametrize("key", ["data", "history", "forecast"])
@pytest.mark.parametrize("name", ["history", "forecast"])
def test_the_rows_may_stand_under_any_of_three_names(name: str, key: str) -> None:
    """It depends on the version."""
    body = {"zone": "DE", key: [row(18), row(19)]}

    assert 2 == len(parsed_rows(body, DE, NOW, name))


def test_rows_are_put_in_order_and_told_apart() -> None:
    """Measured and estimated hours stand side by side; a row without a value is no row."""
    rows = [row(19, 689, isEstimated=True), row(18, None), row(17, 663, isEstimated=True), row(16, 599)]
    rows.append({k: v for k, v in row(15).items() if k != "carbonIntensity"})

    found = parsed_rows({"zone": "DE", "history": rows}, DE, NOW, "history")

    assert [(599.0, "live"), (663.0, "estimated"), (689.0, "estimated")] == [(i.grams_per_kwh, i.basis) for i in found]


@pytest.mark.parametrize(
    ("minutes", "granularity", "seconds"),
    [
        ((0, 15, 30), None, 900.0),
        ((0, 5, 10, 15), "5_minutes", 300.0),
        ((0, 5, 15, 20), None, 300.0),
        ((0, 30), "hourly", 1800.0),
        ((0,), "15_minutes", 900.0),
        ((0,), None, 3600.0),
    ],
)
def test_the_step_between_rows_says_how_long_they_are_for(
    minutes: tuple[int, ...], granularity: str | None, seconds: float
) -> None:
    """A row that is missing does not make its neighbour longer."""
    rows = [{"carbonIntensity": 100, "datetime": f"2025-09-22T08:{minute:02}:00.000Z"} for minute in minutes]
    body = {"zone": "DE", "forecast": rows, "temporalGranularity": granularity}

    assert {seconds} == {i.end - i.start for i in parsed_rows(body, DE, EIGHT, "forecast")}


def test_two_rows_hours_apart_are_an_hour_each() -> None:
    found = parsed_rows({"zone": "DE", "history": [row(10), row(16)]}, DE, NOW, "history")

    assert [3600.0, 3600.0] == [i.end - i.start for i in found]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"zone": "DE", "history": []}, "empty"),
        ({"zone": "DE", "history": [row(18, None)]}, "empty"),
        ({"zone": "DE"}, "shape"),
        ({"zone": "DE", "history": {}}, "shape"),
        ({"zone": "DE", "history": [5]}, "shape"),
        ([row(18)], "shape"),
        ({"zone": "FR", "forecast": [{"carbonIntensity": 5, "datetime": "2024-03-06T18:00:00Z"}]}, "zone"),
        ({"zone": "DE", "history": [row(18), row(19, zone="FR")]}, "zone"),
        ({"history": [{"carbonIntensity": 5, "datetime": "2024-03-06T18:00:00Z"}]}, "zone"),
        ({"zone": "DE", "history": [row(18, emissionFactorType="direct")]}, "shape"),
        ({"zone": "DE", "history": [row(18, estimationMethod="SANDBOX_MODE_DATA")]}, "plan"),
        ({"zone": "DE", "history": [row(18, -5)]}, "shape"),
        ({"zone": "DE", "history": [row(18, value=True)]}, "shape"),
        ({"zone": "DE", "history": [row(18, datetime=None)]}, "shape"),
    ],
)
def test_rows_that_must_not_price(body: object, reason: str) -> None:
    with pytest.raises(ReadFailed) as caught:
        parsed_rows(body, DE, NOW, "history")

    assert reason == caught.value.reason


@pytest.mark.parametrize(("ahead", "basis"), [(0.0, "live"), (300.0, "live"), (301.0, "forecast")])
def test_what_has_not_begun_is_no_measurement(ahead: float, basis: str) -> None:
    """Five minutes are granted: clocks differ."""
    body = {"zone": "FR", "carbonIntensity": 75, "datetime": "2026-08-22T17:00:00.000Z", "isEstimated": False}

    assert basis == parse_latest(body, Place("FR", "lifecycle"), HOUR - ahead).basis


def test_the_wrapper_without_data_is_empty() -> None:
    body = {"status": "no-data", "countryCode": "DE", "data": {}, "units": {"carbonIntensity": "gCO2eq/kWh"}}
    with pytest.raises(ReadFailed) as caught:
        parse_latest(body, DE, NOW)

    assert "empty" == caught.value.reason


# --- turns ----------------------------------------------------------------------------------------


class Turns:
    """The provider, its server and their common clock."""

    def __init__(self, zone: str = "FR", timeout: float = 10.0) -> None:
        self.clock = ManualClock(wall=NOW)
        self.api = GridApi(clock=lambda: self.clock.now().wall)
        self.api.start()
        self._zone, self._timeout = zone, timeout
        self.provider = self._opened()

    def _opened(self) -> ElectricityMaps:
        options = Options(base_url=self.api.url, timeout=Seconds(self._timeout))
        place = Place(self._zone, "lifecycle")
        return open_provider(options, place, Secret("a test", lambda: self.api.token), self.clock)

    def fetch(self, after: float = 300.0) -> list[Intensity]:
        self.clock.advance(after)
        return list(self.provider.fetch())

    def settle(self) -> None:
        """Take the first turn, in which nothing but the newest value is asked for."""
        self.provider.fetch()

    def asked(self) -> list[str]:
        return [request.path.rpartition("/")[2] for request in self.api.requests]

    def close(self) -> None:
        self.provider.close()
        self.api.stop()


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns()
    yield made
    made.close()


def test_the_first_turn_asks_for_the_price_alone(turns: Turns) -> None:
    """A daemon that restarts in a circle must not use up its quota."""
    turns.fetch()

    assert ["latest"] == turns.asked()


def test_the_second_turn_brings_the_day_behind_and_the_day_ahead(turns: Turns) -> None:
    """One value per hour, the measured one where there are two; oldest first."""
    turns.api.forecast = lambda start: 50.0
    turns.settle()

    found = turns.fetch()

    assert ["latest", "latest", "forecast", "history"] == turns.asked()
    assert [HOUR + hour * 3600 for hour in range(-23, 25)] == [i.start for i in found]
    assert ["live"] * 24 + ["forecast"] * 24 == [i.basis for i in found]
    assert [75.0] * 24 + [50.0] * 24 == [i.grams_per_kwh for i in found]


def test_the_newest_value_is_believed_where_history_is_older(turns: Turns) -> None:
    """Values are revised."""
    turns.api.schedule = lambda _: 75.0 if turns.asked()[-1] == "latest" else 60.0
    turns.settle()

    at = {i.start: i.grams_per_kwh for i in turns.fetch()}

    assert (60.0, 75.0) == (at[HOUR - 3600], at[HOUR])


def test_history_is_believed_where_a_forecast_spoke_of_the_same_hour(turns: Turns) -> None:
    """Here because the server's clock is an hour ahead; what it says of an hour to come is a forecast all the same."""
    turns.api.forecast, turns.api.lag = lambda _: 50.0, -3600.0
    turns.settle()

    at = {i.start: (i.grams_per_kwh, i.basis) for i in turns.fetch()}

    assert [(75.0, "live"), (75.0, "forecast"), (50.0, "forecast")] == [at[HOUR + hour * 3600] for hour in range(3)]


def test_while_the_newest_value_is_late_the_forecast_stands_in(turns: Turns) -> None:
    """For the running hour, of which nothing is known yet."""
    turns.api.lag = 3600.0
    turns.settle()

    at = {i.start: i.basis for i in turns.fetch()}

    assert ("live", "forecast") == (at[HOUR - 3600], at[HOUR])


def test_the_extras_ask_as_the_newest_value_does(turns: Turns) -> None:
    """Zone, factor, no guessing, the token in its header."""
    turns.settle()
    turns.fetch()

    assert {("FR", "lifecycle", "true", turns.api.token)} == {
        (r.query["zone"], r.query["emissionFactorType"], r.query["disableCallerLookup"], r.headers["auth-token"])
        for r in turns.api.requests
    }


def test_no_hour_has_more_than_fourteen_requests(turns: Turns) -> None:
    """Twelve for the price and one each for the extras, in every hour of a day; and the provider knows their number."""
    times = []
    for _ in range(24 * 12):
        before = len(turns.api.requests)
        turns.fetch(TRAITS.every)
        times += [turns.clock.now().mono] * (len(turns.api.requests) - before)

    assert 14 == max(sum(at <= other < at + 3600 for other in times) for at in times)
    assert 24 * 14 == pytest.approx(len(times), abs=2)
    assert len(times) == turns.provider.requests()


def test_after_a_failure_the_price_comes_first_again(turns: Turns) -> None:
    turns.settle()
    turns.api.mode = "status:503"
    with pytest.raises(ReadFailed):
        turns.fetch()
    turns.api.mode = "ok"

    assert [1, 48] == [len(turns.fetch()), len(turns.fetch())]


@pytest.mark.parametrize("name", ["history", "forecast"])
def test_a_plan_that_refuses_an_extra_is_told_once_and_not_asked_again(
    turns: Turns, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The price is not touched, and the line names what is missing."""
    turns.api.access = tuple(access for access in turns.api.access if access != name)
    with caplog.at_level(logging.INFO, "wattgram"):
        prices = [turns.fetch(1800.0)[-1 if name == "forecast" else 0].grams_per_kwh for _ in range(10)]

    assert [75.0] * 10 == prices
    assert 1 == turns.asked().count(name)
    (line,) = [r.getMessage() for r in caplog.records]
    assert f"no {name}, which is not asked for any more" in line
    assert turns.api.token not in line


def test_a_plan_is_looked_at_anew_by_a_new_provider(turns: Turns) -> None:
    turns.api.access = ("latest",)
    turns.settle()
    turns.fetch()
    turns.api.access = ("latest", "history", "forecast")
    turns.provider.close()
    turns.provider = turns._opened()
    turns.settle()

    assert 48 == len(turns.fetch())


@pytest.mark.parametrize(
    "mode",
    [
        "status:401",
        "status:403",
        "status:500",
        "retry429:30",
        "html",
        "html500",
        "not_json",
        "oversize",
        "truncated",
        "empty",
        "wrong_zone",
        "missing_field",
        "null",
        "nan",
        "negative",
        "boolean",
        "garbage_string",
        "huge",
        "array",
    ],
)
def test_an_extra_that_fails_takes_nothing_with_it(turns: Turns, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Said once, asked again in an hour, and said when it is there again."""
    for name in ("history", "forecast"):
        turns.api.misbehave(name, mode)
    turns.settle()
    with caplog.at_level(logging.INFO, "wattgram"):
        failing = [len(turns.fetch(3600.0)) for _ in range(3)]
        for name in ("history", "forecast"):
            turns.api.misbehave(name, "ok")
        again = len(turns.fetch(3600.0))

    assert ([1, 1, 1], 48) == (failing, again)
    lines = [r.getMessage() for r in caplog.records]
    assert 4 == len(lines)
    assert [f"electricitymaps: {name} is there again" for name in ("forecast", "history")] == lines[2:]
    assert not any(turns.api.token in line for line in lines)


def test_an_extra_that_hangs_takes_nothing_with_it() -> None:
    turns = Turns(timeout=0.3)
    turns.api.misbehave("forecast", "hang")
    turns.settle()
    found = turns.fetch()
    turns.close()

    assert (24, 75.0) == (len(found), found[-1].grams_per_kwh)


# --- near names -----------------------------------------------------------------------------------

KNOWN = ("DE", "DK-DK1", "DK-DK2", "FR", "FR-COR", "GB", "US-CAL-CISO", "US-CAL-LDWP")


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("DK", ("DK-DK1", "DK-DK2")),
        ("US", ("US-CAL-CISO", "US-CAL-LDWP")),
        ("US-CAL-CSIO", ("US-CAL-CISO", "US-CAL-LDWP")),
        ("FR-CORS", ("FR-COR",)),
        ("ZZ-NOTAZONE", ()),
    ],
)
def test_zones_that_may_have_been_meant_are_named(asked: str, names: tuple[str, ...]) -> None:
    """Its parts, then what is spelt alike."""
    assert names == near(asked, KNOWN)


def test_an_unknown_zone_names_its_neighbours() -> None:
    """The list is asked for once, without the token."""
    turns = Turns(zone="DK")
    failures = []
    for _ in range(3):
        with pytest.raises(ReadFailed) as caught:
            turns.fetch(3600.0)
        failures.append(caught.value)
    asked = turns.api.requests
    turns.close()

    assert {("zone", True)} == {(f.reason, str(f).endswith("does not exist.; near it: DK-DK2")) for f in failures}
    assert ["latest", "zones", "latest", "latest"] == turns.asked()
    assert "auth-token" not in asked[1].headers


@pytest.mark.parametrize("mode", ["status:500", "status:401", "html", "not_json", "truncated", "oversize"])
def test_without_the_list_the_zone_is_still_said_to_be_unknown(mode: str) -> None:
    turns = Turns(zone="status")  # as a key of the refusal, which is no list of zones
    turns.api.misbehave("zones", mode)
    with pytest.raises(ReadFailed, match="Zone 'status' does not exist") as caught:
        turns.fetch()
    turns.close()

    assert ("zone", False) == (caught.value.reason, "near" in str(caught.value))


def test_a_list_that_is_none_names_nobody() -> None:
    turns = Turns(zone="DK")
    turns.api.misbehave("zones", "retry429:60")
    with pytest.raises(ReadFailed) as caught:
        turns.fetch()
    turns.close()

    assert ("zone", None) == (caught.value.reason, caught.value.retry_after)


def test_the_words_of_the_list_are_made_harmless() -> None:
    assert ("DK-\x1b[2J".replace("\x1b", " "),) == near("DK", ["DK-\x1b[2J"])


def test_what_the_house_is_told_of_it() -> None:
    assert {"live", "estimated", "forecast", "held"} == set(TRAITS.bases)
