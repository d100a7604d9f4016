"""Processor power meters that the kernel shows under hwmon, for hosts without RAPL, such as NVIDIA Grace.

A meter is chosen by its driver and its label, never by its number, which changes at every boot. On Grace each ACPI
power meter is one rail: `Grace Power Socket N` is the whole socket, memory included; `CPU Power Socket N`, `SysIO Power
Socket N` and `Module Power Socket N` are parts of it or contain it, and are not added (kernel documentation,
Documentation/hwmon/acpi_power_meter.rst; NVIDIA Grace platform guide).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattgram.model import Device, Failure, Reading, Sample
from wattgram.ports import Clock, ReadFailed, SourceOptions, Unavailable
from wattgram.tools.sysfs import capture, listed, read_count, read_text
from wattgram.tools.timed import timed

MICROWATTS_PER_WATT = 1e6
GRACE = re.compile(r"Grace Power Socket (\d+)")
# Drivers whose label names a processor's own rail (Documentation/hwmon/smpro-hwmon.rst, xgene-hwmon).
LABELLED = {"smpro": "CPU power", "xgene": "CPU power"}
REMEDY = "on Grace load it with: sudo modprobe acpi_power_meter (some kernels need force_cap_on=y)"
CEILING_WATTS = 1500.0
GRACE_NAME = "NVIDIA Grace"


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """`path` is where the tree of /sys is mounted."""

    path: str = "/sys"


@dataclass(frozen=True, slots=True)
class Meter:
    """One power file."""

    path: Path
    device: Device
    driver: str


def open_source(options: Options, clock: Clock, every: float) -> HwmonSource:
    """Return the source; raise Unavailable when no processor's meter is there, or none may be read."""
    del every
    meters = find_meters(Path(options.path) / "class" / "hwmon")
    if not meters:
        raise Unavailable(f"no processor power meter in {options.path}/class/hwmon", REMEDY)
    try:
        read_count(meters[0].path)
    except ReadFailed as failure:
        raise Unavailable(str(failure), f"sudo chmod g+r {meters[0].path}, and join its group") from failure
    return HwmonSource(meters, clock)


def record(options: Options) -> dict[str, Any]:
    """Return every power meter under hwmon, chosen or not."""
    names = ("name", "power*_average", "power*_input", "power*_label", "power*_oem_info")
    patterns = tuple(f"class/hwmon/hwmon*/{place}{name}" for place in ("", "device/") for name in names)
    return {"files": capture(Path(options.path), patterns)}


class HwmonSource:
    """Reads each chosen meter anew at each turn."""

    def __init__(self, meters: tuple[Meter, ...], clock: Clock) -> None:
        self._meters = meters
        self._clock = clock

    def read(self) -> Sample:
        """Return each meter's power; those that refuse are named; raise ReadFailed when all do."""
        readings: list[Reading] = []
        failed: list[Failure] = []
        for meter in self._meters:
            try:
                readings.append(self._read(meter))
            except ReadFailed as failure:
                failed.append(Failure(meter.device, str(failure)))
        if not readings:
            raise ReadFailed(failed[0].reason)
        return Sample(self._clock.now(), tuple(readings), failed=tuple(failed))

    def close(self) -> None:
        """Hold nothing, let go of nothing."""

    def _read(self, meter: Meter) -> Reading:
        watts, at = timed(self._clock, lambda: read_count(meter.path) / MICROWATTS_PER_WATT)
        if watts == 0:
            raise ReadFailed(f"{meter.path}: 0 W: the meter is not active", "empty")
        return Reading(meter.device, at, watts=watts, driver=meter.driver)


def find_meters(hwmon: Path) -> tuple[Meter, ...]:
    """Return the meters of processor sockets."""
    found = [meter for chip in listed(hwmon, "hwmon*") for meter in _meters(chip)]
    return tuple(sorted(found, key=lambda m: m.device.id))


def _meters(chip: Path) -> list[Meter]:
    # Attributes lie in the chip's own folder or, for older drivers, in its device's.
    name = _text(chip / "name") or _text(chip / "device" / "name")
    for folder in (chip, chip / "device"):
        socket = GRACE.fullmatch(_text(folder / "power1_oem_info"))
        if name == "power_meter" and socket:
            device = _socket(socket[1], GRACE_NAME, "cpu+dram")
            return [Meter(folder / "power1_average", device, "acpi_power_meter")]
        if name in LABELLED:
            return [
                Meter(label.with_name(label.name.replace("_label", "_input")), _socket("0", name, "package"), name)
                for label in listed(folder, "power*_label")
                if _text(label) == LABELLED[name]
            ]
    return []


def _socket(number: str, name: str, covers: str) -> Device:
    return Device(
        "cpu",
        f"package-{number}",
        name=name,
        module=f"module-{number}" if name == GRACE_NAME else "",
        covers=covers,
        max_watts=CEILING_WATTS,
        events=("gap", "implausible"),
    )


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except ReadFailed:
        return ""
