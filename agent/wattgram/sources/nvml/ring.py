"""The driver's own power samples: a ring buffer whose clock is whatever the driver chose, so only differences count."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

# The newest sample is at most one spacing old; a clock that is off by more than this has been set.
CLOCK_STEP_SECONDS = 5.0
# Over so many turns the least delay decides where samples lie: a smaller step of the driver's clock is followed then.
TURNS = 20
MOST_SPACINGS = 3.0
# A ring whose newest sample is known for longer than this stands still: every driver adds one at least so often.
STILL_SECONDS = 1.0
MICROSECONDS = 1e6


class Ring:
    """One GPU's samples, laid on our monotonic clock by the least delay that was seen lately."""

    def __init__(self) -> None:
        self.last = 0
        self._stale: int | None = None
        self._spacing: float | None = None
        self._delays: deque[float] = deque(maxlen=TURNS)
        self._heard: float | None = None
        self._newest = 0

    def rewind(self) -> None:
        """Begin again with all that the driver still holds: what was returned last was not taken.

        A ring that shows nothing newer than before stands still: what it shows is not of now.
        """
        self.last, self._stale = 0, self.last or self._stale

    def calibrate(self, newest: int) -> None:
        """Note the newest sample at the start: a ring that shows the same at the first reading stands still."""
        self._stale = newest

    def trace(self, samples: Sequence[tuple[int, float]], mono: float) -> tuple[tuple[float, float], ...]:
        """Return pairs of monotonic seconds and watts for samples (driver's microseconds, watts) read at `mono`.

        Those already seen are dropped; empty when what is left cannot be trusted: times that do not rise, or a hole.
        """
        is_old = self._heard is None or mono - self._heard > STILL_SECONDS
        if samples and samples[-1][0] == self._stale and is_old:
            return ()  # what it showed before the silence, shown again
        self._stale = None
        fresh = [sample for sample in samples if sample[0] > self.last]
        if not fresh:
            self._expect_news(mono)
            return ()
        self.last = fresh[-1][0]
        if self.last != self._newest:  # asked for again it is no news
            self._newest, self._heard = self.last, mono
        times = [at / MICROSECONDS for at, _ in fresh]
        if not is_even(times, self._spacing):
            return ()
        if len(times) > MOST_SPACINGS:
            self._spacing = median(later - earlier for earlier, later in pairwise(times))
        delay = mono - times[-1]
        if self._delays and abs(delay - self._delays[-1]) > CLOCK_STEP_SECONDS:
            self._delays.clear()
        self._delays.append(delay)
        offset = min(self._delays)
        return tuple((at + offset, watts) for at, (_, watts) in zip(times, fresh, strict=True))

    def _expect_news(self, mono: float) -> None:
        """Begin anew after a long silence: a clock that was set back shows nothing newer for as long as it was set."""
        if self._heard is not None and mono - self._heard > CLOCK_STEP_SECONDS:
            self._stale, self.last, self._heard = self.last, 0, None
            self._delays.clear()


def is_even(times: Sequence[float], usual: float | None = None) -> bool:
    """Whether times rise, without a hole of more than three spacings: their own, or the usual one of longer traces."""
    spacings = [later - earlier for earlier, later in pairwise(times)]
    if not spacings:
        return True
    return min(spacings) > 0 and max(spacings) <= MOST_SPACINGS * min(median(spacings), usual or math.inf)
