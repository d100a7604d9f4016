"""Tries each plug on this host and says exactly what is missing and how to mend it."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wattgram.app import GOOD, MISSING
from wattgram.config import Config, state_directory
from wattgram.feed import Claims
from wattgram.model import Intensity, Sample
from wattgram.plan import Link, chain, enabled_sources, recorded, source_opener
from wattgram.ports import Clock, ReadFailed, Unavailable

FINE, ABSENT, BROKEN = "ok", "missing", "failed"
MARKS = {FINE: "✓", ABSENT: "·", BROKEN: "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried. `required`: its absence is an error, since it was asked for by name."""

    what: str
    state: str
    detail: str
    remedy: str = ""
    required: bool = False


def examine(config: Config, clock: Clock, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print the findings; return 0, or 3 when something asked for by name is not there or nothing is metered."""
    findings = [
        *_sources(config, clock, environ),
        *_providers(config, clock),
        *_host(config, environ),
    ]
    if as_json:
        print(json.dumps([asdict(f) for f in findings], indent=1, ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{MARKS[finding.state]} {finding.what}: {finding.detail}")
            if finding.remedy:
                print(f"    → {finding.remedy}")
    metered = any(f.what.startswith("source ") and f.state == FINE for f in findings)
    wanting = any(f.required and f.state != FINE for f in findings)
    return GOOD if metered and not wanting else MISSING


def record(config: Config, environ: Mapping[str, str], directory: Path) -> int:
    """Write what this host's hardware answers to a file that may become a fixture; serial numbers are masked."""
    answers: dict[str, Any] = {}
    for name in enabled_sources(config):
        try:
            found = recorded(name, config, environ)
        except (Unavailable, ReadFailed) as missing:
            print(f"{MARKS[ABSENT]} {name}: {missing}")
            continue
        if found is not None:
            answers[name] = found
            print(f"{MARKS[FINE]} {name}: recorded")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "recording.json"
    path.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}: look through it before you send it")
    return GOOD if answers else MISSING


def show_intensity(config: Config, clock: Clock, *, ahead: bool) -> int:
    """Print what each provider says of now, and `ahead` of the hours to come; return 0 when one of them prices."""
    links, remarks = chain(config)
    priced = False
    for link in links:
        try:
            said = _asked(link, config, clock, turns=2 if ahead else 1)
        except ReadFailed as failure:
            print(f"{link.name}: {failure}")
            continue
        forecasts = [i for i in said if i.basis == "forecast"]
        for intensity in (*_newest(said), *(forecasts if ahead else ())):
            prices = (
                not priced
                and intensity.basis != "forecast"
                and (link.named or intensity.factor == config.carbon.factor)
            )
            priced = priced or prices
            print(f"{_described(intensity)}{'   ← prices' if prices else ''}")
    for remark in remarks:
        print(f"({remark})")
    return GOOD if priced else MISSING


def _sources(config: Config, clock: Clock, environ: Mapping[str, str]) -> Iterator[Finding]:
    claims = Claims(tuple(enabled_sources(config)))
    for name in enabled_sources(config):
        what, required = f"source {name}", bool(config.sources[name].enabled)
        source = None
        try:
            source = source_opener(name, config, clock, environ)()
            sample = source.read()
            claims.outcome(name, sample.readings)
            yield Finding(what, FINE, _seen(sample) + _not_booked(name, sample, claims), required=required)
        except Unavailable as missing:
            claims.withdraw(name)
            yield Finding(what, ABSENT, str(missing), missing.remedy, required)
        except ReadFailed as failure:
            claims.withdraw(name)
            yield Finding(what, BROKEN, str(failure), "", required)
        finally:
            if source is not None:
                source.close()


def _seen(sample: Sample) -> str:
    found = [f"{r.device.id} ({r.device.name}, by {'counter' if r.counter else 'power'})" for r in sample.readings]
    lost = [f"{f.device.id}: {f.reason}" for f in sample.failed]
    return f"{len(found)} devices: " + ", ".join(found) + ("; not answering: " + ", ".join(lost) if lost else "")


def _not_booked(name: str, sample: Sample, claims: Claims) -> str:
    """What of a sample is not booked, since another source keeps that account."""
    others = sorted({r.device.component for r in sample.readings if not claims.keeps(name, r.device.component)})
    return f"; not booked, since another source meters it: {', '.join(others)}" if others else ""


def _providers(config: Config, clock: Clock) -> Iterator[Finding]:
    links, remarks = chain(config)
    for link in links:
        what = f"provider {link.name}"
        try:
            said = _asked(link, config, clock)
        except ReadFailed as failure:
            yield Finding(what, BROKEN, str(failure), _advice(failure, link), link.named)
        else:
            yield Finding(what, FINE, "; ".join(_described(i) for i in _newest(said)), required=link.named)
    for remark in remarks:
        name, _, rest = remark.partition(": ")
        detail, _, remedy = rest.partition("; ")
        yield Finding(f"carbon, {name}", ABSENT, detail, remedy)


def _advice(failure: ReadFailed, link: Link) -> str:
    origin = link.secret.origin if link.secret else "nowhere"
    return {
        "auth": f"check the token (from {origin})",
        "plan": "the provider's plan does not cover this; choose another provider",
        "zone": "check carbon.zone against the provider's list of zones",
        "timeout": "is the API reachable from this host?",
    }.get(failure.reason, "")


def _asked(link: Link, config: Config, clock: Clock, turns: int = 1) -> tuple[Intensity, ...]:
    provider = link.open(config, clock)
    try:
        said: tuple[Intensity, ...] = ()
        for _ in range(turns):  # a forecast is asked for by a provider that stays
            said = tuple(provider.fetch())
        return said
    finally:
        provider.close()


def _newest(said: tuple[Intensity, ...]) -> tuple[Intensity, ...]:
    """The newest value that is no forecast."""
    return tuple(i for i in said if i.basis != "forecast")[-1:]


def _described(i: Intensity) -> str:
    begun = datetime.fromtimestamp(i.start, tz=timezone.utc)
    when = i.edition or begun.strftime("%Y-%m-%d %H:%M UTC")
    how = f"{i.basis}, {i.factor}, {i.boundary}, for {when}"
    return f"{i.provider}: {i.grams_per_kwh:g} g/kWh in {i.zone}, {how}; {i.source}"


def _host(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    host, _, port = config.web.listen.rpartition(":")
    try:
        socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
        yield Finding("web.listen", FINE, f"{config.web.listen} is free")
    except OSError as error:
        detail = f"{config.web.listen}: {error.strerror}"
        taken = "perhaps the daemon runs already: that is fine" if error.errno == errno.EADDRINUSE else "set web.listen"
        yield Finding("web.listen", ABSENT, detail, taken)
    if config.carbon.zone:
        yield _cache_file(config, environ)


def _cache_file(config: Config, environ: Mapping[str, str]) -> Finding:
    path = Path(config.carbon.cache_file or state_directory(environ) / "intensities.json")
    nearest = next((p for p in path.parents if p.exists()), Path("/"))
    with suppress(OSError):
        if os.access(nearest, os.W_OK):
            return Finding("carbon.cache_file", FINE, f"{path} can be written")
    return Finding(
        "carbon.cache_file", ABSENT, f"{path} cannot be written", "set carbon.cache_file, or run as a service"
    )
