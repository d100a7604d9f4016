"""Clocks: the machine's, and one that a test or a simulation turns by hand."""

from __future__ import annotations

import time

from wattgram.model import Instant


class SystemClock:
    """The machine's own clocks: CLOCK_MONOTONIC and CLOCK_REALTIME."""

    def now(self) -> Instant:
        """Return this moment; the two clocks are read one right after the other."""
        return Instant(mono=time.monotonic(), wall=time.time())

    def asleep(self) -> float:
        """Return CLOCK_BOOTTIME less CLOCK_MONOTONIC."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, mono: float = 0.0, wall: float = 0.0) -> None:
        self._now = Instant(mono, wall)
        self._asleep = 0.0

    def now(self) -> Instant:
        """Return the moment it was set to."""
        return self._now

    def asleep(self) -> float:
        """Return the seconds it was told to sleep."""
        return self._asleep

    def sleep(self, seconds: float) -> None:
        """Suspend the machine: only the wall clock goes on."""
        self._asleep += seconds
        self._now = Instant(self._now.mono, self._now.wall + seconds)

    def advance(self, seconds: float, wall_step: float = 0.0) -> None:
        """Let `seconds` pass on both clocks, and step the wall clock by `wall_step` besides."""
        self._now = Instant(self._now.mono + seconds, self._now.wall + seconds + wall_step)
