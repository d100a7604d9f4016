"""TOML and environment become frozen values; an unknown key is an error that names the nearest known one.

Flag > environment (`WATTGRAM_SECTION__KEY`) > file > default.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from wattgram import registry
from wattgram.ports import ConfigError, ProviderOptions, ReadFailed, Seconds, Secret, SourceOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FILE = Path("/etc/wattgram/wattgram.toml")
PREFIX = "WATTGRAM_"
AUTO = "auto"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_ZONE = re.compile(r"[A-Z]{2,5}(?:-[A-Z0-9]{1,6}){0,3}")
LEAST_INTERVAL = 0.05
HIGHEST_PORT = 65_535


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
class Web:
    """`config_file` is an exporter-toolkit web.config.yml; it is refused until TLS is built in."""

    listen: str = "0.0.0.0:14044"
    config_file: str = ""


@dataclass(frozen=True, kw_only=True)
class Log:
    """How the daemon speaks on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


@dataclass(frozen=True)
class Config:
    """Every value in force. `origins` says per key path where a value that is no default came from."""

    sampling: Sampling = field(default_factory=Sampling)
    sources: Mapping[str, SourceOptions] = field(default_factory=dict)
    carbon: Carbon = field(default_factory=Carbon)
    providers: Mapping[str, ProviderOptions] = field(default_factory=dict)
    web: Web = field(default_factory=Web)
    log: Log = field(default_factory=Log)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Value:
    raw: Any
    origin: str


def load(
    path: Path | None,
    environ: MutableMapping[str, str],
    flags: Mapping[str, Any],
) -> Config:
    """Return the configuration; raise ConfigError naming key path, line, value and remedy.

    `path` None: the default file if it is there. `flags` maps key paths to values. Credentials are taken out of
    `environ`, so that no child inherits them.
    """
    file = path if path is not None else DEFAULT_FILE if DEFAULT_FILE.exists() else None
    values: dict[str, _Value] = {}
    secrets = _take_secrets(environ)
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_environment(environ))
    values.update({key: _Value(raw, "flag") for key, raw in flags.items() if raw is not None})
    return _build(values, secrets, environ, file)


def parse_duration(text: object) -> Seconds:
    """Return seconds of `250ms`, `5s`, `10m`, `2h`, `1d`, or of a number of seconds above 0; raise ValueError."""
    if isinstance(text, int | float) and not isinstance(text, bool) and text > 0:
        return Seconds(text)
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or float(match[1]) <= 0:
        raise ValueError('expected a duration such as "250ms", "5s", "10m" or "2h"')
    return Seconds(float(match[1]) * _UNITS[match[2]])


def duration_text(seconds: float) -> str:
    """Write a duration as the configuration does."""
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size and (seconds / size).is_integer():
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def effective(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield every key path, its value as TOML and where it comes from; secrets are named, never shown."""
    tables: list[tuple[str, Any]] = [("sampling", config.sampling)]
    tables += [(f"sources.{name}", options) for name, options in config.sources.items()]
    tables += [("carbon", config.carbon)]
    tables += [(f"carbon.{name}", options) for name, options in config.providers.items()]
    tables += [("web", config.web), ("log", config.log)]
    for section, table in tables:
        for key in fields(table):
            path = f"{section}.{key.name}"
            yield path, _toml(getattr(table, key.name)), config.origins.get(path, "default")
    for name, secret in config.secrets.items():
        yield f"carbon.{name}.token", "(secret)", secret.origin


# --- from the outside ---------------------------------------------------------------------------


def _from_file(path: Path) -> dict[str, _Value]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return {key: _Value(raw, f"{path}:{line_of(text, key) or '?'}") for key, raw in _flat(table)}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and path not in _tables():
            if not value and path not in _sections():
                yield path, value  # an unknown empty table is still an unknown key
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


@cache
def _tables() -> frozenset[str]:
    """Keys whose value is a table of its own, named by the user."""
    return frozenset(
        f"{section}.{name}"
        for section, kind in _sections().items()
        for name, hint in get_type_hints(kind).items()
        if get_origin(hint) is dict
    )


def line_of(text: str, path: str) -> int | None:
    """Return the line of a key in a TOML text, since the parser does not tell; None: not found."""
    section, _, key = path.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.match(r"\[\s*([^\[\]]+?)\s*\]", stripped)
        if header:
            current = re.sub(r"\s*\.\s*", ".", header[1]).replace('"', "")
            if current == path:
                return number
        name = re.match(r"([\w.\"-]+)\s*=", stripped)
        if name and f"{current}.{name[1]}".replace('"', "").strip(".") == f"{section}.{key}".strip("."):
            return number
    return None


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        path = name.removeprefix(PREFIX).lower().replace("__", ".")
        found[path] = _Value(_typed(path, text), f"environment {name}")
    return found


def _typed(path: str, text: str) -> Any:
    """An environment value has no type of its own: it gets its key's."""
    section, _, key = path.rpartition(".")
    hint = _hints(section).get(key, str) if section in _sections() else str
    if hint is str or getattr(hint, "__origin__", None) is Literal:
        return text
    if "tuple" in str(hint):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _take_secrets(environ: MutableMapping[str, str]) -> dict[str, Secret]:
    """Credentials given in the environment leave it here."""
    found: dict[str, Secret] = {}
    for provider in registry.PROVIDERS:
        name = f"{PREFIX}CARBON__{provider.upper()}__TOKEN"
        if name in environ:
            found[provider] = Secret(f"environment {name}", _constant(environ.pop(name)))
    return found


def _constant(text: str) -> Callable[[], str]:
    def reveal() -> str:
        if not text.strip():
            raise ReadFailed("the token in the environment is empty", "auth")
        return text.strip()

    return reveal


def _from_credential(path: Path) -> Callable[[], str]:
    def reveal() -> str:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ReadFailed(f"token file {path}: {getattr(error, 'strerror', 'not text')}", "auth") from error
        if not text or not text.isprintable() or any(c.isspace() for c in text):
            raise ReadFailed(f"token file {path}: expected one line with a token", "auth")
        return text

    return reveal


# --- into values --------------------------------------------------------------------------------


def _sections() -> dict[str, type[Any]]:
    """Every table of the configuration by its path."""
    return {
        "sampling": Sampling,
        **{f"sources.{name}": registry.source(name).Options for name in registry.SOURCES},
        "carbon": Carbon,
        **{f"carbon.{name}": registry.provider(name).Options for name in registry.PROVIDERS},
        "web": Web,
        "log": Log,
    }


def _hints(section: str) -> dict[str, Any]:
    return get_type_hints(_sections()[section])


def _build(
    values: Mapping[str, _Value], given: Mapping[str, Secret], environ: Mapping[str, str], file: Path | None
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
        web=tables["web"],
        log=tables["log"],
        secrets={
            name: secret
            for name, options in providers.items()
            if (secret := _secret(name, options, given, environ)) is not None
        },
        origins={path: value.origin for path, value in values.items()},
        file=file,
    )


def _secret(
    name: str, options: ProviderOptions, given: Mapping[str, Secret], environ: Mapping[str, str]
) -> Secret | None:
    """By file, else systemd credential, else environment."""
    token_file = getattr(options, "token_file", "")
    if token_file:
        return Secret(f"file {token_file}", _from_credential(Path(token_file)))
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (credential := Path(directory) / f"{name}-token").exists():
        return Secret(f"credential {name}-token", _from_credential(credential))
    return given.get(name)


def _check_known(path: str, value: _Value, sections: Mapping[str, type[Any]]) -> None:
    section, _, key = path.rpartition(".")
    known = [f"{name}.{f.name}" for name, kind in sections.items() for f in fields(kind)]
    if section in sections and path in known:
        return
    nearest = difflib.get_close_matches(path, [*known, *sections], n=1, cutoff=0.0)
    if section not in sections and path not in sections:
        tables = difflib.get_close_matches(section or path, list(sections), n=1, cutoff=0.0)
        nearest = difflib.get_close_matches(f"{tables[0]}.{key}", known, n=1, cutoff=0.0) if section else tables
    shown = f"{key} = {_toml(value.raw)}" if section else path
    raise ConfigError(f"{value.origin}: unknown key {path} ({shown}); the nearest known one is {nearest[0]}")


def _table(section: str, kind: type[Any], values: Mapping[str, _Value]) -> Any:
    given = {f.name: _value(section, f, values) for f in fields(kind) if f"{section}.{f.name}" in values}
    return kind(**given)


def _value(section: str, key: Field[Any], values: Mapping[str, _Value]) -> Any:
    path = f"{section}.{key.name}"
    value = values[path]
    hint = _hints(section)[key.name]
    if path in _tables():
        _check_entries(path, value, get_args(hint)[1])
    try:
        return msgspec.convert(value.raw, hint, dec_hook=_decode)
    except msgspec.ValidationError as error:
        what = re.sub(r" - at `\$.*`$", "", str(error)).replace("`", "").rstrip(".")
        example = "" if key.default in (MISSING, None, "") else f"; the default is {_toml(key.default)}"
        raise ConfigError(f"{value.origin}: {path} = {_toml(value.raw)}: {what}{example}") from error


def _check_entries(path: str, value: _Value, kind: type[Any]) -> None:
    known = [f.name for f in fields(kind)]
    for name, entry in value.raw.items() if isinstance(value.raw, dict) else ():
        for key in entry if isinstance(entry, dict) else ():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                raise ConfigError(f"{value.origin}: unknown key {path}.{name}.{key}; the nearest known one is {near}")


def _decode(kind: type[Any], raw: object) -> Any:
    if kind is Seconds:
        return parse_duration(raw)
    raise NotImplementedError(f"no such option type: {kind}")  # pragma: no cover


def _check(values: Mapping[str, _Value], tables: Mapping[str, Any]) -> None:
    """What a type cannot say."""
    for path, complaint in (*_carbon_complaints(tables["carbon"]), *_other_complaints(tables)):
        # A value that stands in no file or variable is a default, and no default is wrong.
        value = values.get(path)
        if value is not None:
            raise ConfigError(f"{value.origin}: {path} = {_toml(value.raw)}: {complaint}")


def _carbon_complaints(carbon: Carbon) -> Iterator[tuple[str, str]]:
    if carbon.zone and not _ZONE.fullmatch(carbon.zone):
        yield "carbon.zone", 'expected a zone such as "FR", "US-CAL-CISO" or "DK-DK1", in capitals'
    if not carbon.zone:
        yield "carbon.providers", 'a zone is needed too: set carbon.zone, such as "FR"'
    known = [*registry.PROVIDERS, AUTO]
    for name in carbon.providers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            yield "carbon.providers", f"no provider is called {name!r}; the nearest is {near!r}"
    for key, least in (("pue", 1.0), ("market_intensity", 0.0)):
        number = getattr(carbon, key)
        if number is not None and not number >= least:
            yield f"carbon.{key}", f"expected {least:g} or more"


def _other_complaints(tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section, table in tables.items():
        interval = getattr(table, "interval", None)
        if interval is not None and interval < LEAST_INTERVAL:
            yield f"{section}.interval", "the sensors behind it do not change so fast; 50ms is the least"
    for gpu, calibration in tables["sources.nvml"].calibration.items():
        if not 0.5 <= calibration.gain <= 2.0:  # noqa: PLR2004 - cards are off by 13 % at most
            yield "sources.nvml.calibration", f"{gpu}: gain = {calibration.gain:g}: expected 0.5 to 2"
    web: Web = tables["web"]
    if web.config_file:
        yield "web.config_file", "TLS and passwords are not built in yet; put a proxy in front and leave this empty"
    host, colon, port = web.listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > HIGHEST_PORT or "/" in host:
        yield "web.listen", 'expected HOST:PORT, such as "127.0.0.1:14044"'


def _toml(value: Any) -> str:  # noqa: PLR0911 - one line per type
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Seconds):
        return f'"{duration_text(value)}"'
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        return "{" + ", ".join(f"{f.name} = {_toml(getattr(value, f.name))}" for f in fields(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return str(value)


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return where the daemon may keep what survives a restart: systemd's, else root's, else the user's own."""
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/wattgram")
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/tmp")) / ".local" / "state")  # noqa: S108
    return Path(base) / "wattgram"
