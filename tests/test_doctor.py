"""What doctor finds on machines that are known, and how it says what is missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from standin.grid import GridApi
from standin.nvml import CompilerMissing, Gpu, NvmlStandin
from standin.sysfs import RaplTree, Zone

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
        return {finding["what"]: finding for finding in json.loads(done.stdout)}

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
    assert any(line.startswith("✓ source rapl: 1 devices: package-0") for line in lines)
    absent = next(i for i, line in enumerate(lines) if line.startswith("· source nvml: "))
    assert lines[absent + 1].startswith("    → ")


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

    assert "ok" == finding["state"]
    assert "not answering: package-1: " in finding["detail"]


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
    """Each with its name; the one that may not be opened is not among them."""
    try:
        driver = NvmlStandin(host.directory / "driver", [Gpu(), Gpu(name="NVIDIA L40S", handle_error=4)])
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    findings = host.findings(over(host.rapl()), env=driver.env)

    assert "ok" == findings["source nvml"]["state"]
    assert "1 devices: GPU-5ca1ab1e" in findings["source nvml"]["detail"]
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

    findings = {f["what"]: f for f in json.loads(done.stdout)}
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


# --- the machine ----------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_and_is_no_failure(host: Host) -> None:
    """Most likely the daemon runs already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = host.examine(over(host.rapl()), "--json", "--listen", listen)

    findings = {f["what"]: f for f in json.loads(done.stdout)}
    assert ("missing", GOOD) == (findings["web.listen"]["state"], done.returncode)
    assert listen in findings["web.listen"]["detail"]
    assert "daemon" in findings["web.listen"]["remedy"]


def test_a_free_port_is_fine_and_stays_free(host: Host) -> None:
    assert "ok" == host.findings(over(host.rapl()))["web.listen"]["state"]


def test_an_address_of_another_machine_is_not_taken_for_our_own_daemon(host: Host) -> None:
    """`perhaps the daemon runs already` would send the user astray."""
    finding = host.findings(over(host.rapl()), "--listen", "192.0.2.1:14044")["web.listen"]

    assert "daemon" not in finding["remedy"]


@pytest.mark.parametrize("listen", ["no.such.host.invalid:1", f"{'a' * 100}:1", "[::g]:1"])
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
    assert "source rapl" in done.stdout
