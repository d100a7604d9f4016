"""What every test shares: golden files, acceptance lines and their table, and no silent skip in continuous integration.

@pytest.mark.accept("2.3", "a GPU that falls off the bus is named, the others count")
def test_...(seconds, report):
    run_for(seconds(3, 600))      # 3 s in `make test`, 600 s in `make accept`
    report("0 J lost in 600 s")   # appears in the table at the end
"""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
REPEATED = "rerun"  # the outcome of a test that failed and is repeated: --reruns of pytest-rerunfailures
EXCUSE = "needs a real"  # the one reason to skip that continuous integration accepts: hardware it cannot have


@dataclass
class Line:
    """One row of the acceptance table."""

    line: str
    text: str
    outcome: str = "passed"
    seconds: float = 0.0
    note: str = ""

    def add(self, report: pytest.TestReport) -> None:
        """Take in one of a test's three phases: the worst counts, their times add up."""
        self.seconds += report.duration
        self.note = str(dict(report.user_properties).get("measured", self.note))
        if report.outcome == REPEATED:
            self.outcome, self.note = "passed", ""  # unless what follows says otherwise
        elif report.outcome != "passed":
            self.outcome = report.outcome


def accept_full() -> bool:
    """Whether acceptance lines run at full length (`make accept`)."""
    return os.environ.get("WATTGRAM_ACCEPT") == "full"


def is_ci() -> bool:
    """Whether a skipped test counts as failed."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update` rewrites golden files instead of comparing them."""
    parser.addoption("--update", action="store_true", help="rewrite the golden files")


def pytest_configure(config: pytest.Config) -> None:
    """Announce the markers and lay out the table."""
    config.addinivalue_line("markers", "accept(line, text): an acceptance line: its number and what it promises")
    config.addinivalue_line("markers", "alone: measures what others beside it would upset; see workers.py")
    config.addinivalue_line("markers", "apart: takes seconds and shares nothing with its file; see workers.py")
    config.addinivalue_line("markers", "busy: computes for seconds, or starts many daemons; see workers.py")
    config.pluginmanager.register(Table())
    config.pluginmanager.register(Repeated())


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a comparison, byte for byte, of `tests/golden/NAME` with a text; `--update` rewrites the file first."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update"):
            path.write_bytes(text.encode())
        expected = path.read_bytes().decode()
        assert expected == text

    return compare


@pytest.fixture
def seconds() -> Callable[[float, float], float]:
    """Return a choice between a short length for every run and the full one for `make accept`."""
    return lambda short, full: full if accept_full() else short


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a pen that writes what was measured into the acceptance table."""
    return lambda text: request.node.user_properties.append(("measured", text))


@pytest.fixture
def lines() -> Generator[list[str], None, None]:
    """What the house logs, as LEVEL text."""
    written: list[str] = []

    class Pen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(f"{record.levelname} {record.getMessage()}")

    logger, pen, level = logging.getLogger("wattgram"), Pen(), logging.getLogger("wattgram").level
    logger.addHandler(pen)
    logger.setLevel(logging.INFO)
    yield written
    logger.removeHandler(pen)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Any, None, None]:
    """The plays of the module, begun together: see standin/stage.py."""
    with stages().Stage(request, tmp_path_factory.mktemp("plays")) as found:
        yield found


@pytest.fixture
def outcome(request: pytest.FixtureRequest, stage: Any) -> Any:
    """What the play that this test judges came to."""
    return stage.outcome(request.function.play, stages().attempt(request))


def stages() -> ModuleType:
    """The module that only tests with plays need."""
    return importlib.import_module("standin.stage")


# --- no silent skip -------------------------------------------------------------------------------


def reason(outcome: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why something was skipped."""
    told = outcome.longrepr[2] if isinstance(outcome.longrepr, tuple) else str(outcome.longrepr)
    return told.removeprefix("Skipped: ")


def fail_unexcused(outcome: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure, unless its reason is the excuse or it is an expected failure."""
    if is_ci() and outcome.skipped and not hasattr(outcome, "wasxfail") and not reason(outcome).startswith(EXCUSE):
        outcome.longrepr = f"skipped under CI=true, where only '{EXCUSE} …' excuses: {reason(outcome)}"
        outcome.outcome = "failed"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge a module that skips itself."""
    outcome = yield
    fail_unexcused(outcome)
    return outcome


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge a skipped test, and have its report say of an acceptance line which it is."""
    outcome = yield
    fail_unexcused(outcome)
    if marker := item.get_closest_marker("accept"):
        outcome.user_properties.append(("accept", marker.args))
    return outcome


# --- side by side ---------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return for `-n auto` how many workers there are; a file or two need none."""
    named = [argument for argument in config.args if ".py" in argument]
    return 0 if named or config.option.collectonly else workers().number()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Have the tests marked `alone` run when all others are done."""
    return workers().schedule(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where to lay its plan."""
    node.workerinput["plan"] = str(workers().plans(node.config) / node.gateway.id)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say in each worker which tests stay together."""
    if hasattr(config, "workerinput"):
        workers().plan(items, Path(config.workerinput["plan"]))


def workers() -> ModuleType:
    """The module that needs pytest-xdist, which `pytest` by itself does without."""
    return importlib.import_module("workers")


# --- the table ------------------------------------------------------------------------------------


def natural(line: Line) -> list[tuple[int, str]]:
    """Order 2.10 after 2.9."""
    return [(int(number or 0), word) for number, word in re.findall(r"(\d+)|(\D+)", line.line)]


class Table:
    """The acceptance lines that ran, in whichever process."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an acceptance line."""
        said = dict(report.user_properties)
        if "accept" in said:
            self._lines.setdefault(report.nodeid, Line(*map(str, said["accept"]))).add(report)  # type: ignore[call-overload]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, if any of its lines ran."""
        if not self._lines:
            return
        terminalreporter.section(f"acceptance, {'full length' if accept_full() else 'shortened'}")
        for line in sorted(self._lines.values(), key=natural):
            note = f" · {line.note}" if line.note else ""
            good = {"green": True} if line.outcome == "passed" else {"red": True}
            terminalreporter.write(f"{line.line:<6}{line.outcome:<8}", **good)
            terminalreporter.write_line(f"{line.seconds:8.1f} s  {line.text}{note}")


# --- no silent second try -------------------------------------------------------------------------


class Repeated:
    """The failures of tests that were repeated (`--reruns`), in full: whoever reads may judge chance or fault."""

    def __init__(self) -> None:
        self._failures: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure that was not the last word."""
        if report.outcome == REPEATED:
            self._failures.append((report.nodeid, report.longreprtext))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print them, if there are any."""
        if not self._failures:
            return
        terminalreporter.section("failed at first, and repeated", yellow=True)
        for nodeid, text in self._failures:
            terminalreporter.write_line(f"{nodeid}\n{text}\n")
