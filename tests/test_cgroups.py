"""Who kept processors and memory busy: each control group by what it used itself; who is in none, by process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from standin.cgroups import MEMORY_BYTES, PAGE, PF_KTHREAD, Machine
from wattgram import config as configuration
from wattgram.accountant import Accountant
from wattgram.diagnosis import FINE, Trial
from wattgram.feed import Claims, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Activity, Actor, Health, Process
from wattgram.ports import ReadFailed, Seconds, Unavailable
from wattgram.sources.cgroups import Options, open_source
from wattgram.sources.cgroups.bounds import LOOK_SECONDS, Bounds
from wattgram.sources.cgroups.source import CgroupsSource
from wattgram.tools.cgroupfs import Hierarchy, memory_hierarchy, processor_hierarchy
from wattgram.tools.procfs import parse_process, process_user, resident_pages

VERSIONS = ["v1", "v2", "hybrid"]
POD = "/kubepods/burstable/pod0d1e2f3a-0000-4000-8000-000000000001"
MIB = 1 << 20


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


@pytest.fixture
def v2(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "v2")


def options(machine: Machine) -> Options:
    return Options(path=str(machine.tree), proc=str(machine.proc), memory_every=Seconds(5))


def opened(machine: Machine) -> CgroupsSource:
    return open_source(options(machine), machine.clock, 1.0)


def bounded(machine: Machine, bounds: Bounds) -> CgroupsSource:
    processors, memory = processor_hierarchy(str(machine.tree)), memory_hierarchy(str(machine.tree))
    assert processors
    return CgroupsSource(options(machine), machine.clock, 1.0, processors, memory, bounds)


def told(source: CgroupsSource, component: str = "cpu") -> Activity:
    (activity,) = [a for a in source.read().activities if a.component == component]
    return activity


def weights(activity: Activity) -> dict[str, float]:
    """What each path used, of loose processes `/PID`."""
    named = {a.path if a.process is None else f"/{a.process.pid}": a.weight or 0.0 for a in activity.actors}
    assert len(activity.actors) == len(named)
    return named


def used(activity: Activity) -> dict[str, float]:
    """Those of them that used anything."""
    return {name: weight for name, weight in weights(activity).items() if weight}


def near(expected: Mapping[str, float]) -> Any:
    return pytest.approx(expected, abs=1e-5)


def about(expected: float) -> Any:
    """To two jiffies, as coarse as the machine's own times are."""
    return pytest.approx(expected, abs=0.02)


# --- processors -------------------------------------------------------------------------------------


def test_each_group_used_what_its_counter_shows_less_those_below(machine: Machine) -> None:
    for path, pid in (("/system.slice/a.service", 11), (f"{POD}/c1", 12), (f"{POD}/c2", 13)):
        machine.group(path, used=1000.0, pids=[machine.process(pid)])
    source = opened(machine)

    machine.burn("/system.slice/a.service", 0.25)
    machine.burn(f"{POD}/c1", 1.5)
    machine.burn(f"{POD}/c2", 0.125)
    machine.run()

    assert near({"/system.slice/a.service": 0.25, f"{POD}/c1": 1.5, f"{POD}/c2": 0.125}) == used(told(source))


def test_a_group_with_processes_and_groups_below_has_what_it_used_itself(machine: Machine) -> None:
    machine.group("/job", pids=[machine.process(11)])
    machine.group("/job/step", pids=[machine.process(12)])
    source = opened(machine)

    machine.burn("/job", 0.5)
    machine.burn("/job/step", 0.75)
    machine.run()

    assert near({"/job": 0.5, "/job/step": 0.75}) == used(told(source))


def test_the_interval_is_told_and_begins_where_the_last_one_ended(v2: Machine) -> None:
    source = opened(v2)
    begun = v2.clock.now()
    v2.run(1.0)
    first = told(source)
    v2.run(2.0)
    second = told(source)

    assert (begun, first.end, v2.clock.now(), 1.0) == (first.start, second.start, second.end, second.every)


def test_a_turn_soon_after_another_leaves_the_interval_to_grow(v2: Machine) -> None:
    """The first one too, which comes when the source was just opened: of a millisecond nobody can tell anything."""
    v2.group("/a", pids=[v2.process(11)])
    source = opened(v2)
    v2.burn("/a", 0.1)
    v2.run(0.4)
    assert [] == [a for a in source.read().activities if a.component == "cpu"]

    v2.burn("/a", 0.2)
    v2.run(0.6)

    assert near({"/a": 0.3}) == used(told(source))


def test_what_no_group_used_is_the_systems_and_what_nobody_used_is_idle(machine: Machine) -> None:
    machine.group("/a", pids=[machine.process(11)])
    source = opened(machine)

    machine.burn("/a", 1.0)
    machine.run(1.0, system=0.5)

    activity = told(source)
    assert (about(0.5), about(2.5)) == (activity.system, activity.idle)
    assert pytest.approx(1.5 / 4, abs=0.01) == activity.utilization


def test_the_system_has_never_less_than_nothing(v2: Machine) -> None:
    """The machine's jiffies are coarser than the groups' counters."""
    v2.group("/a", pids=[v2.process(11)])
    source = opened(v2)

    v2.burn("/a", 1.0)
    v2.run(1.0, system=-0.5)

    assert 0.0 == told(source).system


def test_a_module_s_rest_is_told_as_its_processors_are(v2: Machine) -> None:
    v2.group("/a", pids=[v2.process(11)])
    source = opened(v2)
    v2.burn("/a", 1.0)
    v2.run()

    by_component = {a.component: a for a in source.read().activities}

    assert by_component["cpu"].actors == by_component["module_rest"].actors
    assert by_component["cpu"].system == by_component["module_rest"].system


@pytest.mark.parametrize("path", ["/new", "/old/new", "/new/deep/deeper"])
def test_a_group_that_is_new_counts_from_nothing(machine: Machine, path: str) -> None:
    machine.group("/old", used=5.0)
    source = opened(machine)
    machine.run()
    source.read()

    machine.group(path, pids=[machine.process(11)])
    machine.burn(path, 0.75)
    machine.run()

    assert near({path: 0.75}) == used(told(source))


def test_what_a_group_used_last_before_it_went_is_the_systems_and_not_its_parents(machine: Machine) -> None:
    """The parent's counter holds it, but whose it was nobody can read any more."""
    machine.group("/docker", pids=[machine.process(10)])
    machine.group("/docker/a", pids=[machine.process(11)])
    machine.group("/docker/b", pids=[machine.process(12)])
    source = opened(machine)
    machine.burn("/docker/a", 0.5)
    machine.run()
    source.read()

    machine.burn("/docker/a", 0.75)
    machine.burn("/docker/b", 0.25)
    machine.remove("/docker/a")
    machine.run()

    activity = told(source)
    assert near({"/docker/b": 0.25}) == used(activity)
    assert about(0.75) == activity.system
    machine.burn("/docker", 0.5)
    machine.burn("/docker/b", 0.5)
    machine.run()
    assert near({"/docker": 0.5, "/docker/b": 0.5}) == used(told(source))


def test_a_group_that_went_and_one_that_came_at_once_are_told_apart(machine: Machine) -> None:
    """The number of groups is as before."""
    machine.group("/docker/a", pids=[machine.process(11)])
    source = opened(machine)

    machine.remove("/docker/a")
    machine.group("/docker/b", pids=[machine.process(12)])
    machine.burn("/docker/b", 0.25)
    machine.run()
    source.read()
    machine.burn("/docker/b", 0.5)
    machine.run()

    assert pytest.approx(0.5, abs=0.3) == used(told(source))["/docker/b"]


def test_a_group_made_anew_under_the_same_name_counts_from_nothing(machine: Machine) -> None:
    machine.group("/docker/a", used=100.0, pids=[machine.process(11)])
    source = opened(machine)

    machine.burn("/docker/a", 0.25)
    machine.remove("/docker/a")
    machine.group("/docker/a", pids=[machine.process(12)])
    machine.burn("/docker/a", 0.5)
    machine.run()

    activity = told(source)
    assert near({"/docker/a": 0.5}) == used(activity)
    assert about(0.25) == activity.system


def test_a_counter_that_leaps_beyond_what_the_machine_can_do_is_not_believed(v2: Machine) -> None:
    """And is followed from there."""
    v2.group("/a", pids=[v2.process(11)])
    source = opened(v2)

    (v2.tree / "a" / "cpu.stat").write_text("usage_usec 9999999999999\n")
    v2.run()
    assert {"/a": 0.0} == weights(told(source))

    (v2.tree / "a" / "cpu.stat").write_text("usage_usec 10000000249999\n")
    v2.run()
    assert near({"/a": 0.25}) == used(told(source))


def test_those_below_are_read_a_little_later_and_that_is_made_up_for(v2: Machine) -> None:
    """What a child seems to have used beyond its parent is not given to the parent the next time."""
    v2.group("/p")
    v2.group("/p/c", pids=[v2.process(11)])
    source = opened(v2)
    for parent, child in ((100_000, 110_000), (210_000, 210_000)):
        (v2.tree / "p" / "cpu.stat").write_text(f"usage_usec {parent}\n")
        (v2.tree / "p" / "c" / "cpu.stat").write_text(f"usage_usec {child}\n")
        v2.run()

        assert {"/p/c"} == set(used(told(source)))


def test_what_did_not_move_is_not_descended_into(v2: Machine) -> None:
    """No group below can have used anything; here one says so, which no kernel does."""
    v2.group("/p/c", pids=[v2.process(11)])
    source = opened(v2)

    (v2.tree / "p" / "c" / "cpu.stat").write_text("usage_usec 500000\n")
    v2.run()

    assert {"/p/c": 0.0} == weights(told(source))


# --- who is there -----------------------------------------------------------------------------------


def test_who_is_there_and_does_nothing_is_listed_and_an_empty_group_is_not(machine: Machine) -> None:
    machine.group("/system.slice/asleep.service", pids=[machine.process(11)])
    machine.group("/system.slice/empty.service")
    source = opened(machine)
    machine.run()

    assert {"/system.slice/asleep.service": 0.0} == weights(told(source))


def test_an_idle_group_that_came_later_is_found_in_a_while(machine: Machine) -> None:
    machine.group("/system.slice/empty.service")
    source = opened(machine)
    machine.group("/system.slice/late.service/inner", pids=[machine.process(11)])
    machine.put("/system.slice/empty.service", machine.process(12))
    machine.run(LOOK_SECONDS)
    source.read()
    machine.run(LOOK_SECONDS)

    assert {"/system.slice/late.service/inner", "/system.slice/empty.service"} == set(weights(told(source)))


def test_an_idle_group_that_went_is_listed_no_more_in_a_while(machine: Machine) -> None:
    machine.group("/a/b", pids=[machine.process(11)])
    source = opened(machine)
    machine.remove("/a/b")
    for _ in range(2):
        machine.run(LOOK_SECONDS)
        source.read()
    machine.run()

    assert {} == weights(told(source))


def test_a_group_has_the_user_of_its_first_process(machine: Machine) -> None:
    machine.group("/mine", pids=[machine.process(11, uid=1234), machine.process(12, uid=7)])
    machine.group("/foreign", pids=[0])  # of processes that are not seen from here the kernel shows 0
    machine.group("/hidden", pids=[99])
    source = opened(machine)
    machine.run()

    assert {"/mine": 1234, "/foreign": None, "/hidden": None} == {a.path: a.uid for a in told(source).actors}


def test_a_group_that_begins_to_work_has_its_user_at_once(machine: Machine) -> None:
    machine.group("/a")
    source = opened(machine)
    machine.put("/a", machine.process(11, uid=1234))
    machine.burn("/a", 0.5)
    machine.run(1.0)

    assert [1234] == [a.uid for a in told(source).actors]


def test_a_user_that_changes_is_noticed_in_a_while(machine: Machine) -> None:
    """A container's first process begins as root."""
    machine.group("/a", pids=[machine.process(11, uid=0)])
    source = opened(machine)
    machine.process(11, uid=1000)
    machine.run(LOOK_SECONDS)
    source.read()
    machine.run(LOOK_SECONDS)

    assert [1000] == [a.uid for a in told(source).actors]


# --- processes in no group --------------------------------------------------------------------------


def test_a_process_in_no_group_stands_for_itself(machine: Machine) -> None:
    machine.put("", machine.process(11, 50.0, name="train) (me", uid=1000, started=3.0), machine.process(12))
    source = opened(machine)

    machine.toil(11, 0.5)
    machine.run()

    process = Process(11, 300)
    found = {a.process: a for a in told(source).actors}
    assert Actor(process, "/", 0.5, uid=1000, program="train) (me") == found[process]
    assert 0.0 == found[Process(12, 100)].weight


def test_a_process_in_a_group_is_not_counted_again(machine: Machine) -> None:
    machine.group("/a", pids=[machine.process(11)])
    source = opened(machine)
    machine.toil(11, 0.5)
    machine.run()

    assert ["/a"] == list(weights(told(source)))


def test_threads_of_the_kernel_are_the_systems(machine: Machine) -> None:
    machine.put("", machine.process(2, flags=PF_KTHREAD), machine.process(40, flags=PF_KTHREAD))
    source = opened(machine)
    for _ in range(2):
        machine.toil(40, 0.5)
        machine.run()

        activity = told(source)
        assert ({}, about(0.5)) == (weights(activity), activity.system)


def test_the_number_of_a_thread_of_the_kernel_may_become_a_process(machine: Machine) -> None:
    machine.put("", machine.process(40, flags=PF_KTHREAD))
    source = opened(machine)
    machine.process(40, started=machine.clock.now().mono)
    for _ in range(16):
        machine.run()
        source.read()
    machine.toil(40, 0.25)
    machine.run()

    assert near({"/40": 0.25}) == used(told(source))


def test_a_process_that_began_counts_from_nothing_and_one_that_came_from_a_group_does_not(machine: Machine) -> None:
    """What the latter used before was counted where it was."""
    source = opened(machine)
    machine.run()
    source.read()
    now = machine.clock.now().mono

    machine.put("", machine.process(11, started=now + 0.1), machine.process(12, 4.0, started=5.0))
    machine.toil(11, 0.5)
    machine.run()

    assert near({"/11": 0.5, "/12": 0.0}) == weights(told(source))


def test_a_number_that_is_another_process_now_is_another_actor(machine: Machine) -> None:
    machine.put("", machine.process(11, 40.0, started=5.0))
    source = opened(machine)
    machine.run()
    source.read()
    now = machine.clock.now().mono

    machine.process(11, started=now + 0.1)
    machine.toil(11, 0.25)
    machine.run()

    assert [(Process(11, round((now + 0.1) * 100)), 0.25)] == [(a.process, a.weight) for a in told(source).actors]


def test_a_process_that_went_is_listed_no_more(machine: Machine) -> None:
    machine.put("", machine.process(11), machine.process(12))
    source = opened(machine)
    machine.exit(11)
    machine.run()

    assert ["/12"] == list(weights(told(source)))


# --- memory -----------------------------------------------------------------------------------------


def test_memory_is_what_a_group_holds_itself_without_cache_not_used_lately(machine: Machine) -> None:
    machine.group("/system.slice/a.service", held=100 * MIB, inactive=30 * MIB, pids=[machine.process(11)])
    machine.group("/job", held=64 * MIB, pids=[machine.process(12)])
    machine.group("/job/step", held=36 * MIB, inactive=4 * MIB, pids=[machine.process(13)])
    machine.put("", machine.process(14, pages=2560))
    machine.available(MEMORY_BYTES - 200 * MIB)

    activity = told(opened(machine), "dram")

    expected = {"/system.slice/a.service": 70, "/job": 64, "/job/step": 32, "/14": 2560 * PAGE / MIB}
    assert near({path: float(size * MIB) for path, size in expected.items()}) == used(activity)
    assert ((200 - 70 - 64 - 32) * MIB - 2560 * PAGE, MEMORY_BYTES - 200 * MIB) == (activity.system, activity.idle)


def test_memory_is_looked_at_more_sparingly(v2: Machine) -> None:
    source = opened(v2)
    components = []
    for _ in range(12):
        components.append([a.component for a in source.read().activities if a.component == "dram"])
        v2.run()

    assert [0, 5, 10] == [turn for turn, found in enumerate(components) if found]


def test_a_hierarchy_of_old_that_does_not_add_up_is_not_taken_apart(tmp_path: Path) -> None:
    """In v1 a group's memory may leave out that of those below (memory.use_hierarchy)."""
    machine = Machine(tmp_path, "v1")
    machine.group("/docker", held=10 * MIB, pids=[machine.process(11)])
    machine.group("/docker/a", held=20 * MIB, pids=[machine.process(12)])
    (machine.memory / "docker" / "memory.use_hierarchy").write_text("0\n")
    (machine.memory / "docker" / "memory.usage_in_bytes").write_text(f"{10 * MIB}\n")

    assert near({"/docker": 10.0 * MIB, "/docker/a": 20.0 * MIB}) == used(told(opened(machine), "dram"))


def test_a_group_whose_memory_cannot_be_read_is_not_its_parents(machine: Machine) -> None:
    machine.group("/p", held=10 * MIB, pids=[machine.process(11)])
    machine.group("/p/c", held=20 * MIB, pids=[machine.process(12)])
    name = "memory.current" if machine.version == "v2" else "memory.usage_in_bytes"
    (machine.memory / "p" / "c" / name).write_text("nonsense\n")

    assert {"/p": 0.0} == weights(told(opened(machine), "dram"))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_where_memory_is_not_counted_nothing_is_said_of_it(tmp_path: Path, version: str) -> None:
    machine = Machine(tmp_path, version)
    if version == "v2":
        (machine.tree / "cgroup.subtree_control").write_text("cpu\n")
    else:
        (machine.memory / "memory.usage_in_bytes").unlink()

    assert () == opened(machine).read().activities


def test_a_kernel_that_does_not_know_what_is_available_says_nothing_of_memory(v2: Machine) -> None:
    (v2.proc / "meminfo").write_text("MemTotal: 100 kB\n")
    source = opened(v2)
    v2.run()

    assert ["cpu", "module_rest"] == [a.component for a in source.read().activities]


# --- odd and hostile --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"two\nlines", b'quo"ted\\', b"\xff\xfe", b"x" * 255, "ü".encode()])
def test_a_name_may_hold_anything_and_can_be_shown(v2: Machine, name: bytes) -> None:
    path = f"/{os.fsdecode(name)}"
    v2.group(path, pids=[v2.process(11)])
    source = opened(v2)
    v2.burn(path, 0.5)
    v2.run()

    (found,) = used(told(source))

    assert f"/{name.decode('utf-8', 'replace')}" == found.encode("utf-8").decode("utf-8")


def test_a_tree_deeper_than_a_path_can_be_long_is_the_systems_below(v2: Machine, lines: list[str]) -> None:
    """A path ends at 4 KiB; the kernel sets no depth."""
    top = v2.group(f"/{'d' * 200}", pids=[v2.process(11)])
    here = os.open(v2.tree / top[1:], os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=here)
        here, above = os.open("d" * 200, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    source = opened(v2)
    v2.burn(top, 0.5)
    v2.run()

    activity = told(source)
    assert (0.0, about(0.5)) == (weights(activity)[top], activity.system)
    assert [] == [line for line in lines if "WARNING" not in line]


HOSTILE = [b"", b"\n", b"-5\n", b"9" * 5000, b"\xff\xfe\n", b"usage_usec\n", b"usage_usec -1\n", b"12 13\n", b"1e9\n"]


@pytest.mark.parametrize("content", HOSTILE)
def test_a_counter_that_is_none_counts_for_nobody_and_harms_nobody_else(machine: Machine, content: bytes) -> None:
    """Neither does its parent get what it may have used."""
    machine.group("/p", pids=[machine.process(10)])
    for path, pid in (("/p/odd", 11), ("/p/good", 12), ("/other", 13)):
        machine.group(path, used=3.0, pids=[machine.process(pid)])
    source = opened(machine)
    counter = machine.cpu / "p" / "odd" / ("cpu.stat" if machine.version == "v2" else "cpuacct.usage")
    for path in ("/p/odd", "/p/good", "/other"):
        machine.burn(path, 0.5)
    counter.write_bytes(content)
    machine.run()

    assert near({"/p/good": 0.5, "/other": 0.5}) == used(told(source))
    machine.burn("/p/odd", 0.5)
    machine.run()
    assert {} == used(told(source))
    machine.burn("/p/odd", 0.5)
    machine.run()
    assert near({"/p/odd": 0.5}) == used(told(source))


@pytest.mark.parametrize("name", ["cpu.stat", "cgroup.procs", "memory.current", "memory.stat"])
@pytest.mark.parametrize("kind", ["missing", "folder", "refuses"])
def test_a_file_that_cannot_be_read_harms_nobody_else(v2: Machine, name: str, kind: str) -> None:
    v2.group("/odd", pids=[v2.process(11)])
    v2.group("/good", pids=[v2.process(12)])
    source = opened(v2)
    file = v2.tree / "odd" / name
    v2.burn("/odd", 0.5)
    v2.burn("/good", 0.5)
    file.unlink()
    if kind == "folder":
        file.mkdir()
    if kind == "refuses":
        file.symlink_to("/proc/self/mem")  # it opens, and does not read: EIO
    v2.run()

    activities = {a.component: a for a in source.read().activities}

    assert pytest.approx(0.5) == weights(activities["cpu"])["/good"]
    assert "/good" in weights(activities["dram"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_whatever_the_files_hold_no_weight_is_below_nothing(
    tmp_path_factory: pytest.TempPathFactory, usage: bytes, procs: bytes, stat: bytes, memory: bytes
) -> None:
    machine = Machine(tmp_path_factory.mktemp("hostile"))
    machine.group("/a/b", pids=[machine.process(11)])
    machine.put("", machine.process(12))
    source = opened(machine)
    machine.burn("/a/b", 0.5)
    for place, content in (
        (machine.tree / "a" / "b" / "cpu.stat", b"usage_usec " + usage),
        (machine.tree / "a" / "b" / "cgroup.procs", procs),
        (machine.tree / "a" / "b" / "memory.current", memory),
        (machine.tree / "a" / "b" / "memory.stat", b"inactive_file " + memory),
        (machine.tree / "cgroup.procs", b"12\n" + procs + b"\n"),
        (machine.proc / "12" / "stat", b"12 (x) " + stat),
        (machine.proc / "12" / "statm", stat),
        (machine.proc / "11" / "status", b"\nUid:" + stat),
    ):
        place.write_bytes(content)
    machine.run()

    for activity in source.read().activities:
        assert all(0 <= (actor.weight or 0.0) < float("inf") for actor in activity.actors)
        assert activity.system >= 0


@pytest.mark.parametrize(
    "content", [b"", b"12", b"12 (x", b"12 (x) S 1 1", b"12 (x) " + b"9 " * 5, b"12 (x) " + b"x " * 40]
)
def test_a_process_whose_stat_is_none_is_not_there(content: bytes) -> None:
    assert None is parse_process(content)


def test_a_process_that_is_not_there_has_neither_user_nor_memory(tmp_path: Path) -> None:
    assert (None, None) == (process_user(str(tmp_path), 1), resident_pages(str(tmp_path), 1))


def test_more_groups_than_are_looked_at_are_the_systems_and_it_is_said_once(v2: Machine, lines: list[str]) -> None:
    for n in range(10):
        v2.group(f"/top/g{n}", pids=[v2.process(100 + n)])
    source = bounded(v2, Bounds(groups=4))
    for _ in range(2):
        for n in range(10):
            v2.burn(f"/top/g{n}", 0.1)
        v2.run()

        activity = told(source)
        assert near({f"/top/g{n}": 0.1 for n in range(3)}) == used(activity)
        assert about(0.7) == activity.system
    assert ["WARNING cgroups: more than 4 control groups"] == [line.partition(",")[0] for line in lines]


def test_groups_deeper_than_are_looked_at_are_the_systems(v2: Machine) -> None:
    v2.group("/a/b/c/d", pids=[v2.process(11)])
    source = bounded(v2, Bounds(depth=2))
    v2.burn("/a/b/c/d", 0.5)
    v2.run()

    activity = told(source)
    assert ({}, about(0.5)) == (used(activity), activity.system)


def test_more_processes_than_are_looked_at_are_the_systems(v2: Machine, lines: list[str]) -> None:
    v2.put("", *(v2.process(100 + n) for n in range(10)))
    source = bounded(v2, Bounds(processes=4))
    for n in range(10):
        v2.toil(100 + n, 0.1)
    v2.run()

    activity = told(source)
    assert near({f"/{100 + n}": 0.1 for n in range(4)}) == used(activity)
    assert about(0.6) == activity.system
    assert ["WARNING cgroups: more than 4 processes in no control group"] == [
        line.partition(": what")[0] for line in lines
    ]


def test_a_turn_that_fails_is_made_up_for_by_the_next(v2: Machine) -> None:
    v2.group("/a", pids=[v2.process(11)])
    source = opened(v2)
    begun = v2.clock.now()
    v2.burn("/a", 0.5)
    v2.run()
    content = (v2.proc / "stat").read_bytes()
    (v2.proc / "stat").write_bytes(b"cpu nonsense\n")
    with pytest.raises(ReadFailed, match="stat"):
        source.read()

    (v2.proc / "stat").write_bytes(content)
    v2.run()

    activity = told(source)
    assert (begun, {"/a": 0.5}) == (activity.start, used(activity))


def test_a_tree_that_is_gone_is_a_failure(v2: Machine) -> None:
    source = opened(v2)
    v2.tree.rename(v2.tree.with_name("unmounted"))
    v2.run()

    with pytest.raises(ReadFailed, match="cgroup"):
        source.read()


# --- what is there at all ---------------------------------------------------------------------------


def test_each_layout_is_known(machine: Machine) -> None:
    version = 2 if machine.version == "v2" else 1

    assert Hierarchy(str(machine.cpu), version) == processor_hierarchy(str(machine.tree))
    assert Hierarchy(str(machine.memory), version) == memory_hierarchy(str(machine.tree))


def test_controllers_mounted_together_are_found(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "v1")
    machine.cpu.rename(machine.tree / "cpu,cpuacct")

    assert Hierarchy(str(machine.tree / "cpu,cpuacct"), 1) == processor_hierarchy(str(machine.tree))


def test_a_host_without_control_groups_is_told_what_to_mount(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    lone = Options(path=str(tmp_path / "nowhere"), proc=str(machine.proc))

    with pytest.raises(Unavailable) as missing:
        open_source(lone, machine.clock, 1.0)

    assert "mount" in missing.value.remedy


def test_a_container_that_sees_its_own_groups_alone_is_told_so(machine: Machine) -> None:
    """What others use would seem to be the system's."""
    if machine.version == "v2":
        (machine.tree / "cgroup.type").write_text("domain\n")
    else:
        (machine.cpu / "release_agent").unlink()

    with pytest.raises(Unavailable, match="own control groups") as missing:
        opened(machine)

    assert all(word in missing.value.remedy for word in ("--cgroupns host", "--pid host", "hostPID"))


# --- the house around it ----------------------------------------------------------------------------


def test_a_house_in_which_nothing_but_activity_is_told_is_ready(machine: Machine) -> None:
    machine.group("/a", pids=[machine.process(11)])
    clock = machine.clock
    ledger, meter, claims = Ledger(clock), Meter(3.0), Claims(["rapl", "cgroups"])
    accountant = Accountant("cgroups", 1.0, meter, None, ledger)
    feed = SourceFeed("cgroups", lambda: opened(machine), accountant, meter, claims, clock)
    ledger.report(Health("cgroups", "source", 1.0))
    assert ("cgroups",) == ledger.snapshot().awaited

    for _ in range(3):
        feed()
        machine.run()
    ledger.report(Health("cgroups", "source", 1.0, up=True, turns=3))

    snapshot = ledger.snapshot()
    assert ((), (), ()) == (snapshot.awaited, snapshot.devices, snapshot.owners)


def test_doctor_says_who_is_told_apart_and_that_this_meters_nothing(machine: Machine, tmp_path: Path) -> None:
    machine.group("/a", pids=[machine.process(11)])
    file = tmp_path / "wattgram.toml"
    off = "".join(f"[sources.{name}]\nenabled = false\n" for name in ("nvml", "rapl", "hwmon"))
    file.write_text(f'{off}[sources.cgroups]\npath = "{machine.tree}"\nproc = "{machine.proc}"\n')
    trial = Trial(configuration.load(file, {}, {}), machine.clock, {})

    (finding,) = trial.sources()

    assert ("source cgroups", FINE) == (finding.what, finding.state)
    assert "control groups: 1" in finding.detail
    assert not trial.is_metering
