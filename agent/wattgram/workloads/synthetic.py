"""Names for invented workloads, which carry them in their paths; off but in a demonstration."""

from __future__ import annotations

from dataclasses import dataclass

from wattgram.model import KINDS, Named, Subject, Workload
from wattgram.ports import Clock, NamerOptions, Unavailable

PREFIX, PARTS = "/synthetic/", 5


@dataclass(frozen=True, kw_only=True)
class Options(NamerOptions):
    """Off by default."""

    enabled: bool | None = False


def open_namer(options: Options, clock: Clock) -> SyntheticNamer:
    """Return the namer; raise Unavailable unless it is asked for by name."""
    del clock
    if not options.enabled:
        raise Unavailable("only invented hardware has invented workloads", "wattgram demo")
    return SyntheticNamer()


class SyntheticNamer:
    """Reads `/synthetic/KIND/ID/OWNER/NAME/ACCOUNT`; a backslash stands for a slash in a word."""

    def name_of(self, subject: Subject) -> Named | None:
        """Return what the path says."""
        for path in subject.paths:
            words = [word.replace("\\", "/") for word in path.removeprefix(PREFIX).split("/")]
            if path.startswith(PREFIX) and len(words) == PARTS and words[0] in KINDS:
                kind, id_, owner, name, account = words
                return Named(Workload(kind, id_, owner), len(path), name, account)
        return None

    def close(self) -> None:
        """Hold nothing."""
