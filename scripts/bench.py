"""What the daemon itself costs: runs `demo`, and measures its processor time, its memory and its answers.

    scripts/bench.py [--seconds 60] [--scrapes 200] [--every 15] [-- COMMAND OF WATTGRAM...]

Processor time and memory are those of the daemon and all its children, while it is scraped as Prometheus would;
the latencies are taken afterwards, so that they do not disturb the first figures.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 30.0


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of one GET over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    """Whether a first snapshot exists; False while nobody listens."""
    try:
        return get(port, "/-/ready")[0] == http.client.OK
    except OSError:
        return False


def wait_until_ready(port: int, daemon: subprocess.Popen[bytes]) -> float:
    """Return the seconds until the daemon was ready; end here if it never is."""
    start = time.monotonic()
    while not is_ready(port):
        if daemon.poll() is not None or time.monotonic() - start > READY_SECONDS:
            sys.exit(f"the daemon is not ready after {time.monotonic() - start:.1f} s (exit code {daemon.poll()})")
        time.sleep(0.05)
    return time.monotonic() - start


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold blanks; the first is the state."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def family(root: int) -> list[int]:
    """Return `root` and all its living descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(stat_of(int(entry.name))[1])
            except OSError:
                continue  # it ended while we looked
    members = [root]
    for member in members:
        members += [pid for pid, parent in parents.items() if parent == member]
    return members


def cpu_seconds(root: int) -> float:
    """Return the processor time of the family: of the living, and of those children that were waited for."""
    ticks = sum(int(field) for pid in family(root) for field in stat_of(pid)[11:15])
    return ticks / TICKS_PER_SECOND


def pss_bytes(root: int) -> int:
    """Return the family's proportional set size: shared pages are counted once between those who share them."""
    return 1024 * sum(
        int(line.split()[1])
        for pid in family(root)
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )


def scrape_quietly(port: int, seconds: float, every: float) -> None:
    """Scrape as Prometheus does, for `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        get(port, "/metrics")
        time.sleep(min(every, left))


def scrape_times(port: int, scrapes: int) -> list[float]:
    """Return the seconds of each of so many scrapes, sorted."""
    times = []
    for _ in range(scrapes):
        start = time.monotonic()
        status, _body = get(port, "/metrics")
        times.append(time.monotonic() - start)
        if status != http.client.OK:
            sys.exit(f"/metrics answered {status}")
    return sorted(times)


def measure(port: int, daemon: subprocess.Popen[bytes], options: argparse.Namespace) -> dict[str, str]:
    """Return the table's rows."""
    ready = wait_until_ready(port, daemon)
    cpu, start = cpu_seconds(daemon.pid), time.monotonic()
    scrape_quietly(port, options.seconds, options.every)
    used, elapsed = cpu_seconds(daemon.pid) - cpu, time.monotonic() - start
    memory, processes = pss_bytes(daemon.pid), len(family(daemon.pid))
    times = scrape_times(port, options.scrapes)
    size = len(get(port, "/metrics")[1])
    return {
        "ready after": f"{ready:.2f} s",
        "processor time": f"{3600 * used / elapsed:.1f} s per hour ({100 * used / elapsed:.2f} % of a core)",
        "memory (PSS)": f"{memory / 2**20:.1f} MiB in {processes} process{'es' * (processes > 1)}",
        "scrape p50": f"{1000 * times[len(times) // 2]:.1f} ms",
        "scrape p99": f"{1000 * times[len(times) * 99 // 100]:.1f} ms",
        "page": f"{size / 1024:.1f} KiB",
    }


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="What the daemon itself costs.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long processor time is measured")
    parser.add_argument("--scrapes", type=int, default=200, help="how many scrapes are timed")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between scrapes meanwhile")
    parser.add_argument("command", nargs="*", default=["demo"], help="the command of wattgram (demo)")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    port = free_port()
    command = [sys.executable, "-m", "wattgram", *options.command, "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as daemon:
        try:
            rows = measure(port, daemon, options)
        finally:
            daemon.send_signal(signal.SIGTERM)
    rows["exit code"] = str(daemon.returncode)
    print(f"wattgram {' '.join(options.command)}: {options.seconds:g} s on Python {platform.python_version()}\n")
    for name, value in rows.items():
        print(f"  {name:<16}{value}")


if __name__ == "__main__":
    main()
