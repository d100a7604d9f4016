"""Lines on standard error: one each, escaped, bounded, and written by a thread that nobody waits for."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

import pytest

from wattgram import logs

DEADLINE = 10.0


class Paper:
    """What is written to; while `stuck` nobody takes it."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def __call__(self, data: bytes) -> None:
        self.entered.set()
        assert self.free.wait(DEADLINE)
        self.lines.append(data)


@pytest.fixture
def paper() -> Paper:
    return Paper()


def logger(paper: Paper, form: str = "logfmt", *, journal: bool = False) -> tuple[logging.Logger, logs.Pen]:
    pen = logs.Pen(journal=journal, sink=paper)
    pen.setFormatter(logs._Json() if form == "json" else logs._Logfmt())
    made = logging.getLogger(f"wattgram-test-{id(pen)}")
    made.setLevel(logging.INFO)
    made.propagate = False
    made.addHandler(pen)
    return made, pen


def test_a_line_has_its_time_level_and_words(paper: Paper) -> None:
    log, pen = logger(paper)
    log.warning("%s: %s", "nvml", "no answer")
    pen.drain(DEADLINE)

    assert paper.lines[0].startswith(b"ts=20")
    assert paper.lines[0].endswith(b'Z level=warning msg="nvml: no answer"\n')


@pytest.mark.parametrize("name", ["a\nlevel=error msg=forged", 'a" b', "\x1b[31mred", "\u202eevil", "=", "ä" * 3])
@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_strangers_name_stays_in_its_quotes(paper: Paper, form: str, name: str) -> None:
    """One line, no escape sequence, no second field."""
    log, pen = logger(paper, form)
    log.info("%s: gone", name)
    pen.drain(DEADLINE)
    (line,) = paper.lines
    quoted = line.decode().strip().partition("msg=")[2] if form == "logfmt" else line.decode()
    told = json.loads(quoted)

    assert f"{name}: gone" == (told if form == "logfmt" else told["msg"])
    assert line.isascii()
    assert 1 == line.count(b"\n")
    assert b"\x1b" not in line


def test_who_logs_does_not_wait_for_a_reader(paper: Paper) -> None:
    """What does not fit is lost and counted; what was waiting is written when somebody reads again."""
    log, pen = logger(paper)
    pen._limit = logs.Limit(most=10_000)
    paper.free.clear()
    log.info("first")
    assert paper.entered.wait(DEADLINE)
    started = time.monotonic()
    for number in range(logs.MOST_WAITING + 7):
        log.info("line %s", number)
    spent = time.monotonic() - started
    paper.free.set()
    pen.drain(DEADLINE)

    assert spent < DEADLINE / 2
    assert logs.MOST_WAITING + 2 == len(paper.lines)
    assert [b"7 lines of this log were lost"] == [
        line.partition(b'msg="')[2].strip(b'"\n') for line in paper.lines if b"lost" in line
    ]


def test_waiting_for_the_last_lines_ends(paper: Paper) -> None:
    """Nobody reads: the process leaves all the same."""
    log, pen = logger(paper)
    paper.free.clear()
    log.info("first")
    started = time.monotonic()
    pen.drain(0.1)
    ended = time.monotonic()
    paper.free.set()

    assert ended - started < DEADLINE / 2


def test_too_many_of_a_kind_are_suppressed_and_counted() -> None:
    """Twenty in a minute; what is about somebody else is another kind."""
    now = [0.0]
    limit = logs.Limit(most=3, seconds=60.0, now=lambda: now[0])
    admitted = [limit.admit("nvml") for _ in range(5)]
    other = limit.admit("rapl")
    now[0] = 60.0

    assert [0, 0, 0, None, None] == admitted
    assert (0, 2, 0) == (other, limit.admit("nvml"), limit.admit("nvml"))


def test_kinds_are_bounded() -> None:
    """Names come from strangers: they must not fill our memory."""
    limit = logs.Limit(most=1)
    for number in range(3 * logs.MOST_KINDS):
        limit.admit(str(number))

    assert logs.MOST_KINDS == len(limit._kinds)


def test_a_suppressed_number_is_told_in_the_next_line(paper: Paper) -> None:
    now = [0.0]
    log, pen = logger(paper)
    pen._limit = logs.Limit(most=1, seconds=60.0, now=lambda: now[0])
    for _ in range(4):
        log.warning("%s: trouble", "nvml")
    now[0] = 61.0
    log.warning("%s: trouble", "nvml")
    pen.drain(DEADLINE)

    assert [b"nvml: trouble", b"nvml: trouble"] == [line.split(b'msg="')[1].split(b'"')[0] for line in paper.lines]
    assert paper.lines[1].endswith(b" suppressed=3\n")


@pytest.mark.parametrize(("level", "prefix"), [("error", b"<3>"), ("warning", b"<4>"), ("info", b"<6>")])
def test_the_journal_is_told_the_priority(paper: Paper, level: str, prefix: bytes) -> None:
    log, pen = logger(paper, journal=True)
    say: Callable[[str], None] = getattr(log, level)
    say("words")
    pen.drain(DEADLINE)

    assert paper.lines[0].startswith(prefix + b"ts=")
