"""Energy and activity become shares that add up exactly.

Every delta is divided into active and idle energy, which is a model, and both are given to those who were there:

    delta ─┬─ idle:   to who holds the device, in equal parts; to the pool `idle` where nobody does
           └─ active: by weight; to the pool `unattributed` where it is not known whose it is
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from wattgram.model import (
    IDLE,
    MICROJOULES_PER_JOULE,
    SYSTEM,
    UNATTRIBUTED,
    Activity,
    Actor,
    EnergyDelta,
    Share,
    Workload,
)

Name = Callable[[Actor], Workload | None]
Weights = Mapping[Workload, float]

# Power so far above the idle floor, with nobody seen, is somebody's who cannot be seen.
CLEARLY_ABOVE, CLEAR_WATTS = 1.5, 10.0
# Weights are compared as whole parts of the largest.
PARTS = 1 << 40


def apportion(microjoules: int, weights: Weights) -> dict[Workload, int]:
    """Divide by weight, to the microjoule: what rounding leaves goes to the largest fractions, ties by name.

    Nothing, where no weight is above 0: then nobody can be given anything. What is no number weighs nothing.
    """
    known = {workload: weight if 0 < weight < math.inf else 0.0 for workload, weight in weights.items()}
    most = max(known.values(), default=0.0)
    if not most > 0:
        return {}
    whole = {workload: int(weight / most * PARTS) for workload, weight in known.items()}
    total = sum(whole.values())
    shares = {workload: microjoules * part // total for workload, part in whole.items()}
    left = microjoules - sum(shares.values())
    fractions = sorted(whole, key=lambda w: (-(microjoules * whole[w] % total), w))
    for workload in fractions[:left]:
        shares[workload] += 1
    return shares


def split(
    delta: EnergyDelta,
    activity: Activity | None,
    name: Name,
    floor: float | None = None,
    holders: Sequence[Workload] = (),
) -> tuple[Share, ...]:
    """Return the shares of one delta; they add up to it, to the microjoule.

    `activity` None: nobody looked. `name` says whose an actor is; None: not known. `floor` is the device's idle power
    in watts; None: not known. `holders` have the device to themselves also while they do nothing with it.
    """
    if activity is None:
        active, idle = {UNATTRIBUTED: delta.microjoules}, dict[Workload, int]()
    elif activity.idle is not None:
        active, idle = _by_time(delta, activity, name, floor)
    elif activity.actors or any(part.weight > 0 for part in activity.parts):
        active, idle = _by_use(delta, activity, name, floor, holders)
    else:
        active, idle = _unused(delta, activity, floor, holders)
    quality = delta.device.quality
    if quality == "measured" and len({w for w, part in (*active.items(), *idle.items()) if part}) > 1:
        quality = "apportioned"
    return tuple(
        Share(workload, kind, quality, delta, part)
        for kind, parts in (("active", active), ("idle", idle))
        for workload, part in parts.items()
        if part
    )


def _idle_part(delta: EnergyDelta, floor: float | None) -> int:
    return min(delta.microjoules, round((floor or 0.0) * delta.seconds * MICROJOULES_PER_JOULE))


def _by_time(
    delta: EnergyDelta, activity: Activity, name: Name, floor: float | None
) -> tuple[dict[Workload, int], dict[Workload, int]]:
    """Divide what many share all the time: processors by their time, memory by its bytes.

    Without a known floor, doing nothing weighs as much as it took.
    """
    weights = _summed([(name(a) or UNATTRIBUTED, a.weight or 0.0) for a in activity.actors])
    weights[SYSTEM] = weights.get(SYSTEM, 0.0) + activity.system
    if floor is None:
        weights[IDLE] = activity.idle or 0.0
        active = apportion(delta.microjoules, weights)
        idle = active.pop(IDLE, 0)
    else:
        idle = _idle_part(delta, floor)
        active = apportion(delta.microjoules - idle, weights)
    if not active and idle < delta.microjoules:
        active = {UNATTRIBUTED: delta.microjoules - idle}
    return active, {IDLE: idle}


def _by_use(
    delta: EnergyDelta, activity: Activity, name: Name, floor: float | None, holders: Sequence[Workload]
) -> tuple[dict[Workload, int], dict[Workload, int]]:
    """Divide a GPU that somebody uses or at least keeps open."""
    idle = _idle_part(delta, floor)
    used = delta.microjoules - idle
    active = apportion(used, _use(activity, name)) or {UNATTRIBUTED: used}
    present = dict.fromkeys(holders, 1.0)
    for actor in activity.actors:
        workload = _whose(actor, name)
        present[workload] = max(present.get(workload, 0.0), actor.present)
    for part in _unseen(activity):
        present[_instance(part)] = 1.0
    return active, _held(idle, present)


def _unused(
    delta: EnergyDelta, activity: Activity, floor: float | None, holders: Sequence[Workload]
) -> tuple[dict[Workload, int], dict[Workload, int]]:
    """Divide a GPU on which nobody is seen: all of it is idle, unless it plainly works for somebody."""
    works = (activity.utilization or 0.0) > 0
    if floor is None:
        unknown = activity.utilization is None and not holders
        idle = 0 if works or unknown else delta.microjoules
    else:
        watts = delta.microjoules / MICROJOULES_PER_JOULE / delta.seconds if delta.seconds > 0 else 0.0
        works = works or watts > CLEARLY_ABOVE * floor + CLEAR_WATTS
        idle = _idle_part(delta, floor) if works else delta.microjoules
    return {UNATTRIBUTED: delta.microjoules - idle}, _held(idle, dict.fromkeys(holders, 1.0))


def _held(idle: int, present: Weights) -> dict[Workload, int]:
    """Give idle energy to who holds the device, in equal parts for the time each was there; the rest is nobody's."""
    if not present:
        return {IDLE: idle}
    held = round(idle * min(1.0, max(present.values())))
    parts = apportion(held, present)
    return {**parts, IDLE: parts.get(IDLE, 0) + idle - sum(parts.values())}


def _use(activity: Activity, name: Name) -> dict[Workload, float]:
    """How much each workload uses a GPU: its instances by theirs, and in each, or in the whole, its processes."""
    inside = {part.id: [a for a in activity.actors if a.part == part.id] for part in activity.parts}
    used = {part.id: part.weight for part in activity.parts if part.weight > 0}
    if not used:  # nobody says how busy the instances are, or they are not busy: equal parts of those in use
        used = {part: 1.0 for part, actors in inside.items() if actors}
    if not used:
        return _summed([(_whose(a, name), weight) for a, weight in _weighed(activity.actors)])
    found: list[tuple[Workload, float]] = []
    for part, weight in used.items():
        weighed = _weighed(inside[part])
        total = sum(w for _, w in weighed)
        found += [(_whose(actor, name), weight * w / total) for actor, w in weighed]
        if not weighed:
            found.append((_instance(part), weight))
    return _summed(found)


def _weighed(actors: Sequence[Actor]) -> list[tuple[Actor, float]]:
    """The ladder: who is alone uses it all; else by what is known of each, the unknown being none; else by presence."""
    if len(actors) > 1 and any((a.weight or 0.0) > 0 for a in actors):
        return [(a, a.weight or 0.0) for a in actors]
    return [(a, a.present or math.ulp(1.0)) for a in actors]


def _unseen(activity: Activity) -> list[str]:
    """The instances that are used by somebody who is not seen."""
    seen = {actor.part for actor in activity.actors}
    return [part.id for part in activity.parts if part.weight > 0 and part.id not in seen]


def _instance(part: str) -> Workload:
    return Workload("mig", part, "")


def _whose(actor: Actor, name: Name) -> Workload:
    return name(actor) or UNATTRIBUTED


def _summed(weights: Sequence[tuple[Workload, float]]) -> dict[Workload, float]:
    found: dict[Workload, float] = {}
    for workload, weight in weights:
        found[workload] = found.get(workload, 0.0) + weight
    return found
