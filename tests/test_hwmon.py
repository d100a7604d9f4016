"""Processor power meters under hwmon: chosen by driver and label, parts and wholes never added."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattgram.clock import ManualClock
from wattgram.ports import ReadFailed, Unavailable
from wattgram.sources.hwmon import HwmonSource, Options, find_meters, open_source, record

MICROWATTS = 1_000_000


def rail(root: Path, number: int, label: str, watts: float, *, below: str = "device") -> Path:
    """One ACPI power meter; its attributes lie in the chip's folder or its device's."""
    folder = root / "class" / "hwmon" / f"hwmon{number}" / below
    folder.mkdir(parents=True)
    (root / "class" / "hwmon" / f"hwmon{number}" / "name").write_text("power_meter\n")
    (folder / "power1_oem_info").write_text(f"{label}\n")
    (folder / "power1_average").write_text(f"{round(watts * MICROWATTS)}\n")
    return folder


def opened(root: Path) -> HwmonSource:
    return open_source(Options(path=str(root)), ManualClock(), 1.0)


@pytest.mark.parametrize("below", ["", "device"])
def test_the_whole_socket_is_read_and_its_parts_are_not_added(tmp_path: Path, below: str) -> None:
    """The module contains the socket, the socket its cores and its I/O."""
    for number, (label, watts) in enumerate((("CPU", 80.0), ("Grace", 140.0), ("SysIO", 12.0), ("Module", 600.0))):
        rail(tmp_path, number, f"{label} Power Socket 0", watts, below=below)

    sample = opened(tmp_path).read()

    assert [("cpu", "package-0", 140.0)] == [(r.device.component, r.device.id, r.watts) for r in sample.readings]


def test_sockets_are_named_by_their_label_not_by_their_number(tmp_path: Path) -> None:
    """Numbers change at every boot."""
    rail(tmp_path, 7, "Grace Power Socket 0", 100.0)
    rail(tmp_path, 3, "Grace Power Socket 1", 200.0)

    found = {r.device.id: (r.watts, r.device.module) for r in opened(tmp_path).read().readings}

    assert {"package-0": (100.0, "module-0"), "package-1": (200.0, "module-1")} == found


def test_the_grace_socket_covers_its_memory(tmp_path: Path) -> None:
    """On x86 a package does not; here nobody else may book memory."""
    rail(tmp_path, 0, "Grace Power Socket 0", 100.0)

    (meter,) = find_meters(tmp_path / "class" / "hwmon")

    assert "cpu+dram" == meter.device.covers


def test_a_labelled_processor_rail_is_read(tmp_path: Path) -> None:
    """Ampere's driver tells its rails apart by label."""
    chip = tmp_path / "class" / "hwmon" / "hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("smpro\n")
    for number, (label, watts) in enumerate((("CPU power", 90), ("IO power", 20)), 1):
        (chip / f"power{number}_label").write_text(f"{label}\n")
        (chip / f"power{number}_input").write_text(f"{watts * MICROWATTS}\n")

    assert [90.0] == [r.watts for r in opened(tmp_path).read().readings]


def test_a_chassis_meter_is_no_processor(tmp_path: Path) -> None:
    """On x86 servers the same driver shows the whole machine, GPUs included."""
    rail(tmp_path, 0, "PSU input", 900.0)

    with pytest.raises(Unavailable) as missing:
        opened(tmp_path)

    assert "acpi_power_meter" in missing.value.remedy


def test_zero_watts_is_no_reading(tmp_path: Path) -> None:
    """A meter that is not active shows 0; the other still counts."""
    rail(tmp_path, 0, "Grace Power Socket 0", 100.0)
    asleep = rail(tmp_path, 1, "Grace Power Socket 1", 50.0)
    source = opened(tmp_path)
    (asleep / "power1_average").write_text("0\n")

    sample = source.read()

    assert (["package-0"], ["package-1"]) == (
        [r.device.id for r in sample.readings],
        [f.device.id for f in sample.failed],
    )


def test_when_all_refuse_the_reading_failed(tmp_path: Path) -> None:
    """Nothing is not an empty sample."""
    folder = rail(tmp_path, 0, "Grace Power Socket 0", 100.0)
    source = opened(tmp_path)
    (folder / "power1_average").unlink()

    with pytest.raises(ReadFailed, match="power1_average"):
        source.read()


def test_a_recording_holds_every_meter(tmp_path: Path) -> None:
    """Also those that are not chosen: they may teach us."""
    rail(tmp_path, 0, "Module Power Socket 0", 600.0)

    files = record(Options(path=str(tmp_path)))["files"]

    assert "Module Power Socket 0" in files.values()
