"""Each program that is measured: how it is started, and how energy is got from what it shows."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 30.0
# One source of grams that asks nobody; processors have no meter in most benches, so cards are all there is.
CONFIGURATION = """
[sampling]
interval = "{interval}"

[carbon]
zone = "FR"
providers = ["annual"]
"""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program; `sample` finds its figure for each card in its page: joules so far, or watts now."""

    name: str
    command: tuple[str, ...]
    sample: re.Pattern[str]
    is_counter: bool
    configuration: str = ""


def wattgram(interval: str = "1s") -> Contestant:
    """Return the daemon of this checkout."""
    return Contestant(
        "wattgram",
        (sys.executable, "-m", "wattgram", "run", "--config", "{file}", "--listen", "127.0.0.1:{port}"),
        re.compile(r'^wattgram_device_energy_joules_total\{component="gpu",device="([^"]+)".*\} (\S+)$', re.MULTILINE),
        is_counter=True,
        configuration=CONFIGURATION.format(interval=interval),
    )


def nvitop(program: Path, interval: str = "1") -> Contestant:
    """Return nvitop-exporter, which shows watts and no joules."""
    return Contestant(
        "nvitop-exporter",
        (str(program), "--bind-address", "127.0.0.1", "--port", "{port}", "--interval", interval),
        re.compile(r'^gpu_power_usage_W\{.*uuid="([^"]+)".*\} (\S+)$', re.MULTILINE),
        is_counter=False,
    )


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A contestant at work."""

    def __init__(self, contestant: Contestant, process: subprocess.Popen[bytes], port: int) -> None:
        self.contestant = contestant
        self.pid = process.pid
        self._process = process
        self._port = port

    def get(self, path: str = "/metrics") -> bytes:
        """Return the body of one GET over a connection of its own; end here if it is refused."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            body = reply.read()
        finally:
            connection.close()
        if reply.status != http.client.OK:
            sys.exit(f"{self.contestant.name}: {path} answered {reply.status}")
        return body

    def samples(self) -> dict[str, float]:
        """Return its figure for each card."""
        return {uuid: float(value) for uuid, value in self.contestant.sample.findall(self.get().decode())}

    def readings(self) -> dict[str, tuple[float, float]]:
        """Return joules and the monotonic instant up to which they were counted, by card; for wattgram alone."""
        to_mono = time.monotonic() - time.time()
        devices = json.loads(self.get("/api/v1/status"))["devices"]
        return {d["device"]: (d["joules"], d["read_at"] + to_mono) for d in devices}

    def wait(self, cards: int) -> float:
        """Return the seconds until it shows every card; end here if it never does."""
        start = time.monotonic()
        while not self._shows(cards):
            if self._process.poll() is not None or time.monotonic() - start > READY_SECONDS:
                sys.exit(f"{self.contestant.name} shows no cards (exit code {self._process.poll()})")
            time.sleep(0.05)
        return time.monotonic() - start

    def _shows(self, cards: int) -> bool:
        try:
            return len(self.samples()) == cards
        except OSError:
            return False


@contextmanager
def running(contestant: Contestant, environment: Mapping[str, str], directory: Path) -> Iterator[Running]:
    """Start it, and end it afterwards."""
    port, file = free_port(), directory / "wattgram.toml"
    file.write_text(contestant.configuration, encoding="utf-8")
    command = [word.format(port=port, file=file) for word in contestant.command]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log)
        try:
            yield Running(contestant, process, port)
        finally:
            process.terminate()
            process.wait(10)
