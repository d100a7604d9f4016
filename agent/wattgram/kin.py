"""A process and all that came of it: who belongs to it, and the processor time and memory that they used together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from wattgram.model import Process

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/PID/stat after the name, counted from 0: proc(5) counts them from 3.
STATE, PARENT, USER, SYSTEM, REAPED_USER, REAPED_SYSTEM, STARTED, RESIDENT = 0, 1, 11, 12, 13, 14, 19, 21
# Of so many processes that were of a family is remembered that they were, beside those that live.
MOST_REMEMBERED = 4096
# A list of children holds as many numbers as Linux can give.
LONGEST_FILE, LONGEST_LIST = 1 << 16, 1 << 25


@dataclass(frozen=True, slots=True)
class Stat:
    """One process: its own processor time and that of the children it has waited for, in ticks; memory in bytes.

    `alive`: it is more than a body that nobody has buried yet.
    """

    process: Process
    parent: int
    own: int
    reaped: int
    resident: int
    alive: bool

    @property
    def ticks(self) -> int:
        """All the time that is its own or was left to it."""
        return self.own + self.reaped


@dataclass(frozen=True, slots=True)
class Machine:
    """What the whole machine did: seconds since boot, of all processors together, and its memory now."""

    busy: float
    idle: float
    memory_used: int
    memory_total: int


class Family:
    """Processes at one moment."""

    def __init__(self, stats: Mapping[int, Stat]) -> None:
        self.stats = stats
        self._below: dict[int, list[Stat]] = {}
        for stat in stats.values():
            self._below.setdefault(stat.parent, []).append(stat)

    def below(self, pid: int) -> Sequence[Stat]:
        """Return the children of a process."""
        return self._below.get(pid, ())


class Proc:
    """The tree of /proc, as far as it is needed here; what cannot be read is None or not in it."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        # Linux built without CONFIG_PROC_CHILDREN has no such files: then every process is looked at.
        self._lists_children = any((root / "self" / "task").glob("*/children"))

    def stat(self, pid: int) -> Stat | None:
        """Return one process; None: it is gone, or cannot be seen from here."""
        _, _, rest = self._text(f"{pid}/stat").rpartition(")")
        fields = rest.split()
        try:
            numbers = [int(field) for field in fields[PARENT : RESIDENT + 1]]
        except ValueError:
            return None
        if len(numbers) < RESIDENT or fields[STATE] == "X":
            return None
        return Stat(
            Process(pid, numbers[STARTED - 1]),
            numbers[PARENT - 1],
            numbers[USER - 1] + numbers[SYSTEM - 1],
            numbers[REAPED_USER - 1] + numbers[REAPED_SYSTEM - 1],
            max(0, numbers[RESIDENT - 1]) * PAGE,
            fields[STATE] != "Z",
        )

    def is_alive(self, process: Process) -> bool:
        """Whether it is there, and alive."""
        found = self.stat(process.pid)
        return found is not None and found.process == process and found.alive

    def uid(self, pid: int) -> int | None:
        """Return the real user of a process; None: it is gone."""
        words = self._status(f"{pid}", "Uid:")
        return int(words[0]) if words and words[0].isdigit() else None

    @property
    def counts_as_we_do(self) -> bool:
        """Whether its numbers are those by which the kernel tells us of processes."""
        return len(self._status("self", "NSpid:")) <= 1

    def counts_alike(self, pid: int) -> bool:
        """Whether a process knows others by the same numbers; one that cannot be seen does not."""
        return len(self._status(f"{pid}", "NSpid:")) == 1

    def _status(self, name: str, field: str) -> list[str]:
        """The words of one field of a process's status; none: it is gone, or has no such field."""
        for line in self._text(f"{name}/status").split("\n"):  # a process's name may hold any other end of a line
            if line.startswith(field):
                return line.split()[1:]
        return []

    def family(self, seeds: Iterable[int]) -> Family:
        """Return these processes with all below them, and possibly others."""
        stats: dict[int, Stat] = {}
        ahead = list(seeds) if self._lists_children else self._pids()
        while ahead:
            pid = ahead.pop()
            if pid in stats or (stat := self.stat(pid)) is None:
                continue
            stats[pid] = stat
            if self._lists_children:
                ahead.extend(self._children(pid))
        return Family(stats)

    def machine(self) -> Machine | None:
        """Return what the machine did so far; None: this kernel does not say."""
        first = self._text("stat").split("\n", 1)[0].split()
        memory = self._memory()
        try:
            times = [int(word) for word in first[1:9]]
        except ValueError:
            return None
        if first[:1] != ["cpu"] or len(times) < 4:  # noqa: PLR2004 - user, nice, system, idle
            return None
        idle = sum(times[3:5])
        return Machine((sum(times) - idle) / TICKS, idle / TICKS, *memory)

    def _memory(self) -> tuple[int, int]:
        found = {}
        for line in self._text("meminfo").splitlines():
            words = line.split()
            if len(words) > 1 and words[1].isdigit():
                found[words[0]] = int(words[1]) * 1024
        total = found.get("MemTotal:", 0)
        return total - found.get("MemAvailable:", total), total

    def _pids(self) -> list[int]:
        try:
            return [int(path.name) for path in self._root.iterdir() if path.name.isascii() and path.name.isdigit()]
        except OSError:
            return []

    def _children(self, pid: int) -> list[int]:
        tasks = self._root / str(pid) / "task"
        try:
            names = [path.name for path in tasks.iterdir()]
        except OSError:
            return []
        texts = (self._text(f"{pid}/task/{name}/children", LONGEST_LIST) for name in names)
        words = [word for text in texts for word in text.split()]
        return [int(word) for word in words if word.isdigit()]

    def _text(self, name: str, longest: int = LONGEST_FILE) -> str:
        try:
            with open(self._root / name, "rb") as file:  # noqa: PTH123 - read thousands of times
                return file.read(longest).decode("utf-8", "replace")
        except OSError:
            return ""


class Tree:
    """A root process and its descendants. Once seen to be one of it, a process stays one, whoever adopts it.

    `stranger`: a process that is not one of it, nor what comes of it: a meter that was started from within.
    """

    def __init__(self, root: Process, stranger: int) -> None:
        self.root = root
        self._stranger = stranger
        self._members: dict[int, Stat] = {}
        self._ever = {root: None}  # in the order in which they were first seen
        self._buried = 0  # ticks of those who went without a parent that waited for them
        self._late = 0
        self.resident = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """Where to look for its living members."""
        return (self.root.pid, *self._members)

    @property
    def remembered(self) -> int:
        """Of how many is known that they are or were of it."""
        return len(self._ever)

    @property
    def living(self) -> int:
        """How many of it were there when last looked."""
        return sum(member.alive for member in self._members.values())

    def holds(self, process: Process) -> bool:
        """Whether a process is or was one of it; one whose start is not known must be one now."""
        if process.started:
            return process in self._ever
        return process.pid in self._members

    def look(self, family: Family) -> float:
        """Take in who is there now; return the seconds of processor time that all of it has ever used.

        A process that ends leaves its time to the parent that waits for it. What nobody waits for would be lost: of it
        is kept what no other gained meanwhile, so that no time counts twice.
        """
        before = self._members
        self._members = self._found(family)
        gone = sum(m.ticks for pid, m in before.items() if not self._is_still(pid, m))
        inherited = sum(
            max(0, self._members[pid].reaped - m.reaped) for pid, m in before.items() if self._is_still(pid, m)
        )
        # A parent that was looked at just before it buried a child shows it the next time only.
        late = min(self._late, max(0, inherited - gone))
        self._late = max(0, gone - inherited)
        self._buried += self._late - late
        self.resident = sum(member.resident for member in self._members.values())
        return (self._buried + sum(member.ticks for member in self._members.values())) / TICKS

    def _is_still(self, pid: int, member: Stat) -> bool:
        now = self._members.get(pid)
        return now is not None and now.process == member.process

    def _found(self, family: Family) -> dict[int, Stat]:
        found: dict[int, Stat] = {}
        ahead = [
            stat for pid in self.pids if (stat := family.stats.get(pid)) is not None and stat.process in self._ever
        ]
        while ahead:
            stat = ahead.pop()
            pid = stat.process.pid
            if pid in found or pid == self._stranger:
                continue
            found[pid] = stat
            self._ever[stat.process] = None
            ahead.extend(family.below(pid))
        self._forget({self.root, *(stat.process for stat in found.values())})
        return found

    def _forget(self, living: set[Process]) -> None:
        """Of those who are gone, forget who came first."""
        over = len(self._ever) - len(living) - MOST_REMEMBERED
        if over > 0:
            for process in list(islice((p for p in self._ever if p not in living), over)):
                del self._ever[process]
