"""The processes that are in no control group: each stands for itself."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

from wattgram.model import Actor, Process
from wattgram.sources.cgroups.bounds import Bounds
from wattgram.tools.cgroupfs import Hierarchy
from wattgram.tools.procfs import ProcessTimes, parse_process, process_stat, process_user, resident_pages

# A thread of the kernel's stays one; that its number is another process's now is noticed within so many turns.
KERNEL_TURNS = 16
# The user of a process is asked for again after 1, 2, 4, ... turns up to this many: it may have begun as root.
LONGEST_LOOK = 64
PAGE = os.sysconf("SC_PAGE_SIZE")
HZ = os.sysconf("SC_CLK_TCK")


class _Member:
    """One process as last seen: what its `stat` held, and the jiffies it had used; `idle`: what to say of it while it
    does nothing; `look`: the turn in which its user is asked for again.
    """

    __slots__ = ("idle", "look", "process", "stat", "used", "wait")

    def __init__(self, process: Process, used: int) -> None:
        self.process = process
        self.used = used
        self.stat = b""
        self.idle = Actor(process, "/", 0.0)
        self.look, self.wait = 0, 1


class Loose:
    """The processes in the root group of one tree, without the kernel's own threads."""

    def __init__(self, hierarchy: Hierarchy, proc: str, bounds: Bounds) -> None:
        self._hierarchy = hierarchy
        self._proc = proc
        self._bounds = bounds
        self._members: dict[int, _Member] = {}
        self._kernel: set[int] = set()
        self._turn = 0

    def busy(self, since: float, most: float) -> list[Actor]:
        """Return who used how many processor-seconds since the last turn.

        `since`, in seconds since boot, is when that was: who began later has used all it did since then, of another
        nobody knows how much before it came here. More than `most` seconds are not believed.
        """
        return [
            replace(member.idle, weight=used / HZ) if 0 < used <= most * HZ else member.idle
            for member, used in self._look(math.floor(since * HZ) if since < math.inf else None)
        ]

    def resident(self, *, anew: bool) -> list[Actor]:
        """Return who has how many bytes of memory in use; `anew`: nobody has just asked who was busy."""
        if anew:
            for _ in self._look(None):
                pass
        actors = []
        for pid, member in self._members.items():
            pages = resident_pages(self._proc, pid)
            if pages is not None:
                actors.append(replace(member.idle, weight=float(pages * PAGE)))
        return actors

    def _look(self, since: int | None) -> Iterator[tuple[_Member, int]]:
        self._turn += 1
        pids = self._hierarchy.processes(self._bounds.processes + 1)
        if len(pids) > self._bounds.processes:
            self._bounds.exceeded(f"{self._bounds.processes} processes in no control group")
            del pids[self._bounds.processes :]
        before, self._members = self._members, {}
        self._kernel.intersection_update(pids)
        for pid in pids:
            if pid in self._kernel and (pid + self._turn) % KERNEL_TURNS:
                continue
            stat = process_stat(self._proc, pid)
            member = before.get(pid)
            if member is not None and member.stat == stat:
                used = 0
            else:
                times = parse_process(stat)
                if times is None:
                    continue
                if times.is_kernel:
                    self._kernel.add(pid)
                    continue
                self._kernel.discard(pid)
                if member is None or member.process.started != times.started:
                    is_new = since is not None and times.started >= since
                    member = _Member(Process(pid, times.started), 0 if is_new else times.used)
                used = self._advance(member, times, stat)
            self._members[pid] = member
            if member.look <= self._turn:
                self._ask(member)
            yield member, used

    def _advance(self, member: _Member, times: ProcessTimes, stat: bytes) -> int:
        """Take up what a process shows now; return what it has used since, in jiffies."""
        used, member.used, member.stat = max(0, times.used - member.used), times.used, stat
        if member.idle.program != times.name:
            member.idle = replace(member.idle, program=times.name)
        return used

    def _ask(self, member: _Member) -> None:
        """Ask whose a process is."""
        uid = process_user(self._proc, member.process.pid)
        if uid != member.idle.uid:
            member.idle = replace(member.idle, uid=uid)
        member.look, member.wait = self._turn + member.wait, min(LONGEST_LOOK, 2 * member.wait)
