"""Whoever answers, and whatever he is told: the command's exit code stays, and no receipt is another's."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from standin.watching import wait
from wattgram import measuring
from wattgram.measuring import Measure, NoMeter, OwnMeter

COMMAND = [sys.executable, "-m", "wattgram", "measure"]
ENVIRON = {**os.environ, "WATTGRAM_LOCAL__ENABLED": "false"}
OFF = {f"WATTGRAM_SOURCES__{name}__ENABLED": "false" for name in ("RAPL", "HWMON", "NVML")}


class Liar:
    """Answers every request with what it is given, and keeps what it was asked."""

    def __init__(self, path: Path, answer: object) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answer = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(path))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            with line, line.makefile("rb") as file:
                self.asked.append(json.loads(file.readline()))
                line.sendall(self._answer + b"\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def liar(tmp_path: Path, answer: object = None) -> Iterator[tuple[Liar, str]]:
    found = Liar(tmp_path / "liar.sock", {"ok": True, "receipt": {}} if answer is None else answer)
    try:
        yield found, str(tmp_path / "liar.sock")
    finally:
        found.close()


def run(command: Sequence[str | bytes], *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options, "--", *command],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        **{"env": ENVIRON | OFF, "stdout": subprocess.PIPE, **more},
    )


# --- what is asked ------------------------------------------------------------------------------------


def test_the_daemon_is_told_no_number_of_ours(tmp_path: Path) -> None:
    """In a container ours are others than the daemon's: the kernel tells it who asks."""
    with liar(tmp_path) as (meter, path):
        for pid in (None, os.getpid(), 1):
            Measure("x", pid=pid, socket_path=path).begin()

    assert [None, None, 1] == [request.get("pid") for request in meter.asked if request["do"] == "begin"]


def test_any_name_can_be_told(tmp_path: Path) -> None:
    """Also one that is no UTF-8, as arguments may be, and one that is no text."""
    with liar(tmp_path) as (meter, path):
        for name in ("a\udcffb", "\ud800", 3):
            m = Measure(name, socket_path=path)  # type: ignore[arg-type]
            m.begin()
            m.progress(1, "\udcff")

    assert ["a?b", "?", "3"] == [request["name"] for request in meter.asked if request["do"] == "begin"]
    assert "?" == meter.asked[-1]["unit"]


class Tensor:
    """A number as libraries have it, and one that is none."""

    def __init__(self, value: float | None) -> None:
        self._value = value

    def __float__(self) -> float:
        if self._value is None:
            raise RuntimeError("a tensor of many numbers")
        return self._value


def test_units_may_be_any_librarys_numbers(tmp_path: Path) -> None:
    with liar(tmp_path) as (meter, path):
        m = Measure(socket_path=path)
        m.begin()
        m.progress(Tensor(5.0), 7)  # type: ignore[arg-type]
        m.progress(Tensor(None))  # type: ignore[arg-type]
        m.progress(10**400)

    assert [(5.0, "7")] == [(r["units"], r["unit"]) for r in meter.asked if r["do"] == "progress"]
    assert "a tensor of many" in m.why


# --- what is answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": True},
        {"ok": True, "receipt": None},
        {"ok": True, "receipt": [1]},
        {"ok": True, "receipt": {}},
        {"ok": True, "receipt": {"joules": "many", "seconds": [], "components": 3}},
        {"ok": "yes"},
        [],
        b"\xff",
        b"[" * 60_000,
        b'{"ok":true,"receipt":' + b"[" * 60_000,
        b'{"ok":true,"receipt":' + b"9" * 6000 + b"}",
    ],
)
def test_no_answer_can_harm_a_program(tmp_path: Path, answer: object) -> None:
    with liar(tmp_path, answer) as (_, path):
        m = Measure("x", socket_path=path)
        m._find_own = no_meter  # type: ignore[method-assign]
        with m:
            m.progress(1)
            assert m.joules is None
        assert m.joules is None
        assert m.grams is None
        assert m.seconds >= 0
        assert m.receipt["not_metered"]


def no_meter() -> OwnMeter:
    raise NoMeter("none is wanted")


@pytest.mark.parametrize("receipt", [{}, {"components": 3, "seconds": "x", "not_metered": 3}])
def test_a_daemon_of_another_make_leaves_the_exit_code(tmp_path: Path, receipt: dict[str, Any]) -> None:
    with liar(tmp_path, {"ok": True, "receipt": receipt}) as (_, path):
        done = run(["sh", "-c", "exit 9"], "--socket", path)

    assert 9 == done.returncode
    assert "Traceback" not in done.stderr
    assert ": exit code 9\n" in done.stderr or "cannot be shown" in done.stderr


def test_what_an_answer_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    with liar(tmp_path, {"ok": False, "error": "bad", "message": "\x1b[2J\nhidden"}) as (_, path):
        done = run(["/no/such\x1b[31m/file"], "--socket", path)

    assert 127 == done.returncode
    assert "\x1b" not in done.stderr
    assert "hidden" in done.stderr


# --- one line, many requests --------------------------------------------------------------------------


class Late(OwnMeter):
    """A meter of our own that has not started yet: its line is a test's."""

    def __init__(self) -> None:
        self._line, self.theirs = socket.socketpair()
        self._lock = threading.Lock()
        self.is_lost = False


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_answer_that_came_too_late_is_nobody_elses() -> None:
    """Interrupted while it waits, as by Ctrl-C in a notebook, a request leaves its answer on the line."""
    meter = Late()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            meter.ask({"do": "end", "key": "inner"})
    finally:
        signal.signal(signal.SIGALRM, before)
    with meter.theirs:
        try:
            meter.theirs.sendall(b'{"ok":true,"receipt":{"name":"inner"}}\n')
        except OSError as error:
            assert errno.EPIPE == error.errno  # noqa: PT017 - nobody is there any more
        with pytest.raises((NoMeter, OSError)):
            meter.ask({"do": "end", "key": "outer"})

    assert meter.is_lost


def test_a_refusal_is_a_whole_answer() -> None:
    meter = Late()
    with meter.theirs:
        meter.theirs.sendall(b'{"ok":false,"message":"no"}\n')
        with pytest.raises(NoMeter, match="no"):
            meter.ask({"do": "read"})
        meter.theirs.sendall(b'{"ok":true}\n')

        assert {"ok": True} == meter.ask({"do": "hello"})
    meter._line.close()


def test_a_meter_that_is_lost_is_replaced() -> None:
    meters = measuring._Meters()
    first = meters.own({})
    first.is_lost = True
    second = meters.own({})
    meters.close()

    assert first is not second
    assert first._process.returncode is not None


def test_what_lies_beside_a_script_is_not_run_by_the_meter(tmp_path: Path) -> None:
    """Its `sitecustomize.py`, or a module called like one of ours or of the standard library."""
    for name in ("sitecustomize", "msgspec", "json", "wattgram_x"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'a').close()\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nsys.path.append(sys.path.pop(0))\nimport wattgram.measuring\nsys.path.insert(0, sys.path.pop())\n"
        "with wattgram.measure('x') as m: pass\nprint(m.receipt['meter'])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=ENVIRON | OFF, capture_output=True, text=True, timeout=60, check=False
    )

    assert ("own\n", "") == (done.stdout, done.stderr)
    assert {"script.py", "sitecustomize.py", "msgspec.py", "json.py", "wattgram_x.py"} >= {
        path.name for path in tmp_path.iterdir() if path.name != "__pycache__"
    }


# --- the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "code"), [(["sh", "-c", "exit 7"], 7), (["/no/such/file"], 127)])
def test_without_standard_error_the_exit_code_is_the_commands(command: list[str], code: int, tmp_path: Path) -> None:
    with liar(tmp_path) as (_, path):
        words = ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "--socket", path, "--", *command]
        done = subprocess.run(words, env=ENVIRON | OFF, timeout=60, check=False)

    assert code == done.returncode


def test_a_place_for_the_receipt_that_is_none_is_said_before_the_command_runs(tmp_path: Path) -> None:
    done = run(["echo", "ran"], "--output", str(tmp_path / "no" / "receipt.json"))

    assert (2, "") == (done.returncode, done.stdout)
    assert "receipt.json" in done.stderr


def test_a_receipt_that_cannot_be_written_goes_to_standard_error(tmp_path: Path) -> None:
    with liar(tmp_path) as (_, path):
        done = run(["sh", "-c", "exit 3"], "--output", "/dev/full", "--socket", path)

    assert 3 == done.returncode
    assert "wattgram: /dev/full: No space left on device" in done.stderr
    assert ": exit code 3\n  duration" in done.stderr


def test_a_command_that_is_no_utf8_has_its_receipt(tmp_path: Path) -> None:
    with liar(tmp_path) as (_, path):
        for options in (["--json"], []):
            output = tmp_path / "receipt"
            output.write_text("an older one, and a long one, too long to be left where a shorter one is now" * 100)
            assert 0 == run([b"true", b"\xff"], "--socket", path, "--output", str(output), *options).returncode
            text = output.read_text()
            assert "an older one" not in text
            if options:
                assert ["true", "\udcff"] == json.loads(text)["command"]
            else:
                assert "wattgram: true ?: exit code 0\n" in text


def test_a_receipt_goes_where_a_pipe_leads_and_no_link_of_another_is_followed(tmp_path: Path) -> None:
    with liar(tmp_path) as (_, path):
        done = run(["true"], "--socket", path, "--output", "/dev/stdout", "--json")
        assert ["true"] == json.loads(done.stdout)["command"]
        if os.getuid() == 0:
            precious, link = tmp_path / "precious", tmp_path / "link"
            precious.write_text("precious")
            link.symlink_to(precious)
            os.chown(link, 1234, -1, follow_symlinks=False)
            refused = run(["true"], "--socket", path, "--output", str(link))
            assert (2, "precious") == (refused.returncode, precious.read_text())


def test_a_script_that_does_not_name_its_shell_is_the_one_that_was_found(tmp_path: Path) -> None:
    """Not another of its name where we happen to be."""
    (tmp_path / "bin").mkdir()
    for place, code in ((tmp_path / "bin" / "r2tool", 5), (tmp_path / "r2tool", 66)):
        place.write_text(f"exit {code}\n")
        place.chmod(0o755)
    with liar(tmp_path) as (_, path):
        environ = {**ENVIRON, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        done = run(["r2tool"], "--socket", path, cwd=tmp_path, env=environ)

    assert 5 == done.returncode


def test_a_signal_that_the_caller_ignores_keeps_no_command_from_beginning(tmp_path: Path) -> None:
    """As nohup has it, and a shell for what runs in the background."""
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(str(tmp_path / "api.sock"))
        slow.listen(1)
        words = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND, "--socket", str(tmp_path / "api.sock")]
        with subprocess.Popen(
            [*words, "--", "echo", "began"], env=ENVIRON | OFF, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            line, _ = slow.accept()
            process.send_signal(signal.SIGINT)
            line.close()
            out, _ = process.communicate(timeout=60)

    assert (0, b"began\n") == (process.returncode, out)


HANGS_UP = """import signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have it ignored
print("ready", flush=True)
time.sleep(60)"""


def test_a_hangup_reaches_the_command_of_a_session_that_we_lead(tmp_path: Path) -> None:
    """As under `ssh -t host wattgram measure`: the kernel tells the leader alone."""
    ours, theirs = pty.openpty()
    with liar(tmp_path) as (_, path):
        leads = ["sh", "-c", f'exec <{os.ttyname(theirs)}; exec "$@"', "sh"]  # the first that it opens is its terminal
        words = [*leads, *COMMAND, "--socket", path, "--", sys.executable, "-c", HANGS_UP]
        with subprocess.Popen(
            words, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert b"ready\n" == process.stdout.readline()
            os.close(theirs)
            os.close(ours)
            try:
                wait(lambda: process.poll() is not None)
            finally:
                process.kill()

    assert -signal.SIGHUP == process.returncode
