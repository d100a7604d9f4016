"""Whether a counter is to be believed: what it gained against integrated power, over the last minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

WINDOW_SECONDS = 300.0
# A counter that was doubted, or is on trial, must agree with integrated power this closely for this long.
TRIAL_SECONDS = 30.0
TOLERANCE = 0.10
MOST_IMPLAUSIBLE = 3
ROUNDING = 1e-6


class Trust:
    """One device's counter against its power. `on_trial`: it is believed only while it agrees."""

    def __init__(self, *, on_trial: bool) -> None:
        self.believed = not on_trial
        self._on_trial = on_trial
        self._pairs: deque[tuple[float, float, int, int]] = deque()
        self._implausible: deque[float] = deque()

    def compare(self, start: float, end: float, counted: int, integrated: int) -> None:
        """Note what counter and power gave for one and the same stretch of time, in microjoules."""
        self._pairs.append((start, end, counted, integrated))
        while self._pairs and self._pairs[0][0] < end - WINDOW_SECONDS:
            self._pairs.popleft()
        agrees = self._agrees_lately()
        if agrees is not None and (self._on_trial or not self.believed):
            self.believed = agrees

    def ratio(self) -> float | None:
        """Return counter by integrated power over the window; None before enough of it is known."""
        return _ratio(self._pairs) if _seconds(self._pairs) >= TRIAL_SECONDS - ROUNDING else None

    def doubt(self) -> None:
        """Believe the counter no more, until it has agreed anew."""
        self.believed = False
        self._pairs.clear()

    def implausible(self, at: float) -> None:
        """Note an impossible step; several within the window, and the counter is doubted."""
        self._implausible.append(at)
        while self._implausible[0] < at - WINDOW_SECONDS:
            self._implausible.popleft()
        if len(self._implausible) >= MOST_IMPLAUSIBLE:
            self._implausible.clear()
            self.doubt()

    def _agrees_lately(self) -> bool | None:
        """Whether counter and power agree over the last trial's length; None before so much is known."""
        lately: list[tuple[float, float, int, int]] = []
        for pair in reversed(self._pairs):
            lately.append(pair)
            if _seconds(lately) >= TRIAL_SECONDS - ROUNDING:
                ratio = _ratio(lately)
                return ratio is not None and abs(ratio - 1) <= TOLERANCE
        return None


def _seconds(pairs: Iterable[tuple[float, float, int, int]]) -> float:
    return sum(pair[1] - pair[0] for pair in pairs)


def _ratio(pairs: Iterable[tuple[float, float, int, int]]) -> float | None:
    counted, integrated = (sum(column) for column in zip(*((pair[2], pair[3]) for pair in pairs), strict=True))
    return counted / integrated if integrated > 0 else None
