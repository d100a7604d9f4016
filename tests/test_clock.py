"""The bell: one thread wakes another, which waits for no longer than it said."""

from __future__ import annotations

import os
import threading
import time

import pytest

from wattgram.clock import SystemClock


def test_a_bell_wakes_who_waits() -> None:
    """From another thread, and at once: the deadline is far away."""
    bell = SystemClock().bell()
    threading.Timer(0.05, bell.ring).start()
    started = time.monotonic()

    assert bell.wait(60.0)
    assert time.monotonic() - started < 30.0


def test_a_bell_that_rang_before_is_heard_once() -> None:
    """Twice rung is once heard: who was woken looks at everything."""
    bell = SystemClock().bell()
    bell.ring()
    bell.ring()

    assert (True, False) == (bell.wait(60.0), bell.wait(0.0))


def test_nobody_waits_longer_than_he_said() -> None:
    bell = SystemClock().bell()

    assert not bell.wait(0.01)
    assert not bell.wait(-1.0)


def test_a_bell_gives_its_descriptor_back() -> None:
    """A reload hires and dismisses pollers, each with a bell."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not read
    bells = [SystemClock().bell() for _ in range(10)]
    during = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    bells.clear()

    assert (before + 10, before) == (during, len(os.listdir("/proc/self/fd")))  # noqa: PTH208


@pytest.mark.parametrize("seconds", [3e7, 1e12, float("inf")])
def test_a_long_patience_is_no_error(seconds: float) -> None:
    """The kernel counts milliseconds in 31 bits: 24 days. A provider may be asked once a year."""
    bell = SystemClock().bell()
    threading.Timer(0.05, bell.ring).start()

    assert bell.wait(seconds)
