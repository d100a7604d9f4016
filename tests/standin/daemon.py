"""The real daemon as a process of its own, asked over HTTP like everybody asks it."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import shutil
import signal as signals
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import final

from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_OPENMETRICS = "application/openmetrics-text;version=1.0.0"
_TEXT = "text/plain;version=0.0.4"
_INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
_START_ATTEMPTS = 3  # somebody may take the free port first


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()


@dataclass(frozen=True, slots=True)
class _Process:
    """One process; its id and start time together are never given again."""

    pid: int
    started: int
    parent: int = field(compare=False)
    session: int = field(compare=False)


@final
class Metrics:
    """One scrape, parsed strictly."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        self.text = text
        parse = openmetrics_parser.text_string_to_metric_families if openmetrics else text_string_to_metric_families
        self._samples = [sample for family in parse(text) for sample in family.samples]

    def samples(self, name: str, /, **labels: str) -> list[Sample]:
        """The samples of this name that have at least these labels."""
        return [s for s in self._samples if s.name == name and labels.items() <= s.labels.items()]

    def value(self, name: str, /, **labels: str) -> float:
        """The value of the one sample that matches; KeyError with those that come near, if it is not exactly one."""
        found = self.samples(name, **labels)
        if len(found) != 1:
            raise KeyError(f"{len(found)} samples match {_written(name, labels)}; near: {self._near(name, found)}")
        return float(found[0].value)

    def sum(self, name: str, /, **labels: str) -> float:
        """The sum over all that match, 0.0 if none does; KeyError if not even the name is there."""
        if not self.samples(name):
            raise KeyError(f"no sample is called {name}; near: {self._near(name, [])}")
        return math.fsum(sample.value for sample in self.samples(name, **labels))

    def _near(self, name: str, found: Sequence[Sample]) -> str:
        words = {word for word in name.split("_") if word not in {"wattgram", "total", "info"}}
        by_name = [s for s in self._samples if s.name == name]
        by_word = [s for s in self._samples if words & set(s.name.split("_"))]
        near = [_written(s.name, s.labels) for s in found or by_name or by_word]
        return ", ".join(near[:20]) or "nothing"


@final
class Daemon:
    """`python -m wattgram` in `directory`, with its files there; ready when the `with` block begins.

    `config` is the text of its configuration file, None: none is named. The environment holds nothing of the
    caller's beside what any process needs, a runtime directory of its own, and `env`. `prefix` is a command that
    replaces itself by the daemon, such as setpriv. With a `port` the file has to say where it listens, else a free one
    is named by `--listen`.
    """

    def __init__(
        self,
        directory: Path,
        config: str | None = "",
        *,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = ("run",),
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
        port: int = 0,
        wait: bool = True,
    ) -> None:
        self.directory = directory
        self.config_file = directory / "wattgram.toml"
        self.port = port
        self._prefix = prefix
        self._listens_by_file = bool(port)
        self._arguments = arguments
        self._command = command
        self._config = config
        self._env = {**{name: os.environ[name] for name in _INHERITED if name in os.environ}, **(env or {})}
        if "RUNTIME_DIRECTORY" not in self._env:
            # Never the machine's own; and a socket's path must be short.
            self._env["RUNTIME_DIRECTORY"] = tempfile.mkdtemp(prefix="wg-")
            weakref.finalize(self, shutil.rmtree, self._env["RUNTIME_DIRECTORY"], ignore_errors=True)
        self._family: set[_Process] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._wait = wait

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    # --- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start, also again after `stop`, then with the file as it is by now; return when ready, if told to wait."""
        if self._process is None:
            self._write_config()
        self._launch()
        for attempt in range(_START_ATTEMPTS if self._wait else 0):
            try:
                self.wait_ready()
                break
            except RuntimeError:
                self.kill()
                if "in use" not in self.log.lower() or attempt == _START_ATTEMPTS - 1:
                    raise
                self._launch()

    def wait_ready(self, deadline: float = 30.0) -> None:
        """Return once `/-/ready` says so; RuntimeError with the end of the log, else."""
        end = time.monotonic() + deadline
        while not self._is_ready():
            if self.returncode is not None:
                raise RuntimeError(f"the daemon left with {self.returncode}:\n{self.log[-4000:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"the daemon was not ready within {deadline:g} s:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def stop(self, signal: int = signals.SIGTERM, deadline: float = 30.0) -> tuple[int, float]:
        """Send the signal; return the exit status and after how many seconds it came. What it leaves behind stays."""
        started = time.monotonic()
        self.send(signal)
        code = self._running.wait(deadline)
        return code, time.monotonic() - started

    def send(self, signal: int) -> None:
        """Send a signal and return at once."""
        self._note_family()
        self._running.send_signal(signal)

    def kill(self) -> None:
        """End it and whatever still lives of what it started, in every life it had."""
        if self._process is None:
            return
        end = time.monotonic() + 10.0
        self._note_family()
        while (alive := [process for process in _processes() if process in self._family]) and time.monotonic() < end:
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signals.SIGKILL)
            self._process.poll()
            self._note_family()
            time.sleep(0.005)
        self._process.wait(10.0)

    # --- asking it ----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Scheme, host and port, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        """Host and port, as a scraper is told."""
        return f"127.0.0.1:{self.port}"

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", timeout: float = 10.0
    ) -> Response:
        """Ask over a connection of its own; OSError if there is no answer in time."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def metrics(self, *, openmetrics: bool = False) -> Metrics:
        """Scrape once."""
        answer = self.get("/metrics", {"Accept": _OPENMETRICS if openmetrics else _TEXT})
        assert answer.status == 200, answer
        return Metrics(answer.text, openmetrics=openmetrics)

    def until(self, condition: Callable[[Metrics], bool], deadline: float = 30.0) -> Metrics:
        """Scrape until the condition holds, and return that scrape; what is absent (KeyError) is not yet there."""
        end = time.monotonic() + deadline
        while True:
            metrics = self.metrics()
            with contextlib.suppress(KeyError):
                if condition(metrics):
                    return metrics
            assert time.monotonic() < end, f"not within {deadline:g} s; the log ends:\n{self.log[-2000:]}"
            time.sleep(0.05)

    def wait_for_log(self, text: str, deadline: float = 30.0) -> None:
        """Return once the log holds the text."""
        end = time.monotonic() + deadline
        while text not in self.log:
            assert time.monotonic() < end, f"{text!r} not logged within {deadline:g} s:\n{self.log[-4000:]}"
            time.sleep(0.02)

    # --- looking at it ------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """Everything it has written to standard error."""
        return _read(self.directory / "stderr.log")

    @property
    def output(self) -> str:
        """Everything it has written to standard output."""
        return _read(self.directory / "stdout.log")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status; None: it lives."""
        return self._running.poll()

    def children(self) -> list[int]:
        """Its living children, without those that are dead but not waited for."""
        self._note_family()
        return [process.pid for process in _processes() if process.parent == self.pid]

    def environ(self, pid: int | None = None) -> dict[str, str]:
        """What a process, itself unless a child is named, was started with."""
        raw = Path(f"/proc/{pid or self.pid}/environ").read_bytes()
        pairs = (entry.decode(errors="replace").partition("=") for entry in raw.split(b"\0") if entry)
        return {name: value for name, _, value in pairs}

    # --- inside -------------------------------------------------------------------------------

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the daemon was never started")
        return self._process

    def _note_family(self) -> None:
        """Children may lead sessions of their own, and when the daemon is gone nothing tells whose they were."""
        if self._running.returncode is None:
            alive = list(_processes())
            leaders = {self.pid, *(process.pid for process in alive if process.parent == self.pid)}
            self._family |= {process for process in alive if process.session in leaders or process.pid in leaders}

    def _write_config(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._config is not None:
            self.config_file.write_text(self._config, encoding="utf-8")

    def _launch(self) -> None:
        self.port = self.port if self._listens_by_file else free_port()
        with (self.directory / "stdout.log").open("ab") as out, (self.directory / "stderr.log").open("ab") as err:
            self._process = subprocess.Popen(
                [
                    *(*self._prefix, sys.executable, "-m", "wattgram", *self._command),
                    *(() if self._config is None else ("--config", str(self.config_file))),
                    *(() if self._listens_by_file else ("--listen", self.target)),
                    *self._arguments,
                ],
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        try:
            return self.get("/-/ready", timeout=5.0).status == 200 and self.returncode is None
        except (OSError, http.client.HTTPException):
            return False


def _written(name: str, labels: Mapping[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def free_port() -> int:
    """A port of loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _processes() -> Iterator[_Process]:
    """Every process that is not dead, see proc(5)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name before the last bracket may itself hold brackets and spaces.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in {"Z", "X"}:
                    yield _Process(int(entry.name), int(fields[19]), int(fields[1]), int(fields[3]))
