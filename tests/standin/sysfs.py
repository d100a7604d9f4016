"""RAPL counters as files that move and wrap, with the writer's own account of every microjoule shown."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, final

MICROJOULES_PER_JOULE = 1_000_000


class Profile(Protocol):
    """Power over CLOCK_MONOTONIC seconds."""

    def joules(self, start: float, end: float, /) -> float:
        """Energy between two moments; never negative."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One powercap zone; `path` is its name in class/powercap, such as `intel-rapl:0:0`.

    `start` is the unwrapped counter at first sight. `mirror_of` shows another zone's counter instead of an own one.
    `extra` holds further files of the zone by name.
    """

    path: str
    name: str
    profile: Profile | None = None
    wraps_at: int = 262_143_328_850
    start: int = 1_234_567_890
    mirror_of: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Where the zone lies below devices/virtual/powercap, control type first."""
        control, *ids = self.path.split(":")
        return (control, *(":".join([control, *ids[: depth + 1]]) for depth in range(len(ids))))


@dataclass(slots=True)
class _Counter:
    """A zone's account: `base` microjoules at `since`, `written` when last shown, both unwrapped."""

    zone: Zone
    base: int
    since: float
    written: int
    held: bool = False  # somebody else owns the file for now

    def advance(self, now: float) -> None:
        if self.zone.profile is not None:
            used = self.zone.profile.joules(self.since, now) * MICROJOULES_PER_JOULE
            self.written = max(self.written, self.base + int(used))

    def restart(self, value: int, now: float) -> None:
        self.base, self.since, self.written = value, now, value


@final
class RaplTree:
    """`<root>/sys/class/powercap` and the little of `<root>/proc` that a host is described by.

    As on a real machine the class folder holds symlinks into devices/virtual/powercap, sub-zones beside their
    parents, and `energy_uj` is readable by its owner alone. Zones stand still until `start_writer`.
    """

    def __init__(self, root: Path, zones: Iterable[Zone], cpuinfo_vendor: str = "GenuineIntel") -> None:
        self.root = root
        self.sys = root / "sys"
        self.proc = root / "proc"
        self._lock = threading.Lock()  # owns _counters and every energy_uj
        self._counters: dict[str, _Counter] = {}
        self._stop = threading.Event()
        self._writer: threading.Thread | None = None
        self._late = 0.0
        self._write_proc(cpuinfo_vendor)
        for zone in zones:
            self.add(zone)

    def __enter__(self) -> RaplTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.freeze()

    # --- the writer ---------------------------------------------------------------------------

    def start_writer(self, every: float = 0.01) -> None:
        """Let the counters run from now on, rewritten every so many seconds; after `freeze`, on from there."""
        if self._writer is not None:
            raise RuntimeError("the writer is running")
        now = time.monotonic()
        with self._lock:
            for counter in self._counters.values():
                counter.restart(counter.written, now)
        self._stop.clear()
        self._writer = threading.Thread(target=self._run, args=(every,), name="rapl-writer", daemon=True)
        self._writer.start()

    def freeze(self) -> None:
        """Write one last value and stand still; without a running writer, nothing."""
        if self._writer is None:
            return
        self._stop.set()
        self._writer.join()
        self._writer = None
        self._turn(time.monotonic())

    @property
    def late(self) -> float:
        """Seconds that a shown counter was old at most: more than `every` where the machine stood still."""
        return self._late

    def unwrapped(self, zone_path: str) -> int:
        """Microjoules as last written, before the modulo: what the file shows is this modulo `wraps_at`."""
        with self._lock:
            return self._shown_by(self._counters[zone_path]).written

    # --- faults -------------------------------------------------------------------------------

    def set_raw(self, zone_path: str, text: str) -> None:
        """Show this text instead of the counter until `release`; the counter runs on unseen."""
        with self._lock:
            self._counters[zone_path].held = True
            _replace(self.file(zone_path), text)

    def deny(self, zone_path: str) -> None:
        """Let every read fail with EIO until `release`: one's own memory opens, also for root, and does not read."""
        with self._lock:
            self._counters[zone_path].held = True
            new = self.file(zone_path).with_name(".energy_uj.new")
            new.symlink_to("/proc/self/mem")
            new.replace(self.file(zone_path))

    def release(self, zone_path: str) -> None:
        """End `set_raw` or `deny`: the file shows the counter again, which now has run on."""
        with self._lock:
            self._counters[zone_path].held = False
            self._write(self._counters[zone_path])

    def reset(self, zone_path: str, to: int = 0) -> None:
        """Restart the counter and its account at this value, as after a module reload."""
        now = time.monotonic()
        with self._lock:
            self._counters[zone_path].restart(to, now)
            self._write(self._counters[zone_path])

    def add(self, zone: Zone) -> None:
        """Let a zone appear; beside a running writer its counter runs from now."""
        with self._lock:
            if zone.path in self._counters:
                raise ValueError(f"{zone.path} is there already")
            self._write_zone(zone)
            self._counters[zone.path] = _Counter(zone, zone.start, time.monotonic(), zone.start)
            self._write(self._counters[zone.path])
            _link(self._class / zone.path, self._device(zone))

    def remove(self, zone_path: str) -> None:
        """Let a zone and its sub-zones disappear, as on unloading the module."""
        with self._lock:
            zone = self._counters[zone_path].zone
            if any(other.zone.mirror_of == zone_path for other in self._counters.values()):
                raise ValueError(f"{zone_path} is mirrored: remove the mirror first")
            for path in [p for p in self._counters if p == zone_path or p.startswith(zone_path + ":")]:
                (self._class / path).unlink()
                del self._counters[path]
            shutil.rmtree(self._device(zone))

    def file(self, zone_path: str) -> Path:
        """Where a reader finds the zone's `energy_uj`."""
        return self._class / zone_path / "energy_uj"

    # --- inside -------------------------------------------------------------------------------

    @property
    def _class(self) -> Path:
        return self.sys / "class/powercap"

    def _device(self, zone: Zone) -> Path:
        return self.sys.joinpath("devices/virtual/powercap", *zone.parts)

    def _run(self, every: float) -> None:
        last = time.monotonic()
        while not self._stop.wait(every):
            self._turn(time.monotonic())
            written = time.monotonic()
            self._late, last = max(self._late, written - last), written

    def _turn(self, now: float) -> None:
        with self._lock:
            for counter in self._counters.values():
                counter.advance(now)
            for counter in self._counters.values():
                self._write(counter)

    def _shown_by(self, counter: _Counter) -> _Counter:
        original = counter.zone.mirror_of
        return counter if original is None else self._counters[original]

    def _write(self, counter: _Counter) -> None:
        if not counter.held:
            shown = self._shown_by(counter)
            _replace(self._device(counter.zone) / "energy_uj", f"{shown.written % shown.zone.wraps_at}\n")

    def _write_zone(self, zone: Zone) -> None:
        self._write_control(zone.parts[0])
        files = {
            "name": f"{zone.name}\n",
            "max_energy_range_uj": f"{zone.wraps_at}\n",
            "enabled": "1\n",
            "uevent": "",
            **zone.extra,
        }
        for name, text in files.items():
            _put(self._device(zone) / name, text)

    def _write_control(self, control: str) -> None:
        device = self.sys / "devices/virtual/powercap" / control
        if not device.exists():
            _put(device / "enabled", "1\n")
            _put(device / "uevent", "")
            _link(self._class / control, device)

    def _write_proc(self, vendor: str) -> None:
        cores = range(2)
        _put(self.proc / "cpuinfo", "\n".join(_CPUINFO.format(core=core, vendor=vendor) for core in cores))
        _put(self.proc / "meminfo", _MEMINFO)
        _put(self.proc / "stat", _STAT)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))


def _replace(path: Path, text: str) -> None:
    """Let a reader see the old text or the new, never a part; 0400 as the kernel has it since 5.10."""
    new = path.with_name(".energy_uj.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


_CPUINFO = """\
processor\t: {core}
vendor_id\t: {vendor}
cpu family\t: 6
model\t\t: 143
model name\t: Stand-in CPU @ 2.00GHz
physical id\t: 0
siblings\t: 2
core id\t\t: {core}
cpu cores\t: 2
flags\t\t: fpu tsc msr
"""

_MEMINFO = """\
MemTotal:       16384000 kB
MemFree:         8192000 kB
MemAvailable:   12288000 kB
Buffers:          204800 kB
Cached:          3276800 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Active:          4096000 kB
Inactive:        2048000 kB
Shmem:            102400 kB
Slab:             307200 kB
"""

_STAT = """\
cpu  2000 0 1000 96000 100 0 50 0 0 0
cpu0 1000 0 500 48000 50 0 25 0 0 0
cpu1 1000 0 500 48000 50 0 25 0 0 0
intr 0
ctxt 123456
btime 1750000000
processes 1000
procs_running 1
procs_blocked 0
softirq 0
"""
