"""Whatever a device, its driver and the clocks do: nothing negative, nothing twice, no second left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattgram.meter import COUNTER_STEP_SECONDS, Meter
from wattgram.model import Advance, Counter, Device, EnergyDelta, Failure, Gap, Instant, Reading, Sample

JOULE = 1_000_000
MOST_WATTS = 600
TICK = 0.25  # seconds; a power of two, so that sums of times are exact
SMALL_RANGE = 2_500 * JOULE
RING = 48  # the driver's samples reach back so many ticks
FULL = os.environ.get("WATTGRAM_ACCEPT") == "full"
many = settings(max_examples=2000 if FULL else 200, deadline=None)

# What a device says in one turn.
SAYS = ("counter", "power", "both", "samples", "everything", "bare")
# What may happen instead of an answer.
SILENT = ("failed", "lost", "suspended", "missed", "unmentioned")
# Readings out of order.
DISORDER = ("again", "late", "ahead")


@dataclass(frozen=True)
class Step:
    """So many ticks at so many watts, then what happens before the turn, and the turn."""

    ticks: int
    watts: int
    turn: str
    before: str = ""  # restart, leap, driver, sleep
    wall_step: float = 0.0
    lag: int = 0  # ticks by which the newest sample is older than the reading
    reach: int = RING  # how many samples are shown


@dataclass
class Card:
    """A device that knows what it drew; its counter begins anywhere, may wrap, restart and leap."""

    device: Device = field(default_factory=lambda: Device("gpu", "GPU-1", max_watts=float(MOST_WATTS)))
    shown: int = 0
    wraps_at: int | None = None
    mono: float = 1000.0
    wall: float = 1_700_000_000.0
    truth: int = 0
    watts: int = 0
    driver: int = 570
    ring: list[tuple[float, float]] = field(default_factory=list, repr=False)
    said: list[Reading] = field(default_factory=list, repr=False)

    def live(self, step: Step) -> None:
        for _ in range(step.ticks):
            self.mono += TICK
            self.ring.append((self.mono, float(step.watts)))
        del self.ring[: -2 * RING]
        used = step.watts * step.ticks * JOULE // 4
        self.truth += used
        self.watts = step.watts
        self.shown = used * 9 // 10 if step.before == "restart" else self.shown + used
        self.shown += {"leap": 3 * SMALL_RANGE // 2, "driver": 7_777 * JOULE, "sleep": 111 * JOULE}.get(step.before, 0)
        self.driver += step.before == "driver"
        self.shown %= self.wraps_at or 2**63
        self.wall += step.ticks * TICK + step.wall_step

    @property
    def now(self) -> Instant:
        return Instant(self.mono, self.wall)

    def reading(self, step: Step) -> Reading:
        says = {"everything": "counter+power+samples", "both": "counter+power", "ahead": "counter+power"}.get(
            step.turn, step.turn
        )
        samples = tuple(self.ring[: len(self.ring) - step.lag][-step.reach :]) if "samples" in says else ()
        reading = Reading(
            self.device,
            self.now,
            watts=float(self.watts) if "power" in says else None,
            counter=Counter(self.shown, self.wraps_at) if "counter" in says else None,
            trace=samples,
            driver=str(self.driver),
        )
        if step.turn == "ahead":
            reading = replace(reading, at=Instant(self.mono + 2 * TICK, self.wall + 2 * TICK))
        self.said.append(reading)
        return reading


@dataclass
class Books:
    """All that a meter booked, device by device, in the order in which it was booked."""

    booked: dict[Device, list[EnergyDelta | Gap]] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)

    def take(self, advance: Advance) -> None:
        news: list[EnergyDelta | Gap] = [*advance.deltas, *advance.gaps]
        for x in sorted(news, key=lambda x: (x.end.mono, x.start.mono)):
            self.booked.setdefault(x.device, []).append(x)
        self.kinds += [event.kind for event in advance.events]

    def of(self, device: Device) -> list[EnergyDelta | Gap]:
        return self.booked.get(device, [])

    def deltas(self, device: Device) -> list[EnergyDelta]:
        return [x for x in self.of(device) if isinstance(x, EnergyDelta)]

    def microjoules(self, device: Device) -> int:
        return sum(delta.microjoules for delta in self.deltas(device))

    def unmetered(self, device: Device) -> float:
        return sum(x.seconds for x in self.of(device) if isinstance(x, Gap))


def turn_of(card: Card, step: Step, meter: Meter) -> tuple[tuple[Reading, ...], tuple[Failure, ...]]:
    """Let a card live through a step, and return what it gives to the sample of that turn."""
    if step.turn not in {"again", "late"}:
        card.live(step)
        if step.before == "sleep":
            meter.slept()
    if step.turn in {"again", "late"}:
        return (card.said[-1 if step.turn == "again" else 0],), ()
    if step.turn in {"missed", "failed", "lost", "suspended"}:
        return (), (Failure(card.device, "no answer", step.turn if step.turn in {"lost", "suspended"} else ""),)
    return () if step.turn in {"unmentioned", "unread"} else (card.reading(step),), ()


def run(card: Card, course: Iterable[Step], first: str = "both") -> Books:
    """Read once, then live and read through the course; what is unread is lived only."""
    meter, books = Meter(max_gap=3.0), Books()
    for step in (Step(0, 100, first), *course):
        readings, failed = turn_of(card, step, meter)
        if step.turn == "unread":
            continue
        if step.turn == "missed":
            books.take(meter.missed(card.now, "no answer"))
        else:
            books.take(meter.advance(Sample(card.now, readings, failed=failed)))
    return books


SHORT = st.integers(1, 12)
ANY_LENGTH = SHORT | st.sampled_from([16, 44, 100, 260, 2000])
WALL_STEPS = st.sampled_from([0.0, 0.0, 0.0, -3600.0, -0.5, 7.0, 86_400.0])


def courses(
    *turns: str, before: tuple[str, ...] = (), ticks: st.SearchStrategy[int] = SHORT, least_watts: int = 0
) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        ticks=ticks,
        watts=st.integers(least_watts, MOST_WATTS) | st.sampled_from([least_watts, MOST_WATTS]),
        turn=st.sampled_from(turns),
        before=st.sampled_from(("", "", "", *before)),
        wall_step=WALL_STEPS,
        lag=st.integers(0, 3),
        reach=st.sampled_from([1, 2, 4, RING]),
    )
    return st.lists(step, max_size=30)


def habits() -> st.SearchStrategy[list[Step]]:
    """Courses that stay with one way of answering for a while, so that counters are stuck, doubted and cleared."""
    stretch = st.builds(
        lambda count, step, still: [replace(step, before="still" if still else step.before)] * count,
        st.integers(1, 40),
        st.builds(
            Step,
            ticks=st.sampled_from([1, 4, 4, 4, 8]),
            watts=st.integers(0, MOST_WATTS),
            turn=st.sampled_from((*SAYS, *SILENT)),
            lag=st.integers(0, 1),
        ),
        st.booleans(),
    )
    return st.lists(stretch, min_size=1, max_size=6).map(lambda parts: [step for part in parts for step in part])


class Moody(Card):
    """A card whose counter stands still in some steps, though power is drawn."""

    def live(self, step: Step) -> None:
        before = self.shown
        super().live(step)
        if step.before == "still":
            self.shown = before


EVERYTHING = courses(*SAYS, *SILENT, *DISORDER, before=("restart", "leap", "driver", "sleep"), ticks=ANY_LENGTH)
CARDS = st.builds(
    Moody,
    device=st.builds(
        Device,
        st.just("gpu"),
        st.just("GPU-1"),
        max_watts=st.just(float(MOST_WATTS)),
        on_trial=st.booleans(),
    ),
    shown=st.sampled_from([0, 1, SMALL_RANGE - 1]),
    wraps_at=st.sampled_from([None, SMALL_RANGE]),
)
FIRST = st.sampled_from(SAYS)


def is_booked_once(books: Books, card: Card) -> bool:
    """Whether all that is booked of a card is one unbroken chain of intervals, each of them forward in time."""
    chain = books.of(card.device)
    forward = all(x.start.mono < x.end.mono for x in chain)
    return forward and all(left.end.mono == right.start.mono for left, right in pairwise(chain))


def is_possible(books: Books, card: Card) -> bool:
    """Whether no interval holds less than nothing or more than the card can draw and one step of its counter."""
    return all(
        0 <= delta.microjoules <= MOST_WATTS * (delta.seconds + COUNTER_STEP_SECONDS) * JOULE + 1
        for delta in books.deltas(card.device)
    )


# --- anything at all --------------------------------------------------------------------------------


@pytest.mark.accept("3.2", "any course of readings: nothing negative, nothing impossible, no second twice or left out")
def test_any_course_is_booked_once_and_possible(
    seconds: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    """Counters, power and samples in any turn, wraps, restarts, leaps, losses, disorder, other drivers, both clocks."""
    cases = turns = 0

    @settings(max_examples=int(seconds(300, 10_000)), deadline=None)
    @given(CARDS, FIRST, EVERYTHING | habits())
    def prove(card: Card, first: str, course: list[Step]) -> None:
        nonlocal cases, turns
        books = run(card, course, first)

        assert is_booked_once(books, card)
        assert is_possible(books, card)
        cases, turns = cases + 1, turns + len(course)

    prove()
    report(f"{cases} courses, {turns} turns")


@many
@given(CARDS, FIRST, EVERYTHING | habits())
def test_after_a_last_good_reading_all_time_is_booked(card: Card, first: str, course: list[Step]) -> None:
    """From the first reading to the last, to the last bit: as energy or as unmetered."""
    books = run(card, [*course, *[Step(4, 100, "power")] * 3], first)

    begin = card.said[0].at.mono
    chain = books.of(card.device)
    assert (begin, card.mono) == (chain[0].start.mono, chain[-1].end.mono)
    assert pytest.approx(card.mono - begin) == sum(x.seconds for x in chain)


@many
@given(CARDS, FIRST, EVERYTHING)
def test_unmetered_time_never_runs_back(card: Card, first: str, course: list[Step]) -> None:
    """It is a counter, and no later word takes back what was called unmetered."""
    books = run(card, course, first)

    assert all(x.seconds > 0 for x in books.of(card.device))


@many
@given(CARDS, FIRST, EVERYTHING)
def test_the_wall_clock_changes_nothing_but_dates(card: Card, first: str, course: list[Step]) -> None:
    """The same course by a steady clock has the same energies over the same durations."""
    twin = replace(card, ring=[], said=[])
    steady = [replace(step, wall_step=0.0) for step in course]

    stepped, expected = run(card, course, first), run(twin, steady, first)

    assert outline(expected, twin) == outline(stepped, card)


def outline(books: Books, card: Card) -> list[tuple[float, float, int | None, str]]:
    """What was booked, without dates."""
    return [
        (x.start.mono, x.end.mono, x.microjoules, x.method)
        if isinstance(x, EnergyDelta)
        else (x.start.mono, x.end.mono, None, x.reason)
        for x in books.of(card.device)
    ]


@many
@given(CARDS, FIRST, EVERYTHING)
def test_every_interval_is_as_long_on_the_wall_as_it_was(card: Card, first: str, course: list[Step]) -> None:
    """It ends at its reading's date, and no step of a clock makes it end before it began."""
    books = run(card, course, first)

    lengths = [(x.seconds, x.end.wall - x.start.wall) for x in books.of(card.device)]
    assert [length for length, _ in lengths] == pytest.approx([length for _, length in lengths], abs=1e-5)


# --- by counter -------------------------------------------------------------------------------------


@many
@given(
    start=st.integers(0, SMALL_RANGE - 1),
    wraps_at=st.sampled_from([None, SMALL_RANGE]),
    course=courses("counter", "both", "everything", "again", "late", least_watts=1),
)
def test_counters_add_up_to_the_truth_when_nothing_failed(start: int, wraps_at: int | None, course: list[Step]) -> None:
    """To the microjoule, through wraps, duplicates, late readings and steps of the wall clock.

    Something is always drawn: a counter that stands still may have wrapped, and after a while nobody knows.
    """
    card = Card(shown=start, wraps_at=wraps_at)

    books = run(card, [*course, Step(1, MOST_WATTS, "counter")], "counter")

    assert (card.truth, 0.0) == (books.microjoules(card.device), books.unmetered(card.device))
    assert {"counter"} == {delta.method for delta in books.deltas(card.device)}


@many
@given(
    course=courses(
        *("counter", "failed", "lost", "suspended", "missed", "unmentioned", "again", "late", "bare"),
        before=("restart", "driver", "sleep"),
        ticks=ANY_LENGTH,
    )
)
def test_a_counter_alone_never_makes_us_book_more_than_was_used(course: list[Step]) -> None:
    """What is lost is called unmetered; neither a suspend nor another driver's past adds a joule."""
    card = Card(shown=10**12)

    books = run(card, [*course, Step(1, 100, "counter"), Step(1, 100, "counter")], "counter")

    booked = books.microjoules(card.device)
    assert booked <= card.truth
    assert booked == card.truth or books.unmetered(card.device) > 0


def thinned(course: list[Step], kept: list[bool]) -> list[Step]:
    """The course with some of its readings left out."""
    return [step if keep else replace(step, turn="unread") for step, keep in zip(course, kept, strict=False)]


KEPT = st.lists(st.booleans(), min_size=30, max_size=30)


@many
@given(course=courses("counter", "both", least_watts=1), kept=KEPT)
def test_a_counter_read_often_or_seldom_gives_the_same(course: list[Step], kept: list[bool]) -> None:
    """Splitting an interval does not change its energy, to the microjoule."""
    end = Step(1, MOST_WATTS, "counter")
    often, seldom = Card(shown=10**12), Card(shown=10**12)

    all_read = run(often, [*course, end], "counter")
    some_read = run(seldom, [*thinned(course, kept), end], "counter")

    assert all_read.microjoules(often.device) == some_read.microjoules(seldom.device)


# --- by samples, by power ---------------------------------------------------------------------------


@many
@given(course=courses("samples", ticks=st.integers(1, 8)).filter(bool), kept=KEPT)
def test_samples_add_up_to_the_truth_however_they_are_grouped(course: list[Step], kept: list[bool]) -> None:
    """Each is the mean of its own period: as long as the ring still holds them, no grouping changes the sum."""
    whole = [replace(step, lag=0, reach=RING) for step in course]
    joined = [replace(step, turn="unread") if index % 2 and kept[index] else step for index, step in enumerate(whole)]
    end = Step(1, 100, "samples")
    card = Card()

    books = run(card, [*joined, end], "power")

    assert (0.0, {"samples"}) == (books.unmetered(card.device), {d.method for d in books.deltas(card.device)})
    assert abs(card.truth - books.microjoules(card.device)) <= len(course) + 1


@dataclass(frozen=True)
class Line:
    """A straight line of power over some ticks, read at both ends, and after these ticks in between."""

    ticks: int
    until: int
    between: frozenset[int]


LINES = st.lists(
    st.builds(Line, st.integers(1, 12), st.integers(0, MOST_WATTS), st.frozensets(st.integers(1, 11), max_size=11)),
    min_size=1,
    max_size=20,
)


def integrated(lines: Iterable[Line], *, split: bool) -> tuple[int, float, int]:
    """Microjoules and unmetered seconds by a meter that reads power alone, and how many intervals there were."""
    device = Device("gpu", "GPU-1", max_watts=float(MOST_WATTS))
    meter, books = Meter(max_gap=3.0), Books()
    now, watts = 0.0, 100.0

    def read(seconds: float, power: float) -> None:
        at = Instant(seconds, 1_700_000_000.0 + seconds)
        books.take(meter.advance(Sample(at, (Reading(device, at, watts=power),))))

    read(now, watts)
    for line in lines:
        for tick in sorted(line.between) if split else ():
            if tick < line.ticks:
                read(now + tick * TICK, watts + (line.until - watts) * tick / line.ticks)
        now, watts = now + line.ticks * TICK, float(line.until)
        read(now, watts)
    return books.microjoules(device), books.unmetered(device), len(books.of(device))


@many
@given(LINES)
def test_power_on_straight_lines_gives_the_same_however_it_is_cut(lines: list[Line]) -> None:
    """The integral of the lines, to the rounding of each interval to a microjoule."""
    ends = [100, *(line.until for line in lines)]
    truth = sum(line.ticks * (a + b) * JOULE // 8 for line, (a, b) in zip(lines, pairwise(ends), strict=True))

    whole, _, few = integrated(lines, split=False)
    cut, unmetered, intervals = integrated(lines, split=True)

    assert 0.0 == unmetered
    assert abs(truth - whole) <= few
    assert abs(truth - cut) <= intervals


# --- side by side -----------------------------------------------------------------------------------

TROUBLES = courses(
    *SAYS, "failed", "lost", "suspended", "unmentioned", before=("restart", "leap", "driver"), ticks=ANY_LENGTH
)


@many
@given(CARDS, CARDS, TROUBLES, TROUBLES)
def test_devices_do_not_know_of_each_other(one: Card, two: Card, course: list[Step], other: list[Step]) -> None:
    """In one sample or each in its own: whatever befalls one changes nothing for the other."""
    two.device = replace(two.device, id="GPU-2")
    alone = [replace(card, ring=[], said=[]) for card in (one, two)]
    begin = Step(0, 100, "both")
    pairs = [
        (begin, begin),
        *((left, replace(right, ticks=left.ticks)) for left, right in zip(course, other, strict=False)),
    ]
    meter, together = Meter(max_gap=3.0), Books()

    for left, right in pairs:
        (readings, failed), (more, also) = turn_of(one, left, meter), turn_of(two, right, meter)
        together.take(meter.advance(Sample(one.now, (*readings, *more), failed=(*failed, *also))))

    steps = [left for left, _ in pairs[1:]], [right for _, right in pairs[1:]]
    expected = [outline(run(card, own), card) for card, own in zip(alone, steps, strict=True)]
    assert expected == [outline(together, card) for card in (one, two)]
