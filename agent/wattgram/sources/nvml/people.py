"""Who a pid is: what /proc says of it at this moment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from wattgram.model import Process

LONGEST_PROGRAM = 64
MOST_BYTES = 4096
LEAST_FIELDS = 20
NOBODY = -1


@dataclass(frozen=True, slots=True)
class Person:
    """A process; `uid` None, `program` empty: not known. `owner` is whose /proc says its files are."""

    process: Process
    uid: int | None = None
    program: str = ""
    owner: int = NOBODY


class Population:
    """The processes of a host, as the tree of /proc at a path shows them; who was asked for last is remembered."""

    def __init__(self, proc: Path) -> None:
        self._proc = str(proc)
        self._known: dict[int, Person] = {}

    def keep(self, pids: set[int]) -> None:
        """Forget all others."""
        self._known = {pid: person for pid, person in self._known.items() if pid in pids}

    def person(self, pid: int) -> Person | None:
        """Return who has this pid now; None: nobody, or /proc does not say."""
        found = _read(f"{self._proc}/{pid}/stat")
        if found is None:
            return None
        content, owner = found
        # proc(5): the name stands in parentheses and may hold anything, also parentheses; field 22 is the start.
        name, closing, rest = content.rpartition(b")")
        fields = rest.split()
        if not closing or len(fields) < LEAST_FIELDS or not fields[LEAST_FIELDS - 1].isdigit():
            return None
        process = Process(pid, int(fields[LEAST_FIELDS - 1]))
        program = printable(name.partition(b"(")[2].decode("utf-8", "replace"))
        old = self._known.get(pid)
        if old is None or (old.process, old.owner, old.program) != (process, owner, program):
            # Whoever becomes another user changes the owner of these files too: the longer file is read then only.
            self._known[pid] = Person(process, self._uid(pid), program, owner)
        return self._known[pid]

    def _uid(self, pid: int) -> int | None:
        """The real user: the files of a process that must not be dumped belong to root."""
        found = _read(f"{self._proc}/{pid}/status")
        # The kernel escapes "\n" in names, and nothing else that a line could be taken to end at.
        words = found[0].partition(b"\nUid:")[2].split(None, 1) if found else []
        return int(words[0]) if words and words[0].isdigit() else None


def printable(name: str) -> str:
    """Return a name fit for a label: printable, and not long."""
    return "".join(c if c.isprintable() else "?" for c in name[:LONGEST_PROGRAM])


def _read(path: str) -> tuple[bytes, int] | None:
    """A small file's content and its owner; None: it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, MOST_BYTES), os.fstat(descriptor).st_uid
    except OSError:  # it ended between the two
        return None
    finally:
        os.close(descriptor)
