"""What every grid API's replies are held against: the forms of time that were met, and what may be an intensity."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattgram.ports import ReadFailed
from wattgram.tools.fetch import Reply
from wattgram.tools.replies import MOST_GRAMS_PER_KWH, parse_grams, parse_time, refusal

# 2026-08-30T10:00:00Z; the others are told from it by hand.
MORNING = 1_788_084_000.0


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("2026-08-30T10:00:00.000Z", MORNING, id="milliseconds, Z"),
        pytest.param("2026-08-30T10:00:00+00:00", MORNING, id="offset of nothing"),
        pytest.param("2026-08-30T10:00Z", MORNING, id="no seconds"),
        pytest.param("2026-08-30T10:00:00", MORNING, id="naive is UTC"),
        pytest.param("2026-08-30T10", MORNING, id="the hour alone"),
        pytest.param("2026-08-30 10:00:00", MORNING, id="a space for the T"),
        pytest.param("2026-08-30T20:00:00+10:00", MORNING, id="Sydney"),
        pytest.param("2026-08-30T20:00:00+1000", MORNING, id="an offset without a colon"),
        pytest.param("2026-08-30T15:30:00+05:30", MORNING, id="Delhi"),
        pytest.param("2026-08-30T06:30:00-03:30", MORNING, id="St John's: the minutes are negative too"),
        pytest.param("2026-08-30T10:00:00z", MORNING, id="a small z"),
        pytest.param("  2026-08-30T10:00:00Z\n", MORNING, id="white space around"),
        pytest.param("2026-08-30T10:00:00.5Z", MORNING + 0.5, id="a tenth"),
        pytest.param("2026-08-30T10:00:00.123456789Z", MORNING + 0.123456789, id="nanoseconds"),
        pytest.param("2024-02-29T00:00:00Z", 1_709_164_800.0, id="a leap day"),
        pytest.param("1970-01-01T00:00:00Z", 0.0, id="the beginning"),
    ],
)
def test_every_form_of_time_that_was_met_is_read(text: str, seconds: float) -> None:
    """Also what Python before 3.11 refuses."""
    assert seconds == pytest.approx(parse_time(text, "here"), abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-08-30",
        "202608301000",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-08-30T24:00:00Z",
        "2026-08-30T23:59:60Z",
        "2026-08-30T10:00:00+25:00",
        "2026-08-30T10:00:00 CEST",
        "2026-08-30T10:00:00Z; DROP TABLE",
        "0000-01-01T00:00:00Z",
        None,
        True,
        1_788_084_000,
        ["2026-08-30T10:00:00Z"],
    ],
)
def test_anything_else_is_no_time(text: object) -> None:
    """And the failure names the place where it stood."""
    with pytest.raises(ReadFailed, match=r"^here: ") as caught:
        parse_time(text, "here")

    assert "shape" == caught.value.reason


@given(
    st.datetimes(
        min_value=datetime(1971, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        max_value=datetime(2999, 1, 1),  # noqa: DTZ001
        timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_a_time_written_by_isoformat_is_read_back(moment: datetime) -> None:
    assert moment.timestamp() == pytest.approx(parse_time(moment.isoformat(), "here"), abs=1e-5)


@given(st.text())
def test_a_strangers_time_never_ends_the_program(text: str) -> None:
    try:
        seconds = parse_time(text, "here")
    except ReadFailed:
        return
    assert math.isfinite(seconds)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [(75, 75.0), (187.5, 187.5), ("30", 30.0), (" 30.5 ", 30.5), (0, 0.0), ("1e2", 100.0), (3000, 3000)],
)
def test_numbers_may_come_as_numbers_or_as_text(value: object, number: float) -> None:
    """Zero is a measurement: a hydro island has it."""
    assert number == parse_grams(value, "here")


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        "",
        "about average",
        "NaN",
        "inf",
        math.nan,
        math.inf,
        -math.inf,
        -0.001,
        "-5",
        3000.001,
        9999,
        10**400,
        [],
        [75],
        {"value": 75},
    ],
)
def test_what_cannot_be_an_intensity_is_refused(value: object) -> None:
    """A boolean is no number, and 9999 was pounds per megawatt-hour or worse."""
    with pytest.raises(ReadFailed, match=r"^here: ") as caught:
        parse_grams(value, "here")

    assert "shape" == caught.value.reason


def test_null_is_not_zero_and_not_a_mistake() -> None:
    """`empty`: not yet. It delays and is no failure."""
    with pytest.raises(ReadFailed) as caught:
        parse_grams(None, "here")

    assert "empty" == caught.value.reason


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none()))
def test_whatever_is_accepted_lies_within_the_bounds(value: object) -> None:
    try:
        number = parse_grams(value, "here")
    except ReadFailed:
        return
    assert 0 <= number <= MOST_GRAMS_PER_KWH


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ReadFailed) as caught:
        parse_grams("x" * 100_000, "here")

    assert len(str(caught.value)) < 200


# --- refusals -------------------------------------------------------------------------------------


def reply(status: int, body: bytes = b"no\n", **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, "http://grid/x")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "auth"),
        (403, "auth"),
        (429, "rate"),
        (500, "server"),
        (502, "server"),
        (503, "server"),
        (599, "server"),
        (400, "shape"),
        (404, "shape"),
        (418, "shape"),
        (204, "shape"),
        (206, "shape"),
    ],
)
def test_a_status_has_one_meaning_for_every_provider(status: int, reason: str) -> None:
    """A partial or an empty success is no answer either."""
    refused = refusal(reply(status), 0.0)

    assert refused is not None
    assert reason == refused.reason


def test_a_good_reply_is_no_refusal() -> None:
    assert refusal(reply(200), 0.0) is None


@pytest.mark.parametrize("status", [429, 503])
def test_the_servers_wish_to_wait_is_kept(status: int) -> None:
    refused = refusal(reply(status, Retry_After="120"), 0.0)

    assert refused is not None
    assert 120.0 == refused.retry_after


def test_a_refusal_quotes_the_body_briefly_and_harmlessly() -> None:
    """At most 200 bytes, without a stranger's control characters."""
    refused = refusal(reply(500, b"\x1b[2J\nlevel=error forged\r\n" + b"x" * 10_000 + b"secret"), 0.0)

    assert str(refused).isprintable()
    assert len(str(refused)) < 300
    assert "secret" not in str(refused)


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html>",
        b'{"carbonIntensity": ',
        b'{"carbonIntensity": NaN}',
        b'{"carbonIntensity": -Infinity}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"carbonIntensity": ' + b"9" * 5_000 + b"}",
    ],
)
def test_what_is_not_json_is_a_matter_of_shape(body: bytes) -> None:
    """NaN is not JSON, though Python reads it; nothing escapes, however deep or long."""
    with pytest.raises(ReadFailed, match=re.escape("http://grid/x: not JSON")) as caught:
        reply(200, body).json()

    assert "shape" == caught.value.reason


def test_json_is_read_in_any_of_its_own_encodings() -> None:
    assert {"zone": "Île"} == reply(200, json.dumps({"zone": "Île"}, ensure_ascii=False).encode("utf-16")).json()
