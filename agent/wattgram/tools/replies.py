"""What every grid API's replies are held against: times, numbers, refusals."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from wattgram.ports import ReadFailed

if TYPE_CHECKING:
    from wattgram.tools.fetch import Reply

# An all-coal grid is at about 1200 g/kWh; this leaves room and still catches lb/MWh and kg/MWh slips.
MOST_GRAMS_PER_KWH = 3000.0
# Clocks differ: what begins this much after ours is taken to have begun.
SKEW_SECONDS = 300.0
# No value of a grid is of another time, and not every library can write one that is.
YEARS = range(1900, 3000)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE
)


def parse_time(text: object, place: str) -> float:
    """Return Unix seconds of an ISO 8601 time as grid APIs write it; a time without an offset is UTC.

    Python before 3.11 refuses a trailing Z and a missing seconds field, which are common. Raise ReadFailed(shape).
    """
    match = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ReadFailed(f"{place}: expected a time, got {str(text)[:40]!r}", "shape")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute or 0), int(second or 0), tzinfo=_zone(zone)
        )
    except ValueError as error:
        raise ReadFailed(f"{place}: no such time: {text!s:.40}", "shape") from error
    if moment.year not in YEARS:
        raise ReadFailed(f"{place}: no time of ours: {text!s:.40}", "shape")
    return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)


def parse_grams(value: object, place: str) -> float:
    """Return grams per kWh, 0 or more; a number in a string is a number, a boolean is not.

    Raise ReadFailed: `empty` for null (not yet), `shape` for what cannot be an intensity.
    """
    if value is None:
        raise ReadFailed(f"{place}: no value yet", "empty")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ReadFailed(f"{place}: expected grams per kWh, got {str(value)[:40]!r}", "shape")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not 0.0 <= number <= MOST_GRAMS_PER_KWH:
        raise ReadFailed(f"{place}: {str(value)[:40]!r} is no intensity in grams per kWh", "shape")
    return number


def parse_number(value: object, place: str) -> float | None:
    """Return a finite number, also one written in a string; None where there is none yet: null, "" or "ND".

    Raise ReadFailed(shape).
    """
    if value is None or value in ("", "ND"):
        return None
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ReadFailed(f"{place}: expected a number, got {str(value)[:40]!r}", "shape")
    return number


def expect_object(value: object, place: str) -> dict[str, Any]:
    """Return a JSON object as it is; raise ReadFailed(shape) for anything else."""
    if not isinstance(value, dict):
        raise ReadFailed(f"{place}: expected an object, got {type(value).__name__}", "shape")
    return value


def expect_list(value: object, place: str) -> list[Any]:
    """Return a JSON array as it is; raise ReadFailed(shape) for anything else."""
    if not isinstance(value, list):
        raise ReadFailed(f"{place}: expected a list, got {type(value).__name__}", "shape")
    return value


def basis_at(start: float, now: float, basis: str) -> str:
    """Return `forecast` for what has not begun, whatever its provider calls it; else the basis as given."""
    return "forecast" if start > now + SKEW_SECONDS else basis


def printable(text: object, most: int = 200) -> str:
    """Return a stranger's words, fit for a log line."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:most])


def refusal(reply: Reply, now: float) -> ReadFailed | None:
    """Return the failure that a reply's status means for any provider; None: it is a good reply."""
    if reply.status == 200:  # noqa: PLR2004
        return None
    return refused(reply.status, f"{reply.url}: HTTP {reply.status}: {reply.excerpt()}", reply.retry_after(now))


def refused(status: int, message: str, retry_after: float | None = None) -> ReadFailed:
    """Return the failure that a status other than 200 means, wherever it was found."""
    if status in (401, 403):
        return ReadFailed(message, "auth")
    if status == 429:  # noqa: PLR2004
        return ReadFailed(message, "rate", retry_after)
    if status >= 500:  # noqa: PLR2004
        return ReadFailed(message, "server", retry_after)
    return ReadFailed(message, "shape")


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return timezone.utc
    sign = -1 if text[0] == "-" else 1
    hours, minutes = int(text[1:3]), int(text[-2:])
    return timezone(sign * timedelta(hours=hours, minutes=minutes))
