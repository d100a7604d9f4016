"""Readings become energy: nothing is invented, nothing is lost silently, nothing is booked twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattgram.meter import Meter, counted, is_plausible, trapezoid
from wattgram.model import (
    Advance,
    Counter,
    Device,
    EnergyDelta,
    Event,
    Failure,
    Gap,
    Instant,
    Reading,
    Sample,
    State,
    Throttle,
)

JOULE = 1_000_000
PACKAGE_RANGE = 262_143_328_850
DRAM_RANGE = 65_532_610_987

GPU = Device("gpu", "GPU-1", max_watts=700.0)
OTHER = Device("gpu", "GPU-2", max_watts=700.0)
CPU = Device("cpu", "package-0", max_watts=1000.0)
DRAM = Device("dram", "dram-0", max_watts=1000.0)


def at(seconds: float, wall_step: float = 0.0) -> Instant:
    return Instant(seconds, 1_700_000_000.0 + seconds + wall_step)


def read(
    seconds: float,
    joules: float | None = None,
    watts: float | None = None,
    *,
    device: Device = GPU,
    wraps_at: int | None = None,
) -> Reading:
    counter = None if joules is None else Counter(round(joules * JOULE), wraps_at)
    return Reading(device, at(seconds), watts=watts, counter=counter)


def throttled(seconds: float, **reasons: float) -> Reading:
    return replace(read(seconds, 0.0), state=State(throttled=tuple(reasons.items())))


def give(meter: Meter, *readings: Reading) -> Advance:
    return meter.advance(Sample(readings[-1].at, readings))


def fail(meter: Meter, seconds: float, device: Device = GPU, event: str = "") -> Advance:
    return meter.advance(Sample(at(seconds), failed=(Failure(device, "no answer", event),)))


def meter_after(*readings: Reading) -> Meter:
    """Return a meter that has taken in these readings, one sample each."""
    meter = Meter(max_gap=3.0)
    for reading in readings:
        give(meter, reading)
    return meter


def energies(advance: Advance) -> list[tuple[float, float, int, str]]:
    return [(d.start.mono, d.end.mono, d.microjoules, d.method) for d in advance.deltas]


def gaps(advance: Advance) -> list[tuple[float, float]]:
    return [(g.start.mono, g.end.mono) for g in advance.gaps]


def kinds(advance: Advance) -> list[str]:
    return [event.kind for event in advance.events]


# --- the first reading ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [read(5.0, 8e7), read(5.0, watts=300.0), read(5.0, 8e7, 300.0)])
def test_the_first_reading_books_nothing(first: Reading) -> None:
    """What a counter gathered since boot is nobody's."""
    meter = Meter(max_gap=3.0)

    advance = give(meter, first)

    assert ((), (), ()) == (advance.deltas, advance.gaps, advance.events)


def test_the_first_reading_says_how_the_device_will_be_metered() -> None:
    """So that its meter can be shown before its first joule."""
    estimate = replace(CPU, quality="estimated")
    meter = Meter(max_gap=3.0)

    advance = give(meter, read(0.0, 1.0), read(0.0, watts=1.0, device=OTHER), read(0.0, 1.0, device=estimate))

    assert ((GPU, "counter"), (OTHER, "power"), (estimate, "estimate")) == advance.methods


# --- counters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Counter(5), Counter(5), 0),
        (Counter(5), Counter(9), 4),
        (Counter(9, 100), Counter(4, 100), 95),
        (Counter(99, 100), Counter(0, 100), 1),
        (Counter(9), Counter(4), None),
        (Counter(2**64 - 1), Counter(0), None),
    ],
)
def test_a_counter_that_cannot_wrap_has_no_difference_when_it_falls(
    old: Counter, new: Counter, expected: int | None
) -> None:
    """A fall is a wrap only where the hardware says at what value it wraps."""
    assert expected == counted(old, new)


def test_a_counter_gives_the_exact_energy_between_two_readings() -> None:
    """Also when power was read: the counter saw all of the interval, power only its ends."""
    meter = meter_after(read(0.0, 100.0, 500.0))

    advance = give(meter, read(1.0, 350.000001, 500.0))

    assert [(0.0, 1.0, 250_000_001, "counter")] == energies(advance)


@pytest.mark.parametrize(("device", "wraps_at"), [(CPU, PACKAGE_RANGE), (DRAM, DRAM_RANGE)])
def test_a_wrap_is_bridged_exactly_with_the_zones_own_range(device: Device, wraps_at: int) -> None:
    """Memory wraps at another value than its package."""
    meter = meter_after(read(0.0, wraps_at / JOULE - 30.0, device=device, wraps_at=wraps_at))

    advance = give(meter, read(1.0, 20.0, device=device, wraps_at=wraps_at))

    assert ([(0.0, 1.0, 50 * JOULE, "counter")], ["wrap"]) == (energies(advance), kinds(advance))


def test_both_zones_may_wrap_in_one_sample() -> None:
    """Each keeps to its own range."""
    meter = Meter(max_gap=3.0)
    give(
        meter,
        replace(read(0.0, device=CPU), counter=Counter(PACKAGE_RANGE - 1, PACKAGE_RANGE)),
        replace(read(0.0, device=DRAM), counter=Counter(DRAM_RANGE - 2, DRAM_RANGE)),
    )

    advance = give(
        meter,
        replace(read(1.0, device=CPU), counter=Counter(9, PACKAGE_RANGE)),
        replace(read(1.0, device=DRAM), counter=Counter(8, DRAM_RANGE)),
    )

    assert [10, 10] == [delta.microjoules for delta in advance.deltas]


def test_a_long_silence_is_bridged_whole_by_a_counter() -> None:
    """The house slept for an hour; the counter did not."""
    meter = meter_after(read(0.0, 0.0, 100.0))

    advance = give(meter, read(3600.0, 360_000.0, 100.0))

    assert ([(0.0, 3600.0, 360_000 * JOULE, "counter")], []) == (energies(advance), gaps(advance))


def test_a_silence_longer_than_a_wrap_is_unmetered() -> None:
    """Nobody knows how often the counter went round."""
    meter = meter_after(read(0.0, 10.0, device=CPU, wraps_at=PACKAGE_RANGE))

    advance = give(meter, read(300.0, 20.0, device=CPU, wraps_at=PACKAGE_RANGE))

    assert ([], [(0.0, 300.0)], ["gap"]) == (energies(advance), gaps(advance), kinds(advance))


def test_a_counter_goes_on_after_a_silence_longer_than_its_wrap() -> None:
    """The reading that ends the silence is the new base."""
    meter = meter_after(
        read(0.0, 10.0, device=CPU, wraps_at=PACKAGE_RANGE), read(300.0, 20.0, device=CPU, wraps_at=PACKAGE_RANGE)
    )

    advance = give(meter, read(301.0, 120.0, device=CPU, wraps_at=PACKAGE_RANGE))

    assert [(300.0, 301.0, 100 * JOULE, "counter")] == energies(advance)


def test_a_counter_that_stands_still_is_waited_for() -> None:
    """It may move yet: nothing is booked meanwhile, neither 0 J nor a gap, and then all of it."""
    meter = meter_after(read(0.0, 10.0))

    standing = give(meter, read(1.0, 10.0))
    moving = give(meter, read(2.0, 30.0))

    assert ([], []) == (energies(standing), gaps(standing))
    assert [(0.0, 2.0, 20 * JOULE, "counter")] == energies(moving)


# --- resets and implausible steps -------------------------------------------------------------------


def test_a_reset_is_bridged_by_power_that_was_read_throughout() -> None:
    """The integral alone: what the new counter shows is in it already."""
    meter = meter_after(read(0.0, 9e6, 200.0))

    advance = give(meter, read(1.0, 50.0, 300.0))

    assert ([(0.0, 1.0, 250 * JOULE, "power")], [], ["reset"]) == (energies(advance), gaps(advance), kinds(advance))


def test_a_reset_without_power_books_the_new_value_and_no_wrap_of_64_bits() -> None:
    """A driver that is reloaded begins at 0; what it shows since was used in this interval."""
    meter = meter_after(read(0.0, 9e6))

    advance = give(meter, read(1.0, 50.0))

    assert 50 * JOULE == sum(delta.microjoules for delta in advance.deltas)
    assert "reset" in kinds(advance)


def test_time_booked_at_a_reset_is_energy_or_unmetered_but_never_both() -> None:
    """The rest of the interval is unmetered: both together are as long as the interval."""
    meter = meter_after(read(0.0, 9e6))

    advance = give(meter, read(1.0, 50.0))

    unmetered = sum(gap.seconds for gap in advance.gaps)
    assert unmetered > 0
    assert pytest.approx(1.0) == unmetered + sum(delta.seconds for delta in advance.deltas)


def test_a_wrapping_counter_that_fell_by_no_wrap_books_nothing() -> None:
    """A wrap would mean 257 kJ in a second. It begins at 0 with the machine only: where this one began nobody knows."""
    meter = meter_after(read(0.0, 5000.0, device=CPU, wraps_at=PACKAGE_RANGE))

    advance = give(meter, read(1.0, 50.0, device=CPU, wraps_at=PACKAGE_RANGE))

    assert ([], [(0.0, 1.0)], True) == (energies(advance), gaps(advance), "reset" in kinds(advance))


def test_an_implausible_new_value_after_a_reset_is_not_booked() -> None:
    """It fell, but to a value that no second can fill: all of the interval is unmetered."""
    meter = meter_after(read(0.0, 9e6))

    advance = give(meter, read(1.0, 5e6))

    assert ([], [(0.0, 1.0)]) == (energies(advance), gaps(advance))


def test_power_read_across_a_gap_does_not_bridge_a_reset() -> None:
    """Two powers an hour apart say nothing of the hour between; the new value is plausible and all there is."""
    meter = meter_after(read(0.0, 9e6, 200.0))

    advance = give(meter, read(3600.0, 50.0, 200.0))

    assert [50 * JOULE] == [delta.microjoules for delta in advance.deltas]


def test_a_counter_goes_on_after_a_reset() -> None:
    """The value it restarted with is the new base."""
    meter = meter_after(read(0.0, 9e6), read(1.0, 50.0))

    advance = give(meter, read(2.0, 150.0))

    assert [(1.0, 2.0, 100 * JOULE, "counter")] == energies(advance)


def test_an_implausible_step_is_discarded_and_counted() -> None:
    """A board of 700 W cannot use a megajoule in a second."""
    meter = meter_after(read(0.0, 100.0))

    advance = give(meter, read(1.0, 1e6))

    assert ([], [(0.0, 1.0)]) == (energies(advance), gaps(advance))
    assert "implausible" in kinds(advance)


def test_an_implausible_step_is_bridged_by_power() -> None:
    """The counter lied, the power reading did not."""
    meter = meter_after(read(0.0, 100.0, 400.0))

    advance = give(meter, read(1.0, 1e6, 400.0))

    assert [(0.0, 1.0, 400 * JOULE, "power")] == energies(advance)
    assert ([], ["implausible"]) == (gaps(advance), kinds(advance))


def test_an_implausible_step_is_the_new_base() -> None:
    """Judged again from the old value, every later step would be implausible too."""
    meter = meter_after(read(0.0, 100.0), read(1.0, 1e6))

    advance = give(meter, read(2.0, 1e6 + 300.0))

    assert [(1.0, 2.0, 300 * JOULE, "counter")] == energies(advance)


@pytest.mark.parametrize(
    ("joules", "seconds", "max_watts", "expected"),
    [(700, 1.0, 700.0, True), (840, 1.0, 700.0, True), (841, 1.0, 700.0, False), (10**12, 1.0, None, True)],
)
def test_a_step_is_plausible_up_to_what_the_device_can_draw_and_one_step_of_its_counter(
    joules: int, seconds: float, max_watts: float | None, *, expected: bool
) -> None:
    """A counter that moves every 100 ms may show a little more than the interval holds."""
    assert expected == is_plausible(joules * JOULE, seconds, max_watts)


# --- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_failed_reading_adds_nothing_and_loses_nothing(failing: int) -> None:
    """Whichever reading fails, the next one brings the whole energy, and none of it twice."""
    meter = Meter(max_gap=3.0)
    booked = []

    for turn in range(6):
        advance = fail(meter, turn) if turn == failing else give(meter, read(turn, 100.0 * turn))
        booked += [d.microjoules for d in advance.deltas]
        assert (turn == failing) <= (not advance.deltas)

    assert 500 * JOULE == sum(booked)


def test_a_source_that_gave_nothing_loses_nothing() -> None:
    """As one failed device, for all of them."""
    meter = meter_after(read(0.0, 0.0))
    meter.missed(at(1.0), "no answer")

    advance = give(meter, read(2.0, 200.0))

    assert [(0.0, 2.0, 200 * JOULE, "counter")] == energies(advance)


def test_a_reading_without_counter_and_power_is_as_a_failed_one() -> None:
    """The card told its temperature only; its counter tells the energy of both intervals a second later."""
    meter = meter_after(read(0.0, 0.0))
    give(meter, replace(read(1.0), state=State(temperature_celsius=40.0)))

    advance = give(meter, read(2.0, 200.0))

    assert [(0.0, 2.0, 200 * JOULE, "counter")] == energies(advance)


def test_a_partial_failure_leaves_the_others_alone() -> None:
    """Three of four answered: three are booked."""
    meter = Meter(max_gap=3.0)
    give(meter, read(0.0, 0.0), read(0.0, 0.0, device=OTHER))

    advance = meter.advance(Sample(at(1.0), (read(1.0, 10.0),), failed=(Failure(OTHER, "no answer"),)))

    assert [(GPU, 10 * JOULE)] == [(d.device, d.microjoules) for d in advance.deltas]


def test_the_failed_one_of_many_catches_up() -> None:
    """A device that missed a turn neither restarts nor disturbs the others' intervals."""
    meter = Meter(max_gap=3.0)
    give(meter, read(0.0, 0.0), read(0.0, 0.0, device=OTHER))
    meter.advance(Sample(at(1.0), (read(1.0, 10.0),), failed=(Failure(OTHER, "no answer"),)))

    advance = give(meter, read(2.0, 20.0), read(2.0, 14.0, device=OTHER))

    assert [(1.0, 2.0, 10 * JOULE, "counter"), (0.0, 2.0, 14 * JOULE, "counter")] == energies(advance)


def test_what_a_counter_cannot_bridge_becomes_unmetered() -> None:
    """After ten minutes nobody waits any longer; the time is booked once."""
    meter = meter_after(read(0.0, 0.0))
    within = fail(meter, 600.0)
    beyond = fail(meter, 601.0)
    on_return = give(meter, read(700.0, 999.0))

    assert ([], [(0.0, 601.0)], [(601.0, 700.0)]) == (gaps(within), gaps(beyond), gaps(on_return))
    assert [] == energies(on_return)


def test_a_device_that_is_not_mentioned_any_more_becomes_unmetered() -> None:
    """Its zone vanished and nobody names it as failed: it was metered once, so it is expected."""
    meter = meter_after(read(0.0, watts=100.0))
    give(meter, read(0.0, watts=100.0, device=OTHER))

    found = [gap for turn in range(1, 11) for gap in give(meter, read(turn, watts=100.0, device=OTHER)).gaps]

    assert 10.0 == sum(gap.seconds for gap in found if gap.device == GPU)


def test_one_outage_is_one_gap_event() -> None:
    """However long it lasts, and also when it ends."""
    meter = meter_after(read(0.0, watts=100.0))

    events = [kind for turn in range(1, 20) for kind in kinds(fail(meter, turn))]
    events += kinds(give(meter, read(20.0, watts=100.0)))

    assert ["gap"] == events


def test_an_outage_is_unmetered_to_the_second() -> None:
    """A device without a counter: every second from its last reading to its first new one."""
    meter = meter_after(read(0.0, watts=100.0))

    found = [gap for turn in range(1, 20) for gap in fail(meter, turn).gaps]
    found += give(meter, read(20.0, watts=100.0)).gaps

    assert 20.0 == sum(gap.seconds for gap in found)


def test_a_device_that_was_never_read_has_no_unmetered_time() -> None:
    """There is no last reading to count from."""
    meter = Meter(max_gap=3.0)

    advance = fail(meter, 100.0)

    assert ((), (), ()) == (advance.deltas, advance.gaps, advance.events)


def test_a_lost_device_is_counted_once() -> None:
    """When it is lost, not every second that it stays so."""
    meter = meter_after(read(0.0, 0.0))

    events = [kind for turn in range(1, 10) for kind in kinds(fail(meter, turn, event="lost"))]

    assert ["lost"] == events


def test_a_device_lost_twice_is_counted_twice() -> None:
    """It came back in between."""
    meter = meter_after(read(0.0, 0.0))
    first = fail(meter, 1.0, event="lost")
    give(meter, read(2.0, 0.0))
    second = fail(meter, 3.0, event="lost")

    assert [["lost"], ["lost"]] == [kinds(first), kinds(second)]


def test_a_device_that_hangs_before_it_is_lost_is_counted_lost() -> None:
    """The first turn timed out, the second said what had happened."""
    meter = meter_after(read(0.0, 0.0))
    fail(meter, 1.0)

    advance = fail(meter, 2.0, event="lost")

    assert ["lost"] == kinds(advance)


# --- power ------------------------------------------------------------------------------------------


def test_a_device_without_counter_integrates_power_and_says_so() -> None:
    """Never 0 J because a board has no counter."""
    meter = meter_after(read(0.0, watts=100.0))

    advance = give(meter, read(2.0, watts=300.0))

    assert [(0.0, 2.0, 400 * JOULE, "power")] == energies(advance)
    assert ((GPU, "power"),) == advance.methods


def test_a_trapezoid_is_never_drawn_across_a_gap() -> None:
    """Four seconds without a reading, where three are allowed: nobody knows what was drawn."""
    meter = meter_after(read(0.0, watts=100.0))

    advance = give(meter, read(4.0, watts=100.0))

    assert ([], [(0.0, 4.0)], ["gap"]) == (energies(advance), gaps(advance), kinds(advance))


def test_a_trapezoid_bridges_one_failed_reading() -> None:
    """Two intervals are no gap yet."""
    meter = meter_after(read(0.0, watts=100.0))
    fail(meter, 1.0)

    advance = give(meter, read(2.0, watts=100.0))

    assert [(0.0, 2.0, 200 * JOULE, "power")] == energies(advance)


def test_a_counter_that_goes_away_is_replaced_by_power() -> None:
    """The device still says what it draws."""
    meter = meter_after(read(0.0, 0.0, 100.0))

    advance = give(meter, read(1.0, watts=100.0))

    assert [(0.0, 1.0, 100 * JOULE, "power")] == energies(advance)


def test_a_counter_that_comes_back_does_not_count_again_what_power_covered() -> None:
    """It shows 300 J more than before; 200 of them are booked already."""
    meter = meter_after(read(0.0, 0.0, 100.0), read(1.0, watts=100.0))
    fail(meter, 2.0)
    back = give(meter, read(3.0, 300.0, 100.0))
    after = give(meter, read(4.0, 400.0, 100.0))

    expected = [(1.0, 3.0, 200 * JOULE, "power"), (3.0, 4.0, 100 * JOULE, "counter")]
    assert expected == [*energies(back), *energies(after)]


def test_a_counter_that_appears_later_counts_from_then_on() -> None:
    """Its first value is a base, not energy."""
    meter = meter_after(read(0.0, watts=100.0), read(1.0, 5e6, 100.0))

    advance = give(meter, read(2.0, 5e6 + 90, 100.0))

    assert [(1.0, 2.0, 90 * JOULE, "counter")] == energies(advance)


def test_a_model_is_called_a_model_whatever_the_arithmetic() -> None:
    """An estimate that keeps a counter is an estimate."""
    estimate = replace(CPU, quality="estimated")
    meter = meter_after(read(0.0, 0.0, 50.0, device=estimate))

    advance = give(meter, read(1.0, 50.0, 50.0, device=estimate))

    assert ("estimate", ((estimate, "estimate"),)) == (advance.deltas[0].method, advance.methods)


@given(
    base=st.integers(0, 500),
    slope=st.integers(-50, 50),
    ticks=st.lists(st.integers(1, 12), min_size=1, max_size=20),
)
def test_trapezoids_are_exact_for_linear_power(base: int, slope: int, ticks: list[int]) -> None:
    """Where power rises on a line, however it is cut, the sum is the integral."""
    start, total, now = base + 3000, 0, 0.0
    for quarter_seconds in ticks:
        before, now = now, now + quarter_seconds / 4
        total += trapezoid(start + slope * before, start + slope * now, now - before)

    assert abs(round((start * now + slope * now * now / 2) * JOULE) - total) <= len(ticks)


# --- time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 0.5, 0.0])
def test_a_duplicate_or_late_reading_is_ignored(seconds: float) -> None:
    """Its time is booked already, whatever it shows."""
    meter = meter_after(read(0.0, 0.0), read(1.0, 100.0))

    assert Advance() == give(meter, read(seconds, 50.0))


def test_a_late_reading_is_no_new_base() -> None:
    """The counter that it shows is older than the one that is remembered."""
    meter = meter_after(read(0.0, 0.0), read(1.0, 100.0), read(0.5, 50.0))

    advance = give(meter, read(2.0, 200.0))

    assert [(1.0, 2.0, 100 * JOULE, "counter")] == energies(advance)


@pytest.mark.parametrize("step", [-86_400.0, -1.0, 1.0, 86_400.0])
@pytest.mark.parametrize(
    ("old", "new"),
    [(read(0.0, 0.0), read(1.0, 100.0)), (read(0.0, watts=100.0), read(1.0, watts=100.0))],
    ids=["counter", "power"],
)
def test_a_step_of_the_wall_clock_changes_no_energy(old: Reading, new: Reading, step: float) -> None:
    """The clock was set while a joule was used; the interval keeps its length."""
    meter = meter_after(old)

    advance = give(meter, replace(new, at=at(1.0, step)))

    assert [100 * JOULE] == [d.microjoules for d in advance.deltas]
    assert [1.0] == [d.seconds for d in advance.deltas]


def test_an_interval_ends_at_its_readings_date_and_begins_so_much_earlier_as_it_is_long() -> None:
    """An interval never runs backwards, even when the clock did."""
    meter = meter_after(read(0.0, 0.0))

    (delta,) = give(meter, replace(read(2.0, 100.0), at=Instant(2.0, 5000.0))).deltas

    assert (4998.0, 5000.0) == (delta.start.wall, delta.end.wall)


# --- throttling -------------------------------------------------------------------------------------


def test_throttled_seconds_are_what_was_added_since_the_last_reading() -> None:
    """What the driver counted before we came is not ours."""
    meter = meter_after(throttled(0.0, power=500.0))

    advance = give(meter, throttled(10.0, power=503.5))

    assert (Throttle(GPU, "power", 3.5),) == advance.throttles


def test_a_throttle_counter_that_restarts_adds_nothing_and_goes_on() -> None:
    """A reloaded driver counts from 0 again."""
    meter = meter_after(throttled(0.0, power=500.0))

    restart = give(meter, throttled(1.0, power=0.0))
    after = give(meter, throttled(2.0, power=0.75))

    assert ((), (Throttle(GPU, "power", 0.75),)) == (restart.throttles, after.throttles)


def test_a_reading_without_state_forgets_no_throttling() -> None:
    """What was counted meanwhile comes with the next state."""
    meter = meter_after(throttled(0.0, power=500.0), read(1.0, 0.0))

    advance = give(meter, throttled(2.0, power=501.0))

    assert (Throttle(GPU, "power", 1.0),) == advance.throttles


# --- forgetting -------------------------------------------------------------------------------------


def test_a_forgotten_component_begins_anew() -> None:
    """Somebody else metered it meanwhile: its counter must not book that time."""
    meter = meter_after(read(0.0, 0.0, device=CPU), read(0.0, 0.0))
    meter.forget("cpu")

    advance = give(meter, read(10.0, 1000.0, device=CPU), read(10.0, 100.0))

    assert [(GPU, 100 * JOULE)] == [(d.device, d.microjoules) for d in advance.deltas]


# --- properties -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """So many quarter seconds at so many watts, and what then happens.

    It is read (counter, power, both, bare: neither), fails (failed, missed), or an old reading comes (again, late).
    """

    quarters: int
    watts: int
    what: str
    restarts: bool = False
    wall_step: float = 0.0


class Card:
    """A device that knows the truth; its counter begins anywhere, may wrap and may restart."""

    def __init__(self, shown: int, wraps_at: int | None) -> None:
        self.device = Device("gpu", "GPU-1", max_watts=600.0)
        self.wraps_at = wraps_at
        self.shown = shown
        self.truth = 0
        self.mono = 1000.0
        self.wall = 1_700_000_000.0
        self.watts = 0

    def live(self, step: Step) -> None:
        used = step.watts * step.quarters * JOULE // 4
        self.truth += used
        self.shown = used // 2 if step.restarts else self.shown + used
        if self.wraps_at is not None:
            self.shown %= self.wraps_at
        self.mono += step.quarters / 4
        self.wall += step.quarters / 4 + step.wall_step
        self.watts = step.watts

    def reading(self, what: str) -> Reading:
        counter = Counter(self.shown, self.wraps_at) if what in {"counter", "both"} else None
        watts = float(self.watts) if what in {"power", "both"} else None
        return Reading(self.device, Instant(self.mono, self.wall), watts=watts, counter=counter)


@dataclass
class Trial:
    """All that a meter booked for one card."""

    first: float
    last: float
    deltas: list[EnergyDelta]
    gaps: list[Gap]
    events: list[Event]

    @property
    def microjoules(self) -> int:
        return sum(delta.microjoules for delta in self.deltas)

    @property
    def booked(self) -> list[tuple[float, float]]:
        stretches: list[EnergyDelta | Gap] = [*self.deltas, *self.gaps]
        return sorted((x.start.mono, x.end.mono) for x in stretches)


def trial(card: Card, steps: list[Step], edge: str = "both") -> Trial:
    """Read once, live through the steps, read once more."""
    meter = Meter(max_gap=3.0)
    first = last = card.reading(edge)
    result = Trial(card.mono, card.mono, [], [], [])
    advances = [give(meter, first)]
    for step in [*steps, Step(1, 100, edge)]:
        if step.what not in {"again", "late"}:
            card.live(step)
        now = Instant(card.mono, card.wall)
        if step.what == "failed":
            advances.append(meter.advance(Sample(now, failed=(Failure(card.device, "no answer", "lost"),))))
        elif step.what == "missed":
            advances.append(meter.missed(now, "no answer"))
        elif step.what == "again":
            advances.append(give(meter, last))
        elif step.what == "late":
            advances.append(give(meter, first))
        else:
            last = card.reading(step.what)
            advances.append(give(meter, last))
    result.last = card.mono
    for advance in advances:
        result.deltas += advance.deltas
        result.gaps += advance.gaps
        result.events += advance.events
    return result


WALL_STEPS = st.sampled_from([0.0, 0.0, 0.0, -3600.0, -0.5, 7.0, 86_400.0])
SHORT = st.integers(1, 12)
ANY_LENGTH = SHORT | st.sampled_from([16, 400, 2000, 4000])


def steps(
    *whats: str, quarters: st.SearchStrategy[int] = SHORT, restarts: bool = False
) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        quarters=quarters,
        watts=st.integers(0, 600),
        what=st.sampled_from(whats),
        restarts=st.booleans() if restarts else st.just(value=False),
        wall_step=WALL_STEPS,
    )
    return st.lists(step, max_size=25)


SMALL_RANGE = 2_500 * JOULE
ANYTHING = ("counter", "both", "power", "bare", "failed", "missed", "again", "late")
property_settings = settings(max_examples=300, deadline=None)


@property_settings
@given(start=st.integers(0, SMALL_RANGE - 1), wraps=st.booleans(), course=steps("counter", "both", "again", "late"))
def test_counter_deltas_add_up_to_the_truth_when_nothing_failed(start: int, wraps: bool, course: list[Step]) -> None:  # noqa: FBT001
    """To the microjoule, through wraps, duplicates, late readings and steps of the wall clock."""
    card = Card(start, SMALL_RANGE if wraps else None)

    result = trial(card, course)

    assert (card.truth, []) == (result.microjoules, result.gaps)
    assert {"counter"} == {delta.method for delta in result.deltas}


@property_settings
@given(course=steps(*ANYTHING, quarters=ANY_LENGTH))
def test_every_second_between_the_first_and_the_last_reading_is_booked_once(course: list[Step]) -> None:
    """As energy or as a gap, through failures, duplicates, late and empty readings, and steps of the wall clock."""
    card = Card(0, None)

    result = trial(card, course)

    starts, ends = zip(*result.booked, strict=True)
    assert (result.first, *ends) == (*starts, result.last)


@property_settings
@given(course=steps(*ANYTHING, quarters=ANY_LENGTH, restarts=True))
def test_no_second_is_booked_twice_when_counters_restart(course: list[Step]) -> None:
    """Energy and gaps of one device never overlap, and are together as long as the time between the readings."""
    card = Card(10**12, None)

    result = trial(card, course)

    assert all(left_end <= start for (_, left_end), (start, _) in pairwise(result.booked))
    assert pytest.approx(result.last - result.first) == sum(end - start for start, end in result.booked)


@property_settings
@given(wraps=st.booleans(), course=steps(*ANYTHING, quarters=ANY_LENGTH, restarts=True))
def test_energy_is_never_negative_and_never_more_than_the_device_can_draw(wraps: bool, course: list[Step]) -> None:  # noqa: FBT001
    """Whatever the device does."""
    card = Card(SMALL_RANGE - 1, SMALL_RANGE if wraps else None)

    result = trial(card, course)

    for delta in result.deltas:
        assert 0 <= delta.microjoules <= 600 * JOULE * (delta.seconds + 0.2)


@property_settings
@given(course=steps("counter", "failed", "missed", "again", "late", "bare", quarters=ANY_LENGTH, restarts=True))
def test_a_counter_never_makes_us_book_more_than_was_used(course: list[Step]) -> None:
    """Restarts, failures and gaps may lose energy, and then say so; they invent none."""
    card = Card(10**12, None)

    result = trial(card, course, edge="counter")

    assert result.microjoules <= card.truth
    assert result.microjoules == card.truth or result.gaps


@property_settings
@given(course=steps(*ANYTHING, quarters=ANY_LENGTH, restarts=True))
def test_steps_of_the_wall_clock_change_nothing_but_dates(course: list[Step]) -> None:
    """The same course with a steady clock gives the same energies over the same durations."""
    steady = [replace(step, wall_step=0.0) for step in course]

    stepped, expected = trial(Card(10**12, None), course), trial(Card(10**12, None), steady)

    assert [(d.start.mono, d.end.mono, d.microjoules) for d in expected.deltas] == [
        (d.start.mono, d.end.mono, d.microjoules) for d in stepped.deltas
    ]
    assert [g.seconds for g in expected.gaps] == [g.seconds for g in stepped.gaps]


@property_settings
@given(course=steps("counter", "both", restarts=False), kept=st.lists(st.booleans(), min_size=25, max_size=25))
def test_splitting_an_interval_does_not_change_its_energy(course: list[Step], kept: list[bool]) -> None:
    """Read often or seldom: a counter's energy is the same."""
    meter, seldom = Meter(max_gap=3.0), Meter(max_gap=3.0)
    card = Card(10**12, None)
    totals = [0, 0]
    for index, step in enumerate([Step(1, 0, "counter"), *course, Step(1, 100, "counter")]):
        card.live(step)
        reading = card.reading("counter")
        totals[0] += sum(d.microjoules for d in give(meter, reading).deltas)
        if index == 0 or index == len(course) + 1 or kept[index - 1]:
            totals[1] += sum(d.microjoules for d in give(seldom, reading).deltas)

    assert totals[0] == totals[1]
