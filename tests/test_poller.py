"""The only loop: it keeps its schedule, says how it goes, and logs what changes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from wattgram.clock import ManualClock
from wattgram.model import Health
from wattgram.poller import GONE, REOPEN_SECONDS, Patience, Poller
from wattgram.ports import Paused, ReadFailed, Unavailable

EVERY = 10.0
BACKOFF = {"server": Patience(30.0, 120.0), "rate": Patience(60.0, 1800.0)}


class Plug:
    """Does in its n-th turn what the n-th step says: fails, wishes, takes so long; after the last it succeeds."""

    def __init__(
        self, clock: ManualClock, *steps: Exception | float | None, takes: Mapping[int, float] | None = None
    ) -> None:
        self.clock = clock
        self.steps = list(steps)
        self.takes = dict(takes or {})
        self.began: list[float] = []

    def __call__(self) -> float | None:
        self.clock.advance(self.takes.get(len(self.began), 0.0))
        self.began.append(self.clock.now().mono)
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, Exception):
            raise step
        return step


class Nap:
    """The pause between two turns, without sleeping: it turns the clock, and ends the loop after so many."""

    def __init__(self, clock: ManualClock, pauses: int, loop: Poller) -> None:
        self.clock = clock
        self.pauses = pauses
        self.loop = loop

    def ring(self) -> None:
        """Nobody sleeps here."""

    def wait(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        self.pauses -= 1
        if self.pauses <= 0:
            self.loop.stop()
        return self.pauses <= 0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(mono=1000.0, wall=1_700_000_000.0)


def poller(
    clock: ManualClock,
    turn: Callable[[], float | None],
    report: Callable[[Health], None] = lambda _: None,
    *,
    up: bool | None = None,
    jitter: float = 0.0,
    chance: float = 1.0,
    missing: Callable[[Unavailable], None] | None = None,
) -> Poller:
    return Poller(
        Health("nvml", "source", EVERY, up=up),
        turn,
        clock,
        report,
        patience=BACKOFF,
        jitter=jitter,
        chance=lambda: chance,
        missing=missing,
    )


def turns(clock: ManualClock, plug: Plug, count: int, *, jitter: float = 0.0, chance: float = 1.0) -> list[float]:
    """Run the loop for so many turns and return the seconds at which each ended, from the start."""
    start = clock.now().mono
    loop = poller(clock, plug, jitter=jitter, chance=chance)
    loop._bell = Nap(clock, count, loop)
    loop.run()
    return [began - start for began in plug.began]


# --- the schedule -----------------------------------------------------------------------------------


def test_turns_come_at_multiples_of_the_interval(clock: ManualClock) -> None:
    """The first at once."""
    assert [0.0, 10.0, 20.0, 30.0] == turns(clock, Plug(clock), 4)


def test_a_slow_turn_does_not_shift_the_schedule(clock: ManualClock) -> None:
    """The time that a turn takes is part of its interval, not added to it."""
    plug = Plug(clock, takes={0: 3.0, 1: 9.5, 2: 0.25})

    assert [3.0, 19.5, 20.25, 30.0] == turns(clock, plug, 4)


def test_missed_ticks_are_skipped(clock: ManualClock) -> None:
    """A turn that took two and a half intervals is followed by one turn, not by three at once."""
    plug = Plug(clock, takes={0: 25.0})

    assert [25.0, 30.0, 40.0] == turns(clock, plug, 3)


def test_a_turn_that_ends_on_a_tick_is_followed_by_that_tick(clock: ManualClock) -> None:
    """It is not late yet."""
    plug = Plug(clock, takes={0: 20.0})

    assert [20.0, 20.0, 30.0] == turns(clock, plug, 3)


def test_there_is_no_drift_over_many_turns(clock: ManualClock) -> None:
    """After a thousand turns of a third of a second each the schedule stands where it stood."""
    plug = Plug(clock, takes=dict.fromkeys(range(1000), 1 / 3))

    assert pytest.approx(9990.0 + 1 / 3) == turns(clock, plug, 1000)[-1]


def test_the_wall_clock_does_not_move_the_schedule(clock: ManualClock) -> None:
    """It is set back a day in the middle of a turn."""
    plug = Plug(clock)

    def turn() -> None:
        clock.advance(0.0, wall_step=-86_400.0)
        plug()

    loop = poller(clock, turn)
    loop._bell = Nap(clock, 3, loop)
    loop.run()

    assert [1000.0, 1010.0, 1020.0] == plug.began


def test_jitter_makes_a_turn_late_and_does_not_add_up(clock: ManualClock) -> None:
    """By at most its share of an interval, counted from the tick each time."""
    assert [0.0, 11.0, 21.0, 31.0] == turns(clock, Plug(clock), 4, jitter=0.1)


def test_a_wish_brings_the_next_turn_forward(clock: ManualClock) -> None:
    """There will be news in 4 seconds."""
    assert [0.0, 4.0] == turns(clock, Plug(clock, 4.0), 2)


def test_a_wish_does_not_put_the_next_turn_off(clock: ManualClock) -> None:
    """It may say that there will be no news for an hour; it is asked at the tick all the same."""
    assert [0.0, 10.0] == turns(clock, Plug(clock, 3600.0), 2)


def test_a_wish_costs_no_tick(clock: ManualClock) -> None:
    """After the turn that was wished for, the schedule goes on as if there had been none."""
    assert [0.0, 4.0, 10.0, 20.0] == turns(clock, Plug(clock, 4.0), 4)


def test_many_wishes_in_a_row_cost_no_tick(clock: ManualClock) -> None:
    """Nine turns are wished for within one interval; the one after them is at the next tick."""
    plug = Plug(clock, *[1.0] * 9)

    assert [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 20.0] == turns(clock, plug, 12)


def test_a_failure_without_patience_waits_for_the_next_tick(clock: ManualClock) -> None:
    """A source that failed is asked again at its next turn."""
    assert [0.0, 10.0] == turns(clock, Plug(clock, ReadFailed("no answer", "timeout")), 2)


def test_patience_doubles_up_to_its_most(clock: ManualClock) -> None:
    """30 s, 60 s, 120 s, and no longer; each turn at a tick."""
    plug = Plug(clock, *[ReadFailed("503", "server")] * 5)

    assert [0.0, 30.0, 90.0, 210.0, 330.0] == turns(clock, plug, 5)


def test_a_success_restores_patience(clock: ManualClock) -> None:
    """The next failure is the first one again."""
    failed = ReadFailed("503", "server")
    plug = Plug(clock, failed, failed, None, failed)

    assert [0.0, 30.0, 90.0, 100.0, 130.0] == turns(clock, plug, 5)


def test_retry_after_is_obeyed(clock: ManualClock) -> None:
    """The other side asked for 95 s, our own patience is 60: the longer of them, whatever the schedule."""
    plug = Plug(clock, ReadFailed("429", "rate", retry_after=95.0))

    assert [0.0, 95.0] == turns(clock, plug, 2)


def test_our_patience_may_be_longer_than_retry_after(clock: ManualClock) -> None:
    """Asked for a second, we wait a minute."""
    plug = Plug(clock, ReadFailed("429", "rate", retry_after=1.0))

    assert [0.0, 60.0] == turns(clock, plug, 2)


def test_jitter_spreads_patience(clock: ManualClock) -> None:
    """A fleet that was refused together does not return together: 45 s instead of 30."""
    plug = Plug(clock, ReadFailed("503", "server"))

    assert [0.0, 45.0] == turns(clock, plug, 2, jitter=0.5)


def test_what_is_not_there_is_asked_again_in_ten_minutes(clock: ManualClock) -> None:
    """Not at every tick: a driver that is not installed stays so for a while."""
    plug = Plug(clock, Unavailable("no driver"), Unavailable("no driver"))

    assert [0.0, 600.0, 1200.0, 1210.0] == turns(clock, plug, 4)
    assert 600.0 == REOPEN_SECONDS


def test_an_empty_answer_delays_and_does_not_use_up_patience(clock: ManualClock) -> None:
    """It is no failure: the failure that follows is the first one."""
    plug = Plug(clock, *[ReadFailed("no rows yet", "empty")] * 3, ReadFailed("503", "server"))

    assert [0.0, 10.0, 20.0, 30.0, 60.0] == turns(clock, plug, 5)


@pytest.mark.parametrize(("failures", "expected"), [(1, 30.0), (2, 60.0), (3, 120.0), (4, 120.0), (10_000, 120.0)])
def test_patience_is_bounded(failures: int, expected: float) -> None:
    """Also after ten thousand failures."""
    assert expected == Patience(30.0, 120.0).seconds(failures)


def test_a_stopped_loop_ends(clock: ManualClock) -> None:
    """It takes no further turn."""
    plug = Plug(clock)
    loop = poller(clock, plug)
    loop.stop()
    loop.run()

    assert [] == plug.began


# --- health -----------------------------------------------------------------------------------------


def test_a_success_is_up(clock: ManualClock) -> None:
    """And when it was, on both clocks; how long it took is kept."""
    loop = poller(clock, Plug(clock, takes={0: 0.5}))

    loop.turn()

    health = loop.health
    assert (True, clock.now(), 1, 0.5, "") == (
        health.up,
        health.last_success,
        health.turns,
        health.seconds,
        health.error,
    )


def test_a_failure_is_down_and_counted_by_reason(clock: ManualClock) -> None:
    """The last success stays when it was."""
    loop = poller(
        clock, Plug(clock, None, ReadFailed("a", "server"), ReadFailed("b", "rate"), ReadFailed("a", "server"))
    )
    first = clock.now()

    for _ in range(4):
        loop.turn()
        clock.advance(10.0)

    health = loop.health
    assert (False, (("rate", 1), ("server", 2)), "a", first) == (
        health.up,
        health.failures,
        health.error,
        health.last_success,
    )
    assert 4 == health.turns


def test_a_recovery_is_up_and_forgets_the_error_but_not_the_count(clock: ManualClock) -> None:
    """A counter never goes down."""
    loop = poller(clock, Plug(clock, ReadFailed("503", "server")))

    loop.turn()
    loop.turn()

    assert (True, "", (("server", 1),)) == (loop.health.up, loop.health.error, loop.health.failures)


def test_every_turn_is_reported(clock: ManualClock) -> None:
    """Also the failed ones."""
    reported: list[Health] = []
    loop = poller(clock, Plug(clock, None, ReadFailed("503", "server")), reported.append)

    loop.turn()
    loop.turn()

    assert [(1, True), (2, False)] == [(health.turns, health.up) for health in reported]


def test_an_empty_answer_is_no_failure(clock: ManualClock) -> None:
    """The plug stays up, nothing is counted."""
    loop = poller(clock, Plug(clock, None, ReadFailed("no rows yet", "empty")))

    loop.turn()
    loop.turn()

    assert (True, ()) == (loop.health.up, loop.health.failures)


@pytest.mark.parametrize(("asked_for", "expected"), [(None, None), (False, False)])
def test_what_was_never_there_is_neither_up_nor_down_unless_asked_for(
    clock: ManualClock, *, asked_for: bool | None, expected: bool | None
) -> None:
    """A host without RAPL needs no alert, unless its owner wanted RAPL."""
    loop = poller(clock, Plug(clock, Unavailable("no zone", "load the module")), up=asked_for)

    loop.turn()

    assert (expected, "no zone", "load the module") == (loop.health.up, loop.health.error, loop.health.remedy)


def test_what_was_there_and_vanished_is_down(clock: ManualClock) -> None:
    """It was opened once: its absence is news."""
    loop = poller(clock, Plug(clock, None, Unavailable("no zone")))

    loop.turn()
    loop.turn()

    assert False is loop.health.up


def test_missing_is_told_of_a_plug_that_was_never_there(clock: ManualClock) -> None:
    """Its owner asked for it by name: the house leaves."""
    told: list[str] = []
    loop = poller(clock, Plug(clock, Unavailable("no driver")), missing=lambda missing: told.append(str(missing)))

    loop.turn()

    assert ["no driver"] == told


def test_missing_is_not_told_of_a_plug_that_was_there_once(clock: ManualClock) -> None:
    """A driver that is unloaded for an update must not end the house."""
    told: list[str] = []
    loop = poller(clock, Plug(clock, None, Unavailable("x")), missing=lambda missing: told.append(str(missing)))

    loop.turn()
    loop.turn()

    assert [] == told


def test_a_bug_leaves_the_turn(clock: ManualClock) -> None:
    """Anything but the two kinds of bad news ends the thread, and so the process."""
    loop = poller(clock, Plug(clock, ZeroDivisionError("a bug")))

    with pytest.raises(ZeroDivisionError, match="a bug"):
        loop.turn()


# --- the log ----------------------------------------------------------------------------------------


def test_one_outage_is_two_lines(clock: ManualClock, lines: list[str]) -> None:
    """When it began and when it ended, and how long it was; nothing in between."""
    failed = ReadFailed("no answer within 3 s", "timeout")
    loop = poller(clock, Plug(clock, None, *[failed] * 40))

    for _ in range(43):
        loop.turn()
        clock.advance(1.0)

    expected = ["INFO nvml answers", "WARNING nvml: no answer within 3 s", "INFO nvml recovered after 40 s"]
    assert expected == lines


def test_another_error_is_another_line(clock: ManualClock, lines: list[str]) -> None:
    """It is still down, but for another reason."""
    loop = poller(clock, Plug(clock, ReadFailed("503", "server"), ReadFailed("401", "auth"), ReadFailed("401", "auth")))

    for _ in range(3):
        loop.turn()

    assert ["WARNING nvml: 503", "WARNING nvml: 401"] == lines


def test_what_is_not_there_is_one_line_with_its_remedy(clock: ManualClock, lines: list[str]) -> None:
    """INFO, once, though it is asked for again and again."""
    missing = Unavailable("no RAPL zone", "load it with: sudo modprobe intel_rapl_msr")
    loop = poller(clock, Plug(clock, *[missing] * 5))

    for _ in range(5):
        loop.turn()

    assert ["INFO nvml: no RAPL zone; load it with: sudo modprobe intel_rapl_msr"] == lines


def test_an_empty_answer_is_no_line(clock: ManualClock, lines: list[str]) -> None:
    """It is no failure; and an answer after it is no recovery."""
    loop = poller(clock, Plug(clock, None, ReadFailed("no rows yet", "empty")))

    for _ in range(3):
        loop.turn()

    assert ["INFO nvml answers"] == lines


def test_an_empty_answer_within_an_outage_does_not_say_it_anew(clock: ManualClock, lines: list[str]) -> None:
    """The server fails, has no rows, fails again as before: one outage."""
    failed = ReadFailed("503", "server")
    loop = poller(clock, Plug(clock, None, failed, ReadFailed("no rows yet", "empty"), failed))

    for _ in range(4):
        loop.turn()

    assert ["INFO nvml answers", "WARNING nvml: 503"] == lines


def test_two_outages_are_said_twice(clock: ManualClock, lines: list[str]) -> None:
    """The same error after a recovery is news."""
    failed = ReadFailed("503", "server")
    loop = poller(clock, Plug(clock, None, failed, None, failed, None))

    for _ in range(5):
        loop.turn()
        clock.advance(10.0)

    assert [
        "INFO nvml answers",
        "WARNING nvml: 503",
        "INFO nvml recovered after 10 s",
        "WARNING nvml: 503",
        "INFO nvml recovered after 10 s",
    ] == lines


def test_several_empty_answers_in_a_row_are_news(clock: ManualClock, lines: list[str]) -> None:
    """One says that there is nothing yet; three, that there is nothing to be had: said once, and no failure."""
    health = Health("nvml", "source", EVERY)
    poller = Poller(health, Plug(clock, *[ReadFailed("nothing yet", "empty")] * 6), clock, lambda _: None)

    for _ in range(6):
        poller.turn()

    assert 1 == len(lines)
    assert "nothing yet" in lines[0]
    assert ("nothing yet", ()) == (poller.health.error, poller.health.failures)


# --- told from outside --------------------------------------------------------------------------------


def test_a_pause_is_no_failure_and_is_said_once(clock: ManualClock, lines: list[str]) -> None:
    """Once more when it is another pause; and when it is over."""
    loop = poller(clock, Plug(clock, None, Paused("paused a"), Paused("paused a"), Paused("paused b")))
    for _ in range(4):
        loop.turn()
    paused = loop.health
    clock.advance(5.0)
    loop.turn()

    assert (False, "paused b", "wattgram resume", ()) == (paused.up, paused.error, paused.remedy, paused.failures)
    assert (True, "") == (loop.health.up, loop.health.error)
    assert [
        "INFO nvml answers",
        "INFO nvml: paused a",
        "INFO nvml: paused b",
        "INFO nvml recovered after 5 s",
    ] == lines


def test_what_was_there_and_went_is_looked_for_within_a_minute(clock: ManualClock) -> None:
    """A driver is replaced in half a minute; ten minutes are for what was never there."""
    gone = Unavailable("no driver")
    plug = Plug(clock, None, *[gone] * 6)
    waits = turns(clock, plug, 8)

    assert [10.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0] == [b - a for a, b in pairwise(waits)]
    assert 60.0 == GONE.most


def test_a_long_wait_has_its_pulses(clock: ManualClock) -> None:
    """Ten minutes without a driver are no reason for the service manager to think us dead."""
    heard: list[float] = []
    loop = Poller(
        Health("nvml", "source", EVERY),
        Plug(clock, Unavailable("no driver")),
        clock,
        lambda _: None,
        pulse=lambda: heard.append(clock.now().mono),
        pulse_seconds=15.0,
    )
    loop._bell = Nap(clock, 41, loop)
    loop.run()

    assert 600.0 <= clock.now().mono - 1000.0
    assert 15.0 == max(b - a for a, b in pairwise(heard))


def test_turns_that_are_asked_for_put_off_none(clock: ManualClock) -> None:
    """Somebody wants to know now, ten times: the next turn comes an interval after the last of them, not ten later."""
    plug = Plug(clock)
    loop = poller(clock, plug)
    loop._bell = Knocks(clock, loop, [1.0] * 10 + [None, None])

    loop.run()

    assert [1000.0 + second for second in (*range(11), 20, 30)] == plug.began


def test_when_the_last_ended_turn_began_is_known(clock: ManualClock) -> None:
    """Who asked for one must know that it was begun after it was asked for."""
    plug = Plug(clock, ReadFailed("once"), takes={0: 2.0, 1: 3.0})
    loop = poller(clock, plug)
    began = [loop.began]
    for _ in range(2):
        loop.turn()
        began.append(loop.began)

    assert [-math.inf, 1000.0, 1002.0] == began


class Knocks:
    """Pauses that somebody cuts short after so many seconds, or not (None); after the last the loop ends."""

    def __init__(self, clock: ManualClock, loop: Poller, after: list[float | None]) -> None:
        self.clock, self.loop, self.after = clock, loop, after

    def ring(self) -> None:
        """Nobody sleeps here."""

    def wait(self, seconds: float) -> bool:
        if not self.after:
            self.loop.stop()
            return True
        knock = self.after.pop(0)
        self.clock.advance(seconds if knock is None else knock)
        return knock is not None


def test_a_woken_loop_turns_at_once_and_keeps_its_new_interval(clock: ManualClock) -> None:
    class Woken(Nap):
        def wait(self, seconds: float) -> bool:
            super().wait(seconds if self.pauses != 3 else 1.0)
            if self.pauses == 2:
                self.loop.wake(4.0)
            return self.pauses != 1

    plug = Plug(clock)
    loop = poller(clock, plug)
    loop._bell = Woken(clock, 3, loop)
    loop.run()

    assert [1000.0, 1001.0, 1005.0] == plug.began
    assert 4.0 == loop.health.every


def test_who_retires_does_what_is_last_in_its_own_thread_and_reports_no_more(clock: ManualClock) -> None:
    """Its successor goes on counting where it stopped."""
    reported: list[Health] = []
    last: list[str] = []
    loop = poller(clock, Plug(clock), reported.append)

    def turn() -> None:
        loop.retire(lambda: last.append("closed"))

    loop._turn = turn
    loop.run()

    assert ([], ["closed"]) == (reported, last)


@pytest.mark.parametrize(("up", "paused"), [(None, None), (False, False)])
def test_a_pause_of_what_was_never_there_is_no_alarm(
    clock: ManualClock,
    up: bool | None,  # noqa: FBT001
    paused: bool | None,  # noqa: FBT001
) -> None:
    """A host without a driver has no row for it, before, during and after."""
    missing = Unavailable("no driver")
    loop = poller(clock, Plug(clock, missing, Paused("paused"), missing), up=up)
    seen = []
    for _ in range(3):
        loop.turn()
        seen.append(loop.health.up)

    assert [up, paused, up] == seen


def test_what_is_asked_for_by_name_later_is_shown_as_missing(clock: ManualClock) -> None:
    """By a reload: it ends nothing now, but whoever watches is told before the next start is."""
    told: list[Unavailable] = []
    missing = Unavailable("no driver")
    loop = poller(clock, Plug(clock, missing, missing, missing), missing=told.append)
    loop._missing = None
    loop.turn()
    before = loop.health.up
    loop.require(required=True)
    loop.turn()
    required = loop.health.up
    loop.require(required=False)
    loop.turn()

    assert (None, False, None) == (before, required, loop.health.up)
    assert [] == told


def test_a_loop_begins_when_the_one_before_it_has_ended(clock: ManualClock) -> None:
    """Two of one source would book the same seconds."""
    order: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        assert go_on.wait(10.0)
        order.append("old")

    old = poller(clock, slow)
    old.start()
    assert entered.wait(10.0)
    old.retire(lambda: order.append("closed"))
    new = Poller(Health("nvml", "source", EVERY), lambda: order.append("new"), clock, lambda _: None, after=old)
    new.start()
    go_on.set()
    old.join()
    end = time.monotonic() + 10.0
    while len(order) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    new.stop()
    new.join()

    assert ["old", "closed", "new"] == order
