"""An auditor beside a running daemon: scrapes all the time, and knows what no fault may do to the books.

At every scrape: no counter goes down or disappears, and owners, devices and prices show the same joules. Between two
moments: how much each device gained, how much of the time was not metered, and which lines were logged.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

from standin.daemon import Daemon
from standin.watching import mono

MICROJOULES_PER_JOULE = 1_000_000
AUDIT = "audit.txt"
DEVICES, OWNERS, PRICES = (f"wattgram_{view}_energy_joules_total" for view in ("device", "owner", "pricing"))

WORKLOADS = "wattgram_workload_e"
_COMPONENT = re.compile(r'[{,]component="([^"]*)"')

_LOGFMT = re.compile(r'(?:[a-z_]+=(?:"(?:[^"\\\x00-\x1f\x7f-\x9f]|\\.)*"|[\w.:/+-]+)(?: |$))+')
_PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[\w.:/+-]+)')


# --- the log --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log, parsed."""

    level: str
    text: str


def parsed(log: str, form: str = "logfmt") -> list[LogLine]:
    """Every line of a log; AssertionError on the first that is not one whole record."""
    return [_json(line) if form == "json" else _logfmt(line) for line in log.splitlines()]


def _logfmt(line: str) -> LogLine:
    assert _LOGFMT.fullmatch(line), f"not a line of logfmt: {line!r}"
    facts = {key: json.loads(value) if value.startswith('"') else value for key, value in _PAIR.findall(line)}
    return LogLine(facts["level"], facts["msg"])


def _json(line: str) -> LogLine:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line), f"not one line of JSON: {line!r}"
    facts = json.loads(line)
    return LogLine(facts["level"], facts["msg"])


def about(lines: Iterable[LogLine], *words: str) -> list[LogLine]:
    """The lines that mention any of the words."""
    return [line for line in lines if any(word in line.text for word in words)]


def texts(lines: Iterable[LogLine], *levels: str) -> list[str]:
    """What lines say, those of some levels or all."""
    return [line.text for line in lines if not levels or line.level in levels]


# --- moments --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """The books at an instant of our monotonic clock, and how long the log was then.

    `shift` is by how much the daemon's wall clock is ahead of ours.
    """

    at: float
    shift: float
    devices: Mapping[str, Mapping[str, Any]]
    health: Mapping[str, Mapping[str, Any]]
    logged: int

    def read_at(self, device: str) -> float:
        """When a device was read last, on our monotonic clock."""
        return mono(self.devices[device]["read_at"] - self.shift)


def moment(daemon: Daemon, shift: float = 0.0) -> Moment:
    """Take note of everything as it stands."""
    logged = len(daemon.log)
    status = json.loads(daemon.get("/api/v1/status").text)
    devices = {device["device"]: device for device in status["devices"]}
    health = {health["name"]: health for health in status["health"]}
    return Moment(time.monotonic(), shift, devices, health, logged)


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a device's account between two moments, from `start` to `end` on our monotonic clock."""

    start: float
    end: float
    joules: float
    unmetered: float
    events: Mapping[str, int]

    @property
    def seconds(self) -> float:
        """Between the two readings that the moments show."""
        return self.end - self.start

    @property
    def covered(self) -> float:
        """Seconds that are said to be metered."""
        return self.seconds - self.unmetered


def change(before: Moment, after: Moment, device: str) -> Change:
    """What a device gained between its newest readings at two moments; one that was not there began at its first."""
    new = after.devices[device]
    old = before.devices.get(device, {"joules": 0.0, "unmetered_seconds": 0.0, "events": {}})
    events = {kind: count - old["events"].get(kind, 0) for kind, count in new["events"].items()}
    return Change(
        before.read_at(device) if device in before.devices else after.at,
        after.read_at(device),
        new["joules"] - old["joules"],
        new["unmetered_seconds"] - old["unmetered_seconds"],
        {kind: count for kind, count in events.items() if count},
    )


# --- the auditor ----------------------------------------------------------------------------------


@final
@dataclass
class Auditor:
    """Scrapes `daemon` about every `every` seconds from the start to the end of the `with` block.

    No counter may fall, nor go, but for those of workloads, which may go and return; by component, owners are devices.

    `wrongs` says what was wrong, `silences` when there was no answer (monotonic seconds), `latencies` how long each
    answer took, by when it was asked for.
    """

    daemon: Daemon
    every: float = 0.2
    timeout: float = 5.0
    wrongs: list[str] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    _last: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Auditor:
        self._thread = threading.Thread(target=self._run, name="auditor", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.finish()

    @property
    def scrapes(self) -> int:
        """How many answers were looked at."""
        return len(self.latencies)

    def finish(self) -> None:
        """Stop, and leave what was wrong beside the daemon's log, one finding a line."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join(2 * self.timeout)
            with (self.daemon.directory / AUDIT).open("a", encoding="utf-8") as file:
                file.writelines(f"{wrong}\n" for wrong in self.wrongs or ([] if self.scrapes else ["never answered"]))

    def took(self, start: float, end: float) -> list[float]:
        """How long the answers asked for between two instants took, seconds, least first."""
        return sorted(seconds for at, seconds in self.latencies if start <= at <= end)

    # --- inside -------------------------------------------------------------------------------

    def _run(self) -> None:
        connection = self._connection()
        while not self._stop.wait(self.every):
            began = time.monotonic()
            try:
                connection.request("GET", "/metrics", headers={"Accept": "text/plain;version=0.0.4"})
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = self._connection()
                self.silences.append(began)
                continue
            self.latencies.append((began, time.monotonic() - began))
            if answer.status == 200:
                self._look(text)
            else:
                self.wrongs.append(f"/metrics answered {answer.status}: {text[:200]}")
        with contextlib.suppress(OSError):
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=self.timeout)

    def _look(self, text: str) -> None:
        shown = counters(text)
        for series, before in self._last.items():
            if series not in shown:
                if not series.startswith(WORKLOADS):  # these go a while after their end, and may return
                    self.wrongs.append(f"{series} is gone, it was {before!r}")
            elif shown[series] < before:
                self.wrongs.append(f"{series} fell from {before!r} to {shown[series]!r}")
        self._last.update(shown)
        views = [microjoules(shown, name) for name in (DEVICES, OWNERS, PRICES)]
        if len(set(views)) != 1:
            self.wrongs.append(f"devices, owners, prices show {views} µJ")
        devices, owners = (by_component(shown, name) for name in (DEVICES, OWNERS))
        if devices != owners:
            self.wrongs.append(f"devices show {devices} µJ, owners {owners}")


def counters(text: str) -> dict[str, float]:
    """Every `_total` sample of an exposition, by its name and labels as written."""
    pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, _, value in pairs if series.partition("{")[0].endswith("_total")}


def microjoules(shown: Mapping[str, float], name: str) -> int:
    """Σ of one family, each sample rounded to a whole microjoule: exact."""
    return sum(round(v * MICROJOULES_PER_JOULE) for series, v in shown.items() if series.partition("{")[0] == name)


def by_component(shown: Mapping[str, float], name: str) -> dict[str, int]:
    """As `microjoules`, for each component."""
    found: dict[str, int] = {}
    for series, value in shown.items():
        if series.partition("{")[0] == name and (component := _COMPONENT.search(series)):
            found[component[1]] = found.get(component[1], 0) + round(value * MICROJOULES_PER_JOULE)
    return found


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """The value below which a fraction of them lies."""
    return ascending[min(len(ascending) - 1, int(fraction * len(ascending)))]
