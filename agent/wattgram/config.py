"""TOML and environment become frozen values; an unknown key is an error that names the nearest known one.

Flag > environment (`WATTGRAM_SECTION__KEY`) > file > default.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from wattgram import layers, registry
from wattgram.complaints import AUTO, complaints
from wattgram.layers import Value
from wattgram.ports import ConfigError, NamerOptions, ProviderOptions, Seconds, Secret, SourceOptions

DEFAULT_FILE = Path("/etc/wattgram/wattgram.toml")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
LONGEST_SECONDS = 366 * 86_400.0
PLANE = 0x10000
# Keys below a provider, or so named, may hold a credential that belongs into a file.
DEPTH_OF_PROVIDERS = 2
SECRETIVE = re.compile("token|secret|passw|key|auth|cred", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`interval` is the time between readings; each source may override it."""

    interval: Seconds = Seconds(1)


@dataclass(frozen=True, kw_only=True)
class Carbon:
    """Where the server stands, who is asked about its grid, and factors that a reader may multiply with."""

    zone: str = ""
    providers: tuple[str, ...] = (AUTO,)
    factor: Literal["lifecycle", "direct"] = "lifecycle"
    cache_file: str = ""
    pue: float | None = None
    market_intensity: float | None = None
    price: float | None = None
    currency: str = "EUR"


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How workloads are named and for how long. `linger`: how long a workload is shown after its end; `max_named`: how
    many without a GPU are named at a time; `max_owners`: how many owners are named at all.

    `idle_watts` is a device's power when nobody uses it, by its id, where it need not be learnt.
    """

    linger: Seconds = Seconds(300)
    max_named: int = 200
    max_owners: int = 100
    idle_watts: dict[str, float] = field(default_factory=dict)
    proc: str = "/proc"


@dataclass(frozen=True, kw_only=True)
class Web:
    """`config_file` is an exporter-toolkit web.config.yml: TLS, client certificates, passwords."""

    listen: str = "0.0.0.0:14044"
    config_file: str = ""


@dataclass(frozen=True, kw_only=True)
class Local:
    """The local API: `socket` is where it is, empty: `api.sock` in the runtime directory. Who may connect may measure:
    its owner and `group`, by `mode` in octal.
    """

    enabled: bool = True
    socket: str = ""
    group: str = ""
    mode: str = "0660"


@dataclass(frozen=True, kw_only=True)
class Log:
    """How the daemon speaks on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


@dataclass(frozen=True)
class Config:
    """Every value in force. `origins` says per key path where a value that is no default came from; `given` are the
    credentials that the environment held.
    """

    sampling: Sampling = field(default_factory=Sampling)
    sources: Mapping[str, SourceOptions] = field(default_factory=dict)
    carbon: Carbon = field(default_factory=Carbon)
    providers: Mapping[str, ProviderOptions] = field(default_factory=dict)
    attribution: Attribution = field(default_factory=Attribution)
    namers: Mapping[str, NamerOptions] = field(default_factory=dict)
    web: Web = field(default_factory=Web)
    local: Local = field(default_factory=Local)
    log: Log = field(default_factory=Log)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    given: Mapping[str, Secret] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None


def load(
    path: Path | None,
    environ: MutableMapping[str, str],
    flags: Mapping[str, Any],
    given: Mapping[str, Secret] = MappingProxyType({}),
) -> Config:
    """Return the configuration; raise ConfigError naming key path, line, value and remedy.

    `path` None: the default file if it is there. `flags` maps key paths to values. Credentials are taken out of
    `environ`, so that no child inherits them: `given` are those that were taken out before.
    """
    file = path if path is not None else DEFAULT_FILE if layers.exists(DEFAULT_FILE) else None
    values: dict[str, Value] = {}
    secrets = {**given, **layers.take_secrets(environ, registry.PROVIDERS)}
    if file is not None:
        values.update(layers.from_file(file, lambda key: key in _tables()))
    values.update(layers.from_environment(environ, _hint))
    values.update({key: Value(raw, "flag") for key, raw in flags.items() if raw is not None})
    return _build(values, secrets, environ, file)


def parse_duration(text: object) -> Seconds:
    """Return seconds of `250ms`, `5s`, `10m`, `2h`, `1d`, or of a number of seconds above 0; raise ValueError."""
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    number = float(match[1]) * _UNITS[match[2]] if match else text
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
        raise ValueError('expected a duration such as "250ms", "5s", "10m" or "2h"')
    if number > LONGEST_SECONDS:
        raise ValueError("longer than a year")
    return Seconds(number)


def duration_text(seconds: float) -> str:
    """Write a duration as the configuration does."""
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size and (seconds / size).is_integer():
            return f"{seconds / size:.0f}{unit}"
    return f"{float(seconds)!r}s"


def effective(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield every key path, its value as TOML and where it comes from; secrets are named, never shown."""
    tables: list[tuple[str, Any]] = [("sampling", config.sampling)]
    tables += [(f"sources.{name}", options) for name, options in config.sources.items()]
    tables += [("carbon", config.carbon)]
    tables += [(f"carbon.{name}", options) for name, options in config.providers.items()]
    tables += [("attribution", config.attribution)]
    tables += [(f"workloads.{name}", options) for name, options in config.namers.items()]
    tables += [("web", config.web), ("local", config.local), ("log", config.log)]
    for section, table in tables:
        for key in fields(table):
            path = f"{section}.{key.name}"
            yield path, _toml(getattr(table, key.name)), config.origins.get(path, "default")
    for name, secret in config.secrets.items():
        yield f"carbon.{name}.token", "(secret)", secret.origin


# --- into values --------------------------------------------------------------------------------


def _sections() -> dict[str, type[Any]]:
    """Every table of the configuration by its path."""
    return {
        "sampling": Sampling,
        **{f"sources.{name}": registry.source(name).Options for name in registry.SOURCES},
        "carbon": Carbon,
        **{f"carbon.{name}": registry.provider(name).Options for name in registry.PROVIDERS},
        "attribution": Attribution,
        **{f"workloads.{name}": registry.namer(name).Options for name in registry.WORKLOADS},
        "web": Web,
        "local": Local,
        "log": Log,
    }


@cache
def _tables() -> frozenset[str]:
    """Keys whose value is a table of its own, named by the user."""
    return frozenset(
        f"{section}.{name}"
        for section, kind in _sections().items()
        for name, hint in get_type_hints(kind).items()
        if get_origin(hint) is dict
    )


def _hint(path: str) -> Any:
    """The type of a key; that of text, where there is no such key."""
    section, _, key = path.rpartition(".")
    return _hints(section).get(key, str) if section in _sections() else str


def _hints(section: str) -> dict[str, Any]:
    return get_type_hints(_sections()[section])


def _build(
    values: Mapping[str, Value], given: Mapping[str, Secret], environ: Mapping[str, str], file: Path | None
) -> Config:
    sections = _sections()
    for path, value in values.items():
        _check_known(path, value, sections)
    tables = {section: _table(section, kind, values) for section, kind in sections.items()}
    carbon: Carbon = tables["carbon"]
    _check(values, tables)
    providers = {name: tables[f"carbon.{name}"] for name in registry.PROVIDERS}
    return Config(
        sampling=tables["sampling"],
        sources={name: tables[f"sources.{name}"] for name in registry.SOURCES},
        carbon=carbon,
        providers=providers,
        attribution=tables["attribution"],
        namers={name: tables[f"workloads.{name}"] for name in registry.WORKLOADS},
        web=tables["web"],
        local=tables["local"],
        log=tables["log"],
        secrets={
            name: secret
            for name, options in providers.items()
            if (secret := layers.secret(name, getattr(options, "token_file", ""), given, environ)) is not None
        },
        given=given,
        origins={path: value.origin for path, value in values.items()},
        file=file,
    )


def _check_known(path: str, value: Value, sections: Mapping[str, type[Any]]) -> None:
    """Raise ConfigError for a key that is not known, naming the nearest that is."""
    section, _, key = path.rpartition(".")
    known = [f"{name}.{f.name}" for name, kind in sections.items() for f in fields(kind)]
    if path in sections:
        if value.raw == {}:
            return
        raise ConfigError(f"{value.origin}: {path} is a table: write [{path}], and its keys below")
    if path in known:
        return
    if value.raw == {}:
        nearest = difflib.get_close_matches(path, list(sections), n=1, cutoff=0.0)[0]
    elif section:
        table = difflib.get_close_matches(section, list(sections), n=1, cutoff=0.0)[0]
        of_table = [k for k in known if k.rpartition(".")[0] == table]
        nearest = difflib.get_close_matches(f"{table}.{key}", of_table, n=1, cutoff=0.0)[0]
    else:
        nearest = max(known, key=lambda k: difflib.SequenceMatcher(None, key, k.rpartition(".")[2]).ratio())
    raise ConfigError(f"{value.origin}: unknown key {_shown(path)} ({_guarded(path, value)}); the nearest is {nearest}")


def _guarded(path: str, value: Value) -> str:
    """A value as it stands, unless it may be a credential in a wrong place."""
    is_harmless = isinstance(value.raw, bool | int | float) or path.count(".") < DEPTH_OF_PROVIDERS
    return _toml(value.raw) if is_harmless and not SECRETIVE.search(path) else "value not shown"


def _table(section: str, kind: type[Any], values: Mapping[str, Value]) -> Any:
    given = {f.name: _value(section, f, values) for f in fields(kind) if f"{section}.{f.name}" in values}
    return kind(**given)


def _value(section: str, key: Field[Any], values: Mapping[str, Value]) -> Any:
    path = f"{section}.{key.name}"
    value = values[path]
    hint = _hints(section)[key.name]
    if path in _tables():
        _check_entries(path, value, get_args(hint)[1])
    try:
        converted = msgspec.convert(value.raw, hint, dec_hook=_decode)
        complaint = _unfit(converted)
        cause: Exception | None = None
    except msgspec.ValidationError as error:
        complaint, cause = re.sub(r" - at `\$.*`$", "", str(error)).replace("`", "").rstrip("."), error
    if not complaint:
        return converted
    example = "" if key.default in (MISSING, None, "") else f"; the default is {_toml(key.default)}"
    raise ConfigError(f"{value.origin}: {path} = {_toml(value.raw)}: {complaint}{example}") from cause


def _check_entries(path: str, value: Value, kind: type[Any]) -> None:
    if not is_dataclass(kind):
        return
    known = [f.name for f in fields(kind)]
    for name, entry in value.raw.items() if isinstance(value.raw, dict) else ():
        for key in entry if isinstance(entry, dict) else ():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                raise ConfigError(f"{value.origin}: unknown key {path}.{name}.{key}; the nearest known one is {near}")


def _unfit(value: Any) -> str:
    """What is wrong with a value whatever its key; empty: nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if isinstance(value, str) and "\0" in value:
        return "expected text without NUL"
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):  # what the environment holds of it
        return "expected text in UTF-8"
    return ""


def _decode(kind: type[Any], raw: object) -> Any:
    if kind is Seconds:
        return parse_duration(raw)
    raise NotImplementedError(f"no such option type: {kind}")  # pragma: no cover


def _check(values: Mapping[str, Value], tables: Mapping[str, Any]) -> None:
    """What a type cannot say."""
    for path, complaint in complaints(tables):
        # A value that stands in no file or variable is a default, and no default is wrong.
        value = values.get(path)
        if value is not None:
            shown = "…" if {"@", "?"} & set(str(value.raw)) or SECRETIVE.search(path) else _toml(value.raw)
            raise ConfigError(f"{value.origin}: {path} = {shown}: {complaint}")


def _toml(value: Any) -> str:  # noqa: PLR0911 - one line per type
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Seconds):
        return f'"{duration_text(value)}"'
    if isinstance(value, str):
        return f'"{_shown(value)}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        return "{" + ", ".join(f"{f.name} = {_toml(getattr(value, f.name))}" for f in fields(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return str(value)


def _shown(text: str) -> str:
    """Text fit for a terminal and for TOML: quotes, backslashes and what cannot be printed are escaped."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in plain)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < PLANE else f"\\U{code:08x}"


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return where the daemon may keep what survives a restart: systemd's, else root's, else the user's own.

    None: it has no place that nobody else writes to.
    """
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/wattgram")
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "wattgram"
    return Path(environ["HOME"]) / ".local" / "state" / "wattgram" if environ.get("HOME") else None
