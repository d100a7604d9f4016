"""The acceptance line of Slurm, a real one: jobs of two users share a stand-in GPU, with and without the daemon."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest

from standin.books import Auditor
from standin.daemon import Daemon, Metrics
from standin.nvml import WORKLOAD, CompilerMissing, Constant, Gpu, Load, NvmlStandin, Registered
from standin.rig import EVERY, with_rapl
from standin.slurm import Job, Slurm
from standin.stage import Report, Seconds, Stage, every_scene, scene
from standin.sysfs import RaplTree, Zone
from standin.watching import devices, mono, wait

HOOKS = Path(__file__).resolve().parents[1] / "deploy/slurm"
WORKLOADS, OWNERS, INFO = (
    "wattgram_workload_energy_joules_total",
    "wattgram_owner_energy_joules_total",
    "wattgram_workload_info",
)
IDLE_WATTS = 40.0
LINGER = 2.0
# The two users of every Debian that are nobody's: their jobs' watts and use of the GPU, and how much later each begins.
PEOPLE = {"www-data": (180, 60, 0.0), "games": (60, 20, 1.5)}
ACCOUNTS = {"www-data": "physics", "games": "chess"}
BUSY, WAITING = "games", "www-data"  # who keeps a processor busy too
# Utilisation is sampled four times a second: when somebody comes or goes, this much of all that is drawn may be taken
# for another's; and this much later, on a busy machine, a job's beginning or end may be seen.
EDGE = 0.25
LATE = 1.0


@dataclass
class Seen:
    """One series: its newest value, and when, in monotonic seconds, it was last greater than before and last shown."""

    value: float
    grown: float
    shown: float


Watched = dict[tuple[tuple[str, str], ...], Seen]
Span = tuple[float, float]


@dataclass
class Outcome:
    """What two jobs came to: by user each one's job, when it had the card and was on it, and what the daemon showed."""

    jobs: Mapping[str, Job]
    held: Mapping[str, Span]
    present: Mapping[str, Registered]
    watched: Watched
    owners: Mapping[str, float]
    info: Mapping[str, Mapping[str, str]]

    def series(self, user: str, **labels: str) -> list[Seen]:
        """What was shown of a user's job."""
        wanted = {"kind": "slurm", "workload": self.jobs[user].id, **labels}.items()
        return [seen for series, seen in self.watched.items() if wanted <= dict(series).items()]

    def joules(self, user: str, **labels: str) -> float:
        """All joules of a user's job, by the last values."""
        return sum(seen.value for seen in self.series(user, **labels))

    def active(self, user: str) -> float:
        """What a user's job truly drew above the idle power."""
        return self.present[user].joules(-inf, inf)

    def idle(self, user: str) -> float:
        """A user's true part of the idle power: equal parts for those who have the card."""
        times = sorted({time for span in self.held.values() for time in span})
        joules = 0.0
        for start, end in pairwise(times):
            holders = [who for who, span in self.held.items() if span[0] <= start and end <= span[1]]
            joules += IDLE_WATTS * (end - start) / len(holders) if user in holders else 0.0
        return joules


def watch(daemon: Daemon, watched: Watched) -> Metrics:
    """Scrape once and take note of every workload's series."""
    metrics, now = daemon.metrics(), time.monotonic()
    for sample in metrics.samples(WORKLOADS):
        seen = watched.setdefault(tuple(sorted(sample.labels.items())), Seen(0.0, now, now))
        if sample.value > seen.value:
            seen.value, seen.grown = sample.value, now
        seen.shown = now
    return metrics


def script(slurm: Slurm, nvml: NvmlStandin, user: str, length: float) -> str:
    """A batch script that is on the card for some seconds, under the job's user, with files that this one may read."""
    watts, sm, later = PEOPLE[user]
    program = slurm.folder / WORKLOAD.name
    shutil.copyfile(WORKLOAD, program)
    burn = ("--burn",) if user == BUSY else ()
    _, _, *arguments = nvml.command(f"0:{watts}:{sm}", options=("--seconds", str(length), *burn))
    return f"sleep {later}; exec " + shlex.join([slurm.python(user), "-I", str(program), *arguments])


# --- two users share a card -----------------------------------------------------------------------


def shared(directory: Path, seconds: Seconds) -> dict[str, Any]:
    """Two jobs overlap; when the daemon shows neither any more, a third runs without it."""
    notes = directory / "jobs"
    with ExitStack() as stack:
        slurm = stack.enter_context(Slurm(**hooks(notes), more="PrologFlags=Contain"))
        try:
            nvml = NvmlStandin(slurm.folder / "nvml", [Gpu(profile=Load(IDLE_WATTS), counter_step=0.001)])
        except CompilerMissing as missing:
            pytest.skip(str(missing))
        tree = stack.enter_context(RaplTree(directory / "tree", [Zone("intel-rapl:0", "package-0", Constant(100.0))]))
        tree.start_writer()
        daemon = stack.enter_context(Daemon(directory, config(tree, notes), env=nvml.env))
        wait(lambda: len(devices(daemon)) == 2)
        with Auditor(daemon):
            length = seconds(6.0, 60.0)
            jobs = {
                user: slurm.submit(user, script(slurm, nvml, user, length), account=account, gres="shard:1")
                for user, account in ACCOUNTS.items()
            }
            met = meet(slurm, nvml, daemon, jobs, notes)
        daemon.stop()
        shutil.rmtree(notes)
        alone = slurm.submit("www-data", script(slurm, nvml, "www-data", 0.5), account="physics", gres="gpu:1")
        with contextlib.suppress(AssertionError):  # its state is judged
            slurm.wait_over(alone, deadline=15.0)
        return {"met": met, "alone": slurm.facts(alone), "printed": slurm.output(alone), "node": slurm.node_state()}


def meet(slurm: Slurm, nvml: NvmlStandin, daemon: Daemon, jobs: Mapping[str, Job], notes: Path) -> Outcome:
    """Watch two jobs until the daemon shows neither."""
    watched: Watched = {}
    held: dict[str, Span] = {}
    info: dict[str, Mapping[str, str]] = {}
    pids: dict[int, str] = {}

    def are_over() -> bool:
        info.update({s.labels["workload"]: s.labels for s in watch(daemon, watched).samples(INFO, kind="slurm")})
        for user, job in jobs.items():
            pids.update(dict.fromkeys(slurm.processes(job), user))
            with contextlib.suppress(FileNotFoundError):  # the epilog struck it out
                noted = mono((notes / job.id).stat().st_mtime)
                held[user] = (noted, time.monotonic())
        return all(map(slurm.is_over, jobs.values()))

    wait(are_over, 120.0)
    ids = {job.id for job in jobs.values()}
    wait(lambda: not any(sample.labels["workload"] in ids for sample in watch(daemon, watched).samples(WORKLOADS)))
    metrics = watch(daemon, watched)
    owners = {user: metrics.sum(OWNERS, kind="slurm", owner=user) for user in jobs}
    present = {pids[registered.pid]: registered for registered in nvml.registered()}
    return Outcome(jobs, held, present, watched, owners, info)


def config(tree: RaplTree, notes: Path) -> str:
    """A card whose idle power is known and that is looked at often, and processors."""
    return with_rapl(
        tree,
        f"""activity_every = "{EVERY * 1000:.0f}ms"
[attribution]
linger = "{LINGER:.0f}s"
idle_watts = {{ "GPU-5ca1ab1e-0000-4000-8000-000000000000" = {IDLE_WATTS} }}
[workloads.slurm]
enabled = true
jobs = "{notes}"
""",
        nvml="enabled = true",
    )


def hooks(notes: Path) -> dict[str, Path]:
    """Slurm's prolog and epilog as they are shipped, told of another folder for their notes."""
    notes.mkdir(mode=0o755)
    wrapped = {}
    for name in ("prolog", "epilog"):
        wrapped[name] = script = notes.with_name(f"{name}.sh")
        script.write_text(f"#!/bin/sh\nexec /bin/sh {shlex.quote(str(HOOKS / name))}.sh {shlex.quote(str(notes))}\n")
        script.chmod(0o755)
    return wrapped


@scene(shared)
@pytest.mark.accept("5.4", "two Slurm jobs of two users share a GPU: each has its joules, active and idle")
def test_each_job_has_its_own_joules(outcome: dict[str, Any], report: Report) -> None:
    """By the last values that were shown, and by what the processes on the card truly drew."""
    met: Outcome = outcome["met"]
    drawn = IDLE_WATTS + sum(watts for watts, _, _ in PEOPLE.values())
    told = []
    for user in PEOPLE:
        found = tuple(met.joules(user, component="gpu", activity=activity) for activity in ("active", "idle"))
        truth = met.active(user), met.idle(user)
        told.append(f"{user} {found[0]:.0f} + {found[1]:.0f} J, in truth {truth[0]:.0f} + {truth[1]:.0f} J")
        assert abs(found[0] - truth[0]) <= EDGE * drawn, told[-1]
        assert abs(found[1] - truth[1]) <= LATE * IDLE_WATTS, told[-1]
    report("; ".join(told))


@scene(shared)
@pytest.mark.accept("5.4", "what a Slurm job's processors use is the job's, by the groups in which Slurm accounts")
def test_each_job_has_its_processors_joules(outcome: dict[str, Any], report: Report) -> None:
    """One keeps a processor busy, the other waits."""
    met: Outcome = outcome["met"]
    busy, waiting = (met.joules(user, component="cpu") for user in (BUSY, WAITING))
    assert busy > 5 * waiting, (busy, waiting)
    report(f"busy {busy:.0f} J, waiting {waiting:.1f} J")


@scene(shared)
@pytest.mark.accept("5.4", "a Slurm job's owner is its user, whose account holds the same joules")
def test_a_job_is_its_users(outcome: dict[str, Any]) -> None:
    """The job is nobody else's, and nobody else's joules are his."""
    met: Outcome = outcome["met"]
    ids = {job.id for job in met.jobs.values()}
    seen = {(labels["kind"], labels["workload"], labels["owner"]) for labels in map(dict, met.watched)}

    assert {("slurm", job.id, user) for user, job in met.jobs.items()} == {named for named in seen if named[1] in ids}
    for user, joules in met.owners.items():
        booked = sum(
            seen.value for labels, seen in met.watched.items() if {("kind", "slurm"), ("owner", user)} <= {*labels}
        )
        assert joules == pytest.approx(booked, abs=1e-5)


@scene(shared)
@pytest.mark.accept("5.4", "a Slurm job gets nothing after its end, and is shown as long as it lingers")
def test_a_jobs_account_ends_with_it(outcome: dict[str, Any], report: Report) -> None:
    """A scraper sees the last value; what the other job goes on to use is not this one's."""
    met: Outcome = outcome["met"]
    told = []
    for user in PEOPLE:
        series, end = met.series(user, component="gpu"), met.held[user][1]
        grown, shown = max(s.grown for s in series) - end, max(s.shown for s in series) - end
        told.append(f"{user} last booked {grown:+.1f} s, last shown {shown:+.1f} s after the end")
        assert grown <= LATE, told[-1]
        assert LINGER - LATE <= shown <= LINGER + 2 * LATE, told[-1]
    report("; ".join(told))


@scene(shared)
@pytest.mark.accept("5.4", "what Slurm's prolog notes of a job, its account, is shown beside it")
def test_a_jobs_account_is_known_by_the_prolog(outcome: dict[str, Any]) -> None:
    """In the info series alone: nobody waits for it."""
    met: Outcome = outcome["met"]

    assert ACCOUNTS == {user: met.info.get(job.id, {}).get("account") for user, job in met.jobs.items()}


@scene(shared)
@pytest.mark.accept("5.4", "without the daemon and its folder, Slurm's prolog and epilog harm no job")
def test_jobs_run_without_the_daemon(outcome: dict[str, Any]) -> None:
    """The job ran on the card to its end, and the node takes more."""
    assert ("COMPLETED", "0:0") == (outcome["alone"]["JobState"], outcome["alone"]["ExitCode"])
    assert "on\noff\n" == outcome["printed"]
    assert "idle" == outcome["node"]


@every_scene
@pytest.mark.accept("5.4", "Σ owners = Σ devices at every scrape while Slurm jobs come and go")
def test_the_books_are_right_at_every_scrape(stage: Stage) -> None:
    """What the auditor beside the daemon found."""
    stage.outcome(shared)

    assert {"shared": []} == stage.audits()
