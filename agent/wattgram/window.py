"""One window: a process tree's part of what is booked between its begin and its end."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field, replace

from wattgram.attribution import split
from wattgram.kin import Machine, Tree
from wattgram.model import Activity, Actor, Device, EnergyDelta, Gap, Instant, Share, Workload
from wattgram.tally import MINE, THEIRS, Tally
from wattgram.tariff import Price

MOST_SIGHTS = 64
# Processor time is counted in ticks: it is no measure of who worked in less than this.
BLOCK_SECONDS = 0.2
# What a command's own count of its processor seconds may differ by from ours, which the kernel gives in ticks.
TRUSTED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Sight:
    """A window's tree and the machine at one moment: what both had used by then, in processor and byte seconds."""

    mono: float
    cpu: float
    busy: float
    idle: float
    resident: float
    used: float
    memory: float


@dataclass(slots=True)
class Item:
    """A delta to be divided; `others` is its division for whoever was not there, worked out once for all of them."""

    delta: EnergyDelta
    activity: Activity | None
    floor: float | None
    price: Price
    others: tuple[Share, ...] = ()

    def of_others(self) -> tuple[Share, ...]:
        """Return that division."""
        self.others = self.others or split(self.delta, self.activity, _theirs, self.floor)
        return self.others


@dataclass(slots=True)
class Window:
    """One window. `seen` is when its root was last there; `end` None: it is open; `orphan`: its root did not end it.

    `overflowed`: more was read than there was time to take in.
    """

    key: str
    name: str
    uid: int
    tree: Tree
    start: Instant
    tally: Tally
    seen: Instant
    end: Instant | None = None
    orphan: bool = False
    left_over: int = 0
    overflowed: bool = False
    cpu_seconds: float = 0.0
    resident: float = 0.0
    units: dict[str, float] = field(default_factory=dict)
    sights: deque[Sight] = field(default_factory=lambda: deque(maxlen=MOST_SIGHTS))
    first: Sight | None = None
    blocks: dict[Device, list[Item]] = field(default_factory=dict)

    def at(self, mono: float) -> Sight | None:
        """Return what was used by a moment, on a straight line between the sights around it; None: nothing is known."""
        if self.first is None:
            return None
        sights = [self.first, *self.sights]
        after = bisect_right(sights, mono, key=lambda sight: sight.mono)
        left, right = sights[max(0, after - 1)], sights[min(after, len(sights) - 1)]
        part = (mono - left.mono) / (right.mono - left.mono) if right.mono > left.mono else 0.0
        return Sight(
            mono, *(_between(a, b, min(1.0, max(0.0, part))) for a, b in zip(_sums(left), _sums(right), strict=True))
        )


def _sums(sight: Sight) -> tuple[float, ...]:
    return sight.cpu, sight.busy, sight.idle, sight.resident, sight.used, sight.memory


def _between(left: float, right: float, part: float) -> float:
    return left + (right - left) * part


def see(window: Window, mono: float, cpu: float, machine: Machine, cpu_seconds: float | None) -> None:
    """Note what its tree and the machine have used by a moment; `cpu_seconds` is what its client says of the former."""
    last = window.sights[-1] if window.sights else window.first
    resident, used, memory = (float(n) for n in (window.tree.resident, machine.memory_used, machine.memory_total))
    if last is None or window.first is None:
        window.first = Sight(mono, cpu, machine.busy, machine.idle, 0.0, 0.0, 0.0)
        window.resident = resident
        return
    ours = cpu - window.first.cpu
    if cpu_seconds is not None and abs(cpu_seconds - ours) <= TRUSTED_SECONDS:
        cpu = max(last.cpu, window.first.cpu + cpu_seconds)
    window.cpu_seconds = cpu - window.first.cpu
    seconds = mono - last.mono
    held, window.resident = max(window.resident, resident), resident  # it grows at once and goes at once
    window.sights.append(
        Sight(
            mono,
            cpu,
            machine.busy,
            machine.idle,
            last.resident + held * seconds,
            last.used + used * seconds,
            last.memory + memory * seconds,
        )
    )


def note(window: Window, gap: Gap) -> None:
    """Say why a device was not metered for a part of the window."""
    if gap.end.mono > window.start.mono and (window.end is None or gap.start.mono < window.end.mono):
        window.tally.of(gap.device).reasons[gap.reason] = None


def take(window: Window, item: Item) -> None:
    """Take in the part of a delta that lies in the window."""
    part = _inside(item.delta, window)
    if part is None:
        return
    if part.seconds < item.delta.seconds:  # its energy was not spent evenly
        outside = item.delta.seconds - part.seconds
        window.tally.of(part.device).edge_seconds += min(outside, part.seconds)
    if part.device.component != "gpu":
        _gather(window, replace(item, delta=part))
    elif part.seconds < item.delta.seconds or _is_there(window.tree, item.activity):
        _divide(window, replace(item, delta=part, others=()))
    else:
        window.tally.add(item.delta, item.of_others())


def _gather(window: Window, item: Item) -> None:
    """Put deltas of one device together until they are long enough, and keep the last two blocks, so that what comes at
    the window's end can join them.
    """
    device = item.delta.device
    blocks = window.blocks.setdefault(device, [])
    if blocks and blocks[-1].delta.end.mono != item.delta.start.mono:
        flush(window)
        blocks = window.blocks.setdefault(device, [])
    if blocks and blocks[-1].delta.seconds < BLOCK_SECONDS:
        blocks[-1] = _joined(blocks[-1], item)
    else:
        blocks.append(item)
    if len(blocks) > 2:  # noqa: PLR2004 - the one that grows, and the one that it may yet join
        _divide(window, blocks.pop(0))


def flush(window: Window) -> None:
    """Divide all that was gathered; a last one that is too short is one with that before it."""
    for blocks in window.blocks.values():
        if len(blocks) > 1 and blocks[-1].delta.seconds < BLOCK_SECONDS:
            last = blocks.pop()
            blocks[-1] = _joined(blocks[-1], last)
        for block in blocks:
            _divide(window, block)
    window.blocks.clear()


def _joined(left: Item, right: Item) -> Item:
    microjoules = left.delta.microjoules + right.delta.microjoules
    return replace(right, delta=replace(right.delta, start=left.delta.start, microjoules=microjoules))


def _divide(window: Window, item: Item) -> None:
    """Say whose energy it was."""
    part = item.delta
    activity = item.activity if part.device.component == "gpu" else _as_activity(window, part)
    shares = split(part, activity, lambda actor: _whose(window.tree, actor), item.floor)
    window.tally.add(part, shares)
    for share in shares:
        if share.workload == MINE:
            window.tally.pay(item.price(share))


def _inside(delta: EnergyDelta, window: Window) -> EnergyDelta | None:
    start = max(delta.start.mono, window.start.mono)
    end = delta.end.mono if window.end is None else min(delta.end.mono, window.end.mono)
    if end <= start:
        return None
    microjoules = round(delta.microjoules * (end - start) / delta.seconds)
    return replace(delta, start=_back(delta.end, start), end=_back(delta.end, end), microjoules=microjoules)


def _back(at: Instant, mono: float) -> Instant:
    return Instant(mono, at.wall - (at.mono - mono))


def _is_there(tree: Tree, activity: Activity | None) -> bool:
    return activity is not None and any(tree.holds(actor.process) for actor in activity.actors if actor.process)


def _theirs(actor: Actor) -> Workload | None:
    """Somebody else; None: a process that was never seen here, which may be anybody's."""
    is_known = actor.process is not None and actor.process.started
    return THEIRS if is_known or actor.path else None


def _whose(tree: Tree, actor: Actor) -> Workload | None:
    return MINE if actor.process is not None and tree.holds(actor.process) else _theirs(actor)


def _as_activity(window: Window, delta: EnergyDelta) -> Activity | None:
    """Who used processors or memory meanwhile: the window's tree, others, nobody. None: not known."""
    start, end = window.at(delta.start.mono), window.at(delta.end.mono)
    if start is None or end is None or delta.device.component == "host_rest":
        return None
    if delta.device.component == "dram":
        mine, used = end.resident - start.resident, end.used - start.used
        idle = end.memory - start.memory - used
    else:
        mine, used, idle = end.cpu - start.cpu, end.busy - start.busy, end.idle - start.idle
    if not mine + used + idle > 0:
        return None
    actor = Actor(process=window.tree.root, weight=mine)
    system = max(0.0, used - mine)
    return Activity(
        delta.device.component, "", delta.start, delta.end, delta.seconds, (actor,), system=system, idle=max(0.0, idle)
    )
