"""The acceptance line of faults, the host: its processor counters, clocks, disk, descriptors, log and configuration."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from standin.books import Auditor, Change, about, change, moment, parsed, texts
from standin.clock import ClockShim
from standin.daemon import Daemon
from standin.grid import GridApi
from standin.nvml import CompilerMissing, Constant
from standin.rig import (
    BRIDGED,
    EVERY,
    ONLY_NVML,
    TOLERANCE,
    Outcome,
    assert_bridged,
    assert_powered,
    rig,
    with_counter,
    with_power,
    with_rapl,
)
from standin.stage import Report, Seconds, Stage, every_scene, scene
from standin.sysfs import RaplTree, Zone
from standin.watching import devices, pause, wait

# The counters are written by a thread of ours: what it is late by is an error.
pytestmark = pytest.mark.alone

MICRO = 1e-6
DAY = 86_400.0
CHILD_START, BACKOFF = 3.0, 4.0
WATTS = 200.0
# By so much the writer of the counters' files may come late.
ZONES = tuple(f"intel-rapl:{number}" for number in range(6))


# --- processor counters ---------------------------------------------------------------------------

WELL, VANISHING, EIO, GARBAGE, EMPTY, DENIED = range(6)
FORGED = '\x1b[31m12"\\\nlevel=error msg=forged\n'


def zones(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """Six packages; five get into trouble at once, each in its own way, for four seconds."""
    # As root nothing is refused; without the right to override, a file of mode 0 is refused also to its owner.
    bounded = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    prefix = bounded if os.geteuid() == 0 else ()
    packages = [Zone(path, f"package-{n}", Constant(WATTS)) for n, path in enumerate(ZONES)]
    with RaplTree(directory / "tree", packages) as tree, Daemon(directory, with_rapl(tree), prefix=prefix) as daemon:
        tree.start_writer(0.005)
        wait(lambda: len(devices(daemon)) == len(ZONES))
        auditor = Auditor(daemon)
        with auditor:
            pause(2.0)
            before = moment(daemon)
            start = time.monotonic()
            _break(tree)
            pause(seconds(4.0, 20.0))
            during = moment(daemon)
            end = time.monotonic()
            tree.add(replace(packages[VANISHING], start=0))
            for zone in (EIO, GARBAGE, EMPTY, DENIED):
                tree.release(ZONES[zone])
            wait(lambda: all(moment(daemon).read_at(f"package-{n}") > end for n in range(len(ZONES))))
            pause(3.0)
            after = moment(daemon)
            auditor.finish()
        log = daemon.log
    return {
        "before": before,
        "during": during,
        "after": after,
        "start": start,
        "end": end,
        "late": tree.late,
        "silences": auditor.silences,
        "lines": parsed(log[before.logged : after.logged]),
    }


def _break(tree: RaplTree) -> None:
    tree.remove(ZONES[VANISHING])
    tree.deny(ZONES[EIO])
    tree.set_raw(ZONES[GARBAGE], FORGED)
    tree.set_raw(ZONES[EMPTY], "")
    tree.set_raw(ZONES[DENIED], "1\n")
    tree.file(ZONES[DENIED]).chmod(0)


def zone_change(outcome: Any, zone: int) -> Change:
    """What a package gained."""
    return change(outcome["before"], outcome["after"], f"package-{zone}")


def assert_zone_told(outcome: Any, zone: int, reason: str) -> None:
    """One line when a zone stops answering, one when it answers again."""
    told = about(outcome["lines"], f"package-{zone}")
    assert ["warning", "info"] == [line.level for line in told], told
    assert told[0].text.startswith(f"rapl: package-{zone} does not answer: "), told[0]
    assert reason in told[0].text, told[0]
    again = rf"rapl: package-{zone} answers again after \d+ s, [\d.]+ s of it not metered"
    assert re.fullmatch(again, told[1].text), told


@scene(zones)
@pytest.mark.accept("4.1", "a RAPL zone beside five that fail: exact, nothing unmetered, not a line")
def test_a_zone_beside_failing_ones_misses_nothing(outcome: Any, report: Report) -> None:
    """The others' troubles are their own."""
    seen = zone_change(outcome, WELL)

    report(f"{seen.joules / (WATTS * seen.seconds) - 1:+.3%}")
    assert [] == outcome["silences"]
    assert 0.0 == seen.unmetered
    assert_powered(seen, WATTS, BRIDGED, outcome["late"])
    assert [] == about(outcome["lines"], f"package-{WELL}")


@scene(zones)
@pytest.mark.accept("4.1", "a RAPL zone vanishes and returns with another counter: a gap, nothing invented")
def test_a_zone_that_vanishes_and_returns(outcome: Any, report: Report) -> None:
    """A module that was unloaded counts anew: what it shows when it returns was not used since."""
    seen = zone_change(outcome, VANISHING)
    away = outcome["end"] - outcome["start"]

    report(f"{seen.unmetered:.2f} s unmetered of {away:.2f} s")
    # What the counter gained since its return is known; the rest of the outage is not.
    assert abs(seen.unmetered - away) <= TOLERANCE
    assert seen.joules <= WATTS * (seen.covered + EVERY + outcome["late"]) * 1.01
    assert seen.joules >= WATTS * (seen.covered - 2 * EVERY - outcome["late"]) * 0.99
    assert_zone_told(outcome, VANISHING, "ENOENT")


@scene(zones)
@pytest.mark.accept("4.1", "energy_uj giving EIO, garbage, nothing, or refusing (EACCES): bridged by the counter")
@pytest.mark.parametrize(
    ("zone", "reason"),
    [(EIO, "EIO"), (GARBAGE, "expected a whole number"), (EMPTY, "expected a whole number"), (DENIED, "permission")],
    ids=["eio", "garbage", "empty", "eacces"],
)
def test_a_zone_that_cannot_be_read_for_a_while(outcome: Any, zone: int, reason: str, report: Report) -> None:
    """The counter went on; what it shows afterwards is the truth about the outage."""
    seen = zone_change(outcome, zone)
    during = outcome["during"]

    report(f"{seen.joules / (WATTS * seen.seconds) - 1:+.3%}, {seen.unmetered:g} s unmetered")
    assert 0.0 == seen.unmetered
    assert_powered(seen, WATTS, BRIDGED, outcome["late"])
    assert during.devices[f"package-{zone}"]["watts"] is None
    assert_zone_told(outcome, zone, reason)
    assert f"package-{zone}" in during.health["rapl"]["unanswered"]
    assert {} == outcome["after"].health["rapl"]["unanswered"]


# --- clocks ---------------------------------------------------------------------------------------


def clocks(directory: Path, seconds: Seconds) -> dict[str, Outcome]:
    """The wall clock is set by a day, both ways; then the machine sleeps for an hour."""
    try:
        shim = ClockShim(directory)
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    config = ONLY_NVML + '[carbon]\nzone = "FR"\nproviders = ["annual"]\n'
    with rig(directory, [with_counter(), with_power()], config, env=shim.env) as r:
        found = {}
        before = r.quiet(2.0)
        for name, act, by in (("forward", shim.step, DAY), ("back", shim.step, -DAY), ("suspend", shim.sleep, 3600.0)):
            start = time.monotonic()
            act(by)
            r.shift = shim.wall
            r.fresh(start + 2 * EVERY, deadline=20.0)
            after = r.quiet(seconds(4.0, 30.0))
            log = r.daemon.log[before.logged : after.logged]
            found[name] = Outcome(r.nvml, before, after, start, start, log, list(r.auditor.silences))
            before = after
        r.auditor.finish()
        return found


@scene(clocks)
@pytest.mark.accept("4.1", "the wall clock set by a day, forward and back: no second lost, no joule moved, not a line")
@pytest.mark.parametrize("way", ["forward", "back"])
def test_the_wall_clock_may_step(outcome: Any, way: str, report: Report) -> None:
    """Lengths of time come from the clock that nobody sets."""
    found: Outcome = outcome[way]
    error = assert_bridged(found, 0)

    report(f"{error:+.3%}")
    assert 0.0 == found.change(1).unmetered
    assert_powered(found.change(1), 250.0)
    assert [] == found.lines
    assert [] == found.silences


@scene(clocks)
@pytest.mark.accept("4.1", "a suspend of an hour: the turn around it unmetered, the hour itself not invented")
def test_a_suspended_machine_used_nothing_that_we_know(outcome: Any, report: Report) -> None:
    """No counter and no line reaches across; the hour is no time of ours."""
    found: Outcome = outcome["suspend"]
    unmetered = [found.change(index).unmetered for index in (0, 1)]

    report(", ".join(f"{seconds:.2f} s unmetered" for seconds in unmetered))
    assert all(0.0 < seconds <= TOLERANCE for seconds in unmetered)
    assert_powered(found.change(1), 250.0, 0.02)
    seen = found.change(0)
    assert seen.joules <= found.nvml.joules(0, seen.start, seen.end) * 1.005
    assert len(found.lines) <= 1


# --- disk -----------------------------------------------------------------------------------------


def disk_full(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """The cache's disk has no room, then it has, then again not; prices arrive several times a second."""
    disk = directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "wattgram-test", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs a real file system of its own to fill: {mounted.stderr.decode().strip()}")
    try:
        with ExitStack() as stack:
            api = stack.enter_context(GridApi())
            api.step, api.lag, api.schedule = 1.0, -2.0, lambda start: 50.0 + start % 7
            (directory / "token").write_text(api.token)
            config = (
                ONLY_NVML + f'[carbon]\nzone = "FR"\nproviders = ["electricitymaps"]\ncache_file = "{disk}/kept.json"\n'
                f'[carbon.electricitymaps]\nbase_url = "{api.url}"\ntoken_file = "{directory}/token"\nevery = "200ms"\n'
            )
            _fill(disk / "filler")
            r = stack.enter_context(rig(directory, [with_counter()], config))
            r.daemon.wait_for_log("cannot be written")
            start = time.monotonic()
            before = r.moment()
            after = r.quiet(seconds(4.0, 30.0))
            full = Outcome(r.nvml, before, after, start, after.at, r.daemon.log, [])
            (disk / "filler").unlink()
            r.daemon.wait_for_log("is written again")
            kept = wait((disk / "kept.json").exists)
            return {"full": full, "last": r.outcome(before, r.moment(), start, start), "kept": kept}
    finally:
        subprocess.run(["umount", str(disk)], capture_output=True, check=False)


def _fill(path: Path) -> None:
    """Leave no room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@scene(disk_full)
@pytest.mark.accept(
    "4.1", "no room on the disk of the cache: said once, metering and prices go on; written again later"
)
def test_a_full_disk_costs_only_the_cache(outcome: Any, report: Report) -> None:
    """The cache is for the next start; this one goes on."""
    error = assert_bridged(outcome["full"], 0)
    told = about(outcome["full"].lines, "cache")

    report(f"{error:+.3%}")
    assert ["warning"] == [line.level for line in told], told
    assert "No space left" in told[0].text
    assert ["info"] == [line.level for line in about(outcome["last"].lines, "cache")]
    assert outcome["kept"]


# --- file descriptors -----------------------------------------------------------------------------


def descriptors(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """Not a descriptor is left, with and without a child to start; then clients take all there are."""
    packages = [Zone("intel-rapl:0", "package-0", Constant(WATTS))]
    found: dict[str, Any] = {}
    with RaplTree(directory / "tree", packages) as tree:
        tree.start_writer(0.005)
        config = with_rapl(tree, nvml="enabled = true")
        with rig(directory, [with_counter()], config) as r:
            wait(lambda: len(devices(r.daemon)) == 2)
            pid, usual = r.daemon.pid, resource.prlimit(r.daemon.pid, resource.RLIMIT_NOFILE)

            def limited(to: int) -> None:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (to, usual[1]))

            for name in ("none", "child"):
                before = r.quiet(2.0)
                start = time.monotonic()
                limited(3)
                if name == "child":
                    (child,) = r.daemon.children()
                    os.kill(child, signal.SIGKILL)
                pause(seconds(2.5, 20.0))
                limited(usual[0])
                end = time.monotonic()
                _all_fresh(r.daemon, end)
                after = r.quiet()
                log = r.daemon.log[before.logged : after.logged]
                found[name] = Outcome(r.nvml, before, after, start, end, log, list(r.auditor.silences))
            before = r.quiet(0.5)
            start = time.monotonic()
            used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            limited(used + 12)
            with ExitStack() as clients:
                for _ in range(40):
                    clients.enter_context(socket.create_connection(("127.0.0.1", r.daemon.port), 5.0))
                pause(seconds(2.5, 20.0))
            end = time.monotonic()
            _all_fresh(r.daemon, end)
            limited(usual[0])
            after = r.quiet()
            found["clients"] = r.outcome(before, after, start, end)
            found["alive"] = r.daemon.returncode is None
        found["late"] = tree.late
    return found


def _all_fresh(daemon: Daemon, since: float) -> None:
    """Return once every device was read after an instant; no answer is no reason to give up."""

    def read() -> bool:
        with contextlib.suppress(OSError):
            now = moment(daemon)
            return all(now.read_at(device) > since for device in now.devices)
        assert daemon.returncode is None, daemon.log[-3000:]
        return False

    wait(read)


@scene(descriptors)
@pytest.mark.accept("4.1", "no file descriptor left, for reads, for a child, for clients: survived, bridged, said once")
@pytest.mark.parametrize("case", ["none", "child", "clients"])
def test_descriptors_run_out(outcome: Any, case: str, report: Report) -> None:
    """Files cannot be opened, a process not started, a client not taken in: each can later."""
    found: Outcome = outcome[case]
    error = assert_bridged(found, 0)
    package = change(found.before, found.after, "package-0")

    report(f"{error:+.3%}, {len(found.lines)} lines, {len(found.silences)} scrapes unanswered so far")
    assert 0.0 == package.unmetered
    assert_powered(package, WATTS, BRIDGED, outcome["late"])
    assert len(about(found.lines, "package-0", "rapl")) <= 2, found.lines
    assert len(about(found.lines, "nvml", "GPU-")) <= 2, found.lines
    # What was refused is said, and not once for each refusal.
    assert len(found.lines) <= 8, texts(found.lines)


@every_scene
@pytest.mark.accept("4.1", "no counter ever went down or vanished; Σ owners = Σ devices = Σ prices at every scrape")
def test_the_books_were_in_order_all_the_time(stage: Stage) -> None:
    """Five scrapes a second through all of the above."""
    audits = stage.audits()

    assert audits
    assert {} == {play: wrongs[:3] for play, wrongs in audits.items() if wrongs}
