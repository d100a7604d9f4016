"""Windows at work in a house: their own turn, what has the sources read, and who answers clients."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wattgram.kin import Proc
from wattgram.local import Office
from wattgram.model import Health
from wattgram.poller import Poller
from wattgram.ports import Clock
from wattgram.receipts import Receipts
from wattgram.snapshot import Snapshot
from wattgram.turns import Ration, Turns
from wattgram.windows import Windows

# With no window open there is nothing to look at.
IDLE_SECONDS = 5.0


class Lens:
    """All that windows need. `by` says in receipts whose meter it was; `known` gives the books."""

    def __init__(self, clock: Clock, known: Callable[[], Snapshot], proc: Path, by: str) -> None:
        self._read_now: Callable[[float], None] = _nothing
        self.windows = Windows(clock, Proc(proc), os.getpid(), Receipts(clock, known, by), self._hurry)
        health = Health("windows", "windows", IDLE_SECONDS)
        self._poller = Poller(health, self._turn, clock, _unreported)
        is_shared = by == "daemon"
        turns, ration = (Turns(), Ration()) if is_shared else (None, None)
        self.office = Office(self.windows, self._ask, self._poller.wake, turns, ration)

    def start(self, read_now: Callable[[float], None]) -> None:
        """Begin to look; `read_now` has the sources read, and returns after so many seconds at the latest."""
        self._read_now = read_now
        self._poller.start()

    def stop(self) -> None:
        """Look no more."""
        self._poller.stop()

    def _ask(self, seconds: float) -> None:
        self._read_now(seconds)

    def _hurry(self) -> None:
        self._poller.wake()

    def _turn(self) -> float | None:
        if self.windows.is_young():
            self._read_now(0.0)
        wish = self.windows.turn()
        return wish if self.windows.is_watching else None


def _nothing(seconds: float) -> None:
    """No source is at work yet."""


def _unreported(health: Health) -> None:
    """Readers of the books need not know."""
