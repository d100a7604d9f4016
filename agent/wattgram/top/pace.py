"""What each workload draws now: its joules of a few seconds ago against those of now, device by device."""

from __future__ import annotations

from collections import deque

from wattgram.top.reading import Status, Workload

WINDOW_SECONDS = 5.0
MOST_KEPT = 64


class Pace:
    """Remembers a few statuses of one daemon, and tells powers by their differences."""

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        self._window = window
        self._kept: deque[Status] = deque(maxlen=MOST_KEPT)

    def add(self, status: Status) -> bool:
        """Take in a status; return whether it is news. What is of another life of the daemon, or older, begins anew."""
        if self._kept:
            newest = self._kept[-1]
            if newest.started != status.started or status.at < newest.at:
                self._kept.clear()
            elif status.at == newest.at:
                return False
        self._kept.append(status)
        while len(self._kept) > 2 and self._kept[1].at <= status.at - self._window:  # noqa: PLR2004 - a difference
            self._kept.popleft()
        return True

    def watts(self) -> dict[tuple[str, str, str], float]:
        """Return the power of each workload, over the last few seconds; who is missing has none that is known.

        A device books its joules up to when it was read: over the time between its readings the figure is exact,
        however the moments of the statuses fall between them.
        """
        if len(self._kept) < 2:  # noqa: PLR2004 - a difference
            return {}
        old, new = self._kept[0], self._kept[-1]
        before, now = _read_at(old), _read_at(new)
        spans = {device: at - before[device] for device, at in now.items() if device in before}
        earlier = {w.key: w for w in old.workloads}
        known = ((w.key, _power(w, earlier.get(w.key), old, spans)) for w in new.workloads)
        return {key: power for key, power in known if power is not None}


def _read_at(status: Status) -> dict[str, float]:
    return {d.id: d.read_at for d in status.devices if d.read_at is not None}


def _power(new: Workload, old: Workload | None, then: Status, spans: dict[str, float]) -> float | None:
    if old is None and new.began < then.at:
        return None  # it was there and not shown: since when its joules count is not known
    power = 0.0
    for device, joules in new.parts.items():
        more = joules - (old.parts.get(device, 0.0) if old else 0.0)
        span = spans.get(device, 0.0)
        if more < 0 or (more > 0 and span <= 0):
            return None
        power += more / span if more else 0.0
    return power
