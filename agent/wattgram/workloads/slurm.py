"""Slurm jobs, by the control groups that slurmstepd makes for their steps, and by what a prolog noted of them.

A job's process is in `/slurm/uid_UID/job_ID/step_…` (cgroup v1) or `/system.slice/slurmstepd.scope/job_ID/step_…` (v2),
which needs nothing but to read the process's path. Its account, its name and the GPUs that it holds stand in no path:
`deploy/slurm/prolog.sh` notes them, `epilog.sh` strikes them out.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from wattgram.model import Named, Subject, Workload
from wattgram.ports import Clock, NamerOptions, Told
from wattgram.tools.users import Owners, Users
from wattgram.workloads._jobs import Job, JobFolder
from wattgram.workloads._paths import living, uid, user_of

# Several slurmd of one host have their names in it: `/slurm_HOST/…`, `HOST_slurmstepd.scope`.
_V1 = r"/slurm(?:_[^/]+)?/uid_(?P<uid>[0-9]{1,10})/job_(?P<v1>[1-9][0-9]{0,9})"
_V2 = r"/(?:[^/]+_)?slurmstepd\.scope/job_(?P<v2>[1-9][0-9]{0,9})"
_JOB = re.compile(rf"(?:{_V1}|{_V2})(?=/|\Z)")
# Whoever is given a group of his own may call those in it as he likes: a job is believed at a hierarchy's root, below
# slices, and in a container, where a slurmd may run.
_ROOT = re.compile(r"(?:/\.\.)*(?:/[^/]+\.slice)*\Z")
_CONTAINER = re.compile(r"/(?:docker|kubepods|kubelet|[^/]*[0-9a-f]{64})")
# The groups of running jobs below the mounted hierarchies; `*/` is a hierarchy of v1 or, on hybrid hosts, `unified`.
_GROUPS = ("system.slice/*slurmstepd.scope/job_*", "*/system.slice/*slurmstepd.scope/job_*", "*/slurm*/uid_*/job_*")
# slurmstepd, which is root's, works beside the tasks that it started.
_STEPD = re.compile(r"/step_[^/]+/slurm(?:/|\Z)")
SCAN_SECONDS = 5.0
# A job without a control group for so long is over, whatever its file says: the epilog did not run. It is also how long
# an allocation holds its GPU in which no step was started on this host (PrologFlags=Contain starts one at once).
GONE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Options(NamerOptions):
    """`jobs` is the folder in which the prolog notes jobs, `cgroup` where control groups are mounted."""

    jobs: str = "/run/wattgram-slurm"
    cgroup: str = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Found:
    """The job that a path is in, where in the path it ended, and whose it is, if the path says so."""

    id: str
    end: int
    uid: int | None
    is_stepd: bool


def open_namer(options: NamerOptions, clock: Clock) -> SlurmNamer:
    """Return the namer; it reads paths and, if they are there, files, so it always can."""
    assert isinstance(options, Options)
    return SlurmNamer(Users(clock), JobFolder(Path(options.jobs)), Path(options.cgroup), clock)


def find(path: str) -> Found | None:
    """Return the innermost job that a path is in; a user may make groups of any name below his own slice."""
    if user_of(path) is not None:
        return None
    found: Found | None = None
    for match in _JOB.finditer(path):
        above = path[: match.start()]
        if _ROOT.match(above) or _CONTAINER.search(above):
            whose = uid(match["uid"]) if match["uid"] else None
            found = Found(match["v1"] or match["v2"], match.end(), whose, bool(_STEPD.match(path, match.end())))
    return found


def running(cgroup: Path) -> frozenset[str]:
    """Return the ids of the jobs that have a control group."""
    # Not Path.glob, which before Python 3.13 raises when a group goes while it looks.
    found = (group for pattern in _GROUPS for group in glob.iglob(pattern, root_dir=cgroup))  # noqa: PTH207
    return frozenset(group.rpartition("/job_")[2] for group in found)


class SlurmNamer:
    """Names jobs, and knows which hold which GPUs. It looks at the files every 5 s, and when one came or went."""

    def __init__(self, users: Users, folder: JobFolder, cgroup: Path, clock: Clock) -> None:
        self._users = users
        self._owners = Owners(users)
        self._folder = folder
        self._cgroup = cgroup
        self._clock = clock
        self._lock = Lock()
        self._looked_at: float | None = None
        self._state: tuple[int, int] | None = None
        self._jobs: Mapping[str, Job] = {}
        self._signs: dict[str, float] = {}  # of life, of the jobs that have a file: monotonic seconds of the last one

    def name_of(self, subject: Subject) -> Named | None:
        """Return the job; its owner is whom the prolog noted, else whom the path says, else the user of its process."""
        candidates = [found for path in subject.paths if (found := find(living(path)))]
        if not candidates:
            return None
        found = max(candidates, key=lambda one: one.end)
        job = self._known_jobs().get(found.id)
        if job:
            self._signs[found.id] = self._clock.now().mono
        process_uid = None if found.is_stepd and subject.uid == 0 else subject.uid
        owner = self._owner(found.id, job, process_uid if found.uid is None else found.uid)
        return Named(Workload("slurm", found.id, owner), found.end, job.name if job else "", job.account if job else "")

    def holders(self) -> Mapping[str, tuple[Named, ...]]:
        """Return which jobs hold which GPU, as their files say; not those that have shown no sign of life for long."""
        held: dict[str, tuple[Named, ...]] = {}
        jobs = self._known_jobs()
        now = self._clock.now().mono
        for name, job in sorted(jobs.items(), key=lambda item: int(item[0])):
            if job.gpus and now - self._signs.get(name, now) < GONE_SECONDS:
                workload = Workload("slurm", name, self._owner(name, job, None))
                for gpu in job.gpus:
                    held[gpu] = (*held.get(gpu, ()), Named(workload, 0, job.name, job.account))
        return held

    def told(self) -> Told:
        """Return how many jobs run here, and of how many the prolog has told."""
        jobs, alive = self._known_jobs(), running(self._cgroup)
        if not alive and not jobs:
            return Told("no job is here")
        goes_by = f"jobs here, by their control groups: {len(alive)}; noted by the prolog: {len(jobs)}"
        if alive <= jobs.keys():
            return Told(goes_by)
        remedy = f"have Slurm run deploy/slurm/prolog.sh, which notes them in {self._folder.path} (docs/slurm.md)"
        return Told(goes_by, "of the others neither account, name nor unused GPUs are known", remedy)

    def close(self) -> None:
        """Hold nothing, let go of nothing."""

    def _owner(self, name: str, job: Job | None, process_uid: int | None) -> str:
        if job and job.user:
            return job.user
        return self._owners.of(name, job.uid if job and job.uid is not None else process_uid)

    def _known_jobs(self) -> Mapping[str, Job]:
        with self._lock:  # who asks while the files are read waits for them: an owner is not learnt twice
            return self._looked()

    def _looked(self) -> Mapping[str, Job]:
        now = self._clock.now()
        state = self._folder.state()
        if self._looked_at is None or state != self._state or now.mono - self._looked_at >= SCAN_SECONDS:
            self._looked_at, self._state = now.mono, state
            self._jobs = self._folder.jobs()
            alive = running(self._cgroup) if self._jobs else frozenset()
            self._signs = {
                name: now.mono if name in alive else self._signs.get(name, now.mono - max(0.0, now.wall - job.written))
                for name, job in self._jobs.items()
            }
        return self._jobs
