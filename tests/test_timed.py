"""When a meter was read: a process that is stopped in the middle of a reading must not date it by guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from standin.sysfs import RaplTree, Zone
from wattgram.clock import ManualClock
from wattgram.model import Instant, Reading
from wattgram.ports import ReadFailed, Source
from wattgram.sources import hwmon, rapl
from wattgram.tools.timed import SHORT, timed

STOPPED = 5.0
JOULE = WATT = 1_000_000


class StoppedClock(ManualClock):
    """A clock of which each look but the first of a call may be late, as when the process was stopped before it."""

    def __init__(self, *lateness: float) -> None:
        super().__init__(mono=100.0, wall=1_800_000_000.0)
        self.lateness = list(lateness)
        self.happens: Callable[[], object] = lambda: None

    def now(self) -> Instant:
        """Return the moment after what there was to wait for; what `happens`, happened meanwhile."""
        if self.lateness and (late := self.lateness.pop(0)):
            self.advance(late)
            self.happens()
        return super().now()


def package(tmp_path: Path, clock: StoppedClock) -> Source:
    """A package that used 1 kJ before the stop and 2 kJ after it."""
    tree = RaplTree(tmp_path, [Zone("intel-rapl:0", "package-0", start=1_000 * JOULE)])
    clock.happens = lambda: tree.set_raw("intel-rapl:0", f"{2_000 * JOULE}\n")
    return rapl.open_source(rapl.Options(path=str(tree.sys), proc=str(tree.proc)), clock, 1.0)


def socket(tmp_path: Path, clock: StoppedClock) -> Source:
    """A socket that drew 1 kW before the stop and draws 2 kW after it."""
    folder = tmp_path / "class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("power_meter\n")
    (folder / "power1_oem_info").write_text("Grace Power Socket 0\n")
    (folder / "power1_average").write_text(f"{1_000 * WATT}\n")
    clock.happens = lambda: (folder / "power1_average").write_text(f"{2_000 * WATT}\n")
    return hwmon.open_source(hwmon.Options(path=str(tmp_path)), clock, 1.0)


def shown(reading: Reading) -> float | None:
    """What a meter says, in thousands."""
    return reading.watts if reading.counter is None else reading.counter.microjoules / JOULE


@pytest.mark.parametrize(("opened", "looks"), [(package, 2), (socket, 1)])
def test_a_reading_that_was_stopped_in_its_middle_is_made_again(
    tmp_path: Path, opened: Callable[[Path, StoppedClock], Source], looks: int
) -> None:
    """Dated by the middle it would be half the stop off: a counter's power would be twice what it was, or half."""
    clock = StoppedClock()
    source = opened(tmp_path, clock)
    clock.lateness = [*[0.0] * looks, STOPPED]

    (reading,) = source.read().readings

    assert (100.0 + STOPPED, 2_000.0) == (reading.at.mono, shown(reading))
    assert 1_800_000_000.0 + STOPPED == reading.at.wall


def test_a_meter_that_is_always_slow_is_dated_by_the_middle_of_the_shorter_call() -> None:
    """There is nothing better: it is metered all the same."""
    clock = StoppedClock(0.0, 4 * SHORT, 0.0, 2 * SHORT)

    value, at = timed(clock, iter("ab").__next__)

    assert ("b", True) == (value, pytest.approx(100.0 + 5 * SHORT) == at.mono)


@pytest.mark.parametrize(("lateness", "expected"), [((0.0, SHORT), 1), ((0.0, 1.1 * SHORT), 2)])
def test_a_short_call_is_made_once(lateness: tuple[float, ...], expected: int) -> None:
    """Every turn of every meter goes this way."""
    calls: list[None] = []

    timed(StoppedClock(*lateness), lambda: calls.append(None))

    assert expected == len(calls)


def test_a_second_call_that_fails_leaves_the_first() -> None:
    """A value of an uncertain moment is still a value."""

    def once() -> Iterator[str]:
        yield "first"
        raise ReadFailed("gone", "server")

    value, at = timed(StoppedClock(0.0, STOPPED), once().__next__)

    assert ("first", 100.0 + STOPPED / 2) == (value, at.mono)
