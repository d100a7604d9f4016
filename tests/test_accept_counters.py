"""The acceptance line of what queries see: short jobs, scraped seldom, by a pair of replicas."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from standin.crowd import FIRST_PID, show
from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Gpu, Load, NvmlStandin
from standin.prometheus import Prometheus, tools_or_skip
from standin.watching import devices, pause, wait

CARDS, IDLE_WATTS, JOB_WATTS = 4, 60.0, 540.0
LIVES = 'max_over_time(wattgram_workload_energy_joules_total{kind="slurm",component="gpu"}[1h])'


def configured(nvml: NvmlStandin, proc: Path) -> str:
    idle = "\n".join(f'"{gpu.uuid}" = {IDLE_WATTS}' for gpu in nvml.gpus)
    return (
        "[sources.rapl]\nenabled = false\n[sources.hwmon]\nenabled = false\n[sources.cgroups]\nenabled = false\n"
        f'[sources.nvml]\nenabled = true\nproc = "{proc}"\n[attribution]\nproc = "{proc}"\n'
        f"[attribution.idle_watts]\n{idle}\n"
    )


@pytest.mark.accept("5.2", "jobs of 20 s scraped every 15 s by two replicas: lives and owners within 1 % of the truth")
@pytest.mark.timeout(900)
def test_lives_of_short_jobs_are_seen_whole(
    tmp_path: Path, seconds: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    """One job after another on each of four cards: 600 W each, of which 60 are the card's own."""
    tools_or_skip()
    try:
        nvml = NvmlStandin(tmp_path / "nvml", [Gpu(profile=Load(IDLE_WATTS), counter_step=0.001) for _ in range(CARDS)])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    job, every, length = seconds(6.0, 20.0), seconds(4.0, 15.0), seconds(18.0, 400.0)
    proc = tmp_path / "proc"
    (proc / "1").mkdir(parents=True)
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, configured(nvml, proc), env=nvml.env))
        wait(lambda: len(devices(daemon)) == CARDS)
        replicas = []
        for number in range(2):
            interval = f"{every:.0f}s"
            replicas.append(
                stack.enter_context(Prometheus(tmp_path / f"replica-{number}", [daemon.target], interval=interval))
            )
            pause(every / 3)
        began = time.monotonic()
        jobs: dict[int, tuple[int, float, float]] = {}  # pid: card, start, end
        ends = [began + 0.3 + card * job / CARDS for card in range(CARDS)]
        while time.monotonic() < began + length:
            now = time.monotonic()
            for card, end in enumerate(ends):
                if end <= now + 0.1 and end + job < began + length:
                    pid = FIRST_PID + len(jobs)
                    show(proc, pid, f"/slurm/uid_0/job_{pid}/step_0", 0, end)
                    nvml.put(f"{card}:{JOB_WATTS}:100", pid, start=end, end=end + job)
                    jobs[pid], ends[card] = (card, end, end + job), end + job
            for pid, (_, _, end) in jobs.items():
                if end <= now and (proc / str(pid)).exists():
                    shutil.rmtree(proc / str(pid))
            pause(0.02)
        pause(2.5 * every)
        asked = time.time()
        lives = [
            {r.labels["workload"]: r.value for r in p.query(f"sum by (workload) ({LIVES})", asked)} for p in replicas
        ]
        owners = [
            sum(r.value for r in p.query('wattgram_owner_energy_joules_total{kind="slurm",component="gpu"}'))
            for p in replicas
        ]

    truth = {str(pid): (IDLE_WATTS + JOB_WATTS) * job for pid in jobs}
    whole = sum(truth.values())
    parts = [sum(seen.values()) / whole for seen in lives]
    single = [seen.get(pid, 0.0) / joules for seen in lives for pid, joules in truth.items()]
    report(
        f"{len(jobs)} jobs of {job:.0f} s, scraped every {every:.0f} s: lives {parts[0]:.2%} and {parts[1]:.2%},"
        f" each {min(single):.1%} to {max(single):.1%}; owners {owners[0] / whole:.2%} and {owners[1] / whole:.2%}"
    )
    assert all(set(seen) == set(truth) for seen in lives)
    tolerance = seconds(0.03, 0.01)
    assert max(abs(part - 1) for part in parts) <= tolerance
    assert max(abs(owner / whole - 1) for owner in owners) <= tolerance
    assert max(abs(part - 1) for part in single) <= 0.6 / job + 0.005
