"""On whose behalf a process or a control group works: every namer is asked, the deepest answer is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from wattgram.model import Actor, Named, Process, Subject, Workload
from wattgram.ports import Allotting, Clock, Namer, ReadFailed
from wattgram.tools.procfs import identity

# Processes move between groups, and owners are learnt late: an answer is asked for again after so many seconds.
# The first time sooner: a process is often begun in one group and moved to another.
REFRESH_SECONDS, FIRST_REFRESH_SECONDS = 30.0, 2.0
# A name that nobody asked for in so long is forgotten; never more than so many are kept.
FORGET_SECONDS, MOST_KEPT = 600.0, 20_000
# An owner that is not known with a workload's first process may be with its next: its labels stay as they begin.
PATIENCE_SECONDS = 15.0


@dataclass(slots=True)
class _Answer:
    named: Named | None
    until: float
    asked: float


class Names:
    """Names for actors, kept. Several threads ask."""

    def __init__(self, namers: Mapping[str, Namer], clock: Clock, proc: Path) -> None:
        self._namers = tuple(namers.values())
        self._allotting = _allotting(self._namers)
        self._clock = clock
        self._proc = proc
        self._lock = Lock()
        self._kept: dict[Process | str, _Answer] = {}
        self._told: dict[tuple[str, str], tuple[str, str]] = {}
        self._ownerless: dict[tuple[str, str], float] = {}
        self._swept = clock.now().mono

    def __call__(self, actor: Actor) -> Workload | None:
        """Return on whose behalf an actor works; None: not known, or not yet."""
        now = self._clock.now().mono
        key = actor.process or actor.path
        with self._lock:
            answer = self._kept.get(key)
            if answer is not None:
                answer.asked = now
                is_settled = answer.named is None or answer.named.workload is not None
                if is_settled and now < answer.until:
                    return answer.named.workload if answer.named else None
        namers, subject = self._namers, self._subject(actor)
        was = answer.named if answer else None
        named = _asked(namers, subject) if subject is not None else was  # it ended meanwhile: it is whose it was
        with self._lock:
            if namers is not self._namers:  # those who answered are asked no more
                return None
            named = self._awaiting_owner(named, now)
            self._kept[key] = _Answer(named, now + (REFRESH_SECONDS if answer else FIRST_REFRESH_SECONDS), now)
            if named is not None and named.workload is not None and (named.name or named.account):
                self._told[named.workload.kind, named.workload.id] = (named.name, named.account)
            self._sweep(now)
        return named.workload if named else None

    def describe(self, workload: Workload) -> tuple[str, str]:
        """Return what else is known of a workload for people: its name and account; empty: nothing."""
        with self._lock:
            return self._told.get((workload.kind, workload.id), ("", ""))

    def holders(self) -> Mapping[str, tuple[Workload, ...]]:
        """Return who holds which GPU, by UUID or by NVML's index in decimal, also without a process on it."""
        held: dict[str, tuple[Workload, ...]] = {}
        told: dict[tuple[str, str], tuple[str, str]] = {}
        for namer in self._allotting:
            for gpu, holders in namer.holders().items():
                for named in holders:
                    if (workload := named.workload) is None:
                        continue
                    held[gpu] = (*held.get(gpu, ()), workload)
                    if named.name or named.account:
                        told[workload.kind, workload.id] = (named.name, named.account)
        if told:
            with self._lock:
                self._told |= told
        return held

    def adopt(self, namers: Mapping[str, Namer], proc: Path) -> None:
        """Ask others from now on, about processes in another tree, and let go of those before."""
        with self._lock:
            before, self._namers, self._proc = self._namers, tuple(namers.values()), proc
            self._allotting = _allotting(self._namers)
            self._kept.clear()
        for namer in before:
            namer.close()

    def close(self) -> None:
        """Let go of what namers hold."""
        for namer in self._namers:
            namer.close()

    def _awaiting_owner(self, named: Named | None, now: float) -> Named | None:
        """The answer, without its workload while nobody knows the owner and he may still be learnt."""
        workload = named.workload if named else None
        if named is None or workload is None or workload.owner:
            return named
        since = self._ownerless.setdefault((workload.kind, workload.id), now)
        return replace(named, workload=None) if now - since < PATIENCE_SECONDS else named

    def _subject(self, actor: Actor) -> Subject | None:
        """What namers are asked about; None: a process that ended, or that may be another by now."""
        process = actor.process
        if process is None:
            return Subject((actor.path,), None, actor.uid)
        if not process.started:
            return None
        try:
            found = identity(self._proc, process.pid)
        except ReadFailed:
            return None
        if found.started != process.started:
            return None
        return Subject(found.paths, process, found.uid if found.uid is not None else actor.uid)

    def _sweep(self, now: float) -> None:
        """Forget what nobody asks for any more, and the oldest when there are too many."""
        if now - self._swept < REFRESH_SECONDS and len(self._kept) <= MOST_KEPT:
            return
        self._swept = now
        kept = {key: a for key, a in self._kept.items() if now - a.asked < FORGET_SECONDS}
        if len(kept) > MOST_KEPT:
            newest = sorted(kept, key=lambda key: kept[key].asked)[-MOST_KEPT // 2 :]
            kept = {key: kept[key] for key in newest}
        self._kept = kept
        named = {(a.named.workload.kind, a.named.workload.id) for a in kept.values() if a.named and a.named.workload}
        self._told = {key: told for key, told in self._told.items() if key in named}
        waited = self._ownerless.items()
        self._ownerless = {key: at for key, at in waited if key in named or now - at < FORGET_SECONDS}


def _allotting(namers: Iterable[Namer]) -> tuple[Allotting, ...]:
    return tuple(namer for namer in namers if isinstance(namer, Allotting))


def _asked(namers: Iterable[Namer], subject: Subject) -> Named | None:
    """The deepest answer."""
    answers = (namer.name_of(subject) for namer in namers)
    return max((a for a in answers if a is not None), key=lambda named: named.depth, default=None)
