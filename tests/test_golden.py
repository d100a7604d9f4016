"""The whole pipeline over the synthetic source and a set clock, byte for byte: the diff is what a reviewer reads.

`--update` rewrites the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.feed import Claims, ProviderFeed, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Health, Sample
from wattgram.poller import Poller
from wattgram.ports import Clock, Place, ReadFailed
from wattgram.providers import annual
from wattgram.snapshot import Reload, Snapshot
from wattgram.sources import synthetic
from wattgram.tariff import Rung, Tariff
from wattgram_exporters import page, status
from wattgram_exporters.encoding import OPENMETRICS, TEXT, encode
from wattgram_exporters.families import families

Golden = Callable[[str, str], None]

START = 1_780_000_000.0  # 2026-05-28 20:26:40 UTC
SECONDS = 6
MISSED = 3  # the reading that fails
EVERY = 1.0


class OnceFailing:
    """The synthetic source, but one reading fails; its powers in whole milliwatts, as drivers give them.

    A sine's last digit depends on the processor; a golden file must not.
    """

    def __init__(self, clock: Clock) -> None:
        self._source = synthetic.open_source(synthetic.Options(gpus=2), clock, EVERY)
        self._turn = 0

    def read(self) -> Sample:
        """Return what the synthetic source shows, or fail."""
        self._turn += 1
        if self._turn == MISSED:
            raise ReadFailed("no answer", "timeout")
        sample = self._source.read()
        readings = (
            reading if reading.watts is None else replace(reading, watts=round(reading.watts, 3))
            for reading in sample.readings
        )
        return replace(sample, readings=tuple(readings))

    def close(self) -> None:
        """Let go of it."""
        self._source.close()


def priced(clock: Clock, report: Callable[[Health], None]) -> Tariff:
    """A tariff that has asked the yearly table about France."""
    traits = annual.TRAITS
    tariff = Tariff("FR", "lifecycle", (Rung("annual", traits.hold, traits.bases),))
    provider = annual.open_provider(annual.Options(), Place("FR", "lifecycle"), None, clock)
    feed = ProviderFeed("annual", provider, tariff, clock, lambda *_: None)
    Poller(Health("annual", "table", traits.every), feed, clock, report).turn()
    return tariff


@pytest.fixture(scope="module")
def metered() -> Snapshot:
    """The books after a few seconds, one reading missed; what depends on where they were kept is set."""
    clock = ManualClock(1000.0, START)
    health: list[Health] = []
    tariff = priced(clock, health.append)
    ledger = Ledger(clock, tariff.view, provenances=(("annual", "lifecycle"), ("none", "lifecycle")))
    ledger.reloaded(Reload(successful=True, at=START))
    for known in health:
        ledger.report(known)
    meter = Meter(max_gap=3 * EVERY)
    accountant = Accountant("synthetic", EVERY, meter, tariff, ledger)
    feed = SourceFeed("synthetic", lambda: OnceFailing(clock), accountant, meter, Claims(()), clock)
    poller = Poller(Health("synthetic", "source", EVERY), feed, clock, ledger.report)
    for _ in range(SECONDS):
        clock.advance(EVERY)
        poller.turn()
    return replace(ledger.snapshot(), version="1.2.3", python="3.12.0", cost=None)


def scraped(snapshot: Snapshot, content_type: str) -> str:
    """The scrape; prometheus-client before 0.26 writes exponents with a zero more, 6.1e+010."""
    return re.sub(r"e\+0(\d\d)$", r"e+\1", encode(families(snapshot), content_type).decode(), flags=re.MULTILINE)


def test_the_scrape_in_text(metered: Snapshot, golden: Golden) -> None:
    """As Prometheus up to 2.4 and most others read it."""
    golden("metrics.txt", scraped(metered, TEXT))


def test_the_scrape_in_openmetrics(metered: Snapshot, golden: Golden) -> None:
    """As Prometheus reads it since."""
    golden("metrics.openmetrics.txt", scraped(metered, OPENMETRICS))


def test_the_status(metered: Snapshot, golden: Golden) -> None:
    """As programs read it."""
    golden("status.json", status.status(metered).decode())


def test_the_page(metered: Snapshot, golden: Golden) -> None:
    """As people read it."""
    golden("page.html", page.render(metered))


def test_a_missed_reading_costs_no_joule(metered: Snapshot) -> None:
    """The counters bridge it: what the files show is all the energy there was since the first reading."""
    clock = ManualClock(1000.0 + EVERY, START + EVERY)
    source = synthetic.open_source(synthetic.Options(gpus=2), clock, EVERY)
    clock.advance((SECONDS - 1) * EVERY)
    used = {r.device: r.counter.microjoules for r in source.read().readings if r.counter}

    booked = {d.device: d.microjoules for d in metered.devices}

    assert {0.0} == {d.unmetered_seconds for d in metered.devices}
    assert used == booked
