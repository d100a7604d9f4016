"""When a value was read: a call is dated by its middle, unless it took so long that this says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from wattgram.model import Instant
from wattgram.ports import Clock, ReadFailed

# A call of a meter takes less; in one that takes more this process was stopped, or did not get its turn.
SHORT = 0.1

Value = TypeVar("Value")


def timed(clock: Clock, call: Callable[[], Value], short: float = SHORT) -> tuple[Value, Instant]:
    """Return what a call gives and the moment it stands for; what the call raises is raised.

    A call that takes longer than `short` seconds was made at an unknown moment, so it is made once more: of the two the
    shorter counts. A meter that is always slow is dated by the middle all the same.
    """
    seconds, value, at = _once(clock, call)
    if seconds <= short:
        return value, at
    try:
        again, newer, later = _once(clock, call)
    except ReadFailed:
        return value, at
    return (newer, later) if again < seconds else (value, at)


def _once(clock: Clock, call: Callable[[], Value]) -> tuple[float, Value, Instant]:
    before = clock.now()
    value = call()
    after = clock.now()
    return after.mono - before.mono, value, Instant((before.mono + after.mono) / 2, (before.wall + after.wall) / 2)
