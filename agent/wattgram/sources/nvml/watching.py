"""One GPU's looks at who keeps it busy, apart from its power: no reading waits for a look, or fails with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock
from typing import Any

from wattgram.model import Activity, Device, Instant
from wattgram.sources.nvml.activity import Watch, is_old

# A turn that comes a little early is in time: polls do not keep time to the millisecond. One that comes much too early
# was hurried, since somebody wants to know: then who is there is looked at too.
EARLY, HURRIED = 0.1, 0.5


def spacing(every: float, activity_every: float) -> float:
    """Return the seconds between two looks: as many turns of `every` seconds as it takes."""
    return every * max(1, math.ceil(activity_every / every - EARLY))


class Watching:
    """One GPU's looks: asked for when its power is known, begun if the last has ended, taken when it has.

    `done` is called after each.
    """

    def __init__(self, watch: Watch, every: float, turn: float, done: Callable[[], None]) -> None:
        self._watch = watch
        self._least = every - EARLY * turn
        self._hurried = HURRIED * turn
        self._asked = -math.inf
        self._done = done
        self._lock = Lock()
        self._job: tuple[Device, Any, Instant] | None = None
        self._last: float | None = None
        self._known: Any = None
        self._found: list[Activity] = []
        self.is_awaited = False

    def ask(self, device: Device, handle: Any, at: Instant) -> Callable[[], None] | None:
        """Return a look to take now, right after a power reading, if it is time for it and the last one has ended."""
        is_hurried, self._asked = 0 < at.mono - self._asked < self._hurried, at.mono
        if not is_hurried and self._last is not None and at.mono - self._last < self._least:
            return None
        with self._lock:
            if self._job is not None:
                return None
            self._last, self.is_awaited = at.mono, True
            self._job = (device, handle, at)
        return self._look

    def give_up(self) -> None:
        """Do not wait any more for the look that was asked for."""
        self.is_awaited = False

    def take(self, now: float) -> list[Activity]:
        """Return what was found and not yet taken, but for what is too old `now`, monotonic seconds, to be of use."""
        with self._lock:
            found, self._found = self._found, []
        return [activity for activity in found if not is_old(activity.end.mono, now, activity.every)]

    def _look(self) -> None:
        assert self._job is not None
        device, handle, at = self._job
        if handle is not self._known:  # the GPU was reset, or is another
            self._watch.forget()
            self._known = handle
        found = self._watch.look(device.id, handle, at)
        with self._lock:
            self._job, self.is_awaited = None, False
            if found is not None:
                self._found = [*self._found[-1:], found]  # nobody takes them while nobody reads
        self._done()
