"""Invented processes in a tree shaped like /proc, each in a control group of some kind, on stand-in cards.

They come and go at known moments, so whose every joule is can be computed.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from standin.nvml import NvmlStandin

FIRST_PID = 4_000_000  # above pid_max of most hosts
NOTICE = 0.06  # a card is told of a change so long before
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Job:
    """Somebody to be named: the kind and id that a process in `path` must be booked under."""

    kind: str
    id: str
    path: str
    uid: int = 0


def job(number: int, pods_log: Path) -> Job:
    """The n-th of a mixed lot."""
    kind = ("slurm", "container", "pod", "unit", "slurm", "user")[number % 6]
    digest = f"{number:064x}"
    uid = f"{number:08x}-0000-4000-8000-{number:012x}"
    if kind == "slurm":
        return Job(kind, str(1000 + number), f"/slurm/uid_{number % 3}/job_{1000 + number}/step_0/task_0", number % 3)
    if kind == "container":
        return Job(kind, digest, f"/system.slice/docker-{digest}.scope")
    if kind == "pod":
        (pods_log / f"team-{number % 4}_pod-{number}_{uid}").mkdir(parents=True, exist_ok=True)
        return Job(kind, uid, f"/kubepods/burstable/pod{uid}/{digest}")
    if kind == "unit":
        return Job(kind, f"service-{number}.service", f"/system.slice/service-{number}.service")
    return Job(kind, str(70_000 + number), f"/user.slice/user-{70_000 + number}.slice/session-1.scope", 70_000 + number)


@dataclass
class Member:
    """One process: whose it is, where it runs, and the watts that it adds there."""

    pid: int
    job: Job
    card: int
    watts: float
    start: float
    end: float


@dataclass
class Crowd:
    """`size` processes at any time, on the cards of a stand-in driver; `places` are what they may register on, such as
    `0` or `6.1`, an instance; `lives` is how long each lives on average, seconds.
    """

    directory: Path
    nvml: NvmlStandin
    places: tuple[str, ...]
    size: int
    lives: float = 10.0
    watts: float = 5.0  # of each per cent of a card; all together no card may draw more than it can
    seed: int = 1
    members: list[Member] = field(default_factory=list)
    gone: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._count = 0
        (self.proc / "1").mkdir(parents=True)
        self.pods_log.mkdir()

    @property
    def proc(self) -> Path:
        """The tree."""
        return self.directory / "proc"

    @property
    def pods_log(self) -> Path:
        """Where kubelet's folders of logs are."""
        return self.directory / "pods"

    def turn(self) -> None:
        """Let those go whose time has come, and as many begin as are wanting."""
        now = time.monotonic()
        for member in [m for m in self.members if m.end <= now]:
            self.members.remove(member)
            shutil.rmtree(self.proc / str(member.pid))
            self.gone.append(member)
        while len(self.members) < self.size:
            self.begin()

    def begin(self) -> Member:
        """Let one begin: on a random card, for a new job or a second process of one that is there."""
        self._count += 1
        again = self.members and self._chance.random() < 0.2
        whose = self._chance.choice(self.members).job if again else job(self._count, self.pods_log)
        place = self._chance.choice(self.places)
        sm = self._chance.randint(4, 10)
        start = time.monotonic() + NOTICE
        life = 0.3 + self._chance.expovariate(1 / self.lives)
        member = Member(
            FIRST_PID + self._count, whose, int(place.partition(".")[0]), self.watts * sm, start, start + life
        )
        show(self.proc, member.pid, member.job.path, member.job.uid, member.start)
        self.nvml.put(f"{place}:{member.watts}:{sm}", member.pid, start=start, end=member.end)
        self.members.append(member)
        return member

    def truth(self, start: float, end: float) -> dict[tuple[str, str], float]:
        """Joules above the cards' idle of each job, by kind and id."""
        by_pid = {member.pid: member.job for member in (*self.members, *self.gone)}
        found: dict[tuple[str, str], float] = {}
        for pid, joules in self.nvml.truth(start, end).items():
            key = (by_pid[pid].kind, by_pid[pid].id)
            found[key] = found.get(key, 0.0) + joules
        return found


def show(proc: Path, pid: int, path: str, uid: int, start: float) -> None:
    """Let a process appear in a tree, whole at once: in a control group, of a user, begun at a monotonic instant."""
    fresh = proc / f".{pid}"
    fresh.mkdir()
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    (fresh / "stat").write_text(f"{pid} (train) R {' '.join(['1'] * 18)} {int((start + asleep) * TICKS)} 0 0\n")
    (fresh / "cgroup").write_text(f"3:cpuacct:{path}\n1:name=systemd:/init.scope\n0::/\n")
    (fresh / "status").write_text(f"Name:\ttrain\nUid:\t{uid}\t0\t0\t0\n")
    (fresh / "comm").write_text("train\n")
    fresh.rename(proc / str(pid))
