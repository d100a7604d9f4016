"""Whether a sample from another process can be one: the driver's library runs there, and is not believed.

What a bad library could send must not end the meter, nor fill its memory, nor blind its readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from wattgram.model import COMPONENTS, EVENTS, METHODS, QUALITIES, Device, Failure, Reading, Sample

LONGEST_TEXT, LONGEST_WORD = 8192, 32
MOST_DEVICES, MOST_POINTS, MOST_WORDS = 1024, 100_000, 64
MOST_WATTS = 1e9  # beyond any glitch of a sensor, and nothing overflows
# A reading may have waited in a pipe while this machine or process stood still; it cannot be of the future.
OLDEST, NEWEST = 3600.0, 1.0


class Soundness:
    """One source's samples, judged one by one; the devices of all its life are counted."""

    def __init__(self) -> None:
        self._devices: set[Device] = set()

    def complaint(self, sample: Sample, now: float) -> str:
        """Return what is wrong with a sample that came `now`, monotonic seconds; empty: nothing."""
        for device in self._named(sample):
            if device not in self._devices:
                if len(self._devices) >= MOST_DEVICES:
                    return f"more than {MOST_DEVICES} devices"
                self._devices.add(device)
            if wrong := _device(device):
                return f"a device with {wrong}"
        if any(wrong := _reading(reading) for reading in sample.readings):
            return f"a reading with {wrong}"
        if any(wrong := _failure(failure) for failure in sample.failed):
            return f"a failure with {wrong}"
        instants = (sample.at, *(reading.at for reading in sample.readings))
        if not all(now - OLDEST <= at.mono <= now + NEWEST and math.isfinite(at.wall) for at in instants):
            return "a time that is not of now"
        return ""

    def _named(self, sample: Sample) -> Iterator[Device]:
        yield from (reading.device for reading in sample.readings)
        yield from (failure.device for failure in sample.failed)


def _device(device: Device) -> str:
    texts = (device.id, device.name, device.index, device.pci_bus_id, device.module, device.covers)
    if device.component not in COMPONENTS or device.quality not in QUALITIES:
        return "no component or quality of ours"
    if not device.id or max(map(len, texts)) > LONGEST_TEXT:
        return "a text too long, or no name"
    if not set(device.events) <= set(EVENTS) or not {method for method, _ in device.uncertainty} <= set(METHODS):
        return "words that are none of ours"
    numbers = (device.gain, device.offset_watts, *(half for _, half in device.uncertainty))
    if not _finite(numbers) or (device.max_watts is not None and not 0 < device.max_watts < math.inf):
        return "a number that is none"
    return ""


def _reading(reading: Reading) -> str:
    state = reading.state
    numbers = [reading.at.mono, reading.at.wall, reading.watts or 0.0]
    if state is not None:
        numbers += [
            state.utilization or 0.0,
            state.temperature_celsius or 0.0,
            state.power_limit_watts or 0.0,
            *(seconds for _, seconds in state.throttled),
        ]
    if not _finite(numbers) or not _finite(number for point in reading.trace for number in point):
        return "a number that is none"
    if max(map(abs, (reading.watts or 0.0, *(watts for _, watts in reading.trace)))) > MOST_WATTS:
        return "a number that is none"
    if reading.counter is not None and reading.counter.microjoules < 0:
        return "a counter below 0"
    if len(reading.trace) > MOST_POINTS or len(reading.driver) > LONGEST_TEXT:
        return "too much of it"
    if not set(reading.events) <= set(EVENTS) or not _words(reason for reason, _ in (state.throttled if state else ())):
        return "words that are none"
    return ""


def _failure(failure: Failure) -> str:
    if len(failure.reason) > LONGEST_TEXT:
        return "too long a reason"
    return "" if not failure.event or failure.event in EVENTS else "an event that is none of ours"


def _finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))


def _words(words: Iterable[str]) -> bool:
    """Whether these can be values of a closed label: a few short words."""
    found = list(words)
    return len(found) <= MOST_WORDS and all(word.isidentifier() and len(word) <= LONGEST_WORD for word in found)
