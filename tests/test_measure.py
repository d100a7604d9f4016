"""`wattgram measure` runs a command as if nobody looked on; `wattgram.measure` never harms who calls it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import wattgram
from standin.daemon import Daemon
from standin.watching import wait
from wattgram import measuring
from wattgram.clock import SystemClock
from wattgram.kin import Proc
from wattgram.ledger import Ledger
from wattgram.local import LocalServer, Office
from wattgram.receipts import Receipts
from wattgram.windows import Windows

COMMAND = [sys.executable, "-m", "wattgram", "measure"]
OFF = "".join(f"[sources.{name}]\nenabled = false\n" for name in ("rapl", "hwmon", "nvml"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LocalServer]:
    """What answers as a daemon does, over real processes and without a meter."""
    clock = SystemClock()
    windows = Windows(clock, Proc(), os.getpid(), Receipts(clock, Ledger(clock).snapshot, "daemon"))
    server = LocalServer(tmp_path / "api.sock", Office(windows, lambda _: None, lambda: None))
    assert not server.start()
    yield server
    server.stop()


@pytest.fixture
def environ(daemon: LocalServer) -> dict[str, str]:
    return {**os.environ, "WATTGRAM_LOCAL__SOCKET": str(daemon.path), "PYTHONUNBUFFERED": "1"}


Done = subprocess.CompletedProcess[str]


def run(
    environ: Mapping[str, str], command: Sequence[str], *options: str, **more: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options, "--", *command],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,
    )


def receipt_of(done: Done) -> dict[str, Any]:
    found = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@contextmanager
def started(environ: Mapping[str, str], script: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A measured Python script that has said `ready`."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, "--json", "--", sys.executable, "-c", script],
        env=environ,
        stdout=pipe,
        stderr=pipe,
        text=True,
        **more,
    ) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


# --- the command --------------------------------------------------------------------------------------


def test_streams_and_exit_code_are_the_commands(environ: dict[str, str]) -> None:
    done = run(environ, ["sh", "-c", "cat; echo bad >&2; exit 7"], input="in and out")

    assert (7, "in and out") == (done.returncode, done.stdout)
    assert done.stderr.startswith("bad\n\nwattgram: sh -c cat; echo bad >&2; exit 7: exit code 7\n  duration    0.")


@pytest.mark.parametrize(("command", "code"), [("/no/such/file", 127), ("no-such-command", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_run_has_the_shells_codes(environ: dict[str, str], command: str, code: int) -> None:
    done = run(environ, [command], "--json")

    assert code == done.returncode == receipt_of(done)["exit_code"]
    assert done.stderr.startswith(f"wattgram: {command}: ")


def test_a_script_that_does_not_name_its_shell_runs(environ: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("exit 5\n")
    script.chmod(0o755)

    assert 5 == run(environ, [str(script)]).returncode


def test_a_receipt_for_programs_can_go_to_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    done = run(environ, ["true"], "--json", "--name", "nothing", "--output", str(tmp_path / "receipt.json"))
    receipt = json.loads((tmp_path / "receipt.json").read_text())

    assert ("", "") == (done.stdout, done.stderr)
    assert ("daemon", "nothing", "ended", 0, ["true"]) == tuple(
        receipt[key] for key in ("meter", "name", "state", "exit_code", "command")
    )


def test_a_command_is_needed() -> None:
    done = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, timeout=60, check=False)

    assert 2 == done.returncode
    assert "no command" in done.stderr


def test_descriptors_and_signals_reach_the_command_as_they_were(environ: dict[str, str]) -> None:
    """A make's job server, say; and no signal is left blocked."""
    ours, theirs = os.pipe()
    script = f"import os; os.write({theirs}, open('/proc/self/status').read().encode())"
    done = run(environ, [sys.executable, "-c", script], pass_fds=[theirs])
    os.close(theirs)
    status = os.read(ours, 1 << 16).decode()
    os.close(ours)

    assert 0 == done.returncode
    assert "SigBlk:\t0000000000000000\n" in status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_command_that_is_killed_has_its_receipt_and_we_die_alike(
    environ: dict[str, str], number: signal.Signals
) -> None:
    done = run(environ, ["sh", "-c", f"kill -{int(number)} $$"])

    assert -number == done.returncode
    assert f": killed by {number.name}\n  duration " in done.stderr


COUNTS = """
import signal, sys, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda n, _: heard.append(n))
print("ready", flush=True)
end = time.monotonic() + 30
while not heard and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.2)
print(*heard, flush=True)
sys.exit(40 + len(heard))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_sent_to_us_is_meant_for_the_command(environ: dict[str, str], number: signal.Signals) -> None:
    """It decides what to do; we stay until it has ended, and print."""
    with started(environ, COUNTS) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert (f"{int(number)}\n", 41) == (out, process.returncode)
    assert "ended" == json.loads(err.splitlines()[-1])["state"]


def test_a_signal_that_comes_before_the_command_began_keeps_it_from_beginning(tmp_path: Path) -> None:
    """Ctrl-C while the meter is being found: it would never reach who is not there yet."""
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(str(tmp_path / "api.sock"))
        slow.listen(1)
        environ = {**os.environ, "WATTGRAM_SOURCES__NVML__ENABLED": "false"}
        words = [*COMMAND, "--socket", str(tmp_path / "api.sock"), "--", "echo", "began"]
        with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            line, _ = slow.accept()
            process.send_signal(signal.SIGTERM)
            line.close()
            out, err = process.communicate(timeout=60)

    assert (-signal.SIGTERM, b"") == (process.returncode, out)
    assert b": killed by SIGTERM\n" in err


ECHOES = """
import signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda n, _: (heard.append(n), print("heard", flush=True)))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(len(heard)))
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def test_what_the_terminal_sends_reaches_the_command_once(environ: dict[str, str]) -> None:
    """Ctrl-C goes to all of the foreground: it must not come twice."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # the first terminal that a session's leader opens is its own

    with started(environ, ECHOES, stdin=theirs, preexec_fn=take_terminal) as process:
        assert process.stdout is not None
        for _ in range(10):  # two that come at once may become one: not ten times
            os.write(ours, b"\x03")
            assert "heard\n" == process.stdout.readline()
        process.terminate()
        process.communicate(timeout=60)
    for end in (ours, theirs):
        os.close(end)

    assert 10 == process.returncode


def test_being_stopped_and_continued_changes_nothing(environ: dict[str, str]) -> None:
    with started(environ, COUNTS, start_new_session=True) as process:
        os.killpg(process.pid, signal.SIGSTOP)
        wait(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("T"))
        os.killpg(process.pid, signal.SIGCONT)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=60)

    assert 41 == process.returncode


ORPHAN = """
import os, sys, time
ours, theirs = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.05)
        while time.process_time() < 0.3: pass
        os.write(theirs, b"x")
        os._exit(0)
    os._exit(0)
os.wait()
os.read(ours, 1)
if sys.argv[1:]:
    os.closerange(0, 3)
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", sys.argv[1])
"""


def test_a_tree_that_forks_and_leaves_its_orphans_is_measured_whole(environ: dict[str, str]) -> None:
    receipt = receipt_of(run(environ, [sys.executable, "-c", ORPHAN], "--json"))

    assert 0.3 <= receipt["cpu_seconds"] < 2.0
    assert [] == receipt["remarks"]


def test_what_still_runs_when_the_command_has_ended_is_said(environ: dict[str, str]) -> None:
    done = run(environ, [sys.executable, "-c", ORPHAN, "5"], "--json", stdin=subprocess.DEVNULL)

    (remark,) = receipt_of(done)["remarks"]
    assert re.fullmatch(r"[12] process(es)? of it still runs?: what they use from now on is not in here", remark)


# --- without a daemon, without a meter ------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """An environment without a daemon, and a configuration without a source."""
    (tmp_path / "wattgram.toml").write_text(OFF)
    return {**os.environ, "WATTGRAM_LOCAL__ENABLED": "false"}


def test_where_nothing_can_be_metered_the_command_runs_all_the_same(alone: dict[str, str], tmp_path: Path) -> None:
    done = run(alone, ["sh", "-c", "exit 9"], "--config", str(tmp_path / "wattgram.toml"))

    assert 9 == done.returncode
    assert "\n  energy      not known\n" in done.stderr
    assert "not metered gpu: no meter\n" in done.stderr


def test_a_bad_configuration_is_said_and_the_command_runs(alone: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[sampling]\nintervall = 1\n")

    done = run(alone, ["sh", "-c", "exit 9"], "--config", str(tmp_path / "bad.toml"), "--json")

    assert 9 == done.returncode
    assert "unknown key sampling.intervall" in receipt_of(done)["not_metered"][0]


def test_a_daemon_that_is_not_there_is_said(alone: dict[str, str], tmp_path: Path) -> None:
    options = ["--config", str(tmp_path / "wattgram.toml"), "--socket", str(tmp_path / "none.sock"), "--json"]

    receipt = receipt_of(run(alone, ["true"], *options))

    assert "own" == receipt["meter"]
    assert f"no daemon answers at {tmp_path}/none.sock" in receipt["not_metered"]


# --- the Python API --------------------------------------------------------------------------------------


def test_a_block_has_a_receipt(daemon: LocalServer) -> None:
    """Nothing meters here: joules and grams are unknown, and why is said."""
    with wattgram.measure("epoch 3", socket=str(daemon.path)) as m:
        m.progress(128, "samples")
        assert "open" == m.receipt["state"]

    assert (None, None, "ended", "epoch 3") == (m.joules, m.grams, m.receipt["state"], m.receipt["name"])
    assert [{"unit": "samples", "units": 128.0, "joules": None, "grams": None}] == m.receipt["per_unit"]
    assert 0 < m.seconds < 30


def test_blocks_nest_and_run_in_threads(daemon: LocalServer) -> None:
    found: list[measuring.Measure] = []

    def work() -> None:
        with wattgram.measure("step", socket=str(daemon.path)) as step:
            found.append(step)

    with wattgram.measure("epoch", socket=str(daemon.path)) as epoch:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert {"step"} == {m.receipt["name"] for m in found}
    assert ["ended"] * 9 == [m.receipt["state"] for m in (*found, epoch)]


def test_an_exception_passes_and_the_window_has_ended(daemon: LocalServer) -> None:
    with pytest.raises(KeyError), wattgram.measure("bad", socket=str(daemon.path)) as m:
        raise KeyError

    assert "ended" == m.receipt["state"]


def test_a_daemon_that_goes_away_harms_nobody(daemon: LocalServer) -> None:
    with wattgram.measure("cut off", socket=str(daemon.path)) as m:
        daemon.stop()
        m.progress(1)

    assert m.joules is None
    assert m.why
    assert "unmetered" == m.receipt["state"]
    assert m.receipt["seconds"] > 0


def test_a_forked_child_leaves_its_parents_window_alone(daemon: LocalServer) -> None:
    with wattgram.measure("parent", socket=str(daemon.path)) as m:
        child = os.fork()
        if child == 0:
            m.end()
            os._exit(0)
        os.waitpid(child, 0)
        assert "open" == m.receipt["state"]

    assert "ended" == m.receipt["state"]


SCRIPT = """
import os, sys, wattgram
assert "wattgram.measuring" not in sys.modules
with wattgram.measure("outer") as m:
    child = os.fork()
    with wattgram.measure("inner") as n:
        pass
    assert n.receipt["state"] == "ended", n.receipt
    assert (n.meter is m.meter) == (child != 0)
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
assert m.receipt["state"] == "ended", m.receipt
assert m.receipt["meter"] == "own"
foreign = [name for name in sys.modules if name.split(".")[0] in ("msgspec", "requests", "pynvml", "prometheus_client")]
print(measuring.METERS._own.pid if (measuring := wattgram.measuring) else "", m.joules, *foreign)
"""


def test_without_a_daemon_a_meter_of_our_own_comes_and_goes(alone: dict[str, str], tmp_path: Path) -> None:
    """Parent and forked child have one each; the program itself loads nothing but the standard library."""
    off = {f"WATTGRAM_SOURCES__{name}__ENABLED": "false" for name in ("RAPL", "HWMON", "NVML")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={**alone, **off},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ("", 0) == (done.stderr, done.returncode)
    pid, joules, *foreign = done.stdout.split()
    assert ("None", []) == (joules, foreign)
    assert not Path(f"/proc/{pid}").exists()


def test_our_own_meter_ends_when_we_are_killed(alone: dict[str, str]) -> None:
    script = "import os, wattgram; m = wattgram.measure('x'); m.begin(); print(m.meter.pid, flush=True); os.abort()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=alone, capture_output=True, text=True, timeout=60, check=False
    )
    pid = int(done.stdout)

    wait(lambda: _is_gone(pid))


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def test_what_is_not_offered_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'meassure'"):
        _ = wattgram.meassure


def test_a_daemon_that_does_not_answer_in_time_costs_no_more_than_that() -> None:
    """The place named is a socket at which nobody answers."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(path := f"\0wattgram-test-{os.getpid()}")
        deaf.listen(1)

        with pytest.raises(TimeoutError):
            measuring.Daemon(path, 0.1).ask({"do": "hello"})


def test_a_daemon_that_refuses_is_replaced_by_a_meter_of_our_own(daemon: LocalServer) -> None:
    """It may live where our processes cannot be seen."""
    m = measuring.Measure("refused", pid=2_147_483_000, socket_path=str(daemon.path))
    m.begin()
    m.end()
    measuring.METERS.close()

    assert m.meter is None
    assert ["2147483000" in refusal for refusal in m.refusals] == [True, True]


def test_the_daemon_opens_its_socket_in_the_runtime_directory_and_takes_it_away(tmp_path: Path) -> None:
    """A changed [local] is for the next start; a socket that cannot be opened keeps nobody from metering."""
    place = tmp_path / "run" / "api.sock"
    env = {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    with Daemon(tmp_path, OFF, env=env) as daemon:
        wait(place.exists)  # without a source it has something to show before it has its socket
        with wattgram.measure("in a daemon", socket=str(place)) as m:
            mode = place.stat().st_mode & 0o777
        daemon.config_file.write_text(f'{OFF}[local]\nmode = "0666"\n')
        daemon.send(signal.SIGHUP)
        daemon.wait_for_log("local is taken at the next start")
        daemon.stop()
        left = place.exists()
        place.write_text("in the way")
        daemon.start()
        daemon.wait_for_log("no local API")

    assert (0o660, "daemon", False) == (mode, m.receipt["meter"], left)
    assert "in the way" == place.read_text()
