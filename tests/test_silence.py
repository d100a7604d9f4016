"""A device that does not answer, is switched off, paused or switched: said once, booked right, taken up again."""

from __future__ import annotations

import pytest

from test_feed import CPU, GPU, JOULE, House, Meters
from wattgram.model import Device, Failure, Health, Instant, Sample
from wattgram.ports import Paused, ReadFailed, Source

OTHER = Device("gpu", "GPU-2", events=("gap", "lost", "paused"))


class Cards(Meters):
    """As meters; what is `lost` fails with that event."""

    lost: tuple[Device, ...] = ()

    def read(self) -> Sample:
        sample = super().read()
        gone = tuple(Failure(d, "it fell off the bus", "lost") for d in self.lost)
        kept = tuple(r for r in sample.readings if r.device not in self.lost)
        return Sample(sample.at, kept, failed=(*sample.failed, *gone))


@pytest.fixture
def house() -> House:
    return House()


# --- one line per change ----------------------------------------------------------------------------


def test_a_device_that_does_not_answer_is_said_after_three_turns_and_when_it_is_back(
    house: House, lines: list[str]
) -> None:
    """One slow answer is no news; one line each, whatever the number of turns."""
    meters = Meters(house.clock, GPU, OTHER)
    feed = house.feed("nvml", lambda: meters)
    house.turn(feed)

    meters.silent = (GPU,)
    house.turn(feed)
    house.turn(feed)
    early = list(lines)
    for _ in range(5):
        house.turn(feed)
    meters.silent = ()
    house.turn(feed)
    house.turn(feed)

    assert [] == early
    assert [
        "WARNING nvml: GPU-1 does not answer: no answer",
        "INFO nvml: GPU-1 answers again after 8 s, 0.0 s of it not metered",
    ] == lines


def test_a_slow_answer_or_two_are_not_said(house: House, lines: list[str]) -> None:
    meters = Meters(house.clock, GPU, OTHER)
    feed = house.feed("nvml", lambda: meters)
    house.turn(feed)

    meters.silent = (GPU,)
    house.turn(feed)
    house.turn(feed)
    meters.silent = ()
    house.turn(feed)

    assert [] == lines


def test_a_lost_device_is_said_at_once_and_with_what_was_not_metered(house: House, lines: list[str]) -> None:
    cards = Cards(house.clock, GPU, OTHER)
    feed = house.feed("nvml", lambda: cards)
    house.turn(feed)

    cards.lost = (OTHER,)
    house.turn(feed)
    house.turn(feed)
    cards.lost = ()
    house.turn(feed)

    assert [
        "WARNING nvml: GPU-2 does not answer: it fell off the bus",
        "INFO nvml: GPU-2 answers again after 3 s, 3.0 s of it not metered",
    ] == lines
    assert 3.0 == house.unmetered[OTHER]


def test_what_happens_to_all_is_said_of_the_source_by_its_poller(house: House, lines: list[str]) -> None:
    """Eight lines for one driver are seven too many."""
    meters = Meters(house.clock, GPU, OTHER)
    feed = house.feed("nvml", lambda: meters)
    house.turn(feed)

    meters.silent = (GPU, OTHER)
    for _ in range(5):
        house.turn(feed)

    assert [] == lines


def test_a_place_that_was_never_identified_does_not_answer_because_nobody_does(house: House, lines: list[str]) -> None:
    """A GPU that may not be opened stays silent through an outage of all; it is said once."""
    nameless = Device("gpu", "gpu 3")
    meters = Meters(house.clock, GPU)
    meters.silent = (nameless,)
    feed = house.feed("nvml", lambda: meters)
    for _ in range(4):
        house.turn(feed)
    meters.trouble = ReadFailed("the driver hangs")
    for _ in range(4):
        house.turn(feed)
    meters.trouble = None
    for _ in range(4):
        house.turn(feed)

    assert ["WARNING nvml: gpu 3 does not answer: no answer"] == lines


def test_a_device_that_is_not_mentioned_any_more_is_missed(house: House, lines: list[str]) -> None:
    """A driver that came back with one card less."""
    meters = Meters(house.clock, GPU, OTHER)
    feed = house.feed("nvml", lambda: meters)
    house.turn(feed)
    meters.devices = (GPU,)
    for _ in range(4):
        house.turn(feed)

    assert ["WARNING nvml: GPU-2 does not answer: it is not shown any more"] == lines


def test_who_does_not_answer_stands_in_the_health_while_others_do(house: House) -> None:

    meters = Meters(house.clock, GPU, OTHER)
    feed = house.feed("nvml", lambda: meters)
    house.turn(feed)
    meters.silent = (GPU,)
    house.turn(feed)
    partly = feed.observe(Health("nvml", "source", 1.0)).unanswered
    meters.silent = ()
    house.turn(feed)

    assert (("GPU-1", "no answer"),) == partly
    assert () == feed.observe(Health("nvml", "source", 1.0)).unanswered


# --- paused -----------------------------------------------------------------------------------------


def test_a_pause_lets_go_and_is_unmetered_whatever_the_counter_says(house: House) -> None:
    """The driver may be reloaded meanwhile; the books say what was not seen."""
    opened: list[Meters] = []

    def opener() -> Source:
        opened.append(Meters(house.clock, OTHER))
        return opened[-1]

    feed = house.feed("nvml", opener)
    house.turn(feed)
    house.turn(feed)
    feed.pause(None)
    for _ in range(3):
        house.clock.advance(1.0)
        with pytest.raises(Paused, match="until resumed"):
            feed()
    closed, is_held = opened[0].closed, feed.source is not None
    feed.resume()
    house.turn(feed)
    house.turn(feed)

    assert (1, False, 2) == (closed, is_held, len(opened))
    assert {OTHER: 200} == house.joules
    assert {OTHER: 4.0} == house.unmetered
    assert {"gap": 0, "lost": 0, "paused": 1} == dict(house.ledger.snapshot().devices[0].events)


def test_a_pause_ends_by_itself(house: House) -> None:
    feed = house.feed("nvml", lambda: Meters(house.clock, OTHER))
    house.turn(feed)
    now = house.clock.now()
    feed.pause(Instant(now.mono + 2.5, now.wall + 2.5))
    house.clock.advance(2.0)
    with pytest.raises(Paused, match="until 22:13:23 UTC"):
        feed()
    house.clock.advance(1.0)
    feed()

    assert feed.source is not None


# --- switched ---------------------------------------------------------------------------------------


def test_a_source_that_is_switched_is_read_once_more_and_its_meter_remembers(house: House) -> None:
    """Not a joule between the last reading by the old way and the first by the new one is lost."""
    old, new = Meters(house.clock, CPU), Meters(house.clock, CPU)
    feed = house.feed("rapl", lambda: old)
    house.turn(feed)
    feed.switch(lambda: new, 2.0)
    house.turn(feed)
    house.turn(feed, seconds=2.0)

    assert (1, 0) == (old.closed, new.closed)
    assert {CPU: 300} == house.joules
    assert {CPU: 0.0} == house.unmetered


def test_a_switch_whose_old_way_fails_goes_on_with_the_new_one(house: House) -> None:
    old, new = Meters(house.clock, CPU), Meters(house.clock, CPU)
    feed = house.feed("rapl", lambda: old)
    house.turn(feed)
    old.trouble = ReadFailed("it hangs")
    feed.switch(lambda: new, 1.0)
    house.turn(feed)

    assert ({CPU: 100}, 1) == (house.joules, old.closed)


def test_a_source_that_is_switched_off_books_its_last_second_and_lets_go(house: House) -> None:
    """And leaves its components to whoever delivers them."""
    rapl = Meters(house.clock, CPU)
    feed = house.feed("rapl", lambda: rapl)
    house.turn(feed)
    house.clock.advance(1.0)
    feed.retire()

    assert {CPU: 100 * JOULE} == {d.device: d.microjoules for d in house.ledger.snapshot().devices}
    assert (1, True) == (rapl.closed, house.claims.keeps("estimate", "cpu"))


def test_a_source_that_was_never_opened_is_not_opened_to_be_switched_off(house: House) -> None:
    opened: list[int] = []

    def opener() -> Source:
        opened.append(1)
        return Meters(house.clock, CPU)

    house.feed("rapl", opener).retire()

    assert [] == opened
