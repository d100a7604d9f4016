"""The sockets that plugs fit into, and the kinds of bad news they and the house may bring.

    Exception
    └── WattgramError
        ├── ConfigError    the user can mend it: exit 2
        ├── Unavailable    raised at open: not here now, asked again every ten minutes
        ├── ReadFailed     raised in use: this time it failed, next time may work
        └── Paused         the user wants it let go of for a while

Anything else is a bug, and ends the process with its traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from wattgram.model import Cost, Instant, Intensity, Named, Sample, Subject
from wattgram.snapshot import Snapshot

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
    """One reading failed.

    `reason` is a closed word, `retry_after` the seconds the other side asked us to wait; `fatal`: only a new process
    can help.
    """

    def __init__(
        self, message: str, reason: str = "server", retry_after: float | None = None, *, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.fatal = fatal


class Paused(WattgramError):  # noqa: N818 - the house's word
    """Not read now, as the user wishes; the message says until when."""


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> Instant:
        """Return this moment on both clocks."""
        ...

    def asleep(self) -> float:
        """Return the seconds since boot in which the machine was suspended, which `mono` does not count."""
        ...

    def bell(self) -> Bell:
        """Return a bell by which one thread wakes another."""
        ...


class Bell(Protocol):
    """What a thread waits at that another may wake, for no longer than it said, whatever the wall clock does."""

    def ring(self) -> None:
        """Wake who waits, or who will wait next."""
        ...

    def wait(self, seconds: float) -> bool:
        """Return whether it rang, at once or within so many seconds; then it is quiet again."""
        ...


class Source(Protocol):
    """A meter. It keeps handles, never totals."""

    def read(self) -> Sample:
        """Return what the hardware says now; raise ReadFailed when nothing answered."""
        ...

    def close(self) -> None:
        """Let go of the hardware. It is not read again."""
        ...


@runtime_checkable
class Costly(Protocol):
    """A source that runs in a process of its own and can say what that process used."""

    def cost(self) -> Cost | None:
        """Return the children's use so far, all of them together; None: unknown."""
        ...


@runtime_checkable
class Asking(Protocol):
    """A provider that asks over the network."""

    def requests(self) -> int:
        """Return the number of requests so far."""
        ...


class Provider(Protocol):
    """A grid's voice."""

    def fetch(self) -> Sequence[Intensity]:
        """Return what the provider knows now; raise ReadFailed."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Told(NamedTuple):
    """What a namer goes by, what it has to do without, and the remedy; the last two empty: nothing."""

    goes_by: str
    lacks: str = ""
    remedy: str = ""


class Namer(Protocol):
    """Says on whose behalf a process or a control group works. It answers at once, from what it knows."""

    def name_of(self, subject: Subject) -> Named | None:
        """Return whose it is; None: nobody that this namer knows."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@runtime_checkable
class Allotting(Protocol):
    """A namer that knows who holds a GPU also while no process of theirs is on it."""

    def holders(self) -> Mapping[str, tuple[Named, ...]]:
        """Return who holds which GPU, by UUID or by NVML's index in decimal; no workload in it: it is not known yet."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A namer that can say of itself what it goes by, for whoever sets it up."""

    def told(self) -> Told:
        """Return what it goes by now."""
        ...


class Exporter(Protocol):
    """A screen on the network."""

    @property
    def scheme(self) -> str:
        """How it is spoken to: `http` or `https`."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether whoever reaches it may look, without a password or a certificate."""
        ...

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


class Seconds(float):
    """A duration in an option: written as `"250ms"`, `"5s"`, `"10m"`, `"2h"`, `"1d"` in the configuration."""

    __slots__ = ()


class Secret:
    """A credential: where it comes from may be shown, what it is may not.

    It is read anew at each `reveal`, so that a rotated file needs no restart.
    """

    __slots__ = ("_reveal", "origin")

    def __init__(self, origin: str, reveal: Callable[[], str]) -> None:
        self.origin = origin
        self._reveal = reveal

    def reveal(self) -> str:
        """Return the credential; raise ReadFailed(auth) when its file cannot be read or is empty."""
        return self._reveal()

    def __repr__(self) -> str:
        return f"Secret(from {self.origin})"


@dataclass(frozen=True)
class Place:
    """What a provider is asked for: the zone as the user wrote it, and the kind of factor."""

    zone: str
    factor: str


@dataclass(frozen=True)
class Traits:
    """What the house must know of a provider before it is opened.

    `every`: seconds between fetches; `hold`: seconds its newest value may be held after its own end; `bases`: how it
    can know an intensity; `zones`: those it knows (empty: any); `network`: it asks somebody else; `needs_token`: it
    cannot be asked without a credential, and `token_help` says where one is had.
    """

    every: float
    hold: float
    bases: tuple[str, ...]
    zones: tuple[str, ...] = ()
    network: bool = True
    needs_token: bool = False
    token_help: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What every source's table knows.

    `enabled`: None = on when its hardware is found, True = its absence is an error, False = off.
    `interval`: seconds between readings; None = the one of [sampling].
    """

    enabled: bool | None = None
    interval: Seconds | None = None


@dataclass(frozen=True, kw_only=True)
class NamerOptions:
    """What every namer's table knows. `enabled`: None = on where there is something to name, True = its absence is
    an error, False = off.
    """

    enabled: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ProviderOptions:
    """What every provider's table knows; None is the provider's own.

    `every`: time between fetches; `hold`: how long its newest value may price after its own end.
    """

    every: Seconds | None = None
    hold: Seconds | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(ProviderOptions):
    """What every network provider's table knows. `timeout` is the total seconds of one request."""

    base_url: str = ""
    timeout: Seconds = Seconds(15)


@dataclass(frozen=True, kw_only=True)
class TokenOptions(NetworkOptions):
    """What every provider's table knows that needs a credential: the file it stands in."""

    token_file: str = ""
