"""What a family of processes used, as the kernel tells it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold blanks; the first is the state."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def family(root: int) -> list[int]:
    """Return `root` and all its living descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(stat_of(int(entry.name))[1])
            except OSError:
                continue  # it ended while we looked
    members = [root]
    for member in members:
        members += [pid for pid, parent in parents.items() if parent == member]
    return members


def cpu_seconds(root: int) -> float:
    """Return the processor time of the family: of the living, and of those children that were waited for."""
    ticks = sum(int(field) for pid in family(root) for field in stat_of(pid)[11:15])
    return ticks / TICKS_PER_SECOND


def pss_bytes(root: int) -> int:
    """Return the family's proportional set size: shared pages are divided between all who share them."""
    return 1024 * sum(
        int(line.split()[1])
        for pid in family(root)
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )


def alone_bytes(root: int) -> int:
    """Return what the family would hold if nobody else ran the same libraries: each file's pages once, all the rest.

    On a machine where other Pythons run, the proportional set size looks smaller than this.
    """
    of_files: defaultdict[str, dict[int, int]] = defaultdict(dict)
    anonymous = 0
    for pid in family(root):
        name, resident = "", 0
        for line in (PROC / str(pid) / "smaps").read_text().splitlines():
            if MAPPING.match(line):
                name = " ".join(line.split()[5:]) + line.split()[2]
            elif line.startswith("Rss:"):
                resident = int(line.split()[1])
            elif line.startswith("Anonymous:"):
                own = int(line.split()[1])
                anonymous += own
                of_files[name][pid] = of_files[name].get(pid, 0) + resident - own
    return 1024 * (anonymous + sum(max(sizes.values()) for sizes in of_files.values()))
