"""A window is a lens on the books: it sees its own part of what was booked between its begin and its end, once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from standin.processes import Processes
from wattgram.clock import ManualClock
from wattgram.errand import lines
from wattgram.kin import Proc
from wattgram.ledger import Ledger
from wattgram.model import Activity, Actor, Charge, Device, EnergyDelta, Gap, Instant, Intensity, Process, Share
from wattgram.receipts import NEVER, Receipts
from wattgram.tariff import Price, Rung, Tariff, unpriced
from wattgram.windows import MANY, MOST_OF_ONE_USER, MOST_QUEUED, MOST_RECEIPTS, Refused, Windows

USER, KEY = 1000, "0123456789abcdef"
CPU = Device("cpu", "package-0", max_watts=200.0)
DRAM = Device("dram", "dram-0")
GPU = Device("gpu", "GPU-1", index="0", uncertainty=(("counter", 0.05),))
MINE, OTHER = Process(101, 7), Process(200, 7)


@dataclass
class World:
    """A machine whose moments a test makes, with a root process 100, its child 101 and a stranger 200."""

    clock: ManualClock
    processes: Processes
    ledger: Ledger
    windows: Windows

    def move(self, seconds: float, *, mine: float = 0.0, busy: float = 0.0, idle: float = 0.0) -> None:
        """Let time pass, in which the child and the machine used so many processor seconds."""
        self.clock.advance(seconds)
        self._mine, self._busy, self._idle = self._mine + mine, self._busy + busy, self._idle + idle
        self.processes.put(101, 100, seconds=self._mine, megabytes=256)
        self.processes.machine(self._busy, self._idle, used=512 << 20)
        self.windows.turn()

    _mine: float = 0.0
    _busy: float = 0.0
    _idle: float = 0.0

    def book(
        self, device: Device, start: float, end: float, joules: float, *, who: Iterable[Actor] | None = (),
        floor: float | None = None, price: Price = unpriced,
    ) -> None:  # fmt: skip
        """Hear of a delta, as an accountant would tell it."""
        first, last = Instant(start, 1000.0 + start), Instant(end, 1000.0 + end)
        activity = None if who is None else Activity(device.component, device.id, first, last, 1.0, tuple(who))
        self.windows.book(EnergyDelta(device, first, last, round(joules * 1e6), "counter"), activity, floor, price)

    def end(self, key: str = KEY, uid: int = USER) -> dict[str, Any]:
        self.windows.stop(uid, key)
        return self.windows.write(uid, key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock = ManualClock(0.0, 1000.0)
    processes = Processes(tmp_path / "proc")
    processes.put(1, 0)
    processes.put(100, 1)
    processes.put(200, 1)
    ledger = Ledger(clock)
    receipts = Receipts(clock, ledger.snapshot, "daemon")
    found = World(clock, processes, ledger, Windows(clock, Proc(processes.root), 1, receipts))
    found.move(0.0)
    return found


def of(receipt: dict[str, Any], component: str) -> dict[str, Any]:
    (found,) = [c for c in receipt["components"] if c["component"] == component]
    return dict(found)


def test_processors_are_shared_by_their_time(world: World) -> None:
    """Two processors for 10 s: 5 s are the window's, 3 s others', 12 s nobody's."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(10.0, mine=5.0, busy=8.0, idle=12.0)
    world.book(CPU, 0.0, 10.0, 200.0)

    receipt = world.end()

    assert 50.0 == receipt["joules"] == of(receipt, "cpu")["joules"]
    assert 200.0 == of(receipt, "cpu")["machine_joules"]
    assert "apportioned" == of(receipt, "cpu")["share"]
    assert (10.0, 5.0) == (receipt["seconds"], receipt["cpu_seconds"])
    assert 5.0 == receipt["watts"]["average"]


def test_a_known_idle_floor_is_nobodys(world: World) -> None:
    """Of 20 W, 10 W flow also when nobody does anything; of the rest the window has 5 of 8 parts."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(10.0, mine=5.0, busy=8.0, idle=12.0)
    world.book(CPU, 0.0, 10.0, 200.0, floor=10.0)

    assert 62.5 == world.end()["joules"]


def test_memory_is_shared_by_its_bytes(world: World) -> None:
    """A quarter of all memory is the window's; as much is others', half is free."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(10.0)
    world.book(DRAM, 0.0, 10.0, 80.0)

    assert 20.0 == world.end()["joules"]


@pytest.mark.parametrize(
    ("who", "joules", "share"),
    [
        ([Actor(MINE)], 100.0, "alone"),
        ([Actor(MINE, weight=30.0), Actor(OTHER, weight=10.0)], 75.0, "apportioned"),
        ([Actor(OTHER)], 0.0, "none"),
        ([Actor(MINE, weight=30.0), Actor(Process(77, 0), weight=10.0)], 75.0, "apportioned"),
    ],
)
def test_a_gpu_is_shared_by_who_was_busy(world: World, who: list[Actor], joules: float, share: str) -> None:
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=who)

    receipt = world.end()

    assert joules == receipt["joules"]
    assert share == of(receipt, "gpu")["share"]
    assert (["GPU-1"] if joules else []) == of(receipt, "gpu")["devices"]


def test_a_gpu_at_which_nobody_looked_is_not_known_to_be_anybodys(world: World) -> None:
    """Unknown is absent: neither 0 J nor all of it."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=None)

    receipt = world.end()

    assert receipt["joules"] is None
    assert receipt["grams"] is None
    assert 100.0 == of(receipt, "gpu")["machine_joules"]
    assert any("whose 100 J of the machine's 100 J were is not known" in remark for remark in receipt["remarks"])


def test_a_process_that_was_never_seen_here_may_be_anybodys(world: World) -> None:
    """In a container the driver shows the host's numbers: the command's own are among them, unrecognised."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=[Actor(Process(77, 0))])

    assert world.end()["joules"] is None


def test_only_what_lies_between_begin_and_end_is_seen(world: World) -> None:
    world.move(1.0)
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    world.windows.stop(USER, KEY)
    world.move(1.0)
    for start in range(4):
        world.book(GPU, start, start + 1.0, 10.0, who=[Actor(MINE)])
    world.book(GPU, 0.5, 1.5, 100.0, who=[Actor(MINE)])
    world.book(GPU, 2.5, 3.5, 100.0, who=[Actor(MINE)])

    assert 120.0 == world.windows.write(USER, KEY)["joules"]


def test_what_a_client_says_of_its_processor_time_counts_if_it_is_near_ours(world: World) -> None:
    """The kernel shows ticks; a parent knows its children's time to the microsecond."""
    for claimed, expected in ((5.03, 50.3), (9.0, 50.0)):
        key = f"{KEY}{claimed}"
        world.windows.begin(USER, key, "job", 100)
        begun = world.clock.now().mono
        world.move(10.0, mine=5.0, busy=8.0, idle=12.0)
        world.windows.turn()
        world.clock.advance(0.0)
        world.book(CPU, begun, begun + 10.0, 200.0)
        world.windows.stop(USER, key, claimed)

        assert expected == pytest.approx(world.windows.write(USER, key)["joules"], rel=0.002)


def test_grams_say_on_what_basis_and_what_is_not_priced(world: World) -> None:
    """One half at 100 g/kWh, the other unpriced; grams are those of the first."""
    tariff = Tariff("FR", "lifecycle", [Rung("annual", 0.0, ("annual",))])
    tariff.learn("annual", [Intensity("FR", "annual", 0.0, 1001.0, 100.0, "annual", "lifecycle")], 1000.0)
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    world.book(GPU, 0.0, 2.0, 7200.0, who=[Actor(MINE)], price=tariff.price)

    receipt = world.end()

    assert pytest.approx(0.1) == receipt["grams"]
    assert 3600.0 == receipt["unpriced_joules"]
    assert {"annual": 3600.0, "none": 3600.0} == {p["basis"]: p["joules"] for p in receipt["pricing"]}


def test_work_done_gives_joules_and_grams_per_unit(world: World) -> None:
    """Counts are cumulative: said twice, or late, they count once."""
    world.windows.begin(USER, KEY, "job", 100)
    for units in (10.0, 40.0, 40.0, 20.0):
        world.windows.progress(USER, KEY, "tokens", units)
    world.move(2.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=[Actor(MINE)])

    assert [{"unit": "tokens", "units": 40.0, "joules": 2.5, "grams": None}] == world.end()["per_unit"]


def test_the_peak_is_the_highest_mean_over_a_fifth_of_a_second(world: World) -> None:
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    for index, watts in enumerate((100.0, 300.0, 200.0, 100.0, 100.0)):
        world.book(GPU, 0.4 * index, 0.4 * (index + 1), 0.4 * watts, who=[Actor(MINE)])

    watts = world.end()["watts"]

    assert pytest.approx(160.0) == watts["average"]
    assert pytest.approx(300.0) == watts["peak"]


def test_what_was_not_metered_is_said(world: World) -> None:
    world.windows.begin(USER, KEY, "job", 100)
    world.move(10.0)
    world.book(GPU, 0.0, 6.0, 100.0, who=[Actor(MINE)])
    world.windows.miss(Gap(GPU, Instant(6.0, 1006.0), Instant(10.0, 1010.0), "it fell off the bus"))

    receipt = world.end()

    assert {"GPU-1": 4.0} == of(receipt, "gpu")["unmetered_seconds"]
    assert ["it fell off the bus"] == of(receipt, "gpu")["reasons"]
    assert ["cpu: no meter", "dram: no meter", "gpu: GPU-1 for 4 s", NEVER] == receipt["not_metered"]


def test_the_uncertainty_is_the_sensors_and_that_of_the_edges(world: World) -> None:
    """100 W for 10 s within 5 %, and a counter that steps every 0.1 s at both edges."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(10.0, mine=5.0, busy=5.0, idle=5.0)
    world.book(GPU, 0.0, 10.0, 1000.0, who=[Actor(MINE)])

    uncertainty = world.end()["uncertainty"]

    assert pytest.approx(50.0 + 20.0) == uncertainty["joules"]
    assert [] == uncertainty["sensors_not_established"]


def test_a_model_has_no_half_width_beside_its_figure(world: World) -> None:
    """That of the edges alone would be read as that of the whole."""
    modelled = Device("cpu", "estimated-cpu", quality="estimated")
    world.windows.begin(USER, KEY, "job", 100)
    world.move(10.0, mine=5.0, busy=5.0, idle=5.0)
    world.book(modelled, 0.0, 10.0, 1000.0)
    receipt = world.end()

    assert ["cpu"] == receipt["uncertainty"]["modelled"]
    assert "500 J (cpu: a model, which may be off by half the value and more)" == dict(lines(receipt))["energy"]


def test_two_windows_on_one_process_see_the_same_and_add_nothing(world: World) -> None:
    """Nested as they may be: an epoch, and a step within it."""
    world.windows.begin(USER, "epoch---", "epoch", 100)
    world.move(1.0)
    world.windows.begin(USER, "step----", "step", 100)
    world.move(1.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=[Actor(MINE)])

    assert 50.0 == world.end("step----")["joules"]
    assert 100.0 == world.end("epoch---")["joules"]
    assert () == world.ledger.snapshot().owners


def test_begin_and_end_may_be_said_twice(world: World) -> None:
    """A client that did not hear the answer asks again."""
    first = world.windows.begin(USER, KEY, "job", 100)
    world.move(1.0)
    assert first == world.windows.begin(USER, KEY, "job", 100)
    receipt = world.end()
    world.move(1.0)

    assert world.windows.stop(USER, KEY) is False
    assert receipt == world.windows.write(USER, KEY) == world.windows.read(USER, KEY)
    with pytest.raises(Refused, match="has ended"):
        world.windows.begin(USER, KEY, "job", 100)


def test_an_open_window_can_be_read(world: World) -> None:
    world.windows.begin(USER, KEY, "job", 100)
    world.move(1.0)
    world.book(GPU, 0.0, 1.0, 100.0, who=[Actor(MINE)])

    receipt = world.windows.read(USER, KEY)

    assert ("open", 100.0, None) == (receipt["state"], receipt["joules"], receipt["ended"])


def test_a_window_whose_process_is_gone_is_ended_and_its_receipt_kept(world: World) -> None:
    """A client's crash loses nothing: all up to its last moment is there for an hour."""
    world.windows.begin(USER, KEY, "job", 100)
    world.move(2.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=[Actor(MINE)])
    world.processes.end(100)
    world.move(1.0)
    world.book(GPU, 2.0, 62.0, 600.0, who=[Actor(MINE)])
    world.move(58.0)
    is_watching = world.windows.is_watching
    world.move(2.0)

    receipt = world.windows.read(USER, KEY)

    assert (True, False) == (is_watching, world.windows.is_watching)
    assert ("orphan", 3.0, 110.0) == (receipt["state"], receipt["seconds"], receipt["joules"])
    world.move(3601.0)
    with pytest.raises(Refused, match="no window has this key"):
        world.windows.read(USER, KEY)


def test_nobody_sees_another_users_window(world: World) -> None:
    world.windows.begin(USER, KEY, "job", 100)

    for ask in (world.windows.read, world.windows.stop, world.windows.write):
        with pytest.raises(Refused, match="no window"):
            ask(USER + 1, KEY)


def test_nobody_opens_a_window_on_another_users_process(world: World) -> None:
    with pytest.raises(Refused, match="no process 100 of user 1001"):
        world.windows.begin(USER + 1, KEY, "job", 100)
    with pytest.raises(Refused, match="no process 999"):
        world.windows.begin(USER, KEY, "job", 999)
    world.windows.begin(0, KEY, "job", 100)


def test_a_number_is_believed_of_who_counts_processes_as_we_do(world: World) -> None:
    """In a container 100 is somebody else; and who asks there is known by the kernel."""
    world.processes.put(300, 1, inside="5")

    with pytest.raises(Refused, match="numbers processes otherwise"):
        world.windows.begin(0, KEY, "job", 100, named_by=300)
    world.windows.begin(0, KEY, "job", 300)
    world.windows.begin(0, "same here", "job", 100, named_by=200)


def test_nothing_is_opened_where_the_kernel_counts_otherwise_than_proc(world: World) -> None:
    """We live in a container and look at the host's /proc: what the kernel tells us is somebody else there."""
    (world.processes.root / "self" / "status").write_text("Name:\tus\nNSpid:\t4711\t1\n")

    with pytest.raises(Refused, match="numbers processes otherwise"):
        world.windows.begin(0, KEY, "job", 100)


def test_a_meter_that_cannot_keep_up_says_so(world: World) -> None:
    world.windows.begin(USER, KEY, "job", 100)
    for start in range(MOST_QUEUED + 10):
        world.book(GPU, start / 1e4, (start + 1) / 1e4, 0.001, who=[Actor(MINE)])
    world.move(3.0)

    assert any("were dropped" in remark for remark in world.end()["remarks"])


def test_one_users_windows_spoil_nobody_elses(world: World) -> None:
    """He who has many is looked at less often; others are hurried all the same, and keep their receipts."""
    for number in range(MANY + 1):
        world.windows.begin(USER, f"window {number}", "", 100)
    assert not world.windows.is_young()
    world.windows.begin(0, KEY, "job", 100)
    assert world.windows.is_young()
    world.end(KEY, 0)
    for number in range(MANY + 1):
        world.end(f"window {number}")
    for number in range(MOST_RECEIPTS):
        world.windows.begin(USER, f"another {number}", "", 100)
        world.end(f"another {number}")

    assert "ended" == world.windows.read(0, KEY)["state"]


def test_open_windows_have_a_bound(world: World) -> None:
    for number in range(MOST_OF_ONE_USER):
        world.windows.begin(USER, f"window {number}", "", 100)

    with pytest.raises(Refused, match="end some"):
        world.windows.begin(USER, "one more", "", 100)


def test_while_no_window_is_open_nothing_is_kept(world: World) -> None:
    for start in range(100):
        world.book(GPU, start, start + 1.0, 100.0)
    world.clock.advance(100.0)

    world.windows.begin(USER, KEY, "job", 100)
    receipt = world.end()

    assert receipt["joules"] is None


def test_who_is_new_on_a_gpu_is_looked_at_before_it_can_be_gone(tmp_path: Path) -> None:
    """The next look may be a second away; a short process would be nobody's by then."""
    clock, hurried = ManualClock(), []
    processes = Processes(tmp_path / "proc")
    processes.put(100, 1)
    windows = Windows(
        clock, Proc(processes.root), 1, Receipts(clock, Ledger(clock).snapshot, "daemon"), lambda: hurried.append(1)
    )
    windows.begin(USER, KEY, "job", 100)
    processes.put(101, 100)
    clock.advance(2.0)
    activity = Activity("gpu", "GPU-1", Instant(0.0, 0.0), Instant(2.0, 2.0), 1.0, (Actor(MINE),))
    delta = EnergyDelta(GPU, activity.start, activity.end, 100_000_000, "counter")

    windows.book(delta, activity, None, unpriced)
    windows.turn()
    windows.book(delta, activity, None, unpriced)
    processes.end(101)
    windows.stop(USER, KEY)

    assert [1] == hurried
    assert 200.0 == windows.write(USER, KEY)["joules"]


def test_an_end_waits_for_devices_that_were_heard_of_lately(world: World) -> None:
    world.windows.begin(USER, KEY, "job", 100)
    world.book(DRAM, -100.0, -90.0, 1.0)
    world.book(GPU, 0.0, 1.0, 1.0)
    world.move(1.5)
    world.windows.stop(USER, KEY)
    assert not world.windows.settled(USER, KEY)

    world.book(GPU, 1.0, 1.6, 1.0)

    assert world.windows.settled(USER, KEY)


def test_a_charge_is_for_the_windows_share_alone(world: World) -> None:
    """What is priced is the part of the delta in the window, at its own time."""
    asked: list[Share] = []

    def price(share: Share) -> tuple[Charge, ...]:
        asked.append(share)
        return unpriced(share)

    world.move(1.0)
    world.windows.begin(USER, KEY, "job", 100)
    world.move(1.0)
    world.book(GPU, 0.0, 2.0, 100.0, who=[Actor(MINE, weight=1.0), Actor(OTHER, weight=1.0)], price=price)
    world.end()

    assert [(25_000_000, 1001.0, 1002.0)] == [(s.microjoules, s.delta.start.wall, s.delta.end.wall) for s in asked]


def test_short_stretches_are_divided_together(world: World) -> None:
    """Ticks are no measure of who worked in a few milliseconds: divided one by one, half would be cut off.

    Of 50 J, the window used 0.4 of 1 processor second.
    """
    world.windows.begin(USER, KEY, "job", 100)
    for _ in range(20):
        world.move(0.02, mine=0.0, busy=0.01, idle=0.03)
        world.move(0.005, mine=0.02, busy=0.01, idle=0.0)
    at = 0.0
    for _ in range(20):
        for seconds in (0.02, 0.005):
            world.book(CPU, at, at + seconds, 100.0 * seconds)
            at += seconds

    assert pytest.approx(20.0, rel=0.02) == world.end()["joules"]
