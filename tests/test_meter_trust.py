"""When a counter is believed, when power or the driver's samples stand in for it, and what no reading may bridge."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.feed import Claims, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter, plausible
from wattgram.model import Advance, Counter, Device, EnergyDelta, Failure, Gap, Instant, Reading, Sample
from wattgram.sources.nvml.ring import Ring, is_even
from wattgram.trust import Trust
from wattgram_exporters.families import families

JOULE = 1_000_000
T0 = 1_700_000_000.0
START = 1000.0
POLL = 1.0

GPU = Device("gpu", "GPU-1", max_watts=700.0, events=("reset", "gap", "stuck"))
PACKAGE = Device("cpu", "package-0", max_watts=1000.0)
GRACE = replace(GPU, id="GPU-grace", module="module-0", on_trial=True)

Trace = tuple[tuple[float, float], ...]


@dataclass
class Bench:
    """One device before a meter: what it shows is set, what is booked is kept.

    `joules` is what its counter shows and `draws` what that gains in a second; `watts` is what its power meter shows;
    None: it has no such meter. `truth` is what it drew in all.
    """

    device: Device = GPU
    joules: float | None = 5_000_000.0
    watts: float | None = 300.0
    draws: float = 300.0
    truth: float = 300.0
    driver: str = "570.86"
    now: float = START
    meter: Meter = field(default_factory=lambda: Meter(max_gap=3.0))
    booked: list[EnergyDelta | Gap] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    method: str = ""
    ratio: float | None = None
    used: float = 0.0

    def __post_init__(self) -> None:
        self.read(after=0.0)

    def read(self, turns: int = 1, *, after: float = POLL, trace: Trace = ()) -> None:
        """Let a poll's time pass and read, so many times."""
        for _ in range(turns):
            self.pass_time(after)
            counter = None if self.joules is None else Counter(round(self.joules * JOULE))
            reading = Reading(self.device, self.at, self.watts, counter, trace, driver=self.driver)
            self.take(self.meter.advance(Sample(self.at, (reading,))))

    def fail(self, turns: int = 1, event: str = "") -> None:
        for _ in range(turns):
            self.pass_time(POLL)
            self.take(self.meter.advance(Sample(self.at, failed=(Failure(self.device, "no answer", event),))))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.used += self.truth * seconds
        if self.joules is not None:
            self.joules += self.draws * seconds

    def take(self, advance: Advance) -> None:
        self.booked += sorted((*advance.deltas, *advance.gaps), key=lambda x: (x.end.mono, x.start.mono))
        self.kinds += [event.kind for event in advance.events]
        for _, method in advance.methods:
            self.method = method
        self.ratio = dict(advance.crosschecks).get(self.device)

    @property
    def at(self) -> Instant:
        return Instant(self.now, T0 + self.now)

    @property
    def deltas(self) -> list[EnergyDelta]:
        return [x for x in self.booked if isinstance(x, EnergyDelta)]

    @property
    def gaps(self) -> list[tuple[float, float]]:
        return [(x.start.mono - START, x.end.mono - START) for x in self.booked if isinstance(x, Gap)]

    @property
    def total(self) -> float:
        """Joules booked."""
        return sum(delta.microjoules for delta in self.deltas) / JOULE

    @property
    def unmetered(self) -> float:
        return sum(end - start for start, end in self.gaps)

    def last(self) -> tuple[float, float, float, str]:
        """The newest delta: from, to (seconds since the first reading), joules, method."""
        delta = self.deltas[-1]
        return delta.start.mono - START, delta.end.mono - START, delta.microjoules / JOULE, delta.method

    def stop_counter(self) -> None:
        self.draws = 0.0

    def impossible_step(self) -> None:
        assert self.joules is not None
        self.joules += 1e6
        self.read()


def is_booked_once(bench: Bench) -> bool:
    """Whether all from the first reading on is booked without a hole, none of it twice and none backwards."""
    edges = [START, *(x.end.mono for x in bench.booked)]
    forward = all(x.start.mono < x.end.mono for x in bench.booked)
    return forward and edges[:-1] == [x.start.mono for x in bench.booked]


def mean(
    watts: Callable[[float], float], last: float, *, length: float, period: float = 0.1, shift: float = 0.0
) -> Trace:
    """The driver's samples of so many seconds up to `last`, each the mean of its own period."""
    count = round(length / period)
    ends = [last - period * (count - 1 - index) for index in range(count)]
    return tuple((end + shift, watts(end)) for end in ends)


def flat(watts: float) -> Callable[[float], float]:
    return lambda _: watts


# --- a counter that stands still while power is drawn -----------------------------------------------


def test_a_counter_that_stands_still_for_less_than_ten_seconds_is_waited_for() -> None:
    """It moves in steps of its own; when it moves it brings all that was used."""
    bench = Bench()
    bench.stop_counter()
    bench.read(9)
    assert [] == bench.booked

    bench.draws = 3000.0
    bench.read()

    assert (0.0, 10.0, 3000.0, "counter") == bench.last()
    assert [] == bench.kinds


def test_after_ten_seconds_of_standing_still_power_is_booked_instead() -> None:
    """All of the ten seconds: while it was waited for nothing was booked."""
    bench = Bench()
    bench.stop_counter()

    bench.read(10)

    assert ([(0.0, 10.0, 3000.0, "power")], "power") == ([bench.last()], bench.method)
    assert is_booked_once(bench)


def test_a_stuck_counter_is_counted_once() -> None:
    """When it is found out, not every second that it stays so."""
    bench = Bench()
    bench.stop_counter()

    bench.read(200)

    assert ["stuck"] == bench.kinds


def test_the_drivers_samples_stand_in_for_a_stuck_counter_where_there_are_any() -> None:
    """They see more of the time than a reading a second does."""
    bench = Bench()
    bench.stop_counter()

    for _ in range(10):
        bench.read(trace=mean(flat(250.0), bench.now + 1.0, length=12.0))

    assert (0.0, 10.0, 2500.0, "samples") == pytest.approx(bench.last())
    assert "samples" == bench.method


def test_a_stuck_counter_loses_nothing_and_books_nothing_twice() -> None:
    """From its standstill to its return, at constant power: what was drawn, to the microjoule."""
    bench = Bench()
    bench.read(20)
    bench.stop_counter()
    bench.read(12)
    bench.draws = 300.0
    bench.read(100)

    assert (bench.used, True) == (bench.total, is_booked_once(bench))
    assert ["stuck"] == bench.kinds


def test_a_counter_that_moves_every_nine_seconds_is_never_stuck() -> None:
    """Slow is not stuck."""
    bench = Bench()
    bench.stop_counter()

    for _ in range(20):
        bench.read(8)
        bench.draws = 2700.0
        bench.read()
        bench.stop_counter()

    assert ([], {"counter"}) == (bench.kinds, {delta.method for delta in bench.deltas})
    assert bench.used == bench.total


def test_a_device_that_draws_nothing_is_metered_though_its_counter_stands_still() -> None:
    """A power of zero is a measurement, and the counter agrees with it: nothing is stuck, no second is unmetered."""
    bench = Bench(watts=0.0, truth=0.0)
    bench.stop_counter()

    bench.read(120)

    assert ([], 0.0, 0.0) == (bench.kinds, bench.unmetered, bench.total)


def test_a_stuck_counter_that_agrees_for_thirty_seconds_is_believed_again() -> None:
    """Not a second earlier."""
    bench = Bench()
    bench.stop_counter()
    bench.read(10)
    bench.draws = 300.0

    bench.read(29)
    assert "power" == bench.method
    bench.read(1)
    assert "counter" == bench.method
    bench.read(1)
    assert (40.0, 41.0, 300.0, "counter") == bench.last()


def test_how_long_a_counter_was_stuck_does_not_matter_once_it_agrees() -> None:
    """Thirty seconds of agreement are enough, also after a minute and a half of standing still."""
    bench = Bench()
    bench.stop_counter()
    bench.read(90)
    bench.draws = 300.0

    bench.read(31)

    assert "counter" == bench.method


@pytest.mark.parametrize(("part", "expected"), [(0.91, "counter"), (1.09, "counter"), (0.89, "power"), (1.11, "power")])
def test_agreement_is_within_a_tenth(part: float, expected: str) -> None:
    """Sensors of one board differ by a few per cent; a counter of another scope by more."""
    bench = Bench()
    bench.stop_counter()
    bench.read(10)
    bench.draws = 300.0 * part

    bench.read(600)

    assert expected == bench.method


def test_the_second_in_which_a_counter_is_believed_again_is_booked_once() -> None:
    """By power; the counter goes on from there. Its own 8 % show for how long it was asked."""
    bench = Bench()
    bench.stop_counter()
    bench.read(10)
    bench.draws = 324.0

    bench.read(300)

    by_counter = sum(delta.seconds for delta in bench.deltas if delta.method == "counter")
    assert is_booked_once(bench)
    assert 200 <= by_counter < 300
    assert 300.0 * (310 - by_counter) + 324.0 * by_counter == bench.total


def test_a_counter_that_is_not_believed_books_no_leap() -> None:
    """It catches up in one step with what power has booked already."""
    bench = Bench()
    bench.stop_counter()
    bench.read(15)
    assert bench.joules is not None
    bench.joules += 15 * 300.0
    bench.draws = 300.0

    bench.read(5)

    assert (bench.used, True) == (bench.total, is_booked_once(bench))


# --- a counter that stands still, and nobody knows what is drawn ------------------------------------


def frozen() -> Bench:
    bench = Bench(PACKAGE, watts=None)
    bench.stop_counter()
    return bench


def test_a_frozen_counter_is_waited_for_a_minute() -> None:
    """An idle memory zone may show nothing for long; what it shows then is all of it."""
    bench = frozen()
    bench.read(59)
    assert [] == bench.booked

    bench.draws = 120.0
    bench.read()

    assert (0.0, 60.0, 120.0, "counter") == bench.last()


def test_a_frozen_counter_makes_its_time_unmetered_and_is_counted_once() -> None:
    """From its last movement on, and from then on as time passes."""
    bench = frozen()

    bench.read(60)
    assert [(0.0, 60.0)] == bench.gaps
    bench.read(60)

    assert ([], ["stuck"], 120.0) == (bench.deltas, bench.kinds, bench.unmetered)
    assert is_booked_once(bench)


def test_a_frozen_counter_that_moves_goes_on() -> None:
    """It books what it gained since it was last seen standing; before that all is unmetered."""
    bench = frozen()
    bench.read(90)
    bench.draws = 50.0

    bench.read(10)

    assert (500.0, 90.0, ["stuck"]) == (bench.total, bench.unmetered, bench.kinds)
    assert is_booked_once(bench)


def test_a_counter_that_freezes_twice_is_counted_twice() -> None:
    """It moved in between."""
    bench = frozen()
    bench.read(90)
    bench.draws = 50.0
    bench.read(10)
    bench.stop_counter()

    bench.read(90)

    assert ["stuck", "stuck"] == bench.kinds


def test_a_counter_that_is_zero_for_ever_books_nothing_and_says_so() -> None:
    """A zone that the firmware never fills is no device that draws nothing."""
    bench = Bench(PACKAGE, joules=0.0, watts=None)
    bench.stop_counter()

    bench.read(600)

    assert ([], 600.0, ["stuck"]) == (bench.deltas, bench.unmetered, bench.kinds)


# --- impossible steps -------------------------------------------------------------------------------


def test_three_impossible_steps_within_five_minutes_demote_a_counter() -> None:
    """Each is bridged by power; after the third the counter is not asked any more."""
    bench = Bench()
    for _ in range(2):
        bench.impossible_step()
        bench.read(60)
        assert "counter" == bench.method

    bench.impossible_step()

    assert ("power", ["implausible"] * 3) == (bench.method, bench.kinds)
    assert (bench.used, True) == (bench.total, is_booked_once(bench))


def test_impossible_steps_far_apart_do_not_demote_a_counter() -> None:
    """One glitch in three minutes is bridged, and that is all."""
    bench = Bench()

    for _ in range(10):
        bench.impossible_step()
        bench.read(180)

    assert "counter" == bench.method


def test_a_counter_demoted_for_its_steps_is_believed_again_when_it_agrees() -> None:
    """As after standing still."""
    bench = Bench()
    for _ in range(3):
        bench.impossible_step()

    bench.read(31)

    assert "counter" == bench.method


def test_a_counter_with_no_power_beside_it_is_not_given_up_for_ever() -> None:
    """Nothing can stand in for it and nothing can clear it: half an hour of good steps must be enough."""
    bench = Bench(PACKAGE, watts=None, draws=100.0, truth=100.0)
    for _ in range(3):
        bench.impossible_step()

    bench.read(1800)

    assert (1799.0, 1800.0) == pytest.approx(bench.last()[:2], abs=4.0)


# --- restarts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gained", [1.0, 50.0, 300.0, 650.0, 700.0])
def test_what_a_restarted_counter_shows_is_spread_over_the_time_it_takes(gained: float) -> None:
    """The driver was reloaded at the beginning of the second: 650 J in half of it no board of 700 W can use."""
    bench = Bench(watts=None)
    bench.joules, bench.draws = gained, 0.0

    bench.read()

    (delta,) = bench.deltas
    assert (gained, True) == (bench.total, is_booked_once(bench))
    assert gained <= 700.0 * (delta.seconds + 0.2)


# --- on trial ---------------------------------------------------------------------------------------


def test_a_counter_on_trial_counts_only_after_it_has_agreed() -> None:
    """Until then power is integrated, and nothing is lost or booked twice at the change."""
    bench = Bench(GRACE)
    bench.read(30)
    assert {"power"} == {delta.method for delta in bench.deltas}

    bench.read(30)

    assert ("counter", "counter") == (bench.method, bench.last()[3])
    assert (bench.used, True) == (bench.total, is_booked_once(bench))


def test_a_counter_of_the_whole_module_is_never_believed() -> None:
    """It counts the processor too: twice what the GPU draws, however long one listens."""
    bench = Bench(GRACE, draws=600.0)

    bench.read(1200)

    assert ("power", bench.used) == (bench.method, bench.total)
    assert 2.0 == bench.ratio


def test_a_counter_on_trial_that_ceases_to_agree_is_not_believed_any_more() -> None:
    """A module's counter agrees to 8 % while its processor idles; with the processor at work it is half too much."""
    bench = Bench(GRACE, draws=300.0 * 1.08)
    bench.read(60)
    bench.draws = 450.0

    bench.read(600)

    assert "power" == bench.method


def test_a_counter_on_trial_never_bridges_an_outage() -> None:
    """It is not believed: after three seconds nobody knows."""
    bench = Bench(GRACE)

    bench.fail(5)
    bench.read(1)

    assert ([(0.0, 4.0), (4.0, 5.0), (5.0, 6.0)], []) == (bench.gaps, bench.deltas)


# --- the cross-check --------------------------------------------------------------------------------


def test_the_crosscheck_is_absent_before_thirty_seconds() -> None:
    """Of less a ratio would say more about the steps of the counter than about its truth."""
    bench = Bench(draws=306.0)

    bench.read(29)
    assert bench.ratio is None
    bench.read(1)

    assert pytest.approx(1.02) == bench.ratio


def test_the_crosscheck_forgets_after_five_minutes() -> None:
    """It says how the counter does now."""
    bench = Bench(draws=450.0)
    bench.read(600)
    assert pytest.approx(1.5) == bench.ratio
    bench.draws = 300.0

    bench.read(150)
    assert bench.ratio is not None
    assert 1.2 < bench.ratio < 1.3
    bench.read(151)

    assert pytest.approx(1.0) == bench.ratio


def test_the_crosscheck_is_absent_once_nothing_of_it_is_of_the_last_five_minutes() -> None:
    """Power is told no more: what was compared an hour ago is no statement about now."""
    bench = Bench()
    bench.read(60)
    known = bench.ratio
    bench.watts = None
    bench.read(400)

    assert known is not None
    assert bench.ratio is None


def test_the_crosscheck_is_absent_where_one_of_both_is_not_known() -> None:
    """A processor has no wattmeter, an older board no counter."""
    package, board = Bench(PACKAGE, watts=None), Bench(joules=None)

    package.read(100)
    board.read(100)

    assert (None, None) == (package.ratio, board.ratio)


def test_a_crosscheck_that_disagrees_is_shown_and_changes_no_energy() -> None:
    """Which of both is right is not ours to say, unless the counter is on trial."""
    bench = Bench(draws=390.0)

    bench.read(100)

    assert pytest.approx((1.3, 39_000.0)) == (bench.ratio, bench.total)
    assert "counter" == bench.method


def test_the_crosscheck_compares_the_sensors_not_the_calibration() -> None:
    """The user's gain is the same for both."""
    bench = Bench(replace(GPU, gain=2.0, offset_watts=100.0), draws=306.0)

    bench.read(60)

    assert pytest.approx(1.02) == bench.ratio


def test_judging_a_counter_costs_next_to_nothing_at_the_least_interval() -> None:
    """At 50 ms half a minute is 600 comparisons, five minutes are 6000: a turn may not add all of them up again."""
    trust = Trust(on_trial=False)

    def compare(tick: int) -> None:
        trust.compare(tick * 0.05, (tick + 1) * 0.05, 15 * JOULE, 15 * JOULE)

    for tick in range(6000):
        compare(tick)
    before = time.process_time()
    for tick in range(6000, 6100):
        compare(tick)
        trust.ratio((tick + 1) * 0.05)
    spent = time.process_time() - before

    assert spent / 100 < 0.001  # seconds; eight cards take eight times as much, twenty times a second


def test_five_minutes_are_kept_small_however_often_a_device_is_read() -> None:
    """Eight cards at 10 Hz held 3 MiB of comparisons."""
    tracemalloc.start()
    trust = Trust(on_trial=False)
    for tick in range(12_000):
        trust.compare(tick * 0.05, (tick + 1) * 0.05, 16 * JOULE, 15 * JOULE)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 100_000
    assert pytest.approx(16 / 15) == trust.ratio(600.0)


# --- calibration ------------------------------------------------------------------------------------

CALIBRATED = replace(GPU, gain=1.1, offset_watts=-5.0)
ONCE = 1.1 * 300.0 - 5.0


def a_counter(bench: Bench) -> None:
    bench.read(10)


def its_power(bench: Bench) -> None:
    bench.joules = None
    bench.read(10)


def its_samples(bench: Bench) -> None:
    bench.joules = None
    for _ in range(10):
        bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=1.0))


def a_stuck_counter(bench: Bench) -> None:
    bench.stop_counter()
    bench.read(10)


def a_restart(bench: Bench) -> None:
    bench.read(5)
    bench.joules = 0.0
    bench.read(5)


@pytest.mark.parametrize("course", [a_counter, its_power, its_samples, a_stuck_counter, a_restart])
def test_energy_is_calibrated_once_whatever_the_method(course: Callable[[Bench], None]) -> None:
    """Gain times what was metered, and the offset for each second of it."""
    bench = Bench(CALIBRATED)

    course(bench)

    assert pytest.approx(10 * ONCE, abs=2e-5) == bench.total


def test_a_model_is_calibrated_too() -> None:
    """Whatever the arithmetic, once."""
    bench = Bench(replace(CALIBRATED, quality="estimated"))

    bench.read(10)

    assert pytest.approx(10 * ONCE) == bench.total
    assert "estimate" == bench.last()[3]


def test_a_calibration_by_offset_does_not_depend_on_how_often_one_reads() -> None:
    """An offset is watts, not joules per reading."""
    often, seldom = Bench(CALIBRATED), Bench(CALIBRATED)

    often.read(40, after=0.25)
    seldom.read(1, after=10.0)

    assert pytest.approx(seldom.total, abs=40e-6) == often.total


def test_a_calibration_never_makes_energy_negative() -> None:
    """An offset below what an idle card draws."""
    bench = Bench(replace(GPU, offset_watts=-400.0))

    bench.read(10)

    assert 0.0 == bench.total


def test_a_calibration_makes_no_step_impossible() -> None:
    """What a card can draw at most is by its own sensor."""
    bench = Bench(replace(GPU, gain=2.0), draws=650.0, watts=650.0)

    bench.read(10)

    assert ([], 13_000.0) == (bench.kinds, bench.total)


def shown(device: Device) -> dict[str, str | float]:
    """Calibration, power and energy in the exposition after a second at 300 W by the sensor."""
    clock = ManualClock(START, T0)
    ledger = Ledger(clock)
    accountant = Accountant("nvml", 1.0, Meter(max_gap=3.0), None, ledger)
    for joules in (0, 300):
        clock.advance(1.0)
        accountant.receive(Sample(clock.now(), (Reading(device, clock.now(), 300.0, Counter(joules * JOULE)),)))
    found: dict[str, str | float] = {}
    for family in families(ledger.snapshot()):
        for line in family.samples:
            if line.name == "wattgram_device_meter_info":
                found["calibration"] = line.labels["calibration"]
            elif line.name in {"wattgram_device_power_watts", "wattgram_device_energy_joules_total"}:
                found[line.name.split("_")[2]] = line.value
    return found


def test_a_calibration_is_shown_and_touches_power_as_it_does_energy() -> None:
    """Watts and joules of one figure agree, and everybody sees what was done to them."""
    expected = {"calibration": "gain=1.1,offset_w=-5", "power": pytest.approx(ONCE), "energy": pytest.approx(ONCE)}

    assert expected == shown(CALIBRATED)


def test_a_card_without_calibration_says_so() -> None:
    """Figures are the sensor's own."""
    assert {"calibration": "none", "power": 300.0, "energy": 300.0} == shown(GPU)


# --- powers that nothing draws ------------------------------------------------------------------------


@pytest.mark.parametrize("glitch", [4294967.295, -100.0])
def test_a_power_that_no_card_draws_is_unknown_and_counted(glitch: float) -> None:
    """0xFFFFFFFF milliwatts between two good readings would be megajoules; less than nothing, a counter that falls."""
    at = Instant(START, T0)
    bad = plausible(Sample(at, (Reading(GPU, at, glitch), Reading(GPU, at, 300.0, trace=((START, glitch),)))))

    assert [None, 300.0] == [reading.watts for reading in bad.readings]
    assert [(), ()] == [reading.trace for reading in bad.readings]
    assert [("implausible",)] * 2 == [reading.events for reading in bad.readings]


def test_a_power_that_a_card_can_draw_stays() -> None:
    at = Instant(START, T0)
    good = Sample(at, (Reading(GPU, at, 300.0, trace=((START, 310.0),)), Reading(GPU, at)))

    assert good == plausible(good)


# --- the driver's samples ---------------------------------------------------------------------------


def sampled() -> Bench:
    """A board without counter whose first samples were read."""
    bench = Bench(joules=None, now=START - 1.0)
    bench.meter, bench.booked = Meter(max_gap=3.0), []
    bench.read(trace=mean(flat(300.0), START, length=1.0))
    return bench


@given(st.lists(st.integers(0, 700), min_size=10, max_size=200))
def test_samples_that_average_their_own_period_are_exact(watts: list[int]) -> None:
    """However the load jumps: each sample is the mean of its tenth of a second, and none is left out."""
    powers = [float(w) for w in watts[: len(watts) // 10 * 10]]
    bench = sampled()

    for second in range(len(powers) // 10):
        now = bench.now + 1.0
        ten = powers[10 * second : 10 * second + 10]
        bench.read(trace=tuple((now - 0.1 * (9 - i), w) for i, w in enumerate(ten)))

    assert pytest.approx(sum(powers) / 10, abs=1e-3) == bench.total
    assert {"samples"} == {delta.method for delta in bench.deltas}


def test_samples_that_were_booked_already_are_booked_once() -> None:
    """The driver shows its last twelve seconds at every turn."""
    bench = sampled()

    for _ in range(20):
        bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=12.0))

    assert pytest.approx(6000.0) == bench.total
    assert is_booked_once(bench)


def test_a_sample_whose_time_is_booked_in_part_counts_for_the_rest() -> None:
    """Power was booked up to 1 s; a mean from 0.95 s to 1.05 s has half its length to add."""
    bench = sampled()
    bench.read()

    bench.read(trace=mean(flat(600.0), bench.now + 1.0, length=1.0, shift=0.05))

    assert pytest.approx((1.0, 2.05, 1.05 * 600.0)) == bench.last()[:3]
    assert is_booked_once(bench)


def test_what_is_left_after_the_newest_sample_is_booked_too() -> None:
    """A counter on trial is compared up to the reading: its newest sample is half a tenth older."""
    bench = Bench(GRACE, draws=600.0)

    for _ in range(20):
        bench.read(trace=mean(flat(300.0), bench.now + 0.95, length=3.0))

    assert pytest.approx(bench.used) == bench.total
    assert is_booked_once(bench)


def test_what_was_overwritten_before_it_was_read_is_unmetered_and_no_more() -> None:
    """Twenty seconds of silence, of which the driver still has twelve."""
    bench = sampled()

    bench.read(after=20.0, trace=mean(flat(300.0), bench.now + 20.0, length=12.0))

    assert pytest.approx((8.0, 3600.0)) == (bench.unmetered, bench.total)
    assert is_booked_once(bench)


def test_an_outage_that_the_drivers_samples_reach_across_is_metered() -> None:
    """They were seen to go back twelve seconds: ten turns without an answer are no reason to give up."""
    bench = sampled()
    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=12.0))
    bench.fail(10)

    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=12.0))

    assert pytest.approx((0.0, 3600.0)) == (bench.unmetered, bench.total)
    assert is_booked_once(bench)


def test_an_outage_beyond_the_drivers_samples_is_unmetered() -> None:
    """All but the twelve seconds that they still hold, whenever it ends."""
    bench = sampled()
    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=12.0))
    bench.fail(20)

    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=12.0))

    assert pytest.approx((9.0, 300.0 + 12 * 300.0)) == (bench.unmetered, bench.total)
    assert is_booked_once(bench)


def test_a_short_hole_is_unmetered_too() -> None:
    """Two seconds of samples every 0.1 s are missing: no line is drawn over what the driver should have told."""
    bench = sampled()

    bench.read(after=3.0, trace=mean(flat(300.0), bench.now + 3.0, length=1.0))

    assert pytest.approx((2.0, 300.0)) == (bench.unmetered, bench.total)


def test_a_hole_is_unmetered_also_where_there_was_a_counter_once() -> None:
    """A counter that went away bridges nothing any more."""
    bench = Bench()
    bench.read(5)
    bench.joules = None
    for _ in range(5):
        bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=1.0))

    bench.read(after=20.0, trace=mean(flat(300.0), bench.now + 20.0, length=12.0))

    assert pytest.approx(8.0) == bench.unmetered


def test_a_counter_that_went_away_is_not_waited_for() -> None:
    """Since it went the device is metered by power, and an outage of four seconds is unmetered at once."""
    bench = Bench()
    bench.joules = None
    bench.read(5)

    bench.fail(4)

    assert [(5.0, 9.0)] == bench.gaps


@pytest.mark.parametrize("event", ["", "lost"])
@pytest.mark.parametrize("length", [2.0, 5.0, 12.0])
def test_samples_from_before_the_end_of_an_outage_book_no_second_twice(length: float, event: str) -> None:
    """The driver kept sampling while it did not answer: what was called unmetered stays so, and never runs back."""
    bench = sampled()
    bench.fail(6, event)

    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=length))
    bench.read(5)

    assert is_booked_once(bench)
    assert min(end - start for start, end in bench.gaps) > 0


def test_turns_without_new_samples_book_no_second_twice() -> None:
    """Every other turn the driver has nothing newer: power bridges, and the next samples begin where it ended."""
    bench = sampled()

    for _ in range(10):
        bench.read()
        bench.read(trace=mean(flat(300.0), bench.now + 0.97, length=3.0))

    assert is_booked_once(bench)
    assert pytest.approx(300.0 * (bench.deltas[-1].end.mono - START)) == bench.total


def test_the_first_samples_are_no_energy() -> None:
    """They are from before we came; booking begins with the newest of them."""
    bench = sampled()
    assert [] == bench.booked

    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=3.0))

    assert (0.0, 1.0) == pytest.approx(bench.last()[:2])


# --- the ring ---------------------------------------------------------------------------------------

EPOCHS = [0.0, 1_700_000_000.0, 86_400.0, -900.0]
Stamped = list[tuple[int, float]]


@dataclass
class Driver:
    """A ring of 120 samples a tenth of a second apart; its clock is ours and `epoch` seconds."""

    epoch: float = 1_700_000_000.0
    now: float = START
    samples: Stamped = field(default_factory=list)
    ring: Ring = field(default_factory=Ring)

    def record(self, seconds: float) -> None:
        """Let so much time pass, sampled."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.samples.append((round((self.now + self.epoch) * 1e6), 300.0))
        del self.samples[:-120]

    def show(self, delay: float = 0.0) -> Trace:
        """Return what our ring makes of what the driver shows so long after its newest sample."""
        newer = [sample for sample in self.samples if sample[0] > self.ring.last]
        return self.ring.trace(newer, self.now + delay)

    def poll(self, seconds: float = 1.0, delay: float = 0.0) -> Trace:
        self.record(seconds)
        return self.show(delay)

    def is_set(self, seconds: float) -> None:
        """Set its clock; what it had sampled by the old one is gone."""
        self.epoch += seconds
        self.samples.clear()

    def is_followed(self, within: int = 60) -> bool:
        """Whether after so many turns samples arrive that are laid where they belong."""
        for _ in range(within):
            trace = self.poll()
        return bool(trace) and abs(trace[-1][0] - self.now) <= 0.2


@pytest.mark.parametrize("epoch", EPOCHS)
def test_samples_are_laid_on_our_clock_whatever_clock_the_driver_uses(epoch: float) -> None:
    """Realtime, boot time or any other: only differences count."""
    driver = Driver(epoch + 2000.0)

    trace = driver.poll()

    expected = [START + 0.1 * (index + 1) for index in range(10)]
    assert expected == pytest.approx([at for at, _ in trace], abs=1e-5)


def test_a_sample_is_given_once() -> None:
    """Also to a driver that shows what it was not asked for."""
    driver = Driver()
    driver.poll()

    assert () == driver.ring.trace(driver.samples, driver.now)


def test_the_least_delay_ever_seen_decides_where_samples_lie() -> None:
    """An answer that came late moves none of them: they stay a tenth of a second apart, over all turns."""
    driver = Driver()
    first = driver.poll(delay=0.01)

    rest = [point for delay in (0.09, 0.03, 0.08, 0.01, 0.05) for point in driver.poll(delay=delay)]

    spacings = [later - earlier for (earlier, _), (later, _) in pairwise([*first, *rest])]
    assert [0.1] * 59 == pytest.approx(spacings, abs=1e-5)


def test_no_sample_lies_ahead_of_the_reading() -> None:
    """What was read now was not drawn later."""
    driver = Driver()

    assert all(trace[-1][0] <= driver.now + 1e-6 for trace in (driver.poll() for _ in range(100)))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], True),
        ([1.0], True),
        ([1.0, 1.1, 1.2, 1.3], True),
        ([1.0, 1.1, 1.15, 1.25], True),
        ([1.0, 1.1, 1.4, 1.5], True),
        ([1.0, 1.1, 1.2, 1.3, 1.7], False),
        ([1.0, 1.1, 1.1, 1.2], False),
        ([1.0, 1.2, 1.1, 1.3], False),
    ],
    ids=["none", "one", "even", "jitter", "three spacings", "hole", "duplicate", "falling"],
)
def test_times_are_even_when_they_rise_without_a_hole(times: Sequence[float], *, expected: bool) -> None:
    """A distance of three spacings may be jitter, more is a hole."""
    assert expected == is_even(times)


def test_samples_with_a_hole_are_dropped_and_the_next_ones_are_not() -> None:
    """Nobody knows what the mean after a hole is the mean of."""
    driver = Driver()
    driver.poll()
    driver.record(0.5)
    driver.now += 0.9
    driver.record(0.5)

    assert () == driver.show()
    assert 10 == len(driver.poll())


def test_a_duplicate_in_the_ring_makes_its_turn_untrusted() -> None:
    """Two samples of one moment cannot both be right."""
    driver = Driver()
    driver.poll()
    driver.samples.append(driver.samples[-1])
    fresh = [(at + 1_000_000, watts) for at, watts in driver.samples]

    assert () == driver.ring.trace(fresh, driver.now + 1.0)


@pytest.mark.parametrize("step", [0.5, 3.0, 3600.0])
def test_a_drivers_clock_that_is_set_forward_is_followed(step: float) -> None:
    """Later samples lie where they belong."""
    driver = Driver()
    driver.poll(5.0)

    driver.is_set(step)

    assert driver.is_followed()


@pytest.mark.parametrize("step", [2.0, 4.0, 10.0, 7200.0])
def test_a_drivers_clock_that_is_set_back_is_followed(step: float) -> None:
    """A hardware clock in local time, put right after boot, must not cost the samples of the next hours."""
    driver = Driver()
    driver.poll(5.0)

    driver.is_set(-step)

    assert driver.is_followed()


def test_a_sample_from_the_future_does_not_hide_those_that_follow() -> None:
    """One wrong stamp, days ahead, and the driver is asked for nothing but what is newer still."""
    driver = Driver()
    driver.poll(5.0)
    newest, watts = driver.samples[-1]

    driver.ring.trace([(newest + 10**12, watts)], driver.now)

    assert driver.is_followed()


def test_old_samples_are_not_given_again_when_the_driver_has_nothing_newer() -> None:
    """A ring that stands still holds what was drawn then: laid on this moment it would be what is drawn now."""
    driver = Driver()
    driver.poll(12.0)
    given_again: list[tuple[float, float]] = []

    for _ in range(30):
        driver.now += 1.0
        given_again += driver.show()

    assert [] == given_again


def test_a_drivers_clock_that_runs_through_a_suspend_is_followed() -> None:
    """Boot time and the wall clock go on while ours stands."""
    driver = Driver()
    driver.poll(5.0)
    driver.epoch += 1800.0

    first = driver.poll()

    assert all(at <= driver.now + 1e-6 for at, _ in first)
    assert driver.is_followed(within=2)


def test_after_a_small_step_back_samples_are_used_again() -> None:
    """Laid two seconds late they would all lie in time that power has booked: no sample would ever count again."""
    driver, bench = Driver(), sampled()
    for _ in range(5):
        bench.read(trace=driver.poll())
    driver.is_set(-2.0)

    for _ in range(60):
        bench.read(trace=driver.poll())

    assert "samples" == bench.last()[3]
    assert is_booked_once(bench)


# --- what is not waited for -------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["lost", "suspended"])
def test_a_device_that_is_gone_is_unmetered_at_once(event: str) -> None:
    """Its counter will not go on: there is nothing to wait for."""
    bench = Bench()
    bench.read(5)

    bench.fail(1, event)
    assert [(5.0, 6.0)] == bench.gaps
    bench.fail(9, event)

    assert (10.0, [event]) == (bench.unmetered, bench.kinds)


@pytest.mark.parametrize("event", ["lost", "suspended"])
def test_a_device_that_returns_begins_anew(event: str) -> None:
    """What its counter shows more than before is nobody's; from its return on all counts."""
    bench = Bench()
    bench.fail(5, event)

    bench.read(3)

    assert (6.0, 600.0) == (bench.unmetered, bench.total)
    assert is_booked_once(bench)


def test_a_device_that_only_fails_is_waited_for() -> None:
    """The difference that the event makes."""
    bench = Bench()
    bench.fail(300)

    bench.read(1)

    assert ([], 301 * 300.0) == (bench.gaps, bench.total)


# --- suspend ----------------------------------------------------------------------------------------


def asleep(bench: Bench, joules: float) -> None:
    """Suspend: the monotonic clock stands, a counter may have counted on."""
    if bench.joules is not None:
        bench.joules += joules
    bench.meter.slept()


def without_counter() -> Bench:
    return Bench(joules=None)


def without_power() -> Bench:
    return Bench(watts=None)


@pytest.mark.parametrize("make", [Bench, without_counter, without_power])
def test_nothing_crosses_a_suspend(make: Callable[[], Bench]) -> None:
    """The interval in which it fell is unmetered, by the clock that stood still; before and after all counts."""
    bench = make()
    bench.read(5)
    asleep(bench, joules=500.0)

    bench.read(5)

    assert ([(5.0, 6.0)], 9 * 300.0, True) == (bench.gaps, bench.total, is_booked_once(bench))


def test_no_sample_crosses_a_suspend() -> None:
    """The driver may still show those from before."""
    bench = sampled()
    bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=1.0))
    bench.meter.slept()

    for _ in range(3):
        bench.read(trace=mean(flat(300.0), bench.now + 1.0, length=12.0))

    assert [pytest.approx((1.0, 2.0))] == bench.gaps
    assert is_booked_once(bench)


def test_a_suspend_while_a_counter_stands_still_books_nothing_by_it() -> None:
    """What was waited for is not known any more."""
    bench = Bench(watts=None)
    bench.stop_counter()
    bench.read(5)
    asleep(bench, joules=900.0)

    bench.read(1)

    assert ([(0.0, 6.0)], 0.0) == (bench.gaps, bench.total)


class Still:
    """A source over a counter that counts on while the machine sleeps."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock

    def read(self) -> Sample:
        now = self.clock.now()
        return Sample(now, (Reading(GPU, now, counter=Counter(round((now.wall - T0) * 100 * JOULE))),))

    def close(self) -> None: ...


@pytest.mark.parametrize(("slept", "expected"), [(0.0, 300.0), (0.5, 350.0), (4.0, 200.0), (28_800.0, 200.0)])
def test_a_feed_notes_that_the_machine_was_suspended(slept: float, expected: float) -> None:
    """By the clocks alone, also for a nap in which a counter's step would have been possible."""
    clock = ManualClock(START, T0)
    ledger = Ledger(clock)
    meter = Meter(max_gap=3.0)
    feed = SourceFeed(
        "nvml", lambda: Still(clock), Accountant("nvml", 1.0, meter, None, ledger), meter, Claims([]), clock
    )
    for seconds in (0.0, slept, 0.0):
        feed()
        clock.sleep(seconds)
        clock.advance(1.0)
    feed()

    (device,) = ledger.snapshot().devices
    assert expected * JOULE == device.microjoules


# --- another driver ---------------------------------------------------------------------------------


def test_the_counter_of_another_driver_is_another_counter() -> None:
    """It shows 400 J more, which this second could hold; they are of its own past."""
    bench = Bench(watts=None)
    bench.read(5)
    assert bench.joules is not None
    bench.driver, bench.joules = "580.10", bench.joules + 400.0

    bench.read(3)

    assert ([(5.0, 6.0)], 7 * 300.0) == (bench.gaps, bench.total)


@pytest.mark.parametrize("joules", [0.0, 5_002_000.0, 9e9])
def test_power_bridges_a_change_of_driver(joules: float) -> None:
    """Whatever the new counter begins with: no reset, no impossible step, nothing lost."""
    bench = Bench()
    bench.read(5)
    bench.driver, bench.joules = "580.10", joules

    bench.read(5)

    assert ([], bench.used, []) == (bench.kinds, bench.total, bench.gaps)


def test_a_counter_that_goes_on_under_the_new_driver_is_a_counter_at_once() -> None:
    """After one interval."""
    bench = Bench()
    bench.driver = "580.10"

    bench.read(2)

    assert ["power", "counter"] == [delta.method for delta in bench.deltas]


# --- independence -----------------------------------------------------------------------------------


def test_a_stuck_counter_costs_another_device_no_trust() -> None:
    """Each device's counter is judged by its own power."""
    meter = Meter(max_gap=3.0)
    good, bad = Device("gpu", "good", max_watts=700.0), Device("gpu", "bad", max_watts=700.0)
    methods: dict[str, str] = {}
    for second in range(15):
        at = Instant(float(second), T0 + second)
        readings = (
            Reading(good, at, 300.0, Counter(300 * second * JOULE)),
            Reading(bad, at, 300.0, Counter(77 * JOULE)),
        )
        methods |= {device.id: method for device, method in meter.advance(Sample(at, readings)).methods}

    assert {"good": "counter", "bad": "power"} == methods
