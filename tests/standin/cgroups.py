"""Control groups: a faked machine of files whose every counter is known, and real groups with real work in them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import final

import pytest

from wattgram.clock import ManualClock

HZ = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
NANOSECONDS = 1_000_000_000
PF_KTHREAD = 0x0020_0000
MEMORY_BYTES = 64 << 30

EXCUSE = "needs a real cgroup"
# Where each kind of real tree is, if this machine has it: what counts processor time, and in which file.
REAL = {
    "v1": (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup/cpu,cpuacct")),
    "v2": (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")),
}
# Says that it is there; told to, it burns its share of a processor in slices of 20 ms.
WORKER = """
import sys, time
share = float(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while True:
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < share * 0.02:
        pass
    time.sleep(max(0.0, 0.02 - (time.monotonic() - began)))
"""

_numbers = itertools.count()


@final
class Machine:
    """A faked /proc and tree of groups; what is burnt in a group, those above and the machine show too.

    `version`: v1, v2, or hybrid: v1 beside a v2 tree without controllers. Nothing moves but by a call.
    """

    def __init__(self, root: Path, version: str = "v2", processors: int = 4) -> None:
        self.version = version
        self.processors = processors
        self.proc, self.tree = root / "proc", root / "cgroup"
        self.clock = ManualClock(100.0, 1_000_000.0)
        self._busy = self._idle = 50.0
        self._used: dict[str, int] = {}
        self._held: dict[str, tuple[int, int]] = {}
        self._pids: dict[str, list[int]] = {}
        self._times: dict[int, int] = {}
        for folder in {self.cpu, self.memory}:
            folder.mkdir(parents=True)
        if version == "v2":
            (self.tree / "cgroup.controllers").write_text("cpu memory\n")
            (self.tree / "cgroup.subtree_control").write_text("cpu memory\n")
        if version == "hybrid":
            (self.tree / "unified").mkdir()
            (self.tree / "unified" / "cgroup.controllers").write_text("\n")
        self.proc.mkdir(parents=True)
        self.group("", used=12.0)
        self.available(MEMORY_BYTES // 2)
        self.run(0.0)

    @property
    def cpu(self) -> Path:
        """Where groups count processor time."""
        return self.tree if self.version == "v2" else self.tree / "cpuacct"

    @property
    def memory(self) -> Path:
        """Where groups count memory."""
        return self.tree if self.version == "v2" else self.tree / "memory"

    def group(self, path: str, used: float = 0.0, held: int = 0, inactive: int = 0, pids: Iterable[int] = ()) -> str:
        """Make a group, and those above it, with a history."""
        parent = path.rpartition("/")[0]
        if parent != path and parent not in self._used:
            self.group(parent)
        for folder in {self.cpu, self.memory}:
            (folder / path[1:]).mkdir(exist_ok=True)
            if path and self.version == "v2":
                (folder / path[1:] / "cgroup.type").write_text("domain\n")
            if not path and self.version != "v2":
                (folder / "release_agent").write_text("\n")
        self._used[path], self._held[path] = 0, (0, 0)
        self._count(path, used)
        self.hold(path, held, inactive)
        self.put(path, *pids)
        return path

    def remove(self, path: str) -> None:
        """Let a group go, with those below; what it used stays in those above."""
        for folder in {self.cpu, self.memory}:
            shutil.rmtree(folder / path[1:], ignore_errors=True)
        for known in [p for p in self._used if p == path or p.startswith(f"{path}/")]:
            del self._used[known]

    def burn(self, path: str, seconds: float) -> None:
        """Use processor time in a group."""
        self._count(path, seconds)
        self._busy += seconds

    def hold(self, path: str, held: int, inactive: int = 0) -> None:
        """Let a group hold so many bytes more than before, some of them a cache that nobody used lately."""
        for known in self._above(path):
            was = self._held[known]
            now = self._held[known] = (was[0] + held, was[1] + inactive)
            folder = self.memory / known[1:]
            if self.version == "v2":
                if known:
                    (folder / "memory.current").write_text(f"{now[0]}\n")
                    (folder / "memory.stat").write_text(f"anon 1\nactive_file 7\ninactive_file {now[1]}\n")
            else:
                (folder / "memory.usage_in_bytes").write_text(f"{now[0]}\n")
                (folder / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {now[1]}\n")
                (folder / "memory.use_hierarchy").write_text("1\n")

    def put(self, path: str, *pids: int) -> None:
        """Let these, and nobody else, be in a group."""
        self._pids[path] = list(pids)
        for folder in {self.cpu, self.memory}:
            (folder / path[1:] / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def process(
        self,
        pid: int,
        used: float = 0.0,
        *,
        name: str = "work",
        uid: int = 1000,
        pages: int = 10,
        started: float = 1.0,
        flags: int = 0,
    ) -> int:
        """Let a process be, with a history: so many seconds used, begun so many seconds after boot."""
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        self._times[pid] = ticks = round(used * HZ)
        fields = [
            "S",
            "1",
            "1",
            "1",
            "0",
            "-1",
            str(flags),
            "0",
            "0",
            "0",
            "0",
            str(ticks // 2),
            str(ticks - ticks // 2),
        ]
        fields += ["0", "0", "20", "0", "1", "0", str(round(started * HZ)), *["0"] * 30]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t0\n")
        (folder / "statm").write_text(f"{pages * 3} {pages} 1 1 0 1 0\n")
        return pid

    def toil(self, pid: int, seconds: float) -> None:
        """Let a process use processor time; of the groups only the root shows it."""
        self._times[pid] += round(seconds * HZ)
        content = (self.proc / str(pid) / "stat").read_text()
        head, _, rest = content.rpartition(")")
        words = rest.split()
        words[11], words[12] = str(self._times[pid]), "0"
        (self.proc / str(pid) / "stat").write_text(f"{head}) {' '.join(words)}\n")
        self.burn("", seconds)

    def exit(self, pid: int) -> None:
        """Let a process be no more."""
        shutil.rmtree(self.proc / str(pid))
        for path, pids in self._pids.items():
            if pid in pids and path in self._used:
                self.put(path, *(p for p in pids if p != pid))

    def available(self, free: int) -> None:
        """Let so much memory be had for the asking."""
        (self.proc / "meminfo").write_text(f"MemTotal: {MEMORY_BYTES >> 10} kB\nMemAvailable: {free >> 10} kB\n")

    def run(self, seconds: float = 1.0, system: float = 0.0) -> None:
        """Let time pass; the processors idle but for what was burnt, and what the kernel uses now."""
        self._busy += system
        self.clock.advance(seconds)
        self._idle = self.clock.now().mono * self.processors - self._busy
        jiffies = [round(self._busy * HZ), 0, 0, round(self._idle * HZ), 0, 0, 0, 0, 0, 0]
        (self.proc / "stat").write_text(f"cpu  {' '.join(map(str, jiffies))}\n")

    def _count(self, path: str, seconds: float) -> None:
        for known in self._above(path):
            self._used[known] += round(seconds * NANOSECONDS)
            folder = self.cpu / known[1:]
            if self.version == "v2":
                usage = self._used[known] // 1000
                (folder / "cpu.stat").write_text(f"usage_usec {usage}\nuser_usec {usage}\nsystem_usec 0\n")
            else:
                (folder / "cpuacct.usage").write_text(f"{self._used[known]}\n")

    @staticmethod
    def _above(path: str) -> list[str]:
        parts = path.split("/")
        return ["/".join(parts[: n + 1]) for n in range(len(parts))]


# --- real ones ------------------------------------------------------------------------------------


@final
class RealGroups:
    """Real groups below a name of this test's own, and workers in them; skips the test where none can be made."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._made: list[Path] = []
        self._workers: list[subprocess.Popen[str]] = []
        file = "cpuacct.usage" if version == "v1" else "cgroup.controllers"
        found = [root for root in REAL[version] if (root / file).exists()]
        if not found:
            pytest.skip(f"{EXCUSE} {version} tree")
        self.root = found[0]
        if (self.root / "cgroup.type").exists() or (version == "v1" and not (self.root / "release_agent").exists()):
            pytest.skip(f"{EXCUSE} {version} tree: this one begins at a container's own group")
        self.prefix = f"/wattgram-test-{os.getpid()}-{next(_numbers)}"
        try:
            probe = self.make("")
            worker = subprocess.Popen(["/bin/sleep", "60"])
            try:
                (probe / "cgroup.procs").write_text(str(worker.pid))
                (self.root / "cgroup.procs").write_text(str(worker.pid))
            finally:
                worker.kill()
                worker.wait()
            self.counter("")
        except OSError as error:
            self._clear()
            pytest.skip(f"{EXCUSE} {version} tree that may be written: {error}")

    def __enter__(self) -> RealGroups:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._clear()

    def make(self, path: str) -> Path:
        """Make a group, and those above it."""
        folder = self.root / (self.prefix + path)[1:]
        missing = [p for p in (folder, *folder.parents) if self.root in p.parents and not p.exists()]
        for each in reversed(missing):
            each.mkdir()
            self._made.append(each)
        return folder

    def work(self, path: str | None, share: float) -> subprocess.Popen[str]:
        """Let a process burn this share of a processor in a group; None: in no group. It begins when it is told."""
        worker = subprocess.Popen(
            [sys.executable, "-S", "-c", WORKER, str(share)], stdin=subprocess.PIPE, text=True, stdout=subprocess.PIPE
        )
        self._workers.append(worker)
        folder = self.root if path is None else self.make(path)
        (folder / "cgroup.procs").write_text(str(worker.pid))
        return worker

    def wait(self) -> None:
        """Wait until all workers are there, each waiting to be told to begin."""
        for worker in self._workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"

    def begin(self) -> None:
        """Let all workers begin."""
        for worker in self._workers:
            assert worker.stdin
            worker.stdin.write("\n")
            worker.stdin.flush()

    def pause(self) -> None:
        """Let all workers stand still, so that counters do."""
        self._tell(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._tell(signal.SIGCONT)

    def end(self, worker: subprocess.Popen[str]) -> None:
        """End one worker."""
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                pipe.close()

    def remove(self, path: str) -> None:
        """Remove a group whose processes have ended."""
        self._rmdir(self.root / (self.prefix + path)[1:])

    def counter(self, path: str) -> float:
        """What a group and those below it have used, in seconds, by its own counter."""
        folder = self.root / (self.prefix + path)[1:]
        if self.version == "v1":
            return int((folder / "cpuacct.usage").read_text()) / NANOSECONDS
        return int((folder / "cpu.stat").read_text().split()[1]) / 1e6

    def pids(self) -> set[int]:
        """All workers there were."""
        return {worker.pid for worker in self._workers}

    def _tell(self, number: int) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)
        states = "Tt" if number == signal.SIGSTOP else "RS"
        end = time.monotonic() + 10.0
        for worker in self._workers:
            while worker.poll() is None and _state(worker.pid) not in states and time.monotonic() < end:
                time.sleep(0.005)

    def _clear(self) -> None:
        for worker in self._workers:
            self.end(worker)
        for folder in reversed(self._made):
            self._rmdir(folder)

    @staticmethod
    def _rmdir(folder: Path) -> None:
        end = time.monotonic() + 10.0
        while folder.exists() and time.monotonic() < end:
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.02)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
