"""The acceptance lines of "right and priced": every joule accounted for, every gram with its basis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Gpu, NvmlStandin, Square
from standin.sysfs import RaplTree, Zone
from standin.watching import devices, mono, pause, wait

pytestmark = pytest.mark.apart

EVERY = 1.0
# How long a machine with other work may take to stop all processes, and by how much a turn may come late.
STOPPING, LATE = 0.1, 0.5
Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

# Periods from 0.1 s to 60 s; every other card has no counter: its driver's samples are integrated.
PERIODS = (0.1, 0.3, 1.0, 2.0, 7.0, 15.0, 30.0, 60.0)


def cards() -> list[Gpu]:
    """Eight cards under square waves, and one like GA100, which sees 25 of each 100 ms."""
    sensors: tuple[dict[str, Any], ...] = (
        {"sensor_update": 0.1, "sensor_window": 0.1, "samples_period": 0.1},
        {"sensor_update": 0.02, "sensor_window": 0.02, "samples_period": 0.02},
    )
    found = [
        Gpu(profile=Square(100.0, 500.0, period), counter=index % 2 == 0, average_window=0.0, **sensors[index // 2 % 2])
        for index, period in enumerate(PERIODS)
    ]
    part: dict[str, Any] = {"sensor_update": 0.1, "sensor_window": 0.025, "samples_period": 0.1}
    return [*found, Gpu(name="NVIDIA A100-SXM4-80GB", profile=Square(100.0, 400.0, 0.7), counter=False, **part)]


@pytest.fixture
def nvml(tmp_path: Path) -> NvmlStandin:
    """The nine cards."""
    try:
        return NvmlStandin(tmp_path / "nvml", cards())
    except CompilerMissing as missing:
        pytest.skip(str(missing))


def errors(nvml: NvmlStandin, first: Mapping[str, Any], last: Mapping[str, Any]) -> list[float]:
    """Relative error of each card's energy between two readings of it."""
    found = []
    for index, gpu in enumerate(nvml.gpus):
        begin, end = (mono(s[gpu.uuid]["read_at"]) for s in (first, last))
        found.append((last[gpu.uuid]["joules"] - first[gpu.uuid]["joules"]) / nvml.joules(index, begin, end) - 1)
    return found


@pytest.mark.accept("3.1", "eight cards, square loads of 0.1 to 60 s: at most 0.2 % with a counter, 1.5 % without")
def test_energy_with_and_without_a_counter(tmp_path: Path, nvml: NvmlStandin, seconds: Seconds, report: Report) -> None:
    """A counter is exact; without one the driver's own samples see what polling at 1 Hz cannot."""
    config = "[sources.rapl]\nenabled = false\n[sources.nvml]\nenabled = true\n"
    length = seconds(20, 60)
    with Daemon(tmp_path, config, env=nvml.env) as daemon:
        wait(lambda: len(devices(daemon)) == 9)
        first = devices(daemon)
        pause(length)
        last = devices(daemon)

    found = errors(nvml, first, last)
    methods = [last[gpu.uuid]["method"] for gpu in nvml.gpus]
    report(", ".join(f"{m} {e:+.2%}" for m, e in zip(methods, found, strict=True)) + " (the last not judged)")
    assert ["counter", "samples"] * 4 + ["samples"] == methods
    # A counter is off by one of its steps at most, 20 ms at each end; so is the edge of a sample.
    assert max(map(abs, found[0:8:2])) <= (0.002 if length >= 60 else 0.004)
    assert max(map(abs, found[1:8:2])) <= (0.015 if length >= 60 else 0.03)
    assert all(last[gpu.uuid]["unmetered_seconds"] == 0 for gpu in nvml.gpus)


@pytest.mark.accept("3.1", "the agent stopped for 5 s: counters exact, samples to what the ring holds, RAPL a gap")
def test_the_agent_stopped_for_five_seconds(tmp_path: Path, nvml: NvmlStandin, report: Report) -> None:
    """SIGSTOP for all its processes: what can be known is known, the rest is unmetered, to the second."""
    watts, wraps_at = 400.0, 1_500_000_000  # wraps every 3.75 s
    zone = Zone("intel-rapl:0", "package-0", Square(watts - 1, watts + 1, 1.0), wraps_at)
    with ExitStack() as stack:
        tree = stack.enter_context(RaplTree(tmp_path / "tree", [zone]))
        tree.start_writer()
        config = f'[sources.rapl]\npath = "{tree.sys}"\nproc = "{tree.proc}"\n[sources.nvml]\nenabled = true\n'
        daemon = stack.enter_context(Daemon(tmp_path, config, env=nvml.env))
        wait(lambda: len(devices(daemon)) == 10)
        pause(3)
        first = devices(daemon)
        family = [daemon.pid, *daemon.children()]
        stopped_at = time.monotonic()
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        pause(5)
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        stopped = time.monotonic() - stopped_at
        wait(lambda: devices(daemon)["package-0"]["unmetered_seconds"] > 0)
        pause(4)
        last = devices(daemon)

    found = errors(nvml, first, last)
    unmetered = {i: last[i]["unmetered_seconds"] - first[i]["unmetered_seconds"] for i in last}
    rings = {gpu: unmetered[gpu.uuid] for gpu in nvml.gpus[1:8:2]}
    package = last["package-0"]["joules"] - first["package-0"]["joules"]
    span = mono(last["package-0"]["read_at"]) - mono(first["package-0"]["read_at"])
    counters = ", ".join(f"{e:+.2%}" for e in found[0:8:2])
    report(
        f"counters {counters}; rings unmetered {', '.join(f'{r:.2f} s' for r in rings.values())};"
        f" RAPL unmetered {unmetered['package-0']:.2f} s"
    )
    assert max(map(abs, found[0:8:2])) <= 0.01  # a 20 ms step of a counter over about 13 s
    assert [0.0] * 4 == [unmetered[gpu.uuid] for gpu in nvml.gpus[0:8:2]]
    # 120 samples: 12 s at 100 ms reach across the stop, 2.4 s at 20 ms do not.
    assert [gpu.samples_period == 0.02 for gpu in rings] == [lost > 0 for lost in rings.values()]
    # Those miss nothing: a sample of 100 ms at each end may be of the load's other half.
    for index in (1, 5):
        uuid = nvml.gpus[index].uuid
        whole = nvml.joules(index, mono(first[uuid]["read_at"]), mono(last[uuid]["read_at"]))
        assert abs(found[index] * whole) <= 2 * 0.1 * (500.0 - 100.0)
    # From the last reading before the stop, up to an interval earlier, to the first after it.
    assert stopped - STOPPING <= unmetered["package-0"] <= stopped + EVERY + LATE, f"stopped for {stopped:.2f} s"
    assert abs(package / (watts * (span - unmetered["package-0"])) - 1) <= 0.015
