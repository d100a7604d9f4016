"""The commands as processes of their own: what they print, and the exit code that a unit file or a script goes by."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from standin.daemon import Daemon, Metrics, free_port
from standin.grid import GridApi
from standin.nvml import CompilerMissing, Gpu, NvmlStandin
from standin.sysfs import RaplTree, Zone
from wattgram import __version__

pytestmark = [pytest.mark.apart, pytest.mark.busy]

GOOD, BAD_CONFIG, MISSING = 0, 2, 3
TOKEN = "token-that-must-never-show"
NO_GPU = "[sources.nvml]\nenabled = false\n"
NO_CPU = "[sources.rapl]\nenabled = false\n"
SYNTHETIC = f"{NO_GPU}{NO_CPU}[sources.synthetic]\nenabled = true\ngpus = 1\n"


class Run:
    """`python -m wattgram` in a folder, to its end; the environment holds nothing of ours beside what is given."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "home").mkdir()

    def __call__(
        self, *arguments: str, config: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        more: Sequence[str] = ()
        if config is not None:
            (self._directory / "wattgram.toml").write_text(config, encoding="utf-8")
            more = ("--config", str(self._directory / "wattgram.toml"))
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        paths = os.pathsep.join(p for p in sys.path if p)
        return subprocess.run(
            [sys.executable, "-m", "wattgram", *arguments, *more],
            cwd=self._directory,
            env={**kept, "PYTHONPATH": paths, "HOME": str(self._directory / "home"), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def without_driver(tmp_path: Path) -> dict[str, str]:
    """Surroundings in which no NVIDIA library loads: a file of its name that is none, found first."""
    (tmp_path / "no-driver").mkdir()
    (tmp_path / "no-driver" / "libnvidia-ml.so.1").write_text("not a library")
    return {"LD_LIBRARY_PATH": str(tmp_path / "no-driver")}


def cards(directory: Path) -> NvmlStandin:
    """A driver with one card, or a skip that says why; never a skip where the whole suite must run."""
    try:
        return NvmlStandin(directory, [Gpu()])
    except CompilerMissing as missing:
        pytest.skip(str(missing))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < end, "did not come true in time"
        threading.Event().wait(0.01)


def rapl(directory: Path) -> str:
    """The configuration of a machine with one package."""
    tree = RaplTree(directory, [Zone("intel-rapl:0", "package-0")])
    return f'{NO_GPU}[sources.rapl]\npath = "{tree.sys}"\nproc = "{tree.proc}"\n'


# --- saying who it is -----------------------------------------------------------------------------


def test_the_version_is_told_in_both_ways(run: Run) -> None:
    short, long = run("--version"), run("version")

    assert (GOOD, f"wattgram {__version__}\n") == (short.returncode, short.stdout)
    assert GOOD == long.returncode
    assert long.stdout.startswith(f"wattgram {__version__}, Python {sys.version_info.major}.{sys.version_info.minor}.")


@pytest.mark.parametrize("command", ["run", "demo", "once", "doctor", "intensity", "config", "check-config", "version"])
def test_every_command_can_be_asked_what_it_does(run: Run, command: str) -> None:
    asked = run(command, "--help")

    assert (GOOD, True) == (asked.returncode, f"wattgram {command}" in asked.stdout)


@pytest.mark.parametrize("arguments", [(), ("rnu",), ("run", "--nonsense"), ("once", "--format", "xml")])
def test_a_command_that_is_none_is_a_matter_of_configuration(run: Run, arguments: tuple[str, ...]) -> None:
    assert BAD_CONFIG == run(*arguments).returncode


# --- configuration --------------------------------------------------------------------------------


def test_a_good_configuration_is_said_to_be_good(run: Run, tmp_path: Path) -> None:
    checked = run("check-config", config='[carbon]\nzone = "FR"\n')

    assert (GOOD, f"{tmp_path / 'wattgram.toml'}: good\n") == (checked.returncode, checked.stdout)


def test_the_file_to_check_may_be_named_without_a_flag(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[sampling]\nintervall = 1\n")
    checked = run("check-config", str(tmp_path / "other.toml"))

    assert BAD_CONFIG == checked.returncode
    assert f"{tmp_path / 'other.toml'}:2: unknown key sampling.intervall" in checked.stderr


BAD = {
    "a key": ("[sampling]\nintervall = 1\n", ("wattgram.toml:2", "sampling.intervall", "sampling.interval")),
    "no TOML": ("[sampling\n", ("not TOML",)),
    "a zone": ('[carbon]\nzone = "France"\n', ("wattgram.toml:2", "carbon.zone", '"FR"')),
    "no token": ('[carbon]\nzone = "FR"\nproviders = ["electricitymaps"]\n', ("no token", "token_file")),
}


@pytest.mark.parametrize("command", ["check-config", "run", "once", "doctor"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_ends_every_command_alike(run: Run, command: str, case: str) -> None:
    """2, the key to mend on one line, and no traceback; before anything is started."""
    config, words = BAD[case]
    ended = run(command, config=config)

    assert BAD_CONFIG == ended.returncode
    assert all(word in ended.stderr for word in words)
    assert 1 == len(ended.stderr.splitlines())


def test_config_prints_every_value_and_its_origin(run: Run, tmp_path: Path) -> None:
    printed = run(
        "config", "--zone", "DE", config='[carbon]\nzone = "FR"\n', env={"WATTGRAM_SAMPLING__INTERVAL": "250ms"}
    )

    lines = [line.split() for line in printed.stdout.splitlines()]
    assert GOOD == printed.returncode
    assert ["carbon.zone", "=", '"DE"', "#", "flag"] in lines
    assert ["sampling.interval", "=", '"250ms"', "#", "environment", "WATTGRAM_SAMPLING__INTERVAL"] in lines
    assert ["web.listen", "=", '"0.0.0.0:14044"', "#", "default"] in lines
    assert "" == printed.stderr


def test_config_masks_credentials(run: Run) -> None:
    printed = run("config", env={"WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN": TOKEN})

    assert GOOD == printed.returncode
    assert TOKEN not in printed.stdout + printed.stderr
    assert "carbon.electricitymaps.token = (secret)" in printed.stdout


@pytest.mark.parametrize("command", ["config", "check-config", "doctor", "once"])
def test_a_misspelt_name_for_a_token_does_not_print_it(run: Run, command: str) -> None:
    """It would stand in the journal for as long as that is kept."""
    ended = run(command, env={"WATTGRAM_CARBON__ELECTRICTYMAPS__TOKEN": TOKEN})

    assert BAD_CONFIG == ended.returncode
    assert TOKEN not in ended.stdout + ended.stderr


def test_output_to_a_reader_that_left_is_no_bug(run: Run, tmp_path: Path) -> None:
    """`wattgram config | head -1`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HOME": str(tmp_path)}
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "wattgram", "config"],
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)

    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


# --- once -----------------------------------------------------------------------------------------


def test_once_prints_gauges_and_no_counter(run: Run) -> None:
    """A counter that lives one second is nonsense."""
    printed = run("once", "--zone", "FR", config=SYNTHETIC)

    names = {line.split("{")[0].split(" ")[0] for line in printed.stdout.splitlines() if not line.startswith("#")}
    assert GOOD == printed.returncode
    assert {"wattgram_device_power_watts", "wattgram_pricing_intensity_grams_per_kwh"} <= names
    assert [] == [name for name in names if name.endswith("_total")]


def test_once_prints_json_too(run: Run) -> None:
    printed = run("once", "--format", "json", config=SYNTHETIC)

    assert GOOD == printed.returncode
    assert isinstance(json.loads(printed.stdout), dict)


@dataclass(frozen=True)
class Steady:
    """So many watts, always."""

    power: float

    def joules(self, start: float, end: float) -> float:
        return self.power * (end - start)


def test_once_measures_a_package_by_two_readings(run: Run, tmp_path: Path) -> None:
    """A counter of joules tells watts only over some time: 100 W, as its writer has it."""
    with RaplTree(tmp_path, [Zone("intel-rapl:0", "package-0", Steady(100.0))]) as tree:
        tree.start_writer()
        printed = run("once", config=f'{NO_GPU}[sources.rapl]\npath = "{tree.sys}"\nproc = "{tree.proc}"\n')

    power = Metrics(printed.stdout).value("wattgram_device_power_watts", device="package-0", quality="measured")
    assert GOOD == printed.returncode
    assert 100.0 == pytest.approx(power, rel=0.1)


def test_once_without_any_meter_says_so(run: Run) -> None:
    """And that it found nothing is no success."""
    printed = run("once", config=NO_GPU + NO_CPU)

    assert MISSING == printed.returncode


def test_once_tells_what_it_lacks_on_standard_error(run: Run, tmp_path: Path) -> None:
    config = f'{SYNTHETIC.replace(NO_CPU, "")}[sources.rapl]\npath = "{tmp_path}"\nproc = "{tmp_path}"\n'
    printed = run("once", config=config)

    assert GOOD == printed.returncode
    assert "rapl: no RAPL zone" in printed.stderr
    assert "Traceback" not in printed.stderr


@pytest.mark.parametrize("name", ["nvml", "rapl"])
def test_once_without_what_was_asked_for_by_name_fails(
    run: Run, tmp_path: Path, without_driver: dict[str, str], name: str
) -> None:
    others = f'[sources.rapl]\nenabled = {str(name == "rapl").lower()}\npath = "{tmp_path}"\n'
    config = f"{others}[sources.nvml]\nenabled = {str(name == 'nvml').lower()}\n[sources.synthetic]\nenabled = true\n"

    printed = run("once", config=config, env=without_driver)

    assert MISSING == printed.returncode
    assert f"wattgram: {name}: " in printed.stderr


# --- intensity ------------------------------------------------------------------------------------


def test_intensity_tells_the_grid_and_where_the_figure_comes_from(run: Run) -> None:
    """Ember's yearly figure for France, 2024: 44.18 g/kWh."""
    printed = run("intensity", "--zone", "FR")

    assert GOOD == printed.returncode
    assert "annual: 44.18 g/kWh in FR, annual, lifecycle, production, for 2024" in printed.stdout
    assert "Ember" in printed.stdout
    assert "electricitymaps: not asked, it has no token" in printed.stdout


def test_intensity_asks_the_live_source_first(run: Run) -> None:
    with GridApi(value=91.5) as api:
        config = f'[carbon]\nzone = "FR"\n[carbon.electricitymaps]\nbase_url = "{api.url}"\n'
        printed = run("intensity", config=config, env={"WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN": api.token})

    lines = printed.stdout.splitlines()
    assert GOOD == printed.returncode
    assert "electricitymaps: 91.5 g/kWh in FR, live" in lines[0]
    assert [lines[0]] == [line for line in lines if "prices" in line]
    assert api.token not in printed.stdout + printed.stderr


def test_intensity_falls_back_and_says_why(run: Run) -> None:
    with GridApi() as api:
        api.mode = "status:401"
        config = f'[carbon]\nzone = "FR"\n[carbon.electricitymaps]\nbase_url = "{api.url}"\n'
        printed = run("intensity", config=config, env={"WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN": TOKEN})

    assert GOOD == printed.returncode
    assert "electricitymaps: Electricity Maps, HTTP 401" in printed.stdout
    assert "annual: 44.18" in printed.stdout
    assert TOKEN not in printed.stdout + printed.stderr


def test_intensity_without_a_zone_asks_for_one(run: Run) -> None:
    ended = run("intensity")

    assert (BAD_CONFIG, True) == (ended.returncode, "--zone FR" in ended.stderr)


def test_intensity_without_any_price_is_no_success(run: Run) -> None:
    """France has no direct figure, and no token is there to ask with."""
    ended = run("intensity", config='[carbon]\nzone = "FR"\nfactor = "direct"\n')

    assert MISSING == ended.returncode


# --- demo -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "127.0.0.1.example:0", "*:0"])
def test_the_demonstration_refuses_to_be_seen_from_outside(run: Run, listen: str) -> None:
    """Its joules are invented: nobody's Prometheus may scrape them by accident."""
    ended = run("demo", "--listen", listen)

    assert (BAD_CONFIG, True) == (ended.returncode, "loopback" in ended.stderr)


def test_the_demonstration_is_the_pipeline_over_invented_hardware(tmp_path: Path) -> None:
    """Whatever else is configured: nothing that is measured, everything labelled, priced, and said at the start."""
    with Daemon(tmp_path, f"[sampling]\ninterval = '100ms'\n{rapl(tmp_path)}", command=("demo",)) as daemon:
        metrics = daemon.until(lambda m: m.sum("wattgram_device_energy_joules_total") > 0)
        log = daemon.log

    assert {"synthetic"} == {s.labels["quality"] for s in metrics.samples("wattgram_device_energy_joules_total")}
    assert 44.18 == metrics.value("wattgram_pricing_intensity_grams_per_kwh", grid_zone="FR")
    assert "every joule labelled synthetic" in log


# --- run ------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("is_hung", [False, True])
def test_it_leaves_within_a_second_when_told_to(tmp_path: Path, number: int, is_hung: bool) -> None:  # noqa: FBT001
    """With 0, no child left behind and no traceback, also while a card hangs in the driver."""
    driver = cards(tmp_path / "driver")
    with Daemon(tmp_path, f"{NO_CPU}[sampling]\ninterval = '200ms'\n", env=driver.env) as daemon:
        daemon.until(lambda m: m.value("wattgram_device_energy_joules_total", component="gpu") > 0)
        children = daemon.children()
        if is_hung:
            driver.change(0, hang=float("inf"))
            daemon.wait_for_log("level=warning")
        code, seconds = daemon.stop(number)
        log = daemon.log

    assert (GOOD, 1) == (code, len(children))
    assert seconds < 1.0
    assert [] == [pid for pid in children if is_alive(pid)]
    assert "Traceback" not in log


def test_it_runs_without_any_file_and_says_what_it_lacks(tmp_path: Path) -> None:
    with Daemon(tmp_path, None, env={"HOME": str(tmp_path)}, wait=False) as daemon:
        daemon.wait_for_log("no grams: carbon.zone is not set")
        code, _ = daemon.stop()

    assert GOOD == code


def test_a_driver_that_was_asked_for_by_name_and_is_not_there_ends_it(
    tmp_path: Path, without_driver: dict[str, str]
) -> None:
    """3, and the remedy: a typo in a fleet's configuration must not look like a server without cards."""
    with Daemon(tmp_path, f"{NO_CPU}[sources.nvml]\nenabled = true\n", env=without_driver, wait=False) as daemon:
        daemon.wait_for_log("nvml was asked for and is not there")
        until(lambda: daemon.returncode is not None)
        code, log = daemon.returncode, daemon.log

    assert MISSING == code
    assert "install its driver" in log
    assert "Traceback" not in log


def test_a_driver_that_was_not_asked_for_is_one_line(tmp_path: Path, without_driver: dict[str, str]) -> None:
    with Daemon(tmp_path, rapl(tmp_path).replace(NO_GPU, ""), env=without_driver) as daemon:
        daemon.wait_for_log("nvml: libnvidia-ml.so.1 is not on this host")
        metrics = daemon.metrics()
        code, _ = daemon.stop()
        lines = [line for line in daemon.log.splitlines() if "libnvidia" in line]

    assert GOOD == code
    assert ["level=info"] == [word for line in lines for word in line.split() if word.startswith("level=")]
    assert [] == metrics.samples("wattgram_source_up", source="nvml")


def test_a_port_that_is_taken_is_a_matter_of_configuration(run: Run) -> None:
    """2, the address, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run("run", "--listen", listen, config=SYNTHETIC)

    assert BAD_CONFIG == ended.returncode
    assert listen in ended.stderr
    assert "--listen" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "listen", ["192.0.2.1:14044", "no.such.host.invalid:14044", f"{'a' * 100}:14044", "[::g]:14044"]
)
def test_an_address_that_is_not_ours_is_a_matter_of_configuration(run: Run, listen: str) -> None:
    ended = run("run", "--listen", listen, config=SYNTHETIC)

    assert (BAD_CONFIG, True) == (ended.returncode, "web.listen" in ended.stderr)
    assert "Traceback" not in ended.stderr


def test_no_process_of_ours_carries_the_token_on(tmp_path: Path) -> None:
    """Not in a child's environment, not in the log, not on any page."""
    with GridApi() as api:
        config = f'[carbon]\nzone = "FR"\n[carbon.electricitymaps]\nbase_url = "{api.url}"\n{NO_CPU}'
        env = {"WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN": api.token, **cards(tmp_path / "driver").env}
        with Daemon(tmp_path, config, env=env) as daemon:
            api.wait_for_requests(1)
            daemon.until(lambda m: m.value("wattgram_pricing_intensity_grams_per_kwh") == 75.0)
            daemon.until(lambda m: m.value("wattgram_device_energy_joules_total", component="gpu") > 0)
            children = [daemon.environ(pid) for pid in daemon.children()]
            pages = [daemon.get(path).text for path in ("/", "/metrics", "/api/v1/status", "/api/v1/intensity")]
            log = daemon.log

    assert api.token == api.requests[0].headers["auth-token"]
    assert [False] == [api.token in environment.values() for environment in children]
    assert not any(api.token in text for text in (*pages, log))


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_the_log_is_one_line_per_event(tmp_path: Path, form: str) -> None:
    """Also of what a stranger named: quoted, never a line of its own."""
    arguments = ("--log-format", form)
    with Daemon(tmp_path, f"{SYNTHETIC}[carbon]\nzone = 'WORLD'\n", arguments=arguments) as daemon:
        daemon.stop()
        lines = daemon.log.splitlines()

    assert all(line.startswith("ts=") if form == "logfmt" else json.loads(line)["level"] for line in lines)
    assert 3 <= len(lines)


def test_a_bad_reload_keeps_it_running(tmp_path: Path) -> None:
    with Daemon(tmp_path, SYNTHETIC) as daemon:
        daemon.config_file.write_text("[nonsense]\n")
        daemon.send(signal.SIGHUP)
        daemon.wait_for_log("the configuration is not taken")
        bad = daemon.metrics().value("wattgram_config_last_reload_successful")
        daemon.config_file.write_text(SYNTHETIC)
        daemon.send(signal.SIGHUP)
        daemon.wait_for_log("the configuration was read anew")
        good = daemon.metrics().value("wattgram_config_last_reload_successful")

    assert (0.0, 1.0) == (bad, good)


@pytest.mark.parametrize(
    ("host", "web", "warns"),
    [
        ("0.0.0.0", "", True),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "basic_auth_users: {a: $2b$04$KIXbn1pD8mTQvbNyMmUY9eVFzlxk.GhvfmsEl8hVtYnmvpKOBTBGW}", False),
    ],
)
def test_who_opens_the_house_to_the_network_is_told(tmp_path: Path, host: str, web: str, warns: bool) -> None:  # noqa: FBT001
    """Without a password anybody who reaches the port may look: once, at the start."""
    port = free_port()
    config = f'{SYNTHETIC}[web]\nlisten = "{host}:{port}"\n'
    if web:
        (tmp_path / "web.yml").write_text(web)
        config += f'config_file = "{tmp_path}/web.yml"\n'
    with Daemon(tmp_path, config, port=port, wait=False) as daemon:
        daemon.wait_for_log("listens on")
        daemon.wait_for_log("synthetic answers")
        log = daemon.log

    assert warns == ("level=warning" in log and "TLS and passwords" in log)


def test_a_process_that_was_stopped_and_goes_on_is_not_told_to_leave(tmp_path: Path) -> None:
    """Job control, or a suspended machine: past its time Python's `sigtimedwait` gave a signal that nobody sent."""
    with Daemon(tmp_path, SYNTHETIC, env={"WATCHDOG_USEC": "600000"}) as daemon:
        for _ in range(3):
            daemon.send(signal.SIGSTOP)
            time.sleep(0.5)
            daemon.send(signal.SIGCONT)
            daemon.until(lambda metrics: bool(metrics.text))
        code, _ = daemon.stop()

    assert 1 == daemon.log.count("msg=stopping")
    assert GOOD == code
