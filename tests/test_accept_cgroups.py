"""Acceptance: real processes in real control groups, each told by what its group's own counter shows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from standin.cgroups import HZ, RealGroups
from wattgram.clock import SystemClock
from wattgram.model import Activity, Process
from wattgram.sources.cgroups import Options, open_source
from wattgram.tools.procfs import parse_process, process_stat

EVERY = 0.25
HEX = "0123456789abcdef" * 4
UID = "0d1e2f3a-4b5c-4d6e-8f90-a1b2c3d4e5f6"
# Shaped as systemd, Docker and Kubernetes shape them, with either cgroup driver, and as Slurm: who works at which
# levels, and with what share of a processor.
UNIT = "/system.slice/a.service"
DOCKER, SCOPE = f"/docker/{HEX}", f"/system.slice/docker-{HEX[::-1]}.scope"
POD = f"/kubepods/burstable/pod{UID}/{HEX}"
SLICE = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + UID.replace("-", "_") + ".slice"
JOB = "/slurm/uid_1000/job_7"
WORK = {
    UNIT: 0.15,
    DOCKER: 0.2,
    SCOPE: 0.1,
    POD: 0.15,
    f"{SLICE}/cri-containerd-{HEX}.scope": 0.1,
    JOB: 0.1,  # its own, besides its step's
    f"{JOB}/step_0": 0.1,
    "/system.slice/idle.service": 0.0,
}
SHORT_LIVED = "/docker/" + HEX[::-1]
LOOSE = 0.5
PART = 0.01


def reads(source: Callable[[], tuple[Activity, ...]], seconds: float) -> list[Activity]:
    """What is said of processors in so many seconds."""
    found: list[Activity] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(EVERY)  # the source's own interval
        found += source()
    return found


@pytest.mark.accept("5.3", "each real group's share is its own counter's, nothing twice, the loose process found")
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_shares_are_those_of_the_groups_own_counters(
    version: str, seconds: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    with RealGroups(version) as groups:
        for path, share in WORK.items():
            groups.work(path, share)
        short = groups.work(SHORT_LIVED, 0.1)
        loose = groups.work(None, LOOSE)
        root = groups.root if version == "v2" else groups.root.parent
        source = open_source(Options(path=str(root)), SystemClock(), EVERY)

        def processors() -> tuple[Activity, ...]:
            return tuple(a for a in source.read().activities if a.component == "cpu")

        groups.wait()
        groups.pause()
        time.sleep(EVERY)
        assert processors()  # from here on
        before = {path: groups.counter(path) for path in ("", SHORT_LIVED, *WORK)}
        loose_before = parse_process(process_stat("/proc", loose.pid))
        groups.resume()
        groups.begin()
        length = seconds(1.8, 30.0)
        found = reads(processors, length / 2)
        groups.end(short)
        last = groups.counter(SHORT_LIVED) - before.pop(SHORT_LIVED)
        groups.remove(SHORT_LIVED)
        found += reads(processors, length / 2)
        groups.pause()
        time.sleep(EVERY)
        found += processors()
        after = {path: groups.counter(path) for path in before}
        loose_after = parse_process(process_stat("/proc", loose.pid))
        pids = groups.pids()

    truth = {path: after[path] - before[path] for path in before}
    truth[JOB] -= truth[f"{JOB}/step_0"]
    told: Counter[str] = Counter()
    for activity in found:
        told.update({a.path: a.weight or 0.0 for a in activity.actors if a.process is None})
    ours = {path.removeprefix(groups.prefix): w for path, w in told.items() if path.startswith(groups.prefix)}
    errors = {path: ours[path] / truth[path] - 1 for path in WORK}
    assert all(abs(error) < PART for error in errors.values()), errors

    # Each once: by its path, or by itself; and all together no more than the group above all of them.
    assert all(max(Counter(a.path for a in activity.actors if a.process is None).values()) == 1 for activity in found)
    assert not [a for activity in found for a in activity.actors if a.process and a.process.pid in pids - {loose.pid}]
    whole = sum(ours.values())
    lost = last - ours[SHORT_LIVED]  # what it used last, which nobody could read any more
    assert lost >= 0 < ours[SHORT_LIVED]
    assert abs(whole + lost - truth[""]) <= PART * truth[""]

    assert loose_before
    assert loose_after
    process = Process(loose.pid, loose_after.started)
    alone = sum(a.weight or 0.0 for activity in found for a in activity.actors if a.process == process)
    truly = (loose_after.used - loose_before.used) / HZ
    assert truly > 0
    assert abs(alone - truly) <= max(PART * truly, 1 / HZ)
    report(
        f"{version}: {len(WORK)} groups in {length:g} s, worst {max(map(abs, errors.values())):.4%}; all of them "
        f"{whole + lost:.2f} s of {truth['']:.2f} s, {lost:.2f} s of a short one lost; "
        f"the loose one {alone:.2f} s of {truly:.2f} s"
    )


def test_this_machines_own_groups_can_be_read() -> None:
    """Whatever they are."""
    with RealGroups("v1" if Path("/sys/fs/cgroup/cpuacct").exists() else "v2"):
        source = open_source(Options(), SystemClock(), EVERY)
        told = [a for a in source.read().activities if a.component == "dram"]

    assert all(sum(actor.weight or 0.0 for actor in activity.actors) > 0 for activity in told)
