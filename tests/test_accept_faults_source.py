"""The acceptance line of faults, the driver and the process that reads it: each is lost as a whole, and comes back."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from standin.books import Moment, texts
from standin.freezer import Freezer
from standin.nvml import Constant
from standin.rig import (
    EVERY,
    Outcome,
    Rig,
    assert_bridged,
    assert_gap,
    assert_powered,
    assert_replaced,
    change_all,
    rig,
    with_counter,
    with_power,
)
from standin.stage import Report, Seconds, Stage, every_scene, scene
from standin.watching import pause, wait

DRIVER_NOT_LOADED, VERSION_MISMATCH, UNKNOWN = 9, 18, 999
COUNTER, POWER = 0, 1
# A child that is found out of order by its silence, the longest wait of its first failures, and its start.
SILENCE, BACKOFF, CHILD_START = 2.0, 4.0, 3.0
MOST_ABANDONED = 3


def returned(r: Rig, since: float, deadline: float = 30.0) -> float:
    """Wait for every card's first reading after an instant; return when the last of them was taken."""
    r.fresh(since, deadline=deadline)
    now = r.moment()
    return max(now.read_at(r.uuid(index)) for index in range(len(r.nvml.gpus)))


def zombies(parent: int) -> list[int]:
    """Children of a process that are dead and not waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] == "Z" and int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


def judged(outcome: Outcome, report: Report, within: float) -> None:
    """What every loss of the whole source has in common."""
    back = outcome.more["returned"]
    error = assert_bridged(outcome, COUNTER)
    gap = assert_gap(outcome, POWER, back - outcome.start)

    report(
        f"away {outcome.lasted:.1f} s, metered again after {back - outcome.end:.1f} s;"
        f" counter {error:+.3%}, power {gap:.2f} s unmetered"
    )
    assert back - outcome.end <= within
    assert [] == outcome.silences
    assert {"gap": 1} == outcome.change(POWER).events


# --- the driver -----------------------------------------------------------------------------------


def lose_driver(directory: Path, seconds: float, **library: Any) -> Outcome:
    """A driver of which every call, and the initialisation, answers with an error for a while."""
    with rig(directory, [with_counter(), with_power()]) as r:
        before = r.quiet(2.0)
        start = time.monotonic()
        r.nvml.library(**library)
        pause(seconds)
        during = r.moment()
        r.nvml.library(error=0, init_error=0)
        end = time.monotonic()
        back = returned(r, end, max(30.0, 4 * seconds))
        after = r.quiet()
        return r.outcome(before, after, start, end, during=during, returned=back)


def driver_gone(directory: Path, seconds: Seconds) -> Outcome:
    return lose_driver(directory, seconds(3.0, 20.0), error=DRIVER_NOT_LOADED, init_error=DRIVER_NOT_LOADED)


@scene(driver_gone)
@pytest.mark.accept("4.1", "the driver gone (9 from every call) and back: metered again by itself, counters go on")
def test_a_driver_that_goes_and_comes_back(outcome: Outcome, seconds: Seconds, report: Report) -> None:
    """Nobody restarts a daemon after a driver; and it is asked again before a counter's bridge ends."""
    judged(outcome, report, seconds(BACKOFF + CHILD_START, 60.0))
    told = outcome.told("nvml", "GPU-")
    began = [line.text for line in told if "recovered" not in line.text]

    assert 1 <= len(began) <= 2, told
    assert len(set(began)) == len(began)
    assert re.fullmatch(r"nvml recovered after \d+ s", told[-1].text), told
    assert "driver" in (outcome.more["during"].health["nvml"]["error"] or "").lower()


def driver_unknown(directory: Path, seconds: Seconds) -> Outcome:
    return lose_driver(directory, seconds(3.0, 20.0), error=UNKNOWN)


@scene(driver_unknown)
@pytest.mark.accept("4.1", "UNKNOWN (999) from every card: the reading process is replaced until one helps")
def test_an_unknown_error_everywhere(outcome: Outcome, seconds: Seconds, report: Report) -> None:
    """As in a container that lost its devices for a while."""
    judged(outcome, report, seconds(BACKOFF + CHILD_START, 60.0))
    assert_replaced(outcome)


def driver_upgraded(directory: Path, seconds: Seconds) -> Outcome:
    """The driver is upgraded underneath; then it is loaded anew, another version, its counters begun anew."""
    gpus = [with_power(counter=True, counter_step=0.001), with_power()]
    with rig(directory, gpus) as r:
        before = r.quiet(2.0)
        start = time.monotonic()
        r.nvml.library(error=VERSION_MISMATCH, init_error=VERSION_MISMATCH)
        pause(seconds(2.0, 20.0))
        for index in range(len(gpus)):
            r.nvml.change(index, counter_reset_at=time.monotonic())
        r.nvml.library(error=0, init_error=0, driver="580.65.06")
        end = time.monotonic()
        back = returned(r, end, seconds(30.0, 80.0))
        after = r.quiet()
        return r.outcome(before, after, start, end, returned=back)


@scene(driver_upgraded)
@pytest.mark.accept("4.1", "version mismatch (18), then another driver with counters begun anew: nothing invented")
def test_a_driver_upgraded_underneath(outcome: Outcome, seconds: Seconds, report: Report) -> None:
    """What the old driver counted has nothing to do with what the new one counts."""
    away = outcome.more["returned"] - outcome.start
    found = [assert_gap(outcome, index, away) for index in (COUNTER, POWER)]

    report(f"away {outcome.lasted:.1f} s; {found[0]:.2f} s and {found[1]:.2f} s unmetered")
    assert outcome.more["returned"] - outcome.end <= seconds(BACKOFF + CHILD_START, 60.0)
    assert "580.65.06" == outcome.after.devices[outcome.uuid(COUNTER)]["driver"]
    told = outcome.told("nvml", "GPU-")
    assert 1 == len([line for line in told if "recovered" in line.text]), told
    assert 2 <= len(told) <= 3, told


# --- the process ----------------------------------------------------------------------------------


def child_killed(directory: Path, seconds: Seconds) -> Outcome:
    return lose_child(directory, signal.SIGKILL)


def child_stopped(directory: Path, seconds: Seconds) -> Outcome:
    return lose_child(directory, signal.SIGSTOP)


def lose_child(directory: Path, how: int) -> Outcome:
    """The reading process gets a signal that it cannot refuse."""
    with rig(directory, [with_counter(), with_power()]) as r:
        before = r.quiet(2.0)
        (child,) = r.daemon.children()
        start = time.monotonic()
        os.kill(child, how)
        back = returned(r, start + EVERY)
        after = r.quiet()
        return r.outcome(
            before, after, start, start, returned=back, children=r.daemon.children(), dead=zombies(r.daemon.pid)
        )


@scene(child_killed)
@pytest.mark.accept("4.1", "the reading process is killed: one warning, a new one, one line when it reads")
def test_the_reading_process_is_killed(outcome: Outcome, report: Report) -> None:
    """The counter bridges what nobody read."""
    judged(outcome, report, BACKOFF + CHILD_START)
    assert_replaced(outcome)
    assert 1 == len(outcome.more["children"])
    assert [] == outcome.more["dead"]


@scene(child_stopped)
@pytest.mark.accept("4.1", "the reading process is stopped (SIGSTOP): found out by its silence and replaced")
def test_the_reading_process_is_stopped(outcome: Outcome, report: Report) -> None:
    """A process that does not answer is killed; nothing of it remains."""
    judged(outcome, report, SILENCE + BACKOFF + CHILD_START)
    assert_replaced(outcome)
    assert 1 == len(outcome.more["children"])
    assert [] == outcome.more["dead"]


def child_killed_while_hung(directory: Path, seconds: Seconds) -> Outcome:
    """One card hangs, and then the process is killed that reads them all."""
    with rig(directory, [with_counter(), with_power(), with_counter()]) as r:
        before = r.quiet(2.0)
        r.nvml.change(2, hang=math.inf)
        pause(1.0)
        start = time.monotonic()
        (child,) = r.daemon.children()
        os.kill(child, signal.SIGKILL)
        r.fresh(start + EVERY, COUNTER, POWER, deadline=40.0)
        back = r.moment().read_at(r.uuid(POWER))
        r.nvml.change(2, hang=0.0)
        end = time.monotonic()
        r.fresh(end + EVERY, 2, deadline=40.0)
        after = r.quiet()
        return r.outcome(before, after, start, start, returned=back, healed=end)


@scene(child_killed_while_hung)
@pytest.mark.accept("4.1", "the reading process dies while a GPU hangs: the others do not wait for that one")
def test_a_new_process_does_not_wait_for_a_card_that_hangs(outcome: Outcome, report: Report) -> None:
    """The new process has never seen the hung card; the others' readings go on at once."""
    judged(outcome, report, BACKOFF + CHILD_START)
    assert_bridged(outcome, 2)
    assert 1 == len(texts(outcome.told("nvml: the reading process"), "warning"))


# --- a process that cannot be killed --------------------------------------------------------------


def unkillable(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """Three reading processes in a row are held by a freezer; then all are let go."""
    with Freezer() as freezer, rig(directory, [with_counter(), with_power()]) as r:
        before = r.quiet(2.0)
        held: list[int] = []

        def freeze() -> float:
            (child,) = set(r.daemon.children()) - set(held)
            freezer.hold(child)
            held.append(child)
            return time.monotonic()

        start = freeze()
        back = returned(r, start + EVERY)
        one = r.quiet()
        first = Outcome(r.nvml, before, one, start, start, r.daemon.log[before.logged : one.logged], [])
        first.more = {"returned": back, "alive": held[0] in r.daemon.children()}
        returned(r, freeze() + EVERY)
        frozen = freeze()
        wait(lambda: "hang in the driver" in (r.moment().health["nvml"]["error"] or ""))
        most = set(r.daemon.children())
        pause(seconds(3.0, 60.0))
        most |= set(r.daemon.children())
        capped = r.moment()
        metrics = [r.daemon.metrics() for _ in range(3)]
        freezer.thaw()
        thawed = time.monotonic()
        back = returned(r, thawed)
        wait(lambda: not set(held) & set(r.daemon.children()))
        after = r.quiet(2.0)
        dead = zombies(r.daemon.pid)
        last = r.outcome(one, after, frozen, thawed, returned=back)
        return {
            "first": first,
            "last": last,
            "capped": capped,
            "children": len(most),
            "held": len(held),
            "dead": dead,
            "alive": r.daemon.children(),
            "scraped": len(metrics),
        }


@scene(unkillable)
@pytest.mark.accept("4.1", "a reading process that cannot be killed: abandoned, another one reads on")
def test_a_process_that_cannot_be_killed_is_abandoned(outcome: Any, report: Report) -> None:
    """SIGKILL waits for a process that hangs in the kernel; we do not."""
    first = outcome["first"]

    judged(first, report, SILENCE + BACKOFF + CHILD_START)
    assert first.more["alive"]
    assert_replaced(first)


@scene(unkillable)
@pytest.mark.accept("4.1", "three of them: no fourth is started, the rest serves; let go, all recovers, no zombie")
def test_abandoned_processes_are_capped_and_buried(outcome: Any, report: Report) -> None:
    """Each costs memory and a place in the driver: at some number another one is no help."""
    last, capped = outcome["last"], outcome["capped"]
    seen = last.change(COUNTER)

    report(f"{outcome['children']} children at most, back {last.more['returned'] - last.end:.1f} s after the thaw")
    assert MOST_ABANDONED == outcome["children"] == outcome["held"]
    assert str(MOST_ABANDONED) in capped.health["nvml"]["error"]
    assert [] == outcome["dead"]
    assert 1 == len(outcome["alive"])
    assert 0.0 == seen.unmetered
    assert_bridged(last, COUNTER)
    assert_powered(last.change(POWER), 250.0, 0.02)
    recovered = [line.text for line in last.lines if "recovered" in line.text]
    assert 1 <= len(recovered) <= 2, last.lines
    assert len(last.told("nvml")) <= 6, last.lines


def leaves_frozen_child(directory: Path, seconds: Seconds) -> tuple[int, float]:
    """The daemon is told to leave while its child cannot be killed."""
    with Freezer() as freezer, rig(directory, [with_counter()]) as r:
        (child,) = r.daemon.children()
        freezer.hold(child)
        pause(1.5)
        r.auditor.finish()
        return r.daemon.stop()


@scene(leaves_frozen_child)
@pytest.mark.accept("4.1", "told to leave beside a process that cannot be killed: leaves within the second")
def test_leaving_does_not_wait_for_a_process_that_cannot_be_killed(outcome: Any, report: Report) -> None:
    """The supervisor would kill us after its own patience; it need not."""
    code, took = outcome

    report(f"{took:.2f} s")
    assert 0 == code
    assert took < 1.5


def leaves_hung(directory: Path, seconds: Seconds) -> tuple[int, float, list[int]]:
    """The daemon is told to leave while every card hangs."""
    with rig(directory, [with_counter(), with_power()]) as r:
        change_all(r.nvml, hang=math.inf)
        pause(1.0)
        reading = r.daemon.children()
        r.auditor.finish()
        code, took = r.daemon.stop()
        pause(0.5)
        return code, took, [pid for pid in reading if Path(f"/proc/{pid}").exists()]


@scene(leaves_hung)
@pytest.mark.accept("4.1", "told to leave while every GPU hangs: leaves within the second, nothing stays behind")
def test_leaving_does_not_wait_for_cards_that_hang(outcome: Any, report: Report) -> None:
    """Threads that hang in the driver go with their process."""
    code, took, left = outcome

    report(f"{took:.2f} s")
    assert 0 == code
    assert took < 1.0
    assert [] == left


# --- pause and resume -----------------------------------------------------------------------------


def paused(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """Paused by a signal and resumed by one; then by the commands; then for a time."""
    (directory / "run").mkdir()
    runtime = {"RUNTIME_DIRECTORY": str(directory / "run")}
    gpus = [with_counter(profile=Constant(250.0)), with_power()]

    with rig(directory, gpus, env=runtime, driver={"log": True}) as r:

        def command(*words: str) -> int:
            line = [sys.executable, "-m", "wattgram", *words, "--listen", r.daemon.target]
            env = {**os.environ, **runtime}
            return subprocess.run(line, env=env, cwd=directory, capture_output=True, timeout=30, check=False).returncode

        before = r.quiet(1.0)
        start = time.monotonic()
        r.daemon.send(signal.SIGUSR1)
        wait(lambda: not r.daemon.children(), 10.0)
        shutdowns = r.nvml.calls()["nvmlShutdown", -1]
        pause(seconds(2.0, 20.0))
        during = r.moment()
        page = r.daemon.get("/").text
        end = time.monotonic()
        r.daemon.send(signal.SIGUSR2)
        back = returned(r, end)
        after = r.quiet(2.0)
        log = r.daemon.log[before.logged : after.logged]
        by_signal = Outcome(r.nvml, before, after, start, end, log, [], {"returned": back, "during": during})

        codes = [command("pause")]
        wait(lambda: not r.daemon.children(), 10.0)
        begun = time.monotonic()
        codes.append(command("resume"))
        returned(r, begun)
        codes.append(command("pause", "--for", "1s"))
        wait(lambda: not r.daemon.children(), 10.0)
        alone = time.monotonic()
        back = returned(r, alone)
        last = r.outcome(after, r.quiet(1.0), begun, alone)
        return {
            "by_signal": by_signal,
            "codes": codes,
            "last": last,
            "page": page,
            "shutdowns": shutdowns,
            "alone": back - alone,
        }


@scene(paused)
@pytest.mark.accept("4.1", "paused (SIGUSR1): the driver is let go of, seconds unmetered, page and status say so")
def test_a_pause_lets_go_of_the_driver(outcome: Any, report: Report) -> None:
    """What happens meanwhile is anybody's guess, a reset for one: also a counter does not bridge it."""
    by_signal = outcome["by_signal"]
    during: Moment = by_signal.more["during"]
    away = by_signal.more["returned"] - by_signal.start
    gaps = [assert_gap(by_signal, index, away) for index in (COUNTER, POWER)]

    report(f"paused {by_signal.lasted:.1f} s: {gaps[0]:.2f} s and {gaps[1]:.2f} s unmetered")
    assert outcome["shutdowns"] >= 1
    assert "paused" in outcome["page"].lower()
    assert "paused" in (during.health["nvml"]["error"] or "")
    told = by_signal.told("nvml", "pause", "resume", "GPU-")
    assert 2 == len(told), told


@scene(paused)
@pytest.mark.accept("4.1", "wattgram pause, resume and pause --for 1s do the same from a shell")
def test_the_commands_do_the_same(outcome: Any, report: Report) -> None:
    """They find the daemon by the file of its process id."""
    report(f"back {outcome['alone']:.1f} s after a pause of 1 s")
    assert [0, 0, 0] == outcome["codes"]
    assert outcome["alone"] <= 1.0 + CHILD_START
    assert len(outcome["last"].told("nvml", "pause", "resume", "GPU-")) <= 4, json.dumps(
        [line.text for line in outcome["last"].lines]
    )


@every_scene
@pytest.mark.accept("4.1", "no counter ever went down or vanished; Σ owners = Σ devices = Σ prices at every scrape")
def test_the_books_were_in_order_all_the_time(stage: Stage) -> None:
    """Five scrapes a second through all of the above."""
    audits = stage.audits()

    assert audits
    assert {} == {play: wrongs[:3] for play, wrongs in audits.items() if wrongs}
