"""The acceptance lines of first light: the real daemon as a process, over stand-ins, scraped by a real Prometheus."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from standin.daemon import Daemon, Metrics
from standin.grid import GridApi
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin, Profile, Sine, Square
from standin.prometheus import Prometheus, check_metrics, tools_or_skip
from standin.sysfs import RaplTree, Zone
from standin.watching import devices, mono, pause, wait

pytestmark = pytest.mark.apart

ROOT = Path(__file__).resolve().parent.parent
MICRO = 1e-6
ENERGY = "wattgram_device_energy_joules_total"
GRAMS = "wattgram_device_emissions_grams_total"
JOULES_PER_KWH = 3.6e6
Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

# Four GPUs, the last without a counter; two packages with memory, a twin, and psys, which contains them.
GPU_PROFILES: tuple[Profile, ...] = (
    Square(120.0, 420.0, 2.0),
    Constant(300.0),
    Sine(350.0, 120.0, 5.0),
    Square(150.0, 350.0, 10.0),
)
PACKAGE_WATTS, DRAM_WATTS = (150.0, 130.0), (20.0, 25.0)


def zones(wraps_at: int = 262_143_328_850) -> list[Zone]:
    """Two packages with memory, core, a twin and psys."""
    return [
        Zone("intel-rapl:0", "package-0", Constant(PACKAGE_WATTS[0]), wraps_at),
        Zone("intel-rapl:0:0", "core", Constant(90.0), wraps_at),
        Zone("intel-rapl:0:1", "dram", Constant(DRAM_WATTS[0]), wraps_at),
        Zone("intel-rapl:1", "package-1", Constant(PACKAGE_WATTS[1]), wraps_at),
        Zone("intel-rapl:1:0", "dram", Constant(DRAM_WATTS[1]), wraps_at),
        Zone("intel-rapl:2", "psys", Constant(700.0), wraps_at),
        Zone("intel-rapl-mmio:0", "package-0", wraps_at=wraps_at, mirror_of="intel-rapl:0"),
    ]


@dataclass
class Host:
    """A server of stand-ins."""

    nvml: NvmlStandin
    tree: RaplTree
    config: str

    @property
    def env(self) -> Mapping[str, str]:
        return self.nvml.env


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """The server that the acceptance lines describe."""
    gpus = [Gpu(profile=profile, counter=index < 3) for index, profile in enumerate(GPU_PROFILES)]
    try:
        nvml = NvmlStandin(tmp_path / "nvml", gpus)
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    with RaplTree(tmp_path / "tree", zones()) as tree:
        config = f'[sources.rapl]\npath = "{tree.sys}"\nproc = "{tree.proc}"\n'
        yield Host(nvml, tree, config)


def openmetrics_families(text: str) -> list[Metric]:
    """What the strict parser makes of OpenMetrics."""
    parse: Callable[[str], Iterable[Metric]] = parse_openmetrics
    return list(parse(text))


def micro(metrics: Metrics, name: str) -> int:
    """Σ of a family in whole microjoules, each sample rounded: exact."""
    return sum(round(sample.value / MICRO) for sample in metrics.samples(name))


# --- 2.1 ------------------------------------------------------------------------------------------

ALONE = """
import fcntl, socket, struct, sys, os
probe = socket.socket()
fcntl.ioctl(probe, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))   # a new network namespace: bring its loopback up
os.execvp(sys.argv[1], sys.argv[1:])
"""


def make_run(checkout: Path, arguments: list[str], log: Path, *, alone: bool) -> subprocess.Popen[bytes]:
    """`make run` in a checkout, with nothing but Debian's own path; alone: in a network with nobody in it."""
    home = checkout.parent / "home"
    home.mkdir(exist_ok=True)
    command = ["make", "run", *arguments]
    if alone:
        flag = "-n" if os.geteuid() == 0 else "-rn"
        command = ["unshare", flag, sys.executable, "-c", ALONE, *command]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=checkout,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def scrape_in(pid: int, port: int, *, alone: bool) -> str:
    """`/metrics` on loopback, from inside the process's network."""
    code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics', timeout=5).read().decode())"
    enter = ["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-n"] if os.geteuid() else []
    enter = enter or ["nsenter", "-t", str(pid), "-n"]
    done = subprocess.run(
        [*(enter if alone else []), sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout


def first_light(pid: int, port: int, log: Path, *, alone: bool) -> Metrics | None:
    """What is served, once there are watts, joules and grams, and a line on each source: it answers, or the remedy."""
    text = scrape_in(pid, port, alone=alone)
    said = log.read_text()
    told = all(re.search(rf'msg="{source}(: [^"]+; [^"]+| answers)"', said) for source in ("nvml", "rapl"))
    metrics = Metrics(text) if f"{GRAMS}{{" in text else None
    return metrics if metrics and told and metrics.sum(GRAMS) > 0 else None


@pytest.mark.busy
@pytest.mark.accept("2.1", "make run in a fresh clone serves watts, joules and grams; the second without any network")
def test_make_run_serves_this_very_machine_and_needs_no_network_the_second_time(tmp_path: Path, report: Report) -> None:
    """A newcomer types two words and sees this machine's watts, joules and grams, each marked for what it is."""
    if not (ROOT / ".git").exists() or not shutil.which("make") or not shutil.which("git"):
        pytest.skip("make run is tested from a git checkout, with git and make")
    checkout = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    took = []
    for alone in (False, True):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        log = tmp_path / f"run-{alone}.log"
        started = time.monotonic()
        process = make_run(checkout, ["ZONE=FR", f"LISTEN=127.0.0.1:{port}"], log, alone=alone)
        try:
            metrics = wait(partial(first_light, process.pid, port, log, alone=alone), 60.0)
            took.append(time.monotonic() - started)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
        assert metrics.sum("wattgram_device_power_watts") > 0
        assert metrics.sum(ENERGY) > 0
        assert metrics.sum(GRAMS) > 0
        assert {"estimated", "measured"} >= {s.labels["quality"] for s in metrics.samples(ENERGY)}
        assert metrics.value("wattgram_pricing_info", basis="annual", grid_zone="FR") == 1
    report(f"first run {took[0]:.1f} s with installation, second {took[1]:.1f} s without network")


@pytest.mark.accept("2.1", "wattgram demo shows live figures, all of them labelled synthetic")
def test_demo_shows_live_figures(tmp_path: Path) -> None:
    """The demonstration moves, and says of every joule that it is invented."""
    with Daemon(tmp_path, command=("demo",)) as daemon:
        first = daemon.metrics().sum(ENERGY)
        later = daemon.until(lambda m: m.sum(ENERGY) > first + 100)
        page = daemon.get("/").text

    assert {"synthetic"} == {s.labels["quality"] for s in later.samples(ENERGY)}
    assert "synthetic" in page


# --- 2.2 ------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.accept("2.2", "a real Prometheus: rate of energy within 2 % of the true watts; the books balance")
def test_prometheus_sees_the_true_watts_and_books_that_balance(
    tmp_path: Path, host: Host, seconds: Seconds, report: Report
) -> None:
    """What a query says is what the machine drew, and owner, device and pricing are the same joules at every scrape.

    What a scrape finds is up to one reading old: at one reading a second, two scrapes 10 s apart may hold 9 or 11 of
    them, which is 10 %. So there are ten a second here. Scrapes whose first and last are 30 s or 60 s apart see whole
    periods of every load, wherever they begin: the truth is one number.
    """
    tools_or_skip()
    window = int(seconds(31, 61))
    host.tree.start_writer()
    config = host.config + '[sampling]\ninterval = "100ms"\n'
    config += f'[carbon]\nzone = "FR"\nproviders = ["annual"]\ncache_file = "{tmp_path}/kept.json"\n'
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, config, env=host.env))
        prometheus = stack.enter_context(Prometheus(tmp_path / "prometheus", [daemon.target]))
        # Prometheus begins when it likes: until the window is full, rate() divides by time it has not seen.
        prometheus.wait_for(f"min(count_over_time({ENERGY}[{window}s])) >= {window}", 120)
        now = time.time()
        (rate,) = prometheus.query(f"sum(rate({ENERGY}[{window}s]))", at=now)
        balances = prometheus.query_range(
            f"abs(sum by (component) ({ENERGY}) - sum by (component) (wattgram_owner_energy_joules_total))"
            f" / sum by (component) ({ENERGY})",
            now - window,
            now,
            1,
        )
        priced = prometheus.query_range(
            f"abs(sum({ENERGY}) - sum(wattgram_pricing_energy_joules_total)) / sum({ENERGY})", now - window, now, 1
        )
        fires = prometheus.query(
            f"abs(sum by (instance, component) ({ENERGY})"
            " - sum by (instance, component) (wattgram_owner_energy_joules_total)) > 1"
        )
        by_model = prometheus.query(
            "sum by (model) (wattgram_device_power_watts * on (instance, component, device)"
            " group_left (model) wattgram_device_info)"
        )
        per_second = prometheus.query(
            f"sum by (instance) (rate({ENERGY}[{window}s])) * on (instance) group_left (grid_zone)"
            " wattgram_pricing_intensity_grams_per_kwh / 3.6e6",
            at=now,
        )
        for _ in range(20):
            metrics = daemon.metrics()
            device = micro(metrics, ENERGY)
            assert device == micro(metrics, "wattgram_owner_energy_joules_total")
            assert device == micro(metrics, "wattgram_pricing_energy_joules_total")
        text, openmetrics = daemon.get("/metrics").text, daemon.metrics(openmetrics=True).text

    truth = sum(p.joules(0.0, 10.0) / 10.0 for p in GPU_PROFILES) + sum(PACKAGE_WATTS) + sum(DRAM_WATTS)
    error = rate.value / truth - 1
    report(f"{rate.value:.1f} W by rate(), true {truth:.1f} W: {error:+.2%}")
    assert abs(error) < 0.02
    assert all(value <= 1e-9 for series in (*balances, *priced) for _, value in series.points)
    assert [] == fires
    assert {"NVIDIA H100 80GB HBM3", "package-0", "package-1", "dram"} == {r.labels["model"] for r in by_model}
    assert math.isclose(per_second[0].value, rate.value * 44.18 / JOULES_PER_KWH, rel_tol=1e-9)
    assert [] == check_metrics(text)
    # Both parsers accept both formats, and see the same families.
    text_names = {sample.name for family in parse_text(text) for sample in family.samples}
    assert text_names == {sample.name for family in openmetrics_families(openmetrics) for sample in family.samples}
    ids = {s.labels["device"] for s in Metrics(text).samples(ENERGY, component="cpu")}
    assert {"package-0", "package-1"} == ids


# --- 2.3 ------------------------------------------------------------------------------------------


@pytest.mark.accept("2.3", "energy by scraped counters against the analytic truth: at most 0.2 % with a counter")
def test_scraped_energy_is_the_analytic_truth(tmp_path: Path, host: Host, seconds: Seconds, report: Report) -> None:
    """Between two readings, whose instants the daemon tells, the counters gained what the profiles drew."""
    host.tree.start_writer()
    with Daemon(tmp_path, host.config, env=host.env) as daemon:
        wait(lambda: len(devices(daemon)) == 8)
        first = devices(daemon)
        pause(seconds(15, 60))
        last = devices(daemon)

    errors = []
    for index, gpu in enumerate(host.nvml.gpus):
        begin, end = (mono(s[gpu.uuid]["read_at"]) for s in (first, last))
        truth = host.nvml.joules(index, begin, end)
        errors.append((last[gpu.uuid]["joules"] - first[gpu.uuid]["joules"]) / truth - 1)
    report("per GPU: " + ", ".join(f"{e:+.3%}" for e in errors) + " (the last by samples, reported, not judged here)")
    assert "samples" == last[host.nvml.gpus[3].uuid]["method"]
    assert all(abs(error) <= 0.002 for error in errors[:3])


@pytest.mark.accept("2.3", "RAPL over many wraps equals the writer's own unwrapped counter, to the microjoule")
def test_rapl_equals_the_writers_own_unwrapped_counter(tmp_path: Path, seconds: Seconds, report: Report) -> None:
    """Zones that wrap every few seconds lose nothing, and no zone is counted twice."""
    # Where a wrap may have gone unseen nothing is booked: this range leaves readings three seconds to be late.
    wraps_at = 3_000_000_000
    with RaplTree(tmp_path / "tree", zones(wraps_at)) as tree:
        config = (
            f'[sources.rapl]\nenabled = true\npath = "{tree.sys}"\nproc = "{tree.proc}"\n'
            "[sources.nvml]\nenabled = false\n"
        )
        counted = {"package-0": "intel-rapl:0", "package-1": "intel-rapl:1", "dram-0": "intel-rapl:0:1"}
        counted["dram-1"] = "intel-rapl:1:0"
        with Daemon(tmp_path, config) as daemon:
            wait(lambda: devices(daemon))
            before = {zone: tree.unwrapped(zone) for zone in counted.values()}
            tree.start_writer()
            pause(seconds(15, 120))
            tree.freeze()
            truth = {device: tree.unwrapped(zone) - before[zone] for device, zone in counted.items()}
            wait(lambda: truth == {i: round(d["joules"] / MICRO) for i, d in devices(daemon).items()}, 10)
            wraps = sum(d["events"]["wrap"] for d in devices(daemon).values())

    report(f"Σ {sum(truth.values()) / 1e6:.3f} J equal, over {wraps} wraps")
    assert wraps >= 1


# --- 2.4 ------------------------------------------------------------------------------------------


def priced(host: Host, api: GridApi, tmp_path: Path, more: str = "", token: str = "") -> str:
    """A configuration that asks the local API."""
    token_file = tmp_path / "token"
    token_file.write_text(api.token)
    line = token or f'token_file = "{token_file}"'
    return (
        host.config
        + f'[carbon]\nzone = "FR"\nproviders = ["electricitymaps", "annual"]\ncache_file = "{tmp_path}/kept.json"\n'
        + f'[carbon.electricitymaps]\nbase_url = "{api.url}"\n{line}\n{more}'
    )


@pytest.mark.alone
@pytest.mark.accept(
    "2.4", "a price that changes every interval: grams are the joules times the intensity of their time"
)
def test_grams_are_joules_times_the_intensity_of_their_own_time(
    tmp_path: Path, host: Host, seconds: Seconds, report: Report
) -> None:
    """Values known before their interval begins price each joule exactly; deltas are cut at the change."""
    step = 4.0

    def intensity(start: float) -> float:
        return 50.0 + 400.0 * ((start / step) % 2) + (start / step) % 7

    host.tree.start_writer()
    with ExitStack() as stack:
        api = stack.enter_context(GridApi())
        api.step, api.lag, api.schedule = step, -2.0, intensity
        config = priced(host, api, tmp_path, 'every = "200ms"\n')
        daemon = stack.enter_context(Daemon(tmp_path, config, env=host.env))
        wait(lambda: len(devices(daemon)) == 8)
        pause(2 * step)  # until the chain has values of two intervals
        first = devices(daemon)
        length = seconds(14, 60)
        pause(length)
        last = devices(daemon)

    # Where power is constant, the joules between two readings are spread evenly over the intervals between them.
    constant = (host.nvml.gpus[1].uuid, "package-0", "package-1", "dram-0", "dram-1")
    grams = truth = 0.0
    for device in constant:
        begin, end = first[device]["read_at"], last[device]["read_at"]
        joules = last[device]["joules"] - first[device]["joules"]
        grams += last[device]["grams"] - first[device]["grams"]
        edges = [begin, *(k * step for k in range(math.floor(begin / step) + 1, math.ceil(end / step))), end]
        for left, right in pairwise(edges):
            start = math.floor((left + right) / 2 / step) * step
            truth += joules * (right - left) / (end - begin) * intensity(start) / JOULES_PER_KWH
    error = grams / truth - 1
    report(f"{grams * 1000:.3f} mg, true {truth * 1000:.3f} mg: {error:+.4%}")
    # A counter's steps of 20 ms, cut by a change of price, weigh less over a longer time.
    assert abs(error) < (0.001 if length >= 60 else 0.003)


@pytest.mark.accept("2.4", "the API stopped: held, then the chain's next rung, each labelled; energy goes on")
def test_when_the_api_stops_the_next_rung_prices_and_says_so(tmp_path: Path, host: Host, report: Report) -> None:
    """Live until its interval ends, held for its grace, then the yearly table; not a joule is lost between them."""
    host.tree.start_writer()
    begun = time.time()
    with ExitStack() as stack:
        # The hour that the stand-in speaks of ends seven seconds from now.
        api = stack.enter_context(GridApi(clock=lambda: begun - 3600 + 7))
        api.step = 1.0
        config = priced(host, api, tmp_path, 'every = "300ms"\nhold = "3s"\ntimeout = "2s"\n')
        daemon = stack.enter_context(Daemon(tmp_path, config, env=host.env))
        daemon.until(lambda m: m.sum("wattgram_pricing_energy_joules_total", basis="live") > 0)
        api.stop()
        daemon.until(lambda m: m.sum("wattgram_provider_failures_total", reason="server") > 0)
        held = daemon.until(lambda m: m.sum("wattgram_pricing_energy_joules_total", basis="held") > 0)
        annual = daemon.until(lambda m: m.sum("wattgram_pricing_energy_joules_total", basis="annual") > 1000)

    assert 75.0 == held.value("wattgram_pricing_intensity_grams_per_kwh")
    assert 1.0 == held.value("wattgram_pricing_info", basis="held", provider="electricitymaps")
    assert 44.18 == annual.value("wattgram_pricing_intensity_grams_per_kwh")
    assert 1.0 == annual.value("wattgram_pricing_info", basis="annual", provider="annual", edition="2024")
    assert micro(annual, ENERGY) == micro(annual, "wattgram_pricing_energy_joules_total")
    assert 0.0 == annual.sum("wattgram_pricing_energy_joules_total", basis="none")
    watts = annual.sum("wattgram_pricing_energy_joules_total", basis="held") / 3.0
    report(f"held for 3 s of ≈ {watts:.0f} W, then annual")
    assert "electricitymaps" in daemon.log


@pytest.mark.accept("2.4", "fetched values survive a restart in the cache file")
def test_a_restart_begins_with_the_price_it_knew(tmp_path: Path, host: Host) -> None:
    """The API is gone when the daemon comes back: it prices with what it fetched before."""
    with GridApi(value=81.0) as api:
        config = priced(host, api, tmp_path)
        with Daemon(tmp_path, config, env=host.env) as daemon:
            daemon.until(lambda m: m.sum("wattgram_pricing_energy_joules_total", basis="live") >= 0)
            wait((tmp_path / "kept.json").exists)
    again = tmp_path / "again"
    again.mkdir()
    with Daemon(again, config, env=host.env) as daemon:
        metrics = daemon.metrics()

    assert 81.0 == metrics.value("wattgram_pricing_intensity_grams_per_kwh")


@pytest.mark.accept("2.4", "the token is nowhere: log, metrics, page, /api, errors, the child's environment and argv")
@pytest.mark.parametrize("given_by", ["file", "environment", "credential"])
def test_the_token_is_nowhere_to_be_seen(tmp_path: Path, host: Host, given_by: str) -> None:
    """Whatever way it was given, and also when it is refused."""
    with GridApi() as api:
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials" / "electricitymaps-token").write_text(api.token)
        ways = {
            "file": ("", {}),
            "environment": ("\n", {"WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN": api.token}),
            "credential": ("\n", {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}),
        }
        line, env = ways[given_by]
        config = priced(host, api, tmp_path, 'every = "300ms"\n', line)
        with Daemon(tmp_path, config, env={**host.env, **env}) as daemon:
            daemon.until(lambda m: m.sum("wattgram_pricing_energy_joules_total", basis="live") > 0)
            assert all(api.token == r.headers["auth-token"] for r in api.requests)
            children = daemon.children()
            assert children
            seen = [Path(f"/proc/{pid}/{part}").read_bytes() for pid in children for part in ("environ", "cmdline")]
            api.mode = "status:401"
            daemon.until(lambda m: m.sum("wattgram_provider_failures_total", reason="auth") > 0)
            paths = ("/", "/metrics", "/api/v1/status", "/api/v1/intensity", "/-/ready", "/nowhere")
            seen += [daemon.get(path).body for path in paths]
            seen.append(Path(f"/proc/{daemon.pid}/cmdline").read_bytes())
        seen += [daemon.log.encode(), daemon.output.encode(), (tmp_path / "kept.json").read_bytes()]

    assert [] == [text for text in seen if api.token.encode() in text]
    assert "auth" in daemon.log or "401" in daemon.log


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has noticed yet (state Z)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.accept("2.5", "SIGTERM leaves within a second, with a child that reads")
def test_sigterm_leaves_within_a_second(tmp_path: Path, host: Host, report: Report) -> None:
    """Nobody waits for a meter."""
    with Daemon(tmp_path, host.config, env=host.env) as daemon:
        daemon.until(lambda m: bool(m.samples("wattgram_device_energy_joules_total", component="gpu")))
        children = daemon.children()
        code, took = daemon.stop()

    report(f"{took:.2f} s")
    assert 0 == code
    assert took < 1.0
    assert children
    assert wait(lambda: all(is_gone(pid) for pid in children), 5.0)
