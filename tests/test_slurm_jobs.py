"""What a prolog noted of Slurm jobs: who they are, which GPUs they hold, for how long it is believed, and from whom."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from wattgram.clock import ManualClock
from wattgram.model import Named, Subject, Workload
from wattgram.tools.users import Users
from wattgram.workloads._jobs import MOST_BYTES, Job, JobFolder, parse, parse_gpus
from wattgram.workloads.slurm import GONE_SECONDS, SCAN_SECONDS, SlurmNamer, running

HOOKS = Path(__file__).resolve().parent.parent / "deploy" / "slurm"
UUID = "GPU-0a1b2c3d-1111-2222-3333-444455556666"
DEPTH = len("/system.slice/slurmstepd.scope/job_7")
ALICES = "user=alice\nuid=1000\naccount=physics\nname=train\ngpus=0,1\n"


class Host:
    """A folder of jobs and a hierarchy of groups, on a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.jobs = root / "jobs"
        self.jobs.mkdir(mode=0o755)
        self.groups = root / "cgroup"
        self.groups.mkdir()
        self.clock = ManualClock(100.0, time.time())
        users = Users(self.clock, {1000: "alice", 1001: "bob"}.get, 20.0)
        self.namer = SlurmNamer(users, JobFolder(self.jobs, os.geteuid()), self.groups, self.clock)

    def note(self, job: str, text: str = ALICES) -> Path:
        path = self.jobs / job
        path.write_text(text)
        path.chmod(0o644)
        return path

    def group(self, job: str) -> Path:
        path = self.groups / "system.slice" / "slurmstepd.scope" / f"job_{job}"
        path.mkdir(parents=True)
        return path

    def name(self, job: str, uid: int | None = 1000) -> Named | None:
        return self.namer.name_of(Subject((f"/system.slice/slurmstepd.scope/job_{job}/step_0/user/task_0",), uid=uid))

    def held(self, later: float = SCAN_SECONDS) -> dict[str, list[str]]:
        """Which jobs hold which GPU, some seconds later."""
        self.clock.advance(later)
        return {
            gpu: [named.workload.id for named in holders if named.workload]
            for gpu, holders in self.namer.holders().items()
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_job_has_the_name_and_the_account_that_the_prolog_noted(host: Host) -> None:
    host.note("7")

    named = host.name("7", uid=None)

    assert Named(Workload("slurm", "7", "alice"), DEPTH, "train", "physics") == named


def test_a_job_without_a_note_has_its_processs_user(host: Host) -> None:
    assert Named(Workload("slurm", "7", "bob"), DEPTH) == host.name("7", uid=1001)


def test_a_note_with_a_uid_alone_names_its_user(host: Host) -> None:
    host.note("7", "uid=1001\ngpus=0\n")

    assert {"0": (Named(Workload("slurm", "7", "bob")),)} == host.namer.holders()


def test_gpus_are_held_by_the_jobs_that_the_prolog_noted(host: Host) -> None:
    """Also while none of their processes is on them; several may share one."""
    host.note("10", f"user=bob\ngpus=1,{UUID}\n")
    host.note("9")

    alice = Named(Workload("slurm", "9", "alice"), 0, "train", "physics")
    bob = Named(Workload("slurm", "10", "bob"))
    assert {"0": (alice,), "1": (alice, bob), UUID: (bob,)} == host.namer.holders()


def test_a_note_and_its_end_are_seen_at_once_and_a_change_of_it_after_five_seconds(host: Host) -> None:
    """A job's first joules already have its account, and its last are not followed by another's."""
    seen = [host.held(0.0)]
    note = host.note("7")
    os.utime(note.parent, ns=(0, 1))  # not in the tick in which the folder was looked at
    seen += [host.held(0.0)]
    note.write_text(ALICES + "gpus=3\n")
    seen += [host.held(SCAN_SECONDS - 1), host.held(1.0)]
    note.unlink()
    os.utime(note.parent, ns=(0, 2))
    seen += [host.held(0.0)]

    both = {"0": ["7"], "1": ["7"]}
    assert [{}, both, both, {"3": ["7"]}, {}] == seen


def test_a_note_that_the_epilog_forgot_holds_no_gpu_after_ten_minutes(host: Host) -> None:
    host.note("7")

    assert [True, True, False, False] == [
        bool(host.held(seconds)) for seconds in (0.0, GONE_SECONDS - 10, 10.0, GONE_SECONDS)
    ]


def test_a_note_that_was_forgotten_before_the_daemon_began_holds_no_gpu(host: Host) -> None:
    note = host.note("7")
    long_ago = time.time() - 2 * GONE_SECONDS
    os.utime(note, (long_ago, long_ago))

    assert {} == host.held()


def test_a_job_that_has_a_group_holds_its_gpu_however_long_it_is_idle(host: Host) -> None:
    note = host.note("7")
    long_ago = time.time() - 2 * GONE_SECONDS
    os.utime(note, (long_ago, long_ago))
    group = host.group("7")

    during = [bool(host.held(GONE_SECONDS)) for _ in range(3)]
    group.rmdir()
    after = [bool(host.held(seconds)) for seconds in (GONE_SECONDS - 10, 10.0)]

    assert ([True, True, True], [True, False]) == (during, after)


def test_a_job_whose_process_is_seen_holds_its_gpu_where_groups_cannot_be(host: Host) -> None:
    """In a container without the host's hierarchy."""
    host.note("7")

    held = []
    for _ in range(5):
        host.name("7")
        held.append(bool(host.held(GONE_SECONDS - 10)))

    assert [True] * 5 == held


@pytest.mark.parametrize(
    "group",
    [
        "system.slice/slurmstepd.scope/job_7",
        "system.slice/node-1_slurmstepd.scope/job_7",
        "unified/system.slice/slurmstepd.scope/job_7",
        "memory/slurm/uid_1000/job_7",
        "freezer/slurm_node-1/uid_1000/job_7",
    ],
)
def test_jobs_are_found_in_every_hierarchy(tmp_path: Path, group: str) -> None:
    (tmp_path / group).mkdir(parents=True)

    assert {"7"} == running(tmp_path)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("0", ("0",)),
        ("0,1,3", ("0", "1", "3")),
        ("0-2,5", ("0", "1", "2", "5")),
        ("1,1", ("1",)),
        ("007", ("7",)),
        (UUID, (UUID,)),
        ("", ()),
        ("0,", ()),
        ("0, 1", ()),
        ("-1", ()),
        ("3-1", ()),
        ("0,gpu:a100", ()),
        ("MIG-0a1b2c3d-1111-2222-3333-444455556666", ()),
        ("0-9999", ()),
        ("٤", ()),
    ],
)
def test_a_list_of_gpus_is_understood_whole_or_not_at_all(text: str, gpus: tuple[str, ...]) -> None:
    assert gpus == parse_gpus(text)


@pytest.mark.parametrize(
    ("text", "job"),
    [
        (ALICES, Job("alice", 1000, "physics", "train", ("0", "1"), 5.0)),
        ("", Job(written=5.0)),
        ("\0\xff\n=\n===\nuser\ncolour=red\n", Job(written=5.0)),
        ("user=a=b\r\nname= x y \nuid=-1", Job(user="a=b", name="x y", written=5.0)),
        ("uid=4294967295\nname=a\x1b[2Jb", Job(name="a\N{REPLACEMENT CHARACTER}[2Jb", written=5.0)),
    ],
)
def test_a_note_says_what_it_says(text: str, job: Job) -> None:
    assert job == parse(text, 5.0)


def test_only_whole_files_of_roots_are_read(tmp_path: Path) -> None:
    """A user who could write here could have his energy billed to another."""
    host = Host(tmp_path)
    host.note("1")
    host.note("2").chmod(0o664)
    host.note("3").chmod(0o646)
    host.note("4", ALICES + " " * MOST_BYTES)
    (host.jobs / "5").symlink_to(host.jobs / "1")
    os.mkfifo(host.jobs / "6", 0o644)
    (host.jobs / "7").mkdir()
    for name in (".8.new", "8x", "08", "0", "-9", "9" * 11):
        host.note(name)

    read = set(JobFolder(host.jobs, os.geteuid()).jobs())
    as_another = set(JobFolder(host.jobs, os.geteuid() + 1).jobs())

    assert ({"1"}, set()) == (read, as_another)


def test_a_folder_where_others_write_is_not_read_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(tmp_path)
    host.note("1")
    folder = JobFolder(host.jobs, os.geteuid())

    host.jobs.chmod(0o1777)
    while_open = [set(folder.jobs()) for _ in range(3)]
    said = list(caplog.messages)
    host.jobs.chmod(0o755)

    assert ([set()] * 3, {"1"}, 1) == (while_open, set(folder.jobs()), len(said))
    assert str(host.jobs) in said[0]


def test_of_too_many_notes_the_newest_jobs_are_read(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for job in range(1, 20):
        host.note(str(job))

    assert {"17", "18", "19"} == set(JobFolder(host.jobs, os.geteuid(), most=3).jobs())


def test_an_unchanged_note_is_not_read_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.note("1")
    host.note("2")
    folder = JobFolder(host.jobs, os.geteuid())
    before = folder.jobs()
    host.note("2", "user=bob\n")

    after = folder.jobs()

    assert before["1"] is after["1"]
    assert ("alice", "bob") == (before["2"].user, after["2"].user)


# --- the hooks --------------------------------------------------------------------------------------

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_USER": "alice"}


def hook(name: str, folder: Path, environ: dict[str, str], shell: str = "/bin/sh") -> int:
    """Run a hook as slurmd does: with this environment, and no more, not even a PATH."""
    words = [shell, "sh"] if shell == "busybox" else [shell]
    path = shutil.which(words[0]) or words[0]
    done = subprocess.run(
        [path, *words[1:], "-u", HOOKS / name, folder], env=environ, capture_output=True, timeout=60, check=False
    )
    assert (b"", b"") == (done.stdout, done.stderr)
    return done.returncode


@pytest.mark.parametrize("shell", SHELLS)
def test_what_the_prolog_notes_is_what_the_namer_reads_until_the_epilog(host: Host, shell: str) -> None:
    full = {**JOB, "SLURM_JOB_ACCOUNT": "physics", "SLURM_JOB_NAME": "train", "SLURM_JOB_GPUS": "0,1"}

    codes = [hook("prolog.sh", host.jobs, full, shell)]
    note, held, named = (host.jobs / "7").read_text(), host.held(), host.name("7", uid=None)
    codes += [hook("epilog.sh", host.jobs, full, shell)]

    assert (ALICES, {"0": ["7"], "1": ["7"]}, {}) == (note, held, host.held())
    assert Named(Workload("slurm", "7", "alice"), DEPTH, "train", "physics") == named
    assert ([0, 0], []) == (codes, list(host.jobs.iterdir()))


def test_a_job_without_gpus_account_and_name_is_noted_too(host: Host) -> None:
    assert 0 == hook("prolog.sh", host.jobs, JOB)

    assert "user=alice\nuid=1000\n" == (host.jobs / "7").read_text()
    assert 0o644 == (host.jobs / "7").stat().st_mode & 0o777


@pytest.mark.parametrize("shell", SHELLS)
def test_a_jobs_name_is_text_and_nothing_else(host: Host, shell: str) -> None:
    """Its user chose it."""
    name = f"a b\ngpus=5\n$(touch {host.jobs}/99) `touch {host.jobs}/98` \\n'\";* %s é " + "x" * 5000

    hook("prolog.sh", host.jobs, {**JOB, "SLURM_JOB_NAME": name, "SLURM_JOB_GPUS": "1"}, shell)
    job = JobFolder(host.jobs, os.geteuid()).jobs()["7"]

    assert ["7"] == [path.name for path in host.jobs.iterdir()]
    assert (("1",), True) == (job.gpus, job.name.startswith("a b gpus=5 $(touch"))
    assert (host.jobs / "7").stat().st_size < 300


@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh"])
@pytest.mark.parametrize("job", [None, "", "0", "x", "../7", "7/8", "7 8", "-rf", "7\n8"])
def test_a_hook_without_a_jobs_number_does_nothing(host: Host, name: str, job: str | None) -> None:
    host.note("7")

    code = hook(name, host.jobs, {} if job is None else {**JOB, "SLURM_JOB_ID": job})

    assert (0, ["7"], ALICES) == (code, [path.name for path in host.jobs.iterdir()], (host.jobs / "7").read_text())


@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh"])
def test_a_hook_does_no_harm_where_the_folder_is_missing_or_a_link(host: Host, name: str) -> None:
    """The daemon is not installed, or somebody lays a trap for root."""
    link = host.jobs.with_name("link")
    link.symlink_to(host.jobs)
    host.note("7")

    codes = [hook(name, host.jobs.with_name("nowhere"), JOB), hook(name, link, JOB)]

    assert ([0, 0], ALICES) == (codes, (host.jobs / "7").read_text())
    assert not host.jobs.with_name("nowhere").exists()


def test_the_prolog_does_not_write_where_others_may(host: Host) -> None:
    host.jobs.chmod(0o1777)

    code = hook("prolog.sh", host.jobs, JOB)

    assert (0, []) == (code, list(host.jobs.iterdir()))


@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh"])
def test_a_hook_may_be_run_as_it_is(name: str) -> None:
    assert os.access(HOOKS / name, os.X_OK)


def test_the_doctor_is_told_of_jobs_that_the_prolog_did_not_note(host: Host) -> None:
    nothing = host.namer.told()
    host.group("7")
    host.group("8")
    host.note("7")
    host.clock.advance(SCAN_SECONDS)
    some = host.namer.told()
    host.note("8")
    host.clock.advance(SCAN_SECONDS)
    every = host.namer.told()

    assert ("", "", "") == (nothing.lacks, nothing.remedy, every.lacks)
    assert "2; noted by the prolog: 1" in some.goes_by
    assert str(host.jobs) in some.remedy
    assert "2; noted by the prolog: 2" in every.goes_by
