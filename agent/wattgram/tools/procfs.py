"""What /proc says of the machine and of our own processes."""

from __future__ import annotations

import errno
import os
import resource
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wattgram.model import Cost
from wattgram.ports import ReadFailed

# Where field 22 of /proc/PID/stat is among those after the name.
STARTED = 19


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Jiffies since boot, all processors together."""

    busy: int
    idle: int


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
    for line in _read(proc / "meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isascii() and words[1].isdigit():
            return int(words[1]) * 1024
    raise ReadFailed(f"{proc}/meminfo: no MemTotal", "shape")


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
    folder = proc / str(pid)
    started = start_of(proc, pid)
    lines = _read(folder / "cgroup").splitlines()
    uids = [line.split() for line in _read(folder / "status").splitlines() if line.startswith("Uid:")]
    if start_of(proc, pid) != started:
        raise ReadFailed(f"{folder}: another process by now", "empty")
    paths = dict.fromkeys(line.split(":", 2)[2] for line in lines if line.count(":") >= 2)  # noqa: PLR2004 - proc(5)
    uid = uids[0][1] if uids and len(uids[0]) > 1 and uids[0][1].isascii() and uids[0][1].isdigit() else None
    return Identity(started, None if uid is None else int(uid), tuple(paths))


def start_of(proc: Path, pid: int) -> int:
    """Return when a process started, in clock ticks since boot: field 22 of stat (proc(5)), counted after the name,
    which may hold anything; raise ReadFailed.
    """
    path = proc / str(pid) / "stat"
    fields = _read(path).rpartition(")")[2].split()
    if len(fields) <= STARTED or not fields[STARTED].isascii() or not fields[STARTED].isdigit():
        raise ReadFailed(f"{path}: no start time", "shape")
    return int(fields[STARTED])


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
