"""NVIDIA cards: the source over a scripted binding, the binding over the compiled stand-in, and both in a child.

test ─▶ NvmlSource ─▶ Fake                                 who waits for whom, what is named, what is kept
test ─▶ a process ─▶ Nvml ─▶ pynvml ─▶ libnvidia-ml.so.1   units, types, errors
test ─▶ IsolatedSource ─▶ its child ─▶ all of the above
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin
from wattgram.clock import ManualClock, SystemClock
from wattgram.isolated import IsolatedSource
from wattgram.model import Device, Reading, Sample, State
from wattgram.ports import ReadFailed, Unavailable
from wattgram.sources.nvml import Options
from wattgram.sources.nvml.binding import NvmlFailed, Power
from wattgram.sources.nvml.ring import Ring
from wattgram.sources.nvml.source import NvmlSource

NO_PERMISSION, GPU_IS_LOST, RESET_REQUIRED, TIMEOUT, DEPRECATED = 4, 15, 16, 10, 26
EVERY = 0.5
DEADLINE = 30.0


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "did not come true in time"
        threading.Event().wait(0.005)


# --- the source over a scripted binding -----------------------------------------------------------


@dataclass
class Card:
    """One card of the script; the names of failing calls with their codes, and those that hang."""

    uuid: str
    microjoules: int | None = 5_000_000_000_000
    watts: float | None = 300.0
    serial: str = ""
    samples: tuple[tuple[int, float], ...] = ()
    handle: int = 1
    codes: dict[str, int] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class Fake:
    """A binding that does as it is told; handles are (index, number), stale when the number is an old one."""

    def __init__(self, *cards: Card, open_error: Unavailable | None = None) -> None:
        self.cards = list(cards)
        self.calls: list[tuple[str, int]] = []
        self.closed = False
        self._open_error = open_error

    def open(self) -> None:
        if self._open_error is not None:
            raise self._open_error

    def close(self) -> None:
        self.closed = True

    def driver(self) -> str:
        return "570.86.15"

    def count(self) -> int:
        return len(self.cards)

    def handle(self, index: int) -> tuple[int, int]:
        self._called("handle", index)
        return index, self.cards[index].handle

    def uuid(self, handle: tuple[int, int]) -> str:
        return self._card("uuid", handle).uuid

    def device(self, handle: tuple[int, int], index: int) -> Device:
        return Device("gpu", self._card("device", handle).uuid, index=str(index), pci_bus_id=f"0000:0{index}:00.0")

    def serial(self, handle: tuple[int, int]) -> str:
        return self._card("serial", handle).serial

    def power(self, handle: tuple[int, int]) -> Power:
        card = self._card("power", handle)
        return Power(card.microjoules, card.watts)

    def samples(self, handle: tuple[int, int], last: int) -> list[tuple[int, float]]:
        return [sample for sample in self._card("samples", handle).samples if sample[0] > last]

    def state(self, handle: tuple[int, int]) -> State:
        self._card("state", handle)
        return State(temperature_celsius=35.0)

    def count_of(self, call: str, index: int) -> int:
        return self.calls.count((call, index))

    def _card(self, call: str, handle: tuple[int, int]) -> Card:
        index, number = handle
        card = self._called(call, index)
        if number != card.handle:
            raise NvmlFailed(2, "Invalid Argument")
        return card

    def _called(self, call: str, index: int) -> Card:
        card = self.cards[index]
        self.calls.append((call, index))
        if call in card.hangs:
            card.entered.set()
            card.go_on.wait()
        if call in card.codes:
            raise NvmlFailed(card.codes[call], f"NVML error {card.codes[call]}")
        return card


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(mono=100.0, wall=1_800_000_000.0)


@pytest.fixture
def cards() -> Iterator[list[Card]]:
    """Two cards whose hanging calls return when the test is over."""
    made = [Card("GPU-a"), Card("GPU-b")]
    yield made
    for card in made:
        card.hangs.clear()
        card.go_on.set()


def opened(fake: Fake, clock: ManualClock, every: float = EVERY) -> NvmlSource:
    source = NvmlSource(fake, clock, every=every, state_every=5.0)
    source.open()
    return source


def ids(sample: Sample) -> tuple[list[str], list[str]]:
    """Who answered, and who is named as failed."""
    return [r.device.id for r in sample.readings], [f.device.id for f in sample.failed]


def test_every_card_is_read(cards: list[Card], clock: ManualClock) -> None:
    cards[1].microjoules, cards[1].watts = None, 75.5

    sample = opened(Fake(*cards), clock).read()

    assert (["GPU-a", "GPU-b"], []) == ids(sample)
    assert [5_000_000_000_000, None] == [r.counter and r.counter.microjoules for r in sample.readings]
    assert [300.0, 75.5] == [r.watts for r in sample.readings]
    assert [(clock.now(), "570.86.15")] * 2 == [(r.at, r.driver) for r in sample.readings]


def test_a_counter_that_falls_is_a_reset_never_a_wrap(cards: list[Card], clock: ManualClock) -> None:
    """64 bits of millijoules do not wrap."""
    reading = opened(Fake(*cards), clock).read().readings[0]

    assert reading.counter is not None
    assert reading.counter.wraps_at is None


def test_what_is_not_power_is_read_less_often(cards: list[Card], clock: ManualClock) -> None:
    """At once, and again after five seconds; in between the reading carries the last state."""
    fake = Fake(*cards)
    source = opened(fake, clock)
    for _ in range(6):
        reading = source.read().readings[0]
        clock.advance(1.0)

    assert State(temperature_celsius=35.0) == reading.state
    assert 2 == fake.count_of("state", 0)


def test_a_handle_is_asked_for_once(cards: list[Card], clock: ManualClock) -> None:
    """The look-up is what wakes a sleeping card."""
    fake = Fake(*cards)
    source = opened(fake, clock)
    for _ in range(5):
        source.read()

    assert [1, 1] == [fake.count_of("handle", index) for index in range(2)]


def test_a_card_that_may_not_be_opened_leaves_the_others(cards: list[Card], clock: ManualClock) -> None:
    """A container sees all cards in the count, and may open its own."""
    cards[0].codes["handle"] = NO_PERMISSION

    assert (["GPU-b"], ["gpu 0"]) == ids(opened(Fake(*cards), clock).read())


def test_a_card_that_may_be_opened_later_appears(cards: list[Card], clock: ManualClock) -> None:
    cards[0].codes["handle"] = NO_PERMISSION
    source = opened(Fake(*cards), clock)
    cards[0].codes.clear()

    assert (["GPU-a", "GPU-b"], []) == ids(source.read())


def test_a_host_without_a_card_says_what_would_help(clock: ManualClock) -> None:
    with pytest.raises(Unavailable, match="no GPU") as caught:
        opened(Fake(), clock)

    assert "NVIDIA_VISIBLE_DEVICES" in caught.value.remedy


def test_a_host_where_every_card_refuses_does_not_open(cards: list[Card], clock: ManualClock) -> None:
    for card in cards:
        card.codes["handle"] = NO_PERMISSION

    with pytest.raises(ReadFailed, match="NVML error 4"):
        opened(Fake(*cards), clock)


def test_closing_lets_go_of_the_driver(cards: list[Card], clock: ManualClock) -> None:
    fake = Fake(*cards)
    opened(fake, clock).close()

    assert fake.closed


# --- hanging --------------------------------------------------------------------------------------


def test_a_card_that_hangs_is_named_and_the_others_are_on_time(cards: list[Card], clock: ManualClock) -> None:
    """Half an interval is waited, no more."""
    source = opened(Fake(*cards), clock)
    cards[0].hangs.add("power")
    started = time.monotonic()

    sample = source.read()

    assert (["GPU-b"], ["GPU-a"]) == ids(sample)
    assert EVERY / 2 <= time.monotonic() - started < EVERY
    assert "no answer within 0.25 s" == sample.failed[0].reason


def test_when_all_answer_nobody_waits(cards: list[Card], clock: ManualClock) -> None:
    source = opened(Fake(*cards), clock, every=600.0)
    started = time.monotonic()
    source.read()

    assert time.monotonic() - started < 60.0


def test_a_hanging_card_is_not_asked_again_meanwhile(cards: list[Card], clock: ManualClock) -> None:
    """One thread, one call: they do not pile up in the driver."""
    fake = Fake(*cards)
    source = opened(fake, clock, every=0.1)
    cards[0].hangs.add("power")
    asked = fake.count_of("power", 0)
    source.read()
    before = threading.active_count()  # another goes on where one is held
    for _ in range(4):
        source.read()

    assert (before, 1) == (threading.active_count(), fake.count_of("power", 0) - asked)


def test_a_late_answer_is_dropped(cards: list[Card], clock: ManualClock) -> None:
    """It is of another time than the one that is asked about."""
    source = opened(Fake(*cards), clock)
    cards[0].hangs.add("power")
    source.read()
    late = clock.now()
    clock.advance(10.0)
    cards[0].hangs.clear()
    cards[0].go_on.set()

    sample = source.read()

    assert (["GPU-a", "GPU-b"], []) == ids(sample)
    assert late.mono + 10.0 == sample.readings[0].at.mono


def test_a_card_that_hangs_while_it_is_looked_up_delays_nobody_for_ever(cards: list[Card], clock: ManualClock) -> None:
    """It was never identified, so it is named by its place."""
    cards[0].hangs.add("handle")
    fake = Fake(*cards)
    source = NvmlSource(fake, clock, every=EVERY, state_every=5.0)
    opening = threading.Thread(target=source.open)
    opening.start()
    assert cards[0].entered.wait(DEADLINE)
    cards[0].codes["handle"] = TIMEOUT
    cards[0].hangs.clear()
    cards[0].go_on.set()
    opening.join(DEADLINE)

    assert (["GPU-b"], ["gpu 0"]) == ids(source.read())


def test_what_a_card_says_no_more_is_not_what_it_said_before(cards: list[Card], clock: ManualClock) -> None:
    """Utilisation and temperature of an hour ago, dated now, are frozen gauges."""
    source = opened(Fake(*cards), clock)
    said = source.read().readings[0].state
    cards[0].codes["state"] = GPU_IS_LOST
    clock.advance(6.0)

    assert said is not None
    assert None is source.read().readings[0].state


# --- a card more ----------------------------------------------------------------------------------


def test_a_card_that_the_kernel_has_bound_since_is_seen_by_a_new_process(
    cards: list[Card], clock: ManualClock, tmp_path: Path
) -> None:
    """NVML shows what was there when it was initialised. It is looked for now and then, and said once."""
    bound = tmp_path / "driver/nvidia/gpus"
    (bound / "0000:07:00.0").mkdir(parents=True)
    source = NvmlSource(Fake(*cards), clock, every=EVERY, state_every=5.0, procfs=tmp_path)
    source.open()
    (bound / "0000:08:00.0").mkdir()
    early = source.read()
    clock.advance(31.0)

    with pytest.raises(ReadFailed, match=r"0000:08:00\.0") as caught:
        source.read()

    assert ["GPU-a", "GPU-b"] == ids(early)[0]
    assert caught.value.fatal
    assert ["GPU-a", "GPU-b"] == ids(source.read())[0]


def test_a_card_that_went_is_no_reason_for_a_new_process(cards: list[Card], clock: ManualClock, tmp_path: Path) -> None:
    """It is lost, which NVML says itself; nor is a host that shows no such folder."""
    bound = tmp_path / "driver/nvidia/gpus"
    (bound / "0000:07:00.0").mkdir(parents=True)
    source = NvmlSource(Fake(*cards), clock, every=EVERY, state_every=5.0, procfs=tmp_path)
    source.open()
    (bound / "0000:07:00.0").rmdir()
    clock.advance(31.0)

    assert ["GPU-a", "GPU-b"] == ids(source.read())[0]


# --- the ring ----------------------------------------------------------------------------------------


def test_two_samples_with_a_hole_between_them_are_not_trusted_once_their_spacing_is_known() -> None:
    """Of two samples alone nobody can tell; a ring that was seen to step by 0.1 s has lost ten."""
    ring = Ring()
    steady = ring.trace([(round(1e6 + 1e5 * n), 300.0) for n in range(20)], mono=100.0)

    assert 20 == len(steady)
    assert () == ring.trace([(4_000_000, 300.0), (5_000_000, 300.0)], mono=102.0)
    assert 2 == len(ring.trace([(5_100_000, 300.0), (5_200_000, 300.0)], mono=102.3))


def test_a_ring_that_stands_still_is_not_of_now_whoever_asks_again() -> None:
    """A reading that nobody took lets the whole ring be asked for; what it showed before is not replayed as new."""
    ring = Ring()
    samples = [(round(1e6 + 1e5 * n), 600.0) for n in range(20)]
    first = ring.trace(samples, mono=100.0)
    ring.rewind()
    again = ring.trace(samples, mono=140.0)
    ring.rewind()
    once_more = ring.trace(samples, mono=141.0)
    went_on = ring.trace([*samples[1:], (3_000_000, 600.0)], mono=142.0)

    assert 20 == len(first)
    assert ((), ()) == (again, once_more)
    assert 20 == len(went_on)


def test_a_new_process_takes_no_ring_that_stands_still_for_the_present() -> None:
    """It looks twice before it believes that the newest sample is of now."""
    ring = Ring()
    samples = [(round(1e6 + 1e5 * n), 600.0) for n in range(20)]
    ring.calibrate(samples[-1][0])

    assert () == ring.trace(samples, mono=100.0)
    assert 21 == len(ring.trace([*samples, (3_000_000, 600.0)], mono=101.0))


# --- losing and returning -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [GPU_IS_LOST, RESET_REQUIRED])
def test_a_card_that_fell_off_the_bus_is_lost(cards: list[Card], clock: ManualClock, code: int) -> None:
    """Xid 79: only it; the event is what is counted."""
    source = opened(Fake(*cards), clock)
    cards[0].codes["power"] = code

    sample = source.read()

    assert (["GPU-b"], ["GPU-a"]) == ids(sample)
    assert "lost" == sample.failed[0].event


def test_any_other_refusal_is_no_loss(cards: list[Card], clock: ManualClock) -> None:
    source = opened(Fake(*cards), clock)
    cards[0].codes["power"] = TIMEOUT

    assert "" == source.read().failed[0].event


def test_a_lost_card_returns_by_a_new_handle(cards: list[Card], clock: ManualClock) -> None:
    """After a reset the old handle is worth nothing."""
    source = opened(Fake(*cards), clock)
    cards[0].codes["power"] = GPU_IS_LOST
    source.read()
    cards[0].codes.clear()
    cards[0].handle = 2

    assert (["GPU-a", "GPU-b"], []) == ids(source.read())


def test_a_stale_handle_is_replaced(cards: list[Card], clock: ManualClock) -> None:
    """INVALID_ARGUMENT: the first reading fails, the next has looked it up anew."""
    source = opened(Fake(*cards), clock)
    cards[0].handle = 2

    assert [["GPU-a"], []] == [ids(source.read())[1], ids(source.read())[1]]


def test_another_card_in_the_same_slot_is_refused(cards: list[Card], clock: ManualClock) -> None:
    """Its joules are not the old card's."""
    source = opened(Fake(*cards), clock)
    cards[0].codes["power"] = GPU_IS_LOST
    source.read()
    cards[0].codes.clear()
    cards[0].uuid, cards[0].handle = "GPU-c", 2

    sample = source.read()

    assert (["GPU-b"], ["GPU-a"]) == ids(sample)
    assert "GPU-c now stands where GPU-a was" == sample.failed[0].reason


def test_the_old_card_is_known_again_when_it_comes_back(cards: list[Card], clock: ManualClock) -> None:
    source = opened(Fake(*cards), clock)
    cards[0].codes["power"] = GPU_IS_LOST
    source.read()
    cards[0].codes.clear()
    cards[0].uuid, cards[0].handle = "GPU-c", 2
    source.read()
    cards[0].uuid = "GPU-a"

    assert (["GPU-a", "GPU-b"], []) == ids(source.read())


# --- what only a new process mends ----------------------------------------------------------------


@pytest.mark.parametrize("code", [9, 18, 999])
def test_a_driver_that_is_gone_asks_for_a_new_process(cards: list[Card], clock: ManualClock, code: int) -> None:
    source = opened(Fake(*cards), clock)
    for card in cards:
        card.codes["power"] = code

    with pytest.raises(ReadFailed, match=f"NVML error {code}") as caught:
        source.read()

    assert caught.value.fatal


def test_cards_that_all_refuse_for_other_reasons_do_not(cards: list[Card], clock: ManualClock) -> None:
    """They are named, and asked again."""
    source = opened(Fake(*cards), clock)
    for card in cards:
        card.codes["power"] = TIMEOUT

    assert ([], ["GPU-a", "GPU-b"]) == ids(source.read())


def test_an_unknown_error_of_one_card_leaves_the_others(cards: list[Card], clock: ManualClock) -> None:
    source = opened(Fake(*cards), clock)
    cards[0].codes["power"] = 999

    assert (["GPU-b"], ["GPU-a"]) == ids(source.read())


@pytest.mark.parametrize("code", [NO_PERMISSION, TIMEOUT, DEPRECATED, 17])
@pytest.mark.parametrize("call", ["state", "samples"])
def test_a_card_that_does_not_tell_everything_is_metered_all_the_same(
    cards: list[Card], clock: ManualClock, call: str, code: int
) -> None:
    """Optional facts: the power is known, and must not be thrown away with a temperature or an old sample."""
    cards[0].codes[call] = code
    cards[0].microjoules = None  # without a counter the samples are asked for too

    reading = next((r for r in opened(Fake(*cards), clock).read().readings if r.device.id == "GPU-a"), None)

    assert reading is not None
    assert 300.0 == reading.watts


# --- asleep ---------------------------------------------------------------------------------------


def sleeping(sysfs: Path, card: int, status: str) -> None:
    """What the kernel says of a card's power."""
    file = sysfs / f"bus/pci/devices/0000:0{card}:00.0/power/runtime_status"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{status}\n")


def test_a_card_that_sleeps_is_not_woken(cards: list[Card], clock: ManualClock, tmp_path: Path) -> None:
    """Any call would; it is named, its event counted, and the others are read."""
    fake = Fake(*cards)
    source = NvmlSource(fake, clock, every=EVERY, state_every=5.0, sysfs=tmp_path)
    source.open()
    sleeping(tmp_path, 0, "suspended")
    sleeping(tmp_path, 1, "active")
    before = len([call for call in fake.calls if call[1] == 0])

    sample = source.read()

    assert (["GPU-b"], ["GPU-a"]) == ids(sample)
    assert "suspended" == sample.failed[0].event
    assert before == len([call for call in fake.calls if call[1] == 0])


def test_a_card_that_woke_up_is_read_again(cards: list[Card], clock: ManualClock, tmp_path: Path) -> None:
    source = NvmlSource(Fake(*cards), clock, every=EVERY, state_every=5.0, sysfs=tmp_path)
    source.open()
    sleeping(tmp_path, 0, "suspended")
    source.read()
    sleeping(tmp_path, 0, "active")

    assert (["GPU-a", "GPU-b"], []) == ids(source.read())


# --- the binding over the compiled stand-in -------------------------------------------------------

# Answers each line, a Python expression about `nvml` and its handles, with one line of JSON.
PROGRAM = """
import sys
import msgspec
from wattgram.clock import SystemClock
from wattgram.ports import Unavailable, WattgramError
from wattgram.sources.nvml import Options, open_source
from wattgram.sources.nvml.binding import Nvml

nvml = Nvml()

def opened():
    nvml.open()
    return True

def handle(index=0):
    return nvml.handle(index)

for line in sys.stdin:
    try:
        answer = {"value": eval(line)}
    except WattgramError as e:
        answer = {"error": type(e).__name__, "text": str(e), "code": getattr(e, "code", None),
                  "fatal": getattr(e, "fatal", None), "remedy": getattr(e, "remedy", None)}
    print(msgspec.json.encode(answer).decode(), flush=True)
"""


class Process:
    """A process with the real binding over the stand-in."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, expression: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(DEADLINE, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(expression + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"no answer to {expression}: {self._process.communicate()[1]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def value(self, expression: str) -> Any:
        answer = self.ask(expression)
        assert "value" in answer, answer
        return answer["value"]


Stage = Callable[..., tuple[NvmlStandin, Process]]


def standin(directory: Path, *gpus: Gpu, **options: Any) -> NvmlStandin:
    """The driver, or a skip that says why; never a skip where the whole suite must run."""
    try:
        return NvmlStandin(directory, gpus, **options)
    except CompilerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Cards on a driver, and a process with an opened binding that sees them."""
    processes: list[Process] = []

    def play(*gpus: Gpu, is_open: bool = True, environment: dict[str, str] | None = None, **options: Any) -> Any:
        driver = standin(tmp_path, *gpus, **options)
        processes.append(Process({**driver.env, **(environment or {})}))
        if is_open:
            processes[-1].value("opened()")
        return driver, processes[-1]

    yield play
    for process in processes:
        process.close()


def test_the_counter_is_given_in_microjoules_and_not_cut_to_32_bits(stage: Stage) -> None:
    """5 000 000 000 mJ read as an unsigned int is 705 032 704."""
    _, process = stage(Gpu(profile=Constant(0.0), counter_start_mj=5_000_000_000))

    assert 5_000_000_000_000 == process.value("nvml.power(handle()).microjoules")


def test_the_counter_advances_by_what_was_drawn(stage: Stage) -> None:
    """The stand-in's own truth at two moments, to a step of its counter."""
    driver, process = stage(Gpu(profile=Constant(500.0), counter_step=0.001))
    before = time.monotonic()
    first = process.value("nvml.power(handle()).microjoules")
    until(lambda: time.monotonic() - before > 0.2)
    last = process.value("nvml.power(handle()).microjoules")
    after = time.monotonic()

    assert 0 < last - first <= driver.joules(0, before, after) * 1e6 + 500_000


def test_power_is_given_in_watts(stage: Stage) -> None:
    _, process = stage(Gpu(profile=Constant(123.456)))

    assert 123.456 == process.value("nvml.power(handle()).watts")


def test_a_power_of_nothing_is_not_known(stage: Stage) -> None:
    """NVML says 0 mW where it cannot tell."""
    _, process = stage(Gpu(profile=Constant(0.0)))

    assert process.value("nvml.power(handle()).watts") is None


def test_what_a_card_does_not_have_is_none(stage: Stage) -> None:
    """Before Volta no counter, on many laptops no power."""
    _, process = stage(Gpu(counter=False, power_supported=False))

    assert [None, None] == process.value("[nvml.power(handle()).microjoules, nvml.power(handle()).watts]")


@pytest.mark.parametrize(
    ("gpu", "events"),
    [
        (Gpu(), {"reset", "gap", "implausible", "lost", "stuck", "suspended", "paused"}),
        (Gpu(counter=False), {"gap", "implausible", "lost", "suspended", "paused"}),
    ],
)
def test_a_card_announces_the_events_that_its_meter_can_have(stage: Stage, gpu: Gpu, events: set[str]) -> None:
    _, process = stage(gpu)

    assert events == set(process.value("nvml.device(handle(), 0)")["events"])


def test_a_state_is_in_our_units(stage: Stage) -> None:
    """Ratios, bytes without what the driver reserves for itself, degrees, watts, seconds."""
    _, process = stage(
        Gpu(
            utilization_gpu=37,
            memory_total=81_559 << 20,
            memory_used=1_000 << 20,
            memory_reserved=512 << 20,
            temperature=61,
            limit_watts=650.0,
            throttle_base=5.0,
        )
    )

    assert {
        "utilization": 0.37,
        "memory_used_bytes": 1_000 << 20,
        "memory_total_bytes": 81_559 << 20,
        "temperature_celsius": 61.0,
        "power_limit_watts": 650.0,
        "throttled": [["power_cap", 5.0], ["thermal", 5.0], ["sync_boost", 5.0], ["board_limit", 5.0]],
    } == process.value("nvml.state(handle())")


def test_throttled_time_is_read_by_its_own_type(stage: Stage) -> None:
    """5 000 s are 5e12 ns: an unsigned int would show 0.9 s."""
    _, process = stage(Gpu(throttle_base=5_000.0))

    assert 5_000.0 == dict(process.value("nvml.state(handle())")["throttled"])["power_cap"]


def test_throttled_time_grows_for_its_reason_alone(stage: Stage) -> None:
    driver, process = stage(Gpu(throttle_power=1.0))
    until(lambda: time.monotonic() - driver.started > 0.1)

    throttled = dict(process.value("nvml.state(handle())")["throttled"])

    assert 0.05 < throttled["power_cap"] < time.monotonic() - driver.started + 1.0
    assert 0.0 == throttled["thermal"]


def test_a_card_is_identified(stage: Stage) -> None:
    """The address as the kernel writes it."""
    _, process = stage(Gpu(), Gpu(uuid="GPU-1234", name="NVIDIA L40S", bus_id="00000000:C1:00.0"))

    device = process.value("nvml.device(handle(1), 1)")

    assert ("gpu", "GPU-1234", "NVIDIA L40S", "1", "0000:c1:00.0", "board", "measured") == tuple(
        device[name] for name in ("component", "id", "name", "index", "pci_bus_id", "covers", "quality")
    )


@pytest.mark.parametrize("bus_id", ["00000000:07:00.0", "0001:07:00.0", "00010000:AF:1F.7"])
def test_an_address_keeps_the_last_four_digits_of_its_domain(stage: Stage, bus_id: str) -> None:
    _, process = stage(Gpu(bus_id=bus_id))

    expected = f"{bus_id.partition(':')[0][-4:]}:{bus_id.partition(':')[2]}".lower()
    assert expected == process.value("nvml.device(handle(), 0)")["pci_bus_id"]


@pytest.mark.parametrize(
    ("most", "default", "watts"),
    [
        pytest.param(700.0, 700.0, 1260.0, id="half again a fifth more than the default: 1.5 x 840"),
        pytest.param(1000.0, 700.0, 1500.0, id="half again the highest that may be set"),
        pytest.param(0.0, 70.0, 126.0, id="a card whose limit may not be set"),
    ],
)
def test_what_a_card_can_draw_at_most(stage: Stage, most: float, default: float, watts: float) -> None:
    """A step of its counter that implies more is a mistake."""
    _, process = stage(Gpu(max_limit_watts=most, default_limit_watts=default))

    assert watts == pytest.approx(process.value("nvml.device(handle(), 0)")["max_watts"])


def test_a_card_without_known_limits_has_a_ceiling_above_any_board(stage: Stage) -> None:
    """So that a glitch of its counter is still found out."""
    without = ("nvmlDeviceGetPowerManagementLimitConstraints", "nvmlDeviceGetPowerManagementDefaultLimit")
    _, process = stage(Gpu(), without=without)

    assert process.value("nvml.device(handle(), 0)")["max_watts"] >= 2900.0


def test_without_both_ways_to_a_fact_it_is_not_known(stage: Stage) -> None:
    without = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    _, process = stage(Gpu(), without=without)

    assert [None, None] == process.value("[nvml.power(handle()).microjoules, nvml.power(handle()).watts]")


@pytest.mark.parametrize(
    ("symbol", "expression", "expected"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "nvml.power(handle()).microjoules > 0", True),
        ("nvmlDeviceGetPowerUsage", "nvml.power(handle()).watts", 300.0),
        ("nvmlDeviceGetFieldValues", "nvml.power(handle()).microjoules > 0", True),
        ("nvmlDeviceGetFieldValues", "nvml.power(handle()).watts", 300.0),
        ("nvmlDeviceGetSamples", "nvml.samples(handle(), 0)", []),
        ("nvmlDeviceGetFieldValues", "nvml.state(handle()).throttled", []),
        ("nvmlDeviceGetUtilizationRates", "nvml.state(handle()).utilization", None),
        ("nvmlDeviceGetEnforcedPowerLimit", "nvml.state(handle()).power_limit_watts", None),
        ("nvmlDeviceGetMemoryInfo_v2", "nvml.state(handle()).memory_total_bytes", 81_559 << 20),
    ],
)
def test_an_old_driver_without_a_function_lacks_that_fact_alone(
    stage: Stage, symbol: str, expression: str, expected: object
) -> None:
    """FUNCTION_NOT_FOUND is an answer; memory falls back to the older call."""
    _, process = stage(Gpu(), without=(symbol,))

    assert expected == process.value(expression)
    assert process.value("nvml.device(handle(), 0)")["id"]


def test_a_new_driver_without_the_old_temperature_is_asked_by_the_new_name(stage: Stage) -> None:
    """`nvmlDeviceGetTemperature` is deprecated; `nvmlDeviceGetTemperatureV` is what remains."""
    _, process = stage(Gpu(temperature=61), without=("nvmlDeviceGetTemperature",))

    assert 61.0 == process.value("nvml.state(handle()).temperature_celsius")


@pytest.mark.parametrize(
    ("code", "is_fatal"), [(4, False), (9, True), (15, False), (16, False), (18, True), (999, True)]
)
def test_an_error_keeps_its_number(stage: Stage, code: int, is_fatal: bool) -> None:  # noqa: FBT001
    """After 9, 18 and 999 only a new process helps."""
    driver, process = stage(Gpu())
    driver.change(0, power_error=code)

    answer = process.ask("nvml.power(handle()).watts")

    assert ("NvmlFailed", code, is_fatal) == (answer["error"], answer["code"], answer["fatal"])
    assert str(code) in answer["text"]


@pytest.mark.parametrize(("code", "remedy"), [(9, "modprobe nvidia"), (18, "reboot"), (999, "nvidia-smi")])
def test_a_driver_that_does_not_start_says_what_would_help(stage: Stage, code: int, remedy: str) -> None:
    driver, process = stage(Gpu(), is_open=False)
    driver.library(init_error=code)

    answer = process.ask("opened()")

    assert "Unavailable" == answer["error"]
    assert remedy in answer["remedy"]


def test_a_host_without_the_library_says_what_would_help(tmp_path: Path) -> None:
    process = Process({"LD_LIBRARY_PATH": str(tmp_path)})
    try:
        answer = process.ask("opened()")
    finally:
        process.close()
    if "value" in answer:
        pytest.skip("needs a real host without a card: this one has its driver")

    assert "Unavailable" == answer["error"]
    assert "libnvidia-ml.so.1" in answer["text"]
    assert "NVIDIA_DRIVER_CAPABILITIES" in answer["remedy"]


def test_a_driver_without_cards_is_opened_all_the_same(stage: Stage) -> None:
    """A node may still be booting; the source says that there is no card."""
    _, process = stage()

    assert [0, "570.86.15"] == process.value("[nvml.count(), nvml.driver()]")
    assert "Unavailable" == process.ask("open_source(Options(), SystemClock(), 1.0)")["error"]


def test_the_view_of_an_mps_client_is_left(stage: Stage) -> None:
    """With this set, NVML shows no power."""
    _, process = stage(Gpu(), environment={"NVML_MPS_DEVICE_ENUMERATION": "1"})

    assert process.value("'NVML_MPS_DEVICE_ENUMERATION' in __import__('os').environ") is False


# --- and all of it in a child ---------------------------------------------------------------------

Isolated = Callable[..., tuple[NvmlStandin, IsolatedSource]]


@pytest.fixture
def isolated(tmp_path: Path) -> Iterator[Isolated]:
    """Cards on a driver, and the source as the daemon opens it."""
    sources: list[IsolatedSource] = []

    def play(*gpus: Gpu, every: float = EVERY, **options: Any) -> tuple[NvmlStandin, IsolatedSource]:
        driver = standin(tmp_path, *gpus, **options)
        environment = {**os.environ, **driver.env}
        plug, settings = "wattgram.sources.nvml", asdict(Options())
        sources.append(IsolatedSource(plug, settings, every, SystemClock(), environment))
        return driver, sources[-1]

    yield play
    for source in sources:
        source.close()


def read_until(source: IsolatedSource, true: Callable[[Sample], bool]) -> Sample:
    """The first sample of which it is true; what fails meanwhile is asked again."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        with contextlib.suppress(ReadFailed):
            if true(sample := source.read()):
                return sample
        threading.Event().wait(0.02)
    raise AssertionError("did not come true in time")


def test_a_child_reads_what_the_driver_says(isolated: Isolated) -> None:
    """The parent's clock and the child's are one: CLOCK_MONOTONIC."""
    _, source = isolated(Gpu(profile=Constant(300.0)), Gpu(profile=Constant(450.0)))
    before = time.monotonic()

    sample = source.read()

    assert [300.0, 450.0] == [r.watts for r in sample.readings]
    assert all(before <= r.at.mono <= time.monotonic() for r in sample.readings)
    assert all(r.counter is not None and r.counter.microjoules >= 5_000_000_000_000 for r in sample.readings)


def test_the_energy_between_two_readings_is_what_was_drawn(isolated: Isolated) -> None:
    """300 W over the very interval that the readings state, to one step of the counter either way."""
    _, source = isolated(Gpu(profile=Constant(300.0), counter_step=0.001))
    first = source.read().readings[0]
    last = read_until(source, lambda s: s.readings[0].at.mono - first.at.mono > 0.5).readings[0]

    seconds = last.at.mono - first.at.mono
    assert 300.0 * seconds == pytest.approx(joules(last) - joules(first), abs=300.0 * 0.02)


def joules(reading: Reading) -> float:
    assert reading.counter is not None
    return reading.counter.microjoules / 1e6


def test_a_hung_card_does_not_hold_the_others(isolated: Isolated) -> None:
    """It is named; when it lets go it is read again."""
    driver, source = isolated(Gpu(), Gpu())
    source.read()
    driver.change(1, hang=float("inf"))

    hung = read_until(source, lambda s: bool(s.failed))
    driver.change(1, hang=0.0)
    free = read_until(source, lambda s: len(s.readings) == 2)

    assert ([driver.gpus[0].uuid], [driver.gpus[1].uuid]) == ids(hung)
    assert ([gpu.uuid for gpu in driver.gpus], []) == ids(free)


def test_a_lost_card_is_named_and_returns(isolated: Isolated) -> None:
    driver, source = isolated(Gpu(), Gpu())
    source.read()
    driver.change(1, error=GPU_IS_LOST)

    lost = read_until(source, lambda s: bool(s.failed))
    driver.change(1, error=0)
    back = read_until(source, lambda s: not s.failed)

    assert ["lost"] == [f.event for f in lost.failed]
    assert 2 == len(back.readings)


def test_the_loss_of_the_only_card_is_counted(tmp_path: Path) -> None:
    """On a server with one card nothing is left to read, and the event must reach the books all the same."""
    driver = standin(tmp_path / "driver", Gpu())
    config = '[sampling]\ninterval = "100ms"\n[sources.rapl]\nenabled = false\n'
    with Daemon(tmp_path / "daemon", config, env=driver.env) as daemon:
        daemon.until(lambda m: m.value("wattgram_device_energy_joules_total", component="gpu") > 0)
        driver.change(0, error=GPU_IS_LOST)

        daemon.until(lambda m: m.value("wattgram_device_events_total", event="lost") == 1, deadline=10.0)


def test_a_driver_that_was_upgraded_underneath_gets_a_new_child(isolated: Isolated) -> None:
    """18 until the modules are loaded anew: a new process, and then readings again."""
    driver, source = isolated(Gpu())
    source.read()
    driver.library(error=18)
    with pytest.raises(ReadFailed) as caught:
        source.read()
    driver.library(error=0)

    sample = read_until(source, lambda s: bool(s.readings))

    assert caught.value.fatal
    assert 1 == len(sample.readings)


def test_a_host_without_a_card_is_said_to_be_one(isolated: Isolated) -> None:
    """Across the pipe: message and remedy."""
    _, source = isolated()

    with pytest.raises(Unavailable, match="no GPU") as caught:
        source.read()

    assert "NVIDIA_VISIBLE_DEVICES" in caught.value.remedy


def test_a_card_that_may_not_be_opened_leaves_the_others_in_a_child_too(isolated: Isolated) -> None:
    driver, source = isolated(Gpu(handle_error=NO_PERMISSION), Gpu())

    assert ([driver.gpus[1].uuid], ["gpu 0"]) == ids(source.read())
