"""The RAPL stand-in must itself be exact before anything is measured against it."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from standin.sysfs import RaplTree, Zone


@dataclass(frozen=True)
class Steady:
    """So many watts, always."""

    power: float

    def joules(self, start: float, end: float) -> float:
        return self.power * (end - start)


def until(condition: Callable[[], bool], deadline: float = 20.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.002)


def shown(tree: RaplTree, zone_path: str) -> int:
    return int(tree.file(zone_path).read_text())


PACKAGE = Zone("intel-rapl:0", "package-0", Steady(100.0))
DRAM = Zone("intel-rapl:0:0", "dram", Steady(10.0), wraps_at=65_532_610_987)


def test_the_tree_looks_like_a_machine(tmp_path: Path) -> None:
    """Zones and sub-zones lie side by side; the control type is there too and has no counter."""
    RaplTree(tmp_path, [PACKAGE, DRAM])

    powercap = tmp_path / "sys/class/powercap"
    assert ["intel-rapl", "intel-rapl:0", "intel-rapl:0:0"] == sorted(path.name for path in powercap.iterdir())
    assert not (powercap / "intel-rapl/energy_uj").exists()
    assert "dram\n" == (powercap / "intel-rapl:0:0/name").read_text()
    assert "65532610987\n" == (powercap / "intel-rapl:0:0/max_energy_range_uj").read_text()
    assert (powercap / "intel-rapl:0/intel-rapl:0:0/energy_uj").samefile(powercap / "intel-rapl:0:0/energy_uj")


def test_only_the_owner_may_read_a_counter(tmp_path: Path) -> None:
    """As the kernel has it since 5.10; name and range stay open."""
    tree = RaplTree(tmp_path, [PACKAGE])

    assert 0o400 == stat.S_IMODE(tree.file("intel-rapl:0").stat().st_mode)


def test_the_host_describes_itself(tmp_path: Path) -> None:
    """Vendor, model, memory and CPU time are where Linux has them."""
    RaplTree(tmp_path, [], cpuinfo_vendor="AuthenticAMD")

    assert "vendor_id\t: AuthenticAMD\n" in (tmp_path / "proc/cpuinfo").read_text()
    assert "model name" in (tmp_path / "proc/cpuinfo").read_text()
    assert (tmp_path / "proc/meminfo").read_text().startswith("MemTotal: ")
    assert (tmp_path / "proc/stat").read_text().startswith("cpu  ")


def test_extra_files_appear_and_may_replace_the_usual(tmp_path: Path) -> None:
    """What one machine has beyond the rest is a matter of the zone."""
    RaplTree(tmp_path, [Zone("intel-rapl:a", "package-10", extra={"constraint_0_max_power_uw": "205000000\n"})])

    path = tmp_path / "sys/class/powercap/intel-rapl:a/constraint_0_max_power_uw"
    assert "205000000\n" == path.read_text()


def test_a_counter_stands_still_until_the_writer_starts(tmp_path: Path) -> None:
    """The start value is what a reader sees first."""
    tree = RaplTree(tmp_path, [Zone("intel-rapl:0", "package-0", Steady(100.0), start=777)])

    assert 777 == shown(tree, "intel-rapl:0") == tree.unwrapped("intel-rapl:0")


def test_the_file_shows_the_account_modulo_the_range(tmp_path: Path) -> None:
    """After many wraps the account and the file still agree to the microjoule."""
    zone = Zone("intel-rapl:0", "package-0", Steady(1000.0), wraps_at=1_000_003, start=999_999)
    with RaplTree(tmp_path, [zone]) as tree:
        tree.start_writer(every=0.001)
        until(lambda: tree.unwrapped("intel-rapl:0") > 20 * zone.wraps_at)
        tree.freeze()

        assert tree.unwrapped("intel-rapl:0") % zone.wraps_at == shown(tree, "intel-rapl:0")


def test_the_account_follows_the_profile(tmp_path: Path) -> None:
    """The writer's energy lies between what the profile gives inside and outside its life."""
    with RaplTree(tmp_path, [PACKAGE]) as tree:
        before = time.monotonic()
        tree.start_writer()
        started = time.monotonic()
        until(lambda: tree.unwrapped("intel-rapl:0") > PACKAGE.start + 5_000_000)
        stopping = time.monotonic()
        tree.freeze()
        after = time.monotonic()

        used = (tree.unwrapped("intel-rapl:0") - PACKAGE.start) / 1e6
        assert 100 * (stopping - started) - 1e-5 <= used <= 100 * (after - before)


def test_a_reader_never_sees_half_a_number(tmp_path: Path) -> None:
    """Counters are replaced, not rewritten: each read is whole, and none goes back before a wrap."""
    with RaplTree(tmp_path, [Zone("intel-rapl:0", "package-0", Steady(500.0), start=99_999_999)]) as tree:
        tree.start_writer(every=0.0)
        seen = [tree.file("intel-rapl:0").read_text() for _ in range(3000)]

    assert all(text.endswith("\n") for text in seen)
    assert sorted(map(int, seen)) == list(map(int, seen))


def test_a_frozen_tree_goes_on_from_where_it_stood(tmp_path: Path) -> None:
    """The pause itself uses no energy."""
    with RaplTree(tmp_path, [PACKAGE]) as tree:
        tree.start_writer()
        tree.freeze()
        frozen, stood = time.monotonic(), tree.unwrapped("intel-rapl:0")
        until(lambda: time.monotonic() > frozen + 0.05)

        resumed = time.monotonic()
        tree.start_writer()
        tree.freeze()

        assert stood <= tree.unwrapped("intel-rapl:0") <= stood + 100e6 * (time.monotonic() - resumed)


def test_a_mirror_shows_another_zones_counter(tmp_path: Path) -> None:
    """Two dies, one register."""
    mirror = Zone("intel-rapl:1", "package-0-die-1", mirror_of="intel-rapl:0")
    with RaplTree(tmp_path, [PACKAGE, mirror]) as tree:
        tree.start_writer()
        until(lambda: tree.unwrapped("intel-rapl:1") > PACKAGE.start)
        tree.freeze()

        assert tree.unwrapped("intel-rapl:0") == tree.unwrapped("intel-rapl:1")
        assert shown(tree, "intel-rapl:0") == shown(tree, "intel-rapl:1")


def test_raw_text_stays_until_it_is_released(tmp_path: Path) -> None:
    """The writer does not undo a fault; the counter runs on behind it."""
    with RaplTree(tmp_path, [PACKAGE, DRAM]) as tree:
        tree.start_writer(every=0.001)
        tree.set_raw("intel-rapl:0", "garbage\n")
        past = tree.unwrapped("intel-rapl:0:0") + 100_000
        until(lambda: tree.unwrapped("intel-rapl:0:0") > past)
        text = tree.file("intel-rapl:0").read_text()
        tree.release("intel-rapl:0")

        assert "garbage\n" == text
        assert shown(tree, "intel-rapl:0") > PACKAGE.start


def test_a_denied_counter_opens_and_fails_on_read(tmp_path: Path) -> None:
    """Also for root, and also while the writer runs."""
    with RaplTree(tmp_path, [PACKAGE]) as tree:
        tree.start_writer(every=0.001)
        tree.deny("intel-rapl:0")

        descriptor = os.open(tree.file("intel-rapl:0"), os.O_RDONLY)
        try:
            with pytest.raises(OSError) as caught:
                os.read(descriptor, 64)
        finally:
            os.close(descriptor)
        assert errno.EIO == caught.value.errno


def test_a_removed_zone_takes_its_sub_zones_along(tmp_path: Path) -> None:
    """And may come back later, running from its own start."""
    with RaplTree(tmp_path, [PACKAGE, DRAM]) as tree:
        tree.start_writer(every=0.001)
        tree.remove("intel-rapl:0")
        gone = [path.name for path in (tmp_path / "sys/class/powercap").iterdir()]
        tree.add(PACKAGE)
        until(lambda: tree.unwrapped("intel-rapl:0") > PACKAGE.start)

        assert ["intel-rapl"] == gone
        assert shown(tree, "intel-rapl:0") >= PACKAGE.start


def test_a_reset_counter_starts_over(tmp_path: Path) -> None:
    """The account starts over with it."""
    tree = RaplTree(tmp_path, [PACKAGE])

    tree.reset("intel-rapl:0", to=42)

    assert 42 == tree.unwrapped("intel-rapl:0") == shown(tree, "intel-rapl:0")
