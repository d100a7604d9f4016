r"""systemd's units: what the machine itself runs.

A path's unit is, as for systemd, the first component below its slices: what a service makes inside its own group is
still that service's. A unit counts only where nobody else is found, so its depth is 0: paths of several hierarchies
are not comparable by their length, and a Slurm job of cgroup v1 is in `/system.slice/slurmd.service` in systemd's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wattgram.model import Named, Subject, Workload
from wattgram.ports import Clock, NamerOptions
from wattgram.tools.labels import label
from wattgram.tools.users import Owners, Users
from wattgram.workloads._paths import living, unescaped, user_of

_UNIT = re.compile(r"(?:/\.\.)*(?:/[^/]+\.slice)*/([^/]+\.(?:service|scope))(?=/|\Z)")
# Named by a process, a counter or a runtime's id, which is not a name: `run-u12.service`, `apptainer-4711.scope`,
# `libpod-conmon-….scope`.
_COUNT = r"[a-z]?(?:[0-9]+|[0-9a-f]{16,})"
_PASSING = re.compile(rf"(?:.*-)?{_COUNT}\.scope|run-{_COUNT}(?:-i[0-9]+)?\.service")


@dataclass(frozen=True, kw_only=True)
class Options(NamerOptions):
    """Nothing but whether they are named."""


def open_namer(options: NamerOptions, clock: Clock) -> UnitNamer:
    """Return the namer; it reads paths alone, so it always can."""
    del options
    return UnitNamer(Users(clock))


def unit_of(path: str) -> str | None:
    """Return the unit that a path is in, as systemd writes it; None: in none that has a name of its own."""
    found = _UNIT.match(path)
    return found[1] if found and not _PASSING.fullmatch(found[1]) else None


class UnitNamer:
    """Names services and lasting scopes; not a user's, which are the user's."""

    def __init__(self, users: Users) -> None:
        self._owners = Owners(users)

    def name_of(self, subject: Subject) -> Named | None:
        """Return the unit; its owner is the user of its process."""
        paths = [living(path) for path in subject.paths]
        if any(user_of(path) is not None for path in paths):
            return None
        unit = max((unit for path in paths if (unit := unit_of(path))), key=len, default=None)
        if unit is None:
            return None
        shown = label(unit)
        return Named(Workload("unit", shown, self._owners.of(shown, subject.uid)), 0, label(unescaped(unit)))

    def close(self) -> None:
        """Hold nothing, let go of nothing."""
