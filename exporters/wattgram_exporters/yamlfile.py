"""Strict YAML: each key known, once, and of its type; what is wrong is said with its line, never with a value."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from wattgram.ports import ConfigError

INSTALL = 'pip install "wattgram[auth]"'
MOST_BYTES = 1 << 18
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SCALARS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "merge", "value"))
_NULL, _BOOL, _INT = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int"))
_LONGEST_KEY = 40


def library(name: str) -> ModuleType:
    """Return what only some users need, imported when they do; raise ConfigError with what installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"web.config_file needs the module {name}, which is not installed: {INSTALL}") from error


def document(path: Path) -> Any:
    """Return the node that a file holds, None: it is empty; raise ConfigError with the line."""
    yaml = library("yaml")
    text = content(path, "web.config_file")
    try:
        # Not the loader in C: it recurses on the stack, and ends the process on 100 000 opening brackets.
        return yaml.compose(text.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not text in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: it is nested too deep") from None
    except yaml.YAMLError as error:  # its own text quotes the line, on which a password may stand
        mark = getattr(error, "problem_mark", None)
        problem = re.sub(r"'[^']{4,}'", "…", getattr(error, "problem", None) or "it is no YAML")
        raise ConfigError(f"{path}{f':{mark.line + 1}' if mark else ''}: {problem}") from None


def content(path: Path, key: str) -> bytes:
    """Return what a file holds; raise ConfigError when that cannot be read, or is beyond what anybody would write."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{key} = {path}: it is no regular file")
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        remedy = "; the daemon's user must be able to read it" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{key} = {path}: {os.strerror(error.errno or 0)}{remedy}") from error
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{key} = {path}: it is longer than {MOST_BYTES >> 10} KiB")
    return text


def fit(key: str) -> str:
    """A key fit to be shown: what is long, odd or looks like a hash may be a secret in the wrong place."""
    return key if len(key) <= _LONGEST_KEY and key.isprintable() and not key.startswith("$") else "…"


@dataclass(frozen=True, slots=True)
class YamlFile:
    """The file being read, the paths of the keys that it may hold, and on which line each of its own stood."""

    path: Path
    known: tuple[str, ...]
    lines: dict[str, int] = field(default_factory=dict)

    def fault(self, key: str, complaint: str) -> ConfigError:
        """The error to raise about a key."""
        line = self.lines.get(key)
        return ConfigError(f"{self.path}{f':{line}' if line else ''}: {key}: {complaint}")

    def entries(self, node: Any, path: str) -> Iterator[tuple[str, Any]]:
        """The keys of a table, each once, and their nodes; null is an empty table."""
        if node is None or node.tag == _NULL:
            return
        if node.id != "mapping":
            raise self.fault(path or "the whole", "expected keys with values")
        seen = set()
        for name, value in node.value:
            key = name.value if name.id == "scalar" else "?"
            at = f"{path}.{fit(key)}".lstrip(".")
            self.lines[at] = name.start_mark.line + 1
            if key in seen:
                raise self.fault(at, "it stands there twice")
            seen.add(key)
            yield key, value

    def table(self, node: Any, path: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
        """The values of a table whose keys are known; null is as if the key were absent."""
        found = {}
        for key, value in self.entries(node, path):
            at = f"{path}.{fit(key)}".lstrip(".")
            if key not in kinds:
                raise self.fault(at, f"unknown key; the nearest is {self._nearest(path, key)}")
            if value.tag != _NULL:
                found[key] = kinds[key](self, value, at)
        return found

    def text(self, node: Any, path: str) -> str:
        """One word or line; a number is text too, as in Go's toolkit."""
        if node.id != "scalar" or node.tag not in _SCALARS:
            raise self.fault(path, "expected text")
        return str(node.value)

    def truth(self, node: Any, path: str) -> bool:
        """True or false."""
        if node.id != "scalar" or node.tag != _BOOL:
            raise self.fault(path, "expected true or false")
        return str(node.value).lower() in ("true", "yes", "on")

    def whole(self, node: Any, path: str) -> int:
        """A whole number."""
        if node.id != "scalar" or node.tag != _INT or not re.fullmatch(r"[+-]?\d{1,18}", node.value):
            raise self.fault(path, "expected a whole number")
        return int(node.value)

    def duration(self, node: Any, path: str) -> float:
        """As Go writes it; a bare number is nanoseconds, as there."""
        text = self.text(node, path)
        if node.tag == _INT:
            return self.whole(node, path) * 1e-9
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise self.fault(path, 'expected a duration such as "1s" or "1m30s"')
        return sum(float(number) * _UNITS[unit] for number, unit in parts)

    def texts(self, node: Any, path: str) -> tuple[str, ...]:
        """A list of texts."""
        if node.id != "sequence":
            raise self.fault(path, "expected a list")
        return tuple(self.text(item, path) for item in node.value)

    def pairs(self, node: Any, path: str) -> dict[str, str]:
        """A table of texts whose keys are the user's own."""
        return {
            key: "" if value.tag == _NULL else self.text(value, f"{path}.{fit(key)}")
            for key, value in self.entries(node, path)
        }

    def one_of(self, key: str, value: str, known: tuple[str, ...]) -> None:
        """Raise ConfigError unless a value is known."""
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)[0]
            raise self.fault(key, f"{fit(value)} is not known; the nearest is {near}")

    def _nearest(self, path: str, key: str) -> str:
        """The known key that is most like this one, of its own table if it can be."""

        def likeness(candidate: str) -> tuple[float, bool]:
            table, _, name = candidate.rpartition(".")
            return difflib.SequenceMatcher(None, key, name).ratio(), table == path

        return max(self.known, key=likeness)


Kind = Callable[[YamlFile, Any, str], Any]


def table_of(kinds: Mapping[str, Kind]) -> Kind:
    """Return the kind of a table whose keys are these."""
    return lambda file, node, path: file.table(node, path, kinds)
