"""Builds the house from the configuration, starts it, waits, and stops it within a second."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wattgram import __version__, isolated, registry
from wattgram.accountant import Accountant
from wattgram.cache import Cache
from wattgram.config import AUTO, Config, state_directory
from wattgram.feed import Claims, ProviderFeed, SourceFeed
from wattgram.isolated import IsolatedSource
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Constants, Health, Reload
from wattgram.poller import Patience, Poller
from wattgram.ports import Clock, ConfigError, Exporter, Place, Provider, Secret, Source, Traits, Unavailable
from wattgram.tariff import Rung, Tariff
from wattgram.tools.procfs import own_cost

GOOD, BUG, BAD_CONFIG, MISSING = 0, 1, 2, 3
GAP_INTERVALS = 3
# A periodic load, such as a training step, must not fall into step with our readings.
SAMPLING_JITTER = 0.1
WORLD = "WORLD"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What a child must not inherit: credentials, and our own options, which it is told.
KEPT_FROM_CHILDREN = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
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


@dataclass(frozen=True, slots=True)
class Link:
    """One provider of the chain, ready to be opened; `named`: the user asked for it by name."""

    name: str
    named: bool
    secret: Secret | None
    rung: Rung

    def open(self, config: Config, clock: Clock) -> Provider:
        """Return the provider."""
        place = Place(config.carbon.zone, config.carbon.factor)
        return registry.provider(self.name).open_provider(config.providers[self.name], place, self.secret, clock)


def chain(config: Config) -> tuple[tuple[Link, ...], tuple[str, ...]]:
    """Return the providers that price, in order, and a remark on each that `auto` had to leave out.

    Raise ConfigError when one that is named cannot be asked.
    """
    links: dict[str, Link] = {}
    remarks: list[str] = []
    if not config.carbon.zone:
        return (), ('no grams: carbon.zone is not set; set it, such as zone = "FR", to price joules',)
    if config.carbon.zone == WORLD:
        remarks.append('carbon.zone is WORLD, the world\'s average; say where this server stands, such as zone = "FR"')
    for wanted in config.carbon.providers:
        for name in registry.PROVIDERS if wanted == AUTO else (wanted,):
            named, traits = wanted != AUTO, registry.provider(name).TRAITS
            obstacle = _obstacle(name, config)
            if obstacle and named:
                raise ConfigError(f"carbon.providers names {name}, but {obstacle}")
            if not obstacle:
                rung = Rung(name, float(config.providers[name].hold or traits.hold), traits.bases, named=named)
                links.setdefault(name, Link(name, named, config.secrets.get(name), rung))
            elif _covers(traits, config.carbon.zone):
                remarks.append(f"{name}: not asked, {obstacle}")
    return tuple(links.values()), tuple(remarks)


def _covers(traits: Traits, zone: str) -> bool:
    return not traits.zones or zone in traits.zones


def _obstacle(name: str, config: Config) -> str:
    """Why a provider cannot be asked about the zone; empty when it can."""
    traits = registry.provider(name).TRAITS
    if not _covers(traits, config.carbon.zone):
        return f"it knows only {', '.join(traits.zones)}; carbon.zone is {config.carbon.zone}"
    if traits.needs_token and name not in config.secrets:
        return f"it has no token; {traits.token_help}"
    return ""


def enabled_sources(config: Config) -> Iterator[str]:
    """Yield the names of the sources to try, in order."""
    for name, entry in registry.SOURCES.items():
        enabled = config.sources[name].enabled
        if entry.by_default if enabled is None else enabled:
            yield name


def source_opener(name: str, config: Config, clock: Clock, environ: Mapping[str, str]) -> Callable[[], Source]:
    """Return what opens a source, in a child of its own where it must be."""
    entry, options, every = registry.SOURCES[name], config.sources[name], interval(name, config)
    if entry.isolated:
        return lambda: IsolatedSource(entry.module, asdict(options), every, clock, child_environment(environ))
    return lambda: registry.source(name).open_source(options, clock, every)


def recorded(name: str, config: Config, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a source's hardware answers, for a fixture; None: there is nothing to record of it."""
    entry, options = registry.SOURCES[name], config.sources[name]
    if entry.isolated:
        return isolated.record(entry.module, asdict(options), child_environment(environ))
    plug = registry.source(name)
    return plug.record(options) if hasattr(plug, "record") else None


def interval(name: str, config: Config) -> float:
    """Return the seconds between a source's readings."""
    return float(config.sources[name].interval or config.sampling.interval)


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a child may inherit: no credential, no option of ours."""
    return {
        key: value
        for key, value in environ.items()
        if key not in KEPT_FROM_CHILDREN and not (key.startswith("WATTGRAM_") and "__" in key)
    }


class App:
    """The house, built; `run` opens the door."""

    def __init__(self, config: Config, clock: Clock, environ: Mapping[str, str]) -> None:
        self.config = config
        self._clock = clock
        self._environ = environ
        self.links, self.remarks = chain(config)
        self.tariff = self._tariff()
        self.ledger = self._ledger()
        names = tuple(enabled_sources(config))
        self._claims = Claims(names)
        self.feeds: dict[str, SourceFeed] = {name: self._source_feed(name) for name in names}
        self._code: int | None = None

    def run(self, reload: Callable[[], Config]) -> int:
        """Meter until told to stop; return the exit code. `reload` reads the configuration anew."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # every thread inherits it: only this one hears them
        threading.excepthook = self._bug
        self.ledger.note(self.remarks)
        self.ledger.reloaded(Reload(successful=True, at=self._clock.now().wall))
        pollers = [*self._provider_pollers(), *self._source_pollers()]
        for poller in pollers:  # what is waited for is known before anybody can ask whether we are ready
            self.ledger.report(poller.health)
        exporter: Exporter = registry.exporter("prometheus")(self.config.web.listen, self.ledger.snapshot)
        exporter.start()
        log.info("wattgram %s listens on http://%s", __version__, self.config.web.listen)
        for remark in self.remarks:
            log.info("%s", remark)
        for poller in pollers:
            poller.start()
        self._wait(reload)
        log.info("stopping")
        for poller in pollers:
            poller.stop()
        exporter.stop()
        for feed in self.feeds.values():
            feed.close()
        return self._code or GOOD

    def learn_prices(self) -> None:
        """Ask every provider once, for a command that does not stay."""
        for poller in self._provider_pollers():
            poller.turn()

    def _wait(self, reload: Callable[[], Config]) -> None:
        while signal.sigwait(SIGNALS) == signal.SIGHUP:
            now = self._clock.now().wall
            try:
                reload()
            except ConfigError as error:
                log.error("the configuration is not taken: %s", error)  # noqa: TRY400 - it is news, not a bug
                self.ledger.reloaded(Reload(successful=False, at=now))
            else:
                log.info("the configuration is good; changes are taken at the next start")
                self.ledger.reloaded(Reload(successful=True, at=now))
        if self._code is None:
            self._code = GOOD

    def _bug(self, caught: threading.ExceptHookArgs) -> None:
        """A meter that stops must not look alive: a bug in any thread ends the process, with its traceback."""
        if self._code is not None:  # already leaving: what breaks now breaks because it is being closed
            return
        sys.excepthook(caught.exc_type, caught.exc_value or caught.exc_type(), caught.exc_traceback)
        sys.stderr.flush()
        os._exit(BUG)

    def _not_there(self, name: str, missing: Unavailable) -> None:
        """What was asked for by name is not there: leave, and say so."""
        log.error("%s was asked for and is not there: %s; %s", name, missing, missing.remedy)
        self._code = MISSING
        os.kill(os.getpid(), signal.SIGTERM)

    def _tariff(self) -> Tariff | None:
        if not self.links:
            return None
        carbon = self.config.carbon
        return Tariff(carbon.zone, carbon.factor, [link.rung for link in self.links])

    def _ledger(self) -> Ledger:
        carbon = self.config.carbon
        factor = carbon.factor if self.tariff else "none"
        provenances = [(basis, factor) for link in self.links for basis in link.rung.bases]
        return Ledger(
            self._clock,
            view=self.tariff.view if self.tariff else None,
            cost=own_cost,
            provenances=[*provenances, ("none", factor)],
            constants=Constants(
                carbon.pue, carbon.market_intensity, carbon.price, carbon.currency if carbon.price else ""
            ),
        )

    def _source_feed(self, name: str) -> SourceFeed:
        every = interval(name, self.config)
        meter = Meter(max_gap=GAP_INTERVALS * every)
        accountant = Accountant(name, every, meter, self.tariff, self.ledger)
        opener = source_opener(name, self.config, self._clock, self._environ)
        return SourceFeed(name, opener, accountant, meter, self._claims, self._clock, every)

    def _source_pollers(self) -> Iterator[Poller]:
        for name, feed in self.feeds.items():
            required = bool(self.config.sources[name].enabled)
            yield Poller(
                Health(name, "source", interval(name, self.config), up=False if required else None),
                feed,
                self._clock,
                self.ledger.report,
                jitter=SAMPLING_JITTER,
                missing=partial(self._not_there, name) if required else None,
                observe=feed.observe,
            )

    def _provider_pollers(self) -> Iterator[Poller]:
        if self.tariff is None:
            return
        place = Place(self.config.carbon.zone, self.config.carbon.factor)
        cache = Cache(self._cache_file(), place)
        kept = cache.load()
        for link in self.links:
            traits = registry.provider(link.name).TRAITS
            options = self.config.providers[link.name]
            every = float(options.every or traits.every)
            if link.name in kept:
                self.tariff.learn(link.name, kept[link.name], self._clock.now().wall)
            provider = link.open(self.config, self._clock)
            feed = ProviderFeed(
                link.name, provider, self.tariff, self._clock, cache.keep if traits.network else _forget
            )
            poller = Poller(
                Health(link.name, "provider" if traits.network else "table", every),
                feed,
                self._clock,
                self.ledger.report,
                patience=PROVIDER_PATIENCE,
                observe=feed.observe,
                jitter=0.1 if traits.network else 0.0,
            )
            if not traits.network:
                poller.turn()  # it answers at once: not a joule goes unpriced for want of waiting
            yield poller

    def _cache_file(self) -> Path:
        configured = self.config.carbon.cache_file
        return Path(configured) if configured else state_directory(self._environ) / "intensities.json"


def _forget(provider: str, intensities: object) -> None:
    """A table that ships with us needs no cache."""
