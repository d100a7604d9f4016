"""What naming costs: processes that come and go on sixteen cards, each in a group of its own, against none at all.

Run it by `PYTHONPATH=tests python -m scripts.bench.crowd [--seconds 60] [--processes 1000] [--gpus 16]`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from scripts.bench.cost import cpu_seconds, pss_bytes

from standin.crowd import Crowd
from standin.daemon import Daemon
from standin.nvml import Gpu, Load, NvmlStandin

MIB = 2**20
LIVES = 120.0  # seconds, on average
SETTLE, SCRAPE = 15.0, 15.0
WATTS = 0.8  # of each per cent of a card, so that they draw no more than it can


def measured(directory: Path, gpus: int, processes: int, seconds: float) -> str:
    """Return one row of the table."""
    nvml = NvmlStandin(directory / "nvml", [Gpu(profile=Load(60.0)) for _ in range(gpus)])
    crowd = Crowd(directory, nvml, tuple(map(str, range(gpus))), processes, lives=LIVES, watts=WATTS)
    config = (
        "[sources.rapl]\nenabled = false\n[sources.hwmon]\nenabled = false\n[sources.estimate]\nenabled = true\n"
        f'[sources.nvml]\nenabled = true\nproc = "{crowd.proc}"\n[attribution]\nproc = "{crowd.proc}"\n'
        '[carbon]\nzone = "FR"\nproviders = ["annual"]\n'
        f'[workloads.kubernetes]\nenabled = true\npods_log = "{crowd.pods_log}"\n'
    )
    with Daemon(directory, config, env=nvml.env) as daemon:
        crowd.turn()
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            crowd.turn()
            time.sleep(0.5)
        before, began = cpu_seconds(daemon.pid), time.monotonic()
        scrapes: list[float] = []
        size = 0
        while time.monotonic() < began + seconds:
            crowd.turn()
            time.sleep(1.0)
            if time.monotonic() - began >= SCRAPE * (len(scrapes) + 1):
                asked = time.monotonic()
                size = len(daemon.get("/metrics").body)
                scrapes.append(time.monotonic() - asked)
        used = (cpu_seconds(daemon.pid) - before) / (time.monotonic() - began)
        memory = pss_bytes(daemon.pid)
    return (
        f"| {gpus} GPUs, {processes} processes | {1000 * used:.1f} ms | {used:.2%} | {memory / MIB:.1f} MiB |"
        f" {1000 * median(scrapes):.1f} ms | {size / 1024:.0f} KiB |"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="scripts.bench.crowd")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--gpus", type=int, default=16)
    options = parser.parse_args()
    print("| Every second | processor time per tick | of a core | memory (PSS) | scrape, median | page |")
    print("|---|---|---|---|---|---|")
    for processes in (0, options.processes):
        with tempfile.TemporaryDirectory(prefix="wattgram-crowd-") as folder:
            print(measured(Path(folder), options.gpus, processes, options.seconds), flush=True)


if __name__ == "__main__":
    main()
