"""Who is in each control group, looked at now and then."""

from __future__ import annotations

from wattgram.sources.cgroups.bounds import LOOK_SECONDS
from wattgram.tools.cgroupfs import Hierarchy
from wattgram.tools.procfs import process_user

# A group's first looks are spread over so many steps, so that no turn has to look at all of them.
STEPS = 10
# The user of the same process is asked for again after so many looks: it may have begun as root.
LOOKS = 6


class Occupant:
    """The first process of a group, 0: one that cannot be named from here, None: nobody; `due`: the next look."""

    __slots__ = ("due", "looks", "pid", "uid")

    def __init__(self) -> None:
        self.pid: int | None = None
        self.uid: int | None = None
        self.due = 0.0
        self.looks = 0


class Occupants:
    """The occupants of one tree's groups."""

    def __init__(self, hierarchy: Hierarchy, proc: str) -> None:
        self._hierarchy = hierarchy
        self._proc = proc
        self._newest = 0

    def first(self, folder: str, now: float) -> Occupant:
        """Return who is in a group that is new; raise Gone."""
        self._newest += 1
        occupant = Occupant()
        self.look(occupant, folder, now)
        occupant.due = now + LOOK_SECONDS * (1 + self._newest % STEPS) / STEPS
        return occupant

    def look(self, occupant: Occupant, folder: str, now: float) -> None:
        """Look again; raise Gone."""
        before, occupant.pid = occupant.pid, self._hierarchy.first_process(folder)
        if occupant.pid and (occupant.pid != before or occupant.looks % LOOKS in {0, 1}):
            occupant.uid = process_user(self._proc, occupant.pid)
        occupant.looks += 1
        occupant.due = now + LOOK_SECONDS
