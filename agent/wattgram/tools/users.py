"""Who a uid is: asked of the machine's own list of users, which may stand in a directory on a network that hangs."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Thread

from wattgram.ports import Bell, Clock
from wattgram.tools.labels import label

PATIENCE_SECONDS = 0.1
FRESH_SECONDS = 3600.0
# A uid without a name is asked for again sooner: the directory may only have been away.
NAMELESS_SECONDS = 300.0
MOST_KNOWN = 4096
MOST_ASKED = 1024


def lookup(uid: int) -> str | None:
    """Return a user's name; None: nobody has this uid. It may hang for as long as the directory does."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class _Known:
    """A name, and until when it is good without asking again."""

    name: str
    until: float


class Users:
    """Names of users, for any thread. One daemon thread asks, one uid after the other, and ends when all are answered.

    While an answer is late nobody waits: a hanging directory costs one patience, not one for each uid.
    """

    def __init__(
        self,
        clock: Clock,
        look: Callable[[int], str | None] = lookup,
        patience: float = PATIENCE_SECONDS,
        most: int = MOST_KNOWN,
    ) -> None:
        self._clock = clock
        self._look = look
        self._patience = patience
        self._most = most
        self._lock = Lock()
        self._known: dict[int, _Known] = {}
        self._asked: dict[int, list[Bell]] = {}  # each with the bells of those who wait for it
        self._is_asking = False
        self._is_late = False

    def name(self, uid: int) -> str:
        """Return a user's name within 0.1 s; its number where it has none or the answer is not there yet."""
        with self._lock:
            known = self._known.get(uid)
            if known and self._clock.now().mono < known.until:
                return known.name
            bell = self._ask(uid, wait=known is None and not self._is_late)
        if bell and not bell.wait(self._patience):
            self._is_late = True
        known = self._known.get(uid)
        return known.name if known else str(uid)

    def _ask(self, uid: int, *, wait: bool) -> Bell | None:
        if uid not in self._asked:
            if len(self._asked) >= MOST_ASKED:
                return None
            self._asked[uid] = []
        if not self._is_asking:
            try:
                Thread(target=self._answer_all, name="users", daemon=True).start()
            except RuntimeError:  # no thread is left: the number stands until one is
                return None
            self._is_asking = True
        if not wait:
            return None
        bell = self._clock.bell()
        self._asked[uid].append(bell)
        return bell

    def _answer_all(self) -> None:
        while True:
            with self._lock:
                uid = next(iter(self._asked), None)
                if uid is None:
                    self._is_asking = False
                    return
            name = self._look(uid)
            with self._lock:
                self._is_late = False
                self._learn(uid, name)
                bells = self._asked.pop(uid)
            for bell in bells:
                bell.ring()

    def _learn(self, uid: int, name: str | None) -> None:
        """A name that was known stays when the directory forgets it: it may only be away."""
        before = self._known.pop(uid, None)
        good_for = FRESH_SECONDS if name else NAMELESS_SECONDS
        shown = label(name) if name else before.name if before else str(uid)
        self._known[uid] = _Known(shown, self._clock.now().mono + good_for)
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]


class Owners:
    """Whose something is that several users' processes work for: the user of the first that was seen, and no other
    later, so that it has one owner. Of the longest known it forgets.
    """

    def __init__(self, users: Users, most: int = MOST_KNOWN) -> None:
        self._users = users
        self._most = most
        self._lock = Lock()
        self._first: dict[str, int] = {}

    def of(self, thing: str, uid: int | None) -> str:
        """Return the owner's name; empty: no process of it was seen whose user is known."""
        with self._lock:
            first = self._first.get(thing, uid)
            if first is None:
                return ""
            self._first.setdefault(thing, first)
            if len(self._first) > self._most:
                del self._first[next(iter(self._first))]
        return self._users.name(first)
