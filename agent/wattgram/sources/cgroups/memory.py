"""The memory that each control group holds by itself."""

from __future__ import annotations

from wattgram.model import Actor
from wattgram.ports import ReadFailed
from wattgram.sources.cgroups.bounds import Bounds
from wattgram.sources.cgroups.occupants import Occupant, Occupants
from wattgram.tools.cgroupfs import Folders, Gone, Hierarchy, shown

# What of a group's memory is reclaimable is read anew when the whole changed by this part, or after so many turns:
# that file is the costly one.
CHANGED = 1 / 64
STAT_TURNS = 6


class _Known:
    """What is remembered of one group: its memory when its cache of files was last read, and that cache."""

    __slots__ = ("adds_up", "held", "occupant", "reclaimable", "turn")

    def __init__(self, occupant: Occupant, *, adds_up: bool) -> None:
        self.occupant = occupant
        self.adds_up = adds_up
        self.held = 0
        self.reclaimable = 0
        self.turn = -STAT_TURNS


class Memory:
    """One tree of groups that count memory."""

    def __init__(self, hierarchy: Hierarchy, proc: str, bounds: Bounds) -> None:
        self._hierarchy = hierarchy
        self._bounds = bounds
        self._occupants = Occupants(hierarchy, proc)
        self._folders = Folders()
        self._known: dict[str, _Known] = {}
        self._turn = 0
        self._now = 0.0

    def actors(self, now: float) -> list[Actor]:
        """Return who holds how many bytes, without files' cache not used lately, and who is there; raise ReadFailed."""
        self._turn += 1
        self._now = now
        before, self._known = self._known, {}
        actors: list[Actor] = []
        try:
            for name in self._folders.below(self._hierarchy.root):
                self._visit(f"{self._hierarchy.root}/{name}", f"/{shown(name)}", 1, before, actors)
        except (Gone, OSError) as error:
            raise ReadFailed(f"{self._hierarchy.root}: it cannot be listed") from error
        for folder in before.keys() - self._known.keys():
            self._folders.forget(folder)
        return actors

    def _visit(self, folder: str, path: str, depth: int, before: dict[str, _Known], actors: list[Actor]) -> int | None:
        """Add a group and those below; return what they hold together; None: unknown."""
        if len(self._known) >= self._bounds.groups or depth > self._bounds.depth:
            self._bounds.exceeded(f"{self._bounds.groups} control groups, or {self._bounds.depth} in one another")
            return None
        try:
            known = self._remembered(folder, before)
            total = self._total(folder, known)
            below = self._below(folder, path, depth, before, actors)
        except Gone:
            self._folders.forget(folder.rpartition("/")[0])
            return None  # and who holds it now is not known
        if total is None:
            return None
        own = 0 if below is None else max(0, total - below if known.adds_up else total)
        if own or known.occupant.pid is not None:
            actors.append(Actor(path=path, weight=float(own), uid=known.occupant.uid))
        return total

    def _below(self, folder: str, path: str, depth: int, before: dict[str, _Known], actors: list[Actor]) -> int | None:
        """Add the groups below a group; return what they hold together; None: of one it is not known."""
        try:
            names = self._folders.below(folder)
        except OSError:
            return None
        found = [self._visit(f"{folder}/{n}", f"{path}/{shown(n)}", depth + 1, before, actors) for n in names]
        known = [total for total in found if total is not None]
        return sum(known) if len(known) == len(found) else None

    def _remembered(self, folder: str, before: dict[str, _Known]) -> _Known:
        known = before.get(folder)
        if known is None:
            occupant = self._occupants.first(folder, self._now)
            known = _Known(occupant, adds_up=self._hierarchy.adds_up(folder))
        elif known.occupant.due <= self._now:
            self._occupants.look(known.occupant, folder, self._now)
        self._known[folder] = known
        return known

    def _total(self, folder: str, known: _Known) -> int | None:
        held = self._hierarchy.held(folder)
        if held is None:
            return None
        if abs(held - known.held) > held * CHANGED or self._turn - known.turn >= STAT_TURNS:
            known.reclaimable = self._hierarchy.reclaimable(folder) or 0
            known.held, known.turn = held, self._turn
        return max(0, held - known.reclaimable)
