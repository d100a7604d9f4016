"""What keeps one user of the local API from the others' time, and from reading the meters as fast as he likes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

ROOT = 0
# One user has the sources read so often in the long run, and so often at once after a rest.
READS_A_SECOND, READS_AT_ONCE = 5.0, 20
SOON = 1e-6  # less is a rounding of the clock's
# Who asked rests as long as his answer took, within these bounds.
LEAST_REST, MOST_REST = 0.02, 1.0
# Of more users than this those are forgotten who have nothing to wait for.
MANY_USERS = 64


@dataclass(slots=True)
class _Turn:
    lock: Lock = field(default_factory=Lock)
    free: float = 0.0


class Turns:
    """One request of a user at a time, and a rest after each: whoever asks without end keeps only himself waiting.

    Root waits for nobody. `now` and `nap` tell time in seconds, and let it pass.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, nap: Callable[[float], None] = time.sleep) -> None:
        self._now = now
        self._nap = nap
        self._lock = Lock()
        self._turns: dict[int, _Turn] = {}

    @contextmanager
    def of(self, uid: int) -> Iterator[None]:
        """Wait for a user's turn."""
        if uid == ROOT:
            yield
            return
        turn = self._turn(uid)
        with turn.lock:
            if (rest := turn.free - self._now()) > 0:
                self._nap(rest)
            began = self._now()
            try:
                yield
            finally:
                end = self._now()
                turn.free = end + min(MOST_REST, max(LEAST_REST, end - began))

    def _turn(self, uid: int) -> _Turn:
        with self._lock:
            if len(self._turns) > MANY_USERS:
                now = self._now()
                self._turns = {u: t for u, t in self._turns.items() if t.lock.locked() or t.free > now}
            return self._turns.setdefault(uid, _Turn())


@dataclass(slots=True)
class _Reader:
    lock: Lock = field(default_factory=Lock)
    full: float = 0.0  # when all that was taken will have been made up for
    began: float = 0.0


class Ration:
    """How often each user may have the sources read; root: whenever he likes. `now` and `nap` as for `Turns`."""

    def __init__(self, now: Callable[[], float] = time.monotonic, nap: Callable[[float], None] = time.sleep) -> None:
        self._now = now
        self._nap = nap
        self._lock = Lock()
        self._readers: dict[int, _Reader] = {}

    def read(self, uid: int, read: Callable[[], None], *, waits: bool = True) -> None:
        """Have them read, if need be after a wait, or not at all if it may not wait.

        One reading serves all who waited for it: a user's many processes may begin at once.
        """
        if uid == ROOT:
            read()
            return
        asked, reader = self._now(), self._reader(uid)
        if not reader.lock.acquire(blocking=waits):
            return
        try:
            now = self._now()
            full = max(now, reader.full) + 1 / READS_A_SECOND
            wait = full - now - READS_AT_ONCE / READS_A_SECOND
            if reader.began > asked or (wait > SOON and not waits):
                return
            if wait > SOON:
                self._nap(wait)
            reader.full, reader.began = full, self._now()
            read()
        finally:
            reader.lock.release()

    def _reader(self, uid: int) -> _Reader:
        with self._lock:
            if len(self._readers) > MANY_USERS:
                now = self._now()
                self._readers = {u: r for u, r in self._readers.items() if r.lock.locked() or r.full > now}
            return self._readers.setdefault(uid, _Reader())
