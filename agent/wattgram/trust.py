"""Whether a counter is to be believed: what it gained against integrated power, over the last minutes."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 300.0
# A counter that was doubted, or is on trial, must agree with integrated power this closely for this long.
TRIAL_SECONDS = 30.0
TOLERANCE = 0.10
MOST_IMPLAUSIBLE = 3


class Trust:
    """One device's counter against its power. `on_trial`: it is not believed before it has agreed once."""

    def __init__(self, *, on_trial: bool) -> None:
        self.believed = not on_trial
        self._pairs: deque[tuple[float, float, int, int]] = deque()
        self._implausible: deque[float] = deque()

    def compare(self, start: float, end: float, counted: int, integrated: int) -> None:
        """Note what counter and power gave for one and the same stretch of time, in microjoules."""
        self._pairs.append((start, end, counted, integrated))
        while self._pairs and self._pairs[0][0] < end - WINDOW_SECONDS:
            self._pairs.popleft()
        if not self.believed and self.agrees():
            self.believed = True

    def ratio(self) -> float | None:
        """Return counter by integrated power over the window; None before enough of it is known."""
        integrated = sum(pair[3] for pair in self._pairs)
        if self._seconds() < TRIAL_SECONDS or integrated <= 0:
            return None
        return sum(pair[2] for pair in self._pairs) / integrated

    def agrees(self) -> bool:
        """Whether the counter can be believed by what was compared."""
        ratio = self.ratio()
        return ratio is not None and abs(ratio - 1) <= TOLERANCE

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

    def _seconds(self) -> float:
        return sum(pair[1] - pair[0] for pair in self._pairs)
