"""Who was busy when: the newest few activities of each device and component, and the one that a delta is split by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from wattgram.model import Activity, Actor, EnergyDelta, Part, Process

# An activity older than so many of its intervals says nothing of now; and of a delta no longer part may be unseen.
STALE_INTERVALS = 3.0
# Activities and readings are taken a moment apart: an overlap of less than this part of both is none.
LEAST_OVERLAP = 0.1
# A meter that is read more seldom than its users are looked at is split by several activities.
MOST_KEPT = 64
# Of these a weight is a sum over its activity (processor-seconds); of others a mean (per cent of a GPU, bytes held).
SUMMED = frozenset({"cpu", "module_rest"})

Who = tuple[Process | None, str, str]


class Board:
    """Where sources write who was busy; those who meter read it. Each entry is replaced whole, so nothing is locked."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[Activity, ...]] = {}

    def learn(self, activities: Iterable[Activity]) -> None:
        """Take in new ones."""
        for activity in activities:
            key = (activity.component, activity.device)
            self._kept[key] = (*self._kept.get(key, ())[1 - MOST_KEPT :], activity)

    def about(self, delta: EnergyDelta) -> Activity | None:
        """Return who kept a delta's device busy meanwhile, by the activities that overlap with it, else by the newest.

        None: nobody looked, or not lately enough; then whose the energy was is not known.
        """
        device = delta.device
        kept = self._kept.get((device.component, device.id)) or self._kept.get((device.component, ""))
        if not kept:
            return None
        newest = kept[-1]
        lately = STALE_INTERVALS * newest.every
        if delta.end.mono - newest.end.mono > lately:
            return None
        parts = _during(delta, kept)
        covered = sum(seconds for _, seconds in parts)
        if delta.seconds - covered > lately:
            return None
        return _merged(parts) if parts else newest


def _during(delta: EnergyDelta, kept: Sequence[Activity]) -> list[tuple[Activity, float]]:
    """Which activities, of those kept in the order of their ends, share how many seconds with a delta."""
    parts = []
    for activity in reversed(kept):
        if activity.end.mono <= delta.start.mono:
            break
        if (seconds := _overlap(activity, delta)) > 0:
            parts.append((activity, seconds))
    return parts[::-1]


def _overlap(activity: Activity, delta: EnergyDelta) -> float:
    """Seconds that both share; 0 for what is only a moment's difference."""
    seconds = min(activity.end.mono, delta.end.mono) - max(activity.start.mono, delta.start.mono)
    least = LEAST_OVERLAP * min(delta.seconds, activity.end.mono - activity.start.mono)
    return seconds if seconds > least else 0.0


def _merged(parts: Sequence[tuple[Activity, float]]) -> Activity:
    """One activity of several: of each as much as lies in the seconds counted; what are means weigh by those."""
    if len(parts) == 1:
        return parts[0][0]
    covered = sum(seconds for _, seconds in parts)
    is_summed = parts[0][0].component in SUMMED
    actors: dict[Who, Actor] = {}
    weights: dict[str, float] = {}
    system, idle = 0.0, 0.0
    for activity, seconds in parts:
        part = seconds / max(activity.end.mono - activity.start.mono, seconds) if is_summed else seconds
        for actor in activity.actors:
            key = (actor.process, actor.path, actor.part)
            actors[key] = _joined(actors.get(key), actor, part, seconds / covered)
        for instance in activity.parts:
            weights[instance.id] = weights.get(instance.id, 0.0) + instance.weight * part
        system += activity.system * part
        idle += (activity.idle or 0.0) * part
    last = parts[-1][0]
    return replace(
        last,
        start=parts[0][0].start,
        actors=tuple(actors.values()),
        parts=tuple(Part(name, weight) for name, weight in weights.items()),
        system=system,
        idle=None if last.idle is None else idle,
        utilization=max((a.utilization for a, _ in parts if a.utilization is not None), default=None),
    )


def _joined(sum_so_far: Actor | None, actor: Actor, part: float, of_time: float) -> Actor:
    """An actor's weight and presence in one more activity added to those before."""
    weight = None if actor.weight is None else actor.weight * part
    present = actor.present * of_time
    if sum_so_far is not None:
        present += sum_so_far.present
        if sum_so_far.weight is not None:
            weight = sum_so_far.weight + (weight or 0.0)
    return replace(actor, weight=weight, present=present)
