"""What a daemon's `/api/v1/status` says, believed only where it has form: a stranger may answer, with anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wattgram.model import COMPONENTS
from wattgram.ports import ReadFailed
from wattgram.tools.labels import label

LONGEST_TEXT = 200
MOST_ROWS = 10_000
# Beyond, a number is nobody's energy, power or time: a million years of a gigawatt are 3e22 joules.
LARGEST = 1e24
POOL, IDLE = "pool", "idle"
SUSPENDED, PAUSED = "suspended", "paused"
FRESH_INTERVALS = 3
# Two books are written in decimals and added up in floating point; what differs by more is no rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Device:
    """A device as it is shown. None: not known; `silence` is why it has no power now, where somebody said."""

    component: str
    id: str
    name: str
    model: str
    source: str
    method: str
    quality: str
    watts: float | None
    limit_watts: float | None
    joules: float
    grams: float | None
    unmetered_seconds: float
    utilization: float | None
    celsius: float | None
    read_at: float | None
    silence: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """On whose behalf, with `parts` of its joules by device. `grams` None: no zone is configured."""

    kind: str
    id: str
    owner: str
    name: str
    account: str
    began: float
    seen: float
    joules: float
    idle_joules: float
    apportioned_joules: float
    grams: float | None
    parts: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """Its identity."""
        return self.kind, self.id, self.owner


@dataclass(frozen=True, slots=True)
class Price:
    """What a kilowatt-hour costs in carbon, and where that figure comes from."""

    grams_per_kwh: float
    basis: str
    provider: str
    zone: str
    factor: str
    edition: str
    start: float


@dataclass(frozen=True, slots=True)
class Status:
    """One moment of one daemon. `has_zone`: a grid is configured; `price` None: it has no price now."""

    host: str
    version: str
    at: float
    started: float
    devices: tuple[Device, ...]
    workloads: tuple[Workload, ...]
    has_zone: bool
    zone: str
    price: Price | None
    troubles: tuple[str, ...]
    bad_books: bool

    @property
    def watts(self) -> float | None:
        """The power of all devices that tell theirs; None: none does."""
        known = [d.watts for d in self.devices if d.watts is not None]
        return math.fsum(known) if known else None

    @property
    def joules(self) -> float:
        """The energy of all devices since the daemon started."""
        return math.fsum(d.joules for d in self.devices)

    @property
    def grams(self) -> float | None:
        """The emissions of all devices since the daemon started; None: no zone is configured."""
        return math.fsum(d.grams or 0.0 for d in self.devices) if self.has_zone else None


def read(data: Any) -> Status:
    """Return what a reply says; raise ReadFailed(shape) when it is no status at all."""
    if not isinstance(data, dict) or _number(data.get("at")) is None or not isinstance(data.get("devices"), list):
        raise ReadFailed("the answer is not a status of wattgram", "shape")
    health = list(_rows(data.get("health")))
    devices = _in_order([_device(row, health) for row in _rows(data["devices"])])
    grid = data.get("grid")
    price = _price(grid.get("price")) if isinstance(grid, dict) else None
    bad_books = not _balances(data)
    return Status(
        host=_text(data.get("host")),
        version=_text(data.get("version")),
        at=_figure(data.get("at")),
        started=_figure(data.get("started")),
        devices=devices,
        workloads=tuple(_workload(row) for row in _rows(data.get("workloads"))),
        has_zone=isinstance(grid, dict),
        zone=_text(grid.get("zone")) if isinstance(grid, dict) else "",
        price=price,
        troubles=tuple(_troubles(data, devices, health, price)),
        bad_books=bad_books,
    )


# --- parts ------------------------------------------------------------------------------------------


def _device(row: Mapping[str, Any], health: list[Mapping[str, Any]]) -> Device:
    component, id_, index = _text(row.get("component")), _text(row.get("device")), _text(row.get("index"))
    watts, source = _number(row.get("watts")), _text(row.get("source"))
    return Device(
        component=component,
        id=id_,
        name=f"GPU {index}" if component == "gpu" and index else id_,
        model=_text(row.get("name")),
        source=source,
        method=_text(row.get("method")),
        quality=_text(row.get("quality")),
        watts=watts,
        limit_watts=_number(row.get("power_limit_watts")),
        joules=_figure(row.get("joules")),
        grams=_number(row.get("grams")),
        unmetered_seconds=_figure(row.get("unmetered_seconds")),
        utilization=_number(row.get("utilization")),
        celsius=_number(row.get("temperature_celsius")),
        read_at=_number(row.get("read_at")),
        silence="" if watts is not None else _silence(id_, source, health),
    )


def _silence(device: str, source: str, health: list[Mapping[str, Any]]) -> str:
    for row in health:
        if _text(row.get("name")) == source and row.get("kind") == "source":
            unanswered = {_text(place): _text(reason) for place, reason in _pairs(row.get("unanswered"))}
            return unanswered.get(device) or _text(row.get("error"))
    return ""


def _workload(row: Mapping[str, Any]) -> Workload:
    parts: dict[str, float] = {}
    idle = apportioned = 0.0
    masses = []
    for part in _rows(row.get("parts")):
        used, device = _figure(part.get("joules")), _text(part.get("device"))
        parts[device] = parts.get(device, 0.0) + used
        idle += used if part.get("activity") == IDLE else 0.0
        apportioned += used if part.get("quality") == "apportioned" else 0.0
        masses.append(_number(part.get("grams")))
    known = [mass for mass in masses if mass is not None]
    return Workload(
        kind=_text(row.get("kind")),
        id=_text(row.get("workload")),
        owner=_text(row.get("owner")),
        name=_text(row.get("name")),
        account=_text(row.get("account")),
        began=_figure(row.get("began")),
        seen=_figure(row.get("seen")),
        joules=math.fsum(parts.values()),
        idle_joules=idle,
        apportioned_joules=apportioned,
        grams=math.fsum(known) if known else None,
        parts=parts,
    )


def _price(row: Any) -> Price | None:
    if not isinstance(row, dict) or (value := _number(row.get("grams_per_kwh"))) is None:
        return None
    return Price(
        grams_per_kwh=value,
        basis=_text(row.get("basis")),
        provider=_text(row.get("provider")),
        zone=_text(row.get("zone")),
        factor=_text(row.get("factor")),
        edition=_text(row.get("edition")),
        start=_figure(row.get("start")),
    )


def _in_order(devices: list[Device]) -> tuple[Device, ...]:
    """Devices as people count them: by what they are, then by number."""

    def place(d: Device) -> tuple[int, int, str]:
        number = d.name.removeprefix("GPU ")
        known = COMPONENTS.index(d.component) if d.component in COMPONENTS else len(COMPONENTS)
        return known, int(number[:6]) if number.isascii() and number.isdigit() else 0, d.id

    return tuple(sorted(devices, key=place))


# --- is all well ------------------------------------------------------------------------------------


def _balances(data: Mapping[str, Any]) -> bool:
    """Whether devices, owners and prices count the same joules, as far as decimals can tell."""
    books = [data.get(name) for name in ("devices", "owners", "pricing")]
    sums = [math.fsum(_figure(row.get("joules")) for row in _rows(book)) for book in books if isinstance(book, list)]
    return max(sums) - min(sums) <= ROUNDING * max(1.0, *sums)


def _troubles(
    data: Mapping[str, Any], devices: tuple[Device, ...], health: list[Mapping[str, Any]], price: Price | None
) -> Iterator[str]:
    """What somebody should look at, as the daemon's own page says it."""
    mute = [d for d in devices if d.watts is None and SUSPENDED not in d.silence]
    if not devices:
        yield "nothing is metered"
    for d in mute:
        yield f"{d.name} does not answer{f': {d.silence}' if d.silence else ''}"
    at = _figure(data.get("at"))
    for row in health:
        name, error, kind = _text(row.get("name")), _text(row.get("error")), row.get("kind")
        last, every = _number(row.get("last_success")), _figure(row.get("every"))
        if error.startswith(PAUSED):
            yield f"{name} is paused"
        elif error and (row.get("up") is False or _figure(row.get("successes"))) and not mute:
            yield f"{name} fails: {error}"
        elif kind == "source" and last is not None and at - last > FRESH_INTERVALS * every > 0 and not mute:
            yield f"{name} is silent"
    if isinstance(data.get("grid"), dict) and price is None:
        yield "joules are unpriced"
    reload = data.get("reload")
    if isinstance(reload, dict) and reload.get("successful") is False:
        yield "the changed configuration is not taken"
    notes = data.get("notes")
    yield from (_text(note) for note in (notes if isinstance(notes, list) else [])[:3] if _text(note))


# --- nothing is believed ----------------------------------------------------------------------------


def _rows(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list, ten thousand at most."""
    if isinstance(value, list):
        yield from (row for row in value[:MOST_ROWS] if isinstance(row, dict))


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from list(value.items())[:MOST_ROWS]


def _text(value: Any) -> str:
    """A text that cannot steer a terminal: bounded, printable; empty for what is none."""
    return label(value[:LONGEST_TEXT]) if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    """A finite number of bearable size, not negative; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        return None
    return float(value)


def _figure(value: Any) -> float:
    return _number(value) or 0.0
