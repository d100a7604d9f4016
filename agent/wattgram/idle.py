"""What a device draws while nobody uses it: given by the user, else learnt from such moments; never guessed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from wattgram.model import MICROJOULES_PER_JOULE, Activity, Device, EnergyDelta

# The floor is the 5th percentile of this many quiet moments at most, and of this many at least.
MOST, LEAST, PERCENTILE = 600, 30, 0.05
# It is worked out anew after so many more.
STEP = 10
# Processors are never quite idle: this much of their time may go to somebody.
QUIET = 0.02
# No floor is above half the power limit; a device's `max_watts` is half again that limit.
HIGHEST = 1 / 3
LEARNT_OF = frozenset({"gpu", "cpu", "module_rest"})


class Floors:
    """The idle floors of one source's devices. `given` are watts by device id, and not questioned."""

    def __init__(self, given: Mapping[str, float] | None = None) -> None:
        self.given: Mapping[str, float] = given or {}
        self._quiet: dict[Device, deque[float]] = {}
        self._counts: dict[Device, int] = {}
        self._known: dict[Device, float] = {}

    def of(self, device: Device) -> float | None:
        """Return a device's idle power in watts; None: not known."""
        given = self.given.get(device.id)
        return self._known.get(device) if given is None else given

    def learn(self, delta: EnergyDelta, activity: Activity | None, least: float = 0.0) -> None:
        """Look whether nobody used the device, and if so what it drew; less than `least` seconds do not tell."""
        device = delta.device
        if activity is None or device.component not in LEARNT_OF or not delta.seconds > least:
            return
        if not _is_quiet(activity):
            return
        watts = delta.microjoules / MICROJOULES_PER_JOULE / delta.seconds
        if device.max_watts is not None and watts > HIGHEST * device.max_watts:
            return
        quiet = self._quiet.setdefault(device, deque(maxlen=MOST))
        quiet.append(watts)
        self._counts[device] = count = self._counts.get(device, 0) + 1
        if count >= LEAST and count % STEP == 0:
            self._known[device] = sorted(quiet)[int(PERCENTILE * len(quiet))]


def _is_quiet(activity: Activity) -> bool:
    """Whether nobody used the device, as far as can be told."""
    if activity.idle is None:
        return not activity.actors and not any(p.weight for p in activity.parts) and activity.utilization == 0
    busy = activity.system + sum(actor.weight or 0.0 for actor in activity.actors)
    return busy <= QUIET * (busy + activity.idle)
