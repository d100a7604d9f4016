"""Each recorded board through the real pipeline, to its golden scrape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.feed import Claims, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Device, State
from wattgram.snapshot import Snapshot
from wattgram.sources.nvml.binding import Power, chosen
from wattgram.sources.nvml.boards import uncertainty
from wattgram.sources.nvml.source import NvmlSource
from wattgram_exporters.encoding import TEXT, encode
from wattgram_exporters.families import families

BOARDS = Path(__file__).parent / "fixtures" / "boards"
NAMES = sorted(path.stem for path in BOARDS.glob("*.json"))
FIELDS = ("TOTAL_ENERGY_CONSUMPTION", "POWER_AVERAGE", "POWER_INSTANT")


class Recorded:
    """What a recording answers; the energy counter goes on with the board's power as the clock is turned."""

    def __init__(self, recording: dict[str, Any], clock: ManualClock) -> None:
        self._nvml = recording["nvml"]
        self._clock = clock
        self._began = clock.now().mono

    def open(self) -> None:
        """It is open."""

    def close(self) -> None:
        """It is closed."""

    def driver(self) -> str:
        return str(self._nvml["driver"])

    def count(self) -> int:
        return len(self._nvml["gpus"])

    def handle(self, index: int) -> Any:
        return self._nvml["gpus"][index]

    def uuid(self, handle: Any) -> str:
        return str(handle["uuid"])

    def serial(self, handle: Any) -> str:
        return str(handle["serial"])

    def device(self, handle: Any, index: int) -> Device:
        power = self.power(handle)
        return Device(
            "gpu",
            handle["uuid"],
            name=handle["name"],
            index=str(index),
            pci_bus_id=f"0000:{handle['pci_bus_id'][9:].lower()}",
            covers="board",
            max_watts=1.5 * max(handle["limits_mw"][1], 1.2 * handle["default_limit_mw"]) / 1000,
            on_trial=power.module_watts is not None,
            uncertainty=uncertainty(handle["name"], handle["architecture"]),
        )

    def power(self, handle: Any) -> Power:
        told = {(f["name"], f["scope"]): f["value"] for f in handle["fields"] if f["return"] == 0}
        energy, average, instant = (told.get((f"NVML_FI_DEV_{name}", 0)) for name in FIELDS)
        power = chosen(energy, average, handle["usage_mw"], instant, told.get(("NVML_FI_DEV_POWER_AVERAGE", 1)))
        if power.microjoules is None or power.watts is None:
            return power
        spent = round(power.watts * (self._clock.now().mono - self._began) * 1000) * 1000
        return replace(power, microjoules=power.microjoules + spent)

    def samples(self, handle: Any, last: int) -> list[tuple[int, float]]:
        """The ring as it stands now: the recorded one, moved on."""
        recorded = handle["samples"]
        if len(recorded) < 2:
            return []
        spacing = recorded[1][0] - recorded[0][0]
        newest = round(self._clock.now().mono * 1e6) // spacing * spacing
        return [(at, recorded[0][1]) for at in range(newest - 119 * spacing, newest + 1, spacing) if at > last]

    def state(self, handle: Any) -> State:
        told = {f["name"]: f["value"] for f in handle["fields"] if f["return"] == 0}
        policy = (("power_cap", "NVML_FI_DEV_PERF_POLICY_POWER"), ("thermal", "NVML_FI_DEV_PERF_POLICY_THERMAL"))
        return State(
            memory_used_bytes=handle["memory"]["used"],
            memory_total_bytes=handle["memory"]["total"],
            temperature_celsius=float(handle["temperature_c"]),
            power_limit_watts=handle["enforced_limit_mw"] / 1000,
            throttled=tuple((reason, told[name] / 1e9) for reason, name in policy if name in told),
        )


def metered(name: str, seconds: int) -> Snapshot:
    """The books after a board was read once a second."""
    clock = ManualClock(100.0, 1_780_000_000.0)
    recording = json.loads((BOARDS / f"{name}.json").read_text())
    source = NvmlSource(Recorded(recording, clock), clock, every=1.0, state_every=5.0)
    source.open()
    ledger, meter, claims = Ledger(clock), Meter(3.0), Claims(["nvml"])
    feed = SourceFeed("nvml", lambda: source, Accountant("nvml", 1.0, meter, None, ledger), meter, claims, clock)
    for _ in range(seconds + 1):
        feed()
        clock.advance(1.0)
    return replace(ledger.snapshot(), version="0.0.0", python="3.0.0")


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_scrape_of_each_board(name: str, golden: Callable[[str, str], None]) -> None:
    """What an SRE reads on a server with such boards."""
    snapshot = metered(name, 60)

    golden(f"boards/{name}.txt", encode(families(snapshot), TEXT).decode())


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("h100-sxm", {"counter"}),
        ("a100-sxm4", {"counter"}),
        ("l40s", {"counter"}),
        ("t4", {"counter"}),
        ("p100-pascal", {"samples"}),
        ("gb200-pair", {"counter", "power"}),
    ],
)
def test_each_board_is_metered_by_the_best_it_has(name: str, methods: set[str]) -> None:
    """Pascal has no counter; a Grace module's rest is known by power alone, its GPUs' counters after their trial."""
    assert methods == {d.method for d in metered(name, 60).devices}


@pytest.mark.parametrize("name", NAMES)
def test_the_energy_of_a_minute_is_the_power_that_the_board_shows(name: str) -> None:
    """Whatever the method."""
    for device in metered(name, 60).devices:
        assert device.watts is not None
        assert device.microjoules / 60e6 == pytest.approx(device.watts, rel=0.01)


def test_an_l40s_is_integrated_by_its_average_not_by_its_instant() -> None:
    """Right after a load the two differ by 60 W: the average has seen all the time."""
    (device,) = metered("l40s", 3).devices

    assert 183.3 == device.watts


def test_the_module_of_a_gb200_pair_is_counted_once() -> None:
    """The median of what both report, less both GPUs."""
    rest = next(d for d in metered("gb200-pair", 3).devices if d.device.component == "module_rest")

    assert (467.2 + 460.0) / 2 - 165.9 - 169.0 == pytest.approx(rest.watts)


def test_the_recordings_name_no_card() -> None:
    """Serial numbers and UUIDs are masked."""
    for name in NAMES:
        for gpu in json.loads((BOARDS / f"{name}.json").read_text())["nvml"]["gpus"]:
            assert gpu["uuid"].startswith("GPU-00000000-0000-0000-0000-")
            assert gpu["serial"] in ("", "serial-0")
