"""RAPL through the Linux powercap tree: processor packages and their memory.

Zones are chosen by name, never by number: `package-N` (or `package-N-die-M`) and the `dram` beneath it. `core` and
`uncore` are parts of a package, `psys` contains it, an `intel-rapl-mmio` zone is the same silicon seen another way:
none of these is added. Intel dies are real and additive; on AMD, kernels before 6.12 show one socket's counter once per
die, and such mirrors are collapsed into one.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattgram.model import Counter, Device, Failure, Reading, Sample
from wattgram.ports import Clock, ReadFailed, SourceOptions, Unavailable
from wattgram.tools.procfs import cpu_identity
from wattgram.tools.sysfs import capture, listed, read_count, read_text
from wattgram.tools.timed import timed

ZONE = re.compile(r"^(intel-rapl|intel-rapl-mmio):[0-9a-f]+(:[0-9a-f]+)?$")
PACKAGE = re.compile(r"^package-(\d+)(?:-die-(\d+))?$")
MIRRORING_VENDORS = ("AuthenticAMD", "HygonGenuine")
EVENTS = ("wrap", "reset", "gap", "implausible", "stuck")

RESCAN_SECONDS = 60.0
# No package draws more; a step that implies it is a restart of the counter, not a wrap.
CEILING_WATTS = 1000.0
HEADROOM = 1.5
MIRROR_MICROJOULES = 2_000_000
MIRROR_RATIO = 0.02

GRANT = "let a group read it: see docs/permissions.md, or try once with: sudo chmod g+r,o-rwx {path}/energy_uj"
MISSING = (
    "on Intel load it with: sudo modprobe intel_rapl_msr; AMD needs Linux 5.11 or later; virtual machines have none: "
    "with [sources.estimate] enabled = true a model stands in, labelled"
)


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """`path` is where the tree of /sys is mounted, `proc` that of /proc."""

    path: str = "/sys"
    proc: str = "/proc"


@dataclass(frozen=True, slots=True)
class Zone:
    """One meter in the tree."""

    path: Path
    device: Device
    wraps_at: int
    driver: str


def open_source(options: Options, clock: Clock, every: float) -> RaplSource:
    """Return the source; raise Unavailable when the tree has no zone, or none that may be read."""
    del every
    source = RaplSource(Path(options.path), Path(options.proc), clock)
    source.scan()
    return source


def record(options: Options) -> dict[str, Any]:
    """Return the tree of zones as it stands, and the processor's identity."""
    names = ("name", "energy_uj", "max_energy_range_uj", "constraint_0_max_power_uw")
    try:
        identity = cpu_identity(Path(options.proc))
    except ReadFailed:
        identity = {}
    processor = {key: identity.get(key, "") for key in ("vendor_id", "cpu family", "model", "model name", "stepping")}
    files = capture(Path(options.path), tuple(f"class/powercap/intel-rapl*/{name}" for name in names))
    return {"processor": processor, "files": files}


class RaplSource:
    """Reads every chosen zone anew at each turn: a file may vanish, and its number wraps."""

    def __init__(self, root: Path, proc: Path, clock: Clock) -> None:
        self._powercap = root / "class" / "powercap"
        self._proc = proc
        self._clock = clock
        self._zones: tuple[Zone, ...] = ()
        self._mirrors = _Mirrors(suspected=_may_mirror(proc))
        self._scanned = clock.now()

    def scan(self) -> None:
        """Look for zones; raise Unavailable when there is none that can be used."""
        self._scanned = self._clock.now()
        zones = find_zones(self._powercap)
        if not zones:
            raise Unavailable(f"no RAPL zone in {self._powercap}", MISSING)
        readable = tuple(zone for zone in zones if _refusal(zone) is None)
        if not readable:
            zone = zones[0]
            raise Unavailable(f"{zone.path}/energy_uj: {_refusal(zone)}", GRANT.format(path=zone.path))
        self._zones = zones

    def read(self) -> Sample:
        """Return each zone's counter; zones that refuse are named; raise ReadFailed when all do."""
        now = self._clock.now()
        if now.mono - self._scanned.mono > RESCAN_SECONDS:
            self._scanned = now
            with suppress(ReadFailed):  # the known zones are read all the same
                found = {zone.device: zone for zone in find_zones(self._powercap)}
                self._zones = tuple({**{zone.device: zone for zone in self._zones}, **found}.values())
        readings: list[Reading] = []
        failed: list[Failure] = []
        for zone in self._zones:
            try:
                readings.append(self._read(zone))
            except ReadFailed as failure:
                remedy = f"; {GRANT.format(path=zone.path)}" if failure.reason == "auth" else ""
                failed.append(Failure(zone.device, f"{failure}{remedy}"))
        if failed and not readings:
            raise ReadFailed(failed[0].reason)
        missed = (failure for failure in failed if not self._mirrors.is_mirror(failure.device))
        return Sample(now, self._mirrors.collapse(readings), failed=tuple(missed))

    def close(self) -> None:
        """Hold nothing, let go of nothing."""

    def _read(self, zone: Zone) -> Reading:
        microjoules, at = timed(self._clock, lambda: read_count(zone.path / "energy_uj"))
        return Reading(zone.device, at, counter=Counter(microjoules, zone.wraps_at), driver=zone.driver)


def find_zones(powercap: Path) -> tuple[Zone, ...]:
    """Return the zones that may be added up, packages and memory, by their names."""
    found: dict[str, Zone] = {}
    for path in sorted(listed(powercap, "intel-rapl*"), key=_twins_last):
        if not ZONE.match(path.name):
            continue
        try:
            zone = _zone(path)
        except ReadFailed:
            continue
        if zone is not None:
            twin = found.get(zone.device.id)
            if twin is None or (_refusal(twin) is not None and _refusal(zone) is None):
                found[zone.device.id] = zone
    return tuple(sorted(found.values(), key=lambda z: (z.device.component, _natural(z.device.id))))


def _zone(path: Path) -> Zone | None:
    name = read_text(path / "name")
    package = PACKAGE.match(name)
    if package is not None:
        component, label, covers = "cpu", name, "package"
    elif name == "dram":
        parent = read_text(path.with_name(path.name.rpartition(":")[0]) / "name")
        if not PACKAGE.match(parent):
            return None
        component, label, covers = "dram", parent.replace("package", "dram", 1), "dram"
    else:
        return None
    device = Device(component, label, name=name, covers=covers, max_watts=_ceiling(path), events=EVENTS)
    return Zone(path, device, read_count(path / "max_energy_range_uj"), path.name.partition(":")[0])


def _ceiling(path: Path) -> float:
    """What a zone can draw at most, in watts, for judging a step of its counter."""
    try:
        known = read_count(path / "constraint_0_max_power_uw") / 1e6
    except ReadFailed:
        known = 0.0
    return min(CEILING_WATTS, known * HEADROOM) if known > 0 else CEILING_WATTS


def _twins_last(path: Path) -> tuple[bool, str]:
    return (path.name.startswith("intel-rapl-mmio"), path.name)


def _natural(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _refusal(zone: Zone) -> str | None:
    try:
        read_count(zone.path / "energy_uj")
    except ReadFailed as failure:
        return "permission denied" if failure.reason == "auth" else str(failure)
    return None


def _may_mirror(proc: Path) -> bool:
    """Whether dies may show one socket's counter: by the processor's vendor; where it is not told, they may."""
    try:
        return cpu_identity(proc).get("vendor_id", "") in MIRRORING_VENDORS
    except ReadFailed:
        return True


class _Mirrors:
    """Finds dies that show one and the same socket counter, and keeps one of them.

    Until the counters have moved between two readings nothing can be said, and nothing is given: a joule that may be
    a mirror's is not booked. Real dies differ in what they counted since boot; mirrors agree, and move together.
    """

    def __init__(self, *, suspected: bool) -> None:
        self._suspected = suspected
        self._first: dict[str, dict[str, int]] = {}
        self._verdicts: dict[str, bool] = {}
        self._keepers: dict[str, str] = {}

    def collapse(self, readings: list[Reading]) -> tuple[Reading, ...]:
        """Return the readings without mirrors."""
        if not self._suspected:
            return tuple(readings)
        by_package: dict[str, list[Reading]] = {}
        for reading in readings:
            package = reading.device.id.partition("-die-")[0]
            by_package.setdefault(package, []).append(reading)
        return tuple(r for package, dies in by_package.items() for r in self._kept(package, dies))

    def is_mirror(self, device: Device) -> bool:
        """Whether a device is known to show another's joules, or may be: then it cannot go unmetered by itself."""
        package = device.id.partition("-die-")[0]
        if not self._suspected or package == device.id:
            return False
        return self._keepers.get(package) != device.id and self._verdicts.get(package) is not False

    def _kept(self, package: str, dies: list[Reading]) -> list[Reading]:
        verdict = self._verdicts.get(package)
        if len(dies) > 1 and verdict is None:
            verdict = self._judge(package, {r.device.id: r.counter.microjoules for r in dies if r.counter})
            if verdict is None:
                return []
        if not verdict:
            return dies
        return [die for die in dies if die.device.id == self._keepers[package]]

    def _judge(self, package: str, now: dict[str, int]) -> bool | None:
        before = self._first.setdefault(package, now)
        moves = [now[die] - before[die] for die in now if die in before]
        if before.keys() != now.keys() or min(moves, default=0) < 0:  # one came, went or wrapped: begin again
            self._first[package] = now
            return None
        if min(moves) == 0:
            return None
        together = max(moves) - min(moves) <= max(MIRROR_RATIO * max(moves), MIRROR_MICROJOULES / 10)
        verdict = together and all(_spread(values) <= MIRROR_MICROJOULES for values in (before, now))
        self._verdicts[package] = verdict
        self._keepers[package] = min(now, key=_natural)
        return verdict


def _spread(values: dict[str, int]) -> int:
    return max(values.values()) - min(values.values())
