"""Several plays at once, each over daemons of its own: what takes long is waiting, and that can be shared.

    @scene(play)                      # play(directory, seconds) -> anything; run once, however many tests judge it
    def test_it(outcome): ...         # the `outcome` fixture gives what the play returned, or raises what it raised

    @every_scene                      # all plays of the module
    def test_all(stage): ...          # stage.audits() is what the auditors of each found wrong

Plays begin when the first test of the module asks, and only those run that some selected test judges. A test that is
repeated judges a play that is played again, once for all that are repeated; what an auditor found wrong in any of them
stays wrong, since no fault and no chance may upset the books. Both fixtures are in conftest.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, final

import pytest

from standin.books import AUDIT

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]
Play = Callable[[Path, Seconds], Any]
Test = TypeVar("Test", bound=Callable[..., Any])

LANES = 3


def scene(play: Play) -> Callable[[Test], Test]:
    """Mark a test as a judge of a play."""

    def marked(test: Test) -> Test:
        test.play = play  # type: ignore[attr-defined]
        return test

    return marked


def every_scene(test: Test) -> Test:
    """Mark a test as a judge of all plays of its module."""
    test.every_scene = True  # type: ignore[attr-defined]
    return test


@final
class Stage:
    """The plays of one module."""

    def __init__(self, request: pytest.FixtureRequest, directory: Path) -> None:
        items = (item for item in request.session.items if isinstance(item, pytest.Function))
        tests = [item.function for item in items if item.module is request.module]
        if any(hasattr(test, "every_scene") for test in tests):
            tests = list(vars(request.module).values())
        plays = dict.fromkeys(test.play for test in tests if hasattr(test, "play"))
        self._directory = directory
        self._pool = ThreadPoolExecutor(LANES, thread_name_prefix="stage")
        self._outcomes: dict[tuple[Play, int], Future[Any]] = {}
        for play in plays:
            self._begin(play, 1)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def outcome(self, play: Play, attempt: int = 1) -> Any:
        """What a play came to at its first performance, or at a later one."""
        if (play, attempt) not in self._outcomes:
            self._begin(play, attempt)
        return self._outcomes[play, attempt].result()

    def audits(self) -> dict[str, list[str]]:
        """What auditors found wrong in each play that they watched; a play that raised was watched until then."""
        wait(self._outcomes.values())
        found = ((_name(*played), self._directory / _name(*played)) for played in self._outcomes)
        files = ((name, path) for name, directory in found for path in directory.rglob(AUDIT))
        return {name: path.read_text(encoding="utf-8").splitlines() for name, path in files}

    def _begin(self, play: Play, attempt: int) -> None:
        directory = self._directory / _name(play, attempt)
        self._outcomes[play, attempt] = self._pool.submit(_played, play, directory)


def attempt(request: pytest.FixtureRequest) -> int:
    """Whether a test runs for the first time (1) or is repeated (2, …: `--reruns` of pytest-rerunfailures)."""
    return getattr(request.node, "execution_count", 1)


def _name(play: Play, attempt: int) -> str:
    return play.__name__ if attempt == 1 else f"{play.__name__}-{attempt}"


def _played(play: Play, directory: Path) -> Any:
    directory.mkdir(parents=True)
    return play(directory, _seconds)


def _seconds(short: float, full: float) -> float:
    return full if os.environ.get("WATTGRAM_ACCEPT") == "full" else short
