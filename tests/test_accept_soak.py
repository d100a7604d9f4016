"""The acceptance line of endurance: half an hour at 10 Hz under faults that come every few seconds.

Nothing grows, nothing is invented, and at the end the energy is the true one for all the time that was not said to be
unmetered.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from standin.books import change, parsed, texts
from standin.daemon import Daemon
from standin.nvml import Constant, Gpu, Sine
from standin.rig import Rig, rig
from standin.watching import pause

SEED = 20261122
LOST, NO_PERMISSION, UNKNOWN = 15, 4, 999
LONGEST_FAULT = 3.0
CONFIG = """[sampling]
interval = "100ms"
[sources.rapl]
enabled = false
[sources.hwmon]
enabled = false
[carbon]
zone = "FR"
providers = ["annual"]
"""
# How many of these a daemon may have more at the end than after its first minutes.
MORE_DESCRIPTORS, MORE_THREADS, MORE_KIB = 4, 1, 4096


@dataclass
class Size:
    """What a daemon and its child hold."""

    descriptors: int
    threads: int
    kib: int


def size(daemon: Daemon) -> Size:
    """Of all its processes together; memory is what is theirs alone, since what they share depends on others."""
    found = Size(0, 0, 0)
    for pid in (daemon.pid, *daemon.children()):
        with suppress(OSError):  # a child that was replaced just now
            found.descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            found.threads += sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            found.kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
    return found


def settled(daemon: Daemon) -> Size:
    """The least of several looks while all is well: a scrape or a new child may be under way in one of them."""
    looks = []
    for _ in range(20):
        pause(0.2)
        if daemon.children():
            looks.append(size(daemon))
    return Size(min(s.descriptors for s in looks), min(s.threads for s in looks), min(s.kib for s in looks))


def faults(r: Rig, chance: random.Random) -> list[Callable[[], Callable[[], None]]]:
    """Each does something bad and returns what mends it."""

    def card(**bad: float) -> Callable[[], Callable[[], None]]:
        def begin() -> Callable[[], None]:
            index = chance.randrange(len(r.nvml.gpus))
            r.nvml.change(index, **bad)
            return lambda: r.nvml.change(index, **dict.fromkeys(bad, 0))

        return begin

    def child(number: int) -> Callable[[], Callable[[], None]]:
        def begin() -> Callable[[], None]:
            for pid in r.daemon.children():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            return lambda: None

        return begin

    def library() -> Callable[[], None]:
        r.nvml.library(error=UNKNOWN)
        return lambda: r.nvml.library(error=0)

    def mended() -> None:
        r.daemon.config_file.write_text(CONFIG)

    def reload() -> Callable[[], None]:
        r.daemon.config_file.write_text(CONFIG + chance.choice(["", "nonsense = 1\n", '[log]\nlevel = "info"\n']))
        r.daemon.send(signal.SIGHUP)
        return mended

    def paused() -> Callable[[], None]:
        r.daemon.send(signal.SIGUSR1)
        return lambda: r.daemon.send(signal.SIGUSR2)

    def stopped() -> Callable[[], None]:
        r.daemon.send(signal.SIGSTOP)
        return lambda: r.daemon.send(signal.SIGCONT)

    return [
        card(hang=3600.0),
        card(hang=3600.0),
        card(error=LOST),
        card(error=NO_PERMISSION),
        card(error=UNKNOWN),
        child(signal.SIGKILL),
        library,
        reload,
        paused,
        stopped,
    ]


@pytest.mark.accept("4.4", "a soak at 10 Hz under random faults: nothing grows, energy is the true one")
@pytest.mark.timeout(2400)
def test_nothing_grows_and_energy_is_right_after_half_an_hour_of_faults(
    tmp_path: Path, seconds: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    """Eight cards under steady loads, so that what is booked must be watts times what was not unmetered."""
    chance = random.Random(SEED)  # the same faults each time
    cards = [Gpu(profile=Constant(100.0 + 50 * n), counter=n % 4 != 3, counter_step=0.001) for n in range(7)]
    cards.append(Gpu(profile=Sine(350.0, 250.0, 1.7), counter_step=0.001))
    length = seconds(12.0, 1800.0)
    with rig(tmp_path, cards, CONFIG) as r:
        pause(seconds(3.0, 60.0))
        first, before = settled(r.daemon), r.moment()
        end, done = time.monotonic() + length, 0
        while time.monotonic() < end:
            mend = chance.choice(faults(r, chance))()
            pause(chance.uniform(0.1, LONGEST_FAULT))
            mend()
            pause(chance.uniform(0.5, LONGEST_FAULT))
            done += 1
        r.fresh(time.monotonic() + 0.2, deadline=120.0)
        pause(seconds(2.0, 60.0))
        after, last = r.moment(), settled(r.daemon)
        r.auditor.finish()
        errors = []
        for index in range(len(cards)):
            seen = change(before, after, r.uuid(index))
            steady = r.nvml.joules(index, seen.start, seen.end) * seen.covered / seen.seconds
            errors.append(seen.joules / steady - 1)
        unmetered = [change(before, after, r.uuid(n)).unmetered for n in range(len(cards))]
        lines = parsed(r.daemon.log)
        code, _ = r.daemon.stop()

    report(
        f"{done} faults in {length:.0f} s: worst {max(errors, key=abs):+.3%}, unmetered {min(unmetered):.0f} to "
        f"{max(unmetered):.0f} s; {first.kib} → {last.kib} KiB, fds {first.descriptors} → {last.descriptors}, "
        f"threads {first.threads} → {last.threads}; {r.auditor.scrapes} scrapes"
    )
    assert [] == r.auditor.wrongs
    assert 0 == code
    assert [] == texts(lines, "error") or all("configuration" in text for text in texts(lines, "error"))
    assert max(map(abs, errors)) <= 0.02  # a sine's mean over what was covered is not quite its mean over all
    assert last.descriptors <= first.descriptors + MORE_DESCRIPTORS
    # The driver's calls have as many threads as were ever made at once: a GPU's power, and who is on it.
    assert last.threads <= first.threads + MORE_THREADS + 2 * len(cards)
    assert last.kib <= first.kib + MORE_KIB
