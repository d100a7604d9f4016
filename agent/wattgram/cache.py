"""What providers said, kept in a file, so that a restart does not begin without a price."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import msgspec

from wattgram.model import BASES, FACTORS, Intensity
from wattgram.ports import Place
from wattgram.tools.files import read_small, write_whole

KEEP = 200
MOST_BYTES = 4 << 20
MOST_GRAMS_PER_KWH = 3000.0
LONGEST_SECONDS = 40 * 86_400.0

log = logging.getLogger("wattgram")


class _Kept(msgspec.Struct):
    """The file's content: values by provider, for one zone and one kind of factor."""

    zone: str
    factor: str
    values: dict[str, list[Intensity]]


def _makes_sense(i: Intensity) -> bool:
    """Whether a value from a file that anybody may have written can be one."""
    return (
        math.isfinite(i.start)
        and 0 < i.end - i.start <= LONGEST_SECONDS
        and 0 <= i.grams_per_kwh <= MOST_GRAMS_PER_KWH
        and (i.basis in BASES and i.factor in FACTORS)
    )


class Cache:
    """One file, replaced whole; a file that cannot be read or written is said once and does without.

    `path` None: nothing is kept.
    """

    def __init__(self, path: Path | None, place: Place) -> None:
        self._path = path
        self._lock = Lock()
        self._error = ""
        self._kept = _Kept(place.zone, place.factor, {})

    def load(self) -> dict[str, list[Intensity]]:
        """Return what was kept for this place; nothing when there is no such file or it is damaged."""
        if self._path is None:
            return {}
        try:
            kept = msgspec.json.decode(read_small(self._path, MOST_BYTES), type=_Kept)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            log.warning("the cache of intensities %s is not used: %s", self._path, error)
            return {}
        if (kept.zone, kept.factor) != (self._kept.zone, self._kept.factor):
            return {}
        kept.values = {name: [i for i in values if _makes_sense(i)] for name, values in kept.values.items()}
        self._kept = kept
        return kept.values

    def keep(self, provider: str, intensities: Sequence[Intensity]) -> None:
        """Add a provider's newest values to the file."""
        with self._lock:
            known = (i for i in intensities if i.basis != "forecast")
            every = (*self._kept.values.get(provider, ()), *known)
            by_what = {(i.start, i.end, i.factor, i.signal): i for i in every}
            self._kept.values[provider] = sorted(by_what.values(), key=lambda i: (i.start, i.end))[-KEEP:]
            self._write(msgspec.json.encode(self._kept))

    def _write(self, content: bytes) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, content)
        except OSError as error:
            if str(error) != self._error:
                log.warning("the cache of intensities cannot be written: %s; a restart will begin without", error)
            self._error = str(error)
        else:
            if self._error:
                log.info("the cache of intensities is written again")
            self._error = ""
