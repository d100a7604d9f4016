"""The story of one sample."""

from __future__ import annotations

from wattgram import attribution
from wattgram.ledger import Entry, Ledger
from wattgram.meter import Meter
from wattgram.model import Advance, Instant, Sample
from wattgram.tariff import Tariff, unpriced


class Accountant:
    """Turns one source's samples into entries of the ledger. `tariff` None: no zone is configured."""

    def __init__(self, source: str, every: float, meter: Meter, tariff: Tariff | None, ledger: Ledger) -> None:
        self._source = source
        self._every = every
        self._meter = meter
        self._price = tariff.price if tariff is not None else unpriced
        self._ledger = ledger

    def receive(self, sample: Sample) -> None:
        """Meter, split, price and post one sample."""
        advance = self._meter.advance(sample)
        shares = [share for delta in advance.deltas for share in attribution.split(delta)]
        charges = [charge for share in shares for charge in self._price(share)]
        self._ledger.post(Entry(self._source, self._every, sample, advance, tuple(charges)))

    def missed(self, at: Instant, reason: str) -> None:
        """Post what it means that the source gave nothing."""
        advance: Advance = self._meter.missed(at, reason)
        self._ledger.post(Entry(self._source, self._every, Sample(at), advance, ()))
