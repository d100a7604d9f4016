"""What a joule costs in carbon: which known intensity holds when, and the price of a share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

from wattgram.model import SECONDS_PER_HOUR, Charge, Intensity, Share
from wattgram.snapshot import Grid

KEEP_SECONDS = 48 * 3600.0
HOURS_AHEAD = 48
MICROGRAMS_PER_GRAM = 1_000_000
NANOSECONDS = 1_000_000_000

# What a share costs: one charge for each stretch of it that fell under one price.
Price = Callable[[Share], tuple[Charge, ...]]


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the chain: a provider, how long its newest value may be held after its own end (seconds), which
    bases it can give, and whether it was named by the user (then it prices whatever its factor).
    """

    provider: str
    hold: float
    bases: tuple[str, ...]
    named: bool = False


@dataclass(frozen=True, slots=True)
class _Book:
    """One provider's values, sorted by start; replaced whole."""

    actual: tuple[Intensity, ...] = ()
    forecast: tuple[Intensity, ...] = ()
    edges: tuple[float, ...] = field(default=())


class Tariff:
    """The chain of rungs for one zone. Providers' threads teach it, sources' threads ask it; nothing is locked,
    since each provider's book is replaced whole.
    """

    def __init__(self, zone: str, factor: str, rungs: Sequence[Rung]) -> None:
        self.zone = zone
        self.factor = factor
        self.rungs = tuple(rungs)
        self._books: dict[str, _Book] = {rung.provider: _Book() for rung in rungs}

    def learn(self, provider: str, intensities: Iterable[Intensity], now: float) -> None:
        """Take in what a provider says at wall time `now`; a newer word on the same interval replaces the older.

        What it changes is the price of joules still to come: nothing posted is re-priced.
        """
        old = self._books[provider]
        fresh = tuple(intensities)
        horizon = now - KEEP_SECONDS
        actual = _merged(old.actual, (i for i in fresh if i.basis != "forecast"), horizon)
        forecast = _merged(old.forecast, (i for i in fresh if i.basis == "forecast"), horizon)
        hold = next(rung.hold for rung in self.rungs if rung.provider == provider)
        edges = {edge for i in (*actual, *forecast) for edge in (i.start, i.end, i.end + hold)}
        self._books[provider] = _Book(actual, forecast, tuple(sorted(edges)))

    def price(self, share: Share) -> tuple[Charge, ...]:
        """Return the charges of a share, cut where the price changes; they add up to it exactly."""
        start, end = share.delta.start.wall, share.delta.end.wall
        cuts = [start, *self._changes(start, end), end]
        charges: list[Charge] = []
        spent = 0
        for left, right in pairwise(cuts):
            upto = _portion(share.microjoules, right - start, end - start)
            charges.append(self._charge(share, upto - spent, (left + right) / 2))
            spent = upto
        return tuple(charges)

    def at(self, wall: float) -> Intensity | None:
        """Return the intensity that prices a joule used at that time; None: unpriced."""
        for rung in self.rungs:
            found = _holding(self._books[rung.provider], wall, rung.hold, None if rung.named else self.factor)
            if found is not None:
                return found
        return None

    def is_priced_before(self, provider: str, wall: float) -> bool:
        """Whether an earlier rung of the chain prices now, by a value for this very interval."""
        for rung in self.rungs:
            if rung.provider == provider:
                return False
            found = _holding(self._books[rung.provider], wall, 0.0, None if rung.named else self.factor)
            if found is not None and found.basis != "forecast":
                return True
        return False

    def view(self, wall: float) -> Grid:
        """Return what is known at that time, for those who show it."""
        newest = []
        ahead: list[tuple[int, Intensity]] = []
        for rung in self.rungs:
            current = _newest_begun(self._books[rung.provider].actual, wall)
            if current is not None and wall < current.end + rung.hold:
                newest.append(current)
            foreseen = self._books[rung.provider].forecast
            for hours in range(1, HOURS_AHEAD + 1):
                moment = wall + hours * SECONDS_PER_HOUR
                ahead.extend((hours, i) for i in islice(_begun(foreseen, moment), 1) if moment < i.end)
        return Grid(self.zone, self.factor, self.at(wall), tuple(newest), tuple(ahead))

    def _changes(self, start: float, end: float) -> list[float]:
        if end <= start:
            return []
        found: set[float] = set()
        for book in self._books.values():
            first = bisect_right(book.edges, start)
            for edge in book.edges[first:]:
                if edge >= end:
                    break
                found.add(edge)
        return sorted(found)

    def _charge(self, share: Share, microjoules: int, wall: float) -> Charge:
        price = self.at(wall)
        if price is None:
            return Charge(share, microjoules, None, "none", self.factor)
        carbon = microjoules * round(price.grams_per_kwh * MICROGRAMS_PER_GRAM)
        return Charge(share, microjoules, carbon, price.basis, price.factor)


def unpriced(share: Share) -> tuple[Charge, ...]:
    """Return the charge of a share where no zone is configured."""
    return (Charge(share, share.microjoules, None, "none", "none"),)


def _merged(old: Iterable[Intensity], new: Iterable[Intensity], horizon: float) -> tuple[Intensity, ...]:
    """What is known of each interval, the newer word on the same thing first; what is long over is dropped."""
    known = {(i.start, i.end, i.factor, i.signal): i for i in old}
    known.update({(i.start, i.end, i.factor, i.signal): i for i in new})
    ordered = sorted(known.values(), key=lambda i: (i.start, -i.end))
    return tuple(i for i in ordered if i.end > horizon or i is ordered[-1])


def _holding(book: _Book, wall: float, hold: float, factor: str | None) -> Intensity | None:
    """The value for the interval itself; else the forecast for it; else the newest value, held for a while.

    Only average intensities price, and only those of the factor, if one is given.
    """

    def prices(i: Intensity) -> bool:
        return i.signal == "average" and factor in (None, i.factor)

    for intensities in (book.actual, book.forecast):
        for i in _begun(intensities, wall):
            if wall < i.end and prices(i):
                return i
    ended = [i for i in _begun(book.actual, wall) if prices(i) and wall < i.end + hold]
    return replace(max(ended, key=lambda i: i.end), basis="held") if ended else None


def _begun(intensities: tuple[Intensity, ...], wall: float) -> Iterator[Intensity]:
    """Those whose interval has begun, the newest first."""
    for index in range(bisect_right(intensities, wall, key=lambda i: i.start) - 1, -1, -1):
        yield intensities[index]


def _newest_begun(intensities: tuple[Intensity, ...], wall: float) -> Intensity | None:
    return next(_begun(intensities, wall), None)


def _portion(microjoules: int, part: float, whole: float) -> int:
    """The part of an energy that falls in a part of its time, in whole microjoules; all of it when they are equal."""
    if part >= whole:
        return microjoules
    return microjoules * round(part * NANOSECONDS) // round(whole * NANOSECONDS)
