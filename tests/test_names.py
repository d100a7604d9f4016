"""Whose a process or a control group is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wattgram.model import Actor, Instant, Named, Process, Subject, Workload
from wattgram.names import Names
from wattgram.tools.procfs import identity, start_of

JOB = Workload("slurm", "7", "ada")
UNIT = Workload("unit", "slurmd.service", "root")
CGROUP = "9:memory:/slurm/uid_1000/job_7\n0::/system.slice/slurmd.service\n"


@dataclass
class Now:
    """A clock that stands still until told."""

    mono: float = 100.0

    def now(self) -> Instant:
        return Instant(self.mono, 1e9 + self.mono)

    def asleep(self) -> float:
        return 0.0

    def bell(self) -> None:
        raise NotImplementedError


@dataclass
class Namer:
    """Answers as told; remembers what it was asked."""

    answer: Callable[[Subject], Named | None]
    asked: list[Subject] = field(default_factory=list)
    held: Mapping[str, tuple[Workload, ...]] = field(default_factory=dict)
    closed: bool = False

    def name_of(self, subject: Subject) -> Named | None:
        self.asked.append(subject)
        return self.answer(subject)

    def holders(self) -> Mapping[str, tuple[Named, ...]]:
        return {gpu: tuple(map(Named, those)) for gpu, those in self.held.items()}

    def close(self) -> None:
        self.closed = True


def put(proc: Path, pid: int, started: int, cgroup: str = CGROUP, uid: int = 1000) -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(f"{pid} (a) b) S {' '.join(['1'] * 18)} {started} 0 0\n")
    (folder / "cgroup").write_text(cgroup)
    (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n")


@pytest.fixture
def now() -> Now:
    return Now()


def always(workload: Workload | None, depth: int = 1) -> Callable[[Subject], Named | None]:
    return lambda subject: Named(workload, depth, "name", "account")


def names(tmp_path: Path, now: Now, *namers: Namer) -> Names:
    return Names({str(n): namer for n, namer in enumerate(namers)}, now, tmp_path)  # type: ignore[arg-type]


def test_the_deepest_answer_is_meant_then_the_first(tmp_path: Path, now: Now) -> None:
    first, deep, late = Namer(always(UNIT, 3)), Namer(always(JOB, 9)), Namer(always(UNIT, 9))

    assert names(tmp_path, now, first, deep, late)(Actor(path="/x")) == JOB


def test_a_process_is_asked_about_by_all_its_groups(tmp_path: Path, now: Now) -> None:
    put(tmp_path, 40, 77)
    namer = Namer(always(JOB))

    assert names(tmp_path, now, namer)(Actor(Process(40, 77))) == JOB
    paths = ("/slurm/uid_1000/job_7", "/system.slice/slurmd.service")
    assert namer.asked == [Subject(paths, Process(40, 77), 1000)]


@pytest.mark.parametrize("started", [78, 0])
def test_another_process_of_the_same_number_is_nobody(tmp_path: Path, now: Now, started: int) -> None:
    """Never a wrong name: the first ended, or its start was never known."""
    put(tmp_path, 40, 77)
    namer = Namer(always(JOB))

    assert names(tmp_path, now, namer)(Actor(Process(40, started))) is None
    assert namer.asked == []


def test_a_process_that_ended_is_whose_it_was(tmp_path: Path, now: Now) -> None:
    put(tmp_path, 40, 77)
    whose = names(tmp_path, now, Namer(always(JOB)))
    whose(Actor(Process(40, 77)))
    (tmp_path / "40" / "stat").unlink()
    now.mono += 31

    assert whose(Actor(Process(40, 77))) == JOB


def test_a_process_that_moved_is_found_again(tmp_path: Path, now: Now) -> None:
    """Soon after it was first seen, then every half minute."""
    put(tmp_path, 40, 77)
    namer = Namer(lambda subject: Named(JOB if "job" in subject.paths[0] else UNIT))
    whose = names(tmp_path, now, namer)
    put(tmp_path, 40, 77, "0::/system.slice/slurmd.service\n")
    assert whose(Actor(Process(40, 77))) == UNIT
    put(tmp_path, 40, 77)

    assert whose(Actor(Process(40, 77))) == UNIT
    now.mono += 2.5
    assert whose(Actor(Process(40, 77))) == JOB
    asked = len(namer.asked)
    now.mono += 25
    assert whose(Actor(Process(40, 77))) == JOB
    assert len(namer.asked) == asked
    now.mono += 6
    assert whose(Actor(Process(40, 77))) == JOB
    assert len(namer.asked) == asked + 1


def test_a_name_that_is_not_known_yet_is_asked_for_each_time(tmp_path: Path, now: Now) -> None:
    answers = iter([Named(None), Named(None), Named(JOB)])
    whose = names(tmp_path, now, Namer(lambda subject: next(answers)))

    assert [whose(Actor(path="/pod")) for _ in range(4)] == [None, None, JOB, JOB]


def test_what_people_call_it(tmp_path: Path, now: Now) -> None:
    whose = names(tmp_path, now, Namer(always(JOB)))
    whose(Actor(path="/x"))

    assert whose.describe(JOB) == ("name", "account")
    assert whose.describe(UNIT) == ("", "")


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path, now: Now) -> None:
    whose = names(tmp_path, now, Namer(always(JOB)))
    whose(Actor(path="/x"))
    now.mono += 601
    whose(Actor(path="/y"))
    whose.adopt({}, tmp_path)

    assert whose(Actor(path="/x")) is None


def test_who_holds_a_gpu(tmp_path: Path, now: Now) -> None:
    whose = names(tmp_path, now, Namer(always(None), held={"0": (JOB,), "GPU-1": (JOB, UNIT)}), Namer(always(None)))

    assert {"0": (JOB,), "GPU-1": (JOB, UNIT)} == whose.holders()


def test_others_are_asked_after_a_reload(tmp_path: Path, now: Now) -> None:
    before = Namer(always(UNIT))
    whose = names(tmp_path, now, before)
    whose(Actor(path="/x"))
    whose.adopt({"new": Namer(always(JOB))}, tmp_path)

    assert whose(Actor(path="/x")) == JOB
    assert before.closed


def test_our_own_process_by_the_kernels_files() -> None:
    """The fixture's files have the kernel's shape."""
    proc = Path("/proc")
    found = identity(proc, os.getpid())

    assert found.started == start_of(proc, os.getpid()) > 0
    assert found.uid == os.getuid()
    assert found.paths


def test_an_owner_is_waited_for_a_while(tmp_path: Path, now: Now) -> None:
    """The first process of a job is root's helper; the labels of the job stay as they begin."""
    nobodys = Workload("slurm", "7", "")
    owners = iter([nobodys, nobodys, JOB, JOB])
    whose = names(tmp_path, now, Namer(lambda subject: Named(next(owners))))
    seen = []
    for _ in range(3):
        seen.append(whose(Actor(path="/job")))
        now.mono += 1
    assert seen == [None, None, JOB]

    whose = names(tmp_path, now, Namer(always(nobodys)))
    seen = []
    for _ in range(4):
        seen.append(whose(Actor(path="/job")))
        now.mono += 6
    assert seen == [None, None, None, nobodys]


@pytest.mark.parametrize("end", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_a_groups_name_cannot_end_the_line_it_stands_in(tmp_path: Path, end: str) -> None:
    """The kernel keeps only the line feed out of names: with another a user could forge somebody else's group."""
    path = f"/user.slice/user-1000.slice/user@1000.service/a{end}0::/system.slice/slurmstepd.scope/job_77"
    put(tmp_path, 40, 77, f"0::{path}\n")

    assert identity(tmp_path, 40).paths == (path,)
