"""The story of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from wattgram.activity import Board
from wattgram.attribution import split
from wattgram.idle import Floors
from wattgram.ledger import Entry, Ledger
from wattgram.meter import Meter, plausible
from wattgram.model import Activity, Actor, Advance, EnergyDelta, Gap, Instant, Sample, Share, Workload
from wattgram.tariff import Price, Tariff, unpriced

# A reading that was hurried says little of power: counters move in steps.
WHOLE = 0.75

Holders = Mapping[str, tuple[Workload, ...]]  # by a GPU's UUID or its index in decimal


class Whose(Protocol):
    """Who says on whose behalf an actor works, and who holds a GPU; `Names` does."""

    def __call__(self, actor: Actor) -> Workload | None:
        """Return on whose behalf an actor works; None: not known."""
        ...

    def holders(self) -> Holders:
        """Return who holds which GPU."""
        ...


class Witness(Protocol):
    """Who looks on while deltas are booked, and changes nothing; `Windows` does."""

    def book(self, delta: EnergyDelta, activity: Activity | None, floor: float | None, price: Price) -> None:
        """Hear of one delta and what it is split by."""
        ...

    def miss(self, gap: Gap) -> None:
        """Hear of a gap."""
        ...


class Nobody:
    """Knows no name."""

    def __call__(self, actor: Actor) -> Workload | None:
        """Return None."""
        del actor
        return None

    def holders(self) -> Holders:
        """Return nobody."""
        return {}


@dataclass(frozen=True, slots=True)
class Desk:
    """What all accountants of a house share: who was busy, whose it is, idle watts given by device, who looks on."""

    board: Board
    whose: Whose
    floors: Mapping[str, float]
    witness: Witness | None = None


def empty_desk() -> Desk:
    """Return a desk at which nobody is known."""
    return Desk(Board(), Nobody(), {})


class Accountant:
    """Turns one source's samples, one in `every` seconds, into entries of the ledger.

    `tariff` None: no zone is configured.
    """

    def __init__(
        self, source: str, every: float, meter: Meter, tariff: Tariff | None, ledger: Ledger, desk: Desk | None = None
    ) -> None:
        self._source = source
        self.every = every
        self._meter = meter
        self._ledger = ledger
        self._desk = desk or empty_desk()
        self._floors = Floors(self._desk.floors)
        self.adopt(tariff)

    def adopt(self, tariff: Tariff | None) -> None:
        """Price by another tariff from now on."""
        self._price = tariff.price if tariff is not None else unpriced

    def seat(self, desk: Desk) -> None:
        """Work at another desk from now on; what was learnt of idle power stays."""
        self._desk, self._floors.given = desk, desk.floors

    def receive(self, sample: Sample) -> Advance:
        """Meter, split, price and post one sample; return what the meter made of it."""
        sample = plausible(sample)
        self._desk.board.learn(sample.activities)
        advance = self._meter.advance(sample)
        held = self._desk.whose.holders() if any(d.device.component == "gpu" for d in advance.deltas) else {}
        shares = [share for delta in advance.deltas for share in self._split(delta, held)]
        charges = [charge for share in shares for charge in self._price(share)]
        several = {id(activity.actors): activity.actors for activity in sample.activities}  # components may share one
        actors = (actor for those in several.values() for actor in those)
        present = frozenset(workload for actor in actors if (workload := self._desk.whose(actor)) is not None)
        floors = tuple((delta.device, self._floors.of(delta.device)) for delta in advance.deltas)
        self._tell(advance)
        self._ledger.post(Entry(self._source, self.every, sample, advance, tuple(charges), present, floors))
        return advance

    def missed(self, at: Instant, reason: str, event: str = "") -> Advance:
        """Post what it means that the source gave nothing; return what the meter made of it."""
        advance = self._meter.missed(at, reason, event)
        self._tell(advance)
        self._ledger.post(Entry(self._source, self.every, Sample(at), advance, ()))
        return advance

    def _split(self, delta: EnergyDelta, held: Holders) -> tuple[Share, ...]:
        """Say whose a delta is, as its device was used meanwhile."""
        activity, device = self._desk.board.about(delta), delta.device
        floor = self._floors.of(device)
        names = (device.id, device.index) if device.component == "gpu" else ()
        holders = tuple(dict.fromkeys(holder for name in names if name for holder in held.get(name, ())))
        if self._desk.witness is not None:
            self._desk.witness.book(delta, activity, floor, self._price)
        self._floors.learn(delta, activity, WHOLE * self.every)
        return split(delta, activity, self._desk.whose, floor, holders)

    def _tell(self, advance: Advance) -> None:
        for gap in advance.gaps if self._desk.witness is not None else ():
            assert self._desk.witness is not None
            self._desk.witness.miss(gap)
