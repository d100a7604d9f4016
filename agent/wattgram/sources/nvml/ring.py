"""The driver's own power samples: a ring buffer whose clock is whatever the driver chose, so only differences count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

# The newest sample is at most one spacing old; a clock that is off by more than this has been set.
CLOCK_STEP_SECONDS = 5.0
MOST_SPACINGS = 3.0
MICROSECONDS = 1e6


class Ring:
    """One GPU's samples, laid on our monotonic clock by the least delay that was ever seen."""

    def __init__(self) -> None:
        self.last = 0
        self._offset: float | None = None

    def trace(self, samples: Sequence[tuple[int, float]], mono: float) -> tuple[tuple[float, float], ...]:
        """Return pairs of monotonic seconds and watts for samples (driver's microseconds, watts) read at `mono`.

        Those already seen are dropped; empty when what is left cannot be trusted: times that do not rise, or a hole.
        """
        fresh = [sample for sample in samples if sample[0] > self.last]
        if not fresh:
            return ()
        self.last = fresh[-1][0]
        times = [at / MICROSECONDS for at, _ in fresh]
        if not is_even(times):
            return ()
        delay = mono - times[-1]
        if self._offset is None or delay < self._offset or delay - self._offset > CLOCK_STEP_SECONDS:
            self._offset = delay
        offset = self._offset
        return tuple((at + offset, watts) for at, (_, watts) in zip(times, fresh, strict=True))


def is_even(times: Sequence[float]) -> bool:
    """Whether times rise, without a hole of more than three spacings."""
    spacings = [later - earlier for earlier, later in pairwise(times)]
    if not spacings:
        return True
    return min(spacings) > 0 and max(spacings) <= MOST_SPACINGS * median(spacings)
