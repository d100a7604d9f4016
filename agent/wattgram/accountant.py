"""The story of one sample."""

from __future__ import annotations

from wattgram import attribution
from wattgram.ledger import Entry, Ledger
from wattgram.meter import Meter, plausible
from wattgram.model import Advance, Instant, Sample
from wattgram.tariff import Tariff, unpriced


class Accountant:
    """Turns one source's samples, one in `every` seconds, into entries of the ledger.

    `tariff` None: no zone is configured.
    """

    def __init__(self, source: str, every: float, meter: Meter, tariff: Tariff | None, ledger: Ledger) -> None:
        self._source = source
        self.every = every
        self._meter = meter
        self._ledger = ledger
        self.adopt(tariff)

    def adopt(self, tariff: Tariff | None) -> None:
        """Price by another tariff from now on."""
        self._price = tariff.price if tariff is not None else unpriced

    def receive(self, sample: Sample) -> Advance:
        """Meter, split, price and post one sample; return what the meter made of it."""
        sample = plausible(sample)
        advance = self._meter.advance(sample)
        shares = [share for delta in advance.deltas for share in attribution.split(delta)]
        charges = [charge for share in shares for charge in self._price(share)]
        self._ledger.post(Entry(self._source, self.every, sample, advance, tuple(charges)))
        return advance

    def missed(self, at: Instant, reason: str, event: str = "") -> Advance:
        """Post what it means that the source gave nothing; return what the meter made of it."""
        advance = self._meter.missed(at, reason, event)
        self._ledger.post(Entry(self._source, self.every, Sample(at), advance, ()))
        return advance
