"""Whether a counter is to be believed: what it gained against integrated power, over the last minutes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 300.0
# Stretches that follow on each other are kept as one up to this length, however often a device is read.
GRAIN_SECONDS = 1.0
# A counter that was doubted, or is on trial, must agree with integrated power this closely for this long.
TRIAL_SECONDS = 30.0
TOLERANCE = 0.10
MOST_IMPLAUSIBLE = 3
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class _Pair:
    """What counter and power gave, in microjoules, for one and the same stretch of time up to `end`."""

    end: float
    seconds: float
    counted: int
    integrated: int


class Trust:
    """One device's counter against its power. `on_trial`: it is believed only while it agrees.

    Sums are kept as pairs come and go: a window of 5 minutes holds hundreds.
    """

    def __init__(self, *, on_trial: bool) -> None:
        self.believed = not on_trial
        self._on_trial = on_trial
        self._pairs: deque[_Pair] = deque()
        self._seconds, self._counted, self._integrated = 0.0, 0, 0
        self._implausible: deque[float] = deque()

    def compare(self, start: float, end: float, counted: int, integrated: int) -> None:
        """Note what counter and power gave for one and the same stretch of time, in microjoules."""
        pair = _Pair(end, end - start, counted, integrated)
        self._sum(pair, 1)
        last = self._pairs[-1] if self._pairs else None
        if last and abs(start - last.end) <= ROUNDING and last.seconds + pair.seconds <= GRAIN_SECONDS + ROUNDING:
            joined = last.seconds + pair.seconds, last.counted + counted, last.integrated + integrated
            self._pairs[-1] = _Pair(end, *joined)
        else:
            self._pairs.append(pair)
        while self._pairs[0].end - self._pairs[0].seconds < end - WINDOW_SECONDS and len(self._pairs) > 1:
            self._sum(self._pairs.popleft(), -1)
        if self._on_trial or not self.believed:
            agrees = self._agrees_lately()
            self.believed = self.believed if agrees is None else agrees

    def ratio(self, now: float) -> float | None:
        """Return counter by integrated power over the window that ends `now`; None while too little of it is known."""
        while self._pairs and self._pairs[0].end - self._pairs[0].seconds < now - WINDOW_SECONDS:
            self._sum(self._pairs.popleft(), -1)
        if self._seconds < TRIAL_SECONDS - ROUNDING or self._integrated <= 0:
            return None
        return self._counted / self._integrated

    def doubt(self) -> None:
        """Believe the counter no more, until it has agreed anew."""
        self.believed = False
        self._pairs.clear()
        self._seconds, self._counted, self._integrated = 0.0, 0, 0

    def implausible(self, at: float) -> None:
        """Note an impossible step; several within the window, and the counter is doubted."""
        self._implausible.append(at)
        while self._implausible[0] < at - WINDOW_SECONDS:
            self._implausible.popleft()
        if len(self._implausible) >= MOST_IMPLAUSIBLE:
            self._implausible.clear()
            self.doubt()

    def _sum(self, pair: _Pair, sign: int) -> None:
        self._seconds += sign * pair.seconds
        self._counted += sign * pair.counted
        self._integrated += sign * pair.integrated

    def _agrees_lately(self) -> bool | None:
        """Whether counter and power agree over the last trial's length; None before so much is known."""
        seconds, counted, integrated = 0.0, 0, 0
        for pair in reversed(self._pairs):
            seconds += pair.seconds
            counted += pair.counted
            integrated += pair.integrated
            if seconds >= TRIAL_SECONDS - ROUNDING:
                return integrated > 0 and abs(counted / integrated - 1) <= TOLERANCE
        return None
