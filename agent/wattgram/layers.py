"""What the file, the environment and the credentials say: each value with the place it came from."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

from wattgram.ports import ConfigError, ReadFailed, Secret

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "WATTGRAM_"
# What a parser raises at text that is deep, long or wrong: recursion, digits beyond its limit, its own error.
NOT_TOML = (tomllib.TOMLDecodeError, RecursionError, ValueError)


@dataclass(frozen=True, slots=True)
class Value:
    """A raw value and where it stands."""

    raw: Any
    origin: str


def exists(path: Path) -> bool:
    """Whether a file is there and may be looked for; a name that is too long or a closed folder is no file."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def from_file(path: Path, is_table: Callable[[str], bool]) -> dict[str, Value]:
    """Return the values of a TOML file by key path; `is_table` says which keys hold a table as their value.

    Raise ConfigError when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        table = tomllib.loads(text)
        found = dict(_flat(table, is_table))
    except NOT_TOML as error:
        raise ConfigError(f"{path}: not TOML: {str(error) or type(error).__name__}") from error
    return {key: Value(raw, f"{path}:{line_of(text, key) or '?'}") for key, raw in found.items()}


def _flat(table: Mapping[str, Any], is_table: Callable[[str], bool], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and not is_table(path):
            yield from _flat(value, is_table, f"{path}.")
        else:
            yield path, value


def line_of(text: str, path: str) -> int | None:
    """Return the line of a key in a TOML text, since the parser does not tell; None: not found."""
    section, _, key = path.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.match(r"\[+\s*([^\[\]]+?)\s*\]", stripped)
        if header:
            current = re.sub(r"\s*\.\s*", ".", header[1]).replace('"', "")
            if current == path or current.startswith(f"{path}."):
                return number
        name = re.match(r"([\w.\"-]+)\s*=", stripped)
        if name and f"{current}.{name[1]}".replace('"', "").strip(".") == f"{section}.{key}".strip("."):
            return number
    return None


def from_environment(environ: Mapping[str, str], hint_of: Callable[[str], Any]) -> dict[str, Value]:
    """Return the values of `WATTGRAM_SECTION__KEY` by key path, each read as its key's type asks."""
    found: dict[str, Value] = {}
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX) and "__" in name:
            path = name.removeprefix(PREFIX).lower().replace("__", ".")
            found[path] = Value(_typed(text, hint_of(path)), f"environment {name}")
    return found


def _typed(text: str, hint: Any) -> Any:
    """An environment value has no type of its own: it gets its key's."""
    if hint is str or get_origin(hint) is Literal:
        return text
    if get_origin(hint) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (*NOT_TOML, KeyError):
        return text


def take_secrets(environ: MutableMapping[str, str], providers: Mapping[str, str]) -> dict[str, Secret]:
    """Return the credentials given in the environment, by provider; they leave it here."""
    found: dict[str, Secret] = {}
    for provider in providers:
        name = f"{PREFIX}CARBON__{provider.upper()}__TOKEN"
        if name in environ:
            found[provider] = Secret(f"environment {name}", _constant(environ.pop(name)))
    return found


def secret(name: str, token_file: str, given: Mapping[str, Secret], environ: Mapping[str, str]) -> Secret | None:
    """Return a provider's credential: by file, else systemd credential, else environment; None: it has none."""
    if token_file:
        return Secret(f"file {token_file}", _from_credential(Path(token_file)))
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and exists(credential := Path(directory) / f"{name}-token"):
        return Secret(f"credential {name}-token", _from_credential(credential))
    return given.get(name)


def _constant(text: str) -> Callable[[], str]:
    return lambda: _token(text, "the token in the environment")


def _from_credential(path: Path) -> Callable[[], str]:
    def reveal() -> str:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ReadFailed(f"token file {path}: {getattr(error, 'strerror', None) or 'not text'}", "auth") from error
        return _token(text, f"token file {path}")

    return reveal


def _token(text: str, place: str) -> str:
    """A token fit for a header; what it is stays out of the error."""
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ReadFailed(f"{place}: expected one line with a token", "auth")
    return text
