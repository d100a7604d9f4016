"""Who kept one GPU busy since it was last looked at: its processes, how busy each was, and how long it was there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wattgram.model import Activity, Actor, Instant, Part, Process
from wattgram.ports import Clock, ReadFailed
from wattgram.sources.nvml.mig import Asked as AskedOfInstances
from wattgram.sources.nvml.mig import Instances, parts
from wattgram.sources.nvml.occupants import Busy, Slot
from wattgram.sources.nvml.people import Person, Population
from wattgram.sources.nvml.usage import Usage

GRAPHICS_SECONDS = 10.0
MOST_ACTORS = 4096
MOST_STRANGERS = 64
# A process that is gone was there for half of the time: nothing is known of when it went.
HALF = 0.5
# What was there before a longer silence than this, or than so many turns, is not what came before now.
LONGEST_SILENCE, MOST_TURNS = 60.0, 3
# The kernel keeps 15 characters of a program's name.
MPS_SERVER = "nvidia-cuda-mps-server"[:15]
TICKS = os.sysconf("SC_CLK_TCK")

People = Mapping[tuple[Process, str], Person]  # by process and MIG instance


class Asked(AskedOfInstances, Protocol):
    """What this needs of NVML; see `occupants.Occupants`."""

    def compute(self, handle: Any) -> list[int] | None: ...  # noqa: D102
    def mps(self, handle: Any) -> list[int] | None: ...  # noqa: D102
    def graphics(self, handle: Any) -> list[int] | None: ...  # noqa: D102
    def utilization(self, handle: Any) -> float | None: ...  # noqa: D102
    def busy(self, handle: Any, last: int) -> list[Busy] | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found: who is there, how busy each pid was, who came and went, the instances, and the whole's
    utilisation.
    """

    here: People
    weights: Mapping[int, float] | None
    strangers: People
    parts: tuple[Part, ...] = ()
    utilization: float | None = None


class Watch:
    """One GPU, looked at every `every` seconds, by one thread at a time."""

    def __init__(self, asked: Asked, clock: Clock, proc: Path, every: float) -> None:
        self._asked = asked
        self._clock = clock
        self._every = every
        self._population = Population(proc)
        self._instances = Instances(asked)
        self._usage = Usage()
        self._at: Instant | None = None
        self._here: People = {}
        self._had_clients = self._has_clients = False
        self._drawing: dict[int, Process | None] = {}
        self._drawing_at: float | None = None

    def look(self, device: str, handle: Any, at: Instant) -> Activity | None:
        """Return who kept the GPU busy from the last look until `at`, which is now; None: it is the first look, or
        NVML will not say.
        """
        if self._at is not None and is_old(self._at.mono, at.mono, self._every):
            self.forget()
        start, self._at = self._at, at
        before, self._here = self._here, {}
        self._had_clients, self._has_clients = self._has_clients, False
        try:
            slots = self._instances.layout(handle, at.mono)
            if slots is None:
                seen = self._whole(handle, at.mono, before)
            else:
                seen = self._divided(handle, slots, at.mono, before)
        except ReadFailed:
            return None
        self._here = seen.here
        self._population.keep({process.pid for process, _ in seen.here})
        if start is None:
            return None
        boot = at.mono + self._clock.asleep()
        gone = {**self._still_to_count(before, seen), **seen.strangers}
        found = actors(seen.here, gone, seen.weights, at.mono - start.mono, boot)
        return Activity("gpu", device, start, at, self._every, found, seen.parts, utilization=seen.utilization)

    def forget(self) -> None:
        """Begin anew: what is seen next is the first look."""
        self._instances.forget()
        self._usage = Usage()
        self._at, self._here, self._has_clients = None, {}, False
        self._drawing, self._drawing_at = {}, None

    def _whole(self, handle: Any, mono: float, before: People) -> _Seen:
        """A GPU that is not divided."""
        utilization = None
        with suppress(ReadFailed):
            utilization = self._asked.utilization(handle)
        here = self._computing(handle, before)
        here |= self._drawers(handle, mono, before, here)
        weights, strangers = self._weights(handle, mono, here, before, is_busy=bool(utilization))
        return _Seen(here, weights, strangers, utilization=utilization)

    def _divided(self, handle: Any, slots: tuple[Slot, ...], mono: float, before: People) -> _Seen:
        """A GPU of MIG instances: how busy each process is no driver says, nor how busy the whole."""
        here: dict[tuple[Process, str], Person] = {}
        for slot in slots:
            computing = self._computing(slot.handle, before)
            here |= {(process, slot.uuid): who for (process, _), who in computing.items()}
        occupied = {part for _, part in here}
        return _Seen(here, None, {}, parts(slots, occupied, self._instances.active(handle, mono)))

    def _computing(self, handle: Any, before: People) -> dict[tuple[Process, str], Person]:
        """Who computes on a GPU or an instance; the server through which MPS clients do is none of them."""
        compute = self._asked.compute(handle)
        if compute is None:
            raise ReadFailed("this GPU does not list its processes")
        clients = self._asked.mps(handle) or ()
        self._has_clients |= bool(clients)
        people = self._people({*compute, *clients}, before)
        if clients or self._had_clients:
            people = [who for who in people if who.process.pid in clients or who.program != MPS_SERVER]
        return {(who.process, ""): who for who in people}

    def _still_to_count(self, before: People, seen: _Seen) -> People:
        """Who was there at the last look: without the server whose clients came, and instances that are no more."""
        places = {"", *(part.id for part in seen.parts)}
        return {
            (process, part): who
            for (process, part), who in before.items()
            if part in places and not self._is_server(who)
        }

    def _is_server(self, who: Person) -> bool:
        """Whether it is only the server of those who are on the GPU."""
        return self._has_clients and who.program == MPS_SERVER

    def _drawers(self, handle: Any, mono: float, before: People, here: People) -> dict[tuple[Process, str], Person]:
        """Who draws on the GPU, and is not among those who compute: asked for now and then, looked after in between."""
        if self._drawing_at is None or mono - self._drawing_at >= GRAPHICS_SECONDS:
            self._drawing_at = mono
            pids: list[int] = []
            with suppress(ReadFailed):
                pids = self._asked.graphics(handle) or []
            self._drawing = {pid: self._process(pid) for pid in pids}
        computing = {process.pid for process, _ in here}
        self._drawing = {
            pid: who
            for pid, who in self._drawing.items()
            if pid in computing or who is None or who == self._process(pid)
        }
        return {(who.process, ""): who for who in self._people(set(self._drawing) - computing, before)}

    def _process(self, pid: int) -> Process | None:
        who = self._population.person(pid)
        return who.process if who else None

    def _people(self, pids: AbstractSet[int], before: People) -> list[Person]:
        """Who has the pids that NVML lists; one who has just ended is who it was before."""
        were = {process.pid: who for (process, _), who in before.items()}
        found = ((pid, self._population.person(pid)) for pid in sorted(pids)[:MOST_ACTORS] if pid > 0)
        return [who or were.get(pid) or Person(Process(pid, 0)) for pid, who in found]

    def _weights(
        self, handle: Any, mono: float, here: People, before: People, *, is_busy: bool
    ) -> tuple[Mapping[int, float] | None, People]:
        """How busy each process was, and those that came and went unlisted: /proc knows them still.

        Where all that MPS clients do counts as their server's, nobody knows.
        """
        people = (*here.values(), *before.values())
        listed = {who.process.pid for who in people if not self._is_server(who)}
        strangers: dict[int, Person | None] = {}

        def is_there(pid: int) -> bool:
            if pid in listed:
                return True
            if pid not in strangers:
                if len(strangers) >= MOST_STRANGERS:
                    return False
                strangers[pid] = self._population.person(pid)
            who = strangers[pid]
            return who is not None and not self._is_server(who)

        try:
            samples = self._asked.busy(handle, self._usage.last)
        except ReadFailed:
            return None, {}
        weights = self._usage.weights(samples, is_there, mono, is_busy=is_busy)
        if self._has_clients and not weights:
            return None, {}
        found = (who for pid, who in strangers.items() if who is not None and pid in (weights or ()))
        return weights, {(who.process, ""): who for who in found}


def actors(
    here: People,
    before: People,
    weights: Mapping[int, float] | None,
    seconds: float,
    boot: float,
) -> tuple[Actor, ...]:
    """Return who was on a GPU in an interval of so many seconds that ends `boot` seconds after the machine's start.

    `here` are there at its end, `before` were there and may be gone; `weights`, by pid, lacks who was not busy; None:
    nothing is known of that.
    """
    pids = {process.pid for process, _ in here}
    # Who was never identified cannot be told from who has the pid now.
    present = {key: HALF for key in before if key not in here and (key[0].started or key[0].pid not in pids)}
    for process, part in here:
        present[process, part] = presence(process, seconds, boot)
    of_pid: dict[int, float] = {}
    for (process, _), share in present.items():
        of_pid[process.pid] = of_pid.get(process.pid, 0.0) + share

    def weight(process: Process, share: float) -> float | None:
        """One pid that was two processes kept the GPU busy as each was there."""
        if weights is None:
            return None
        whole = of_pid[process.pid]
        return weights.get(process.pid, 0.0) * (share / whole if whole else 1.0)

    found: list[Actor] = []
    for (process, part), share in sorted(present.items())[:MOST_ACTORS]:
        who = here.get((process, part)) or before[process, part]
        found.append(Actor(process, "", weight(process, share), share, part, who.uid, who.program))
    return tuple(found)


def is_old(at: float, now: float, every: float) -> bool:
    """Whether a moment is too long ago, for looks every so many seconds, to have to do with now."""
    return now - at > max(LONGEST_SILENCE, MOST_TURNS * every)


def presence(process: Process, seconds: float, boot: float) -> float:
    """Return for which part of an interval a process that is there at its end was there."""
    age = boot - process.started / TICKS
    if not process.started or seconds <= 0 or age >= seconds:
        return 1.0
    return max(0.0, age) / seconds
