"""The only shared mutable state: totals since the start, and the snapshot that readers see."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock

from wattgram import __version__
from wattgram.model import (
    UNATTRIBUTED,
    Advance,
    Charge,
    Cost,
    Device,
    Health,
    Instant,
    Reading,
    Sample,
    State,
    Workload,
)
from wattgram.ports import Clock
from wattgram.roster import Account, Bounds, Roster
from wattgram.snapshot import (
    Constants,
    DeviceTotals,
    Grid,
    OwnerKey,
    PartKey,
    PriceKey,
    Reload,
    Snapshot,
    Totals,
    WorkloadTotals,
)

# Readers who come together see one snapshot; an older one would show gauges that have expired meanwhile.
SNAPSHOT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample and all that follows from it, posted at once so that the books balance at every moment.

    `present` are the workloads that were seen, whether or not they used anything; `floors` the idle watts in use.
    """

    source: str
    every: float
    sample: Sample
    advance: Advance
    charges: tuple[Charge, ...]
    present: frozenset[Workload] = frozenset()
    floors: tuple[tuple[Device, float | None], ...] = ()


@dataclass(slots=True)
class _DeviceAccount:
    device: Device
    source: str
    every: float
    method: str = ""
    driver: str = ""
    read_at: Instant | None = None
    watts: float | None = None
    state: State | None = None
    microjoules: int = 0
    carbon: int = 0
    unmetered_seconds: float = 0.0
    events: dict[str, int] = field(default_factory=dict)
    throttled: dict[str, float] = field(default_factory=dict)
    crosscheck: float | None = None
    idle_watts: float | None = None

    def totals(self) -> DeviceTotals:
        return DeviceTotals(
            self.device,
            self.source,
            self.every,
            self.method,
            self.driver,
            self.read_at,
            self.watts,
            self.state,
            self.microjoules,
            self.carbon,
            self.unmetered_seconds,
            tuple(sorted(self.events.items())),
            tuple(sorted(self.throttled.items())),
            self.crosscheck,
            self.idle_watts,
        )


@dataclass(slots=True)
class _Account:
    microjoules: int = 0
    carbon: int = 0


def _calibrated(reading: Reading) -> float | None:
    """Power for display, by the user's calibration; its energy is calibrated where it is booked."""
    device = reading.device
    return None if reading.watts is None else max(0.0, device.gain * reading.watts + device.offset_watts)


def _undescribed(workload: Workload) -> tuple[str, str]:
    """Nothing is known of it but its name."""
    del workload
    return "", ""


class Ledger:
    """Accounts by device, by owner, by workload and by provenance of the price: views of the same joules.

    `view` says what is known of the grid at a wall time (None: no zone configured), `cost` what this process used;
    `provenances` are the (basis, factor) pairs that the chain can give, shown at 0 from the start; `bounds` limit how
    many workloads and owners are named.
    """

    def __init__(
        self,
        clock: Clock,
        view: Callable[[float], Grid] | None = None,
        cost: Callable[[], Cost | None] = lambda: None,
        provenances: Iterable[tuple[str, str]] = (("none", "none"),),
        constants: Constants | None = None,
        host: str = "",
        bounds: Bounds | None = None,
    ) -> None:
        self._clock = clock
        self._host = host
        self._view = view
        self._cost = cost
        self._provenances = tuple(provenances)
        self._constants = constants or Constants()
        self._started = clock.now()
        self._lock = Lock()
        self._devices: dict[Device, _DeviceAccount] = {}
        self._owners: dict[OwnerKey, _Account] = {}
        self._prices: dict[PriceKey, _Account] = {}
        self._roster = Roster(bounds or Bounds())
        self._describe: Callable[[Workload], tuple[str, str]] = _undescribed
        self._health: dict[tuple[str, str], Health] = {}
        self._reload: Reload | None = None
        self._notes: tuple[str, ...] = ()
        self._version = 0
        self._last: tuple[int, Snapshot] | None = None

    def post(self, entry: Entry) -> None:
        """Add one entry to the books: arithmetic only, under the one lock."""
        with self._lock:
            self._version += 1
            for reading in entry.sample.readings:
                self._show(entry, reading)
            for device, method in entry.advance.methods:
                self._devices[device].method = method
                self._devices[device].crosscheck = None
            for device, ratio in entry.advance.crosschecks:
                self._devices[device].crosscheck = ratio
            now = entry.sample.at
            self._roster.see(entry.present, now)
            for charge in entry.charges:
                self._charge(charge, now)
            self._witness(entry.advance)
            for device, watts in entry.floors:
                self._devices[device].idle_watts = watts

    def report(self, health: Health) -> None:
        """Replace what is known of how one source or provider is doing."""
        with self._lock:
            self._version += 1
            self._health[health.kind, health.name] = health

    def reprice(
        self,
        view: Callable[[float], Grid] | None,
        provenances: Iterable[tuple[str, str]],
        constants: Constants,
    ) -> None:
        """Show another grid, and open at 0 what its chain can give; what is booked stays as it is."""
        with self._lock:
            self._version += 1
            self._view, self._provenances, self._constants = view, tuple(provenances), constants
            for device in self._devices:
                self._open_prices(device)

    def bound(self, bounds: Bounds, describe: Callable[[Workload], tuple[str, str]]) -> None:
        """Keep to other bounds from now on; `describe` gives a workload's name and account for people."""
        with self._lock:
            self._version += 1
            self._roster.bounds, self._describe = bounds, describe

    def reloaded(self, reload: Reload) -> None:
        """Note how the last reading of the configuration went."""
        with self._lock:
            self._version += 1
            self._reload = reload

    def note(self, notes: tuple[str, ...]) -> None:
        """Replace the remarks that the page shows: what is not metered, and what to do about it."""
        with self._lock:
            self._version += 1
            self._notes = notes

    def snapshot(self) -> Snapshot:
        """Return the books as they stand; taking it has no effect. Readers within a second share one."""
        now = self._clock.now()
        with self._lock:
            version = self._version
            last = self._last
        if last is not None and last[0] == version and now.mono - last[1].at.mono < SNAPSHOT_SECONDS:
            return last[1]
        cost = self._cost()
        grid = self._view(now.wall) if self._view is not None else None
        with self._lock:
            if self._last is not None and self._last[1].at.mono > now.mono:
                return self._last[1]  # another reader was quicker: what it showed must not be followed by less
            snapshot = self._copy(now, grid, cost)
            self._last = (self._version, snapshot)
        return snapshot

    def _copy(self, now: Instant, grid: Grid | None, cost: Cost | None) -> Snapshot:
        return Snapshot(
            at=now,
            started=self._started,
            version=__version__,
            python=platform.python_version(),
            devices=tuple(account.totals() for account in self._devices.values()),
            owners=tuple((key, Totals(a.microjoules, a.carbon)) for key, a in self._owners.items()),
            workloads=tuple(self._workload(account) for account in self._roster.shown(now)),
            ended=tuple(self._closed(account) for account in self._roster.ended),
            overflows=self._roster.overflows,
            pricing=tuple((key, Totals(a.microjoules, a.carbon)) for key, a in self._prices.items()),
            grid=grid,
            health=tuple(self._health.values()),
            constants=self._constants,
            reload=self._reload,
            cost=cost,
            notes=self._notes,
            host=self._host,
        )

    def _show(self, entry: Entry, reading: Reading) -> None:
        account = self._devices.get(reading.device)
        if account is None:
            account = self._open(reading.device, entry)
        account.source, account.every = entry.source, entry.every  # both may change by a reload
        if account.read_at is not None and reading.at.mono <= account.read_at.mono:
            return  # a late one: what is shown is newer
        account.device = reading.device
        account.driver = reading.driver
        account.state = reading.state
        account.read_at = reading.at
        account.watts = _calibrated(reading)
        for reason, _ in reading.state.throttled if reading.state else ():
            account.throttled.setdefault(reason, 0.0)

    def _open(self, device: Device, entry: Entry) -> _DeviceAccount:
        """Open a device's account, and at 0 all that its joules will flow through, so that `increase()` sees them."""
        account = _DeviceAccount(device, entry.source, entry.every, events=dict.fromkeys(device.events, 0))
        self._devices[device] = account
        pool = UNATTRIBUTED
        self._owners.setdefault(OwnerKey(pool.kind, pool.owner, device.component, "active", device.quality), _Account())
        self._open_prices(device)
        return account

    def _open_prices(self, device: Device) -> None:
        for basis, factor in self._provenances:
            self._prices.setdefault(PriceKey(device.quality, basis, factor), _Account())

    def _charge(self, charge: Charge, now: Instant) -> None:
        share = charge.share
        delta = share.delta
        device = delta.device
        workload = self._roster.account(share.workload, gpu=device.component == "gpu", now=now)
        owner = self._roster.owner(workload)
        account = self._devices[device]
        owner_key = OwnerKey(owner.kind, owner.owner, device.component, share.activity, share.quality)
        price_key = PriceKey(device.quality, charge.basis, charge.factor)
        carbon = charge.carbon or 0
        for book in (
            account,
            self._owners.setdefault(owner_key, _Account()),
            self._prices.setdefault(price_key, _Account()),
        ):
            book.microjoules += charge.microjoules
            book.carbon += carbon
        for row in (
            workload.cells.setdefault((device.component, device.id, share.activity, share.quality), [0, 0]),
            workload.prices.setdefault((charge.basis, charge.factor), [0, 0]),
        ):
            row[0] += charge.microjoules
            row[1] += carbon

    def _closed(self, account: Account) -> WorkloadTotals:
        account.closed = account.closed or self._workload(account)
        return account.closed

    def _workload(self, account: Account) -> WorkloadTotals:
        told = self._describe(account.workload)
        if any(told):
            account.told = told  # who ended is forgotten elsewhere sooner
        name, billed = account.told
        return WorkloadTotals(
            account.workload,
            name,
            billed,
            account.born,
            account.seen,
            tuple((PartKey(*cell), Totals(*row)) for cell, row in account.cells.items()),
            tuple((price, Totals(*row)) for price, row in account.prices.items()),
        )

    def _witness(self, advance: Advance) -> None:
        for delta in advance.deltas:
            account = self._devices[delta.device]
            if account.watts is None and delta.seconds <= 3 * account.every:
                account.watts = delta.microjoules / 1e6 / delta.seconds
        for gap in advance.gaps:
            self._devices[gap.device].unmetered_seconds += gap.seconds
        for event in advance.events:
            events = self._devices[event.device].events
            events[event.kind] = events.get(event.kind, 0) + 1
        for throttle in advance.throttles:
            throttled = self._devices[throttle.device].throttled
            throttled[throttle.reason] = throttled.get(throttle.reason, 0.0) + throttle.seconds
