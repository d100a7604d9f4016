"""Two readings become energy: by counter or by trapezoid, with every wrap, reset and gap accounted for."""

from __future__ import annotations

from dataclasses import dataclass

from wattgram.model import (
    MICROJOULES_PER_JOULE,
    Advance,
    Counter,
    Device,
    EnergyDelta,
    Event,
    Failure,
    Gap,
    Instant,
    Reading,
    Sample,
    Throttle,
)

# A counter moves in steps of up to 100 ms (measurement notes A.7): what it shows may run ahead of the interval.
COUNTER_STEP_SECONDS = 0.2


def counted(old: Counter, new: Counter) -> int | None:
    """Microjoules between two values of one counter; None when it fell and cannot wrap: a reset."""
    if new.microjoules >= old.microjoules:
        return new.microjoules - old.microjoules
    if old.wraps_at is None:
        return None
    return new.microjoules - old.microjoules + old.wraps_at


def trapezoid(old_watts: float, new_watts: float, seconds: float) -> int:
    """Microjoules under a straight line between two powers."""
    return round((old_watts + new_watts) / 2 * seconds * MICROJOULES_PER_JOULE)


def is_plausible(microjoules: int, seconds: float, max_watts: float | None) -> bool:
    """Whether a device that draws at most `max_watts` can have used so much; unknown limits allow anything."""
    if max_watts is None:
        return True
    return microjoules <= max_watts * (seconds + COUNTER_STEP_SECONDS) * MICROJOULES_PER_JOULE


def wraps_unknown(counter: Counter, seconds: float, max_watts: float | None) -> bool:
    """Whether the counter may have wrapped more than once in that time."""
    if counter.wraps_at is None or max_watts is None:
        return False
    return seconds * max_watts * MICROJOULES_PER_JOULE >= counter.wraps_at


def method_of(reading: Reading) -> str:
    """How the next delta of this device will be obtained, as far as one reading tells."""
    if reading.device.quality == "estimated":
        return "estimate"
    return "counter" if reading.counter is not None else "power"


@dataclass(slots=True)
class _Memory:
    """What the meter remembers of one device. Every second up to `covered` is booked, as energy or as a gap."""

    covered: Instant
    counted: Reading | None
    powered: Reading | None
    throttled: dict[str, float]
    failing: bool = False


class Meter:
    """One source's memory. `max_gap` (seconds) bounds a trapezoid; a counter may bridge up to `bridge` seconds
    of failed readings before their time is declared unmetered.
    """

    def __init__(self, max_gap: float, bridge: float = 600.0) -> None:
        self._max_gap = max_gap
        self._bridge = bridge
        self._memories: dict[Device, _Memory] = {}

    def advance(self, sample: Sample) -> Advance:
        """Return what happened since the last sample; the first reading of a device books nothing."""
        books = _Books()
        for reading in sample.readings:
            self._read(reading, books)
        for failure in sample.failed:
            self._failed(failure, sample.at, books)
        return books.close()

    def missed(self, at: Instant, reason: str) -> Advance:
        """Return what it means that the whole source gave nothing this turn."""
        books = _Books()
        for device in self._memories:
            self._failed(Failure(device, reason), at, books)
        return books.close()

    def forget(self, component: str) -> None:
        """Drop what is remembered of a component that is now metered elsewhere."""
        for device in [d for d in self._memories if d.component == component]:
            del self._memories[device]

    def _read(self, new: Reading, books: _Books) -> None:
        memory = self._memories.get(new.device)
        if memory is None:
            self._memories[new.device] = _Memory(
                covered=new.at,
                counted=new if new.counter is not None else None,
                powered=new if new.watts is not None else None,
                throttled=dict(new.state.throttled) if new.state else {},
            )
            books.methods[new.device] = method_of(new)
            return
        if new.at.mono <= memory.covered.mono:
            return  # a duplicate or a late one: its time is booked already
        books.methods[new.device] = self._book(memory, new, books)
        memory.covered = new.at
        memory.failing = False
        memory.powered = new if new.watts is not None else None
        if new.counter is not None:
            memory.counted = new
        self._throttle(memory, new, books)

    def _book(self, memory: _Memory, new: Reading, books: _Books) -> str:
        """Book the stretch from `memory.covered` to `new` once, and return the method that did it."""
        old = memory.counted
        if old is not None and old.counter and new.counter and old.at == memory.covered:
            return self._by_counter(memory, old, new, books)
        return self._by_power(memory, new, books)

    def _by_counter(self, memory: _Memory, old: Reading, new: Reading, books: _Books) -> str:
        assert old.counter is not None
        assert new.counter is not None
        seconds = new.at.mono - old.at.mono
        ceiling = new.device.max_watts
        if wraps_unknown(new.counter, seconds, ceiling):
            return books.gap(memory, new, "longer than a wrap of its counter")
        energy = counted(old.counter, new.counter)
        if energy is not None and is_plausible(energy, seconds, ceiling):
            if new.counter.microjoules < old.counter.microjoules:
                books.event(new.device, "wrap")
            return books.delta(memory, new, energy, "counter")
        books.event(new.device, "reset" if energy is None or new.counter.wraps_at else "implausible")
        if self._integrable(memory, new):
            return self._by_power(memory, new, books)
        # Some of the interval is known: what the counter gained since it restarted. The rest is not.
        if energy is None and is_plausible(new.counter.microjoules, seconds, ceiling):
            books.delta(memory, new, new.counter.microjoules, "counter")
        books.gap(memory, new, "the counter restarted")
        return "counter"

    def _integrable(self, memory: _Memory, new: Reading) -> bool:
        old = memory.powered
        return (
            old is not None
            and new.watts is not None
            and old.at == memory.covered
            and new.at.mono - old.at.mono <= self._max_gap
        )

    def _by_power(self, memory: _Memory, new: Reading, books: _Books) -> str:
        old = memory.powered
        if not self._integrable(memory, new) or old is None or old.watts is None or new.watts is None:
            return books.gap(memory, new, "no reading that a line may be drawn from")
        energy = trapezoid(old.watts, new.watts, new.at.mono - old.at.mono)
        return books.delta(memory, new, energy, "power")

    def _failed(self, failure: Failure, at: Instant, books: _Books) -> None:
        memory = self._memories.get(failure.device)
        if memory is None or at.mono <= memory.covered.mono:
            return
        if not memory.failing and failure.event:
            books.event(failure.device, failure.event)
        memory.failing = True
        patience = self._max_gap if memory.counted is None else self._bridge
        if at.mono - memory.covered.mono <= patience and (memory.counted or memory.powered):
            return  # a counter, or a short line, may still cover this time
        if memory.counted or memory.powered:
            books.event(failure.device, "gap")
        books.gaps.append(Gap(failure.device, memory.covered, at, failure.reason))
        memory.covered, memory.counted, memory.powered = at, None, None

    def _throttle(self, memory: _Memory, new: Reading, books: _Books) -> None:
        for reason, seconds in new.state.throttled if new.state else ():
            before = memory.throttled.get(reason, seconds)
            if seconds > before:
                books.throttles.append(Throttle(new.device, reason, seconds - before))
            memory.throttled[reason] = seconds


class _Books:
    """What one sample came to, as it is being written."""

    def __init__(self) -> None:
        self.deltas: list[EnergyDelta] = []
        self.gaps: list[Gap] = []
        self.events: list[Event] = []
        self.throttles: list[Throttle] = []
        self.methods: dict[Device, str] = {}

    def delta(self, memory: _Memory, new: Reading, microjoules: int, method: str) -> str:
        start = _start(memory.covered, new.at)
        if new.device.quality == "estimated":
            method = "estimate"  # whatever the arithmetic, a model is a model
        self.deltas.append(EnergyDelta(new.device, start, new.at, microjoules, method))
        return method

    def gap(self, memory: _Memory, new: Reading, reason: str) -> str:
        self.gaps.append(Gap(new.device, _start(memory.covered, new.at), new.at, reason))
        if memory.counted is not None or memory.powered is not None:
            self.event(new.device, "gap")
        return method_of(new)

    def event(self, device: Device, kind: str) -> None:
        self.events.append(Event(device, kind))

    def close(self) -> Advance:
        return Advance(
            tuple(self.deltas),
            tuple(self.gaps),
            tuple(self.events),
            tuple(self.throttles),
            tuple(self.methods.items()),
        )


def _start(old: Instant, new: Instant) -> Instant:
    """Where an interval begins: the wall clock may have stepped, so it is counted back from the end."""
    return Instant(old.mono, new.wall - (new.mono - old.mono))
