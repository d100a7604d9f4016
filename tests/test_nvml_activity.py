"""Who kept a GPU busy: one look after another over a scripted driver, the samples that drivers give, and all of it over
the compiled stand-in with real processes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standin.nvml import CompilerMissing, Gpu, Instance, Load, NvmlStandin
from wattgram.clock import ManualClock, SystemClock
from wattgram.isolated import IsolatedSource, record
from wattgram.model import Activity, Actor, Device, Part, Process, Sample, State
from wattgram.ports import ReadFailed
from wattgram.sources.nvml import Options
from wattgram.sources.nvml.activity import TICKS, Watch
from wattgram.sources.nvml.binding import NvmlFailed, Power
from wattgram.sources.nvml.mig import parts
from wattgram.sources.nvml.occupants import Busy, Slot
from wattgram.sources.nvml.people import Population
from wattgram.sources.nvml.source import NvmlSource
from wattgram.sources.nvml.usage import Usage
from wattgram.sources.nvml.watching import spacing

DEADLINE = 30.0
SERVER = "nvidia-cuda-mps"
UNKNOWN_ERROR, TIMEOUT, INVALID_ARGUMENT = 999, 10, 2


# --- a scripted driver, and the processes of a host -------------------------------------------------


@dataclass
class Script:
    """What the driver says; `refusals` by the name of the call, `busy` None: this card has no such samples."""

    compute_pids: list[int] = field(default_factory=list)
    mps_pids: list[int] = field(default_factory=list)
    graphics_pids: list[int] = field(default_factory=list)
    samples: list[Busy] | None = field(default_factory=list)
    rate: float | None = 0.5
    slots: tuple[Slot, ...] | None = None
    pids_by_handle: dict[Any, list[int]] = field(default_factory=dict)
    uuids: dict[Any, str] = field(default_factory=dict)
    has_gpm: bool = False
    active: dict[int, float] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    living: int = 0
    hangs: set[str] = field(default_factory=set)
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def compute(self, handle: Any) -> list[int] | None:
        self._called("compute")
        return self.pids_by_handle.get(handle, self.compute_pids)

    def mps(self, handle: Any) -> list[int] | None:
        self._called("mps")
        return self.mps_pids

    def graphics(self, handle: Any) -> list[int] | None:
        self._called("graphics")
        return self.graphics_pids

    def utilization(self, handle: Any) -> float | None:
        self._called("utilization")
        return self.rate

    def busy(self, handle: Any, last: int) -> list[Busy] | None:
        self._called("busy")
        return self.samples

    def uuid(self, handle: Any) -> str:
        self._called("uuid")
        return self.uuids.get(handle, f"MIG-{handle}")

    def instances(self, handle: Any) -> tuple[Slot, ...] | None:
        self._called("instances")
        return self.slots

    def can_sample(self, handle: Any) -> bool:
        return self.has_gpm

    def sample(self, handle: Any, gpu_instance: int) -> Any:
        self._called("sample")
        self.living += 1
        return gpu_instance

    def free(self, sample: Any) -> None:
        self.living -= 1

    def between(self, first: Any, second: Any) -> float | None:
        self._called("between")
        return self.active.get(second)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.hangs:
            self.entered.set()
            self.go_on.wait()
        if name in self.refusals:
            raise NvmlFailed(self.refusals[name], f"NVML error {self.refusals[name]}")


class Stage:
    """One GPU under a script, a tree of /proc, and a clock at 1000 s after boot."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.script = Script()
        self.clock = ManualClock(mono=1000.0, wall=1_800_000_000.0)
        self.watch = Watch(self.script, self.clock, proc, every=1.0)

    def born(self, pid: int, at: float = 1.0, name: str = "python", uid: int = 1000) -> Process:
        """A process that began so many seconds after boot."""
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        started = round(at * TICKS)
        (folder / "stat").write_text(f"{pid} ({name}) S " + "0 " * 18 + f"{started} 0 0\n")
        (folder / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t0\t0\t0\n")
        return Process(pid, started)

    def dead(self, pid: int) -> None:
        for file in ("stat", "status"):
            (self.proc / str(pid) / file).unlink()

    def look(self, seconds: float = 1.0) -> Activity | None:
        self.clock.advance(seconds)
        return self.watch.look("GPU-a", "gpu", self.clock.now())

    def seen(self, seconds: float = 1.0) -> Activity:
        activity = self.look(seconds)
        assert activity is not None
        return activity

    def actors(self, seconds: float = 1.0) -> dict[int, Actor]:
        return {a.process.pid: a for a in self.seen(seconds).actors if a.process}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "did not come true in time"
        threading.Event().wait(0.005)


# --- who is there ---------------------------------------------------------------------------------


def test_who_computes_and_who_draws_are_on_a_gpu_once_each(stage: Stage) -> None:
    """With their start, owner and name; the first look has nothing to compare with."""
    one, two = stage.born(10, name="train (v2)"), stage.born(11, at=2.0, uid=7)
    stage.script.compute_pids, stage.script.graphics_pids = [10, 0], [10, 11]

    first, second = stage.look(), stage.seen()

    assert first is None
    assert (
        Actor(one, weight=0.0, uid=1000, program="train (v2)"),
        Actor(two, weight=0.0, uid=7, program="python"),
    ) == second.actors
    assert ("gpu", "GPU-a", 1.0, 0.5, None, 0.0) == (
        second.component,
        second.device,
        second.every,
        second.utilization,
        second.idle,
        second.system,
    )
    assert (1001.0, 1002.0) == (second.start.mono, second.end.mono)


def test_one_that_proc_does_not_show_is_known_by_its_pid_alone(stage: Stage) -> None:
    """A container without the host's processes."""
    stage.script.compute_pids = [10]
    stage.look()

    assert (Actor(Process(10, 0), weight=0.0),) == stage.seen().actors


def test_one_that_went_was_there_for_half_of_the_time(stage: Stage) -> None:
    """And is forgotten then."""
    stage.born(10)
    stage.script.compute_pids = [10]
    stage.look()
    stage.script.compute_pids = []
    stage.dead(10)

    assert (0.5, "python") == ((gone := stage.actors()[10]).present, gone.program)
    assert {} == stage.actors()


def test_one_that_began_meanwhile_was_there_since(stage: Stage) -> None:
    stage.look()
    stage.born(10, at=1001.75)
    stage.born(11, at=900.0)
    stage.script.compute_pids = [10, 11]

    found = stage.actors()

    assert {10: pytest.approx(0.25), 11: 1.0} == {pid: actor.present for pid, actor in found.items()}
    assert [1.0, 1.0] == [actor.present for actor in stage.actors().values()]


def test_the_sleep_of_a_machine_is_no_age(stage: Stage) -> None:
    """Starts count from boot, sleep included; our clock does not count it."""
    stage.clock.sleep(500.0)
    stage.look()
    stage.born(10, at=1501.5)
    stage.script.compute_pids = [10]

    assert pytest.approx(0.5) == stage.actors()[10].present


def test_a_pid_that_began_anew_is_another_process(stage: Stage) -> None:
    """The two share what is known of their pid as they were there."""
    old = stage.born(10)
    stage.script.compute_pids = [10]
    stage.look()
    new = stage.born(10, at=1001.5)
    stage.script.samples = [Busy(10, 2_000_000, 60)]
    stage.watch._usage._begun = True

    found = {actor.process: (actor.present, actor.weight) for actor in stage.seen().actors}

    assert {old: (0.5, 30.0), new: (0.5, 30.0)} == found


def test_one_that_ends_while_it_is_asked_about_is_who_it_was(stage: Stage) -> None:
    process = stage.born(10)
    stage.script.compute_pids = [10]
    stage.look()
    stage.dead(10)

    assert (Actor(process, weight=0.0, uid=1000, program="python"),) == stage.seen().actors


def test_one_that_is_identified_late_is_not_two(stage: Stage) -> None:
    stage.script.compute_pids = [10]
    stage.look()
    process = stage.born(10)

    assert [process] == [actor.process for actor in stage.seen().actors]


def test_the_mps_server_is_not_on_the_gpu_while_it_has_clients(stage: Stage) -> None:
    """The kernel keeps 15 characters of its name; alone it is as any other."""
    stage.born(10, name=SERVER)
    stage.born(11)
    stage.script.compute_pids = [10]
    stage.look()
    alone = stage.actors()
    stage.script.mps_pids = [11]
    with_client = stage.actors()
    stage.script.mps_pids = []

    assert {10} == set(alone)
    assert {11: 1.0} == {pid: actor.present for pid, actor in with_client.items()}
    assert {11: 0.5} == {pid: actor.present for pid, actor in stage.actors().items()}


def test_what_counts_as_the_mps_servers_is_its_clients_and_nobody_knows_whose(stage: Stage) -> None:
    """Nor is the server somebody who came and went; once clients are told apart, they are."""
    stage.born(10, name=SERVER)
    stage.born(11)
    stage.script.compute_pids, stage.script.mps_pids = [10], [11, 12]
    stage.look()
    stage.script.samples = [Busy(10, 2_000_000, 90)]
    untold = stage.actors()
    stage.script.samples = [Busy(10, 3_000_000, 90), Busy(11, 3_000_000, 5)]

    assert {11: None, 12: None} == {pid: actor.weight for pid, actor in untold.items()}
    assert {11: 5.0, 12: 0.0} == {pid: actor.weight for pid, actor in stage.actors().items()}


def test_who_draws_is_asked_for_now_and_then(stage: Stage) -> None:
    """It is slow; who ended in between is gone all the same."""
    stage.born(10)
    stage.born(11)
    stage.script.graphics_pids = [10, 11]
    stage.look()
    stage.dead(10)
    found = [set(stage.actors()) for _ in range(8)]

    assert [{10, 11}, *[{11}] * 7] == found
    assert 1 == stage.script.calls.count("graphics")
    stage.look()
    stage.look()
    assert 2 == stage.script.calls.count("graphics")


@pytest.mark.parametrize("call", ["graphics", "utilization", "busy"])
def test_what_is_refused_beside_the_list_is_not_known(stage: Stage, call: str) -> None:
    stage.born(10)
    stage.script.compute_pids = [10]
    stage.script.refusals[call] = UNKNOWN_ERROR
    stage.look()

    seen = stage.seen()

    assert [10] == [a.process.pid for a in seen.actors if a.process]
    assert (call == "busy") == (seen.actors[0].weight is None)
    assert (call == "utilization") == (seen.utilization is None)


def test_a_gpu_that_refuses_its_list_says_nothing(stage: Stage) -> None:
    """And what is seen next is of the time since it was asked: whoever went before is not in it."""
    stage.born(10)
    stage.script.compute_pids = [10]
    stage.look()
    stage.script.refusals["compute"] = TIMEOUT
    refused = stage.look()
    stage.script.refusals.clear()
    stage.script.compute_pids = []

    assert refused is None
    assert (1002.0, 1003.0, ()) == ((seen := stage.seen()).start.mono, seen.end.mono, seen.actors)


def test_after_a_long_silence_it_begins_anew(stage: Stage) -> None:
    """A card that slept for an hour: who was there before is not who was there."""
    stage.look()

    assert None is stage.look(3600.0)
    assert None is not stage.look()


def test_the_name_of_a_program_is_fit_to_be_shown(stage: Stage) -> None:
    stage.born(10, name="a\x1b[31m)b" + "x" * 100)

    who = Population(stage.proc).person(10)

    assert who is not None
    assert ("a?[31m)b" + "x" * 100)[:64] == who.program


@pytest.mark.parametrize("content", ["", "10 (x) S 1 2", "10 (x) " + "a " * 30, "nonsense"])
def test_a_file_that_says_nothing_is_nobody(stage: Stage, content: str) -> None:
    stage.born(10)
    (stage.proc / "10" / "stat").write_text(content)

    assert None is Population(stage.proc).person(10)


# --- how busy each was ----------------------------------------------------------------------------


def weights(*answers: list[Busy] | None, known: tuple[int, ...] = (10, 11)) -> Any:
    """What is known after the last of several answers, a second apart; the first is that of the first look."""
    usage, found = Usage(), None
    for second, answer in enumerate(answers):
        found = usage.weights(answer, known.__contains__, 1000.0 + second, is_busy=True)
    return found


OLD = Busy(10, 1_000_000, 99)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param(([OLD],), None, id="the first reaches back further"),
        pytest.param(([OLD], None), None, id="no such samples"),
        pytest.param(([OLD], []), {}, id="nobody was busy"),
        pytest.param(([], [Busy(10, 2_000_000, 50)]), {10: 50.0}, id="nobody, and then somebody"),
        pytest.param(([OLD], [Busy(10, 2_000_000, 5, 40, 7)]), {10: 40.0}, id="the busiest engine counts"),
        pytest.param(([OLD], [Busy(10, 1_000_000, 50)]), {}, id="not newer"),
        pytest.param(
            ([OLD], [Busy(10, 2_000_000, 101), Busy(10, 2_000_000, 1, 3_000_000_000)]), {}, id="more than all"
        ),
        pytest.param(([OLD], [Busy(12, 2_000_000, 50), Busy(0, 2_000_000, 50)]), {}, id="of nobody who is there"),
        pytest.param(([OLD], [Busy(10, 1 << 63, 50)]), {}, id="of the future"),
        pytest.param(
            ([OLD], [Busy(10, 1_250_000, 60), Busy(10, 1_500_000, 20), Busy(11, 1_500_000, 80)]),
            {10: 40.0, 11: 40.0},
            id="the mean by time",
        ),
        pytest.param(
            ([OLD], [Busy(10, 1_100_000, 60), Busy(10, 1_500_000, 10)]), {10: 20.0}, id="longer periods weigh more"
        ),
        pytest.param(
            ([OLD], [Busy(10, 1_500_000, 60), Busy(11, 1_500_090, 30)]), {10: 60.0, 11: 30.0}, id="of one round"
        ),
        pytest.param(([OLD], [Busy(10, 2_000_000, 50)], []), {10: 50.0}, id="between two rounds as before"),
        pytest.param(([OLD], [Busy(10, 2_000_000, 50)], [], []), {}, id="for longer nobody is busy"),
        pytest.param(
            ([], [Busy(10, 60_000_000, 60), Busy(11, 60_200_000, 60)]), {10: 30.0, 11: 30.0}, id="after a silence"
        ),
    ],
)
def test_how_busy_each_process_was(answers: tuple[list[Busy] | None, ...], expected: dict[int, float] | None) -> None:
    assert (expected if expected is None else pytest.approx(expected)) == weights(*answers)


def test_a_sample_counts_once() -> None:
    """The newest that was taken is where the next begins."""
    usage = Usage()
    for second, at in enumerate((1_000_000, 2_000_000)):
        usage.weights([Busy(10, at, 50)], {10}.__contains__, 1000.0 + second, is_busy=True)

    assert 2_000_000 == usage.last


def test_a_driver_whose_clock_was_set_is_heard_again() -> None:
    """Backwards by an hour: nothing would be newer for an hour."""
    usage = Usage()
    for second in range(10):
        at = round(3.6e9) if second < 2 else 0
        samples = [Busy(10, at + second * 1_000_000, 50)]
        answer = [s for s in samples if s.at > usage.last]
        found = usage.weights(answer, {10}.__contains__, 1000.0 + second, is_busy=True)

    assert {10: 50.0} == found


def test_a_process_that_was_busy_is_weighed_and_the_others_were_not(stage: Stage) -> None:
    stage.born(10)
    stage.born(11)
    stage.script.compute_pids = [10, 11]
    stage.look()
    stage.script.samples = [Busy(10, 2_000_000, 60)]

    assert {10: 60.0, 11: 0.0} == {pid: actor.weight for pid, actor in stage.actors().items()}


def test_without_samples_nobody_knows_how_busy_each_was(stage: Stage) -> None:
    stage.born(10)
    stage.script.compute_pids, stage.script.samples = [10], None
    stage.look()

    assert {10: None} == {pid: actor.weight for pid, actor in stage.actors().items()}


def test_one_that_came_and_went_unlisted_counts_if_it_can_be_identified(stage: Stage) -> None:
    """It is alive still, or nobody knows who it was."""
    process = stage.born(12)
    stage.look()
    stage.script.samples = [Busy(12, 2_000_000, 60), Busy(13, 2_000_000, 30)]

    assert (Actor(process, weight=60.0, present=0.5, uid=1000, program="python"),) == stage.seen().actors


def test_one_that_has_just_ended_was_as_busy_as_it_was(stage: Stage) -> None:
    stage.born(10)
    stage.script.compute_pids = [10]
    stage.look()
    stage.script.compute_pids, stage.script.samples = [], [Busy(10, 2_000_000, 60)]
    stage.dead(10)

    assert (60.0, 0.5) == ((actor := stage.actors()[10]).weight, actor.present)


PIDS = st.integers(0, 6)
SAMPLES = st.none() | st.lists(
    st.builds(
        Busy,
        PIDS,
        st.integers(0, 20_000_000) | st.just(1 << 63),
        st.integers(0, 120) | st.just(3_000_000_000),
        st.integers(0, 120),
        st.integers(0, 120),
    ),
    max_size=8,
)
LOOKS = st.lists(
    st.tuples(st.lists(PIDS, max_size=5), st.lists(PIDS, max_size=2), SAMPLES, st.floats(0.01, 80.0), st.sets(PIDS)),
    min_size=2,
    max_size=6,
)


@settings(max_examples=30, deadline=None)
@given(LOOKS)
def test_whatever_a_driver_says_nobody_unknown_is_named_and_no_figure_is_none(
    tmp_path_factory: pytest.TempPathFactory,
    looks: list[tuple[list[int], list[int], list[Busy] | None, float, set[int]]],
) -> None:
    """Weights from 0 to all, presence from 0 to 1, each process once, and only those listed, or that /proc knows."""
    stage = Stage(tmp_path_factory.mktemp("proc"))
    before: set[int] = set()
    for compute, mps, samples, seconds, alive in looks:
        for pid in range(1, 7):
            if pid in alive:
                stage.born(pid, at=max(0.0, stage.clock.now().mono - 5.0 * pid))
            elif (stage.proc / str(pid) / "stat").exists():
                stage.dead(pid)
        stage.script.compute_pids, stage.script.mps_pids, stage.script.samples = compute, mps, samples
        activity = stage.look(seconds)
        for actor in activity.actors if activity else ():
            assert actor.process is not None
            assert actor.weight is None or 0 <= actor.weight <= 100
            assert 0 <= actor.present <= 1
            assert actor.process.pid in {*compute, *mps, *before, *alive} - {0}
        keys = [actor.process for actor in activity.actors] if activity else []
        assert len(set(keys)) == len(keys)
        before = {*compute, *mps}


# --- divided cards --------------------------------------------------------------------------------

BIG, SMALL = Slot("big", "MIG-big", 1, 64), Slot("small", "MIG-small", 2, 16)


def divided(stage: Stage, *slots: Slot) -> None:
    stage.script.slots = slots
    stage.script.pids_by_handle = {slot.handle: [] for slot in slots}


def test_an_instance_weighs_its_size_if_somebody_is_in_it(stage: Stage) -> None:
    """Nothing is known of how busy they are; those in it know where they are."""
    divided(stage, BIG, SMALL)
    stage.born(10)
    stage.script.pids_by_handle["small"] = [10]
    stage.look()

    seen = stage.seen()

    assert (Part("MIG-big", 0.0), Part("MIG-small", 16.0)) == seen.parts
    assert [("MIG-small", None, 1.0)] == [(a.part, a.weight, a.present) for a in seen.actors]
    assert None is seen.utilization
    assert "busy" not in stage.script.calls


def test_an_instance_weighs_its_size_times_its_activity_where_that_is_known(stage: Stage) -> None:
    """Between the samples of two looks, each freed."""
    divided(stage, BIG, SMALL)
    stage.script.has_gpm, stage.script.active = True, {1: 0.25, 2: 0.5}
    stage.born(10)
    stage.script.pids_by_handle["small"] = [10]
    stage.look()
    seen = [stage.seen().parts for _ in range(5)]

    assert [(Part("MIG-big", 16.0), Part("MIG-small", 8.0))] * 5 == seen
    assert 2 == stage.script.living
    stage.watch.forget()
    assert 0 == stage.script.living


def test_without_the_activity_of_one_that_is_occupied_sizes_count(stage: Stage) -> None:
    """A ninth of one and the whole of the other would be no comparison."""
    divided(stage, BIG, SMALL)
    stage.script.has_gpm, stage.script.active = True, {1: 0.25}
    stage.born(10)
    stage.script.pids_by_handle |= {"small": [10], "big": [10]}
    stage.look()

    assert (Part("MIG-big", 64.0), Part("MIG-small", 16.0)) == stage.seen().parts


def test_of_two_in_one_gpu_instance_the_occupied_has_its_activity() -> None:
    pair = (Slot("a", "A", 1, 32), Slot("b", "B", 1, 32))

    assert (Part("A", 16.0), Part("B", 0.0)) == parts(pair, {"A"}, {1: 0.5})
    assert (Part("A", 16.0), Part("B", 16.0)) == parts(pair, set(), {1: 0.5})


def test_a_handle_that_is_stale_has_the_layout_looked_for(stage: Stage) -> None:
    """It leads to another instance, or nowhere; who was in one that is gone is no more."""
    divided(stage, BIG, SMALL)
    stage.born(10)
    stage.script.pids_by_handle["small"] = [10]
    stage.look()
    stage.script.slots = (BIG,)
    stage.script.uuids["small"] = "MIG-other"

    seen = stage.seen()

    assert (Part("MIG-big", 0.0),) == seen.parts
    assert () == seen.actors


def test_a_layout_is_looked_for_every_two_seconds(stage: Stage) -> None:
    """Until it is found, the work of a new instance is taken for that of its neighbours."""
    divided(stage, BIG)
    for _ in range(40):
        stage.look()

    assert 20 == stage.script.calls.count("instances")


# --- beside the readings --------------------------------------------------------------------------


class Card:
    """A binding of one card that always answers."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def driver(self) -> str:
        return "570"

    def count(self) -> int:
        return 1

    def handle(self, index: int) -> Any:
        return "gpu"

    def uuid(self, handle: Any) -> str:
        return "GPU-a"

    def device(self, handle: Any, index: int) -> Device:
        return Device("gpu", "GPU-a", index="0", pci_bus_id="0000:00:00.0")

    def serial(self, handle: Any) -> str:
        return ""

    def power(self, handle: Any) -> Power:
        return Power(1_000_000, 300.0)

    def samples(self, handle: Any, last: int) -> list[tuple[int, float]]:
        return []

    def state(self, handle: Any) -> State:
        return State()


@pytest.fixture
def source(stage: Stage) -> Iterator[NvmlSource]:
    made = NvmlSource(
        Card(), stage.clock, every=1.0, state_every=5.0, watch=lambda _: stage.watch, procfs=stage.proc / "none"
    )
    made.open()
    yield made
    stage.script.hangs.clear()
    stage.script.go_on.set()


def test_an_activity_ends_when_the_power_was_read_and_comes_with_it(stage: Stage, source: NvmlSource) -> None:
    stage.born(10)
    stage.script.compute_pids = [10]
    stage.clock.advance(1.0)
    sample = source.read()

    (activity,) = sample.activities
    assert sample.readings[0].at == activity.end
    assert [10] == [a.process.pid for a in activity.actors if a.process]


def test_a_look_that_hangs_costs_no_reading(stage: Stage, source: NvmlSource) -> None:
    """A moment once, and then nothing: the readings go on, and what it saw comes when it returns."""
    stage.script.hangs.add("compute")
    slow = []
    for _ in range(3):
        stage.clock.advance(1.0)
        began = time.monotonic()
        assert [300.0] == [reading.watts for reading in source.read().readings]
        slow.append(time.monotonic() - began > 0.15)
    assert stage.script.entered.is_set()
    stage.script.hangs.clear()
    stage.script.go_on.set()
    late: list[Activity] = []

    def has_come() -> bool:
        late.extend(source.read().activities)
        return bool(late)

    until(has_come)
    assert [True, False, False] == slow
    assert 1001.0 == late[0].end.mono


def test_what_a_look_saw_long_ago_is_no_news(stage: Stage, source: NvmlSource) -> None:
    """A call that came back after two hours."""
    stage.script.hangs.add("compute")
    stage.clock.advance(1.0)
    source.read()
    assert stage.script.entered.is_set()
    stage.clock.advance(7200.0)
    stage.script.hangs.clear()
    stage.script.go_on.set()
    watching = source._gpus[0].watching
    until(lambda: watching is not None and watching._job is None)

    assert [(), ()] == [source.read().activities for _ in range(2)]


def test_a_look_that_is_refused_costs_no_reading(stage: Stage, source: NvmlSource) -> None:
    stage.script.refusals["compute"] = UNKNOWN_ERROR
    stage.clock.advance(1.0)

    assert (1, ()) == (len((sample := source.read()).readings), sample.activities)


@pytest.mark.parametrize(
    ("every", "asked", "expected"),
    [(1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (5.0, 1.0, 5.0), (0.4, 1.0, 1.2), (1.0, 10.0, 10.0), (0.33, 1.0, 0.99)],
)
def test_looks_come_with_readings_and_never_more_often(every: float, asked: float, expected: float) -> None:
    assert expected == pytest.approx(spacing(every, asked))


def test_looks_are_as_far_apart_as_asked(stage: Stage) -> None:
    source = NvmlSource(
        Card(), stage.clock, every=0.5, state_every=5.0, activity_every=2.0, watch=lambda _: stage.watch
    )
    source.open()
    found: list[Activity] = []
    for _ in range(12):
        stage.clock.advance(0.5)
        found += source.read().activities

    assert [2.0] * 3 == [a.end.mono - a.start.mono for a in found]


# --- over the compiled stand-in, with real processes ------------------------------------------------


@pytest.fixture
def isolated(tmp_path: Path) -> Iterator[Callable[..., tuple[NvmlStandin, IsolatedSource]]]:
    """Cards on a driver, and the source as the daemon opens it, each fifth of a second."""
    sources: list[IsolatedSource] = []

    def play(*gpus: Gpu, **options: Any) -> tuple[NvmlStandin, IsolatedSource]:
        try:
            driver = NvmlStandin(tmp_path, gpus, **options)
        except CompilerMissing as missing:
            pytest.skip(str(missing))
        settings = {**asdict(Options()), "activity_every": 0.2}
        source = IsolatedSource("wattgram.sources.nvml", settings, 0.2, SystemClock(), {**os.environ, **driver.env})
        sources.append(source)
        return driver, source

    yield play
    for source in sources:
        source.close()


def looked(source: IsolatedSource, true: Callable[[Activity], bool], device: int = 0) -> Activity:
    """The first activity of a card of which it is true."""
    found: list[Activity] = []

    def is_found() -> bool:
        try:
            sample: Sample = source.read()
        except ReadFailed:
            return False
        found.extend(a for a in sample.activities if a.device.endswith(f"{device:012x}") and true(a))
        return bool(found)

    until(is_found)
    return found[0]


def pids(activity: Activity) -> set[int]:
    return {actor.process.pid for actor in activity.actors if actor.process}


def test_real_processes_come_and_go(isolated: Callable[..., tuple[NvmlStandin, IsolatedSource]]) -> None:
    """By their pid, start, owner and name, each with its part of the time that the card was busy."""
    driver, source = isolated(Gpu(profile=Load(70.0), util_period=0.05), Gpu(util_garbage=True))
    with driver.running("0:200:60", "1:10:20", options=("--name", "train")) as one, driver.running("0:100:30") as two:
        both = looked(source, lambda a: len(pids(a)) == 2 and all(x.weight for x in a.actors))
        other = looked(source, lambda a: bool(a.actors) and bool(a.actors[0].weight), device=1)
        two.kill()
        looked(source, lambda a: pids(a) == {one.pid})
    gone = looked(source, lambda a: not a.actors)

    assert {one.pid, two.pid} == pids(both)
    actor = next(a for a in both.actors if a.process and a.process.pid == one.pid)
    assert ("train", os.getuid()) == (actor.program, actor.uid)
    assert both.utilization is not None
    assert {one.pid} == pids(other)
    assert all(a.weight is not None and 0 <= a.weight <= 100 for a in (*both.actors, *other.actors))
    assert 0.2 == gone.every


def test_an_old_driver_is_asked_by_its_older_calls(isolated: Callable[..., tuple[NvmlStandin, IsolatedSource]]) -> None:
    """And again where a list grew between the question for its size and the one for itself."""
    without = [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics", "MPSCompute")]
    gpu = Gpu(util_insufficient=2, util_period=0.02)
    driver, source = isolated(gpu, without=[*without, "nvmlDeviceGetProcessesUtilizationInfo"])
    driver.put("0:1:40", 4_000_001, start=driver.started)
    driver.put("0:1:30:1:mps", 4_000_002, start=driver.started)

    seen = looked(source, lambda a: any(actor.weight for actor in a.actors))

    assert [(4_000_001, 40.0), (4_000_002, 30.0)] == [(a.process.pid, a.weight) for a in seen.actors if a.process]


@pytest.mark.parametrize(
    ("fault", "weight"),
    [
        ({"util_success_if_nobody": True}, 0.0),
        ({}, 0.0),
        ({"util_supported": False}, None),
        ({"util_error": 999}, None),
    ],
)
def test_who_is_idle_and_who_cannot_be_judged(
    isolated: Callable[..., tuple[NvmlStandin, IsolatedSource]], fault: dict[str, Any], weight: float | None
) -> None:
    """Some drivers raise "Success" for nobody."""
    _, source = isolated(Gpu(compute=((os.getpid(), 1),), **fault))

    seen = looked(source, lambda a: bool(a.actors))

    assert [(os.getpid(), weight)] == [(a.process.pid, a.weight) for a in seen.actors if a.process]


def test_a_divided_card_is_told_by_its_instances(isolated: Callable[..., tuple[NvmlStandin, IsolatedSource]]) -> None:
    """GPM says how active each was; a layout that changes is followed."""
    instances = (Instance(sms=32), None, Instance(sms=16))
    driver, source = isolated(Gpu(mig=instances))
    driver.put("0.2:100:50", os.getpid(), start=driver.started)
    first, last = (i.uuid for i in driver.gpus[0].mig or () if i)

    seen = looked(source, lambda a: bool(a.parts) and a.parts[1].weight == 8.0)
    driver.change(0, mig=instances[:1])
    less = looked(source, lambda a: len(a.parts) == 1)

    assert (Part(first, 0.0), Part(last, 8.0)) == seen.parts
    assert [(os.getpid(), last, None)] == [(a.process.pid, a.part, a.weight) for a in seen.actors if a.process]
    assert (Part(first, 0.0),) == less.parts


def test_processes_of_another_namespace_leave_a_busy_card_without_anybody(
    isolated: Callable[..., tuple[NvmlStandin, IsolatedSource]],
) -> None:
    _, source = isolated(Gpu(compute=((os.getpid(), 1),), hidden=True, utilization_gpu=80))

    assert (0.8, ()) == ((seen := looked(source, lambda _: True)).utilization, seen.actors)


def test_a_recording_keeps_who_was_there_in_shape(tmp_path: Path) -> None:
    """Pids are numbered, and instances have no name."""
    try:
        driver = NvmlStandin(
            tmp_path, [Gpu(compute=((4711, 1), (4712, 1)), graphics=((4712, 1),), busy=((4712, 5, 0, 0),))]
        )
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    driver.change(0, gpm_error=0)

    (card,) = record("wattgram.sources.nvml", asdict(Options()), {**os.environ, **driver.env})["gpus"]

    assert {"compute": [1, 2], "mps": [], "graphics": [2]} == card["processes"]
    assert {2} == {sample["pid"] for sample in card["busy"]}
    assert None is card["instances"]
    assert True is card["gpm"]
