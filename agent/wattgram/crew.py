"""Who is at work: one poller for each source and each provider; hired, changed and dismissed as configured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wattgram import registry
from wattgram.accountant import Accountant, Desk, Witness
from wattgram.activity import Board
from wattgram.cache import Cache
from wattgram.config import Config, state_directory
from wattgram.feed import GAP_INTERVALS, Claims, ProviderFeed, SourceFeed
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Health, Instant, Intensity
from wattgram.names import Names
from wattgram.plan import Link, chain, enabled_sources, interval, open_namers, source_opener, wanted_namers
from wattgram.poller import Patience, Poller
from wattgram.ports import Clock, Place, Unavailable
from wattgram.roster import Bounds
from wattgram.snapshot import Constants
from wattgram.systemd import Watchdog
from wattgram.tariff import Tariff

# A periodic load, such as a training step, must not fall into step with our readings.
SAMPLING_JITTER = 0.1
PROVIDER_JITTER = 0.1
# However many ask for it, a source is not read more often, in seconds; and how long to look away while it reads.
LEAST_APART, WAIT_SECONDS = 0.02, 0.001
PROVIDER_PATIENCE = {
    "auth": Patience(900, 900),
    "plan": Patience(3600, 86_400),
    "zone": Patience(3600, 86_400),
    "rate": Patience(60, 1800),
    "quota": Patience(3600, 3600),
    "server": Patience(30, 900),
    "timeout": Patience(30, 900),
    "shape": Patience(60, 900),
}


log = logging.getLogger("wattgram")


@dataclass(slots=True)
class _Hand:
    """One source at work; `order` is what it was told: options and interval."""

    poller: Poller
    feed: SourceFeed
    accountant: Accountant
    order: tuple[Any, float]


class Crew:
    """The pollers of one daemon. `not_there` is told when a source asked for by name is missing at the start."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        environ: Mapping[str, str],
        ledger: Ledger,
        watchdog: Watchdog,
        not_there: Callable[[str, Unavailable], None],
        witness: Witness | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._environ = environ
        self._ledger = ledger
        self._watchdog = watchdog
        self._not_there = not_there
        self._witness = witness
        links, remarks = chain(config)
        namers, unnamed = open_namers(config, clock)
        self._unnamed = unnamed
        self._is_one_wanting = len(namers) < wanted_namers(config)
        self.remarks = (*remarks, *unnamed)
        self._names = Names(namers, clock, Path(config.attribution.proc))
        self._board = Board()
        self._ledger.bound(bounds(config), self._names.describe)
        self.tariff = tariff_of(config, links)
        self._claims = Claims(tuple(enabled_sources(config)))
        self._providers: dict[str, tuple[Poller, ProviderFeed]] = {}
        self._links = links
        self._leaving: dict[str, Poller] = {}
        self._pause: tuple[Instant | None] | None = None
        self._sources = {name: self._hire(name, config) for name in enabled_sources(config)}
        self._reprice(config, links)

    @property
    def feeds(self) -> dict[str, SourceFeed]:
        """The sources' feeds by name."""
        return {name: hand.feed for name, hand in self._sources.items()}

    def start(self, *, stays: bool = True) -> None:
        """Set all to work; a command that does not stay leaves the daemon's cache to the daemon."""
        self._engage_providers(self._config, self._links, stays=stays)
        self._watchdog.watch(self._sources)
        pollers = [*(poller for poller, _ in self._providers.values()), *(h.poller for h in self._sources.values())]
        for poller in pollers:  # what is waited for is known before anybody can ask whether we are ready
            self._ledger.report(poller.health)
        for poller in pollers:
            poller.start()

    def learn_prices(self) -> None:
        """Ask every provider once, for a command that does not stay, and leave the daemon's cache to the daemon."""
        self._engage_providers(self._config, self._links, stays=False)
        for poller, _ in self._providers.values():
            poller.turn()

    def adopt(self, config: Config) -> list[str]:
        """Work by another configuration; return what changed. Raise ConfigError, and then nothing has changed.

        What is configured as before keeps running; a source told otherwise is read once more, closed and reopened,
        and its meter remembers.
        """
        links, remarks = chain(config)
        changed = [*self._adopt_names(config), *self._adopt_sources(config)]
        if _carbon_of(config) != _carbon_of(self._config):
            changed.append("carbon")
            self._adopt_carbon(config, links)
        self.remarks = (*remarks, *self._unnamed)
        self._config = config
        return changed

    def pause(self, until: Instant | None) -> None:
        """Let go of every driver that a process of its own holds, until a moment or `resume`."""
        self._pause = (until,)
        for hand in self._holding_drivers():
            hand.feed.pause(until)
            hand.poller.wake()

    def resume(self) -> None:
        """Take the drivers up again."""
        self._pause = None
        for hand in self._holding_drivers():
            hand.feed.resume()
            hand.poller.wake()

    def read_now(self, seconds: float) -> None:
        """Have every source that is well read at once, and wait for it, but no longer than so many seconds."""
        asked, bell = self._clock.now().mono, self._clock.bell()
        pollers = [hand.poller for hand in list(self._sources.values())]
        well = [poller for poller in pollers if poller.health.up and not poller.health.error]
        if any(asked - poller.began < LEAST_APART for poller in well):
            bell.wait(min(seconds, LEAST_APART))
        for poller in well:
            if poller.began < asked:
                poller.wake()
        while any(poller.began < asked for poller in well) and self._clock.now().mono - asked < seconds:
            bell.wait(WAIT_SECONDS)

    def stop(self) -> None:
        """Ask all to end, and wait for nobody."""
        for poller, _ in self._providers.values():
            poller.stop()
        for hand in self._sources.values():
            hand.poller.stop()

    def close(self) -> None:
        """Let go of the hardware."""
        for hand in self._sources.values():
            hand.feed.close()
        self._names.close()

    # --- names ----------------------------------------------------------------------------------

    def _desk(self, config: Config) -> Desk:
        return Desk(self._board, self._names, config.attribution.idle_watts, self._witness)

    def _adopt_names(self, config: Config) -> Iterator[str]:
        """Name by another configuration; yield in words what is configured otherwise now."""
        proc = config.attribution.proc
        if config.namers != self._config.namers or proc != self._config.attribution.proc or self._is_one_wanting:
            namers, self._unnamed = open_namers(config, self._clock)
            self._is_one_wanting = len(namers) < wanted_namers(config)
            self._names.adopt(namers, Path(proc))
            yield "workloads"
        if config.attribution != self._config.attribution:
            self._ledger.bound(bounds(config), self._names.describe)
            for hand in self._sources.values():
                hand.accountant.seat(self._desk(config))
            yield "attribution"

    # --- sources --------------------------------------------------------------------------------

    def _hire(self, name: str, config: Config, *, at_start: bool = True) -> _Hand:
        every = interval(name, config)
        meter = Meter(max_gap=GAP_INTERVALS * every)
        accountant = Accountant(name, every, meter, self.tariff, self._ledger, self._desk(config))
        opener = source_opener(name, config, self._clock, self._environ)
        required = bool(config.sources[name].enabled)
        health = Health(name, "source", every, up=False if required else None)
        meters = registry.SOURCES[name].meters
        feed = SourceFeed(name, opener, accountant, meter, self._claims, self._clock, every, meters=meters)
        if self._pause is not None and registry.SOURCES[name].isolated:
            feed.pause(*self._pause)
        poller = Poller(
            health,
            feed,
            self._clock,
            self._ledger.report,
            jitter=SAMPLING_JITTER,
            missing=partial(self._not_there, name) if required and at_start else None,
            observe=feed.observe,
            pulse=partial(self._watchdog.hear, name),
            pulse_seconds=self._watchdog.every,
            after=self._leaving.pop(name, None),  # one of a kind at a time: two would book the same seconds
        )
        return _Hand(poller, feed, accountant, _order(name, config))

    def _adopt_sources(self, config: Config) -> list[str]:
        wanted = tuple(enabled_sources(config))
        changed = []
        for name in [name for name in self._sources if name not in wanted]:
            hand = self._sources.pop(name)
            self._dismiss(hand.poller, hand.feed.retire)
            changed.append(f"{name} is switched off")
        self._claims.reorder(wanted)
        self._watchdog.watch(wanted)
        for name in wanted:
            if name in self._sources:
                changed += self._change(name, self._sources[name], config)
                continue
            self._sources[name] = self._hire(name, config, at_start=False)
            self._sources[name].poller.start()
            changed.append(f"{name} is switched on")
        return changed

    def _change(self, name: str, hand: _Hand, config: Config) -> Iterator[str]:
        """Tell one at work what is configured otherwise now; yield it in words."""
        required = bool(config.sources[name].enabled)
        if required != bool(self._config.sources[name].enabled):
            hand.poller.require(required=required)
            wanted = "asked for by name: should it be missing, the next start ends" if required else "optional"
            yield f"{name} is {wanted}"
        if hand.order != _order(name, config):
            hand.order, every = _order(name, config), interval(name, config)
            hand.feed.switch(source_opener(name, config, self._clock, self._environ), every)
            hand.poller.wake(every)
            yield f"{name} is reopened"

    def _holding_drivers(self) -> Iterator[_Hand]:
        return (hand for name, hand in self._sources.items() if registry.SOURCES[name].isolated)

    # --- providers ------------------------------------------------------------------------------

    def _adopt_carbon(self, config: Config, links: Sequence[Link]) -> None:
        for poller, feed in self._providers.values():
            self._dismiss(poller, feed.close)
        self.tariff, self._links = tariff_of(config, links), tuple(links)
        self._engage_providers(config, links)
        for hand in self._sources.values():
            hand.accountant.adopt(self.tariff)
        self._reprice(config, links)
        for poller, _ in self._providers.values():
            poller.start()

    def _engage_providers(self, config: Config, links: Sequence[Link], *, stays: bool = True) -> None:
        self._providers = {}
        if self.tariff is None:
            return
        cache = Cache(cache_file(config, self._environ), Place(config.carbon.zone, config.carbon.factor))
        kept = cache.load()
        for link in links:
            self.tariff.learn(link.name, kept.get(link.name, ()), self._clock.now().wall)
            if link.name in kept and stays:
                log.info("%s: %d values from the cache price until newer ones come", link.name, len(kept[link.name]))
            keeps = stays and registry.provider(link.name).TRAITS.network
            keep = cache.keep if keeps else _forget
            self._providers[link.name] = self._engage(link, config, self.tariff, keep)

    def _engage(
        self, link: Link, config: Config, tariff: Tariff, keep: Callable[[str, Sequence[Intensity]], None]
    ) -> tuple[Poller, ProviderFeed]:
        traits = registry.provider(link.name).TRAITS
        every = float(config.providers[link.name].every or traits.every)
        health = Health(link.name, "provider" if traits.network else "table", every)
        provider = link.open(config, self._clock)
        feed = ProviderFeed(link.name, provider, tariff, self._clock, keep)
        poller = Poller(
            health,
            feed,
            self._clock,
            self._ledger.report,
            patience=PROVIDER_PATIENCE,
            observe=feed.observe,
            jitter=PROVIDER_JITTER if traits.network else 0.0,
            after=self._leaving.pop(link.name, None),
        )
        if not traits.network:
            poller.turn()  # it answers at once: not a joule goes unpriced for want of waiting
        return poller, feed

    def _reprice(self, config: Config, links: Sequence[Link]) -> None:
        carbon = config.carbon
        factor = carbon.factor if self.tariff else "none"
        provenances = [(basis, factor) for link in links for basis in link.rung.bases]
        self._ledger.reprice(
            self.tariff.view if self.tariff else None,
            [*provenances, ("none", factor)],
            Constants(carbon.pue, carbon.market_intensity, carbon.price, carbon.currency if carbon.price else ""),
        )

    def _dismiss(self, poller: Poller, last: Callable[[], None]) -> None:
        """Let one end in its own thread; what it counted goes on being shown, and its successor goes on counting."""

        def leave() -> None:
            last()
            self._ledger.report(replace(poller.health, up=None, error="switched off", remedy="", unanswered=()))

        poller.retire(leave)
        self._leaving[poller.health.name] = poller


def tariff_of(config: Config, links: Sequence[Link]) -> Tariff | None:
    """Return the tariff of a chain; None: no zone is configured."""
    return Tariff(config.carbon.zone, config.carbon.factor, [link.rung for link in links]) if links else None


def bounds(config: Config) -> Bounds:
    """Return how many workloads and owners are named, and for how long."""
    attribution = config.attribution
    return Bounds(attribution.max_named, attribution.max_owners, float(attribution.linger))


def _order(name: str, config: Config) -> tuple[Any, float]:
    """What a source is told; whether its absence is an error is not the source's business."""
    return replace(config.sources[name], enabled=None), interval(name, config)


def _carbon_of(config: Config) -> tuple[Any, ...]:
    """What providers and tariff are built from; a token's value is read anew at each use."""
    return config.carbon, dict(config.providers), {name: secret.origin for name, secret in config.secrets.items()}


def cache_file(config: Config, environ: Mapping[str, str]) -> Path | None:
    """Return where fetched intensities are kept; None: nowhere."""
    if config.carbon.cache_file:
        return Path(config.carbon.cache_file)
    state = state_directory(environ)
    return state / "intensities.json" if state is not None else None


def _forget(provider: str, intensities: object) -> None:
    """A table that ships with us needs no cache."""
