"""What a configuration asks for: which providers price, which sources are read, and how each is opened."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from wattgram import isolated, registry
from wattgram.complaints import AUTO
from wattgram.config import Config
from wattgram.isolated import IsolatedSource
from wattgram.ports import Clock, ConfigError, Namer, Place, Provider, Secret, Source, Traits, Unavailable
from wattgram.tariff import Rung
from wattgram.tools.factors import fallbacks, yearly, yearly_rows

WORLD = "WORLD"
# How a remark begins that is a warning: the price may be another country's.
DOUBT = "carbon.zone: "
# What people write for what ISO 3166 calls otherwise.
ALIASES = {"UK": "GB", "USA": "US", "EL": "GR"}
# What a child must not inherit: credentials, and our own options, which it is told.
KEPT_FROM_CHILDREN = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


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
    elif doubt := _doubt(config.carbon.zone, config.carbon.factor):
        remarks.append(f"{DOUBT}{doubt}")
    for wanted in config.carbon.providers:
        for name in registry.PROVIDERS if wanted == AUTO else (wanted,):
            named, traits = wanted != AUTO, registry.provider(name).TRAITS
            obstacle = _obstacle(name, config)
            if obstacle and named:
                raise ConfigError(f"carbon.providers names {name}, but {obstacle}")
            if not obstacle:
                rung = Rung(name, float(config.providers[name].hold or traits.hold), traits.bases, named=named)
                links.setdefault(name, Link(name, named, config.secrets.get(name), rung))
                if name in config.secrets and _is_in_the_clear(getattr(config.providers[name], "base_url", "")):
                    remarks.append(f"{name}: its token travels in the clear; set carbon.{name}.base_url to https://…")
            elif _covers(traits, config.carbon.zone):
                remarks.append(f"{name}: not asked, {obstacle}")
    return tuple(links.values()), tuple(remarks)


def _doubt(zone: str, factor: str) -> str:
    """What to say of a zone that the yearly table knows nothing of; empty: it knows it, or what it lies in."""
    found = yearly(zone, factor)
    if found is None or found.row.zone != WORLD:
        return ""
    known = [name for name in (*yearly_rows(), *fallbacks()) if name != WORLD]
    near = ALIASES.get(zone) or next(iter(difflib.get_close_matches(zone, known, n=1, cutoff=0.5)), "")
    meant = f'did you mean "{near}"?' if near else "is it spelt as its provider does?"
    return f'"{zone}" is not in the yearly table: where no live value is, the world\'s average prices; {meant}'


def _is_in_the_clear(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")


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


def open_namers(config: Config, clock: Clock) -> tuple[dict[str, Namer], tuple[str, ...]]:
    """Return the namers of this host in their order, and a remark on each that was asked for and is not there."""
    found: dict[str, Namer] = {}
    remarks: list[str] = []
    for name in registry.WORKLOADS:
        options = config.namers[name]
        if options.enabled is False:
            continue
        try:
            found[name] = registry.namer(name).open_namer(options, clock)
        except Unavailable as missing:
            if options.enabled:
                remarks.append(f"workloads.{name} was asked for and is not there: {missing}; {missing.remedy}")
    return found, tuple(remarks)


def wanted_namers(config: Config) -> int:
    """Return how many namers are not switched off."""
    return sum(1 for name in registry.WORKLOADS if config.namers[name].enabled is not False)


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
