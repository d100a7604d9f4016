"""A family is known by descent, keeps who was orphaned, and counts no processor second twice or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from standin.processes import Processes
from wattgram.kin import MOST_REMEMBERED, Family, Proc, Stat, Tree
from wattgram.model import Process

ROOT = Process(100, 7)


@pytest.fixture(params=[True, False], ids=["lists children", "does not"])
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Processes:
    """A family of three below a root, beside a stranger; Linux may list children or not."""
    found = Processes(tmp_path / "proc", lists_children=request.param)
    found.put(1, 0)
    found.put(100, 1, seconds=1.0, megabytes=1)
    found.put(101, 100, seconds=2.0, megabytes=2)
    found.put(102, 101, seconds=4.0, megabytes=4)
    found.put(200, 1, seconds=8.0, megabytes=8)
    return found


def used(tree: Tree, processes: Processes) -> float:
    return tree.look(Proc(processes.root).family(tree.pids))


def test_a_family_is_its_root_and_all_below(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=0)

    assert used(tree, processes) == 7.0
    assert 3 == tree.living
    assert 7 << 20 == tree.resident
    assert tree.holds(Process(102, 7))
    assert not tree.holds(Process(200, 7))


def test_who_was_of_the_family_stays_of_it_whoever_adopts_them(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=0)
    used(tree, processes)

    processes.end(101)
    processes.put(100, 1, seconds=1.0, reaped=2.0, megabytes=1)
    processes.put(102, 1, seconds=5.0, megabytes=4)
    processes.put(103, 102, seconds=1.0)

    assert used(tree, processes) == 9.0
    assert tree.holds(Process(103, 7))


def test_what_a_parent_waited_for_counts_once(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=0)
    used(tree, processes)

    processes.end(102)
    processes.put(101, 100, seconds=2.0, reaped=4.5)

    assert used(tree, processes) == 7.5


def test_what_nobody_waited_for_is_kept(processes: Processes) -> None:
    """Whoever ignores SIGCHLD is left nothing."""
    tree = Tree(ROOT, stranger=0)
    used(tree, processes)

    processes.end(102)

    assert used(tree, processes) == 7.0
    assert used(tree, processes) == 7.0


def test_a_parent_that_was_looked_at_just_before_it_buried_a_child_adds_nothing(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=0)
    used(tree, processes)
    processes.end(102)
    used(tree, processes)

    processes.put(101, 100, seconds=2.0, reaped=4.0)

    assert used(tree, processes) == 7.0


def test_a_process_number_that_is_given_again_is_somebody_else(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=0)
    used(tree, processes)

    processes.end(102)
    processes.put(101, 100, seconds=2.0, reaped=4.0)
    processes.put(102, 1, seconds=50.0, started=99)

    assert used(tree, processes) == 7.0
    assert not tree.holds(Process(102, 99))


def test_the_meter_itself_and_what_it_starts_is_no_member(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=101)

    assert used(tree, processes) == 1.0
    assert not tree.holds(Process(102, 7))


def test_a_process_whose_start_is_not_known_must_live_now(processes: Processes) -> None:
    tree = Tree(ROOT, stranger=0)
    used(tree, processes)
    assert tree.holds(Process(102, 0))

    processes.end(102)
    used(tree, processes)

    assert not tree.holds(Process(102, 0))


def test_of_the_many_that_came_and_went_the_latest_are_remembered(tmp_path: Path) -> None:
    """A shell that forks without end must not fill our memory; and who lives is known as long as he does."""
    tree = Tree(ROOT, stranger=0)
    root = Stat(ROOT, 1, 0, 0, 0, alive=True)
    old = Stat(Process(101, 7), 100, 0, 0, 0, alive=True)
    for first in range(1000, 1000 + 4 * MOST_REMEMBERED, 1000):
        passing = [Stat(Process(pid, 7), 100, 0, 0, 0, alive=True) for pid in range(first, first + 1000)]
        tree.look(Family({stat.process.pid: stat for stat in (root, old, *passing)}))

    assert tree.remembered <= MOST_REMEMBERED + 1002
    assert all(tree.holds(stat.process) for stat in (root, old, *passing))
    assert not tree.holds(Process(1000, 7))


def test_a_process_may_have_more_children_than_fit_a_page(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "proc")
    processes.put(100, 1)
    children = " ".join(str(pid) for pid in range(1_000_000, 1_020_000))
    (processes.root / "100" / "task" / "100" / "children").write_text(children)
    processes.put(1_019_999, 1)

    assert 1_019_999 in Proc(processes.root).family([100]).stats


@pytest.mark.parametrize("character", "\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")
def test_a_process_cannot_give_itself_a_user_by_its_name(tmp_path: Path, character: str) -> None:
    processes = Processes(tmp_path / "proc")
    processes.put(100, 1, name=f"a{character}Uid:\t4242")

    assert 1000 == Proc(processes.root).uid(100)


@pytest.mark.parametrize("text", ["", "12", "12 (x", "12 (x) S a b", "12 (x) S " + "1 " * 5, "\0" * 90])
def test_what_is_no_process_is_none(tmp_path: Path, text: str) -> None:
    """A file of /proc may be empty or torn while its process ends."""
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "stat").write_text(text)

    assert Proc(tmp_path).stat(12) is None
    assert {} == Proc(tmp_path).family([12]).stats


@pytest.mark.parametrize("text", ["", "cpu", "cpu a b c d", "intr 1 2 3 4 5", "cpu 1 2"])
def test_a_machine_that_does_not_say_what_it_did_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)

    assert Proc(tmp_path).machine() is None


def test_this_very_kernel_is_understood() -> None:
    """A child that works for a while, and is gone then."""
    script = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    proc = Proc()

    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stat = proc.stat(child.pid)
        assert stat is not None
        tree = Tree(stat.process, stranger=0)
        used = tree.look(proc.family(tree.pids))
        is_there = tree.living
        child.communicate(b"\n")
    left = tree.look(proc.family(tree.pids))

    assert (1, 0) == (is_there, tree.living)
    assert 0.15 < used <= left < 5.0
    assert proc.uid(os.getpid()) == os.getuid()
    machine = proc.machine()
    assert machine is not None
    assert 0 < machine.memory_used < machine.memory_total
