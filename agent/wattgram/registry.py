"""The only file that names a concrete plug: four tables of dotted names, imported when opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from wattgram.ports import (
    Clock,
    Exporter,
    Namer,
    NamerOptions,
    Place,
    Provider,
    ProviderOptions,
    Secret,
    Source,
    SourceOptions,
    Traits,
)
from wattgram.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """Where a source is, and whether it must run in a process of its own.

    `meters`: it reads devices; else it says only who kept them busy.
    """

    module: str
    isolated: bool = False
    by_default: bool = True
    meters: bool = True


# In the order in which they may keep the account of a component that several could meter; who meters nothing is last,
# so that no account waits for it.
SOURCES = {
    "rapl": SourceEntry("wattgram.sources.rapl"),
    "hwmon": SourceEntry("wattgram.sources.hwmon"),
    "nvml": SourceEntry("wattgram.sources.nvml", isolated=True),
    "estimate": SourceEntry("wattgram.sources.estimate", by_default=False),
    "synthetic": SourceEntry("wattgram.sources.synthetic", by_default=False),
    "cgroups": SourceEntry("wattgram.sources.cgroups", meters=False),
}
# In the order of preference of `providers = ["auto"]`.
PROVIDERS = {
    "electricitymaps": "wattgram.providers.electricitymaps",
    "gb": "wattgram.providers.gb",
    "rte": "wattgram.providers.rte",
    "annual": "wattgram.providers.annual",
}
# In the order in which they are asked; of several answers the deepest in the path is meant, then the first.
WORKLOADS: dict[str, str] = {
    "slurm": "wattgram.workloads.slurm",
    "kubernetes": "wattgram.workloads.kubernetes",
    "containers": "wattgram.workloads.containers",
    "units": "wattgram.workloads.units",
    "users": "wattgram.workloads.users",
    "synthetic": "wattgram.workloads.synthetic",
}
EXPORTERS = {
    "prometheus": "wattgram_exporters.prometheus",
}


class SourcePlug(Protocol):
    """What a source's module offers."""

    Options: type[SourceOptions]

    def open_source(self, options: SourceOptions, clock: Clock, every: float) -> Source:
        """Return the source, or raise Unavailable."""
        ...


class ProviderPlug(Protocol):
    """What a provider's module offers."""

    Options: type[ProviderOptions]
    TRAITS: Traits

    def open_provider(self, options: ProviderOptions, place: Place, secret: Secret | None, clock: Clock) -> Provider:
        """Return the provider."""
        ...


class NamerPlug(Protocol):
    """What a namer's module offers."""

    Options: type[NamerOptions]

    def open_namer(self, options: NamerOptions, clock: Clock) -> Namer:
        """Return the namer, or raise Unavailable where there is nothing of its kind to name."""
        ...


def namer(name: str) -> NamerPlug:
    """Return a namer's module."""
    return cast("NamerPlug", import_module(WORKLOADS[name]))


def source(name: str) -> SourcePlug:
    """Return a source's module."""
    return cast("SourcePlug", import_module(SOURCES[name].module))


def provider(name: str) -> ProviderPlug:
    """Return a provider's module."""
    return cast("ProviderPlug", import_module(PROVIDERS[name]))


def exporter(name: str) -> Callable[..., Exporter]:
    """Return an exporter's factory: it takes a listen address, where snapshots come from, and its web.config.yml."""
    return cast("Callable[..., Exporter]", import_module(EXPORTERS[name]).open_exporter)


def web_config_check(name: str) -> Callable[[str], None]:
    """Return an exporter's way to try a web.config.yml: it raises ConfigError."""
    return cast("Callable[[str], None]", import_module(EXPORTERS[name]).check_web_config)


def renderer(name: str, form: str) -> Callable[[Snapshot], bytes]:
    """Return an exporter's way to print one snapshot, in one of its forms."""
    return cast("Callable[[Snapshot], bytes]", import_module(EXPORTERS[name]).RENDERERS[form])
