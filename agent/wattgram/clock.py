"""Clocks: the machine's, and one that a test or a simulation turns by hand."""

from __future__ import annotations

import contextlib
import os
import select
import time

from wattgram.model import Instant

# The kernel counts a poll's milliseconds in 31 bits.
LONGEST_POLL = 86_400.0


class SystemClock:
    """The machine's own clocks: CLOCK_MONOTONIC and CLOCK_REALTIME."""

    def now(self) -> Instant:
        """Return this moment; the two clocks are read one right after the other."""
        return Instant(mono=time.monotonic(), wall=time.time())

    def asleep(self) -> float:
        """Return CLOCK_BOOTTIME less CLOCK_MONOTONIC."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()

    def bell(self) -> KernelBell:
        """Return a bell."""
        return KernelBell()


class KernelBell:
    """A bell whose patience the kernel counts on the monotonic clock.

    `threading.Event.wait` does so only from Python 3.11 on: before, a wall clock set back by a day held it for a day.
    """

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)

    def __del__(self) -> None:
        """Give the descriptor back."""
        os.close(self._event)

    def ring(self) -> None:
        """Wake who waits, or who will wait next."""
        os.eventfd_write(self._event, 1)

    def wait(self, seconds: float) -> bool:
        """Return whether it rang, at once or within so many seconds; then it is quiet again."""
        end = time.monotonic() + seconds
        rang = False
        while not rang:
            left = max(0.0, end - time.monotonic())
            rang = bool(self._poll.poll(min(left, LONGEST_POLL) * 1000))
            if left <= LONGEST_POLL:
                break
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        return rang


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

    def bell(self) -> KernelBell:
        """Return a bell that waits in real time."""
        return KernelBell()

    def sleep(self, seconds: float) -> None:
        """Suspend the machine: only the wall clock goes on."""
        self._asleep += seconds
        self._now = Instant(self._now.mono, self._now.wall + seconds)

    def advance(self, seconds: float, wall_step: float = 0.0) -> None:
        """Let `seconds` pass on both clocks, and step the wall clock by `wall_step` besides."""
        self._now = Instant(self._now.mono + seconds, self._now.wall + seconds + wall_step)
