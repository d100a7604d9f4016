"""The kernel's control groups: where their trees are, what each group used, and who is in it.

Documentation/admin-guide/cgroup-v2.rst; for v1 cgroup-v1/cpuacct.rst and cgroup-v1/memory.rst beside it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from wattgram.tools.procfs import raw, raw_whole

V1, V2 = 1, 2
NANOSECONDS = 1_000_000_000
NANOSECONDS_PER_MICROSECOND = 1000
# 20 digits hold any 64-bit number.
LONGEST_NUMBER = 20
STAT_BYTES = 16_384
PROCS_BYTES = 4096
# What reading a group gives that was removed: its folder is not there, or its file was open already.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV})


class Gone(Exception):  # noqa: N818 - news, not an error
    """A group is not there any more."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One tree of control groups, mounted at `root`: of v1 one controller's, of v2 everybody's."""

    root: str
    version: int

    @property
    def is_whole(self) -> bool:
        """Whether it begins at the machine's own root; else it is what one container sees of it."""
        if self.version == V2:
            return not _is_there(f"{self.root}/cgroup.type")  # every group has it but the root
        return _is_there(f"{self.root}/release_agent")  # the root alone has it

    def used(self, folder: str) -> int | None:
        """Return the nanoseconds of processor time used in a group and below, ever; None: it does not say.

        Raise Gone.
        """
        if self.version == V1:
            return _whole(_content(folder, "cpuacct.usage"))
        microseconds = _field(_content(folder, "cpu.stat"), b"usage_usec")
        return None if microseconds is None else microseconds * NANOSECONDS_PER_MICROSECOND

    def held(self, folder: str) -> int | None:
        """Return the bytes of memory charged to a group and those below; None: it does not say. Raise Gone."""
        return _whole(_content(folder, "memory.usage_in_bytes" if self.version == V1 else "memory.current"))

    def reclaimable(self, folder: str) -> int | None:
        """Return the bytes of `held` that are a cache of files not used lately; None: it does not say. Raise Gone."""
        content = _content(folder, "memory.stat", STAT_BYTES)
        return _field(content, b"total_inactive_file" if self.version == V1 else b"inactive_file")

    def adds_up(self, folder: str) -> bool:
        """Whether the memory charged to a group contains that of the groups below it."""
        if self.version == V2:
            return True
        try:
            return _content(folder, "memory.use_hierarchy").strip() != b"0"
        except Gone:
            return True

    def first_process(self, folder: str) -> int | None:
        """Return a process that is in the group itself, 0 if only who sees more could name it; None: nobody is.

        Raise Gone.
        """
        try:
            content = raw(f"{folder}/cgroup.procs", PROCS_BYTES)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # a threaded group: it has threads, not processes
                _absent(folder, error)
                return None
            return 0 if _content(folder, "cgroup.threads").strip() else None
        found = _pids(content)
        return next((pid for pid in found if pid), 0) if found else None

    def processes(self, most: int) -> list[int]:
        """Return who is in the root group, each once and at most so many."""
        try:
            content = raw_whole(f"{self.root}/cgroup.procs", (most + 1) * 11)
        except OSError:
            return []
        return [pid for pid in dict.fromkeys(_pids(content)) if pid][:most]


class Folders:
    """The groups below each group. A folder is listed anew when the number of its links says that one came or went."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, tuple[str, ...]]] = {}

    def below(self, folder: str) -> tuple[str, ...]:
        """Return the names of the groups in a group, the same object while they are the same; raise Gone or OSError."""
        try:
            links = os.stat(folder).st_nlink  # noqa: PTH116 - once per group and turn
            known = self._known.get(folder)
            if known is not None and known[0] == links:
                return known[1]
            names = _folders_in(folder) if links != 2 else ()  # noqa: PLR2004 - itself and its name
        except OSError as error:
            self._known.pop(folder, None)
            if error.errno in GONE:
                raise Gone from error
            raise
        if links >= 2:  # noqa: PLR2004 - else this filesystem counts no links
            self._known[folder] = (links, names)
        return names

    def forget(self, folder: str) -> None:
        """List a folder anew the next time."""
        self._known.pop(folder, None)


def processor_hierarchy(root: str) -> Hierarchy | None:
    """Return the tree that counts processor time; None: there is none. Where v1 and v2 share it out, v1 counts."""
    if _is_there(f"{root}/cgroup.controllers"):
        return _counting(Hierarchy(root, V2))
    for name in ("cpuacct", "cpu,cpuacct", *_names(root)):
        if _is_there(f"{root}/{name}/cpuacct.usage"):
            return Hierarchy(f"{root}/{name}", V1)
    unified = f"{root}/unified"
    return _counting(Hierarchy(unified, V2)) if _is_there(f"{unified}/cgroup.controllers") else None


def memory_hierarchy(root: str) -> Hierarchy | None:
    """Return the tree that counts memory; None: there is none, or v2 does not count it."""
    if _is_there(f"{root}/memory/memory.usage_in_bytes"):
        return Hierarchy(f"{root}/memory", V1)
    for place in (root, f"{root}/unified"):
        try:
            if b"memory" in raw(f"{place}/cgroup.subtree_control", PROCS_BYTES).split():
                return Hierarchy(place, V2)
        except OSError:
            continue
    return None


def shown(path: str) -> str:
    """Return a path that may hold anything as text that anybody can encode."""
    return os.fsencode(path).decode("utf-8", "replace")


def _counting(hierarchy: Hierarchy) -> Hierarchy | None:
    """The hierarchy, if it counts processor time: some kernels do not in the root."""
    for folder in (hierarchy.root, *(f"{hierarchy.root}/{name}" for name in _names(hierarchy.root))):
        try:
            if hierarchy.used(folder) is not None:
                return hierarchy
        except Gone:
            continue
    return None


def _names(folder: str) -> tuple[str, ...]:
    try:
        return _folders_in(folder)
    except OSError:
        return ()


def _folders_in(folder: str) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)))


def _content(folder: str, name: str, most: int = PROCS_BYTES) -> bytes:
    """A file's bytes; none, where it is not there or refuses. Raise Gone when the group is not there."""
    try:
        return raw(f"{folder}/{name}", most)
    except OSError as error:
        _absent(folder, error)
        return b""


def _is_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - a Path raises where it is refused
    except OSError:
        return False
    return True


def _absent(folder: str, error: OSError) -> None:
    """Raise Gone if that is what an error means: a file may lack in a group that is there."""
    if error.errno in GONE and not _is_there(folder):
        raise Gone from error


def _whole(content: bytes) -> int | None:
    word = content.strip()
    return int(word) if word.isdigit() and len(word) <= LONGEST_NUMBER else None


def _field(content: bytes, name: bytes) -> int | None:
    """The number of one line of a flat keyed file."""
    for line in content.split(b"\n"):
        if line.startswith(name) and line[len(name) : len(name) + 1] == b" ":
            return _whole(line[len(name) :])
    return None


def _pids(content: bytes) -> list[int]:
    """The numbers of a list; a last one that is cut off is left out."""
    words = content[: content.rfind(b"\n") + 1].split()
    return [int(word) for word in words if word.isdigit() and len(word) <= LONGEST_NUMBER]
