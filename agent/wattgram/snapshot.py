"""What the books say at one moment: all that an exporter ever sees."""

from __future__ import annotations

from dataclasses import dataclass

from wattgram.model import Cost, Device, Health, Instant, Intensity, State, Workload


@dataclass(frozen=True, slots=True)
class DeviceTotals:
    """One device's account: identity, how it is metered now, the newest facts, and the totals since the start.

    `watts` None: not known now. `every` is its source's interval in seconds. `idle_watts` is the idle floor in use;
    None: not known.
    """

    device: Device
    source: str
    every: float
    method: str
    driver: str
    read_at: Instant | None
    watts: float | None
    state: State | None
    microjoules: int
    carbon: int
    unmetered_seconds: float
    events: tuple[tuple[str, int], ...]
    throttled: tuple[tuple[str, float], ...]
    crosscheck: float | None = None
    idle_watts: float | None = None


@dataclass(frozen=True, slots=True, order=True)
class OwnerKey:
    """The labels of one owner's account."""

    kind: str
    owner: str
    component: str
    activity: str
    quality: str


@dataclass(frozen=True, slots=True, order=True)
class PartKey:
    """The labels of one part of a workload's account, beside those of the workload."""

    component: str
    device: str
    activity: str
    quality: str


@dataclass(frozen=True, slots=True, order=True)
class PriceKey:
    """The labels of one provenance account."""

    quality: str
    basis: str
    factor: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Energy and carbon of one account since the start."""

    microjoules: int = 0
    carbon: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadTotals:
    """One workload's account, from its first joule to its last. `name` and `account` are for people; empty: not known.

    `prices` are the same joules as `parts`, by basis and factor of their price. `began` and `seen` are when its account
    was opened and when it was last there.
    """

    workload: Workload
    name: str
    account: str
    began: Instant
    seen: Instant
    parts: tuple[tuple[PartKey, Totals], ...]
    prices: tuple[tuple[tuple[str, str], Totals], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """What is known of the grid: the zone asked for, the price in force (None: unpriced), what each provider says.

    `ahead` pairs whole hours from now with what a provider foresees for that moment.
    """

    zone: str
    factor: str
    price: Intensity | None
    known: tuple[Intensity, ...]
    ahead: tuple[tuple[int, Intensity], ...] = ()


@dataclass(frozen=True, slots=True)
class Constants:
    """Factors that a reader may multiply with, shown only when configured; never integrated."""

    pue: float | None = None
    market_grams_per_kwh: float | None = None
    price_per_kwh: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Reload:
    """Whether the configuration was last read successfully, and when (Unix seconds)."""

    successful: bool
    at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that an exporter ever sees; taking it has no effect. `grid` None: no zone is configured; `host` names this
    server for people. `ended` are the workloads that are gone, the oldest first; `overflows` counts those that found
    no place.
    """

    at: Instant
    started: Instant
    version: str
    python: str
    devices: tuple[DeviceTotals, ...] = ()
    owners: tuple[tuple[OwnerKey, Totals], ...] = ()
    workloads: tuple[WorkloadTotals, ...] = ()
    ended: tuple[WorkloadTotals, ...] = ()
    overflows: int = 0
    pricing: tuple[tuple[PriceKey, Totals], ...] = ()
    grid: Grid | None = None
    health: tuple[Health, ...] = ()
    constants: Constants = Constants()
    reload: Reload | None = None
    cost: Cost | None = None
    notes: tuple[str, ...] = ()
    host: str = ""

    @property
    def awaited(self) -> tuple[str, ...]:
        """The sources that have to give a first answer before there is something to show; none: it is ready.

        A host on which every source was tried and none is there is ready: there is something to say.
        """
        sources = [h for h in self.health if h.kind == "source"]
        if self.devices or (sources and all(h.turns for h in sources)):
            return ()
        return tuple(h.name for h in sources if not h.turns) or ("any source",)
