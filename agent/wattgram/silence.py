"""Which devices of a source do not answer, told once when it begins and once when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from wattgram.model import Advance, Device, Failure
from wattgram.ports import Clock

# A device that did not answer for so many turns is news: its power is no longer shown.
OUTAGE_TURNS = 3

log = logging.getLogger("wattgram")


@dataclass(slots=True)
class _Silence:
    """A device that does not answer: since when, in how many turns, and what was said of it (empty: nothing yet)."""

    since: float
    reason: str = ""
    turns: int = 0
    said: str = ""
    unmetered: float = 0.0


class Silences:
    """Which devices of one source do not answer; says so once each, and once when they answer again."""

    def __init__(self, source: str, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._silent: dict[Device, _Silence] = {}
        self._aloud = False
        self._turned = clock.now().mono

    def hear(self, advance: Advance, *, aloud: bool) -> None:
        """Take in one turn. Not `aloud`: no device answered, which is said of the source, not of each."""
        self._aloud = aloud
        before, self._turned = self._turned, self._clock.now().mono
        failed = {failure.device: failure for failure in advance.failed}
        for device, failure in failed.items():
            silence = self._silent.setdefault(device, _Silence(before))
            silence.reason = failure.reason
            silence.turns += 1
        for gap in advance.gaps:
            if gap.device in self._silent:
                self._silent[gap.device].unmetered += gap.seconds
        for device in [device for device in self._silent if device not in failed] if aloud else ():
            self._returned(device, self._silent.pop(device))
        for device, failure in failed.items() if aloud else ():
            silence = self._silent[device]
            if self._is_news(silence, failure):
                log.warning("%s: %s does not answer: %s", self._source, device.id, failure.reason)
                silence.said = failure.event or "silent"

    def unanswered(self) -> tuple[tuple[str, str], ...]:
        """Return each device that does not answer, with the reason, while others do."""
        return tuple((device.id, silence.reason) for device, silence in self._silent.items()) if self._aloud else ()

    def _is_news(self, silence: _Silence, failure: Failure) -> bool:
        if failure.event:
            return silence.said != failure.event
        return not silence.said and silence.turns >= OUTAGE_TURNS

    def _returned(self, device: Device, silence: _Silence) -> None:
        if silence.said:
            log.info(
                "%s: %s answers again after %.0f s, %.1f s of it not metered",
                self._source,
                device.id,
                self._clock.now().mono - silence.since,
                silence.unmetered,
            )
