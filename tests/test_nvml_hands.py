"""Who makes the driver's calls: one thread while that is enough, another for each call that holds one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from standin.watching import wait
from wattgram.sources.nvml.hands import Hands

DEADLINE = 30.0


class Log:
    """Which jobs were done, by which threads."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.threads: set[str] = set()

    def job(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.done.append(name)


@pytest.fixture
def log() -> Log:
    return Log()


@contextmanager
def held(hands: Hands) -> Iterator[None]:
    """A job that holds its thread until the end."""
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait(DEADLINE)

    hands.do([hang])
    assert began.wait(DEADLINE)
    try:
        yield
    finally:
        go_on.set()


def test_one_thread_does_all_in_its_order(log: Log) -> None:
    """Also what comes later: it is still there."""
    hands = Hands("a")
    for first in (0, 3):
        hands.do([lambda n=n: log.job(str(n)) for n in range(first, first + 3)])  # type: ignore[misc]
        wait(lambda first=first: len(log.done) == first + 3)  # type: ignore[misc]

    assert ([*"012345"], {"a-1"}) == (log.done, log.threads)


def test_nothing_to_do_starts_nobody() -> None:
    before = threading.active_count()
    hands = Hands("b")
    hands.do([])
    hands.hurry()

    assert before == threading.active_count()


def test_others_go_on_where_one_is_held(log: Log) -> None:
    """What stood behind a call that hangs is done as soon as somebody says that it hurries."""
    hands = Hands("c")
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait(DEADLINE)

    hands.do([hang, lambda: log.job("behind")])
    try:
        assert began.wait(DEADLINE)
        assert [] == log.done
        hands.hurry()
        wait(lambda: ["behind"] == log.done)
    finally:
        go_on.set()


def test_a_job_that_comes_while_all_are_held_gets_a_thread(log: Log) -> None:
    """Nobody need say that it hurries."""
    hands = Hands("d")
    with held(hands):
        hands.do([lambda: log.job("new")])
        wait(lambda: ["new"] == log.done)

    assert {"d-2"} == log.threads


def test_there_are_never_more_threads_than_jobs(log: Log) -> None:
    """However often somebody hurries."""
    hands = Hands("e")
    before = threading.active_count()
    with held(hands), held(hands):
        for _ in range(10):
            hands.do([lambda: log.job("short")])
            hands.hurry()
            hands.hurry()
        wait(lambda: len(log.done) == 10)

        assert before + 12 >= threading.active_count()
    few = threading.active_count()
    for n in range(50):
        hands.do([lambda: log.job("later")])
        hands.hurry()
        wait(lambda n=n: len(log.done) == 11 + n)  # type: ignore[misc]

    assert few >= threading.active_count()
