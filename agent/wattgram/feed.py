"""What a poller turns: a source that is opened, read and given to the accountant, or a provider to the tariff."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from threading import Lock

from wattgram.accountant import Accountant
from wattgram.meter import Meter
from wattgram.model import Device, Health, Instant, Intensity, Reading, Sample
from wattgram.ports import Asking, Clock, Costly, Paused, Provider, ReadFailed, Source, Unavailable
from wattgram.silence import Silences
from wattgram.tariff import Tariff

# A value for a new interval is asked for this long after the old one's end, up to twice as long by chance.
NEWS_SECONDS = 5.0
# A provider that nobody needs now looks this often whether somebody does.
IDLE_SECONDS = 30.0
# What several sources may meter or model.
CONTESTED = frozenset({"cpu", "dram"})
# How old, in its source's intervals, the power of a module's processor may be for the module's rest to be known.
REST_INTERVALS = 3
# A line may be drawn between readings so many intervals apart.
GAP_INTERVALS = 3
# A machine whose clocks differ by more than this since the last turn was suspended meanwhile.
SLEPT_SECONDS = 1.0
# How often it is looked who is there where nothing is to be shared out: an account ends when nobody is.
SELDOM_SECONDS = 10.0

log = logging.getLogger("wattgram")


class Claims:
    """Which source keeps the account of processors and memory: for each the first in `order` that delivers it.

    Nothing is decided about a component until every source before the asking one has had its first outcome, so that
    a model never books a joule that a meter is about to.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._order = tuple(order)
        self._left: set[str] = set()
        self._lock = Lock()
        self._delivers: dict[str, frozenset[str]] = {}
        self._modules: dict[tuple[str, str], tuple[float, float]] = {}

    def outcome(self, source: str, readings: Sequence[Reading]) -> None:
        """Note what a source delivers, and what it finds drawn in each Grace module; nothing, when it failed."""
        delivered = frozenset[str]().union(*(_claimed(r.device) for r in readings))
        with self._lock:
            self._delivers[source] = self._delivers.get(source, frozenset()) | delivered
            for reading in readings:
                if reading.device.component == "cpu" and reading.device.module and reading.watts is not None:
                    self._modules[source, reading.device.module] = (reading.at.mono, reading.watts)

    def reorder(self, order: Sequence[str]) -> None:
        """Take up another order; what a source delivered that is in it no more is forgotten."""
        with self._lock:
            self._left = (self._left | set(self._order)) - set(order)
            self._order = tuple(order)
            self._delivers = {name: found for name, found in self._delivers.items() if name in self._order}
            self._modules = {key: drawn for key, drawn in self._modules.items() if key[0] in self._order}

    def withdraw(self, source: str) -> None:
        """Note that a source is not there (any more)."""
        with self._lock:
            self._delivers[source] = frozenset()
            self._modules = {key: drawn for key, drawn in self._modules.items() if key[0] != source}

    def kept_by_others(self, source: str) -> frozenset[str]:
        """Return the components that some other source delivers."""
        with self._lock:
            others = (delivered for name, delivered in self._delivers.items() if name != source)
            return frozenset[str]().union(*others)

    def keeps(self, source: str, component: str) -> bool:
        """Whether this source's readings of this component are booked."""
        if component not in CONTESTED:
            return True
        with self._lock:
            if source not in self._order:
                return source not in self._left
            for earlier in self._order[: self._order.index(source)]:
                delivered = self._delivers.get(earlier)
                if delivered is None or component in delivered:
                    return False
        return True

    def is_shared_out(self, source: str) -> bool:
        """Whether any other source meters processors or memory, or may yet turn out to."""
        with self._lock:
            return any(self._delivers.get(name) != frozenset() for name in self._order if name != source)

    def less_what_is_metered(self, rest: Reading, max_age: float) -> Reading | None:
        """Return the rest of a Grace module less the processors metered in it; None while one of those is unknown."""
        watts = rest.watts or 0.0
        with self._lock:
            for (_, module), (at, drawn) in self._modules.items():
                if module == rest.device.module:
                    if rest.at.mono - at > max_age:
                        return None
                    watts -= drawn
        events = (*rest.events, "clamp") if watts < 0 and "clamp" not in rest.events else rest.events
        return replace(rest, watts=max(0.0, watts), events=events)


def _claimed(device: Device) -> frozenset[str]:
    """The contested components that a device's meter sees."""
    covers = frozenset(device.covers.split("+"))
    return (frozenset({device.component}) | covers) & CONTESTED


class SourceFeed:
    """One source's turn: open it if need be, read it, and give the accountant what this source keeps.

    One that only says who uses what others meter (`meters` false) is read seldom while nobody meters that.

    `pause`, `resume` and `switch` are called from other threads; the turn does what they ask.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], Source],
        accountant: Accountant,
        meter: Meter,
        claims: Claims,
        clock: Clock,
        every: float = 1.0,
        *,
        meters: bool = True,
    ) -> None:
        self._name = name
        self._opener = opener
        self._accountant = accountant
        self._meter = meter
        self._claims = claims
        self._clock = clock
        self._every = every
        self._meters = meters
        self._looked = -math.inf
        self._is_seldom = self._rested = False
        self._last: Instant | None = None
        self._given_up: set[str] = set()
        self._asleep = clock.asleep()
        self._silences = Silences(name, clock)
        self._counted = 0.0
        self._pause: Paused | None = None
        self._pause_ends = math.inf
        self._next: tuple[Callable[[], Source], float] | None = None
        self._costly: Costly | None = None
        self.source: Source | None = None

    def __call__(self) -> None:
        """Take one turn; raise Unavailable, ReadFailed or Paused."""
        asleep = self._clock.asleep()
        if asleep - self._asleep > SLEPT_SECONDS:
            self._meter.slept()
        self._asleep = asleep
        self._rest_if_told()
        self._change_if_told()
        try:
            if self.source is None:
                self.source = self._opener()
                self._costly = self.source if isinstance(self.source, Costly) else None
                self._counted = 0.0
            self._rested = self._is_resting()
            if self._rested:
                return
            sample = self.source.read()
            self._looked = self._clock.now().mono
        except Unavailable as missing:
            self._claims.withdraw(self._name)
            self._lost(str(missing))
            raise
        except ReadFailed as failure:
            self._claims.outcome(self._name, ())
            self._miss(str(failure))
            raise
        self._claims.outcome(self._name, sample.readings)
        advance = self._accountant.receive(self._kept(sample))
        self._silences.hear(advance, aloud=bool(sample.readings))
        if sample.failed and not sample.readings:
            raise ReadFailed(sample.failed[0].reason, "timeout")

    def observe(self, health: Health) -> Health:
        """Add which devices do not answer, and what the source's own processes used since the last time.

        A turn in which it was not read gave no sample; one that is read seldom is expected as seldom.
        """
        if self._rested:
            health = replace(health, successes=health.successes - 1, last_success=self._last)
        if not self._meters:
            health = replace(health, every=max(self._every, SELDOM_SECONDS if self._is_seldom else 0.0))
        self._rested, self._last = False, health.last_success
        health = replace(health, unanswered=self._silences.unanswered())
        now = self._costly.cost() if self._costly is not None else None
        if now is None:  # what was used stays used; memory is held no more
            return replace(health, child=health.child and replace(health.child, resident_bytes=0))
        before = health.child.cpu_seconds if health.child else 0.0
        used, self._counted = now.cpu_seconds - self._counted, now.cpu_seconds
        return replace(health, child=replace(now, cpu_seconds=before + max(0.0, used)))

    def pause(self, until: Instant | None) -> None:
        """Let go of the hardware from the next turn on, until a moment or `resume`."""
        when = f"until {datetime.fromtimestamp(until.wall, tz=timezone.utc):%H:%M:%S} UTC" if until else "until resumed"
        self._pause_ends = until.mono if until else math.inf
        self._pause = Paused(f"paused {when}: the driver is let go of, and no GPU is metered")

    def resume(self) -> None:
        """Take the hardware up again at the next turn."""
        self._pause = None

    def switch(self, opener: Callable[[], Source], every: float) -> None:
        """From the next turn on read another way; the meter's memory stays, and the old way is read once more."""
        self._next = (opener, every)

    def retire(self) -> None:
        """Read once more, and let go for good: the source is switched off."""
        if self.source is not None:
            with suppress(ReadFailed, Unavailable, Paused):
                self()
        self._claims.withdraw(self._name)
        self.close()

    def close(self) -> None:
        """Let go of the source."""
        source, self.source, self._costly = self.source, None, None
        if source is not None:
            source.close()

    def _rest_if_told(self) -> None:
        """Raise Paused while the user wants the hardware left alone."""
        pause = self._pause
        if pause is None:
            return
        if self._clock.now().mono >= self._pause_ends:
            self._pause = None
            return
        self.close()
        self._claims.outcome(self._name, ())
        self._miss("paused", event="paused")
        raise pause

    def _is_resting(self) -> bool:
        """Whether nothing is to be shared out, and who is there was looked at lately."""
        self._is_seldom = not self._meters and not self._claims.is_shared_out(self._name)
        return self._is_seldom and self._clock.now().mono - self._looked < SELDOM_SECONDS

    def _change_if_told(self) -> None:
        change, self._next = self._next, None
        if change is None:
            return
        if self.source is not None:
            with suppress(ReadFailed, Unavailable):
                sample = self.source.read()
                self._claims.outcome(self._name, sample.readings)
                self._accountant.receive(self._kept(sample))
            self.close()
        self._opener, self._every = change
        self._meter.max_gap = GAP_INTERVALS * self._every
        self._accountant.every = self._every

    def _miss(self, reason: str, event: str = "") -> None:
        advance = self._accountant.missed(self._clock.now(), reason, event)
        self._silences.hear(advance, aloud=False)

    def _lost(self, reason: str) -> None:
        self.close()
        for component in self._claims.kept_by_others(self._name):
            self._meter.forget(component)  # should it return, it must not book what the other has booked
        self._miss(reason)

    def _kept(self, sample: Sample) -> Sample:
        """The sample without what another source meters."""
        components = {r.device.component for r in sample.readings} | {f.device.component for f in sample.failed}
        others = {c for c in components if not self._claims.keeps(self._name, c)}
        for component in others - self._given_up:
            self._meter.forget(component)
        self._given_up = others
        kept = (self._rest(r) for r in sample.readings if r.device.component not in others)
        return replace(
            sample,
            readings=tuple(r for r in kept if r is not None),
            failed=tuple(f for f in sample.failed if f.device.component not in others),
        )

    def _rest(self, reading: Reading) -> Reading | None:
        if reading.device.component != "module_rest":
            return reading
        return self._claims.less_what_is_metered(reading, REST_INTERVALS * self._every)


class ProviderFeed:
    """One provider's turn: fetch, teach the tariff, and keep the answer for after a restart."""

    def __init__(
        self,
        name: str,
        provider: Provider,
        tariff: Tariff,
        clock: Clock,
        keep: Callable[[str, Sequence[Intensity]], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._counted = 0
        self._name = name
        self._provider = provider
        self._tariff = tariff
        self._clock = clock
        self._keep = keep
        self._chance = chance
        self._said = ""

    def __call__(self) -> float | None:
        """Take one turn and return how soon there will be news: a little after the newest value's own end.

        Raise ReadFailed.
        """
        if self._tariff.is_priced_before(self._name, self._clock.now().wall):
            return IDLE_SECONDS  # nobody needs its word: it is not asked
        fetched = self._provider.fetch()
        now = self._clock.now().wall
        self._tariff.learn(self._name, fetched, now)
        self._keep(self._name, fetched)
        self._tell(fetched)
        end = max((i.end for i in fetched if i.basis != "forecast"), default=now)
        return end - now + NEWS_SECONDS * (1 + self._chance()) if end > now else None

    def observe(self, health: Health) -> Health:
        """Add how often the provider asked since the last time."""
        provider: object = self._provider
        if not isinstance(provider, Asking):
            return health
        asked, self._counted = provider.requests() - self._counted, provider.requests()
        return replace(health, requests=health.requests + asked)

    def _tell(self, fetched: Sequence[Intensity]) -> None:
        """Log what a provider's figures are, when that changes; not the figures."""
        for i in [i for i in fetched if i.basis != "forecast"][-1:]:
            said = f"{i.zone}, {i.basis}, {i.factor}, {i.boundary}; {i.source}"
            if said != self._said:
                log.info("%s prices with %g g/kWh: %s", self._name, i.grams_per_kwh, said)
            self._said = said

    def close(self) -> None:
        """Let go of the provider's connections."""
        self._provider.close()
