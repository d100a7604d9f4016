"""On whose behalf a process or a control group works: every namer is asked, the deepest answer is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(slots=True)
class _Answer:
    named: Named | None
    until: float
    asked: float


class Names:
    """Names for actors, kept. Several threads ask."""

    def __init__(self, namers: Mapping[str, Namer], clock: Clock, proc: Path) -> None:
        self._namers = tuple(namers.values())
        self._clock = clock
        self._proc = proc
        self._lock = Lock()
        self._kept: dict[Process | str, _Answer] = {}
        self._told: dict[tuple[str, str], tuple[str, str]] = {}
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
        named = self._ask(actor)
        with self._lock:
            if named is None and answer is not None:
                named = answer.named  # it ended meanwhile: it is whose it was
            self._kept[key] = _Answer(named, now + (REFRESH_SECONDS if answer else FIRST_REFRESH_SECONDS), now)
            if named is not None and named.workload is not None and (named.name or named.account):
                self._told[named.workload.kind, named.workload.id] = (named.name, named.account)
            self._sweep(now)
        return named.workload if named else None

    def describe(self, workload: Workload) -> tuple[str, str]:
        """Return what else is known of a workload for people: its name and account; empty: nothing."""
        with self._lock:
            return self._told.get((workload.kind, workload.id), ("", ""))

    def holders(self, *gpus: str) -> tuple[Workload, ...]:
        """Return who holds a GPU, given its UUID and its index, also without a process on it."""
        found = (namer.holders() for namer in self._namers if isinstance(namer, Allotting))
        return tuple(dict.fromkeys(w for held in found for gpu in gpus if gpu for w in held.get(gpu, ())))

    def adopt(self, namers: Mapping[str, Namer]) -> None:
        """Ask others from now on, and let go of those before."""
        before, self._namers = self._namers, tuple(namers.values())
        with self._lock:
            self._kept.clear()
        for namer in before:
            namer.close()

    def close(self) -> None:
        """Let go of what namers hold."""
        for namer in self._namers:
            namer.close()

    def _ask(self, actor: Actor) -> Named | None:
        subject = self._subject(actor)
        if subject is None:
            return None
        answers = (namer.name_of(subject) for namer in self._namers)
        return max((a for a in answers if a is not None), key=lambda named: named.depth, default=None)

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


def present(names: Names, actors: Iterable[Actor]) -> frozenset[Workload]:
    """Return the workloads of some actors."""
    return frozenset(workload for actor in actors if (workload := names(actor)) is not None)
