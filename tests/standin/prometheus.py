"""The real Prometheus and promtool, found or fetched without root, to read what the daemon says as users will."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final
from urllib.parse import urlencode

from standin import debian
from standin.debian import ToolsMissing

__all__ = ["Prometheus", "QueryFailed", "Result", "Series", "Tools", "ToolsMissing"]

_NAMES = ("prometheus", "promtool")
_START_ATTEMPTS = 5  # port 0 is not supported: somebody may take the free port first


class QueryFailed(Exception):  # noqa: N818
    """Prometheus refused an expression."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the two programs are."""

    prometheus: Path
    promtool: Path


@dataclass(frozen=True, slots=True)
class Result:
    """One element of an instant vector; `at` in Unix seconds."""

    labels: dict[str, str]
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a range; points are Unix seconds and values."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


# --- finding and fetching -------------------------------------------------------------------------


def tools() -> Tools:
    """Return both programs, from $PATH, the cache or the distribution's archive; ToolsMissing says why not."""
    return Tools(*debian.programs("prometheus", _NAMES))


def tools_or_skip() -> Tools:
    """Skip the calling test with the reason; under CI fail it, since there a skip would go unseen."""
    return Tools(*debian.programs_or_skip("prometheus", _NAMES))


def _cached(cache: Path) -> Tools:
    return Tools(*debian.cached(cache, "prometheus", _NAMES))


# --- promtool -------------------------------------------------------------------------------------


def check_metrics(text: str) -> list[str]:
    """Return what `promtool check metrics` says of an exposition, a line each; empty: nothing."""
    done = _promtool("check", "metrics", text=text)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return said if said or done.returncode == 0 else [f"promtool left with {done.returncode}"]


def check_web_config(path: Path) -> str | None:
    """Return what `promtool check web-config` refuses in a file; None: nothing."""
    return _refusal(_promtool("check", "web-config", str(path)))


def check_rules(text: str) -> str | None:
    """Return what `promtool check rules --lint=all` refuses in a rule file; None: nothing."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "rules.yml").write_text(text, encoding="utf-8")
        return _refusal(_promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml", directory=directory))


def test_rules(document: str | Mapping[str, Any], files: Mapping[str, str] | None = None) -> str | None:  # noqa: PT028
    """Run `promtool test rules`; None: passed, else its output.

    `files` are laid beside the document under their names, for its `rule_files`.
    """
    text = document if isinstance(document, str) else json.dumps(document)
    with tempfile.TemporaryDirectory() as directory:
        for name, content in {**(files or {}), "test.yml": text}.items():
            (Path(directory) / name).write_text(content, encoding="utf-8")
        return _refusal(_promtool("test", "rules", "test.yml", directory=directory))


test_rules.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest thinks of its name


def _promtool(*arguments: str, text: str = "", directory: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(tools().promtool), *arguments]
    return subprocess.run(command, input=text, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def _refusal(done: subprocess.CompletedProcess[str]) -> str | None:
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()


# --- the server -----------------------------------------------------------------------------------


@final
class Prometheus:
    """A Prometheus that scrapes `targets` (host:port) as job `wattgram`, with its data below `directory`.

    `rules` is the text of a rule file; `scrape` adds to the scrape configuration (scheme, basic_auth, …);
    `alertmanagers` (host:port) are told of alerts.
    """

    def __init__(
        self,
        directory: Path,
        targets: Sequence[str],
        interval: str = "1s",
        rules: str | None = None,
        flags: Sequence[str] = (),
        scrape: Mapping[str, Any] | None = None,
        alertmanagers: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.port = 0
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self._rules = rules
        self._config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yml"] if rules else [],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
            "scrape_configs": [
                {"job_name": "wattgram", "static_configs": [{"targets": list(targets)}], **(scrape or {})}
            ],
        }

    def __enter__(self) -> Prometheus:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything Prometheus has written."""
        return (self.directory / "prometheus.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start, and return when ready."""
        program = tools().prometheus
        self.directory.mkdir(parents=True, exist_ok=True)
        # JSON is YAML: nothing to quote.
        (self.directory / "prometheus.yml").write_text(json.dumps(self._config), encoding="utf-8")
        (self.directory / "rules.yml").write_text(self._rules or "", encoding="utf-8")
        for _ in range(_START_ATTEMPTS):
            self._launch(program)
            if self._is_ready_within(30.0):
                return
            self.stop()
            if "address already in use" not in self.log:
                break
        raise RuntimeError(f"Prometheus did not start:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """End it, its data kept."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def query(self, expr: str, at: float | None = None) -> list[Result]:
        """Return an instant vector, now or at a Unix time; a scalar is one result without labels."""
        found = self._asked("query", query=expr, **({} if at is None else {"time": repr(at)}))
        if found["resultType"] == "scalar":
            return [_result({}, found["result"])]
        return [_result(element["metric"], element["value"]) for element in found["result"]]

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Return the series between two Unix times, every `step` seconds."""
        found = self._asked("query_range", query=expr, start=repr(start), end=repr(end), step=repr(step))
        return [
            Series(dict(element["metric"]), [(float(at), float(value)) for at, value in element["values"]])
            for element in found["result"]
        ]

    def wait_for(self, expr: str, deadline: float = 30.0) -> list[Result]:
        """Return the expression's results as soon as there are some; AssertionError with the targets' state, else."""
        results: list[Result] = []

        def answered() -> bool:
            results[:] = self.query(expr)
            return bool(results)

        assert _comes_true(answered, deadline), f"no result of {expr} in {deadline:g} s; {self._target_states()}"
        return results

    def targets(self) -> list[dict[str, Any]]:
        """Return the active targets, with `health` and `lastError`."""
        return list(self._asked("targets", state="active")["activeTargets"])

    def _target_states(self) -> str:
        return ", ".join(f"{t['scrapeUrl']} is {t['health']} ({t['lastError'] or 'no error'})" for t in self.targets())

    def _launch(self, program: Path) -> None:
        self.port = _free_port()
        with (self.directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(program),
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    *self._flags,
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _is_ready_within(self, seconds: float) -> bool:
        return _comes_true(lambda: not self._is_alive() or self._is_ready(), seconds) and self._is_alive()

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _is_ready(self) -> bool:
        try:
            return self._got("/-/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _asked(self, endpoint: str, **parameters: str) -> dict[str, Any]:
        status, body = self._got(f"/api/v1/{endpoint}?{urlencode(parameters)}")
        answer = json.loads(body)
        if answer["status"] != "success":
            raise QueryFailed(f"{status} {answer['errorType']}: {answer['error']}")
        data: dict[str, Any] = answer["data"]
        return data

    def _got(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _result(labels: Mapping[str, str], value: Sequence[Any]) -> Result:
    return Result(dict(labels), float(value[1]), float(value[0]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _comes_true(condition: Callable[[], bool], deadline: float) -> bool:
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
