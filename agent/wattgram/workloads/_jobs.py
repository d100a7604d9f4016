"""The files in which a Slurm prolog notes jobs: one per job, called by its id, with lines `KEY=value`.

    user=alice        uid=1000        account=physics        name=train        gpus=0,1

All are optional, others are ignored. `gpus` are NVML indices, ranges of them, or UUIDs. Only what root wrote counts,
in a folder where nobody else can write: who could write there could give his energy to another.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wattgram.tools.labels import label
from wattgram.workloads._paths import uid

MOST_FILES = 4096
MOST_BYTES = 4096
MOST_GPUS = 64
# Names looked at to find the newest jobs among what epilogs that did not run left behind.
MOST_NAMES = 65536
_ID = re.compile(r"[1-9][0-9]{0,9}")
_UID = re.compile(r"[0-9]{1,10}")
_INDICES = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger("wattgram")


@dataclass(frozen=True, slots=True)
class Job:
    """What a file says of a job; empty or None: it does not say. `written`: Unix seconds of the file."""

    user: str = ""
    uid: int | None = None
    account: str = ""
    name: str = ""
    gpus: tuple[str, ...] = ()
    written: float = 0.0


def parse(text: str, written: float) -> Job:
    """Return what a file says; a line that says nothing we know says nothing."""
    said = {key: value.strip() for key, equals, value in (line.partition("=") for line in text.split("\n")) if equals}
    number = said.get("uid", "")
    return Job(
        user=label(said.get("user", "")),
        uid=uid(number) if _UID.fullmatch(number) else None,
        account=label(said.get("account", "")),
        name=label(said.get("name", "")),
        gpus=parse_gpus(said.get("gpus", "")),
        written=written,
    )


def parse_gpus(text: str) -> tuple[str, ...]:
    """Return UUIDs and indices in decimal; none at all if one of them is something else: half a list is a wrong one."""
    found: dict[str, None] = {}
    for word in text.split(","):
        indices = _INDICES.fullmatch(word)
        if indices:
            first, last = int(indices[1]), int(indices[2] or indices[1])
            found.update((str(index), None) for index in range(first, min(last, first + MOST_GPUS) + 1))
        elif _UUID.fullmatch(word):
            found[word] = None
        else:
            return ()
    return tuple(found) if len(found) <= MOST_GPUS else ()


class JobFolder:
    """Reads the files that changed since the last time. `owner`: the uid whose files count."""

    def __init__(self, path: Path, owner: int = 0, most: int = MOST_FILES) -> None:
        self.path = path
        self._owner = owner
        self._most = most
        self._read: dict[str, tuple[tuple[int, ...], Job | None]] = {}
        self._is_refused = False

    def jobs(self) -> Mapping[str, Job]:
        """Return the jobs by id, of too many those of the highest ids; none where the folder is missing."""
        read = {}
        for name, status in self._files():
            mark = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            before = self._read.get(name)
            read[name] = before if before and before[0] == mark else (mark, self._parsed(name))
        self._read = read
        return {name: job for name, (_, job) in read.items() if job}

    def state(self) -> tuple[int, int] | None:
        """Return what differs after a file was added or struck out, unless in the same tick; None: no folder."""
        try:
            status = self.path.lstat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        try:
            refused = not self._is_ours(self.path.lstat(), stat.S_ISDIR)
            if refused and not self._is_refused:
                log.warning("slurm: %s is not read: it must be root's folder, where nobody else writes", self.path)
            self._is_refused = refused
            names = [] if refused else self._names()
        except OSError:
            return
        for name in names:
            try:
                status = (self.path / name).lstat()
            except OSError:  # struck out meanwhile
                continue
            yield name, status

    def _names(self) -> list[str]:
        with os.scandir(self.path) as entries:
            names = [entry.name for entry in itertools.islice(entries, MOST_NAMES) if _ID.fullmatch(entry.name)]
        return heapq.nlargest(self._most, names, key=int)

    def _parsed(self, name: str) -> Job | None:
        """None: it cannot be read, is too large or is not root's."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self.path / name, flags), "rb") as file:
                status = os.fstat(file.fileno())
                content = file.read(MOST_BYTES + 1) if self._is_ours(status, stat.S_ISREG) else None
        except OSError:
            return None
        if content is None or len(content) > MOST_BYTES:
            return None
        return parse(content.decode("utf-8", "replace"), status.st_mtime)

    def _is_ours(self, status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
        others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return is_kind(status.st_mode) and status.st_uid == self._owner and not others_write
