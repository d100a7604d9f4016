"""The daemon as a service of systemd: what it says over a real datagram socket, and what becomes of its credentials."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from standin.daemon import Daemon
from standin.grid import TOKEN, GridApi
from standin.manager import Manager
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin
from standin.sysfs import RaplTree, Zone
from standin.watching import pause, wait
from wattgram import isolated

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

pytestmark = pytest.mark.apart

PERIOD = 4.0  # of the watchdog, in seconds
UNITS_PERIOD = 60.0  # WatchdogSec in deploy/systemd
EVERY = "500ms"
ZONE = "intel-rapl:0"
SLACK = 0.9  # a machine with other work; one who is fed once a period is late by twice as much
FOREVER = float("inf")


@pytest.fixture
def nvml(tmp_path: Path) -> NvmlStandin:
    try:
        return NvmlStandin(tmp_path / "nvml", [Gpu(profile=Constant(300.0)) for _ in range(2)])
    except CompilerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def rapl(tmp_path: Path) -> Iterator[RaplTree]:
    with RaplTree(tmp_path / "rapl", [Zone(ZONE, "package-0", Constant(100.0))]) as tree:
        tree.start_writer()
        yield tree


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"@wattgram-test-{os.getpid()}-{time.monotonic_ns()}" if request.param == "abstract" else "notify"
    with Manager(address if request.param == "abstract" else str(tmp_path / address)) as manager:
        yield manager


@contextmanager
def service(tmp_path: Path, manager: Manager, nvml: NvmlStandin, rapl: RaplTree, **env: str) -> Iterator[Daemon]:
    """The daemon as a manager starts it, already told what to say."""
    config = f'[sampling]\ninterval = "{EVERY}"\n[sources.rapl]\npath = "{rapl.sys}"\nproc = "{rapl.proc}"\n'
    notify = {"NOTIFY_SOCKET": manager.address, **env}
    with Daemon(tmp_path / "daemon", config, env={**nvml.env, **notify}, wait=False) as daemon:
        yield daemon


def watched() -> dict[str, str]:
    """The watchdog's period, as systemd gives it."""
    return {"WATCHDOG_USEC": str(int(PERIOD * 1e6))}


@pytest.mark.accept("4.5", "systemd is told READY once there is a sample, by the daemon itself, and not before")
def test_it_is_ready_when_it_has_something_to_show(
    tmp_path: Path, manager: Manager, nvml: NvmlStandin, rapl: RaplTree, report: Report
) -> None:
    """A driver that takes its time to open delays it; processors alone are something to show."""
    nvml.library(init_hang=2.0)
    rapl.remove(ZONE)
    with service(tmp_path, manager, nvml, rapl) as daemon:
        started = time.monotonic()

        ready = manager.wait_for("READY", "1")

        assert ready.at - started > 1.9
        assert daemon.get("/-/ready").status == 200
        assert {daemon.pid} == {message.pid for message in manager.messages}
        assert [ready] == manager.said("READY")
        report(f"after {ready.at - started:.1f} s, of which the driver took 2")


@pytest.mark.accept("4.5", "systemd's watchdog is fed at least twice in its period, and not when a sampling loop hangs")
def test_a_sampling_loop_that_hangs_is_not_hidden_by_the_others(
    tmp_path: Path, manager: Manager, nvml: NvmlStandin, rapl: RaplTree, seconds: Seconds, report: Report
) -> None:
    """A counter that becomes a pipe blocks its reader; GPUs go on being read, and yet the pings stop."""
    length = seconds(6, 60)
    with service(tmp_path, manager, nvml, rapl, **watched()) as daemon:
        healthy_since = manager.wait_for("READY").at
        pause(length)
        longest = max(manager.gaps("WATCHDOG", healthy_since, time.monotonic()))
        assert longest <= PERIOD / 2 + SLACK

        pipe = rapl.file(ZONE)
        rapl.freeze()
        pipe.unlink()
        os.mkfifo(pipe)
        hung = time.monotonic()
        pause(2.5 * PERIOD)
        late = [message.at - hung for message in manager.said("WATCHDOG") if message.at > hung]

        assert [] == [after for after in late if after > PERIOD / 2 + SLACK]
        assert daemon.returncode is None
        with pipe.open("wb"):  # the reader goes on when nobody writes any more, and finds a file
            rapl.set_raw(ZONE, "2000000000")
        wait(lambda: manager.said("WATCHDOG")[-1].at > hung + 2.5 * PERIOD, 10.0)
        report(f"longest gap {longest:.2f} s of {PERIOD / 2:g}; the last ping {max(late, default=0):.1f} s into a hang")


@pytest.mark.accept(
    "4.5", "a driver that hangs costs its child its life, not the daemon: the watchdog goes on being fed"
)
def test_a_hung_driver_does_not_stop_the_pings(
    tmp_path: Path, nvml: NvmlStandin, rapl: RaplTree, seconds: Seconds, report: Report
) -> None:
    """Opening it anew is waited for longer than anything else, and still not for as long as the unit's watchdog."""
    with Manager(str(tmp_path / "notify")) as manager, service(tmp_path, manager, nvml, rapl, **watched()) as daemon:
        manager.wait_for("READY")  # processors are something to show: the cards may come later
        daemon.until(lambda metrics: metrics.value("wattgram_source_up", source="nvml") == 1)
        children = set(daemon.children())
        hung = time.monotonic()
        for index in range(len(nvml.gpus)):
            nvml.change(index, hang=FOREVER)

        wait(lambda: children.isdisjoint(daemon.children()))
        pause(seconds(20, 180))

        longest = max(manager.gaps("WATCHDOG", hung, time.monotonic()))
        assert longest < isolated.OPEN_SECONDS + 5 < UNITS_PERIOD
        assert manager.said("WATCHDOG")[-1].at > hung + 5
        report(f"longest gap {longest:.1f} s of {UNITS_PERIOD:g}")


@pytest.mark.accept("4.5", "nobody who is not meant feeds the watchdog, and without one nobody is fed")
@pytest.mark.parametrize("env", [{}, {**watched(), "WATCHDOG_PID": "1"}], ids=["none", "another process's"])
def test_without_a_watchdog_of_ours_there_are_no_pings(
    tmp_path: Path, manager: Manager, nvml: NvmlStandin, rapl: RaplTree, env: dict[str, str]
) -> None:
    with service(tmp_path, manager, nvml, rapl, **env):
        manager.wait_for("READY")
        pause(PERIOD)

        assert [] == manager.said("WATCHDOG")


@pytest.mark.accept("4.5", "a reload and a stop are announced")
def test_a_reload_and_a_stop_are_announced(tmp_path: Path, manager: Manager, nvml: NvmlStandin, rapl: RaplTree) -> None:
    """Systemd wants the instant of RELOADING, to tell it from an earlier one; READY ends it, also when it failed."""
    with service(tmp_path, manager, nvml, rapl) as daemon:
        manager.wait_for("READY")

        for count, text in ((1, daemon.config_file.read_text()), (2, "[nonsense]\n")):
            daemon.config_file.write_text(text)
            sent = time.monotonic()
            daemon.send(signal.SIGHUP)
            reloading = manager.wait_for("RELOADING", "1", count=count)
            ready = manager.wait_for("READY", "1", count=count + 1)
            assert sent <= int(reloading.said["MONOTONIC_USEC"]) / 1e6 <= reloading.at
            assert reloading.at <= ready.at

        code, took = daemon.stop()
        assert (0, True) == (code, took < 2)
        assert manager.wait_for("STOPPING", "1").at > ready.at


@pytest.mark.accept("4.5", "a manager that has gone does not take the daemon along")
def test_a_socket_that_is_not_there_is_survived(tmp_path: Path, nvml: NvmlStandin, rapl: RaplTree) -> None:
    with Manager(str(tmp_path / "notify")) as manager, service(tmp_path, manager, nvml, rapl, **watched()) as daemon:
        manager.wait_for("READY")
        Path(manager.address).rename(tmp_path / "moved")
        pause(PERIOD)
        (tmp_path / "moved").rename(manager.address)

        manager.wait_for("WATCHDOG", count=len(manager.said("WATCHDOG")) + 1)

        assert daemon.returncode is None
        assert "Traceback" not in daemon.log


@pytest.mark.accept("4.5", "a systemd credential is used, and seen nowhere; a child learns nothing of the manager")
def test_a_credential_is_used_and_seen_nowhere(tmp_path: Path, manager: Manager, nvml: NvmlStandin) -> None:
    """The unit's LoadCredential arrives as a file that only the daemon can read."""
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "electricitymaps-token").write_text(f"{TOKEN}\n")
    with GridApi() as api:
        config = '[carbon]\nzone = "FR"\nproviders = ["electricitymaps"]\n'
        config += f'[carbon.electricitymaps]\nbase_url = "{api.url}"\n'
        env = {**nvml.env, **watched(), "NOTIFY_SOCKET": manager.address, "CREDENTIALS_DIRECTORY": str(credentials)}
        with Daemon(tmp_path / "daemon", config, env=env) as daemon:
            daemon.until(lambda metrics: metrics.value("wattgram_pricing_intensity_grams_per_kwh") == api.value)
            (child,) = daemon.children()
            processes = (Path(f"/proc/{pid}") for pid in (daemon.pid, child))
            texts = [(path / part).read_bytes().decode() for path in processes for part in ("environ", "cmdline")]
            texts += [daemon.get(path).text for path in ("/", "/metrics", "/api/v1/status", "/api/v1/intensity")]
            inherited = daemon.environ(child)
            daemon.stop()

            said = "\n".join(f"{message.said}" for message in manager.messages)
            assert [] == [text for text in (*texts, daemon.log, said) if TOKEN in text]
            assert set() == {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"} & set(inherited)
            assert TOKEN in {request.headers.get("auth-token") for request in api.requests}
