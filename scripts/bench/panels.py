"""How long Prometheus takes over each panel of the dashboards at the size of a cluster.

    PYTHONPATH=tests:. python -m scripts.bench.panels [--servers 200] [--workloads 20] [--hours 1] [--rounds 3]
        [--rules deploy/prometheus/wattgram.rules.yml]

One server of eight GPUs lives through the time by the daemon's own parts; its series are multiplied, each with names of
their own, and its workloads so that there are as many as asked for. They are written by remote write, made into blocks
by a snapshot, and asked of a Prometheus that was begun anew on these. A panel's time is that of its queries one after
the other, the median of the rounds.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from scripts.dashboards import grid, health, overview, server, workload

from standin.history import Plan, live
from standin.prometheus import Prometheus, tools

BOARDS = {"overview": overview, "server": server, "workload": workload, "grid": grid, "health": health}
BEGIN = 1_790_000_000 // 7200 * 7200
SCRAPE, GPUS, OWNERS = 30.0, 8, 10
FLAGS: tuple[str, ...] = (
    "--storage.tsdb.retention.time=30y",
    "--web.enable-remote-write-receiver",
    "--web.enable-admin-api",
)
BATCH, SERIES_A_REQUEST = 20, 5000
SHOWN = 0.3  # seconds
SINGLE = {"server": {"instance": "gpu-0007"}, "one workload": {"instance": ".+", "workload": "90001"}}
Labels = tuple[tuple[str, str], ...]
One = tuple[bytes, list[tuple[float, float]]]


# --- the past of a cluster ------------------------------------------------------------------------


def cluster(servers: int, workloads: int, seconds: float) -> Iterator[One]:
    """Yield every series: its labels as remote write has them, and its points."""
    past, _ = live([Plan("gpu-0000", gpus=GPUS, every=15.0)], BEGIN, seconds, SCRAPE)
    for number in range(servers):
        for name, series in past.series.items():
            is_named = name.startswith("wattgram_workload_") and name != "wattgram_workload_overflows_total"
            if is_named:
                continue
            for labels, column in series.items():
                points = list(zip(column.at, column.values, strict=True))
                yield _labels(name, _of(number, dict(labels))), points
        yield from _workloads(past.series, number, workloads)


def _of(number: int, labels: Mapping[str, str]) -> dict[str, str]:
    own = {"instance": f"gpu-{number:04d}"}
    if labels.get("device", "").startswith("GPU-"):
        own["device"] = labels["device"].replace("GPU-00000000", f"GPU-{number:08x}")
    return {**labels, **own}


def _workloads(series: Mapping[str, Mapping[Labels, Any]], number: int, count: int) -> Iterator[One]:
    """As many as asked for, each on a card with an idle part, on processors and in memory, priced."""
    for name in ("wattgram_workload_energy_joules_total", "wattgram_workload_emissions_grams_total"):
        column = max(series[name].values(), key=lambda column: len(column.at))
        points = list(zip(column.at, column.values, strict=True))
        for place in range(count):
            base = {"job": "wattgram", "instance": f"gpu-{number:04d}", "kind": "slurm", "quality": "measured"}
            base |= {"workload": str(90000 + number * count + place), "owner": f"user-{place % OWNERS}"}
            card = f"GPU-{number:08x}-0000-4000-8000-{place % GPUS:012x}"
            for component, device, activity in (
                ("gpu", card, "active"),
                ("gpu", card, "idle"),
                ("cpu", "package-0", "active"),
                ("dram", "dram-0", "active"),
            ):
                more = {"component": component, "device": device, "activity": activity}
                yield _labels(name, {**base, **more}), points


# --- remote write 1.0, by hand --------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(tag: int, body: bytes) -> bytes:
    return bytes([tag << 3 | 2]) + _varint(len(body)) + body


def _labels(name: str, labels: Mapping[str, str]) -> bytes:
    pairs = sorted({**labels, "__name__": name}.items())
    return b"".join(_field(1, _field(1, k.encode()) + _field(2, v.encode())) for k, v in pairs)


def _samples(points: Sequence[tuple[float, float]]) -> bytes:
    bodies = (b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(round(at * 1000)) for at, value in points)
    return b"".join(_field(2, body) for body in bodies)


def _snappy(data: bytes) -> bytes:
    """A block of literals only: valid, and not smaller."""
    out = [_varint(len(data))]
    for start in range(0, len(data), 65536):
        piece = data[start : start + 65536]
        out.append(b"\xf4" + struct.pack("<H", len(piece) - 1) + piece)
    return b"".join(out)


def write(url: str, series: Sequence[One]) -> int:
    """Store them, a few minutes of all at a time; return how many samples."""
    longest = max(len(points) for _, points in series)
    count = 0
    for first in range(0, longest, BATCH):
        for start in range(0, len(series), SERIES_A_REQUEST):
            parts = [(labels, points[first : first + BATCH]) for labels, points in series[start:][:SERIES_A_REQUEST]]
            body = b"".join(_field(1, labels + _samples(points)) for labels, points in parts if points)
            count += sum(len(points) for _, points in parts)
            headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
            headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
            request = urllib.request.Request(f"{url}/api/v1/write", _snappy(body), headers)
            urllib.request.urlopen(request, timeout=120).close()
    return count


def snapshot(running: Prometheus, directory: Path) -> Path:
    """Make blocks of everything; return a directory that a Prometheus can begin with."""
    urllib.request.urlopen(f"{running.url}/api/v1/admin/tsdb/snapshot", b"", timeout=300).close()
    (made,) = (directory / "data" / "snapshots").iterdir()
    anew = directory / "anew"
    anew.mkdir()
    made.rename(anew / "data")
    return anew


def record(running: Prometheus, rules: Path, seconds: float, directory: Path) -> None:
    """Make blocks of what recording rules would have recorded."""
    span = ["--start", str(BEGIN + 300), "--end", f"{BEGIN + seconds:.0f}", "--eval-interval", "1m"]
    command = [str(tools().promtool), "tsdb", "create-blocks-from", "rules", *span, "--url", running.url]
    command += ["--output-dir", str(directory / "data"), str(rules)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)


# --- asking ---------------------------------------------------------------------------------------


def ask(running: Prometheus, expr: str, seconds: float, chosen: Mapping[str, str], *, instant: bool) -> float:
    """Return the seconds that one query takes."""
    given = {"__rate_interval": f"{4 * SCRAPE:.0f}s", "__range_s": f"{seconds:.0f}", "__range": f"{seconds:.0f}s"}
    given |= {"quality": "measured|apportioned|estimated", **chosen}
    filled = re.sub(r"\$(\w+)", lambda match: given.get(match[1], ".+"), expr)
    end = str(BEGIN + seconds)
    asked = {"time": end} if instant else {"start": str(BEGIN), "end": end, "step": str(max(SCRAPE, seconds / 800))}
    began = time.perf_counter()
    running._asked("query" if instant else "query_range", query=filled, **asked)  # noqa: SLF001
    return time.perf_counter() - began


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that asks something, also of closed rows."""
    for panel in board["panels"]:
        yield from (p for p in (panel, *panel.get("panels", [])) if p["type"] != "row")


def measured(running: Prometheus, seconds: float, rounds: int) -> list[tuple[float, str, str]]:
    """Return each panel's seconds, board and title."""
    found = []
    for name in (*BOARDS, "one workload"):
        for panel in panels(BOARDS[name.replace("one ", "")].build()):
            times = [
                sum(
                    ask(running, target["expr"], seconds, SINGLE.get(name, {}), instant=target["instant"])
                    for target in panel["targets"]
                )
                for _ in range(rounds)
            ]
            found.append((median(times), name, panel["title"]))
    return sorted(found, reverse=True)


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.panels")
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--workloads", type=int, default=20, help="on each server")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rules", type=Path, help="recording rules; without them their panels find nothing")
    given = parser.parse_args()
    seconds = given.hours * 3600
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Prometheus(directory, [], flags=FLAGS) as filling:
            series = list(cluster(given.servers, given.workloads, seconds))
            samples = write(filling.url, series)
            anew = snapshot(filling, directory)
        print(f"{given.servers} servers, {len(series):,} series, {samples:,} samples, {given.hours:g} h", flush=True)
        if given.rules:
            with Prometheus(anew, [], flags=FLAGS) as running:
                record(running, given.rules, seconds, anew)
        with Prometheus(anew, [], flags=FLAGS) as running:
            found = measured(running, seconds, given.rounds)
    times = [taken for taken, _, _ in found]
    print(f"{len(found)} panels: median {median(times):.3f} s, p95 {quantiles(times, n=20)[18]:.3f} s")
    for taken, board, title in found:
        if taken >= SHOWN or "over weeks" in title:
            print(f"| {board} | {title} | {taken:.2f} s |")


if __name__ == "__main__":
    main()
