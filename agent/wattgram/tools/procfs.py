"""What /proc says of the machine and of our own processes."""

from __future__ import annotations

import errno
import os
import resource
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wattgram.model import Cost
from wattgram.ports import ReadFailed

STAT_BYTES = 4096
MOST_GROUPS_BYTES = 1 << 18
# A process's flag that says that it is a thread of the kernel's own (include/linux/sched.h), and their parent.
PF_KTHREAD, KTHREADD = 0x0020_0000, 2


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Jiffies since boot, all processors together."""

    busy: int
    idle: int


class ProcessTimes(NamedTuple):
    """A process at one moment: its start since boot and the processor time it has used itself, both in jiffies."""

    started: int
    used: int
    is_kernel: bool
    name: str


def raw(path: str, most: int) -> bytes:
    """Return what one read of a kernel's file gives, at most so many bytes: all of what fits a page; raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def raw_whole(path: str, most: int) -> bytes:
    """Return the bytes of a kernel's list, at most so many; raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while len(content) < most and (more := os.read(descriptor, most - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def process_stat(proc: str, pid: int) -> bytes:
    """Return a process's `stat`; nothing: it is not there, or cannot be read."""
    try:
        return raw(f"{proc}/{pid}/stat", STAT_BYTES)
    except OSError:
        return b""


def parse_process(content: bytes) -> ProcessTimes | None:
    """Return the times in a process's `stat`; None: it holds none. The name may itself hold brackets and spaces."""
    head, _, rest = content.rpartition(b")")
    words = rest.split(None, 20)
    try:
        parent, flags, user, system, started = (int(words[n]) for n in (1, 6, 11, 12, 19))
    except (ValueError, IndexError):
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return ProcessTimes(started, max(0, user + system), bool(flags & PF_KTHREAD) or parent == KTHREADD, name)


def process_user(proc: str, pid: int) -> int | None:
    """Return the user a process runs for, its real one; None: unknown."""
    try:
        content = raw(f"{proc}/{pid}/status", STAT_BYTES)
    except OSError:
        return None
    words = content.partition(b"\nUid:")[2].split(None, 1)
    return int(words[0]) if words and words[0].isdigit() and len(words[0]) <= len("4294967295") else None


def resident_pages(proc: str, pid: int) -> int | None:
    """Return the pages of memory that a process has in use; None: unknown."""
    try:
        words = raw(f"{proc}/{pid}/statm", STAT_BYTES).split()
    except OSError:
        return None
    return int(words[1]) if len(words) > 1 and words[1].isdigit() and len(words[1]) <= len(str(2**64)) else None


def cpu_times(proc: Path) -> CpuTimes:
    """Return the machine's processor time from `<proc>/stat`; raise ReadFailed.

    Guest time is inside user time already (proc(5)), so it is not added.
    """
    text = _read(proc / "stat")
    fields = text.split("\n", 1)[0].split()
    if len(fields) < 8 or fields[0] != "cpu" or not all(f.isascii() and f.isdigit() for f in fields[1:9]):  # noqa: PLR2004
        raise ReadFailed(f"{proc}/stat: no line of processor times", "shape")
    user, nice, system, idle, iowait, irq, softirq = (int(f) for f in fields[1:8])
    steal = int(fields[8]) if len(fields) > 8 else 0  # noqa: PLR2004
    return CpuTimes(busy=user + nice + system + irq + softirq + steal, idle=idle + iowait)


def memory_total_bytes(proc: Path) -> int:
    """Return the machine's memory from `<proc>/meminfo`; raise ReadFailed."""
    return _memory_bytes(proc, "MemTotal")


def memory_available_bytes(proc: Path) -> int:
    """Return how much of the memory could be had for the asking, from `<proc>/meminfo`; raise ReadFailed."""
    return _memory_bytes(proc, "MemAvailable")


def _memory_bytes(proc: Path, name: str) -> int:
    for line in _read(proc / "meminfo").splitlines():
        words = line.split()
        if words[:1] == [f"{name}:"] and len(words) > 1 and words[1].isascii() and words[1].isdigit():
            return int(words[1]) * 1024
    raise ReadFailed(f"{proc}/meminfo: no {name}", "shape")


def cpu_identity(proc: Path) -> dict[str, str]:
    """Return the first processor's `vendor_id`, `model name` and the like; empty where /proc/cpuinfo has none."""
    found: dict[str, str] = {}
    for line in _read(proc / "cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if not colon and found:
            break
        found.setdefault(name.strip(), value.strip())
    return found


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process a pid is now: its start in clock ticks since boot, its real user, and its control groups, one path
    for each hierarchy, without repetition.
    """

    started: int
    uid: int | None
    paths: tuple[str, ...]


def identity(proc: Path, pid: int) -> Identity:
    """Return which process a pid is now; raise ReadFailed when there is none, or when it ended meanwhile.

    The groups are read between two looks at the start, so that they are this process's and no successor's.
    """
    started = start_of(proc, pid)
    try:
        content = raw_whole(f"{proc}/{pid}/cgroup", MOST_GROUPS_BYTES)
    except OSError as error:
        raise ReadFailed(f"{proc}/{pid}/cgroup: {error.strerror}", "server") from error
    # The kernel keeps "\n" out of groups' names and nothing else: a line must end at no other character.
    lines = content.decode("utf-8", "replace").split("\n")
    uid = process_user(str(proc), pid)
    if start_of(proc, pid) != started:
        raise ReadFailed(f"{proc}/{pid}: another process by now", "empty")
    paths = dict.fromkeys(line.split(":", 2)[2] for line in lines if line.count(":") >= 2)  # noqa: PLR2004 - proc(5)
    return Identity(started, uid, tuple(paths))


def start_of(proc: Path, pid: int) -> int:
    """Return when a process started, in clock ticks since boot; raise ReadFailed when there is none to be seen."""
    found = parse_process(process_stat(str(proc), pid))
    if found is None:
        raise ReadFailed(f"{proc}/{pid}/stat: no process", "empty")
    return found.started


def own_cost() -> Cost:
    """Return what this process used so far, also when no descriptor is left to ask with."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    virtual, resident = os.pread(_statm(), 100, 0).split()[:2]
    page = resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Cost(
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        resident_bytes=int(resident) * page,
        virtual_bytes=int(virtual) * page,
        open_fds=_open_fds(most),
        max_fds=most,
        start_time=_start_time(),
    )


@cache
def _statm() -> int:
    """Our own memory's file, kept open."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def _open_fds(most: int) -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return most  # none is left: all are open


@cache
def _start_time() -> float:
    """Unix seconds of this process's start: proc(5), field 22 of stat, after the name that may hold anything.

    It counts from boot; boot is when the clock that counts from it was 0, which a sandbox without /proc/stat knows too.
    """
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ReadFailed(f"{path}: {error.strerror}", "server") from error
