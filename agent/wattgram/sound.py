"""Whether a sample from another process can be one: the driver's library runs there, and is not believed.

What a bad library could send must not end the meter, nor fill its memory, nor blind its readers.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator

from wattgram.model import COMPONENTS, EVENTS, METHODS, QUALITIES, Activity, Actor, Device, Failure, Reading, Sample

LONGEST_TEXT, LONGEST_WORD = 8192, 32
MOST_DEVICES, MOST_POINTS, MOST_WORDS = 1024, 100_000, 64
MOST_WATTS = 1e9  # beyond any glitch of a sensor, and nothing overflows
MOST_ACTIVITIES, MOST_ACTORS, MOST_PARTS = 1024, 4096, 64
LONGEST_PATH, LONGEST_PROGRAM, LONGEST_PART = 4096, 64, 128
MOST_WEIGHT, MOST_SECONDS = 1e9, 1e7
PIDS, USERS, TICKS = 1 << 32, 1 << 32, 1 << 63
# A reading may have waited in a pipe while this machine or process stood still; it cannot be of the future.
OLDEST, NEWEST = 3600.0, 1.0


class Soundness:
    """One source's samples, judged one by one; the devices of all its life are counted."""

    def __init__(self) -> None:
        self._devices: set[Device] = set()
        self._ids: set[str] = set()

    def complaint(self, sample: Sample, now: float) -> str:
        """Return what is wrong with a sample that came `now`, monotonic seconds; empty: nothing."""
        return self._devices_wrong(sample) or self._activities_wrong(sample) or _wrong(sample, now)

    def _devices_wrong(self, sample: Sample) -> str:
        for device in self._named(sample):
            if device not in self._devices:
                if len(self._devices) >= MOST_DEVICES:
                    return f"more than {MOST_DEVICES} devices"
                self._devices.add(device)
            if wrong := _device(device):
                return f"a device with {wrong}"
            self._ids.add(device.id)
        return ""

    def _activities_wrong(self, sample: Sample) -> str:
        """Only GPUs are read in another process, and who is on one is told of those that are known."""
        if len(sample.activities) > MOST_ACTIVITIES:
            return f"more than {MOST_ACTIVITIES} activities"
        if any(a.component != "gpu" or a.device not in self._ids for a in sample.activities):
            return "an activity of no GPU that is known"
        wrong = next((wrong for activity in sample.activities if (wrong := _activity(activity))), "")
        return f"an activity with {wrong}" if wrong else ""

    def _named(self, sample: Sample) -> Iterator[Device]:
        yield from (reading.device for reading in sample.readings)
        yield from (failure.device for failure in sample.failed)


def _wrong(sample: Sample, now: float) -> str:
    if any(wrong := _reading(reading) for reading in sample.readings):
        return f"a reading with {wrong}"
    if any(wrong := _failure(failure) for failure in sample.failed):
        return f"a failure with {wrong}"
    ends = (activity.end for activity in sample.activities)
    instants = (sample.at, *(reading.at for reading in sample.readings), *ends)
    if not all(now - OLDEST <= at.mono <= now + NEWEST and math.isfinite(at.wall) for at in instants):
        return "a time that is not of now"
    return ""


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


def _activity(activity: Activity) -> str:
    if len(activity.actors) > MOST_ACTORS or len(activity.parts) > MOST_PARTS:
        return "too much of it"
    seconds, began = activity.end.mono - activity.start.mono, activity.start.wall
    if not (0 <= seconds <= MOST_SECONDS and 0 < activity.every <= MOST_SECONDS and math.isfinite(began)):
        return "times that are none"
    weights = (activity.system, activity.idle, *(part.weight for part in activity.parts))
    if not all(map(_is_weight, weights)) or not _is_share(activity.utilization):
        return "a number that is none"
    parts = [part.id for part in activity.parts]
    if len(set(parts)) < len(parts) or not all(part and len(part) <= LONGEST_PART for part in parts):
        return "parts that are none, or the same"
    if len({(a.process, a.path, a.part) for a in activity.actors}) < len(activity.actors):
        return "the same actor twice"
    places = {"", *parts}
    return next((wrong for actor in activity.actors if (wrong := _actor(actor, places))), "")


def _actor(actor: Actor, places: Container[str]) -> str:
    process = actor.process
    if (process is None) == (not actor.path) or len(actor.path) > LONGEST_PATH or actor.part not in places:
        return "an actor that is nobody, or nowhere"
    if process is not None and not (0 < process.pid < PIDS and 0 <= process.started < TICKS):
        return "a process that is none"
    if not _is_weight(actor.weight) or not _is_share(actor.present):
        return "a number that is none"
    if actor.uid is not None and not 0 <= actor.uid < USERS:
        return "a user that is none"
    if len(actor.program) > LONGEST_PROGRAM or not actor.program.isprintable():
        return "a name that is none"
    return ""


def _is_weight(weight: float | None) -> bool:
    return weight is None or 0 <= weight <= MOST_WEIGHT


def _is_share(share: float | None) -> bool:
    return share is None or 0 <= share <= 1


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
