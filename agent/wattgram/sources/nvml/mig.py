"""The MIG instances of one GPU, and what each weighs: its size times how active it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from wattgram.model import Part
from wattgram.ports import ReadFailed
from wattgram.sources.nvml.occupants import Slot

LAYOUT_SECONDS = 2.0
# Two samples closer together than this tell nothing.
LEAST_SECONDS = 0.1


class Asked(Protocol):
    """What this needs of NVML; see `occupants.Occupants`."""

    def uuid(self, handle: Any) -> str: ...  # noqa: D102
    def instances(self, handle: Any) -> tuple[Slot, ...] | None: ...  # noqa: D102
    def can_sample(self, handle: Any) -> bool: ...  # noqa: D102
    def sample(self, handle: Any, gpu_instance: int) -> Any: ...  # noqa: D102
    def free(self, sample: Any) -> None: ...  # noqa: D102
    def between(self, first: Any, second: Any) -> float | None: ...  # noqa: D102


class Instances:
    """One GPU's instances, looked for every half a minute and when one is no longer what it was."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._slots: tuple[Slot, ...] | None = None
        self._looked: float | None = None
        self._has_gpm = False
        self._samples: dict[int, tuple[float, Any]] = {}

    def layout(self, handle: Any, mono: float) -> tuple[Slot, ...] | None:
        """Return the instances; None: the GPU is not divided. Raise ReadFailed."""
        if self._looked is None or mono - self._looked >= LAYOUT_SECONDS or self._is_stale():
            self._looked = None  # a refusal leaves it to be asked again
            slots = self._asked.instances(handle)
            if slots and not self._slots:
                self._has_gpm = self._can_sample(handle)
            self._slots, self._looked = slots, mono
            for gone in set(self._samples) - {slot.gpu_instance for slot in slots or ()}:
                self._free(gone)
        return self._slots

    def active(self, handle: Any, mono: float) -> Mapping[int, float]:
        """Return which part of each GPU instance, 0 to 1, was active since the last time, where that is known."""
        found: dict[int, float] = {}
        if not self._has_gpm:
            return found
        for instance in {slot.gpu_instance for slot in self._slots or ()}:
            first = self._samples.get(instance)
            if first is not None and mono - first[0] < LEAST_SECONDS:
                continue
            with suppress(ReadFailed):
                self._samples[instance] = (mono, self._asked.sample(handle, instance))
                if (
                    first is not None
                    and (value := self._asked.between(first[1], self._samples[instance][1])) is not None
                ):
                    found[instance] = value
            if first is not None and self._samples[instance] is not first:
                with suppress(ReadFailed):
                    self._asked.free(first[1])
        return found

    def forget(self) -> None:
        """Begin anew: the GPU was reset, or was not asked for long."""
        for instance in list(self._samples):
            self._free(instance)
        self._slots, self._looked = None, None

    def _free(self, instance: int) -> None:
        with suppress(ReadFailed):
            self._asked.free(self._samples.pop(instance)[1])

    def _can_sample(self, handle: Any) -> bool:
        try:
            return self._asked.can_sample(handle)
        except ReadFailed:
            return False

    def _is_stale(self) -> bool:
        """Whether a handle no longer leads to what it led to: it does not say so itself."""
        try:
            return any(self._asked.uuid(slot.handle) != slot.uuid for slot in self._slots or ())
        except ReadFailed:
            return True


def parts(slots: Sequence[Slot], occupied: Collection[str], active: Mapping[int, float]) -> tuple[Part, ...]:
    """Return what each instance weighs: its multiprocessors times its activity.

    `occupied` are the UUIDs of those with processes, `active` is by GPU instance. Where the activity of one that is
    occupied is not known it is 1 for all that are, and 0 for the rest. Of several in one GPU instance, which share its
    activity, only those that are occupied have it.
    """
    is_known = all(slot.gpu_instance in active for slot in slots if slot.uuid in occupied)
    shared = {slot.gpu_instance for slot in slots if slot.uuid in occupied}
    weights = []
    for slot in slots:
        is_here = slot.uuid in occupied
        if not is_known:
            activity = float(is_here)
        else:
            activity = active.get(slot.gpu_instance, 0.0) if is_here or slot.gpu_instance not in shared else 0.0
        weights.append(Part(slot.uuid, slot.multiprocessors * activity))
    return tuple(weights)
