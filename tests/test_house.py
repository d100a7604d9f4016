"""The import rules of the house, as one table, asserted over the syntax trees of the installed packages.

Words know nothing, the core knows words, plugs know words and sockets, only the registry knows plugs.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """Modules (by prefix; the longest decides) and the rooms from which they import.

    `own`: how many parts of its name a module shares with the folder that it may import from besides.
    """

    name: str
    modules: tuple[str, ...]
    imports: tuple[str, ...]
    own: int = 0


WORDS = ("version", "model", "snapshot")
SOCKETS = (*WORDS, "ports")

ROOMS = (
    Room("version", ("wattgram.__init__", "wattgram.__version__"), imports=("client",)),
    # What training programs import: the standard library alone.
    Room("client", ("wattgram.measuring",), imports=()),
    Room("model", ("wattgram.model",), imports=()),
    Room("snapshot", ("wattgram.snapshot",), imports=("model",)),
    Room("ports", ("wattgram.ports",), imports=("model", "snapshot")),
    Room(
        "core",
        (
            "wattgram.accountant",
            "wattgram.activity",
            "wattgram.attribution",
            "wattgram.child",
            "wattgram.clock",
            "wattgram.feed",
            "wattgram.frames",
            "wattgram.idle",
            "wattgram.isolated",
            "wattgram.kin",
            "wattgram.ledger",
            "wattgram.lens",
            "wattgram.local",
            "wattgram.meter",
            "wattgram.poller",
            "wattgram.receipts",
            "wattgram.roster",
            "wattgram.silence",
            "wattgram.sound",
            "wattgram.tally",
            "wattgram.tariff",
            "wattgram.trust",
            "wattgram.turns",
            "wattgram.window",
            "wattgram.windows",
        ),
        imports=(*SOCKETS, "core"),
    ),
    Room("tools", ("wattgram.tools",), imports=(*SOCKETS, "tools")),
    Room("plugs", ("wattgram.sources", "wattgram.providers", "wattgram.workloads"), imports=(*SOCKETS, "tools"), own=3),
    Room("exporters", ("wattgram_exporters",), imports=SOCKETS, own=1),
    Room(
        "hall", ("wattgram",), imports=(*SOCKETS, "client", "core", "tools", "hall")
    ),  # cli, doctor, config, app, registry
)

# What only one place may import, and which place that is.
ADAPTERS = {
    "pynvml": "wattgram.sources.nvml",
    "requests": "wattgram.tools.fetch",
    "urllib3": "wattgram.tools.fetch",
    "prometheus_client": "wattgram_exporters",
    "rich": "wattgram.top",
}

REGISTRY = "wattgram.registry"
PLUGS = ("wattgram.sources.", "wattgram.providers.", "wattgram.workloads.", "wattgram_exporters.")
LONGEST_FILE = 450
LONGEST_FUNCTION = 60


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """A source file under its full name; a package's own is called `….__init__`."""

    name: str
    source: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)


def is_within(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")


def imports(module: Module) -> Iterator[str]:
    """Everything imported, wherever in the file: `from a import b` gives a.b, relative names are made whole."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = module.name.split(".")[: -node.level] if node.level else []
            yield from (".".join([*near, *filter(None, [node.module]), alias.name]) for alias in node.names)


def strings(module: Module) -> Iterator[str]:
    """Every piece of text that is not a docstring."""
    tree = module.tree
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def room_of(name: str) -> Room | None:
    """The room with the longest prefix of `name`; None: a name that is not ours."""
    rooms = [(len(prefix), room) for room in ROOMS for prefix in room.modules if is_within(name, prefix)]
    return max(rooms, key=lambda pair: pair[0])[1] if rooms else None


# --- the rules: each yields what offends ------------------------------------------------------------


def stays_in_its_rooms(module: Module) -> Iterator[str]:
    """A room imports from the rooms in its row, and from its own folder where the row says so."""
    here = room_of(module.name)
    assert here
    for name in imports(module):
        there = room_of(name)
        if there and there.name not in here.imports and not is_own(here, module.name, name):
            yield f"{here.name} imports {name} of {there.name}"


def is_own(room: Room, importer: str, imported: str) -> bool:
    """Whether both lie in one folder; a plug that is a single file shares `_private` neighbours besides."""
    if not room.own:
        return False
    (*folder, last), theirs = importer.split(".")[: room.own], imported.split(".")
    neighbour = theirs[room.own - 1] if theirs[: room.own - 1] == folder and len(theirs) >= room.own else ""
    return neighbour == last or (bool(folder) and neighbour.startswith("_"))


def leaves_plugs_to_the_registry(module: Module) -> Iterator[str]:
    """Nobody else names a plug, be it in an import or in a string; a plug may name itself."""
    here = room_of(module.name)
    assert here
    if module.name != REGISTRY:
        for text in (*imports(module), *strings(module)):
            if any(plug in text for plug in PLUGS) and not is_own(here, module.name, text):
                yield f"names a plug: {text!r}"


def leaves_libraries_to_their_adapter(module: Module) -> Iterator[str]:
    for name in imports(module):
        adapter = ADAPTERS.get(name.split(".")[0])
        if adapter and not is_within(module.name, adapter):
            yield f"imports {name}, which only {adapter} does"


def imports_by_name(module: Module) -> Iterator[str]:
    return (f"imports all of {name.removesuffix('.*')}" for name in imports(module) if name.endswith(".*"))


def begins_with_why_it_exists(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield "has no docstring"


def leaves_the_import_path_alone(module: Module) -> Iterator[str]:
    """Reading sys.path is innocent; setting it, an item of it, or calling a method of it is not."""
    if "sys.path" in imports(module):
        yield "imports sys.path"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Subscript):
            whole, base, sets = ast.unparse(node), ast.unparse(node.value), not isinstance(node.ctx, ast.Load)
            calls = base == "sys.path" and isinstance(node, ast.Attribute)
            if calls or (sets and "sys.path" in {whole, base}):
                yield f"line {node.lineno}: {whole}"


def is_short_enough_to_be_read(module: Module) -> Iterator[str]:
    lines = module.source.count("\n")
    if lines > LONGEST_FILE:
        yield f"{lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{node.name} has {length} lines"


Rule = Callable[[Module], Iterator[str]]
RULES: tuple[Rule, ...] = (
    stays_in_its_rooms,
    leaves_plugs_to_the_registry,
    leaves_libraries_to_their_adapter,
    imports_by_name,
    begins_with_why_it_exists,
    leaves_the_import_path_alone,
    is_short_enough_to_be_read,
)


# --- the house keeps them ---------------------------------------------------------------------------


def installed(package: str) -> Iterator[Module]:
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.origin
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join([package, *path.relative_to(root).with_suffix("").parts])
        yield Module(name, path.read_text(encoding="utf-8"))


HOUSE = [*installed("wattgram"), *installed("wattgram_exporters")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module(rule: Rule) -> None:
    offences = [f"{module.name}: {offence}" for module in HOUSE for offence in rule(module)]

    assert [] == offences


# --- and each rule can fail -------------------------------------------------------------------------

OFFENDERS: tuple[tuple[Rule, str, str], ...] = (
    (stays_in_its_rooms, "wattgram.model", "from wattgram.ports import Clock"),
    (stays_in_its_rooms, "wattgram.model", "from wattgram import __version__"),
    (stays_in_its_rooms, "wattgram.ports", "import wattgram.meter"),
    (stays_in_its_rooms, "wattgram.__init__", "from wattgram.cli import main"),
    (stays_in_its_rooms, "wattgram.measuring", "from wattgram.model import Instant"),
    (stays_in_its_rooms, "wattgram.meter", "from wattgram.tools import fetch"),
    (stays_in_its_rooms, "wattgram.meter", "from . import config"),
    (stays_in_its_rooms, "wattgram.tariff", "def f():\n    from wattgram.registry import open_provider"),
    (stays_in_its_rooms, "wattgram.tools.sysfs", "from wattgram.clock import SystemClock"),
    (stays_in_its_rooms, "wattgram.sources.rapl", "from wattgram.ledger import Ledger"),
    (stays_in_its_rooms, "wattgram.sources.rapl", "from wattgram.sources.hwmon import HwmonSource"),
    (stays_in_its_rooms, "wattgram.sources.rapl", "from .hwmon import HwmonSource"),
    (stays_in_its_rooms, "wattgram.sources.nvml.child", "from ..rapl import RaplSource"),
    (stays_in_its_rooms, "wattgram.sources.rapl", "import wattgram.sources"),
    (stays_in_its_rooms, "wattgram.providers.entsoe", "import wattgram.sources._shared"),
    (stays_in_its_rooms, "wattgram.cli", "from wattgram.sources import rapl"),
    (stays_in_its_rooms, "wattgram_exporters.families", "from wattgram.ledger import Ledger"),
    (stays_in_its_rooms, "wattgram_exporters.prometheus", "from wattgram.tools.fetch import Fetch"),
    (leaves_plugs_to_the_registry, "wattgram.cli", "import wattgram.sources.rapl"),
    (leaves_plugs_to_the_registry, "wattgram.app", "open_source('wattgram.sources.rapl:RaplSource')"),
    (leaves_plugs_to_the_registry, "wattgram.app", "open_source(f'wattgram.providers.{name}')"),
    (leaves_plugs_to_the_registry, "wattgram.isolated", "NAME = 'wattgram.workloads.slurm'"),
    (leaves_plugs_to_the_registry, "wattgram.doctor", "from wattgram_exporters.families import families"),
    (leaves_plugs_to_the_registry, "wattgram.sources.rapl", "NEIGHBOUR = 'wattgram.sources.hwmon'"),
    (leaves_libraries_to_their_adapter, "wattgram.doctor", "import pynvml"),
    (leaves_libraries_to_their_adapter, "wattgram.sources.rapl", "from pynvml import nvmlInit"),
    (leaves_libraries_to_their_adapter, "wattgram.providers.entsoe", "import requests"),
    (leaves_libraries_to_their_adapter, "wattgram.tools.factors", "from urllib3.util import Timeout"),
    (leaves_libraries_to_their_adapter, "wattgram.ledger", "from prometheus_client import Counter"),
    (leaves_libraries_to_their_adapter, "wattgram.doctor", "from rich.console import Console"),
    (imports_by_name, "wattgram.meter", "from wattgram.model import *"),
    (begins_with_why_it_exists, "wattgram.meter", "import math"),
    (leaves_the_import_path_alone, "wattgram.cli", "import sys\nsys.path.insert(0, '.')"),
    (leaves_the_import_path_alone, "wattgram.cli", "import sys\nsys.path = ['.']"),
    (leaves_the_import_path_alone, "wattgram.cli", "import sys\nsys.path += ['.']"),
    (leaves_the_import_path_alone, "wattgram.cli", "import sys\nsys.path[0] = '.'"),
    (leaves_the_import_path_alone, "wattgram.cli", "from sys import path"),
    (is_short_enough_to_be_read, "wattgram.meter", "'''Why.'''\n" * (LONGEST_FILE + 1)),
    (is_short_enough_to_be_read, "wattgram.meter", "def f():\n" + "    g()\n" * LONGEST_FUNCTION),
)

GOOD: tuple[tuple[str, str], ...] = (
    ("wattgram.ports", "from wattgram.model import Instant"),
    ("wattgram.ledger", "from wattgram import __version__\nfrom .meter import Meter"),
    ("wattgram.tools.fetch", "import requests, urllib3.util\nfrom wattgram.ports import ReadFailed"),
    ("wattgram.sources.nvml.__init__", "from wattgram.sources.nvml.child import Child\nimport pynvml"),
    ("wattgram.sources.nvml.child", "from .table import TABLE\nNAME = 'wattgram.sources.nvml.binding'"),
    ("wattgram.sources.rapl", "from wattgram.sources._powercap import zones\nfrom wattgram.tools import sysfs"),
    ("wattgram.registry", "SOURCES = {'rapl': 'wattgram.sources.rapl:RaplSource'}"),
    (
        "wattgram.app",
        "from wattgram import registry\nfrom wattgram.accountant import Accountant\nimport sys\nsys.exit()",
    ),
    ("wattgram.isolated", "import sys\nPYTHONPATH = ':'.join(sys.path[1:]) + ':'.join(p for p in sys.path)"),
    ("wattgram_exporters.prometheus", "import prometheus_client\nfrom wattgram_exporters.families import families"),
)


@pytest.mark.parametrize(("rule", "name", "source"), OFFENDERS)
def test_a_rule_sees_an_offence(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module(name, source)))


@pytest.mark.parametrize(("name", "source"), GOOD)
def test_no_rule_minds_what_is_allowed(name: str, source: str) -> None:
    module = Module(name, f'"""Why; not wattgram.sources.rapl."""\n{source}\n')

    assert [] == [offence for rule in RULES for offence in rule(module)]


def test_every_rule_has_an_offender() -> None:
    assert set(RULES) == {rule for rule, _name, _source in OFFENDERS}
