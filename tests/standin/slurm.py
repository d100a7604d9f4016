"""A real Slurm of one node, the distribution's, unpacked and run in a folder of its own: real jobs of real users.

    munged ◀── slurmctld ──▶ slurmd ──▶ slurmstepd ──▶ the job, under its user's id, in
       ▲           ▲                                   freezer:/slurm_NODE/uid_33/job_4711/step_batch
       └── sbatch ─┘                                   cpuacct:/slurm_NODE/uid_33/job_4711/step_batch/task_0, …

The node's name is made up, so the groups are nobody else's, and none of them outlives the `with` block.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

import pytest

from standin import debian
from standin.daemon import free_port
from standin.debian import ToolsMissing, apt_settings, unpack_all

GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("freezer", "cpuacct", "cpuset", "memory")
EXCUSE = "needs a real cgroup v1"

_PACKAGES = ("munge", "slurm-client", "slurm-wlm-basic-plugins", "slurmctld", "slurmd")
_DAEMONS = ("slurmctld", "slurmd", "slurmstepd")
_CACHE = Path(__file__).resolve().parents[2] / ".cache"
_START_ATTEMPTS = 3  # somebody may take a free port first
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"}

_CONFIG = """\
ClusterName=wattgram
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
PluginDir={plugins}
FirstJobId={first}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmdPidFile={folder}/state/slurmd.pid
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
KillWait=2
GresTypes=gpu,shard
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={processors} Gres=gpu:1,shard:8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:8
{more}
"""
_CGROUP_CONFIG = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={GROUPS}
ConstrainCores=yes
ConstrainRAMSpace=yes
"""

# One card that eight jobs may share. It is never opened, so any device does.
_GRES_CONFIG = """\
Name=gpu File=/dev/zero
Name=shard Count=8 File=/dev/zero
"""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was submitted."""

    id: str
    user: str

    @property
    def uid(self) -> int:
        """Its user's number."""
        return pwd.getpwnam(self.user).pw_uid


# --- finding and fetching -------------------------------------------------------------------------


@functools.cache
def _tree() -> Path | str:
    """The unpacked packages, or why there are none; asked once a process."""
    try:
        return _fetched(Path(os.environ.get("WATTGRAM_TOOLS") or _CACHE) / "slurm-tools")
    except subprocess.CalledProcessError as e:
        return f"no slurm: {' '.join(e.cmd[:1])} failed: {e.stderr.strip()[-500:]}"
    except (OSError, subprocess.TimeoutExpired, ToolsMissing) as e:
        return f"no slurm: {e}"


def _fetched(cache: Path) -> Path:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "complete").exists():
            shutil.rmtree(cache, ignore_errors=True)
            settings = apt_settings(cache)
            debian.ran(["apt-get", *settings, "update"], cache)
            debian.ran(["apt-get", *settings, "download", *_lacking(cache, settings)], cache)
            unpack_all(cache)
            _name_as_installed(cache / "tree")
            (cache / "complete").touch()
    return cache / "tree"


def _lacking(cache: Path, settings: Sequence[str]) -> list[str]:
    """The packages and, down to the last one, what they depend on and is not installed."""
    only = (f"--no-{link}" for link in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"))
    told = debian.ran(["apt-cache", *settings, "depends", "--recurse", *only, *_PACKAGES], cache)
    installed = set(debian.ran(["dpkg-query", "--show", "--showformat", "${Package}\n"], cache).split())
    needed = {line for line in told.splitlines() if line[0].isalnum() and ":" not in line}
    return sorted({*_PACKAGES, *(needed - installed)})


def _name_as_installed(tree: Path) -> None:
    """Do as the packages do when installed: by its name a program knows what it is, and reads cgroup.conf or not."""
    for name in _DAEMONS:
        (tree / "usr/sbin" / name).symlink_to(f"{name}-wlm")


# --- whether it can run here ----------------------------------------------------------------------


def tools_or_skip() -> Path:
    """Return the tree of packages; skip where the kernel or the rights do not do, or nothing can be fetched."""
    if why := _forbidden():
        pytest.skip(f"{EXCUSE}: {why}")
    tree = _tree()
    if isinstance(tree, str):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(tree)
    return tree


def _forbidden() -> str:
    """Why no groups can be made here; empty: they can."""
    if os.geteuid() != 0:
        return "only root makes groups"
    for controller in CONTROLLERS:
        group = GROUPS / controller / f"wattgram-test-{os.getpid()}"
        try:
            group.mkdir()
            group.rmdir()
        except OSError as error:
            return str(error)
        if not (GROUPS / controller / "cgroup.procs").exists():
            return f"{GROUPS / controller} is no hierarchy of control groups"
    return ""


# --- the cluster ----------------------------------------------------------------------------------


@final
class Slurm:
    """A cluster of this one machine from `with` to its end; `folder` may be entered by every user.

    `prolog` and `epilog` are scripts that slurmd runs as root around each job; `more` are lines for slurm.conf. Skips
    the test where there can be none.
    """

    def __init__(self, *, prolog: Path | None = None, epilog: Path | None = None, more: str = "") -> None:
        self._tree = tools_or_skip()
        # Not where pytest or $TMPDIR would have it: other users must get in.
        self.folder = Path(tempfile.mkdtemp(prefix="wattgram-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.node = f"wattgram-{os.getpid()}-{next(_numbers)}"
        scripts = {"Prolog": prolog, "Epilog": epilog}
        self._more = "\n".join([more, *(f"{key}={path}" for key, path in scripts.items() if path)])
        self._libraries = sorted({str(path.parent) for path in self._tree.rglob("*.so*")})
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    # --- jobs ---------------------------------------------------------------------------------

    def submit(self, user: str, script: str, *, name: str = "", account: str = "", gres: str = "") -> Job:
        """Submit a batch script, given without its first line, for a user; `gres` such as gpu:1 or shard:1."""
        person = pwd.getpwnam(user)
        options = [f"--uid={person.pw_uid}", f"--gid={person.pw_gid}", "--chdir=/", f"--output={self.folder}/out/%j"]
        wanted = {"job-name": name, "account": account, "gres": gres}
        options += [f"--{key}={value}" for key, value in wanted.items() if value]
        said = self._ask("sbatch", "--parsable", *options, text=f"#!/bin/sh\n{script}\n")
        return Job(said.strip().partition(";")[0], user)

    def cancel(self, job: Job) -> None:
        """Let Slurm end a job."""
        self._ask("scancel", job.id)

    def facts(self, job: Job) -> dict[str, str]:
        """What `scontrol show job` says, by its keys."""
        said = self._ask("scontrol", "--oneliner", "show", "job", job.id)
        return dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", said))

    def wait_running(self, *jobs: Job, deadline: float = 30.0) -> None:
        """Return once there are processes of each job's batch step."""
        self._wait(lambda: all(map(self.processes, jobs)), deadline, "running", jobs)

    def wait_over(self, *jobs: Job, deadline: float = 30.0) -> None:
        """Return once the jobs have ended and their groups are gone."""
        self._wait(lambda: all(map(self.is_over, jobs)), deadline, "over", jobs)

    def is_over(self, job: Job) -> bool:
        """Whether a job has ended and its groups are gone."""
        groups = (self.group(job, controller) for controller in CONTROLLERS)
        return self.facts(job)["JobState"] in _OVER and not any(group.exists() for group in groups)

    def processes(self, job: Job) -> list[int]:
        """The pids of a job's batch step, by the freezer; Slurm's own process is not in it."""
        return _members([self.group(job, "freezer") / "step_batch"])

    def group(self, job: Job, controller: str) -> Path:
        """A job's group in a hierarchy, there or not."""
        return self._top(controller) / f"uid_{job.uid}" / f"job_{job.id}"

    def output(self, job: Job) -> str:
        """What a job has printed, to both outputs."""
        path = self.folder / "out" / job.id
        return path.read_text(errors="replace") if path.exists() else ""

    def node_state(self) -> str:
        """Such as idle, mixed, allocated, drained."""
        return self._ask("sinfo", "--noheader", "--Node", "--format=%T").strip()

    def python(self, user: str) -> str:
        """A Python that this user may run, which the tests' own need not be."""
        person = pwd.getpwnam(user)
        for candidate in (sys.executable, os.path.realpath(sys.executable), shutil.which("python3", path=os.defpath)):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                as_user = {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": []}
                subprocess.run([str(candidate), "-I", "-c", ""], check=True, timeout=30, cwd="/", **as_user)  # type: ignore[call-overload]
                return str(candidate)
        pytest.skip(f"{user} can run no Python here")

    def log(self) -> str:
        """What the daemons say, the newest of each."""
        return "\n".join(f"--- {path.name}\n{_tail(path)}" for path in sorted((self.folder / "log").glob("*")))

    # --- inside -------------------------------------------------------------------------------

    def _start(self) -> None:
        for name in ("state", "spool", "munge", "log", "out"):
            (self.folder / name).mkdir()
        (self.folder / "out").chmod(0o1777)
        (self.folder / "munge/key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge/key").chmod(0o600)
        (self.folder / "cgroup.conf").write_text(_CGROUP_CONFIG)
        (self.folder / "gres.conf").write_text(_GRES_CONFIG)
        munge = self.folder / "munge"
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        self._launch("munged", "--foreground", "--force", *(f"--{key}={munge / name}" for key, name in files.items()))
        self._wait((munge / "socket").exists, 10.0, "munged", ())
        for attempt in range(_START_ATTEMPTS):
            self._start_slurm()
            if self._answers():
                return
            assert attempt < _START_ATTEMPTS - 1, f"Slurm does not start:\n{self.log()}"
            self._end("slurmd", "slurmctld")

    def _start_slurm(self) -> None:
        config = self.folder / "slurm.conf"
        config.write_text(
            _CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                ports=(free_port(), free_port()),
                folder=self.folder,
                plugins=next(self._tree.rglob("slurm-wlm/auth_munge.so")).parent,
                node=self.node,
                processors=len(os.sched_getaffinity(0)),
                first=_first_job(),
                more=self._more,
            )
        )
        self._launch("slurmctld", "-D", "-f", config)
        self._launch("slurmd", "-D", "-N", self.node, "-f", config, "-d", self._tree / "usr/sbin/slurmstepd")

    def _answers(self) -> bool:
        """Whether the node is idle soon; not, once a daemon has ended."""
        end = time.monotonic() + 20.0
        while time.monotonic() < end and all(process.poll() is None for process in self._running.values()):
            with contextlib.suppress(subprocess.SubprocessError):
                if self.node_state() == "idle":
                    return True
            time.sleep(0.05)
        return False

    def _stop(self) -> None:
        try:
            self._end("slurmd", "slurmctld", "munged")
            self._remove_groups()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, *names: str) -> None:
        """End daemons in this order."""
        for name in names:
            if process := self._running.pop(name, None):
                process.terminate()
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _remove_groups(self) -> None:
        """End what is left of jobs, frozen or not, and take their groups away."""
        end = time.monotonic() + 10.0
        while tops := [top for top in map(self._top, CONTROLLERS) if top.exists()]:
            # Not Path.rglob, which raises when a group goes while it looks.
            groups = [Path(group) for top in tops for group, _, _ in os.walk(top, topdown=False)]
            for pid in _members(groups):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for group in groups:
                with contextlib.suppress(OSError):
                    (group / "freezer.state").write_text("THAWED")
                with contextlib.suppress(OSError):
                    group.rmdir()
            assert time.monotonic() < end, f"groups that cannot be removed: {tops}"
            time.sleep(0.01)

    def _top(self, controller: str) -> Path:
        return GROUPS / controller / f"slurm_{self.node}"

    def _wait(self, condition: Callable[[], object], deadline: float, what: str, jobs: Sequence[Job]) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"not {what} within {deadline:g} s: {jobs}\n{self.log()}"
            time.sleep(0.03)

    def _launch(self, name: str, *arguments: object) -> None:
        command = [str(self._tree / "usr/sbin" / name), *map(str, arguments)]
        with (self.folder / "log" / name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _ask(self, name: str, *arguments: str, text: str = "") -> str:
        command = [str(self._tree / "usr/bin" / name), *arguments]
        done = subprocess.run(
            command, cwd="/", env=self._env, input=text, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    @property
    def _env(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "LD_LIBRARY_PATH": ":".join(self._libraries),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }


def _first_job() -> int:
    """A number for the first job that no other cluster on this machine gives meanwhile; the greatest are 67 million."""
    return 1_000_000 + os.getpid() % 1_000_000 * 50


def _members(groups: Iterable[Path]) -> list[int]:
    """Who is in these groups, each once."""
    pids: set[int] = set()
    for group in groups:
        with contextlib.suppress(OSError):
            pids |= set(map(int, (group / "cgroup.procs").read_text().split()))
    return sorted(pids)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]
