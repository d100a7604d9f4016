"""Clocks: the machine's, and one that a test or a simulation turns by hand."""

from __future__ import annotations

import time

from wattgram.model import Instant


class SystemClock:
    """The machine's own clocks: CLOCK_MONOTONIC and CLOCK_REALTIME."""

    def now(self) -> Instant:
        """Return this moment; the two clocks are read one right after the other."""
        return Instant(mono=time.monotonic(), wall=time.time())


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, mono: float = 0.0, wall: float = 0.0) -> None:
        self._now = Instant(mono, wall)

    def now(self) -> Instant:
        """Return the moment it was set to."""
        return self._now

    def advance(self, seconds: float, wall_step: float = 0.0) -> None:
        """Let `seconds` pass on both clocks, and step the wall clock by `wall_step` besides."""
        self._now = Instant(self._now.mono + seconds, self._now.wall + seconds + wall_step)
