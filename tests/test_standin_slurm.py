"""A real Slurm is used as it is: this shows where its jobs run and under whom, and that nothing outlives it."""

from __future__ import annotations

from pathlib import Path

from standin.slurm import CONTROLLERS, GROUPS, Slurm
from standin.watching import wait


def test_a_job_runs_under_its_user_in_groups_of_its_own_and_ends_with_the_cluster() -> None:
    """The freezer knows steps, memory and accounting each task; Slurm's own process is a level above, or nowhere."""
    with Slurm() as slurm:
        job = slurm.submit("www-data", "id -un; cat /proc/self/cgroup; exec sleep 600", name="a=b c", account="physics")
        slurm.wait_running(job)
        wait(lambda: "freezer" in slurm.output(job))
        sleeper = slurm.processes(job)
        step = f"/slurm_{slurm.node}/uid_{job.uid}/job_{job.id}/step_batch"

        user, *lines = slurm.output(job).splitlines()
        found = {
            controller: path for line in lines for _, controller, path in [line.split(":")] if controller in CONTROLLERS
        }
        assert "www-data" == user
        assert {"freezer": step, "cpuset": step, "cpuacct": f"{step}/task_0", "memory": f"{step}/task_0"} == found
        facts = slurm.facts(job)
        assert ("RUNNING", "a=b c", "physics") == (facts["JobState"], facts["JobName"], facts["Account"])
        assert job.uid == Path(f"/proc/{sleeper[-1]}").stat().st_uid

    assert [] == [*GROUPS.glob(f"*/slurm_{slurm.node}*")]
    assert not slurm.folder.exists()
    assert not any(Path(f"/proc/{pid}/cwd").exists() for pid in sleeper)
