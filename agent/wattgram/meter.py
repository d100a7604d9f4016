"""Two readings become energy: by counter, by the driver's own samples or by trapezoid; every second is booked once.

Each device has a point in time up to which all is booked, as energy or as a gap. From there on its power is integrated
as far as it is known without a break, whatever the method: the integral bridges what a counter cannot say (a reset, an
impossible step, a standstill), checks what it does say, and stands in for it while it is not believed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

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
from wattgram.trust import Trust

# A counter moves in steps of up to 100 ms: what it shows may run ahead of the interval.
COUNTER_STEP_SECONDS = 0.2
# A counter that stands still while power is drawn, or at all where power is not known, for so long is stuck.
STUCK_SECONDS, FROZEN_SECONDS = 10.0, 60.0
# A hole in a trace is a distance of more than so many of its spacings, which takes so many points to know.
HOLE_SPACINGS, MIN_TRACE = 3.0, 3
# After these a counter does not go on: the time is unmetered at once.
FOR_GOOD = frozenset({"lost", "suspended", "paused"})


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


def is_known(trace: Sequence[object]) -> bool:
    """Whether a trace is long enough to know its spacing, and with it a hole."""
    return len(trace) >= MIN_TRACE


def plausible(sample: Sample) -> Sample:
    """Return the sample without powers that no device can draw: below 0, or above what it can draw at most.

    A glitch of a sensor (0xFFFFFFFF milliwatts) would be thousands of kilowatts in an integral.
    """
    return replace(sample, readings=tuple(_judged(reading) for reading in sample.readings))


def _judged(reading: Reading) -> Reading:
    ceiling = reading.device.max_watts or math.inf
    powers = [watts for _, watts in reading.trace]
    if all(0 <= watts <= ceiling for watts in (reading.watts or 0.0, *powers)):
        return reading
    good = reading.watts is not None and 0 <= reading.watts <= ceiling
    return replace(reading, watts=reading.watts if good else None, trace=(), events=(*reading.events, "implausible"))


@dataclass(slots=True)
class _Integral:
    """Power integrated from where all is booked up to `upto`; `joules` None: broken, nothing is known."""

    upto: float
    watts: float | None
    joules: float | None = 0.0
    method: str = "power"

    def extend(self, new: Reading, max_gap: float) -> None:
        """Carry it on to a reading: by the samples of its trace, else by a line to its power."""
        trace = [point for point in new.trace if point[0] > self.upto]
        if trace and trace[0][0] - self.upto <= max_gap:
            self.method = "samples"
            for at, watts in trace:
                self._add(watts * (at - self.upto))
                self.upto, self.watts = at, watts
            return
        seconds = new.at.mono - self.upto
        if self.watts is None or new.watts is None or seconds > max_gap:
            self.joules = None
        else:
            self._add((self.watts + new.watts) / 2 * seconds)
        self.method = "power"
        self.upto, self.watts = new.at.mono, new.watts

    def reach(self, mono: float) -> None:
        """Carry it on by what is left to an instant, at the newest power: less than a sample's length."""
        if self.watts is not None and mono > self.upto:
            self._add(self.watts * (mono - self.upto))
            self.upto = mono

    def restart(self) -> None:
        """Begin anew where it has come to."""
        self.joules, self.method = 0.0, "power"

    @property
    def microjoules(self) -> int | None:
        """What it came to; None when it was broken."""
        return None if self.joules is None else round(self.joules * MICROJOULES_PER_JOULE)

    def _add(self, joules: float) -> None:
        if self.joules is not None:
            self.joules += joules


@dataclass(slots=True)
class _Memory:
    """What the meter remembers of one device: all is booked up to `covered`.

    `seen` is when its counter was last seen standing still: it cannot have wrapped before that. `reach` is how many
    seconds the driver's own samples were seen to go back.
    """

    covered: Instant
    counted: Reading | None
    integral: _Integral
    trust: Trust
    throttled: dict[str, float] = field(default_factory=dict)
    known: bool = True
    stuck: bool = False
    reach: float = 0.0
    seen: float = 0.0
    told: str = ""

    @property
    def bridges(self) -> bool:
        """Whether a counter may yet tell what was used since."""
        return self.counted is not None and self.trust.believed

    def settle(self, at: Instant) -> None:
        """Note that all is booked up to there."""
        self.covered = at
        self.integral.upto = max(self.integral.upto, at.mono)
        self.integral.restart()


class Meter:
    """One source's memory.

    `max_gap` (seconds) bounds a line between two powers; a counter may bridge up to `bridge` seconds of failed
    readings before their time is declared unmetered.
    """

    def __init__(self, max_gap: float, bridge: float = 600.0) -> None:
        self.max_gap = max_gap
        self._bridge = bridge
        self._memories: dict[Device, _Memory] = {}

    def advance(self, sample: Sample) -> Advance:
        """Return what happened since the last sample; the first reading of a device books nothing.

        A device that was read before and is not mentioned counts as one that did not answer.
        """
        books = _Books()
        silent = dict.fromkeys(self._memories)
        for reading in sample.readings:
            silent.pop(reading.device, None)
            self._read(reading, books)
        for failure in sample.failed:
            silent.pop(failure.device, None)
            self._failed(failure, sample.at, books)
        for device in silent:
            self._failed(Failure(device, "it is not shown any more"), sample.at, books)
        return books.close()

    def missed(self, at: Instant, reason: str, event: str = "") -> Advance:
        """Return what it means that the whole source gave nothing this turn; `event` is counted of each device."""
        return self.advance(Sample(at, failed=tuple(Failure(device, reason, event) for device in self._memories)))

    def forget(self, component: str) -> None:
        """Drop what is remembered of a component that is now metered elsewhere."""
        for device in [d for d in self._memories if d.component == component]:
            del self._memories[device]

    def slept(self) -> None:
        """Note that the machine was suspended: no counter and no line reaches across."""
        for memory in self._memories.values():
            memory.counted, memory.integral.joules, memory.integral.watts = None, None, None

    def _read(self, new: Reading, books: _Books) -> None:
        memory = self._memories.get(new.device)
        if memory is None:
            self._memories[new.device] = _first(new)
            books.methods[new.device] = _method(self._memories[new.device], new)
            return
        if new.at.mono <= memory.covered.mono:
            return  # a duplicate or a late one: its time is booked already
        self._throttle(memory, new, books)
        if new.counter is None and new.watts is None and not new.trace:
            self._failed(Failure(new.device, "neither counter nor power"), new.at, books)
            return
        for kind in new.events:
            books.event(new.device, kind)
        if memory.counted is not None and memory.counted.driver != new.driver:
            memory.counted = None  # another driver's counter, begun at another value
        memory.reach = max(memory.reach, _reach(new))
        self._overrun(memory, new, books)
        if not memory.known and memory.integral.upto <= memory.covered.mono and is_known(new.trace):
            memory.integral.restart()  # the driver's samples go back to where all is booked
        memory.integral.extend(new, self.max_gap)
        if memory.counted is not None and memory.counted.at == memory.covered and new.counter and memory.trust.believed:
            self._by_counter(memory, memory.counted, new, books)
        else:
            self._by_power(memory, new, books)
        memory.known, memory.told = True, ""
        books.methods[new.device] = _method(memory, new)
        ratio = memory.trust.ratio(new.at.mono)
        if ratio is not None:
            books.crosschecks[new.device] = ratio

    def _overrun(self, memory: _Memory, new: Reading, books: _Books) -> None:
        """A ring buffer that was overwritten before it was read: what it no longer holds is unmetered."""
        trace = [at for at, _ in new.trace if at > memory.integral.upto]
        if not is_known(trace) or memory.bridges:
            return
        spacing = median(later - earlier for earlier, later in pairwise(trace))
        first = trace[0] - spacing
        if first - memory.integral.upto > HOLE_SPACINGS * spacing:
            books.gap(memory, _back(new.at, first), new.device, "older than the driver's samples reach")
            memory.integral.upto = first

    def _by_counter(self, memory: _Memory, old: Reading, new: Reading, books: _Books) -> None:
        assert old.counter is not None
        assert new.counter is not None
        seconds = new.at.mono - old.at.mono
        ceiling = new.device.max_watts
        energy = counted(old.counter, new.counter)
        if wraps_unknown(new.counter, new.at.mono - max(old.at.mono, memory.seen), ceiling):
            books.gap(memory, new.at, new.device, "longer than a wrap of its counter")
        elif energy == 0:
            self._standing_still(memory, new, books)
            return
        elif energy is None or not is_plausible(energy, seconds, ceiling):
            self._bridged(memory, old.counter, new, books)
        else:
            if new.counter.microjoules < old.counter.microjoules:
                books.event(new.device, "wrap")
            if memory.integral.microjoules is not None:
                memory.integral.reach(new.at.mono)
                memory.trust.compare(old.at.mono, new.at.mono, energy, memory.integral.microjoules)
            books.delta(memory, new.at, new.device, energy, "counter")
        memory.counted, memory.stuck = new, False

    def _standing_still(self, memory: _Memory, new: Reading, books: _Books) -> None:
        """Nothing is booked while a counter stands still: it may yet move. In the end it is called stuck."""
        drawn = memory.integral.microjoules
        if drawn == 0:  # it stands still, and rightly
            books.delta(memory, new.at, new.device, 0, "counter")
            memory.counted, memory.stuck = new, False
            return
        seconds = new.at.mono - memory.covered.mono
        if seconds < (STUCK_SECONDS if drawn else FROZEN_SECONDS) and not memory.stuck:
            memory.seen = new.at.mono
            return
        if not memory.stuck:
            books.event(new.device, "stuck")
        if drawn:
            memory.trust.doubt()
            self._by_power(memory, new, books)
        else:
            memory.stuck = True
            books.gap(memory, new.at, new.device, "its counter stands still", event=False)
            memory.counted = new

    def _bridged(self, memory: _Memory, old: Counter, new: Reading, books: _Books) -> None:
        """A counter that fell, or leapt: power bridges it; else what it gained since its restart, and a gap."""
        assert new.counter is not None
        fell = new.counter.microjoules < old.microjoules
        books.event(new.device, "reset" if fell else "implausible")
        if not fell and memory.integral.microjoules is not None:  # else nothing could ever clear it
            memory.trust.implausible(new.at.mono)
        if memory.integral.microjoules is not None:
            memory.integral.reach(new.at.mono)
            books.delta(memory, new.at, new.device, memory.integral.microjoules, memory.integral.method)
            return
        seconds = new.at.mono - memory.covered.mono
        gained = new.counter.microjoules
        # A counter that wraps does not begin at 0 again while we live: what it shows says nothing of this time.
        if fell and old.wraps_at is None and is_plausible(gained, seconds, new.device.max_watts):
            # Some of the interval is known, at its end; how long it took is at least what full power would need.
            least = gained / MICROJOULES_PER_JOULE / new.device.max_watts if new.device.max_watts else seconds / 2
            since = new.at.mono - max(least, seconds / 1000)
            if since > memory.covered.mono:
                books.gap(memory, _back(new.at, since), new.device, "the counter restarted")
            books.delta(memory, new.at, new.device, gained, "counter")
        else:
            books.gap(memory, new.at, new.device, "the counter restarted")

    def _by_power(self, memory: _Memory, new: Reading, books: _Books) -> None:
        """Book the integral, and let a counter that is not believed show whether it may be."""
        old = memory.counted
        drawn = memory.integral.microjoules
        if drawn is None:
            books.gap(memory, new.at, new.device, "no reading that a line may be drawn from", event=memory.known)
            memory.integral.upto, memory.integral.watts = new.at.mono, new.watts
        elif new.counter is None:
            books.delta(memory, _back(new.at, memory.integral.upto), new.device, drawn, memory.integral.method)
        else:
            memory.integral.reach(new.at.mono)
            drawn = memory.integral.microjoules or 0
            self._try(memory, old, new, drawn)
            books.delta(memory, new.at, new.device, drawn, memory.integral.method)
        memory.counted = new if new.counter is not None else None

    def _try(self, memory: _Memory, old: Reading | None, new: Reading, drawn: int) -> None:
        """Compare a counter that is not believed with the power of the same stretch."""
        if memory.trust.believed or old is None or old.counter is None or new.counter is None:
            return
        energy = counted(old.counter, new.counter)
        if energy is not None and old.at == memory.covered:
            memory.trust.compare(old.at.mono, new.at.mono, energy, drawn)

    def _failed(self, failure: Failure, at: Instant, books: _Books) -> None:
        books.failed.append(failure)
        memory = self._memories.get(failure.device)
        if memory is None or at.mono <= memory.covered.mono:
            return
        if failure.event and failure.event != memory.told:
            books.event(failure.device, failure.event)
            memory.told = failure.event
        patience = self._bridge if memory.bridges else max(self.max_gap, memory.reach)
        if failure.event in FOR_GOOD:
            patience = 0.0
        if memory.known and at.mono - memory.covered.mono <= patience:
            return  # a counter, or a short line, may still cover this time
        # What the driver's own samples may yet tell stays open.
        end = _back(at, at.mono - (0.0 if failure.event in FOR_GOOD else memory.reach))
        if end.mono > memory.covered.mono:
            books.gap(memory, end, failure.device, failure.reason, event=memory.known and not failure.event)
        memory.known, memory.counted = False, None
        memory.integral.joules, memory.integral.watts = None, None

    def _throttle(self, memory: _Memory, new: Reading, books: _Books) -> None:
        for reason, seconds in new.state.throttled if new.state else ():
            before = memory.throttled.get(reason, seconds)
            if seconds > before:
                books.throttles.append(Throttle(new.device, reason, seconds - before))
            memory.throttled[reason] = seconds


def _first(new: Reading) -> _Memory:
    covered = new.at
    if new.trace and new.counter is None:
        covered = _back(new.at, new.trace[-1][0])
    return _Memory(
        covered=covered,
        counted=new if new.counter is not None else None,
        integral=_Integral(covered.mono, new.watts if covered is new.at else new.trace[-1][1]),
        trust=Trust(on_trial=new.device.on_trial),
        throttled=dict(new.state.throttled) if new.state else {},
        reach=_reach(new),
    )


def _reach(new: Reading) -> float:
    """How many seconds the driver's samples of a reading go back."""
    return new.trace[-1][0] - new.trace[0][0] if new.trace else 0.0


def _method(memory: _Memory, new: Reading) -> str:
    """How a device is metered now."""
    if new.device.quality == "estimated":
        return "estimate"
    if new.counter is not None and memory.trust.believed:
        return "counter"
    return "samples" if new.trace else "power"


def _back(at: Instant, mono: float) -> Instant:
    """An instant by its monotonic time: the wall clock may have stepped, so it is counted back from a later one."""
    return Instant(mono, at.wall - (at.mono - mono))


class _Books:
    """What one sample came to, as it is being written."""

    def __init__(self) -> None:
        self.deltas: list[EnergyDelta] = []
        self.gaps: list[Gap] = []
        self.events: list[Event] = []
        self.throttles: list[Throttle] = []
        self.methods: dict[Device, str] = {}
        self.crosschecks: dict[Device, float] = {}
        self.failed: list[Failure] = []

    def delta(self, memory: _Memory, end: Instant, device: Device, microjoules: int, method: str) -> None:
        """Book energy up to `end`, by the user's calibration if there is one."""
        start = _back(end, memory.covered.mono)
        if device.quality == "estimated":
            method = "estimate"  # whatever the arithmetic, a model is a model
        if device.calibration != "none":
            offset = device.offset_watts * (end.mono - start.mono) * MICROJOULES_PER_JOULE
            microjoules = max(0, round(device.gain * microjoules + offset))
        if end.mono > start.mono:
            self.deltas.append(EnergyDelta(device, start, end, microjoules, method))
        memory.settle(end)

    def gap(self, memory: _Memory, end: Instant, device: Device, reason: str, *, event: bool = True) -> None:
        """Book time up to `end` as unmetered."""
        self.gaps.append(Gap(device, _back(end, memory.covered.mono), end, reason))
        if event:
            self.event(device, "gap")
        memory.settle(end)

    def event(self, device: Device, kind: str) -> None:
        self.events.append(Event(device, kind))

    def close(self) -> Advance:
        return Advance(
            tuple(self.deltas),
            tuple(self.gaps),
            tuple(self.events),
            tuple(self.throttles),
            tuple(self.methods.items()),
            tuple(self.crosschecks.items()),
            tuple(self.failed),
        )
