"""The processor time that each control group used by itself."""

from __future__ import annotations

from wattgram.model import Actor
from wattgram.ports import ReadFailed
from wattgram.sources.cgroups.bounds import Bounds
from wattgram.sources.cgroups.occupants import Occupant, Occupants
from wattgram.tools.cgroupfs import NANOSECONDS, Folders, Gone, Hierarchy, shown


class Group:
    """One control group as last seen.

    `used`: its counter, which contains those below; None: unknown. `own`: what it used itself in turn `turn`, all in
    nanoseconds. `unsure`: somebody below it went or could not be read, so that what was its own is not known.
    `cut`: not all groups below it are looked at.
    `debt`: what those below were read to have used beyond it, since they are read later: it is made up for.
    """

    __slots__ = (
        "below",
        "cut",
        "debt",
        "depth",
        "folder",
        "names",
        "occupant",
        "own",
        "parent",
        "path",
        "turn",
        "unsure",
        "used",
        "weightless",
    )

    def __init__(self, parent: Group | None, folder: str, path: str, used: int | None) -> None:
        self.parent = parent
        self.folder = folder
        self.path = path
        self.depth: int = parent.depth + 1 if parent else 0
        self.used = used
        self.own = 0
        self.turn = -1
        self.debt = 0
        self.unsure = self.cut = False
        self.names: tuple[str, ...] = ()
        self.below: dict[str, Group] = {}
        self.occupant = Occupant()
        self.weightless: Actor | None = None


class Processors:
    """One tree of groups that count processor time.

    What did not move since the last turn is not descended into: nobody below used anything. Empty groups there are
    found by a look at each group now and then.
    """

    def __init__(self, hierarchy: Hierarchy, proc: str, bounds: Bounds, now: float) -> None:
        self._hierarchy = hierarchy
        self._bounds = bounds
        self._occupants = Occupants(hierarchy, proc)
        self._folders = Folders()
        self._groups: dict[str, Group] = {}
        self._turn = 0
        self._most = 0
        self._now = now
        self._root = Group(None, hierarchy.root, "", None)
        self._list(self._root, is_first=True)

    def actors(self, now: float, most: float) -> list[Actor]:
        """Return who used how many processor-seconds since the last turn, and who is there; raise ReadFailed.

        A group that used more than `most` seconds did not: its counter is another one now.
        """
        self._turn += 1
        self._now = now
        self._most = round(most * NANOSECONDS)
        try:
            self._descend(self._root, None)
        except (Gone, OSError) as error:
            raise ReadFailed(f"{self._root.folder}: it cannot be listed") from error
        return [actor for group in list(self._groups.values()) if (actor := self._actor(group)) is not None]

    def _actor(self, group: Group) -> Actor | None:
        own = group.own if group.turn == self._turn else 0
        occupant = group.occupant
        if occupant.due <= self._now or (own and occupant.pid is None):
            uid = occupant.uid
            try:
                self._occupants.look(occupant, group.folder, self._now)
                if group.cut:
                    self._folders.forget(group.folder)
                self._list(group)
            except Gone:
                self._drop(group)
            except OSError:
                group.unsure = True
            if occupant.uid != uid:
                group.weightless = None
        if own:
            return Actor(path=group.path, weight=own / NANOSECONDS, uid=occupant.uid)
        if occupant.pid is None:
            return None
        if group.weightless is None:
            group.weightless = Actor(path=group.path, weight=0.0, uid=occupant.uid)
        return group.weightless

    def _visit(self, group: Group) -> int:
        """Return what was used in a group and below it since the last turn; its parent is told if that is not known.

        Raise Gone.
        """
        assert group.parent
        before, group.used = group.used, self._hierarchy.used(group.folder)
        used = None
        if before is not None and group.used is not None:
            fell = group.used < before  # another group of that name: what the first one used last is lost
            used = group.used if fell else group.used - before
            group.parent.unsure |= fell
        if used is None or used > self._most:
            group.parent.unsure, used = True, None
        if used != 0:
            try:
                self._descend(group, used)
            except OSError:
                group.parent.unsure = True
        return used or 0

    def _descend(self, group: Group, used: int | None) -> None:
        """Visit those below a group, and settle what was its own; raise Gone or OSError."""
        self._list(group)
        below = 0
        for child in list(group.below.values()):
            try:
                below += self._visit(child)
            except Gone:
                self._drop(child)
        own = 0 if used is None or group.unsure else used - below + group.debt
        group.debt, group.unsure = min(0, own), group.cut
        group.own, group.turn = max(0, own), self._turn

    def _list(self, group: Group, *, is_first: bool = False) -> None:
        """Learn which groups are below a group; raise Gone or OSError.

        One that was not there before has used what its counter shows: where it could have been missed nobody used
        anything.
        """
        names = self._folders.below(group.folder)
        if names is group.names:
            return
        for name in group.below.keys() - set(names):
            self._drop(group.below[name])
        group.cut = False
        for name in names:
            if name in group.below:
                continue
            if len(self._groups) >= self._bounds.groups or group.depth >= self._bounds.depth:
                self._bounds.exceeded(f"{self._bounds.groups} control groups, or {self._bounds.depth} in one another")
                group.cut = group.unsure = True
                break
            self._add(group, name, is_first=is_first)
        group.names = names

    def _add(self, parent: Group, name: str, *, is_first: bool) -> None:
        folder = f"{parent.folder}/{name}"
        group = Group(parent, folder, f"{parent.path}/{shown(name)}", 0)
        try:
            if is_first:
                group.used = self._hierarchy.used(folder)
            group.occupant = self._occupants.first(folder, self._now)
            parent.below[name] = self._groups[folder] = group
            self._list(group, is_first=is_first)
        except Gone:
            self._drop(group)
        except OSError:
            group.unsure = True

    def _drop(self, group: Group) -> None:
        """Forget a group and those below: what it used last is known to those above alone."""
        assert group.parent
        for child in list(group.below.values()):
            self._drop(child)
        group.parent.unsure = True
        self._folders.forget(group.parent.folder)
        self._folders.forget(group.folder)
        self._groups.pop(group.folder, None)
        if group.parent.below.get(group.folder.rpartition("/")[2]) is group:
            del group.parent.below[group.folder.rpartition("/")[2]]
