"""The real Alertmanager, found or fetched without root, and a webhook that keeps what it is sent."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, final

from standin import debian
from standin.daemon import free_port

_NAMES = ("prometheus-alertmanager", "amtool")
_START_ATTEMPTS = 3  # somebody may take the free port first
_TEMPLATES = b"/usr/share/prometheus/alertmanager"  # where Debian's build looks for its templates


def tools_or_skip() -> tuple[Path, ...]:
    """Return both programs; skip the calling test with the reason; under CI fail it."""
    return debian.programs_or_skip("prometheus-alertmanager", _NAMES)


def _unpacked(program: Path, directory: Path) -> Path:
    """Return a program that runs in `directory` without being installed.

    Debian's build knows the folder of its templates by an absolute path. Where there is none, a copy looks for them
    where it runs instead: a path of the same length, nothing else is changed. What it is sent needs no template.
    """
    binary = program.read_bytes()
    fixed = re.compile(re.escape(_TEMPLATES) + rb"(?!/)")
    if Path(_TEMPLATES.decode()).is_dir() or not fixed.search(binary):
        return program
    for name in ("default.tmpl", "email.tmpl"):
        (directory / name).write_text('{{ define "none" }}{{ end }}', encoding="utf-8")
    copy = directory / program.name
    copy.write_bytes(fixed.sub(b"./" * (len(_TEMPLATES) // 2), binary))
    copy.chmod(0o755)
    return copy


@final
class Webhook:
    """A receiver on loopback: every alert that it was sent, the newest last."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        alerts = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                alerts.extend(json.loads(body)["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, is_it: Callable[[dict[str, Any]], bool], deadline: float = 30.0) -> dict[str, Any]:
        """Return the first alert that is it, as soon as it was sent; AssertionError with all that were, else."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            for alert in list(self.alerts):
                if is_it(alert):
                    return alert
            time.sleep(0.05)
        raise AssertionError(f"not within {deadline:g} s; sent were {self.alerts}")


@final
class Alertmanager:
    """An Alertmanager that sends every alert to a webhook at once, with its data below `directory`."""

    def __init__(self, directory: Path, webhook: str) -> None:
        self.directory = directory
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._config = {
            "route": {"receiver": "webhook", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"},
            "receivers": [{"name": "webhook", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
        }

    @property
    def target(self) -> str:
        """Host and port, as Prometheus is told."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything it has written."""
        return (self.directory / "alertmanager.log").read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Alertmanager:
        program, amtool = tools_or_skip()
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "alertmanager.yml"
        path.write_text(json.dumps(self._config), encoding="utf-8")  # JSON is YAML: nothing to quote
        subprocess.run([str(amtool), "check-config", str(path)], check=True, capture_output=True, timeout=30)
        program = _unpacked(program, self.directory)
        for _ in range(_START_ATTEMPTS):
            self._launch(program)
            if self._is_ready_within(30.0):
                return self
            self._stop()
            if "address already in use" not in self.log:
                break
        raise RuntimeError(f"Alertmanager did not start:\n{self.log[-3000:]}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        (self.directory / _NAMES[0]).unlink(missing_ok=True)  # it is large

    def _launch(self, program: Path) -> None:
        self.port = free_port()
        with (self.directory / "alertmanager.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(program),
                    "--config.file=alertmanager.yml",
                    "--storage.path=data",
                    f"--web.listen-address={self.target}",
                    "--cluster.listen-address=",  # it has no peers
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _is_ready_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            if self._is_ready():
                return True
            time.sleep(0.05)
        return False

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
