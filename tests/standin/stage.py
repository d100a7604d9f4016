"""Several plays at once, each over daemons of its own: what takes long is waiting, and that can be shared.

    @scene(play)                      # play(directory, seconds) -> anything; run once, however many tests judge it
    def test_it(outcome): ...         # the `outcome` fixture gives what the play returned, or raises what it raised

    @every_scene                      # all plays of the module
    def test_all(stage): ...          # stage.audits() is what the auditors of each found wrong

Plays begin when the first test of the module asks, and only those run that some selected test judges.
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
        self._outcomes: dict[Play, Future[Any]] = {
            play: self._pool.submit(_played, play, directory / play.__name__) for play in plays
        }

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def outcome(self, play: Play) -> Any:
        """What a play came to."""
        return self._outcomes[play].result()

    def audits(self) -> dict[str, list[str]]:
        """What auditors found wrong in each play that they watched; a play that raised was watched until then."""
        wait(self._outcomes.values())
        found = ((play.__name__, self._directory / play.__name__) for play in self._outcomes)
        files = ((name, path) for name, directory in found for path in directory.rglob(AUDIT))
        return {name: path.read_text(encoding="utf-8").splitlines() for name, path in files}


def _played(play: Play, directory: Path) -> Any:
    directory.mkdir(parents=True)
    return play(directory, _seconds)


def _seconds(short: float, full: float) -> float:
    return full if os.environ.get("WATTGRAM_ACCEPT") == "full" else short
