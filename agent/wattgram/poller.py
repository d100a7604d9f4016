"""The only loop: a schedule without drift, skipped ticks, health, and a log line per change."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Thread

from wattgram.model import Health
from wattgram.ports import Clock, Paused, ReadFailed, Unavailable

REOPEN_SECONDS = 600.0
OUTAGE_INTERVALS = 3

log = logging.getLogger("wattgram")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait after the n-th failure in a row: `first` seconds, doubling up to `most`."""

    first: float
    most: float

    def seconds(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 16))


# What was there and went, a driver being replaced, say, is looked for sooner.
GONE = Patience(5, 60)


class Poller:
    """Calls `turn` every `every` seconds until told to stop.

    A turn may return the seconds after which it would like the next one, if that is sooner than the next tick. It may
    raise ReadFailed (next time may work), Unavailable (asked again in ten minutes) or Paused; anything else is a
    bug and ends the process. `patience` says per reason how long to hold off after failures; a reason that is not
    in it waits for the next tick. `jitter` is the largest part of an interval by which a turn may come late.
    `missing` is told when a plug that the user asked for by name is not there at all. `observe` adds to a
    turn's health what only the plug knows. `pulse` is called after each turn and, while waiting, every
    `pulse_seconds`: whoever hears it knows that the loop is alive. The loop begins when that of `after` has ended.
    """

    def __init__(
        self,
        health: Health,
        turn: Callable[[], float | None],
        clock: Clock,
        report: Callable[[Health], None],
        *,
        patience: Mapping[str, Patience] | None = None,
        jitter: float = 0.0,
        chance: Callable[[], float] = random.random,
        missing: Callable[[Unavailable], None] | None = None,
        observe: Callable[[Health], Health] = lambda health: health,
        pulse: Callable[[], None] = lambda: None,
        pulse_seconds: float | None = None,
        after: Poller | None = None,
    ) -> None:
        self.health = health
        self.began = -math.inf  # the last turn that has ended, on the monotonic clock
        self._turn = turn
        self._clock = clock
        self._report = report
        self._patience = patience or {}
        self._jitter = jitter
        self._chance = chance
        self._missing = missing
        self._observe = observe
        self._pulse = pulse
        self._after = after
        self._pulse_seconds = math.inf if pulse_seconds is None else pulse_seconds
        self._in_a_row = 0
        self._away = 0
        self._required = health.up is not None
        self._failing = False
        self._failing_since: float | None = None
        self._said: set[str] = set()
        self._empties = 0
        self._not_before = -math.inf
        self._wish: float | None = None
        self._stopping = False
        self._last_turn: Callable[[], None] | None = None
        self._every = health.every
        self._bell = clock.bell()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Run the loop in a daemon thread of its own."""
        self._thread = Thread(target=self.run, name=self.health.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the loop to end; it is not waited for."""
        self._stopping = True
        self._bell.ring()

    def join(self) -> None:
        """Wait until the loop has ended, however long that takes."""
        if self._thread is not None:
            self._thread.join()

    def retire(self, last: Callable[[], None]) -> None:
        """End the loop for good, and let its own thread do what is `last` to be done."""
        self._last_turn = last
        self.stop()

    def wake(self, every: float | None = None) -> None:
        """Turn now, whatever was being waited for; from now on at another interval, if one is given."""
        self._every = every or self._every
        self._not_before = -math.inf
        self._bell.ring()

    def run(self) -> None:
        """Turn until stopped, on multiples of the interval since the start; ticks that were missed are skipped."""
        start, tick, every, woken = self._clock.now().mono, 0, 0.0, False
        while not self._stopping:
            if woken or every != self._every:  # the schedule begins anew: a turn between two ticks is none of them
                start, tick, every = self._clock.now().mono, 0, self._every
                self.health = replace(self.health, every=every)
            self.turn()
            self._pulse()
            now = self._clock.now().mono
            tick = max(tick + 1, math.ceil((max(now, self._not_before) - start) / every))
            late = self._jitter * self._chance() * every
            wait = start + tick * every + late - now
            if self._failing and self._not_before > now:  # a failure's patience keeps no schedule
                wait = self._not_before - now
            elif self._wish is not None and self._wish < wait:
                wait, tick = self._wish, tick - 1
            woken = self._sleep(wait)
        if self._last_turn is not None:
            self._last_turn()

    def _succeed(self) -> None:
        """Wait until the loop before this one has ended, and go on counting where it stopped."""
        if self._after is None:
            return
        self._after.join()
        old, fresh = self._after.health, self.health
        self.health = replace(old, every=fresh.every, up=fresh.up, error="", remedy="", unanswered=())
        self._after = None

    def _sleep(self, seconds: float) -> bool:
        """Wait, with a pulse now and then; return whether it was cut short."""
        left = max(0.0, seconds)
        while not self._bell.wait(min(left, self._pulse_seconds)):
            left -= self._pulse_seconds
            if left <= 0:
                return False
            self._pulse()
        return True

    def require(self, *, required: bool) -> None:
        """Have it known from now on whether the plug was asked for by name; its absence is shown, and ends nothing."""
        self._missing, self._required = None, required
        self.wake()

    def turn(self) -> None:
        """Take one turn and book how it went."""
        self._succeed()
        before = self._clock.now()
        try:
            self._wish = None
            self._wish = self._turn()
        except Unavailable as missing:
            self._unavailable(missing)
        except Paused as pause:
            self._paused(pause)
        except ReadFailed as failure:
            self._failed(failure)
        else:
            self._succeeded()
        self.began = before.mono
        spent = self._clock.now().mono - before.mono
        health = replace(self.health, turns=self.health.turns + 1, seconds=self.health.seconds + spent)
        self.health = self._observe(health)
        if self._last_turn is None:  # else somebody else goes on counting
            self._report(self.health)

    def _succeeded(self) -> None:
        now = self._clock.now()
        if self._failing_since is not None:
            log.info("%s recovered after %.0f s", self.health.name, now.mono - self._failing_since)
        elif self.health.last_success is None and self.health.kind == "source":  # a provider says what it prices with
            log.info("%s answers", self.health.name)
        self._failing_since, self._not_before = None, -math.inf
        self._failing, self._empties, self._in_a_row, self._away = False, 0, 0, 0
        self._said.clear()
        successes = self.health.successes + 1
        self.health = replace(self.health, up=True, last_success=now, error="", remedy="", successes=successes)

    def _unavailable(self, missing: Unavailable) -> None:
        self._in_a_row, self._away = 0, self._away + 1
        was_here = self.health.last_success is not None
        wait = GONE.seconds(self._away) if was_here else REOPEN_SECONDS
        self._not_before = self._clock.now().mono + wait
        if self._missing is not None and self.health.last_success is None:
            self._missing(missing)
        else:
            level = logging.WARNING if was_here else logging.INFO
            self._log_change(str(missing), str(missing), level, missing.remedy)
        up = False if was_here or self._required else None
        self.health = replace(self.health, up=up, error=str(missing), remedy=missing.remedy)

    def _paused(self, pause: Paused) -> None:
        self._not_before = -math.inf
        if self.health.error != str(pause):  # another pause than the last one
            self._said.discard("paused")
        self._log_change("paused", str(pause), logging.INFO)
        up = False if self._required or self.health.last_success is not None else None
        self.health = replace(self.health, up=up, error=str(pause), remedy="wattgram resume")

    def _failed(self, failure: ReadFailed) -> None:
        now = self._clock.now().mono
        self._not_before = now + (failure.retry_after or 0.0)
        if failure.reason == "empty":
            self._empty(failure)
            return
        self._in_a_row += 1
        patience = self._patience.get(failure.reason)
        hold = patience.seconds(self._in_a_row) if patience else 0.0
        hold *= 1 + self._jitter * self._chance()
        self._not_before = now + max(hold, failure.retry_after or 0.0)
        self._log_change(failure.reason, str(failure), logging.WARNING)
        failures = dict(self.health.failures)
        failures[failure.reason] = failures.get(failure.reason, 0) + 1
        self.health = replace(
            self.health, up=False, error=str(failure), remedy="", failures=tuple(sorted(failures.items()))
        )

    def _empty(self, failure: ReadFailed) -> None:
        """An empty answer delays, it is no failure; several in a row are news."""
        self._empties += 1
        if self._empties >= OUTAGE_INTERVALS:
            self._log_change("empty", f"no value for {self._empties} turns: {failure}", logging.WARNING)
            self.health = replace(self.health, error=str(failure))

    def _log_change(self, kind: str, error: str, level: int, remedy: str = "") -> None:
        """Say each kind of trouble once in an outage."""
        if kind not in self._said:
            log.log(level, "%s: %s%s", self.health.name, error, f"; {remedy}" if remedy else "")
        self._said.add(kind)
        self._failing = True
        if self._failing_since is None and self.health.last_success is not None:
            self._failing_since = self._clock.now().mono
