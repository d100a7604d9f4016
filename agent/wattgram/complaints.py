"""What a type cannot say of a configuration's values."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

from wattgram import registry

AUTO = "auto"
_ZONE = re.compile(r"[A-Z]{2,5}(?:-[A-Z0-9]{1,8}){0,3}")
LEAST_INTERVAL, LEAST_EVERY = 0.05, 0.1
MOST_GPUS = 1024
_MODE = re.compile(r"0?[0-7]{3}")
# The kernel's limit is 107, and while it is being opened the socket has a longer name.
LONGEST_SOCKET = 90
MOST_NAMED = 100_000
HTTP_ONLY = 'expected an address such as "https://api.example.org"'
HIGHEST_PORT = 65_535


def complaints(tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of each key whose value cannot be used, and what is wrong with it."""
    yield from _carbon_complaints(tables["carbon"])
    yield from _other_complaints(tables)
    for key in ("max_named", "max_owners"):
        if not 0 <= getattr(tables["attribution"], key) <= MOST_NAMED:
            yield f"attribution.{key}", f"expected 0 to {MOST_NAMED}"
    yield from _local_complaints(tables["local"])
    for device, watts in tables["attribution"].idle_watts.items():
        if not 0 <= watts < float("inf"):
            yield "attribution.idle_watts", f"{device} = {watts:g}: expected 0 or more"


def _local_complaints(local: Any) -> Iterator[tuple[str, str]]:
    if local.socket and (not local.socket.startswith("/") or len(local.socket.encode()) > LONGEST_SOCKET):
        yield (
            "local.socket",
            f'expected an absolute path of at most {LONGEST_SOCKET} bytes, such as "/run/wattgram/api.sock"',
        )
    if not _MODE.fullmatch(local.mode):
        yield "local.mode", 'expected three octal digits, such as "0660"; "0666" lets every user measure'


def _carbon_complaints(carbon: Any) -> Iterator[tuple[str, str]]:
    if carbon.zone and not _ZONE.fullmatch(carbon.zone):
        yield "carbon.zone", 'expected a zone such as "FR", "US-CAL-CISO" or "DK-DK1", in capitals'
    if not carbon.zone:
        yield "carbon.providers", 'a zone is needed too: set carbon.zone, such as "FR"'
    known = [*registry.PROVIDERS, AUTO]
    for name in carbon.providers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            yield "carbon.providers", f"no provider is called {name!r}; the nearest is {near!r}"
    for key, least in (("pue", 1.0), ("market_intensity", 0.0), ("price", 0.0)):
        number = getattr(carbon, key)
        if number is not None and not number >= least:
            yield f"carbon.{key}", f"expected {least:g} or more"


def _other_complaints(tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section, table in tables.items():
        interval, every = getattr(table, "interval", None), getattr(table, "every", None)
        if interval is not None and interval < LEAST_INTERVAL:
            yield f"{section}.interval", "the sensors behind it do not change so fast; 50ms is the least"
        if every is not None and every < LEAST_EVERY:
            yield f"{section}.every", "no grid changes so fast; 100ms is the least"
        for key in fields(table):
            number = getattr(table, key.name)
            if "watts" in key.name and isinstance(number, int | float) and number < 0:
                yield f"{section}.{key.name}", "expected 0 or more"
        yield from _provider_complaints(section, table)
    for gpu, calibration in tables["sources.nvml"].calibration.items():
        if not 0.5 <= calibration.gain <= 2.0:  # noqa: PLR2004 - cards are off by 13 % at most
            yield "sources.nvml.calibration", f"{gpu}: gain = {calibration.gain:g}: expected 0.5 to 2"
    if not 0 <= tables["sources.synthetic"].gpus <= MOST_GPUS:
        yield "sources.synthetic.gpus", f"expected 0 to {MOST_GPUS}"
    yield from _web_complaints(tables["web"])


def _provider_complaints(section: str, table: Any) -> Iterator[tuple[str, str]]:
    token_file = getattr(table, "token_file", "")
    if token_file and not token_file.startswith("/"):
        yield f"{section}.token_file", 'expected the absolute path of a file, such as "/etc/wattgram/token"'
    if (complaint := _address_complaint(getattr(table, "base_url", None))) is not None:
        yield f"{section}.base_url", complaint


def _web_complaints(web: Any) -> Iterator[tuple[str, str]]:
    host, colon, port = web.listen.rpartition(":")
    good = colon and port.isascii() and port.isdigit() and int(port[:6]) <= HIGHEST_PORT
    if not good or "/" in host:
        yield "web.listen", 'expected HOST:PORT, such as "127.0.0.1:14044", with a port up to 65535'
    elif "[" in host or "]" in host or ":" in host:
        try:
            ipaddress.IPv6Address(host[1:-1] if host[:1] == "[" and host[-1:] == "]" else "")
        except ValueError:
            yield "web.listen", 'an IPv6 address stands in brackets, such as "[::1]:14044"'


def _address_complaint(url: str | None) -> str | None:
    """What is wrong with a provider's address; None: nothing, or there is none."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return HTTP_ONLY
    if any(c.isspace() for c in url):
        return HTTP_ONLY
    if parts.query or parts.fragment:
        return "expected an address without ? or #: a key does not belong here, use token_file"
    if "@" in parts.netloc:
        return "a user or password does not belong here: use token_file"
    return None if parts.scheme in ("http", "https") and parts.netloc else HTTP_ONLY
