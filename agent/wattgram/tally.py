"""What one window saw of each device: whose energy it was, at what price, how fast, and for how long it was seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wattgram.model import IDLE, SYSTEM, Charge, Device, EnergyDelta, Share, Workload

# Energy that is somebody's within the window, and that of anybody else who is known.
MINE, THEIRS = Workload("window", "mine", ""), Workload("window", "theirs", "")
# The peak is the highest mean over so many seconds; older ones cannot change any more.
BIN_SECONDS, OPEN_BINS = 0.2, 3600


@dataclass(slots=True)
class DeviceTally:
    """One device's energy while the window was open: all of it, and who used it. Microjoules.

    `unknown` is what cannot be said to be anybody's; `alone`: nobody else was known to use the device.
    """

    device: Device
    whole: int = 0
    active: int = 0
    idle: int = 0
    theirs: int = 0
    unknown: int = 0
    seconds: float = 0.0
    peak_watts: float = 0.0
    edge_seconds: float = 0.0
    methods: set[str] = field(default_factory=set)
    qualities: set[str] = field(default_factory=set)
    reasons: dict[str, None] = field(default_factory=dict)

    @property
    def mine(self) -> int:
        """The window's own part."""
        return self.active + self.idle

    def add(self, delta: EnergyDelta, shares: Iterable[Share]) -> None:
        """Take in the part of a delta that lies in the window, and its division."""
        self.device = delta.device
        self.whole += delta.microjoules
        self.seconds += delta.seconds
        self.methods.add(delta.method)
        if delta.seconds >= BIN_SECONDS / 2:  # in less, a step of the counter is no power
            self.peak_watts = max(self.peak_watts, delta.microjoules / 1e6 / delta.seconds)
        for share in shares:
            self._share(share)

    def _share(self, share: Share) -> None:
        if share.workload == MINE:
            self.qualities.add(share.quality)
            if share.activity == "idle":
                self.idle += share.microjoules
            else:
                self.active += share.microjoules
        elif share.workload in (THEIRS, SYSTEM):
            self.theirs += share.microjoules
        elif share.workload != IDLE:  # unattributed, or a MIG instance in which nobody is seen
            self.unknown += share.microjoules


@dataclass(slots=True)
class Price:
    """The window's joules under one kind of price; `carbon` None: unpriced."""

    microjoules: int = 0
    carbon: int | None = None


class Tally:
    """All that a window saw. `start` is its first moment on the monotonic clock."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._bins: dict[int, int] = {}
        self._closed_peak = 0
        self.devices: dict[Device, DeviceTally] = {}
        self.prices: dict[tuple[str, str], Price] = {}

    @property
    def microjoules(self) -> int:
        """The window's own energy."""
        return sum(device.mine for device in self.devices.values())

    def of(self, device: Device) -> DeviceTally:
        """Return a device's account."""
        return self.devices.setdefault(device, DeviceTally(device))

    def add(self, delta: EnergyDelta, shares: tuple[Share, ...]) -> None:
        """Take in the part of a delta that lies in the window, and its division."""
        self.of(delta.device).add(delta, shares)
        mine = sum(share.microjoules for share in shares if share.workload == MINE)
        if mine:
            self._spread(delta.start.mono - self._start, delta.end.mono - self._start, mine)

    def pay(self, charges: Iterable[Charge]) -> None:
        """Take in what the window's own energy costs."""
        for charge in charges:
            price = self.prices.setdefault((charge.basis, charge.factor), Price())
            price.microjoules += charge.microjoules
            if charge.carbon is not None:
                price.carbon = (price.carbon or 0) + charge.carbon

    def peak_watts(self, seconds: float) -> float:
        """Return the highest mean power over a bin, or over all of a window of so many `seconds` that is shorter."""
        if seconds <= BIN_SECONDS:
            return self.microjoules / 1e6 / seconds if seconds > 0 else 0.0
        last = int(seconds / BIN_SECONDS)  # cut off by the window's end: its mean says little
        open_peak = max((energy for index, energy in self._bins.items() if index < last), default=0)
        return max(self._closed_peak, open_peak) / 1e6 / BIN_SECONDS

    def _spread(self, start: float, end: float, microjoules: int) -> None:
        """Lay energy into the bins that it lies across."""
        first, last = int(start / BIN_SECONDS), int(end / BIN_SECONDS)
        if last - first > OPEN_BINS:  # a long bridge: its mean is no peak
            return
        for index in range(first, last + 1):
            inside = min(end, (index + 1) * BIN_SECONDS) - max(start, index * BIN_SECONDS)
            if inside > 0:
                self._bins[index] = self._bins.get(index, 0) + round(microjoules * inside / (end - start))
        while len(self._bins) > OPEN_BINS:
            oldest = next(iter(self._bins))  # they come in the order of time, near enough
            self._closed_peak = max(self._closed_peak, self._bins.pop(oldest))
