"""Totals by hand beside totals by the daemon, on machines whose meters overlap, mirror and contain each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from standin.daemon import Daemon
from standin.nvml import CompilerMissing, Constant, Gpu, NvmlStandin
from standin.sysfs import RaplTree, Zone
from standin.watching import devices, pause, wait

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]
pytestmark = pytest.mark.apart

MICROWATTS = 1_000_000


def totals(daemon: Daemon) -> dict[str, tuple[float, float]]:
    """Joules and read time of each device."""
    return {f"{d['component']} {d['device']}": (d["joules"], d["read_at"]) for d in devices(daemon).values()}


def watts(daemon: Daemon, length: float, ready: Callable[[dict[str, Any]], bool]) -> dict[str, float]:
    """Mean power of each device over some seconds, from its scraped joules, once the machine is ready."""
    wait(lambda: ready(totals(daemon)), 60.0)
    first = totals(daemon)
    pause(length)
    last = totals(daemon)
    return {
        name: (last[name][0] - joules) / (last[name][1] - at)
        for name, (joules, at) in first.items()
        if last[name][1] > at
    }


def meter_rapl(
    tmp_path: Path, zones: Sequence[Zone], vendor: str, count: int, length: float
) -> tuple[dict[str, float], float]:
    """What the daemon makes of a tree of zones, and the part by which a writer that was late may mislead it."""
    with RaplTree(tmp_path / "tree", list(zones), cpuinfo_vendor=vendor) as tree:
        tree.start_writer()
        config = (
            f'[sources.rapl]\nenabled = true\npath = "{tree.sys}"\nproc = "{tree.proc}"\n'
            "[sources.nvml]\nenabled = false\n[sources.hwmon]\nenabled = false\n"
        )
        with Daemon(tmp_path, config) as daemon:
            found = watts(daemon, length, lambda found: len(found) == count)
        return found, tree.late / length


def zone(path: str, name: str, power: float = 0.0, **facts: Any) -> Zone:
    return Zone(path, name, Constant(power), **facts)


RAPL_MACHINES = {
    "two Intel dies, additive": (
        "GenuineIntel",
        [
            zone("intel-rapl:0", "package-0-die-0", 90.0),
            zone("intel-rapl:0:0", "dram", 11.0),
            zone("intel-rapl:1", "package-0-die-1", 70.0, start=77_000_000_000),
            zone("intel-rapl:1:0", "dram", 9.0),
        ],
        {"cpu package-0-die-0": 90.0, "cpu package-0-die-1": 70.0, "dram dram-0-die-0": 11.0, "dram dram-0-die-1": 9.0},
    ),
    "AMD dies that mirror one socket": (
        "AuthenticAMD",
        [
            zone("intel-rapl:0", "package-0-die-0", 68.0),
            zone("intel-rapl:1", "package-0-die-1", mirror_of="intel-rapl:0"),
        ],
        {"cpu package-0-die-0": 68.0},
    ),
    "CLX-AP, two sockets of two dies": (
        "GenuineIntel",
        [
            zone(f"intel-rapl:{n}", f"package-{n // 2}-die-{n % 2}", 100.0 + n, start=1_000_000_000 * (n + 1))
            for n in range(4)
        ],
        {f"cpu package-{n // 2}-die-{n % 2}": 100.0 + n for n in range(4)},
    ),
    "eleven packages, hexadecimal ids": (
        "GenuineIntel",
        [zone(f"intel-rapl:{n:x}", f"package-{n}", 10.0 + n) for n in range(11)],
        {f"cpu package-{n}": 10.0 + n for n in range(11)},
    ),
    "a laptop: psys, core, uncore and a twin beside the package": (
        "GenuineIntel",
        [
            zone("intel-rapl:0", "package-0", 25.0),
            zone("intel-rapl:0:0", "core", 15.0),
            zone("intel-rapl:0:1", "uncore", 4.0),
            zone("intel-rapl:1", "psys", 60.0),
            Zone("intel-rapl-mmio:0", "package-0", mirror_of="intel-rapl:0"),
        ],
        {"cpu package-0": 25.0},
    ),
}


@pytest.mark.alone
@pytest.mark.accept("3.6", "Intel dies, AMD mirrors, CLX-AP, eleven zones, psys and twin: totals by hand")
@pytest.mark.parametrize("machine", RAPL_MACHINES)
def test_packages_add_up_as_by_hand(machine: str, tmp_path: Path, seconds: Seconds, report: Report) -> None:
    """What is real and additive is added, what mirrors, contains or repeats another is not."""
    vendor, zones, by_hand = RAPL_MACHINES[machine]

    found, late = meter_rapl(tmp_path, zones, vendor, len(by_hand), seconds(4, 20))

    report(f"{machine}: {sum(found.values()):.1f} W, by hand {sum(by_hand.values()):.1f} W")
    assert by_hand == pytest.approx(found, rel=0.01 + late)


# --- Grace ----------------------------------------------------------------------------------------


def grace(root: Path, socket_watts: Sequence[float]) -> None:
    """The ACPI power meters of a Grace host: rails that are part of the socket, and the socket."""
    for number, power in enumerate(socket_watts):
        rails = (("Grace", power), ("CPU", power * 0.6), ("SysIO", power * 0.1), ("Module", power + 400))
        for place, (rail, drawn) in enumerate(rails):
            folder = root / "class" / "hwmon" / f"hwmon{4 * number + place}" / "device"
            folder.mkdir(parents=True)
            (folder.parent / "name").write_text("power_meter\n")
            (folder / "power1_oem_info").write_text(f"{rail} Power Socket {number}\n")
            (folder / "power1_average").write_text(f"{round(drawn * MICROWATTS)}\n")


def meter_grace(
    tmp_path: Path,
    gpus: Sequence[Gpu],
    sockets: Sequence[float],
    ready: Callable[[dict[str, Any]], bool],
    length: float,
) -> dict[str, float]:
    """What the daemon makes of Grace modules."""
    try:
        nvml = NvmlStandin(tmp_path / "nvml", list(gpus))
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    tree = tmp_path / "sys"
    (tree / "class").mkdir(parents=True)
    grace(tree, sockets)
    config = (
        f'[sources.hwmon]\npath = "{tree}"\n[sources.rapl]\npath = "{tree}"\n'
        "[sources.nvml]\nenabled = true\n[sources.estimate]\nenabled = true\n"
    )
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, config, env={**os.environ, **nvml.env}))
        return watts(daemon, length, ready)


def blackwell(module: float, own: float, serial: str, **facts: Any) -> Gpu:
    return Gpu(
        name="NVIDIA GB200",
        architecture=10,
        profile=Constant(own),
        module_profile=Constant(module),
        serial=serial,
        limit_watts=1200.0,
        default_limit_watts=1200.0,
        min_limit_watts=200.0,
        max_limit_watts=1200.0,
        **facts,
    )


@pytest.mark.accept("3.6", "GB200 pair without and with the socket's own meter: the module is counted once")
@pytest.mark.parametrize("sockets", [(), (95.0,)], ids=["without hwmon", "with hwmon"])
def test_a_gb200_module_is_counted_once(
    sockets: tuple[float, ...], tmp_path: Path, seconds: Seconds, report: Report
) -> None:
    """Both GPUs report the module's power: 467 W less 166 W less 169 W is what is left, with or without the socket."""
    gpus = [blackwell(467.0, 166.0, "17"), blackwell(467.0, 169.0, "17")]

    found = meter_grace(tmp_path, gpus, sockets, lambda f: len(f) == (4 if sockets else 3), seconds(4, 20))

    cards = sorted(name for name in found if name.startswith("gpu"))
    by_hand = dict(zip(cards, (166.0, 169.0), strict=True))
    by_hand["module_rest module-rest-0"] = 467.0 - 166.0 - 169.0 - sum(sockets)
    if sockets:
        by_hand["cpu package-0"] = 95.0
    report(f"{sum(found.values()):.1f} W, the module draws 467.0 W")
    assert by_hand == pytest.approx(found, rel=0.02)
    assert 467.0 == pytest.approx(sum(found.values()), rel=0.01)


@pytest.mark.accept("3.6", "GH200: a counter that covers the module is never believed to be the GPU's")
def test_a_gh200_counter_that_covers_the_module_is_not_the_gpus(
    tmp_path: Path, seconds: Seconds, report: Report
) -> None:
    """After its trial the GPU is still metered by its own power."""
    gpu = Gpu(
        name="NVIDIA GH200 480GB",
        profile=Constant(300.0),
        module_profile=Constant(450.0),
        counter_module=True,
        serial="21",
    )

    found = meter_grace(tmp_path, [gpu], (120.0,), lambda f: len(f) == 3, seconds(6, 45))

    by_hand = {"cpu package-0": 120.0, "module_rest module-rest-0": 30.0}
    report(", ".join(f"{name} {power:.1f} W" for name, power in found.items()))
    assert {**by_hand, "gpu": 300.0} == pytest.approx(
        {name if not name.startswith("gpu") else "gpu": power for name, power in found.items()}, rel=0.02
    )
