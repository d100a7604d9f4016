"""Who may stay when the house is full: a bounded number of places, two kinds of guests, the idlest leaves first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)


class Places(Generic[Guest]):
    """At most `most` guests: strangers, who were not served yet, and known ones; each in order of their last act.

    Strangers make room first, so that a flood of them does not push out a scraper's kept connection; but the known
    hold half of the places at most, else strangers would push out each other before they can be served.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._strangers: dict[Guest, None] = {}
        self._known: dict[Guest, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def __iter__(self) -> Iterator[Guest]:
        yield from [*self._strangers, *self._known]

    def __contains__(self, guest: Guest) -> bool:
        return guest in self._strangers or guest in self._known

    def resize(self, most: int) -> Iterator[Guest]:
        """Have another number of places; yield who has to leave, who no longer counts."""
        self._most = most
        while len(self) > most and (guest := self.idlest()) is not None:
            yield guest

    def enter(self, guest: Guest) -> Guest | None:
        """Take a newcomer in; return who has to leave for it, who no longer counts."""
        leaving = self.idlest() if len(self) >= self._most else None
        self._strangers[guest] = None
        return leaving

    def served(self, guest: Guest) -> None:
        """Note that a guest was served just now; one who has left stays away."""
        if guest in self:
            self.leave(guest)
            self._known[guest] = None

    def leave(self, guest: Guest) -> None:
        """Forget a guest; one who has left already is no matter."""
        self._strangers.pop(guest, None)
        self._known.pop(guest, None)

    def idlest(self) -> Guest | None:
        """Return who has to leave next, who no longer counts; None: the house is empty."""
        row = self._known if not self._strangers or len(self._known) > self._most // 2 else self._strangers
        if not row:
            return None
        guest = next(iter(row))
        del row[guest]
        return guest
