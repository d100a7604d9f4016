"""A tree of /proc in which a test says who lives, and what the machine has done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """Files like those of Linux; with `lists_children` also those that a kernel may be built without."""

    def __init__(self, root: Path, *, lists_children: bool = True) -> None:
        self.root = root
        self._lists_children = lists_children
        self._below: dict[int, set[int]] = {}
        (root / "self" / "task" / "1").mkdir(parents=True)
        if lists_children:
            (root / "self" / "task" / "1" / "children").write_text("")
        self.machine(0.0, 0.0)

    def put(
        self,
        pid: int,
        parent: int,
        *,
        seconds: float = 0.0,
        reaped: float = 0.0,
        megabytes: int = 0,
        started: int = 7,
        name: str = "strange",
        inside: str = "",
    ) -> None:
        """Let a process live, or change it: its own processor seconds, and those its children left to it.

        `inside`: its number in a namespace of its own.
        """
        self._leave(pid)
        self._below.setdefault(parent, set()).add(pid)
        pages = megabytes * (1 << 20) // PAGE
        numbers = [
            parent,
            *[0] * 9,
            round(seconds * TICKS),
            0,
            round(reaped * TICKS),
            0,
            20,
            0,
            1,
            0,
            started,
            0,
            pages,
        ]
        folder = self.root / str(pid)
        (folder / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        (folder / "stat").write_text(f"{pid} (a (strange) name) S {' '.join(map(str, numbers))} 0 0\n")
        numbers_of_it = "\t".join(filter(None, (str(pid), inside)))
        status = f"Name:\t{name}\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t{numbers_of_it}\n"
        (folder / "status").write_text(status)
        self._list(parent, pid)

    def end(self, pid: int) -> None:
        """Let it be gone."""
        parents = self._leave(pid)
        shutil.rmtree(self.root / str(pid))
        self._list(*parents)

    def machine(self, busy: float, idle: float, *, used: int = 0, total: int = 1 << 30) -> None:
        """Say what all processors did since the start, in seconds, and how much memory is used now."""
        (self.root / "stat").write_text(f"cpu {round(busy * TICKS)} 0 0 {round(idle * TICKS)} 0 0 0 0 0 0\ncpu0 1\n")
        memory = f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {(total - used) // 1024} kB\n"
        (self.root / "meminfo").write_text(memory)

    def _leave(self, pid: int) -> list[int]:
        parents = [parent for parent, below in self._below.items() if pid in below]
        for parent in parents:
            self._below[parent].discard(pid)
        return parents

    def _list(self, *pids: int) -> None:
        for pid in pids if self._lists_children else ():
            task = self.root / str(pid) / "task" / str(pid)
            if task.is_dir():
                (task / "children").write_text(" ".join(map(str, sorted(self._below.get(pid, ())))))
