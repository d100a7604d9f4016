"""Who kept the processors and the memory busy: readings are others' affair."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from wattgram.model import Activity, Actor, Instant, Sample
from wattgram.ports import Clock, ReadFailed, Seconds, SourceOptions, Unavailable
from wattgram.sources.cgroups.bounds import Bounds
from wattgram.sources.cgroups.loose import HZ, Loose
from wattgram.sources.cgroups.memory import Memory
from wattgram.sources.cgroups.processors import Processors
from wattgram.tools.cgroupfs import Hierarchy, memory_hierarchy, processor_hierarchy
from wattgram.tools.procfs import CpuTimes, cpu_times, memory_available_bytes, memory_total_bytes

# A stretch shorter than this part of an interval tells little: it is left to grow.
LEAST_PART = 0.5
# How much more than the machine can do a group may seem to have done, by how its counters are read: factor, seconds.
SLACK = (2.0, 1.0)
MOUNT = "is /sys/fs/cgroup mounted? in a container: mount the host's there, read-only"
SHARE = (
    "let it see the host's groups and processes: of Kubernetes hostPID: true and a hostPath of /sys/fs/cgroup, "
    "of Docker --cgroupns host --pid host --volume /sys/fs/cgroup:/sys/fs/cgroup:ro"
)


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """`path` is where control groups are mounted, `proc` where /proc is.

    `memory_every`: seconds between looks at who holds memory.
    """

    path: str = "/sys/fs/cgroup"
    proc: str = "/proc"
    memory_every: Seconds = Seconds(5)


def open_source(options: Options, clock: Clock, every: float) -> CgroupsSource:
    """Return the source; raise Unavailable where no group counts processor time or only a container's own are seen."""
    hierarchy = processor_hierarchy(options.path)
    if hierarchy is None:
        raise Unavailable(f"no control groups that count processor time in {options.path}", MOUNT)
    if not hierarchy.is_whole:
        raise Unavailable(f"{hierarchy.root} shows one container's own control groups", SHARE)
    memory = memory_hierarchy(options.path)
    return CgroupsSource(options, clock, every, hierarchy, memory if memory and memory.is_whole else None, Bounds())


class CgroupsSource:
    """Remembers each group's and each loose process's counter between two turns."""

    def __init__(
        self,
        options: Options,
        clock: Clock,
        every: float,
        processors: Hierarchy,
        memory: Hierarchy | None,
        bounds: Bounds,
    ) -> None:
        proc = options.proc
        self._proc = Path(proc)
        self._clock = clock
        self._every = every
        self._memory_every = max(float(options.memory_every), every)
        self._at = self._memory_at = clock.now()
        self._asked_memory = -math.inf
        self._boot = self._at.mono + clock.asleep()
        self._times = cpu_times(self._proc)
        self._loose = Loose(processors, proc, bounds)
        self._loose.busy(math.inf, 0.0)
        self._processors = Processors(processors, proc, bounds, self._at.mono)
        self._memory = Memory(memory, proc, bounds) if memory is not None else None
        # In v2 the same processes are in no group; in v1 each tree has its own.
        self._resident = Loose(memory, proc, bounds) if memory and memory != processors else self._loose

    def read(self) -> Sample:
        """Return who was busy since the last turn; raise ReadFailed when /proc or the tree of groups cannot be read.

        A turn that follows soon after another has nothing to say of processors yet.
        """
        now = self._clock.now()
        activities: list[Activity] = []
        if now.mono - self._at.mono >= LEAST_PART * self._every:
            cpu = self._busy(now)
            # The processors of a Grace module are in its rest, where no meter tells them apart.
            activities += [cpu, replace(cpu, component="module_rest")]
        # A turn comes a little early or late: what is due within half a turn is done now.
        if self._memory is not None and now.mono - self._asked_memory >= self._memory_every - self._every / 2:
            self._asked_memory = now.mono
            activities += self._holding(self._memory, now)
        return Sample(now, activities=tuple(activities))

    def close(self) -> None:
        """Hold nothing, let go of nothing."""

    def _busy(self, now: Instant) -> Activity:
        times = cpu_times(self._proc)
        busy, idle = _since(self._times, times)
        factor, slack = SLACK
        most = factor * max(busy + idle, now.mono - self._at.mono) + slack
        actors = [*self._processors.actors(now.mono, most), *self._loose.busy(self._boot, most)]
        start, self._at, self._times = self._at, now, times
        self._boot = now.mono + self._clock.asleep()
        return Activity(
            "cpu",
            "",
            start,
            now,
            self._every,
            tuple(actors),
            system=max(0.0, busy - _sum(actors)),
            idle=idle,
            utilization=busy / (busy + idle) if busy + idle else None,
        )

    def _holding(self, groups: Memory, now: Instant) -> list[Activity]:
        """Return who holds the memory; nobody knows, where the kernel does not say how much of it is in use."""
        try:
            available = memory_available_bytes(self._proc)
            used = memory_total_bytes(self._proc) - available
            actors = [*groups.actors(now.mono), *self._resident.resident(anew=self._resident is not self._loose)]
        except ReadFailed:
            return []
        start, self._memory_at = self._memory_at, now
        system = max(0.0, used - _sum(actors))
        every = self._memory_every
        return [Activity("dram", "", start, now, every, tuple(actors), system=system, idle=float(available))]


def _since(before: CpuTimes, now: CpuTimes) -> tuple[float, float]:
    """Seconds busy and idle between two readings; of the idle ones the kernel takes some back now and then."""
    return max(0, now.busy - before.busy) / HZ, max(0, now.idle - before.idle) / HZ


def _sum(actors: list[Actor]) -> float:
    return sum(actor.weight or 0.0 for actor in actors)
