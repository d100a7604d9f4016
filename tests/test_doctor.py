"""What doctor finds on machines that are known, and how it says what is missing."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from standin.daemon import Daemon
from standin.grid import GridApi
from standin.nvml import CompilerMissing, Gpu, NvmlStandin
from standin.sysfs import RaplTree, Zone
from standin.watching import wait
from wattgram import config as configuration
from wattgram import surroundings
from wattgram.diagnosis import Finding, prices
from wattgram.model import Intensity
from wattgram.plan import Link
from wattgram.tariff import Rung

pytestmark = [pytest.mark.apart, pytest.mark.busy]

GOOD, BAD_CONFIG, MISSING = 0, 2, 3
UNREADABLE = Path("/proc/sys/vm/compact_memory")  # written and never read: the kernel refuses everybody, root included
TOKEN_VARIABLE = "WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN"


@dataclass
class Host:
    """A machine: its trees, its configuration, its environment."""

    directory: Path

    def examine(
        self, config: str, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        file = self.directory / "wattgram.toml"
        file.write_text(config, encoding="utf-8")
        kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        paths = os.pathsep.join(p for p in sys.path if p)
        return subprocess.run(
            [sys.executable, "-m", "wattgram", "doctor", "--config", str(file), *arguments],
            cwd=self.directory,
            env={**kept, "PYTHONPATH": paths, "HOME": str(self.directory), **(env or self.no_driver)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def findings(self, config: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
        done = self.examine(config, "--json", *arguments, env=env)
        assert "Traceback" not in done.stderr
        return {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}

    def verdict(self, config: str, *arguments: str, env: dict[str, str] | None = None) -> str:
        return str(json.loads(self.examine(config, "--json", *arguments, env=env).stdout)["verdict"])

    @property
    def no_driver(self) -> dict[str, str]:
        """Surroundings in which no NVIDIA library loads: a file of its name that is none, found first."""
        folder = self.directory / "no-driver"
        folder.mkdir(exist_ok=True)
        (folder / "libnvidia-ml.so.1").write_text("not a library")
        return {"LD_LIBRARY_PATH": str(folder)}

    def rapl(self, *zones: Zone) -> RaplTree:
        return RaplTree(self.directory / "tree", zones or [Zone("intel-rapl:0", "package-0")])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def over(tree: RaplTree, more: str = "") -> str:
    return f'[web]\nlisten = "127.0.0.1:0"\n[sources.rapl]\npath = "{tree.sys}"\nproc = "{tree.proc}"\n{more}'


def test_what_answers_is_fine(host: Host) -> None:
    tree = host.rapl(Zone("intel-rapl:0", "package-0"), Zone("intel-rapl:0:0", "dram"))

    finding = host.findings(over(tree))["source rapl"]

    assert ("ok", "") == (finding["state"], finding["remedy"])
    assert all(name in finding["detail"] for name in ("2 devices", "package-0", "dram-0", "counter"))


def test_a_meter_that_answers_is_success(host: Host) -> None:
    assert GOOD == host.examine(over(host.rapl())).returncode


def test_a_host_without_any_meter_is_none(host: Host) -> None:
    """3, and what would help stands beside each absence."""
    tree = RaplTree(host.directory / "tree", [])
    done = host.examine(over(tree))
    findings = host.findings(over(tree))

    assert MISSING == done.returncode
    assert ("missing", "missing") == (findings["source rapl"]["state"], findings["source nvml"]["state"])
    assert "modprobe" in findings["source rapl"]["remedy"]
    assert "driver" in findings["source nvml"]["remedy"]


def test_people_see_marks_and_remedies(host: Host) -> None:
    done = host.examine(over(host.rapl()))

    lines = done.stdout.splitlines()
    assert "Sources" == lines[0]
    assert any(re.match(r"  ✓ rapl +1 device: package-0", line) for line in lines)
    absent = next(i for i, line in enumerate(lines) if line.startswith("  · nvml "))
    assert lines[absent + 1].lstrip().startswith("→ ")


def test_counters_that_may_not_be_read_are_told_from_absent_ones(host: Host) -> None:
    tree = host.rapl()
    tree.file("intel-rapl:0").unlink()
    tree.file("intel-rapl:0").symlink_to(UNREADABLE)

    finding = host.findings(over(tree))["source rapl"]

    assert "permission denied" in finding["detail"]
    assert "chmod g+r" in finding["remedy"]


def test_one_zone_that_refuses_is_named(host: Host) -> None:
    tree = host.rapl(Zone("intel-rapl:0", "package-0"), Zone("intel-rapl:1", "package-1"))
    tree.deny("intel-rapl:1")

    finding = host.findings(over(tree))["source rapl"]

    assert "failed" == finding["state"]
    assert "1 device: package-0" in finding["detail"]
    assert "not answering: package-1: " in finding["detail"]
    assert "sudo dmesg" in finding["remedy"]


@pytest.mark.parametrize("name", ["nvml", "rapl"])
def test_what_was_asked_for_by_name_must_be_there(host: Host, name: str) -> None:
    """3 although something else is metered."""
    tree = RaplTree(host.directory / "tree", [])
    enabled = "enabled = true\n" if name == "rapl" else "[sources.nvml]\nenabled = true\n"
    config = over(tree, f"{enabled}[sources.synthetic]\nenabled = true\n")

    assert host.findings(config)[f"source {name}"]["required"]
    assert MISSING == host.examine(config).returncode


def test_what_is_switched_off_is_not_tried(host: Host) -> None:
    findings = host.findings(over(host.rapl(), "[sources.nvml]\nenabled = false\n"))

    assert "source nvml" not in findings


def test_cards_are_found_through_a_child(host: Host) -> None:
    """Each with its name; the one that may not be opened is named by its place: it should be metered, and is not."""
    try:
        driver = NvmlStandin(host.directory / "driver", [Gpu(), Gpu(name="NVIDIA L40S", handle_error=4)])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    findings = host.findings(over(host.rapl()), env=driver.env)

    assert "failed" == findings["source nvml"]["state"]
    assert "gpu 1: NVML error 4" in findings["source nvml"]["detail"]
    assert "1 device: GPU-5ca1ab1e" in findings["source nvml"]["detail"]
    assert "NVIDIA H100 80GB HBM3, by counter" in findings["source nvml"]["detail"]


@pytest.mark.parametrize(("code", "remedy"), [(9, "modprobe nvidia"), (18, "reboot")])
def test_a_broken_driver_says_what_mends_it(host: Host, code: int, remedy: str) -> None:
    try:
        driver = NvmlStandin(host.directory / "driver", [Gpu()])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    driver.library(init_error=code)

    finding = host.findings(over(host.rapl()), env=driver.env)["source nvml"]

    assert remedy in finding["remedy"]


def test_two_meters_of_one_component_are_told_apart(host: Host) -> None:
    """The model's readings of what a meter delivers are not booked, and doctor says so (design, section 4)."""
    findings = host.findings(over(host.rapl(), "[sources.estimate]\nenabled = true\n"))

    assert "not booked" in findings["source estimate"]["detail"]


# --- the grid -------------------------------------------------------------------------------------


def grid(api: GridApi) -> str:
    return f'[carbon]\nzone = "FR"\n[carbon.electricitymaps]\nbase_url = "{api.url}"\n'


def test_without_a_zone_it_says_how_to_price(host: Host) -> None:
    findings = host.findings(over(host.rapl()))

    (finding,) = [f for what, f in findings.items() if what.startswith("carbon")]
    assert ("missing", True) == (finding["state"], 'zone = "FR"' in finding["remedy"])


def test_a_live_price_is_fine_and_its_source_told(host: Host) -> None:
    with GridApi(value=91.5) as api:
        env = {**host.no_driver, TOKEN_VARIABLE: api.token}
        findings = host.findings(over(host.rapl(), grid(api)), env=env)

    assert "ok" == findings["provider electricitymaps"]["state"]
    assert "91.5 g/kWh in FR, live" in findings["provider electricitymaps"]["detail"]
    assert "44.18 g/kWh in FR, annual" in findings["provider annual"]["detail"]


def test_without_a_token_it_says_where_one_is_had(host: Host) -> None:
    findings = host.findings(over(host.rapl(), '[carbon]\nzone = "FR"\n'))

    finding = findings["carbon, electricitymaps"]
    assert ("missing", "not asked, it has no token") == (finding["state"], finding["detail"])
    assert "portal.electricitymaps.com" in finding["remedy"]


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("status:401", f"environment {TOKEN_VARIABLE}"), ("plan401", "plan"), ("wrong_zone", "carbon.zone")],
)
def test_a_refusal_comes_with_advice_and_without_the_token(host: Host, mode: str, advice: str) -> None:
    with GridApi() as api:
        api.mode = mode
        env = {**host.no_driver, TOKEN_VARIABLE: api.token}
        done = host.examine(over(host.rapl(), grid(api)), "--json", env=env)

    findings = {f["what"]: f for f in json.loads(done.stdout)["findings"]}
    assert "failed" == findings["provider electricitymaps"]["state"]
    assert advice in findings["provider electricitymaps"]["remedy"]
    assert GOOD == done.returncode
    assert api.token not in done.stdout + done.stderr


def test_a_provider_that_was_named_must_answer(host: Host) -> None:
    with GridApi() as api:
        api.mode = "status:503"
        env = {**host.no_driver, TOKEN_VARIABLE: api.token}
        config = grid(api).replace('"FR"\n', '"FR"\nproviders = ["electricitymaps"]\n')

        assert MISSING == host.examine(over(host.rapl(), config), env=env).returncode


@pytest.mark.parametrize(
    ("named", "basis", "factor", "may"),
    [
        (False, "live", "lifecycle", True),
        (False, "live", "direct", False),
        (True, "live", "direct", True),
        (True, "forecast", "lifecycle", False),
    ],
)
def test_only_what_is_asked_for_prices(named: bool, basis: str, factor: str, may: bool) -> None:  # noqa: FBT001
    """Grams of the other kind only from a provider that was named; a forecast never."""
    link = Link("em", named, None, Rung("em", 0.0, (basis,), named=named))
    said = Intensity("FR", "em", 0.0, 900.0, 50.0, basis, factor)

    assert may == prices(link, said, configuration.load(None, {}, {"carbon.factor": "lifecycle"}))


# --- the machine ----------------------------------------------------------------------------------


def test_a_port_that_somebody_else_holds_comes_with_the_command_that_names_him(host: Host) -> None:
    """And with one that takes another port; what is metered is metered all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = host.examine(over(host.rapl()), "--json", "--listen", listen)

    findings = {f["what"]: f for f in json.loads(done.stdout)["findings"]}
    finding = findings["web.listen"]
    assert ("failed", GOOD) == (finding["state"], done.returncode)
    assert f"{listen}: Address already in use, by somebody who is no wattgram" == finding["detail"]
    who, other = finding["remedy"].splitlines()
    assert who.endswith(f"ss -ltnp 'sport = :{listen.partition(':')[2]}'")
    assert other.startswith("wattgram run --listen 127.0.0.1:")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_a_living_wattgram_holds_is_fine(host: Host, address: str) -> None:
    """It is asked whether it lives, at an address that can be asked."""
    with Daemon(host.directory / "daemon", command=("demo",)) as daemon:
        finding = host.findings(over(host.rapl()), "--listen", f"{address}:{daemon.port}")["web.listen"]

    assert ("ok", "") == (finding["state"], finding["remedy"])
    assert "held by a wattgram that runs and answers" in finding["detail"]


def test_a_free_port_is_fine_and_stays_free(host: Host) -> None:
    assert "ok" == host.findings(over(host.rapl()))["web.listen"]["state"]


def test_an_address_of_another_machine_is_not_taken_for_our_own_daemon(host: Host) -> None:
    """`perhaps the daemon runs already` would send the user astray."""
    finding = host.findings(over(host.rapl()), "--listen", "192.0.2.1:14044")["web.listen"]

    assert "daemon" not in finding["remedy"]


@pytest.mark.parametrize("listen", ["no.such.host.invalid:1", f"{'a' * 100}:1"])
def test_an_address_that_is_none_does_not_end_the_examination(host: Host, listen: str) -> None:
    assert "ok" != host.findings(over(host.rapl()), "--listen", listen)["web.listen"]["state"]


@pytest.mark.parametrize(("folder", "state"), [("kept", "ok"), ("/proc/1/none", "missing")])
def test_where_the_cache_would_be_is_tried(host: Host, folder: str, state: str) -> None:
    path = host.directory / folder / "intensities.json"
    config = over(host.rapl(), f'[carbon]\nzone = "FR"\ncache_file = "{path}"\n')

    finding = host.findings(config)["carbon.cache_file"]

    assert (state, True) == (finding["state"], str(path) in finding["detail"])


def test_it_writes_nothing(host: Host) -> None:
    """Not even the cache's folder."""
    config = over(host.rapl(), f'[carbon]\nzone = "FR"\ncache_file = "{host.directory / "kept" / "x.json"}"\n')
    host.findings(config)

    assert not (host.directory / "kept").exists()


def test_a_bad_configuration_is_one(host: Host) -> None:
    done = host.examine("[nonsense]\n")

    assert (BAD_CONFIG, "") == (done.returncode, done.stdout)


def test_it_speaks_to_a_terminal_without_unicode(host: Host) -> None:
    """A serial console, an old locale: worse marks, and no traceback."""
    done = host.examine(over(host.rapl()), env={**host.no_driver, "PYTHONIOENCODING": "ascii"})

    assert (GOOD, "") == (done.returncode, done.stderr)
    assert "  + rapl  " in done.stdout
    assert "-> " in done.stdout
    assert done.stdout.isascii()


# --- the whole ------------------------------------------------------------------------------------


def test_programs_get_an_object_whose_keys_stay(host: Host) -> None:
    """A verdict, and findings that all have the same keys."""
    found = json.loads(host.examine(over(host.rapl()), "--json").stdout)

    assert ["verdict", "findings"] == list(found)
    keys = ["group", "what", "state", "detail", "remedy", "required"]
    assert all(keys == list(finding) for finding in found["findings"])
    assert {"ok", "missing", "failed"} >= {finding["state"] for finding in found["findings"]}
    assert ["Sources", "On whose behalf", "Carbon", "Rights", "Files", "Port", "Host"] == list(
        dict.fromkeys(f["group"] for f in found["findings"])
    )


def test_the_verdict_says_what_is_metered_what_is_not_and_who_prices(host: Host) -> None:
    tree = host.rapl(Zone("intel-rapl:0", "package-0"), Zone("intel-rapl:1", "package-1"))
    with GridApi(value=91.5) as api:
        env = {**host.no_driver, TOKEN_VARIABLE: api.token}
        verdict = host.verdict(over(tree, grid(api)), env=env)

    assert "meters 2 processors; not metered: GPUs, memory; joules are priced live by electricitymaps, 92" in verdict


def test_the_verdict_is_the_last_line_for_people(host: Host) -> None:
    done = host.examine(over(host.rapl(), '[carbon]\nzone = "FR"\nproviders = ["annual"]\n'))

    last = done.stdout.partition("\nHost\n")[2].partition("\n\n")[2]
    assert "meters 1 processor; not metered: GPUs, memory; joules are priced by the yearly average of 2024" in last
    assert last.startswith(("✓ ", "· "))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "joules are not priced: carbon.zone is not set"),
        ("[sources.estimate]\nenabled = true\n", "meters 1 processor and memory (estimated); not metered: GPUs"),
        ("[sources.synthetic]\nenabled = true\n", "4 GPUs (synthetic)"),
    ],
)
def test_the_verdict_marks_what_is_no_measurement(host: Host, more: str, words: str) -> None:
    assert words in host.verdict(over(host.rapl(), more))


def test_a_host_without_a_meter_is_told_so_first(host: Host) -> None:
    assert host.verdict(over(RaplTree(host.directory / "tree", []))).startswith("nothing is metered; ")


def test_each_trouble_is_counted_once_and_absence_is_none(host: Host) -> None:
    """A server without GPUs has nothing to mend for that."""

    def troubles(config: str) -> int:
        return int((re.findall(r"(\d+) things? to mend", host.verdict(config)) or ["0"])[0])

    tree = host.rapl(Zone("intel-rapl:0", "package-0"), Zone("intel-rapl:1", "package-1"))
    before = troubles(over(tree))
    tree.deny("intel-rapl:1")

    assert before + 1 == troubles(over(tree))


@pytest.mark.parametrize("columns", [48, 80, 120])
def test_it_fits_its_terminal(host: Host, columns: int) -> None:
    """Only a command is never broken, so that it can be copied, and an address, which has no spaces."""
    env = {**host.no_driver, "COLUMNS": str(columns)}
    lines = host.examine(over(RaplTree(host.directory / "tree", [])), env=env).stdout.splitlines()

    assert [] == [line for line in lines if len(line) > columns and len(line.split()) > 3 and "$" not in line]
    assert max(map(len, lines)) > columns * 0.7


def test_its_details_stand_below_each_other(host: Host) -> None:
    lines = host.examine(over(host.rapl())).stdout.splitlines()

    begun = {re.match(r"  [✓·✗] \S.*?  +", line) for line in lines} - {None}
    assert 1 == len({match.end() for match in begun if match})


def seen(host: Host, **env: str) -> str:
    """What it writes to a terminal."""
    ours, theirs = pty.openpty()
    (host.directory / "wattgram.toml").write_text(over(host.rapl()), encoding="utf-8")
    paths = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", "wattgram", "doctor", "--config", str(host.directory / "wattgram.toml")]
    process = subprocess.Popen(
        command,
        cwd=host.directory,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": paths,
            "PYTHONUTF8": "1",
            "TERM": "xterm",
            **host.no_driver,
            **env,
        },
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    written = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            written += os.read(ours, 65_536)
        except OSError:  # they closed their end
            break
    os.close(ours)
    process.wait(60)
    return written.decode()


def test_a_terminal_sees_colours(host: Host) -> None:
    assert "\x1b[32m✓\x1b[0m rapl" in seen(host)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_whoever_wants_no_colours_sees_none(host: Host, env: dict[str, str]) -> None:
    written = seen(host, **env)

    assert "✓ rapl" in written
    assert "\x1b" not in written


def test_a_file_gets_no_colours(host: Host) -> None:
    assert "\x1b" not in host.examine(over(host.rapl())).stdout


def test_a_strangers_words_do_not_steer_the_terminal(host: Host) -> None:
    """A card may call itself what it likes."""
    try:
        driver = NvmlStandin(host.directory / "driver", [Gpu(name="H100\x1b[2J\x07\u202e")])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    done = host.examine(over(host.rapl()), env={**driver.env, "PYTHONUTF8": "1"})

    assert "H100" in done.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)


def test_cards_alike_stand_together(host: Host) -> None:
    """Eight times the same name is read by nobody."""
    try:
        driver = NvmlStandin(host.directory / "driver", [Gpu(), Gpu(), Gpu(name="NVIDIA L40S", counter=False)])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    detail = host.findings(over(host.rapl()), env=driver.env)["source nvml"]["detail"]

    assert detail.startswith("3 devices: GPU-5ca1ab1e-0000-4000-8000-000000000000, GPU-")
    assert 1 == detail.count("NVIDIA H100 80GB HBM3")
    assert "(NVIDIA L40S, by power)" in detail


# --- rights ---------------------------------------------------------------------------------------


def test_it_says_who_it_is(host: Host) -> None:
    """Half of all refusals are explained by that."""
    finding = host.findings(over(host.rapl()))["user"]

    assert f"(uid {os.geteuid()}); groups " in finding["detail"]


def test_refused_counters_come_with_the_commands_that_grant_them(host: Host) -> None:
    tree = host.rapl()
    tree.file("intel-rapl:0").unlink()
    tree.file("intel-rapl:0").symlink_to(UNREADABLE)

    finding = host.findings(over(tree))["RAPL counters"]

    assert "failed" == finding["state"]
    assert "1 of 1 may not be read" in finding["detail"]
    assert str(tree.file("intel-rapl:0")) in finding["detail"]
    assert any(way in finding["remedy"] for way in ("tmpfiles.d", "DAC_READ_SEARCH"))


def granted(host: Host, container: str = "", *, is_root: bool = False, mode: int = 0o400) -> list[str]:
    """The lines of the remedy for a counter of this mode."""
    tree = RaplTree(Path(tempfile.mkdtemp(dir=host.directory)), [Zone("intel-rapl:0", "package-0")])
    tree.file("intel-rapl:0").chmod(mode)
    powercap = tree.sys / "class/powercap"
    return surroundings._counter_grant(tree.file("intel-rapl:0"), powercap, container, is_root=is_root).splitlines()


def test_a_user_is_granted_the_counters_by_a_group(host: Host) -> None:
    """Now and after a restart, and never everybody."""
    group, lasting, now, _again = granted(host)

    assert group.startswith("sudo groupadd -f wattgram && sudo usermod -aG wattgram ")
    assert now == "sudo systemd-tmpfiles --create wattgram.conf"
    rules = subprocess.run(["sh", "-c", lasting.partition(" | ")[0]], capture_output=True, text=True, check=True).stdout
    one, two = rules.splitlines()
    assert one.startswith("z /")
    assert one.endswith("/class/powercap/intel-rapl:*/energy_uj 0440 root wattgram -")
    assert two.endswith("/class/powercap/intel-rapl:*:*/energy_uj 0440 root wattgram -")


def test_root_that_is_refused_lacks_a_capability_and_a_container_its_flags(host: Host) -> None:
    assert ["AmbientCapabilities=CAP_DAC_READ_SEARCH" in line for line in granted(host, is_root=True)] == [True]
    assert "--cap-add DAC_READ_SEARCH" in granted(host, "docker (/.dockerenv)", is_root=True)[0]


def test_a_gpu_without_a_driver_is_seen_on_its_bus(host: Host) -> None:
    """`install a driver, if there is a GPU` is advice for somebody who does not know; this host does."""
    tree = host.rapl()
    for slot, vendor, kind in (
        ("17", "0x10de", "0x030200"),
        ("18", "0x10de", "0x040300"),
        ("19", "0x8086", "0x030000"),
    ):
        device = tree.sys / f"bus/pci/devices/0000:{slot}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")

    finding = host.findings(over(tree, f'[sources.nvml]\npath = "{tree.sys}"\n'))["NVIDIA files"]

    if Path("/dev/nvidiactl").exists():
        assert "ok" == finding["state"]
    else:
        assert ("failed", True) == (finding["state"], "1 NVIDIA GPU on the PCI bus" in finding["detail"])
        assert any(way in finding["remedy"] for way in ("modprobe nvidia", "--gpus all", "runtimeClassName"))


def checked(host: Host, look: Callable[[configuration.Config], Any], text: str = "") -> dict[str, Finding]:
    """What one part of the examination finds."""
    file = host.directory / "wattgram.toml"
    file.write_text(text, encoding="utf-8")
    return {finding.what: finding for finding in look(configuration.load(file, {}, {}))}


def test_device_files_that_may_not_be_opened_come_with_the_command(host: Host) -> None:
    """The driver's library would only say: insufficient permissions."""
    dev = host.directory / "dev"
    dev.mkdir()
    for name in ("nvidia0", "nvidiactl"):
        (dev / name).symlink_to(UNREADABLE)
    (dev / "nvidia1").write_text("")

    finding = checked(host, lambda c: surroundings.rights(c, {}, dev))["NVIDIA files"]

    assert ("failed", f"may not be read and written: {dev}/nvidia0 {dev}/nvidiactl") == (finding.state, finding.detail)
    assert f":rw {dev}/nvidia0 {dev}/nvidiactl" in finding.remedy


def test_device_files_that_may_be_opened_are_fine(host: Host) -> None:
    dev = host.directory / "dev"
    dev.mkdir()
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (dev / name).write_text("")

    assert "ok" == checked(host, lambda c: surroundings.rights(c, {}, dev))["NVIDIA files"].state


# --- files ----------------------------------------------------------------------------------------


def with_token(host: Host, mode: int, text: str = "secret-of-the-grid\n") -> tuple[Path, str]:
    """A token file, and the configuration that names it."""
    path = host.directory / "em.token"
    path.write_text(text)
    path.chmod(mode)
    return path, f'[carbon]\nzone = "FR"\nproviders = ["annual"]\n[carbon.electricitymaps]\ntoken_file = "{path}"\n'


def test_a_token_file_of_ones_own_is_fine_and_stays_secret(host: Host) -> None:
    path, config = with_token(host, 0o400)
    done = host.examine(over(host.rapl(), config), "--json")

    finding = {f["what"]: f for f in json.loads(done.stdout)["findings"]}["electricitymaps token"]
    assert ("ok", True) == (finding["state"], str(path) in finding["detail"])
    assert "secret-of-the-grid" not in done.stdout + done.stderr


def test_a_token_file_that_everybody_may_read_is_told(host: Host) -> None:
    path, config = with_token(host, 0o644)

    finding = host.findings(over(host.rapl(), config))["electricitymaps token"]

    assert ("failed", True) == (finding["state"], "0644" in finding["detail"])
    assert finding["remedy"].endswith(f"chmod o= {path}")


def test_a_token_file_that_is_not_there_comes_with_the_command_that_makes_it(host: Host) -> None:
    path, config = with_token(host, 0o400)
    path.unlink()

    finding = host.findings(over(host.rapl(), config))["electricitymaps token"]

    assert ("failed", False) == (finding["state"], finding["required"])
    assert f"install -m 0400 -o {surroundings._user()} /dev/stdin {path}" in finding["remedy"]


def test_a_token_file_that_may_not_be_read_is_told_from_one_that_is_not_there(host: Host) -> None:
    path, config = with_token(host, 0o400)
    path.unlink()
    path.symlink_to(UNREADABLE)

    finding = host.findings(over(host.rapl(), config))["electricitymaps token"]

    assert f"{path} may not be read by {surroundings._user()}" == finding["detail"]
    assert f"chmod 0400 {path}" in finding["remedy"]


def test_a_token_in_the_environment_is_known_by_its_variable(host: Host) -> None:
    config = over(host.rapl(), '[carbon]\nzone = "FR"\nproviders = ["annual"]\n')
    good = host.findings(config, env={**host.no_driver, TOKEN_VARIABLE: "secret-of-the-grid"})
    bad = host.findings(config, env={**host.no_driver, TOKEN_VARIABLE: "two words"})

    assert f"from environment {TOKEN_VARIABLE}" == good["electricitymaps token"]["detail"]
    assert "failed" == bad["electricitymaps token"]["state"]


def test_a_configuration_that_everybody_may_write_is_told(host: Host) -> None:
    """He could have the token sent to an address of his own."""
    config = over(host.rapl())
    assert "ok" == host.findings(config)["configuration"]["state"]
    (host.directory / "wattgram.toml").chmod(0o666)

    finding = host.findings(config)["configuration"]

    assert "failed" == finding["state"]
    assert finding["remedy"].endswith(f"chmod o-w {host.directory / 'wattgram.toml'}")


@pytest.mark.parametrize(
    ("text", "state"), [("{}", "ok"), (None, "failed"), ("basic_auth_user: {}", "failed"), ("a: [", "failed")]
)
def test_the_web_configuration_must_be_there_and_good(host: Host, text: str | None, state: str) -> None:
    path = host.directory / "web.config.yml"
    if text is not None:
        path.write_text(text)

    def look(config: configuration.Config) -> Any:
        return surroundings.files(replace(config, web=replace(config.web, config_file=str(path))), {})

    assert state == checked(host, look)["web.config_file"].state


# --- the host -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "words"),
    [({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"), ({"container": "podman"}, "podman")],
)
def test_a_container_is_told(host: Host, env: dict[str, str], words: str) -> None:
    """There other commands help."""
    assert words in host.findings(over(host.rapl()), env={**host.no_driver, **env})["container"]["detail"]


def test_a_pod_is_told_what_a_pod_needs(host: Host) -> None:
    """`docker run` is no advice there."""
    tree = host.rapl()
    tree.file("intel-rapl:0").unlink()
    tree.file("intel-rapl:0").symlink_to(UNREADABLE)
    env = {**host.no_driver, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}

    assert "securityContext" in host.findings(over(tree), env=env)["RAPL counters"]["remedy"]


def test_the_credentials_of_a_service_are_named_and_not_shown(host: Host) -> None:
    folder = host.directory / "credentials"
    folder.mkdir()
    (folder / "electricitymaps-token").write_text("secret-of-the-grid")
    (folder / "electricitymaps-token").chmod(0o400)
    env = {**host.no_driver, "CREDENTIALS_DIRECTORY": str(folder)}
    done = host.examine(over(host.rapl(), '[carbon]\nzone = "FR"\nproviders = ["annual"]\n'), "--json", env=env)

    findings = {f["what"]: f for f in json.loads(done.stdout)["findings"]}
    assert f"{folder} holds electricitymaps-token" == findings["credentials"]["detail"]
    assert "from credential electricitymaps-token" == findings["electricitymaps token"]["detail"]
    assert "secret-of-the-grid" not in done.stdout + done.stderr


def test_the_clock_is_asked_whether_it_may_be_believed(host: Host) -> None:
    finding = host.findings(over(host.rapl()))["clock"]

    assert finding["detail"].startswith(("synchronised", "not synchronised", "the kernel does not say"))
    assert ("failed" == finding["state"]) == ("timedatectl set-ntp true" in finding["remedy"])


# --- on whose behalf --------------------------------------------------------------------------------


def test_whether_the_hosts_processes_are_seen_is_told(host: Host) -> None:
    """A driver tells process numbers of the host: without its /proc they are nobody's."""
    proc = host.directory / "proc"
    for pid, name in ((1, "systemd"), (2, "kthreadd")):
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "comm").write_text(f"{name}\n")
        (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {' '.join(['1'] * 18)} 7 0\n")
        (proc / str(pid) / "cgroup").write_text("0::/init.scope\n")
        (proc / str(pid) / "status").write_text("Name:\tx\nUid:\t0\t0\t0\t0\n")
    config = f'[attribution]\nproc = "{proc}"\n'

    assert (host.findings(config)["processes"]["state"]) == "ok"
    (proc / "2" / "comm").write_text("bash\n")
    found = host.findings(config)["processes"]
    assert (found["state"], "hostPID: true" in found["remedy"]) == ("missing", True)
    (proc / "1" / "stat").unlink()
    found = host.findings(config)["processes"]
    assert (found["state"], "hidepid" in found["remedy"]) == ("failed", True)


def test_a_namer_that_was_asked_for_is_tried(host: Host) -> None:
    found = host.findings("[workloads.synthetic]\nenabled = true\n")["workloads synthetic"]

    assert (found["group"], found["state"], found["required"]) == ("On whose behalf", "ok", True)
    assert "workloads synthetic" not in host.findings("")


def test_whether_a_daemon_may_be_asked_what_a_command_used_is_told(host: Host) -> None:
    """Absence is no trouble: measure meters itself."""
    where = host.directory / "api.sock"
    config = f'[local]\nsocket = "{where}"\n'
    found = host.findings(config)["local API"]
    assert (found["state"], "meters itself" in found["remedy"]) == ("missing", True)

    folder = host.directory / "daemon"
    folder.mkdir()
    with Daemon(folder, config):
        wait(where.exists)
        found = host.findings(config)["local API"]
    assert (found["state"], f"--socket {where}" in found["detail"]) == ("ok", True)
