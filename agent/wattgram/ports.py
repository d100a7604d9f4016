"""The sockets that plugs fit into, and the three kinds of bad news a plug may bring.

    Exception
    └── WattgramError
        ├── ConfigError    the user can mend it: exit 2
        ├── Unavailable    raised at open: not here now, asked again every ten minutes
        └── ReadFailed     raised in use: this time it failed, next time may work

Anything else is a bug, and ends the process with its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wattgram.model import Cost, Instant, Intensity, Sample, Snapshot

REASONS = ("auth", "plan", "zone", "rate", "quota", "server", "empty", "shape", "timeout")


class WattgramError(Exception):
    """The root of the tree above."""


class ConfigError(WattgramError):
    """A configuration that cannot be used; the message names the key path, the value and the remedy."""


class Unavailable(WattgramError):  # noqa: N818 - the house's word
    """This host lacks what the plug needs; `remedy` is what the user can do about it, in one line."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class ReadFailed(WattgramError):  # noqa: N818 - the house's word
    """One reading failed; `reason` is a closed word, `retry_after` the seconds the other side asked us to wait."""

    def __init__(self, message: str, reason: str = "server", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> Instant:
        """Return this moment on both clocks."""
        ...


class Source(Protocol):
    """A meter. It keeps handles, never totals."""

    def read(self) -> Sample:
        """Return what the hardware says now; raise ReadFailed when nothing answered."""
        ...

    def close(self) -> None:
        """Let go of the hardware. It is not read again."""
        ...


class Costly(Protocol):
    """A source that runs in a process of its own and can say what that process used."""

    def cost(self) -> Cost | None:
        """Return the children's use so far, all of them together; None: unknown."""
        ...


class Provider(Protocol):
    """A grid's voice."""

    def fetch(self) -> Sequence[Intensity]:
        """Return what the provider knows now; raise ReadFailed."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Exporter(Protocol):
    """A screen."""

    def start(self) -> None:
        """Begin to show snapshots; raise ConfigError when the place to show them is taken."""
        ...

    def stop(self) -> None:
        """Stop within half a second."""
        ...


class Snapshots(Protocol):
    """Where an exporter gets what it shows."""

    def __call__(self) -> Snapshot:
        """Return the books as they stand; calling it has no effect."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What every source's table knows.

    `enabled`: None = on when its hardware is found, True = its absence is an error, False = off.
    `interval`: seconds between readings; None = the one of [sampling].
    """

    enabled: bool | None = None
    interval: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProviderOptions:
    """What every provider's table knows; `every` is the seconds between fetches (None: the provider's own)."""

    every: float | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(ProviderOptions):
    """What every network provider's table knows. `timeout` is the total seconds of one request."""

    base_url: str = ""
    timeout: float = 15.0
    token_file: str = ""
