"""Families become bytes: content negotiation, both text formats, `name[]`, gzip; encoded once per snapshot and form."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import cast

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from wattgram.snapshot import Snapshot
from wattgram_exporters.families import families

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
GZIP_LEVEL = 1  # a tenth of the time of level 9, about the same size on metrics text
MOST_RANGES = 32
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


@dataclass(frozen=True, slots=True)
class _Range:
    """One media range of an Accept header."""

    media: str
    parameters: dict[str, str]
    quality: float


def negotiate(accept: str) -> str:
    """Return the content type to answer an Accept header with: the highest quality wins, ties go to OpenMetrics where
    it is named; nothing that we can give, or nothing that can be understood, gets text 0.0.4.
    """
    best, best_quality = TEXT, 0.0
    for candidate in accept.split(",")[:MOST_RANGES]:
        wanted = _range(candidate)
        offer = _offer(wanted) if wanted else None
        if not wanted or not offer or wanted.quality == 0:
            continue
        if wanted.quality > best_quality or (wanted.quality == best_quality and offer == OPENMETRICS):
            best, best_quality = offer, wanted.quality
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip with a quality above 0."""
    ranges = (_range(part) for part in accept_encoding.split(",")[:MOST_RANGES])
    return any(r is not None and r.media == "gzip" and r.quality > 0 for r in ranges)


def _range(text: str) -> _Range | None:
    media, *rest = (part.strip() for part in text.split(";"))
    parameters = {}
    quality = 1.0
    for parameter in rest:
        name, equals, value = (part.strip() for part in parameter.partition("="))
        if not equals:
            return None
        if name.lower() == "q":
            if not _QUALITY.fullmatch(value):
                return None
            quality = float(value)
        else:
            parameters[name.lower()] = value.strip('"').lower()
    return _Range(media.lower(), parameters, quality) if media else None


def _offer(wanted: _Range) -> str | None:
    version = wanted.parameters.get("version")
    if wanted.media == "application/openmetrics-text" and version in (None, "1.0.0", "0.0.1"):
        return OPENMETRICS
    if wanted.media in ("text/plain", "text/*", "*/*") and version in (None, "0.0.4"):
        return TEXT
    return None


class _Collected:
    """What the client library's encoders take for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def chosen(metrics: Iterable[Metric], names: frozenset[str]) -> Iterator[Metric]:
    """Yield the families that hold a sample, or go by a name, that was asked for; all, when nothing was."""
    for metric in metrics:
        if not names or metric.name in names or any(sample.name in names for sample in metric.samples):
            yield metric


def encode(metrics: Iterable[Metric], content_type: str) -> bytes:
    """Return families in the text format of a content type."""
    generate: Callable[[_Collected], bytes] = openmetrics.generate_latest
    if content_type == TEXT:
        generate = cast("Callable[[_Collected], bytes]", exposition.generate_latest)
    return generate(_Collected(metrics))


class Encoder:
    """Remembers what the newest snapshot was encoded to: two scrapers cost little more than one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._snapshot: Snapshot | None = None
        self._known: dict[tuple[str, bool], bytes] = {}

    def __call__(self, snapshot: Snapshot, content_type: str, names: frozenset[str], *, zipped: bool) -> bytes:
        """Return the bytes for one request."""
        if names:
            return _zip(encode(chosen(families(snapshot), names), content_type), zipped=zipped)
        with self._lock:
            if self._snapshot is not snapshot:
                self._snapshot, self._known = snapshot, {}
            key = (content_type, zipped)
            if key not in self._known:
                plain = self._known.get((content_type, False))
                if plain is None:
                    plain = encode(families(snapshot), content_type)
                    self._known[content_type, False] = plain
                self._known[key] = _zip(plain, zipped=zipped)
            return self._known[key]


def _zip(body: bytes, *, zipped: bool) -> bytes:
    return gzip.compress(body, GZIP_LEVEL, mtime=0) if zipped else body
