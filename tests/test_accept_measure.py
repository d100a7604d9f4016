"""The acceptance line of `wattgram measure`: receipts against the analytic truth of a stand-in card and processor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Constant, Gpu, Load, NvmlStandin, Registered
from standin.sysfs import RaplTree, Zone
from standin.watching import pause, wait

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

IDLE, MINE, THEIRS, PACKAGE = 70.0, 200.0, 100.0, 100.0
# A look every 0.2 s sees who came and went within it, and drivers say in rounds how busy each was; processor time is
# counted in ticks of 0.01 s.
LOOK, TICKS = 0.2, 0.04


@dataclass
class Stage:
    """A card and a processor, the configuration that reads them, and the environment of who measures."""

    nvml: NvmlStandin
    tree: RaplTree
    config: Path
    environ: dict[str, str]
    errors: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, command: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "wattgram", "measure", "--config", str(self.config), *options, "--", *command]
        return subprocess.run(words, env=self.environ, capture_output=True, text=True, timeout=300, check=False)

    def receipt(self, seconds: float, directory: Path) -> tuple[dict[str, Any], Registered]:
        """Measure a process that is on the card for a while; return its receipt, and when it was there."""
        before = set(self.nvml.registered())
        command = self.nvml.command(f"0:{MINE}:60", options=("--seconds", f"{seconds:g}", "--burn"))
        done = self.measure(command, "--json", "--output", str(directory / "receipt.json"))
        (mine,) = set(self.nvml.registered()) - before

        assert (0, "on\noff\n", "") == (done.returncode, done.stdout, done.stderr)
        found = json.loads((directory / "receipt.json").read_text())
        assert isinstance(found, dict)
        return found, mine

    def compare(self, case: str, receipt: dict[str, Any], mine: Registered, *, beside: bool) -> None:
        """Hold a receipt against the truth."""
        seconds = receipt["seconds"]
        gpu, cpu = (of(receipt, name) for name in ("gpu", "cpu"))
        there = mine.end - mine.start
        gpu_truth = there * (MINE + (IDLE / 2 if beside else IDLE))
        cpu_truth = PACKAGE * receipt["cpu_seconds"] / (os.cpu_count() or 1)
        machine = PACKAGE * seconds
        self.errors.setdefault(f"gpu {case}", []).append(gpu["joules"] / gpu_truth - 1)
        self.errors.setdefault(f"cpu {case}", []).append(cpu["joules"] / cpu_truth - 1)

        assert receipt["cpu_seconds"] > 0
        assert gpu["joules"] == pytest.approx(gpu_truth, rel=0.02, abs=LOOK * (MINE + IDLE if beside else 2 * IDLE))
        assert cpu["joules"] == pytest.approx(cpu_truth, rel=0.02, abs=PACKAGE * TICKS / (os.cpu_count() or 1))
        assert cpu["machine_joules"] == pytest.approx(machine, rel=0.01, abs=0.03 * PACKAGE)
        assert receipt["joules"] == pytest.approx(gpu["joules"] + cpu["joules"])
        assert "apportioned" == gpu["share"] or not beside
        assert receipt["grams"] == pytest.approx(receipt["joules"] / 3.6e6 * 41.0, rel=0.5)
        assert {} == gpu["unmetered_seconds"] == cpu["unmetered_seconds"]


def of(receipt: dict[str, Any], component: str) -> dict[str, Any]:
    (found,) = [c for c in receipt["components"] if c["component"] == component]
    return dict(found)


@contextmanager
def stage(tmp_path: Path) -> Iterator[Stage]:
    try:
        nvml = NvmlStandin(tmp_path / "nvml", [Gpu(profile=Load(IDLE), counter_step=0.001)])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    with RaplTree(tmp_path / "host", [Zone("intel-rapl:0", "package-0", Constant(PACKAGE))]) as tree:
        tree.start_writer()
        config = tmp_path / "measure.toml"
        config.write_text(
            f'[carbon]\nzone = "FR"\nproviders = ["annual"]\n[local]\nsocket = "{tmp_path}/api.sock"\n'
            f"[sources.hwmon]\nenabled = false\n[sources.nvml]\nenabled = true\n[sources.rapl]\nenabled = true\n"
            f'path = "{tree.sys}"\nproc = "{tree.proc}"\n'
            f'[attribution.idle_watts]\n"{nvml.gpus[0].uuid}" = {IDLE}\n'
        )
        environ = {**os.environ, **nvml.env, "PYTHONUNBUFFERED": "1"}
        yield Stage(nvml, tree, config, environ)


@pytest.mark.accept(
    "5.6", "measure against the analytic truth: 0.5, 5 and 60 s, alone and beside another, by the daemon"
)
def test_measure_by_the_daemon(tmp_path: Path, seconds: Seconds, report: Report) -> None:
    with ExitStack() as stack:
        s = stack.enter_context(stage(tmp_path))
        daemon = stack.enter_context(Daemon(tmp_path, s.config.read_text(), env=s.nvml.env))
        s.environ["WATTGRAM_LOCAL__SOCKET"] = str(tmp_path / "api.sock")
        daemon.until(lambda metrics: metrics.value("wattgram_device_energy_joules_total", component="gpu") > 0)
        wait((tmp_path / "api.sock").exists)
        lengths = [0.5, seconds(2.0, 5.0), *([60.0] if seconds(0, 1) else [])]
        for length in lengths:
            receipt, mine = s.receipt(length, tmp_path)
            assert "daemon" == receipt["meter"]
            s.compare(f"{length:g} s", receipt, mine, beside=False)
        with s.nvml.running(f"0:{THEIRS}:30", options=("--burn",)):
            pause(1.0)  # the other one was there before
            for length in lengths:
                receipt, mine = s.receipt(length, tmp_path)
                s.compare(f"{length:g} s beside", receipt, mine, beside=True)

    assert [] == [line for line in daemon.log.splitlines() if "level=error" in line or "Traceback" in line]
    report(" · ".join(f"{case} {100 * max(e, key=abs):+.1f} %" for case, e in s.errors.items()))


@pytest.mark.accept("5.6", "measure without a daemon, and of a command that is killed")
def test_measure_by_itself(tmp_path: Path, seconds: Seconds, report: Report) -> None:
    with stage(tmp_path) as s:
        s.environ["WATTGRAM_LOCAL__ENABLED"] = "false"
        for length in (0.5, *([5.0, 60.0] if seconds(0, 1) else [])):
            receipt, mine = s.receipt(length, tmp_path)
            assert "own" == receipt["meter"]
            s.compare(f"{length:g} s", receipt, mine, beside=False)
        command = [sys.executable, "-m", "wattgram", "measure", "--config", str(s.config), "--"]
        with subprocess.Popen(
            [*command, *s.nvml.command(f"0:{MINE}:60")], env=s.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert b"on\n" == process.stdout.readline()
            (mine,) = [r for r in s.nvml.registered() if r.end > time.monotonic()]
            wait(lambda: time.monotonic() > mine.start + 0.5)
            os.kill(mine.pid, signal.SIGKILL)
            _, text = process.communicate(timeout=60)

    assert -signal.SIGKILL == process.returncode
    assert b": killed by SIGKILL\n  duration " in text
    assert b"\n    gpu       1" in text
    report(" · ".join(f"{case} {100 * max(e, key=abs):+.1f} %" for case, e in s.errors.items()))
