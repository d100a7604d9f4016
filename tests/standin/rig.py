"""A daemon over stand-in cards with an auditor beside it, and what a fault may and may not do to a device's books."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from standin.books import Auditor, Change, LogLine, Moment, about, change, moment, parsed, texts
from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin, Sine
from standin.sysfs import RaplTree
from standin.watching import devices, pause, wait

EVERY = 0.2
# What is unmetered ends with the turns around it, and a turn may come late on a busy machine.
TOLERANCE = 2 * EVERY + 0.1
# A counter that shows a millisecond's joules, read between two looks at the clock.
BRIDGED = 0.005
QUIET = 3.0

ONLY_NVML = f"""[sampling]
interval = "{EVERY * 1000:.0f}ms"
[sources.rapl]
enabled = false
[sources.hwmon]
enabled = false
[sources.nvml]
enabled = true
"""


def with_rapl(tree: RaplTree, more: str = "", nvml: str = "enabled = false") -> str:
    """A configuration that reads this tree."""
    return (
        f'[sampling]\ninterval = "{EVERY * 1000:.0f}ms"\n[sources.hwmon]\nenabled = false\n'
        f'[sources.rapl]\nenabled = true\npath = "{tree.sys}"\nproc = "{tree.proc}"\n[sources.nvml]\n{nvml}\n{more}'
    )


def with_counter(**more: Any) -> Gpu:
    """A card whose counter moves every millisecond, under a load that no line between two powers follows."""
    given: dict[str, Any] = {"profile": Sine(350.0, 250.0, 1.7), "counter_step": 0.001, **more}
    return Gpu(**given)


def with_power(**more: Any) -> Gpu:
    """A card of which only the power is known, which is constant: joules are watts times what was covered."""
    given: dict[str, Any] = {"profile": Constant(250.0), "counter": False, "samples_period": 0.0, **more}
    return Gpu(**given)


def with_ring(**more: Any) -> Gpu:
    """A card without a counter whose driver keeps 120 samples of a constant power."""
    given: dict[str, Any] = {"profile": Constant(250.0), "counter": False, **more}
    return Gpu(**given)


@dataclass
class Rig:
    """What a play has in its hands."""

    directory: Path
    daemon: Daemon
    nvml: NvmlStandin
    auditor: Auditor
    shift: float = 0.0

    def moment(self) -> Moment:
        """The books now."""
        return moment(self.daemon, self.shift)

    def quiet(self, seconds: float = QUIET) -> Moment:
        """The books after a while of which nothing is expected."""
        pause(seconds)
        return self.moment()

    def uuid(self, index: int) -> str:
        """A card's name in the books."""
        return self.nvml.gpus[index].uuid

    def fresh(self, since: float, *indices: int, deadline: float = 30.0) -> None:
        """Return once these cards, or all, were read after an instant."""
        wanted = [self.uuid(index) for index in indices or range(len(self.nvml.gpus))]

        def read() -> bool:
            now = self.moment()
            return all(uuid in now.devices and now.read_at(uuid) > since for uuid in wanted)

        wait(read, deadline)

    def outcome(self, before: Moment, after: Moment, start: float, end: float, **more: Any) -> Outcome:
        """What it all came to; the auditor has finished."""
        self.auditor.finish()
        log = self.daemon.log[before.logged : after.logged]
        return Outcome(self.nvml, before, after, start, end, log, list(self.auditor.silences), more)


@dataclass
class Outcome:
    """The books before and after a fault that lasted from `start` to `end`, and what was logged between."""

    nvml: NvmlStandin
    before: Moment
    after: Moment
    start: float
    end: float
    log: str
    silences: list[float]
    more: Mapping[str, Any] = field(default_factory=dict)

    def uuid(self, index: int) -> str:
        """A card's name in the books."""
        return self.nvml.gpus[index].uuid

    def change(self, index: int) -> Change:
        """What a card gained."""
        return change(self.before, self.after, self.uuid(index))

    @property
    def lines(self) -> list[LogLine]:
        """What was logged between the moments; every line of it must be a whole record."""
        return parsed(self.log)

    @property
    def lasted(self) -> float:
        """Seconds of the fault."""
        return self.end - self.start

    def told(self, *words: str) -> list[LogLine]:
        """The lines that mention any of the words."""
        return about(self.lines, *words)


@contextmanager
def rig(
    directory: Path,
    gpus: Sequence[Gpu],
    config: str = ONLY_NVML,
    *,
    env: Mapping[str, str] | None = None,
    expected: int | None = None,
    driver: Mapping[str, Any] | None = None,
    **daemon: Any,
) -> Iterator[Rig]:
    """A daemon over these cards that has shown `expected` of them, or all; skip where no stand-in can be built."""
    try:
        nvml = NvmlStandin(directory / "nvml", gpus, **(driver or {}))
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    with ExitStack() as stack:
        process = stack.enter_context(Daemon(directory, config, env={**nvml.env, **(env or {})}, **daemon))
        wait(lambda: len(devices(process)) >= (len(gpus) if expected is None else expected))
        auditor = stack.enter_context(Auditor(process))
        yield Rig(directory, process, nvml, auditor)


def change_all(nvml: NvmlStandin, **changes: Any) -> float:
    """Let something happen to every card; return when."""
    for index in range(len(nvml.gpus)):
        nvml.change(index, **changes)
    return time.monotonic()


# --- what is promised of a device -----------------------------------------------------------------


def assert_bridged(outcome: Outcome, index: int) -> float:
    """Assert that a counter told it all: nothing unmetered, energy as it truly was; return its relative error."""
    seen = outcome.change(index)
    error = seen.joules / outcome.nvml.joules(index, seen.start, seen.end) - 1
    assert 0.0 == seen.unmetered
    assert abs(error) <= BRIDGED, f"{seen.joules:.1f} J booked, off by {error:+.2%}"
    return error


def assert_gap(outcome: Outcome, index: int, seconds: float | None = None, tolerance: float = TOLERANCE) -> float:
    """Assert that so many seconds, the fault's if not given, are unmetered and all others metered; return them.

    The card's power must be constant: a joule too many, or too few, is seen at once.
    """
    seen = outcome.change(index)
    expected = outcome.lasted if seconds is None else seconds
    watts = outcome.nvml.watts(index, outcome.start)
    assert abs(seen.unmetered - expected) <= tolerance, f"{seen.unmetered:.2f} s unmetered, {expected:.2f} s expected"
    assert_powered(seen, watts)
    return seen.unmetered


def assert_powered(seen: Change, watts: float, tolerance: float = 0.01, late: float = 0.0) -> None:
    """Assert that exactly the covered time was booked, at this constant power; its meter may be `late` seconds."""
    found, expected = seen.joules, watts * seen.covered
    assert abs(found - expected) <= tolerance * expected + late * watts, (
        f"{found:.1f} J for {seen.covered:.2f} s at {watts:g} W"
    )


def assert_told(outcome: Outcome, index: int, reason: str = "") -> None:
    """Assert one line when a card stopped answering, one when it answers again, with its true figures, and no other."""
    uuid = outcome.uuid(index)
    told = outcome.told(uuid)
    assert ["warning", "info"] == [line.level for line in told], told
    assert told[0].text.startswith(f"nvml: {uuid} does not answer: {reason}"), told[0]
    again = re.fullmatch(rf"nvml: {uuid} answers again after (\d+) s, (\d+(?:\.\d)?) s of it not metered", told[1].text)
    assert again, told[1]
    seen = outcome.change(index)
    # An outage begins with the last good reading, and is told by whole seconds.
    assert abs(int(again[1]) - outcome.lasted) <= 1.0 + TOLERANCE, told[1]
    assert abs(float(again[2]) - seen.unmetered) <= (0.5 if again[2].isdigit() else 0.05) + EVERY, told[1]


def assert_replaced(outcome: Outcome) -> None:
    """Assert one warning that the reading process went, one line when its source is back, and nothing else of it."""
    told = outcome.told("nvml", "GPU-", "gpu ")
    warned = texts(told, "warning", "error")
    assert 1 == len(warned), told
    assert re.match("nvml: .*the reading process", warned[0]), warned
    assert [True] == [bool(re.fullmatch(r"nvml recovered after \d+ s", t)) for t in texts(told, "info")], told
