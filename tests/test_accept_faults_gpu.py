"""The acceptance line of faults, cards: each fault of a card, while the daemon meters others, costs what it must.

All cards of one daemon fail and heal together, each in its own way; each test looks at one. Then plays of their own:
what befalls a card before anybody knows it, an outage longer than a counter may bridge, an old driver.
"""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

from standin.books import Change, change, moment, parsed, texts
from standin.clock import ClockShim
from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Constant, NvmlStandin
from standin.rig import (
    EVERY,
    ONLY_NVML,
    TOLERANCE,
    Outcome,
    assert_bridged,
    assert_gap,
    assert_powered,
    assert_told,
    change_all,
    rig,
    with_counter,
    with_power,
    with_ring,
)
from standin.stage import Report, Seconds, Stage, every_scene, scene
from standin.watching import devices, pause, wait

LOST, RESET_REQUIRED, NO_PERMISSION, NOT_SUPPORTED, UNKNOWN = 15, 16, 4, 3, 999
STRANGE = 'GPU-\x1b[31mred"\\ \nlevel=error msg=forged'
RING = 120


# --- every card with a trouble of its own ---------------------------------------------------------

GOOD, HUNG, HUNG_POWER = range(3)
LOST_CARD, RESET_CARD, UNKNOWN_CARD, DENIED, FORBIDDEN, COUNTERLESS, STRANGER, FLICKER, ASLEEP = range(3, 12)
FAULTS: dict[int, dict[str, Any]] = {
    HUNG: {"hang": math.inf},
    HUNG_POWER: {"hang": math.inf},
    LOST_CARD: {"error": LOST},
    RESET_CARD: {"error": RESET_REQUIRED},
    UNKNOWN_CARD: {"error": UNKNOWN},
    DENIED: {"error": NO_PERMISSION},
    COUNTERLESS: {"counter_error": NOT_SUPPORTED},
    STRANGER: {"hang": math.inf},
}


def cards(directory: Path, seconds: Seconds) -> Outcome:
    """Twelve cards: nine get into trouble at once, for five seconds; one is forbidden from the start until then."""
    gpus = [
        with_counter(),
        with_counter(),
        with_power(),
        *(with_counter(profile=Constant(250.0)) for _ in (LOST_CARD, RESET_CARD)),
        with_counter(),
        with_counter(),
        with_counter(error=NO_PERMISSION, handle_error=NO_PERMISSION),
        with_power(counter=True, counter_step=0.001),
        with_power(uuid=STRANGE, name=STRANGE),
        with_counter(),
        with_counter(profile=Constant(250.0)),
    ]
    asleep = directory / "sys/bus/pci/devices/0000:12:00.0/power/runtime_status"
    asleep.parent.mkdir(parents=True)
    with rig(directory, gpus, ONLY_NVML + f'path = "{directory}/sys"\n', expected=11) as r:
        before = r.quiet()
        start = time.monotonic()
        for index, fault in FAULTS.items():
            r.nvml.change(index, **fault)
        asleep.write_text("suspended\n")
        # One turn that fails is no outage.
        r.nvml.change(FLICKER, error=UNKNOWN)
        pause(EVERY)
        r.nvml.change(FLICKER, error=0)
        pause(seconds(4.8, 10.8))
        during = r.moment()
        for index in FAULTS:
            r.nvml.change(index, hang=0.0, error=0, counter_error=0)
        asleep.write_text("active\n")
        end = time.monotonic()
        r.nvml.change(RESET_CARD, counter_reset_at=end)
        r.nvml.change(FORBIDDEN, error=0, handle_error=0)
        r.fresh(end + EVERY)
        after = r.quiet()
        whole = parsed(r.daemon.log[: before.logged])
        return r.outcome(before, after, start, end, during=during, early=whole)


@scene(cards)
@pytest.mark.accept("4.1", "a healthy card beside nine that fail: not a second unmetered, energy exact")
def test_a_healthy_card_beside_failing_ones_misses_nothing(outcome: Outcome, report: Report) -> None:
    """Whatever befalls the others, this one is read on schedule, and nobody speaks of it."""
    error = assert_bridged(outcome, GOOD)
    during = outcome.more["during"]

    report(f"{error:+.3%}, {len(outcome.silences)} scrapes unanswered")
    assert [] == outcome.silences
    assert during.at - during.read_at(outcome.uuid(GOOD)) <= TOLERANCE
    assert [] == outcome.told(outcome.uuid(GOOD))
    assert {} == outcome.change(GOOD).events


@scene(cards)
@pytest.mark.accept("4.1", "a GPU whose call never returns: its counter bridges, nothing unmetered, two lines")
def test_a_hung_card_with_a_counter_loses_nothing(outcome: Outcome, report: Report) -> None:
    """The counter went on while nobody could look; afterwards it tells."""
    error = assert_bridged(outcome, HUNG)
    during = outcome.more["during"]

    report(f"hung {outcome.lasted:.1f} s: {error:+.3%}, 0 s unmetered")
    assert_told(outcome, HUNG, "no answer within")
    assert outcome.uuid(HUNG) in during.health["nvml"]["unanswered"]
    assert during.devices[outcome.uuid(HUNG)]["watts"] is None
    assert {} == outcome.after.health["nvml"]["unanswered"]


@scene(cards)
@pytest.mark.accept("4.1", "a hung GPU that tells nothing but its power: the outage is unmetered, no line across it")
def test_a_hung_card_with_power_alone_is_unmetered_for_so_long(outcome: Outcome, report: Report) -> None:
    """No power is invented for the time in which none was read."""
    found = assert_gap(outcome, HUNG_POWER)

    report(f"{found:.2f} s unmetered of {outcome.lasted:.2f} s")
    assert {"gap": 1} == outcome.change(HUNG_POWER).events
    assert_told(outcome, HUNG_POWER, "no answer within")


@scene(cards)
@pytest.mark.accept("4.1", "a GPU lost (15) and back: unmetered for so long, event lost, counters stay")
def test_a_lost_card_keeps_its_counters_and_goes_on(outcome: Outcome, report: Report) -> None:
    """A card that fell off the bus does not tell afterwards what it used: that time is unmetered."""
    found = assert_gap(outcome, LOST_CARD)
    during = outcome.more["during"]
    uuid = outcome.uuid(LOST_CARD)

    report(f"{found:.2f} s unmetered of {outcome.lasted:.2f} s")
    assert 1 == outcome.change(LOST_CARD).events.get("lost")
    assert during.devices[uuid]["joules"] >= outcome.before.devices[uuid]["joules"]
    assert during.devices[uuid]["watts"] is None
    assert_told(outcome, LOST_CARD)


@scene(cards)
@pytest.mark.accept("4.1", "a suspended GPU: not woken, unmetered for so long, event suspended")
def test_a_suspended_card_is_not_woken(outcome: Outcome, report: Report) -> None:
    """A call would wake it; so nobody knows what it used."""
    found = assert_gap(outcome, ASLEEP)

    report(f"{found:.2f} s unmetered of {outcome.lasted:.2f} s")
    assert 1 == outcome.change(ASLEEP).events.get("suspended")
    assert outcome.more["during"].devices[outcome.uuid(ASLEEP)]["watts"] is None
    assert_told(outcome, ASLEEP)


@scene(cards)
@pytest.mark.accept("4.1", "RESET_REQUIRED (16), then a counter that begins anew: nothing invented")
def test_a_card_that_was_reset_begins_anew(outcome: Outcome, report: Report) -> None:
    """Its counter fell: what it shows now was used after the reset, and before that nothing is known."""
    found = assert_gap(outcome, RESET_CARD)

    report(f"{found:.2f} s unmetered of {outcome.lasted:.2f} s")
    assert_told(outcome, RESET_CARD)


@scene(cards)
@pytest.mark.accept("4.1", "UNKNOWN (999) on one GPU: only it, bridged by its counter")
def test_an_unknown_error_of_one_card_leaves_the_others_alone(outcome: Outcome, report: Report) -> None:
    """The others prove that the driver lives: nobody replaces the reading process."""
    error = assert_bridged(outcome, UNKNOWN_CARD)

    report(f"{error:+.3%}")
    assert_told(outcome, UNKNOWN_CARD, "NVML error 999")
    assert [] == outcome.told("reading process")


@scene(cards)
@pytest.mark.accept("4.1", "NO_PERMISSION (4) that begins in use: one line, bridged by its counter")
def test_a_right_taken_away_and_given_back(outcome: Outcome, report: Report) -> None:
    """A container whose device rules changed."""
    error = assert_bridged(outcome, DENIED)

    report(f"{error:+.3%}")
    assert_told(outcome, DENIED, "NVML error 4")


@scene(cards)
@pytest.mark.accept("4.1", "NO_PERMISSION (4) from the start: named by its place; granted later, it is metered")
def test_a_card_that_may_not_be_opened_is_named_by_its_place(outcome: Outcome) -> None:
    """Nothing is known of it but where it is; it has no series until it can be identified."""
    uuid = outcome.uuid(FORBIDDEN)
    place = f"gpu {FORBIDDEN}"
    early = [line for line in outcome.more["early"] if re.search(rf"\b{place}\b", line.text)]

    assert uuid not in outcome.before.devices
    assert [("warning", True)] == [
        (line.level, line.text.startswith(f"nvml: {place} does not answer: NVML error 4")) for line in early
    ]
    assert place in outcome.before.health["nvml"]["unanswered"]
    seen = outcome.change(FORBIDDEN)
    assert outcome.after.devices[uuid]["unmetered_seconds"] == 0.0
    assert 0 < seen.joules <= 1.005 * outcome.nvml.joules(FORBIDDEN, outcome.end - EVERY, seen.end)
    assert 1 == len(outcome.told(f"{place} ", uuid)), outcome.told(place, uuid)


@scene(cards)
@pytest.mark.accept("4.1", "a counter that is refused while power is told: power covers it")
def test_power_stands_in_for_a_counter_that_is_refused(outcome: Outcome, report: Report) -> None:
    """Not a second is unmetered: a line between powers covers it."""
    seen = outcome.change(COUNTERLESS)

    report(f"{seen.unmetered:.2f} s unmetered")
    assert_powered(seen, 250.0)
    assert seen.unmetered == 0.0


@scene(cards)
@pytest.mark.accept("4.1", "a name with escape codes, quotes and a line break: one escaped line of logfmt")
def test_a_stranger_cannot_write_into_the_log(outcome: Outcome) -> None:
    """Every line was parsed already; what was meant to look like one of ours is inside a string."""
    told = outcome.told("level=error msg=forged")

    assert ["warning", "info"] == [line.level for line in told]
    assert [] == [line for line in outcome.lines if line.text == "forged"]


@scene(cards)
@pytest.mark.accept("4.1", "one failed turn is no outage: no line, nothing unmetered")
def test_one_failed_turn_is_not_told(outcome: Outcome) -> None:
    """A counter covers it, and nobody is woken for it."""
    assert_bridged(outcome, FLICKER)

    assert [] == outcome.told(outcome.uuid(FLICKER))


# --- the driver's own samples ---------------------------------------------------------------------

LONG, SHORT = range(2)


def rings(directory: Path, seconds: Seconds) -> Outcome:
    """Two cards without a counter hang, for less than the one's buffer holds and more than the other's."""
    gpus = [with_ring(samples_period=0.1), with_ring(samples_period=0.02, sensor_update=0.02, sensor_window=0.02)]
    with rig(directory, [*gpus, with_counter()]) as r:
        before = r.quiet()
        start = time.monotonic()
        for index in (LONG, SHORT):
            r.nvml.change(index, hang=math.inf)
        pause(seconds(5.0, 9.0))
        end = change_all(r.nvml, hang=0.0)
        r.fresh(end + EVERY)
        return r.outcome(before, r.quiet(), start, end)


@scene(rings)
@pytest.mark.accept("4.1", "a hung GPU without a counter: the driver's sample buffer covers the outage")
def test_a_hung_card_without_a_counter_is_covered_by_its_samples(outcome: Outcome, report: Report) -> None:
    """120 samples of 100 ms reach over the whole outage: the driver went on while nobody could ask."""
    seen = outcome.change(LONG)

    report(
        f"{seen.joules / (250.0 * seen.seconds) - 1:+.2%}, {seen.unmetered:.1f} s of {outcome.lasted:.1f} s unmetered"
    )
    assert 0.0 == seen.unmetered
    # Where the samples lie is known to a sample's length at each end.
    assert abs(seen.joules - 250.0 * seen.seconds) <= 0.015 * 250.0 * seen.seconds + 250.0 * 0.1
    assert_told(outcome, LONG, "no answer within")


@scene(rings)
@pytest.mark.accept("4.1", "a hung GPU whose sample buffer is shorter than the outage: the rest is unmetered")
def test_samples_that_do_not_reach_back_leave_a_gap_of_exactly_the_rest(outcome: Outcome, report: Report) -> None:
    """120 samples of 20 ms reach 2.4 s back from the return: what is older, nobody knows."""
    rest = outcome.lasted - RING * 0.02
    found = assert_gap(outcome, SHORT, rest)

    report(f"{found:.2f} s of {outcome.lasted:.2f} s unmetered, {rest:.2f} s older than the buffer")
    assert_told(outcome, SHORT, "no answer within")


# --- longer than a counter bridges ----------------------------------------------------------------

BRIDGE_SECONDS = 600.0


def beyond_the_bridge(directory: Path, seconds: Seconds) -> Outcome:
    """A card hangs; the clock of all processes leaps ten minutes while it does; another card is well."""
    try:
        shim = ClockShim(directory)
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    gpus = [with_counter(profile=Constant(250.0)), with_counter(profile=Constant(250.0))]
    with rig(directory, gpus, env=shim.env) as r:
        r.quiet(1.0)
        before = r.moment()
        start = time.monotonic()
        r.nvml.change(1, hang=math.inf)
        pause(2.0)
        leap = BRIDGE_SECONDS + 10.0
        shim.leap(leap)
        pause(2.0)
        during = r.moment()
        r.nvml.change(1, hang=0.0)
        end = time.monotonic()
        wait(lambda: devices(r.daemon)[r.uuid(1)]["read_at"] > during.devices[r.uuid(1)]["read_at"])
        after = r.quiet(2.0)
        return r.outcome(before, after, start, end, during=during, leap=leap)


@scene(beyond_the_bridge)
@pytest.mark.accept("4.1", "hung for longer than the bridge of ten minutes: all of it is unmetered, none of it twice")
def test_hung_for_longer_than_a_counter_may_bridge(outcome: Outcome, report: Report) -> None:
    """After ten minutes the time is declared unmetered; the counter's return changes nothing of that."""
    leap = outcome.more["leap"]
    seen = outcome.change(1)
    lasted = outcome.lasted + leap
    # The daemon's own instants hold the leap already.

    report(f"{seen.unmetered:.1f} s unmetered of {lasted:.1f} s")
    assert abs(seen.unmetered - lasted) <= TOLERANCE
    assert_powered(seen, 250.0, 0.02)
    assert outcome.more["during"].devices[outcome.uuid(1)]["unmetered_seconds"] >= BRIDGE_SECONDS
    assert 2 == len(outcome.told(outcome.uuid(1))), outcome.told(outcome.uuid(1))
    # The other was read before and after the leap, and its counter tells what it used meanwhile.
    other = outcome.change(0)
    assert other.unmetered == 0.0
    assert abs(other.joules / (250.0 * other.seconds) - 1) <= 0.005


# --- before anybody knows the card ----------------------------------------------------------------


def hung_from_the_start(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """One of two cards hangs when the daemon starts, and later answers."""
    gpus = [with_counter(), with_counter(hang=math.inf)]
    try:
        nvml = NvmlStandin(directory / "nvml", gpus)
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    with Daemon(directory, ONLY_NVML, env=nvml.env, wait=False) as daemon:
        started = time.monotonic()
        daemon.wait_ready(40.0)
        wait(lambda: devices(daemon))
        took = time.monotonic() - started
        pause(2.0)
        during = moment(daemon)
        healed = time.monotonic()
        nvml.change(1, hang=0.0)
        wait(lambda: len(devices(daemon)) == 2, 30.0)
        appeared = time.monotonic() - healed
        pause(1.0)
        after = moment(daemon)
        return {"took": took, "appeared": appeared, "during": during, "after": after, "log": parsed(daemon.log)}


@scene(hung_from_the_start)
@pytest.mark.accept("4.1", "a GPU that hangs before it was ever seen: the others are metered, it joins when it can")
def test_a_card_that_hangs_from_the_start_delays_nobody(outcome: Any, report: Report) -> None:
    """It is named by its place; when it answers it is metered without anybody's help."""
    report(f"the other after {outcome['took']:.1f} s, itself {outcome['appeared']:.1f} s after it healed")
    assert "gpu 1" in outcome["during"].health["nvml"]["unanswered"]
    warned = [t for t in texts(outcome["log"], "warning", "error") if "gpu 1" in t]
    assert [True] == [t.startswith("nvml: gpu 1 does not answer: ") for t in warned], warned
    assert outcome["took"] <= 8.0
    assert outcome["appeared"] <= 2.0
    assert {} == outcome["after"].health["nvml"]["unanswered"]


# --- an old driver --------------------------------------------------------------------------------

# What drivers before 525 do not have; without the fields and the counter there is only GetPowerUsage.
YOUNG = (
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetSamples",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetSerial",
)


def old_driver(directory: Path, seconds: Seconds) -> Outcome:
    """A driver that lacks half of what is asked for."""
    with rig(directory, [with_power()], driver={"without": YOUNG, "driver": "390.157"}) as r:
        before = r.quiet(1.0)
        after = r.quiet(seconds(4.0, 20.0))
        log = parsed(r.daemon.log)
        return r.outcome(before, after, before.at, after.at, log=log)


@scene(old_driver)
@pytest.mark.accept("4.1", "an old driver without counter, fields, samples: metered by power, without a complaint")
def test_an_old_driver_is_metered_by_what_it_has(outcome: Outcome, report: Report) -> None:
    """What a driver never had is no fault of it."""
    seen = outcome.change(0)

    report(f"{seen.joules / seen.seconds:.1f} W of 250 W")
    assert "power" == outcome.after.devices[outcome.uuid(0)]["method"]
    assert 0.0 == seen.unmetered
    assert_powered(seen, 250.0)
    assert [] == texts(outcome.more["log"], "warning", "error")


@scene(old_driver)
@pytest.mark.accept("4.1", "between two moments without a fault nothing is logged and nothing unmetered")
def test_where_nothing_happens_nothing_is_said(outcome: Outcome) -> None:
    """The measure itself: it finds nothing where there is nothing."""
    assert [] == outcome.lines
    assert [] == outcome.silences
    assert isinstance(change(outcome.before, outcome.after, outcome.uuid(0)), Change)


@every_scene
@pytest.mark.accept("4.1", "no counter ever went down or vanished; Σ owners = Σ devices = Σ prices at every scrape")
def test_the_books_were_in_order_all_the_time(stage: Stage) -> None:
    """Five scrapes a second through all of the above."""
    audits = stage.audits()

    assert audits
    assert {} == {play: wrongs[:3] for play, wrongs in audits.items() if wrongs}
