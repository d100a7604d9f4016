"""The exporter-toolkit's web.config.yml becomes frozen values; what is wrong in it is said with its line.

The form is that of exporter-toolkit v0.17.1 (web/tls_config.go, web/handler.go), keys and meaning unchanged.
No value of the file stands in an error or a repr: it may be a key, a hash or a password in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wattgram_exporters.yamlfile import Kind, YamlFile, document, fit, library, table_of

COSTS = range(4, 17)  # a check at 16 takes seconds, at 20 minutes, and for as long nobody else is checked
VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
CURVES = ("CurveP256", "CurveP384", "CurveP521", "X25519")
NO_CERTIFICATE, OPTIONAL, REQUIRED = "NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
CLIENT_AUTHS = (NO_CERTIFICATE, "RequestClientCert", OPTIONAL, REQUIRED)
UNVERIFIED = ("RequireAnyClientCert", "RequireClientCert")
# What Go's toolkit lets one add, and the values, where they are few.
HEADERS: Mapping[str, tuple[str, ...]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
# Go's names (tls.CipherSuites, and the RSA ones that it counts among the insecure since 1.22), and OpenSSL's.
CIPHERS = {
    f"TLS_ECDHE_{kind}_WITH_{theirs}": f"ECDHE-{kind}-{ours}"
    for kind in ("RSA", "ECDSA")
    for theirs, ours in (
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
} | {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
CIPHERS_OF_TLS13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate or a key: in a file, or as it stands in the configuration."""

    key: str
    file: Path | None
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """What `tls_server_config` asks for. `sans` None: any name will do."""

    cert: Pem
    key: Pem
    client_ca: Pem | None
    client_auth: str
    sans: tuple[str, ...] | None
    versions: tuple[str, str]
    ciphers: tuple[str, ...]
    curves: tuple[str, ...]
    prefers_own_ciphers: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is made of."""
        return tuple(pem.file for pem in (self.cert, self.key, self.client_ca) if pem and pem.file)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file asks for. `interval` in seconds, 0: no limit; users are names and bcrypt hashes."""

    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    interval: float = 0.0
    burst: int = 0


_TLS: Mapping[str, Kind] = {
    **dict.fromkeys(("cert", "key", "client_ca", "cert_file", "key_file", "client_ca_file"), YamlFile.text),
    **dict.fromkeys(("client_auth_type", "min_version", "max_version"), YamlFile.text),
    **dict.fromkeys(("cipher_suites", "curve_preferences", "client_allowed_sans"), YamlFile.texts),
    "prefer_server_cipher_suites": YamlFile.truth,
}
_HTTP: Mapping[str, Kind] = {"http2": YamlFile.truth, "headers": YamlFile.pairs}
_TABLES: Mapping[str, Mapping[str, Kind]] = {
    "tls_server_config": _TLS,
    "http_server_config": _HTTP,
    "rate_limit": {"interval": YamlFile.duration, "burst": YamlFile.whole},
}
KEYS = (*_TABLES, "basic_auth_users", *(f"{table}.{name}" for table, keys in _TABLES.items() for name in keys))


def read(path: Path) -> Settings:
    """Return what the file asks for; raise ConfigError with file, line, key and remedy."""
    return _settings(YamlFile(path, KEYS), document(path))


def comparer() -> Callable[[bytes, bytes], bool]:
    """Return what compares a password with a hash, which takes long; raise ConfigError when it is not installed."""
    check: Callable[[bytes, bytes], bool] = library("bcrypt").checkpw

    def is_right(password: bytes, hashed: bytes) -> bool:
        try:
            return check(password[:72], hashed)  # as far as bcrypt, and Go's, looks
        except ValueError:
            return False

    return is_right


def _settings(file: YamlFile, node: Any) -> Settings:
    kinds = {name: table_of(keys) for name, keys in _TABLES.items()}
    given = file.table(node, "", {**kinds, "basic_auth_users": YamlFile.pairs})
    interval, burst = _rate(file, given.get("rate_limit", {}))
    return Settings(
        _tls(file, given.get("tls_server_config", {})),
        _headers(file, given.get("http_server_config", {}).get("headers", {})),
        _users(file, given.get("basic_auth_users", {})),
        interval,
        burst,
    )


# --- what a type cannot say -------------------------------------------------------------------------


def _tls(file: YamlFile, given: Mapping[str, Any]) -> Tls | None:
    parts = ("cert", "key", "client_ca")
    if not any(given.get(key) for part in parts for key in (part, f"{part}_file")) and not given.get(
        "client_auth_type"
    ):
        return None
    here = "tls_server_config"
    pems = {part: _pem(file, given, part) for part in parts}
    for part in ("cert", "key"):
        if not pems[part]:
            raise file.fault(here, f"{part}_file (or {part}) is missing; both a certificate and its key are needed")
    assert pems["cert"]
    assert pems["key"]
    versions = (given.get("min_version") or "TLS12", given.get("max_version") or "TLS13")
    for key, version in zip(("min_version", "max_version"), versions, strict=True):
        file.one_of(f"{here}.{key}", version, VERSIONS)
    if versions[0] > versions[1]:
        raise file.fault(f"{here}.min_version", f"it is above max_version, which is {versions[1]}")
    for cipher in given.get("cipher_suites", ()):
        file.one_of(f"{here}.cipher_suites", cipher, (*CIPHERS, *CIPHERS_OF_TLS13))
    for curve in given.get("curve_preferences", ()):
        file.one_of(f"{here}.curve_preferences", curve, CURVES)
    return Tls(
        pems["cert"],
        pems["key"],
        pems["client_ca"],
        _client_auth(file, given, pems["client_ca"]),
        given.get("client_allowed_sans"),
        versions,
        tuple(given.get("cipher_suites", ())),
        tuple(given.get("curve_preferences", ())),
        given.get("prefer_server_cipher_suites", True),
    )


def _pem(file: YamlFile, given: Mapping[str, Any], part: str) -> Pem | None:
    """A file before what is written in place, as in Go's toolkit; a relative path starts where the file lies."""
    if name := given.get(f"{part}_file"):
        if "\0" in name:
            raise file.fault(f"tls_server_config.{part}_file", "expected a path without NUL")
        return Pem(f"tls_server_config.{part}_file", file.path.parent / name)
    return Pem(f"tls_server_config.{part}", None, given[part]) if given.get(part) else None


def _client_auth(file: YamlFile, given: Mapping[str, Any], authority: Pem | None) -> str:
    """The kind of client authentication, if it goes with the rest."""
    key = "tls_server_config.client_auth_type"
    kind: str = given.get("client_auth_type") or NO_CERTIFICATE
    if kind in UNVERIFIED:
        raise file.fault(key, f"{kind} takes any certificate unseen, which Python's ssl cannot do; use {REQUIRED}")
    file.one_of(key, kind, CLIENT_AUTHS)
    if authority and kind == NO_CERTIFICATE:
        raise file.fault(authority.key, f"it has no effect without client_auth_type; set {REQUIRED}")
    if not authority and kind in (OPTIONAL, REQUIRED):
        raise file.fault(key, "client_ca_file is missing: whoever holds a certificate of any authority would be let in")
    if given.get("client_allowed_sans") is not None and kind != REQUIRED:
        raise file.fault("tls_server_config.client_allowed_sans", f"it needs client_auth_type: {REQUIRED}")
    return kind


def _headers(file: YamlFile, given: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in given.items():
        key = f"http_server_config.headers.{fit(name)}"
        if name not in HEADERS:
            raise file.fault(key, f"this header cannot be set; those that can are {', '.join(HEADERS)}")
        if HEADERS[name]:
            file.one_of(key, value, HEADERS[name])
        if not value.isprintable() or not value.isascii():
            raise file.fault(key, "expected one line of ASCII")
    return given


def _users(file: YamlFile, given: Mapping[str, str]) -> Mapping[bytes, bytes]:
    for name, hashed in given.items():
        key = f"basic_auth_users.{fit(name)}"
        match = _HASH.fullmatch(hashed)
        if not match or int(match[1]) > 31:  # noqa: PLR2004 - the most that bcrypt knows
            raise file.fault(key, "expected a bcrypt hash, as `htpasswd -nBC 10 USER` writes it")
        if int(match[1]) not in COSTS:
            raise file.fault(key, f"a cost of {int(match[1])} is not between 4 and 16; make it with `htpasswd -nBC 10`")
    return {name.encode(): hashed.encode() for name, hashed in given.items()}


def _rate(file: YamlFile, given: Mapping[str, Any]) -> tuple[float, int]:
    interval, burst = given.get("interval", 0.0), given.get("burst", 0)
    if interval and burst < 1:
        raise file.fault("rate_limit", "with a burst below 1 nobody would ever be answered; set burst: 1 or more")
    return interval, burst
